"""A preconditioner for many shifted systems at once: each column has its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch

from ...errors import OptionError, ShapeError
from ..operator import LinearOperator

Tensor = torch.Tensor


class ByColumn(LinearOperator):
    """Column e of a product is that of ``parts[which[e]]``: for A + shifts[e] I, which share no inverse.

    Not a matrix: it has products with exactly as many columns, no rows and no diagonal.

    Parameters
    ----------
    parts : sequence of LinearOperator
        All of one shape, symmetric, in one dtype.
    which : Tensor of int64, shape (E,)

    Attributes
    ----------
    floor : Tensor of shape (E,), or None
        See `Preconditioner.floor`; None if that of any part is unknown.

    Examples
    --------
    >>> from kerngp.solvers import identity
    >>> M = ByColumn([identity(2), 0.5 * identity(2)], torch.tensor([0, 1, 1]))
    >>> M @ torch.ones(2, 3, dtype=torch.float64)
    tensor([[1.0000, 0.5000, 0.5000],
            [1.0000, 0.5000, 0.5000]], dtype=torch.float64)
    """

    work = "preconditioner"

    def __init__(self, parts: Sequence[LinearOperator], which: Tensor):
        if not parts or len({(p.shape, p.torch_dtype, p.device) for p in parts}) != 1:
            raise ShapeError(
                f"ByColumn needs preconditioners of one shape, dtype and device, got {list(parts)!r}."
            )
        self.parts, self.which = tuple(parts), which
        first = parts[0]
        self.shape, self.torch_dtype, self.device = first.shape, first.torch_dtype, first.device
        self.symmetric, self.psd = all(p.symmetric for p in parts), all(p.psd for p in parts)
        floors = [getattr(p, "floor", None) for p in parts]
        self.floor = (
            None
            if any(f is None for f in floors)
            else torch.tensor(floors, dtype=torch.float64, device=self.device)[which]
        )
        name = getattr(first, "description", "") or repr(first)
        self.description = f"{name}; one for each of {len(parts)} diagonals"
        self._members = [(k, (which == k).nonzero().squeeze(-1)) for k in range(len(parts))]
        self._members = [(k, columns) for k, columns in self._members if len(columns)]

    def restrict(self, keep: Tensor) -> ByColumn:
        """The same for the columns ``keep``, in that order."""
        return ByColumn(self.parts, self.which[keep])

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        if b.shape[-1] != len(self.which):
            raise ShapeError(f"b has {b.shape[-1]} columns; this preconditioner is for {len(self.which)}.")
        out = torch.empty_like(b)
        for k, columns in self._members:
            out[..., columns] = self.parts[k]._matmul(b[..., columns], exact)
        return out

    def _transpose(self) -> ByColumn:
        return ByColumn([p.T for p in self.parts], self.which)

    def _refuse(self) -> NoReturn:
        raise OptionError("ByColumn is a different matrix for every column: it has no rows and no diagonal.")

    def _diag(self) -> Tensor:
        self._refuse()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        self._refuse()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple({id(t): t for p in self.parts for t in p.tensors}.values())

    def with_tensors(self, tensors: Sequence[Tensor]) -> ByColumn:
        """See `LinearOperator.with_tensors`."""
        new = dict(zip(map(id, self.tensors), tensors, strict=True))
        return ByColumn([p.with_tensors([new[id(t)] for t in p.tensors]) for p in self.parts], self.which)
