"""One matrix with many amounts on its diagonal: an operator whose columns differ, and how it is solved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch

from ..errors import BackendUnavailable, OptionError, ShapeError
from .cg import CG, Callback
from .operator import LinearOperator, Remake, identity, unique
from .preconditioners.by_column import ByColumn
from .solution import SEVERITY, Solution

Tensor = torch.Tensor


class Shifted(LinearOperator):
    """Column e of a product is that of K + shifts[e] I.

    Not a matrix: it has products with exactly as many columns, no rows and no diagonal.

    Parameters
    ----------
    base : LinearOperator of shape (*batch, N, N)
        K.
    shifts : Tensor of shape (E,)

    Examples
    --------
    >>> A = Shifted(identity(2), torch.tensor([0.0, 1.0]))
    >>> A @ torch.ones(2, 2, dtype=torch.float64)
    tensor([[1., 2.],
            [1., 2.]], dtype=torch.float64)
    """

    def __init__(self, base: LinearOperator, shifts: Tensor):
        if shifts.dim() != 1:
            raise BackendUnavailable(
                "torch.vmap over vectors of alphas is not defined; give all of them in one call."
            )
        self.base, self.shifts = base, shifts
        self.shape, self.torch_dtype, self.device = base.shape, base.torch_dtype, base.device
        self.symmetric, self.psd = base.symmetric, base.psd
        self.columns = len(shifts)

    def at(self, e: int) -> LinearOperator:
        """The matrix of column e."""
        return self.base + self.shifts[e] * identity(self.shape[-1], device=self.device)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        if b.shape[-1] != self.columns:
            raise ShapeError(f"b has {b.shape[-1]} columns; this operator is for {self.columns}.")
        return self.base._matmul(b, exact) + self.shifts.to(b.dtype) * b

    def _transpose(self) -> Shifted:
        return Shifted(self.base.T, self.shifts)

    def _refuse(self) -> NoReturn:
        raise OptionError("Shifted is a different matrix for every column: it has no rows and no diagonal.")

    def _diag(self) -> Tensor:
        self._refuse()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        self._refuse()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return unique((*self.base.tensors, self.shifts))

    def remade(self, new: Remake) -> Shifted:
        """See `LinearOperator.remade`."""
        return Shifted(self.base.remade(new), new(self.shifts, 1))


@dataclass(frozen=True)
class Together:
    """Conjugate gradients on all columns of a `Shifted` operator: they share its products."""

    cg: CG

    @property
    def tol(self) -> float:
        """Of the residual."""
        return self.cg.tol

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Solve for b of shape (*batch, N, E). No gradients here: see `solve_path`."""
        assert isinstance(A, Shifted)
        return self.cg.run(
            A.base, b, preconditioner=preconditioner, x0=x0, callback=callback, shifts=A.shifts.detach()
        )


@dataclass(frozen=True)
class Apart:
    """Any other method, on one matrix of a `Shifted` operator after the other."""

    method: Any

    @property
    def tol(self) -> float | None:
        """Of the residual."""
        return getattr(self.method, "tol", None)

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Solution:
        """Solve for b of shape (*batch, N, E). No gradients here: see `solve_path`."""
        assert isinstance(A, Shifted)
        distinct, which = A.shifts.detach().unique(return_inverse=True)
        places = [(which == k).nonzero().squeeze(-1) for k in range(len(distinct))]
        M = preconditioner
        found = [
            self.method.run(
                A.at(int(place[0])),
                b[..., place],
                preconditioner=M.parts[int(M.which[place[0]])] if isinstance(M, ByColumn) else M,
                x0=None if x0 is None else x0[..., place],
                callback=callback,
            )
            for place in places
        ]
        return _side_by_side(found, torch.cat(places).argsort())


def _side_by_side(found: Sequence[Solution], order: Tensor) -> Solution:
    """Solutions of different columns as one, its columns in this order."""
    longest = max(len(s.history) for s in found)

    def history(s: Solution) -> Tensor:
        last = s.history[-1:]
        return torch.cat([s.history, last.expand(longest - len(s.history), *last.shape[1:])])

    def columns(part: Callable[[Solution], Tensor]) -> Tensor:
        return torch.cat([part(s) for s in found], -1)[..., order]

    worst = max(found, key=lambda s: SEVERITY.index(s.status))
    notes = tuple(note for s in found for note in s.report.notes)
    return replace(
        worst,
        x=columns(lambda s: s.x),
        iterations=sum(s.iterations for s in found),
        residual_norms=columns(lambda s: s.residual_norms),
        history=columns(history),
        products=sum(s.products for s in found),
        report=replace(worst.report, certificate=None, notes=notes),
    )
