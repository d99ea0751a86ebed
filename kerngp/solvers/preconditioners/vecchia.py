"""Vecchia's approximation: a sparse Cholesky factor of the inverse, from small dense problems.

The points are put in an order. Given all points before it, a point of a smooth field hardly depends on
any but the nearest m, its parents. With N the parents of i, in any order, and i last,

    w = A[(N, i), (N, i)]^-1 e_last,     row i of L = w / sqrt(w_last)

makes L'L the inverse of A that is closest in Kullback-Leibler divergence among those whose factor has
these entries (Vecchia, 1988; Schaefer, Katzfuss, Owhadi, 2021). The cost is n (m + 1)^2 entries of A, n
Cholesky factorisations of size m + 1, and 12 n m bytes. In few dimensions condition numbers drop to about
one, where low-rank preconditioners of any affordable rank fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...errors import OptionError, ShapeError
from ..checks import require_square
from ..neighbours import neighbours_before
from ..operator import LinearOperator
from ..solution import Note
from ..sparse import Sparse
from .base import Preconditioner

Tensor = torch.Tensor
CHUNK = 1 << 22  # entries of small matrices worked on at once


@dataclass(frozen=True)
class Vecchia:
    """Sparse inverse Cholesky factor: a recipe for a preconditioner of any positive definite matrix.

    The choice for kernels of points in few dimensions, and for small alpha; in hundreds of dimensions
    `RPCholesky` is better. Nothing is added to the matrix: a neighbour whose row is that of another one
    (or of the point itself) but for rounding is left out, and counted in a note.

    Parameters
    ----------
    neighbours : int
        Entries of a row of the factor, beside its own. More make fewer iterations.
    random_state : int
        Seed of the order: the same seed gives the same preconditioner.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import CG, Dense, Vecchia, identity, solve
    >>> x = torch.linspace(0, 1, 200, dtype=torch.float64)
    >>> A = Dense(torch.exp(-10 * (x[:, None] - x).abs()), psd=True) + 1e-6 * identity(200)
    >>> solve(A, x.sin(), CG(), preconditioner=Vecchia(10)).iterations < 5
    True
    """

    neighbours: int = 30
    random_state: int = 0

    def __post_init__(self) -> None:
        m = self.neighbours
        if isinstance(m, bool) or not isinstance(m, int) or m < 0:
            raise OptionError(f"neighbours={m!r}: expected an integer of at least 0.")

    def build(self, A: LinearOperator) -> VecchiaInverse:
        """The operator L'L.

        Raises
        ------
        ShapeError
            If A has a batch, is not square, or not declared symmetric.
        OptionError
            If there is an entry on the diagonal of A that is not positive.
        """
        require_square(A, "Vecchia")
        if len(A.shape) != 2:
            raise ShapeError(f"Vecchia works on one matrix; the operator has shape {A.shape}.")
        if not A.symmetric:
            raise ShapeError(
                f"Vecchia needs a symmetric operator, got {A!r}; declare it (symmetric=True) if it is."
            )
        n = A.shape[-1]
        with torch.no_grad():
            order = torch.randperm(n, generator=torch.Generator().manual_seed(self.random_state))
            parents = neighbours_before(A, order.to(A.device), min(self.neighbours, n - 1))
            return VecchiaInverse.of(A, parents)


class VecchiaInverse(Preconditioner):
    """L'L for a sparse L.

    Parameters
    ----------
    parents : integer tensor of shape (n, m)
        The other columns of each row of L; -1 for none. There is an order in which all come earlier.
    weights : float64 tensor of shape (n, m + 1)
        The entries of the rows, that on the diagonal last.
    dropped : int
        Entries that are 0 because the rows of A are linearly dependent to working precision.

    Attributes
    ----------
    factor : Sparse
        L. Its rows stand in the order of the points.
    """

    def __init__(self, parents: Tensor, weights: Tensor, dropped: int = 0):
        self.parents, self.weights, self.dropped = parents, weights.detach(), dropped
        n, m = parents.shape
        self.shape, self.torch_dtype, self.device = (n, n), torch.float64, weights.device
        self.symmetric = self.psd = True
        self.description = f"Vecchia, {m} neighbours"
        if dropped:
            text = (
                f"{dropped} of {int((parents >= 0).sum())} neighbours were left out of the Vecchia factor: "
                "their rows depend linearly on others to working precision, as those of equal points do."
            )
            self.notes = (Note("DEPENDENT_NEIGHBOURS", text),)
        self.factor = self._assemble()

    @staticmethod
    def of(A: LinearOperator, parents: Tensor) -> VecchiaInverse:
        """The best factor with these entries.

        Raises
        ------
        OptionError
            If there is an entry on the diagonal of A that is not positive.
        """
        least = float(A.diag().min())
        if least <= 0:
            raise OptionError(
                f"Vecchia needs a positive definite matrix; the least diagonal entry is {least}."
            )
        n, m = parents.shape
        weights = torch.empty((n, m + 1), dtype=torch.float64, device=A.device)
        dropped, step = 0, max(1, CHUNK // (m + 1) ** 2)
        full = (parents >= 0).all(-1)
        for rows in (*(~full).nonzero().squeeze(-1).split(step), *full.nonzero().squeeze(-1).split(step)):
            own, chosen = rows.unsqueeze(-1), parents[rows].long()
            idx = torch.cat([torch.where(chosen >= 0, chosen, own), own], -1)
            there = torch.cat([chosen >= 0, own >= 0], -1)
            weights[rows], kept = _rows_of_factor(A.submatrices(idx, exact=True), there)
            dropped += int((there & ~kept).sum())
        return VecchiaInverse(parents, weights, dropped)

    def _assemble(self) -> Sparse:
        n = self.shape[0]
        own = torch.arange(n, dtype=torch.int32, device=self.device).unsqueeze(-1)
        columns = torch.cat([self.parents.to(torch.int32), own], -1)
        there = columns >= 0
        counts = there.sum(-1)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Sparse(starts, columns[there], self.weights[there], (n, n))

    def root(self) -> Sparse:
        """See `Preconditioner.root`."""
        return self.factor

    def logdet(self) -> Tensor:
        """See `Preconditioner.logdet`."""
        return -2.0 * self.weights[:, -1].log().sum()

    def refresh(self, A: LinearOperator) -> VecchiaInverse:
        """The same neighbours, and new entries.

        Raises
        ------
        ShapeError
            If A has another size.
        """
        if A.shape != self.shape:
            raise ShapeError(f"the preconditioner has shape {self.shape}, the new operator {A.shape}.")
        with torch.no_grad():
            return VecchiaInverse.of(A, self.parents)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        return self.factor.T.matmul(self.factor.matmul(b))

    def _transpose(self) -> VecchiaInverse:
        return self

    def _diag(self) -> Tensor:
        square = self.factor.with_tensors([self.factor.values.square()])
        return square.T.matmul(self.weights.new_ones(self.shape[0]))

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        units = self.weights.new_zeros(self.shape[0], len(idx))
        units[idx, torch.arange(len(idx), device=self.device)] = 1.0
        rows = self.matmul(units).T
        return rows if cols is None else rows[:, cols]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weights,)

    def with_tensors(self, tensors: Sequence[Tensor]) -> VecchiaInverse:
        """See `LinearOperator.with_tensors`."""
        return VecchiaInverse(self.parents, tensors[0].double(), self.dropped)


# ---------------------------------------------------------------- small dense problems


def _rows_of_factor(blocks: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of L from blocks (B, s, s), and what was kept of ``there`` (B, s).

    Rows that rounding would spoil are computed anew from fewer and fewer neighbours, in the end from none.
    """
    rows, good = _solved(blocks, there)
    kept, threshold = there.clone(), 64 * blocks.shape[-1] * torch.finfo(blocks.dtype).eps
    while not bool(good.all()) and threshold < 16:
        bad = (~good).nonzero().squeeze(-1)
        kept[bad] = there[bad] & _independent(blocks[bad], threshold)
        rows[bad], good[bad] = _solved(blocks[bad], kept[bad])
        threshold *= 16
    return rows, kept


