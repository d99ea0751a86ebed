"""No preconditioner, as a recipe: for loops over recipes, and for what else a preconditioner knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..certificate import least_eigenvalue
from ..checks import require_square
from ..operator import LinearOperator, identity
from .base import Preconditioner

Tensor = torch.Tensor


@dataclass(frozen=True)
class NoPreconditioner:
    """The identity.

    Examples
    --------
    >>> from kerngp.solvers import identity
    >>> NoPreconditioner().build(identity(3)).shape
    (3, 3)
    """

    def build(self, A: LinearOperator) -> Identity:
        """The identity of the size of A.

        Raises
        ------
        ShapeError
            If A is not square.
        """
        require_square(A, "NoPreconditioner")
        return Identity(A)


class Identity(Preconditioner):
    """The identity, as an approximation of the inverse of A.

    Attributes
    ----------
    floor : float or None
        The least of what A adds to the diagonal of a positive semi-definite matrix.
    """

    description = "none"

    def __init__(self, A: LinearOperator):
        self.shape, self.torch_dtype, self.device = tuple(A.shape[-2:]), torch.float64, A.device
        self.symmetric = self.psd = True
        node = least_eigenvalue(A)
        self.floor = None if node is None else float(node.min())

    def floor_for(self, A: LinearOperator, shifts: Tensor | None = None) -> Tensor | None:
        """See `Preconditioner.floor_for`: a bound on the spectrum of A itself."""
        return least_eigenvalue(A, shifts)

    def root(self) -> LinearOperator:
        """See `Preconditioner.root`."""
        return identity(self.shape[-1], device=self.device)

    def logdet(self) -> Tensor:
        """See `Preconditioner.logdet`."""
        return torch.zeros((), dtype=torch.float64, device=self.device)

    def refresh(self, A: LinearOperator) -> Identity:
        """See `Preconditioner.refresh`."""
        require_square(A, "NoPreconditioner")
        return Identity(A)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        return b.clone()

    def _transpose(self) -> Identity:
        return self

    def _diag(self) -> Tensor:
        return self.root().diag()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        return self.root().rows(idx, cols)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return ()

    def with_tensors(self, tensors: Sequence[Tensor]) -> Identity:
        """See `LinearOperator.with_tensors`."""
        return self
