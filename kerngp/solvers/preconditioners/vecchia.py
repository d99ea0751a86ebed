"""Vecchia's approximation: a sparse Cholesky factor of the inverse, from small dense problems.

The points are put in an order. Given all points before it, a point of a smooth field hardly depends on
any but the nearest m, its parents. With N the parents of i, in any order, and i last,

    w = A[(N, i), (N, i)]^-1 e_last,     row i of L = w / sqrt(w_last)

makes L'L the inverse of A that is closest in Kullback-Leibler divergence among those whose factor has
these entries (Vecchia, 1988; Schaefer, Katzfuss, Owhadi, 2021). The cost is n (m + 1)^2 entries of A, n
Cholesky factorisations of size m + 1, and 12 n m bytes. In few dimensions condition numbers drop to about
one, where low-rank preconditioners of any affordable rank fail. For many amounts on the diagonal the
entries are computed once, factors for a few amounts, and those for all others by interpolation.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ... import options as _options
from ...errors import OptionError, ShapeError
from ..checks import require_square
from ..neighbours import neighbours_before
from ..operator import LinearOperator
from ..solution import Note
from ..sparse import Sparse
from .base import Preconditioner

Tensor = torch.Tensor
SPAN = 10.0  # largest factor between two shifts that others are interpolated from
CHUNK = 1 << 22  # entries of small matrices worked on at once
CACHED = 1 << 18  # the same on a CPU, where they should stay in its caches


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
            return VecchiaInverse.of(A, parents)[0]


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
    def of(A: LinearOperator, parents: Tensor, shifts: Sequence[float] = (0.0,)) -> list[VecchiaInverse]:
        """The best factors with these entries for A + s I, for each s of ``shifts``.

        The small matrices differ on their diagonals alone: their entries are computed once.

        Raises
        ------
        OptionError
            If there is an entry on the diagonal of A that is not positive.
        """
        least = float(A.diag().min()) + min(shifts)
        if least <= 0:
            raise OptionError(
                f"Vecchia needs a positive definite matrix; the least diagonal entry is {least}."
            )
        n, m = parents.shape
        weights = torch.empty((len(shifts), n, m + 1), dtype=torch.float64, device=A.device)
        dropped, step = (
            [0] * len(shifts),
            max(1, (CACHED if A.device.type == "cpu" else CHUNK) // (m + 1) ** 2),
        )
        full = (parents >= 0).all(-1)
        for rows in (*(~full).nonzero().squeeze(-1).split(step), *full.nonzero().squeeze(-1).split(step)):
            own, chosen = rows.unsqueeze(-1), parents[rows].long()
            idx = torch.cat([torch.where(chosen >= 0, chosen, own), own], -1)
            there = torch.cat([chosen >= 0, own >= 0], -1)
            blocks = _restricted(A.submatrices(idx, exact=True), there)
            for k, shift in enumerate(shifts):
                weights[k, rows], kept = _rows_of_factor(_added(blocks, shift), there)
                dropped[k] += int((there & ~kept).sum())
        return [VecchiaInverse(parents, w, count) for w, count in zip(weights, dropped, strict=True)]

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
        return self._at(A, (0.0,))[0]

    def shifted(self, K: LinearOperator, shifts: Sequence[float]) -> Sequence[Preconditioner]:
        """See `Preconditioner.shifted`. Computed for few shifts, and interpolated for those between them."""
        size = 16 * len(shifts) * self.weights.numel()
        if size > _options.current().memory_limit // 4:
            return super().shifted(K, shifts)
        nodes = _nodes(shifts)
        with torch.no_grad():
            return _interpolated([self, *self._at(K, nodes[1:])], nodes, shifts)

    def _at(self, K: LinearOperator, shifts: Sequence[float]) -> list[VecchiaInverse]:
        if not shifts:
            return []
        if K.shape != self.shape:
            raise ShapeError(f"the preconditioner has shape {self.shape}, the new operator {K.shape}.")
        with torch.no_grad():
            return VecchiaInverse.of(K, self.parents, shifts)

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


# ---------------------------------------------------------------- many amounts on the diagonal


def _nodes(shifts: Sequence[float]) -> list[float]:
    """Where to compute factors for increasing shifts: 0, and a geometric sequence if there are many more."""
    positive = [s for s in shifts if s > 0]
    if not positive:
        return list(shifts)
    span = math.log(positive[-1] / positive[0])
    steps = math.ceil(span / math.log(SPAN))
    if steps + 1 >= len(positive):
        return list(shifts)
    inner = [positive[0] * math.exp(k * span / steps) for k in range(1, steps)]
    return [*(s for s in shifts if s == 0), positive[0], *inner, positive[-1]]


def _interpolated(
    factors: Sequence[VecchiaInverse], nodes: Sequence[float], shifts: Sequence[float]
) -> list[VecchiaInverse]:
    """Factors for ``shifts`` from those at ``nodes``.

    Scaled to a diagonal of ones, rows of L hold the coefficients by which the parents predict the point,
    smooth functions of log s; their means stand between them. The diagonal is positive, so that L'L is
    positive definite whatever the error.
    """
    found = []
    for s in shifts:
        right = bisect.bisect_left(nodes, s)
        high = factors[right]
        if nodes[right] == s:
            found.append(high)
            continue
        low, below = factors[right - 1], nodes[right - 1]
        t = math.log(s / below) / math.log(nodes[right] / below)
        a, b = low.weights[:, -1:], high.weights[:, -1:]
        diagonal = a ** (1 - t) * b**t
        weights = low.weights * ((1 - t) * diagonal / a) + high.weights * (t * diagonal / b)
        found.append(VecchiaInverse(low.parents, weights, max(low.dropped, high.dropped)))
    return found


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


def _added(blocks: Tensor, shift: float) -> Tensor:
    """The blocks with a number added to their diagonals."""
    if shift == 0:
        return blocks
    out = blocks.clone()
    out.diagonal(dim1=-2, dim2=-1).add_(shift)
    return out


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
