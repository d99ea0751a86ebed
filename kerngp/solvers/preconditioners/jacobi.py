"""The diagonal of a matrix as its preconditioner: cures bad scaling, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...errors import OptionError
from ..certificate import least_added
from ..checks import require_square
from ..operator import AddedDiagonal, Diagonal, LinearOperator
from .base import Preconditioner

Tensor = torch.Tensor


@dataclass(frozen=True)
class Jacobi:
    """The inverse of the diagonal. Works on batches of matrices.

    Worth its price, n entries, where the diagonal varies by orders of magnitude: noise that differs
    from point to point, kernels that are not stationary. For a constant diagonal it changes nothing.

    Examples
    --------
    >>> from kerngp.solvers import CG, Dense, solve
    >>> A = Dense(torch.diag(torch.logspace(-6, 6, 50, dtype=torch.float64)), psd=True)
    >>> solve(A, torch.ones(50, dtype=torch.float64), CG(), preconditioner=Jacobi()).iterations
    1
    """

    def build(self, A: LinearOperator) -> DiagonalInverse:
        """The operator diag(A)^-1.

        Raises
        ------
        ShapeError
            If A is not square.
        OptionError
            If an entry of the diagonal is not positive.
        """
        require_square(A, "Jacobi")
        with torch.no_grad():
            d = A.diag().double()
        if not bool((d > 0).all() and torch.isfinite(d).all()):
            raise OptionError(
                f"Jacobi needs a positive diagonal; the least is {float(d.min())}: the matrix is not "
                "positive definite, or the data are not finite."
            )
        node = _node(A, None, d)
        return DiagonalInverse(d, None if node is None else float(node.min()))


def _node(A: LinearOperator, shifts: Tensor | None, d: Tensor) -> Tensor | None:
    """K + D >= D for K >= 0, so d^-1/2 (K + D) d^-1/2 is at least the least D / d."""
    K = A.base if isinstance(A, AddedDiagonal) else A
    return least_added(A, shifts, d) if K.psd else None


class DiagonalInverse(Preconditioner):
    """diag(d)^-1.

    Parameters
    ----------
    d : Tensor of shape (*batch, n), float64, positive
    floor : float, optional
    """

    description = "Jacobi"

    def __init__(self, d: Tensor, floor: float | None = None):
        self.d, self.floor, self._inverse = d, floor, Diagonal(1.0 / d)
        self.shape, self.torch_dtype, self.device = self._inverse.shape, d.dtype, d.device
        self.symmetric = self.psd = True

    def floor_for(self, A: LinearOperator, shifts: Tensor | None = None) -> Tensor | None:
        """See `Preconditioner.floor_for`: known for any A, whatever it was made for."""
        return _node(A, shifts, self.d)

    def root(self) -> Diagonal:
        """See `Preconditioner.root`."""
        return Diagonal(self.d.rsqrt())

    def logdet(self) -> Tensor:
        """log det P, of shape (*batch)."""
        return self.d.log().sum(-1)

    def refresh(self, A: LinearOperator) -> DiagonalInverse:
        """See `Preconditioner.refresh`."""
        return Jacobi().build(A)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        return self._inverse._matmul(b, exact)

    def _transpose(self) -> DiagonalInverse:
        return self

    def _diag(self) -> Tensor:
        return self._inverse._diag()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        return self._inverse._rows(idx, cols)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.d,)

    def with_tensors(self, tensors: Sequence[Tensor]) -> DiagonalInverse:
        """See `LinearOperator.with_tensors`."""
        return DiagonalInverse(tensors[0])
