"""The centred matrix H K H with H = I - 11'/n: inner products of features whose mean is zero."""

from __future__ import annotations

import torch

from .checks import require_square
from .operator import LinearOperator, Remake

Tensor = torch.Tensor


class Centred(LinearOperator):
    """H K H, by products with K alone.

    Parameters
    ----------
    base : LinearOperator
        K, symmetric, of shape (n, n).

    Attributes
    ----------
    means : Tensor of shape (n,), float64
        Of the rows of K.

    Examples
    --------
    >>> from kerngp.solvers import Dense
    >>> Centred(Dense(torch.eye(2), psd=True)).dense()
    tensor([[ 0.5000, -0.5000],
            [-0.5000,  0.5000]])
    """

    def __init__(self, base: LinearOperator):
        require_square(base, "centring")
        self.base = base
        self.shape, self.torch_dtype, self.device = base.shape, base.torch_dtype, base.device
        self.symmetric, self.psd = True, base.psd
        n = base.shape[-1]
        mean = torch.full((n,), 1 / n, dtype=torch.float64, device=base.device)
        self.means: Tensor = base.matmul(mean, exact=True)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        out = self.base._matmul(b - b.mean(-2, keepdim=True), exact)
        return out - out.mean(-2, keepdim=True)

    def _transpose(self) -> LinearOperator:
        return self

    def _diag(self) -> Tensor:
        return (self.base._diag() - 2 * self.means + self.means.mean()).to(self.torch_dtype)

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        means = self.means if cols is None else self.means[cols]
        found = self.base._rows(idx, cols) - self.means[idx].unsqueeze(-1) - means + self.means.mean()
        return found.to(self.torch_dtype)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.base.tensors

    def remade(self, new: Remake) -> Centred:
        """See `LinearOperator.remade`."""
        return Centred(self.base.remade(new))