def _solved(blocks: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of L, and whether they are good.

    A row l has l A l' = 1. Roundings of the entries of A alone change that by up to a few units of
    rounding times (sum of |l_j| sqrt(a_jj))^2.
    """
    C, info = torch.linalg.cholesky_ex(_restricted(blocks, there))
    last = torch.zeros(*blocks.shape[:-1], 1, dtype=blocks.dtype, device=blocks.device)
    last[:, -1] = 1.0
    rows = torch.linalg.solve_triangular(C.mT, last, upper=True).squeeze(-1)
    rows = torch.where(there, rows, 0.0)
    size = (rows.abs() * blocks.diagonal(dim1=-2, dim2=-1).sqrt()).sum(-1)
    return rows, (info == 0) & (40 * torch.finfo(blocks.dtype).eps * size.square() <= 1)


def _restricted(blocks: Tensor, there: Tensor) -> Tensor:
    """The blocks with rows and columns of the identity where nothing is there."""
    if bool(there.all()):
        return blocks
    both = there.unsqueeze(-1) & there.unsqueeze(-2)
    return torch.where(both, blocks, torch.diag_embed((~there).to(blocks.dtype)))


def _independent(blocks: Tensor, roundoff: float) -> Tensor:
    """Which rows to keep, from the first on, so that they determine neither each other nor the last."""
    rest, scale = blocks.clone(), roundoff * blocks.diagonal(dim1=-2, dim2=-1)
    kept = torch.ones(blocks.shape[:-1], dtype=torch.bool, device=blocks.device)
    for k in range(blocks.shape[-1] - 1):
        pivot = rest[:, k, k]
        left = rest[:, -1, -1] - rest[:, -1, k].square() / pivot  # of the last row's variance
        kept[:, k] = (pivot > scale[:, k]) & (left > scale[:, -1])
        column = torch.where(kept[:, k, None], rest[:, :, k] / pivot.unsqueeze(-1).sqrt(), 0.0)
        rest -= column.unsqueeze(-1) * column.unsqueeze(-2)
    return kept
