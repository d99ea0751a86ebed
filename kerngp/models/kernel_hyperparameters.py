"""The hyperparameters of kernels of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..engine.autodiff import vjp
from ..engine.entries import diagonal, entries
from ..engine.expr import Expr, Pm, variables
from ..engine.ops import concat, matvecmult
from .bounds import numbers
from .hyperparameters import Hyperparameters
from .kernel_base import Arguments, Kernel, points
from .kernel_tree import changed
from .matrix_kernel import check_size

Tensor = torch.Tensor


class KernelHyperparameters(Hyperparameters):
    """A kernel of this package.

    Free are the hyperparameters that are positive by definition, and if they are positive `Constant.value`,
    the factors of `Scale` and the parameters of `FormulaKernel`; the ``bounds`` of a kernel say otherwise.

    Parameters
    ----------
    kernel : Kernel
    n_features : int

    Examples
    --------
    >>> from kerngp.models import RBF, White
    >>> h = KernelHyperparameters(2.0 * RBF(0.5, bounds=(1e-2, 1e2)) + White(0.1, bounds="fixed"), 3)
    >>> h.names, h.theta.round(3)
    (('left__factor', 'left__kernel__lengthscale'), array([ 0.693, -0.693]))
    >>> h.at(h.theta + np.log(2.0)).kernel
    4.0 * RBF(lengthscale=1.0, bounds=(0.01, 100.0)) + White(noise=0.1, bounds='fixed')
    """

    def __init__(self, kernel: Kernel, n_features: int):
        self.kernel, self.n_features = kernel, n_features
        names: list[str] = []
        theta, bounds = [np.empty(0)], [np.empty((0, 2))]

        def note(name: str, value: Any, limits: np.ndarray) -> Any:
            values = np.log(numbers(value))
            names.extend([name] if values.ndim == 0 else [f"{name}[{k}]" for k in range(values.size)])
            theta.append(np.atleast_1d(values))
            bounds.append(limits)
            return value

        changed(kernel, note)
        self.names, self.theta, self.bounds = tuple(names), np.concatenate(theta), np.concatenate(bounds)

    @property
    def has_formula(self) -> bool:
        return True

    def at(self, theta: np.ndarray) -> KernelHyperparameters:
        return KernelHyperparameters(self._with(np.exp(self.check_theta(theta))), self.n_features)

    def formula(self, theta: Tensor | None = None) -> Kernel:
        return self.kernel if theta is None else self._with(theta.exp())

    def _with(self, values: Any) -> Kernel:
        """The kernel with these values of what is free."""
        used = 0

        def take(name: str, value: Any, limits: np.ndarray) -> Any:
            nonlocal used
            size = len(limits)
            out = values[used : used + size] if np.ndim(value) else values[used]
            used += size
            return out

        return changed(self.kernel, take)

    def matrix(self, X: Any, Y: Any = None) -> np.ndarray:
        check_size(f"kernel={self.kernel!r}", len(X), len(X if Y is None else Y))
        K = self.kernel(_double(X), None if Y is None else _double(Y))
        return K.dense().detach().numpy()

    def diag(self, X: Any) -> np.ndarray:
        return self.kernel(_double(X)).diag().detach().numpy()

    def gradient(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        check_size(f"kernel={self.kernel!r}", len(X), len(X), 1 + len(self.theta))
        return self.matrix(X), derivatives(self, _double(X)).numpy()


def _double(X: Any) -> Tensor:
    return torch.as_tensor(np.asarray(X), dtype=torch.float64)


def derivatives(hyperparameters: Hyperparameters, x: Tensor) -> Tensor:
    """dk(x_i, x_j) / dtheta with white noise, shape (n, n, p).

    Formulas are differentiated by the arguments they read, arguments by theta: an argument may be any
    function of hyperparameters.
    """
    theta = torch.tensor(hyperparameters.theta, dtype=x.dtype, device=x.device, requires_grad=True)
    arguments = Arguments(2, x)
    with torch.enable_grad():
        parts = hyperparameters.formula(theta).parts(*points(x.shape[-1]), arguments)
        jacobian = {2 + k: _jacobian(a, theta) for k, a in enumerate(arguments.values) if a.requires_grad}
    one = arguments.add(1.0)  # carries the dtype where a derivative is a constant
    args, sizes = (x, x, *(a.detach() for a in arguments.values)), (len(x), len(x))

    def values(of: Callable[..., Tensor], formula: Expr | None) -> Tensor | None:
        moving = [] if formula is None else [v for v in variables(formula) if v.attr[0] in jacobian]
        gradients = () if formula is None else vjp(formula, one, tuple(moving))
        by_argument = {v: g for v, g in zip(moving, gradients, strict=True) if g is not None}
        if not by_argument:
            return None
        chain = torch.cat([jacobian[v.attr[0]] for v in by_argument]).T.reshape(-1)
        by_theta = matvecmult(Pm(len(args), len(chain)), concat(*by_argument.values()))
        return of(by_theta, (*args, chain), sizes=sizes)

    out, noise = values(entries, parts.formula), values(diagonal, parts.nugget)
    out = x.new_zeros(*sizes, len(theta)) if out is None else out.contiguous()
    if noise is not None:
        out.diagonal().T.add_(noise)
    return out


def _jacobian(argument: Tensor, theta: Tensor) -> Tensor:
    """Derivatives of each component of an argument, shape (components, p)."""
    rows = [torch.autograd.grad(a, theta, retain_graph=True)[0] for a in argument]
    return torch.stack(rows)
