"""Likelihoods of classes given latent functions: their logarithm, its gradient and its curvature.

For f of shape (n, C), targets y in {0, 1} of that shape and weights w of shape (n,)

    sigmoid   log p = sum over c of  y_c f_c - log(1 + exp f_c)        C independent yes-or-no questions
    softmax   log p = y'f - log sum over c of exp f_c                  one of C classes

With probabilities p the residual, the gradient of sum_i w_i log p_i, is w (y - p). The curvature W, its
negative Hessian, is a matrix of size C for each row: w (diag(p) - p p') for the softmax. It is W = Q Q' for

    Q = w^1/2 diag(p)^1/2 (I - s s'),  s = p^1/2,  |s| = 1,

and diagonal for the sigmoid, with Q = (w p (1 - p))^1/2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid, softplus

Tensor = torch.Tensor


@dataclass(frozen=True)
class Curvature:
    """The likelihood near one f.

    Attributes
    ----------
    residual : Tensor of shape (n, C)
        w (y - p).
    root : Tensor of shape (n, C)
        The diagonal factor of Q.
    unit : Tensor of shape (n, C) or None
        s; None where W is diagonal.
    """

    residual: Tensor
    root: Tensor
    unit: Tensor | None = None

    def project(self, v: Tensor) -> Tensor:
        """(I - s s') v, row by row."""
        return v if self.unit is None else v - self.unit * (self.unit * v).sum(-1, keepdim=True)

    def left(self, v: Tensor) -> Tensor:
        """Q v."""
        return self.root * self.project(v)

    def right(self, v: Tensor) -> Tensor:
        """Q' v."""
        return self.project(self.root * v)

    def __call__(self, v: Tensor) -> Tensor:
        """W v."""
        return self.left(self.right(v))

    @property
    def mean(self) -> Tensor:
        """One weight for each row, (n,): the mean of the eigenvalues of its W that can be positive."""
        if self.unit is None:
            return self.root.square().mean(-1)
        trace = (self.root.square() * (1.0 - self.unit.square())).sum(-1)
        return trace / (self.root.shape[-1] - 1)


@dataclass(frozen=True)
class Likelihood(ABC):
    """What is observed.

    Attributes
    ----------
    y : Tensor of shape (n, C), float64
    w : Tensor of shape (n,), float64
    """

    y: Tensor
    w: Tensor

    @abstractmethod
    def loss(self, f: Tensor) -> float:
        """Minus the logarithm of the likelihood."""

    @abstractmethod
    def curvature(self, f: Tensor) -> Curvature:
        """Its derivatives."""

    def bound(self) -> float:
        """The largest curvature there can be."""
        return 0.25 * float(self.w.max())


class Sigmoid(Likelihood):
    """Every column of f is the log-odds of one question.

    Examples
    --------
    >>> y = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    >>> round(Sigmoid(y, torch.ones(2, dtype=torch.float64)).loss(torch.zeros_like(y)), 4)
    1.3863
    """

    def loss(self, f: Tensor) -> float:
        """See `Likelihood.loss`."""
        return float((self.w * (softplus(f, threshold=700.0) - self.y * f).sum(-1)).sum())

    def curvature(self, f: Tensor) -> Curvature:
        """See `Likelihood.curvature`."""
        w = self.w.unsqueeze(-1)
        # 1 - p is the sigmoid of -f: a difference would lose it where p is nearly 1
        residual = w * (self.y * torch.sigmoid(-f) - (1.0 - self.y) * torch.sigmoid(f))
        return Curvature(residual, w.sqrt() * (0.5 * (logsigmoid(f) + logsigmoid(-f))).exp())


class Softmax(Likelihood):
    """Columns of f are the unnormalised logarithms of probabilities of the classes.

    Examples
    --------
    >>> y = torch.eye(3, dtype=torch.float64)
    >>> round(Softmax(y, torch.ones(3, dtype=torch.float64)).loss(torch.zeros_like(y)), 4)
    3.2958
    """

    def loss(self, f: Tensor) -> float:
        """See `Likelihood.loss`."""
        return float((self.w * (torch.logsumexp(f, -1) - (self.y * f).sum(-1))).sum())

    def curvature(self, f: Tensor) -> Curvature:
        """See `Likelihood.curvature`."""
        p = torch.softmax(f, -1)
        w, s = self.w.unsqueeze(-1), p.sqrt()
        return Curvature(w * (self.y - p), w.sqrt() * s, s)
