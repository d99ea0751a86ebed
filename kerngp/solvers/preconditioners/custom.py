"""The user's own preconditioner, an operator or a function, made a `Preconditioner`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from ... import options as _options
from ...errors import DTypeError, OptionError, ShapeError
from ..operator import Dense, LinearOperator
from .base import Preconditioner

Tensor = torch.Tensor


class CustomPreconditioner(Preconditioner):
    """The user's own approximate inverse of an operator.

    Parameters
    ----------
    apply : callable or LinearOperator
        r -> M r for float64 r of shape (..., n, E), M symmetric positive definite. Not differentiated.
    n : int
    root : LinearOperator, optional
        A square L with M = L'L. Without it the entries of M are computed and factorised, by n products
        and n^3 / 3 operations, the first time that a function of the operator asks for it.
    logdet : float or 0-d tensor, optional
        Of M^-1. Without it as above.
    floor : float, optional
        A number that no eigenvalue of M A is below, if one is known.
    device : torch.device
    description : str

    Examples
    --------
    >>> M = CustomPreconditioner(lambda r: 0.5 * r, 3)
    >>> round(float(M.logdet().exp()), 6)
    8.0
    """

    def __init__(
        self,
        apply: Callable[[Tensor], Tensor] | LinearOperator,
        n: int,
        *,
        root: LinearOperator | None = None,
        logdet: float | Tensor | None = None,
        floor: float | None = None,
        device: torch.device | str = "cpu",
        description: str = "custom",
    ):
        self.apply, self.floor, self.description = apply, floor, description
        self.shape = tuple(apply.shape) if isinstance(apply, LinearOperator) else (n, n)
        self.torch_dtype, self.device = torch.float64, torch.device(device)
        self.symmetric = self.psd = True
        self._root, self._logdet = root, logdet

    def root(self) -> LinearOperator:
        """See `Preconditioner.root`."""
        if self._root is None:
            self._root = Dense(self._cholesky().mT)
        return self._root

    def logdet(self) -> Tensor:
        """See `Preconditioner.logdet`."""
        if self._logdet is None:
            self._logdet = -2.0 * self._cholesky().diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return torch.as_tensor(self._logdet, dtype=torch.float64, device=self.device)

    def _cholesky(self) -> Tensor:
        size, limit = 8 * math.prod(self.shape), _options.current().memory_limit
        if size > limit:
            raise OptionError(
                f"preconditioner {self.description!r} has no root=... and logdet=..., and its entries take "
                f"{size / 2**30:.1f} GiB, more than the memory_limit; give both to CustomPreconditioner."
            )
        dense = self.dense()
        L, info = torch.linalg.cholesky_ex(0.5 * (dense + dense.mT))
        if bool((info != 0).any()):
            raise OptionError(f"preconditioner {self.description!r} is not positive definite.")
        return L

    def refresh(self, A: LinearOperator) -> CustomPreconditioner:
        """Itself: what it was made of is the user's."""
        return self

    # ------------------------------------------------------------ products

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        with torch.no_grad():
            if isinstance(self.apply, LinearOperator):
                return self.apply.matmul(b.to(self.apply.torch_dtype)).double()
            out = self.apply(b)
        if not isinstance(out, Tensor):
            raise DTypeError(
                f"preconditioner: the function returned a {type(out).__name__}; expected a tensor."
            )
        if out.shape != b.shape:
            raise ShapeError(
                f"preconditioner: the function made {tuple(out.shape)} of {tuple(b.shape)}; must be equal."
            )
        return out.double()

    def _transpose(self) -> CustomPreconditioner:
        return self

    def _diag(self) -> Tensor:
        every = torch.arange(self.shape[-1], device=self.device)
        return torch.cat([self._rows(k, k).diagonal(dim1=-2, dim2=-1) for k in every.split(64)], -1)

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        rows = self._matmul(self._units(idx), exact=True).mT
        return rows if cols is None else rows[..., cols]

    def _units(self, idx: Tensor) -> Tensor:
        """The columns ``idx`` of the identity."""
        one = torch.zeros((self.shape[-1], len(idx)), dtype=torch.float64, device=self.device)
        one[idx, torch.arange(len(idx), device=self.device)] = 1.0
        return one

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return ()

    def with_tensors(self, tensors: Sequence[Tensor]) -> CustomPreconditioner:
        """See `LinearOperator.with_tensors`."""
        return self
