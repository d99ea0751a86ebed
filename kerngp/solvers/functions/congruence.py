"""The operator B = L A L' that functions of A are computed by, for a preconditioner M = L'L of A."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ...errors import ShapeError, SolveError
from ..checks import require_square
from ..operator import LinearOperator
from ..preconditioners.base import Preconditioner
from ..preconditioners.recipes import as_preconditioner
from ..solution import Note
from .lanczos import EPS

Tensor = torch.Tensor


@dataclass(frozen=True)
class Congruence:
    """v -> L A L' v on float64 vectors; without a preconditioner L is the identity.

    Attributes
    ----------
    A : LinearOperator, symmetric
    M : Preconditioner
    root : LinearOperator
        L.
    exact : bool
        Products with A in float64 even if A is float32.
    """

    A: LinearOperator
    M: Preconditioner
    root: LinearOperator
    exact: bool

    @classmethod
    def of(cls, what: str, A: LinearOperator, preconditioner: Any) -> Congruence:
        """With products in the dtype of A.

        Raises
        ------
        ShapeError
            If A is not square or not symmetric.
        """
        require_symmetric(what, A)
        M = as_preconditioner(preconditioner, A)
        return cls(A, M, M.root(), A.torch_dtype == torch.float64)

    @property
    def floor(self) -> float | None:
        """A lower bound of the eigenvalues of B, if one is known."""
        node = self.M.floor_for(self.A)
        return None if node is None else float(node.min())

    def __call__(self, v: Tensor) -> Tensor:
        return self.left(self.times_A(self.right(v)))

    def times_A(self, v: Tensor) -> Tensor:
        """A v."""
        if self.exact:
            return self.A.matmul(v, exact=True)
        return self.A.matmul(v.to(self.A.torch_dtype)).double()

    def left(self, v: Tensor) -> Tensor:
        """L v."""
        return self.root.matmul(v.to(self.root.torch_dtype)).double()

    def right(self, v: Tensor) -> Tensor:
        """L' v."""
        return self.root.T.matmul(v.to(self.root.torch_dtype)).double()

    def exactly(self) -> Congruence:
        """The same with products in float64."""
        return replace(self, exact=True)

    def rounding(self, v: Tensor) -> float:
        """The rounding error of a product with the first column of v, relative to that column."""
        one = v[..., :1]
        error = (self(one) - self.exactly()(one)).norm(dim=-2) / one.norm(dim=-2)
        return float(error.max())


Result = TypeVar("Result")


def in_sufficient_precision(
    B: Congruence, probe: Tensor, run: Callable[[Congruence], tuple[Result, float]]
) -> tuple[Result, tuple[Note, ...]]:
    """What ``run`` computes, with products in float64 if those in the operator's dtype are too coarse.

    ``run`` returns its result and how large the rounding error of a product may be, relative to the vector.
    """
    if not B.exact:
        try:
            result, allowed = run(B)
            if B.rounding(probe) <= allowed:
                return result, ()
        except SolveError:  # rounding may have made a small eigenvalue negative
            pass
        return run(B.exactly())[0], (IN_FLOAT64,)
    return run(B)[0], ()


IN_FLOAT64 = Note(
    "F32_EXACT",
    "products in the operator's dtype are too coarse for what was asked; they were formed in float64.",
)


def check_positive(what: str, theta: Tensor) -> None:
    """Raise SolveError unless the Ritz values (..., k), ascending, are positive to working precision."""
    low, high = theta[..., 0], theta[..., -1]
    wrong = low <= 10 * EPS * high.abs()
    if bool(wrong.any()):
        value = float(low[wrong].min())
        raise SolveError(
            f"{what}: the matrix is not positive definite to working precision; it has an eigenvalue of at "
            f"most {value:.1e}, the largest being {float(high.max()):.1e} or more. Add more to the diagonal, "
            "and check that the kernel is positive definite."
        )


def require_symmetric(what: str, A: LinearOperator) -> None:
    """Raise ShapeError unless A is square and declared to be symmetric."""
    require_square(A, what)
    if not A.symmetric:
        raise ShapeError(
            f"{what} needs a symmetric operator, got {A!r}; declare it (symmetric=True) if it is."
        )
