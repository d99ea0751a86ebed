"""The inverse of a low-rank matrix plus a diagonal, its square root and its determinant.

With G = D^-1/2 F' and R'R = I + G'G (R of the small size r) Woodbury's identity reads, and is proved by,

    P = F'F + D = D^1/2 (I + G G') D^1/2
    P^-1 = D^-1/2 (I - G (R'R)^-1 G') D^-1/2 = L'L,   L = (I - G (I + R)^-1 R'^-1 G') D^-1/2
    det P = det D det(R)^2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ...errors import OptionError, ShapeError
from ..certificate import least_added
from ..kernel_operator import KernelOperator
from ..operator import AddedDiagonal, Dense, LinearOperator
from .base import Preconditioner

Tensor = torch.Tensor
USEFUL = 0.1  # a lower bound of eigenvalues that are about 1 is worth nothing below this


@dataclass(frozen=True)
class LowRank:
    """K ~ factor' factor.

    Attributes
    ----------
    factor : Tensor of shape (rank, n)
    pivots : Tensor of shape (rank,)
        The rows of K that were read.
    trace, trace_error : float
        Of K, and of K - factor' factor (which is positive semi-definite).
    rounding : float
        Frobenius norm of what rounding did to the factor; infinity if K - factor' factor is not known
        to be positive semi-definite otherwise.
    """

    factor: Tensor
    pivots: Tensor
    trace: float
    trace_error: float
    rounding: float = float("inf")


Renew = Callable[[LowRank, LinearOperator], LowRank]


class LowRankInverse(Preconditioner):
    """(F' F + diag(d))^-1 by Woodbury's identity, in float64 whatever the dtype of F.

    Parameters
    ----------
    low_rank : LowRank
    d : Tensor of shape (n,), positive, float64
    name : str
        Of the recipe, for reports.
    renew : callable (LowRank, K) -> LowRank, optional
        How to approximate another matrix with the same choices, for `refresh`.
    base : LinearOperator, optional
        What ``low_rank`` approximates: while it stays the same, `refresh` keeps the factor.

    Attributes
    ----------
    trace_error : float
        trace(K - F' F), a measure of what the preconditioner does not know.
    pivots : Tensor
    floor : float or None
        With e the rounding of the factor and h^2 = e^2 / min(d), F' F is at most (1 + h) times an
        approximation that is below K, plus (h + h^2) d: all eigenvalues of M (K + diag(d)) are at least
        1 / (1 + h)^2. Errors of the entries of K themselves are not in it.
    """

    def __init__(
        self,
        low_rank: LowRank,
        d: Tensor,
        *,
        name: str = "low rank",
        renew: Renew | None = None,
        base: LinearOperator | None = None,
    ):
        self.low_rank, self.d, self.name, self.renew = low_rank, d, name, renew
        self.made_for = None if base is None else Snapshot(base)
        self.pivots, self.trace_error = low_rank.pivots, low_rank.trace_error
        rank, n = low_rank.factor.shape
        self.shape, self.torch_dtype, self.device = (n, n), torch.float64, d.device
        self.symmetric = self.psd = True
        self.description = f"{name}, rank {rank}"
        h = low_rank.rounding / float(d.min()) ** 0.5
        floor = (1.0 + h) ** -2
        self.floor = floor if floor >= USEFUL else None
        # F is float32 at times, but what it holds is used as it is, exactly: half the memory, no harm
        self._inner, self._logdet = _factorise(self._sandwich())
        self._small = self._inner @ self._inner.T  # once: as much work as many products with F

    def floor_for(self, A: LinearOperator, shifts: Tensor | None = None) -> Tensor | None:
        """See `Preconditioner.floor_for`: for the K it was made for, M (K + D) >= floor min(1, D / d)."""
        K = A.base if isinstance(A, AddedDiagonal) else A
        if self.floor is None or self.made_for is None or not self.made_for.matches(K):
            return None
        least = least_added(A, shifts, self.d)
        return None if least is None else self.floor * least.clamp_max(1.0)

    def root(self) -> LowRankRoot:
        """See `Preconditioner.root`."""
        return LowRankRoot(self)

    def logdet(self) -> Tensor:
        """See `Preconditioner.logdet`."""
        return self.d.log().sum() + self._logdet

    def refresh(self, A: LinearOperator) -> LowRankInverse:
        """The same pivots for another K + diag(alpha); F itself is kept if K is made of the same tensors.

        Raises
        ------
        ShapeError, OptionError
            If A has another size or is not of that form, or it is not known how F was made.
        """
        K, d = split(A, self.name)
        if A.shape != self.shape:
            raise ShapeError(f"the preconditioner has shape {self.shape}, the new operator {A.shape}.")
        if self.made_for is not None and self.made_for.matches(K):
            return self._like(self.low_rank, d, K)
        if self.renew is None:
            raise OptionError(
                "this LowRankInverse was made of a factor alone, which refresh cannot renew; "
                "use a recipe's build."
            )
        with torch.no_grad():
            return self._like(self.renew(self.low_rank, K), d, K)

    def _like(self, low_rank: LowRank, d: Tensor, base: LinearOperator | None) -> LowRankInverse:
        return LowRankInverse(low_rank, d, name=self.name, renew=self.renew, base=base)

    # ------------------------------------------------------------ products

    def _chunks(self) -> list[slice]:
        n, rank = self.shape[0], max(1, self.low_rank.factor.shape[0])
        step = max(1, (1 << 22) // rank)
        return [slice(i, min(n, i + step)) for i in range(0, n, step)]

    def _sandwich(self) -> Tensor:
        """I + F d^-1 F'."""
        F, d = self.low_rank.factor, self.d
        total = torch.eye(F.shape[0], dtype=torch.float64, device=d.device)
        for c in self._chunks():
            part = F[:, c].double() / d[c].sqrt()
            total += part @ part.T
        return total

    def correct(self, straight: Tensor, small: Tensor, b: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """diag(straight) b - diag(left) F' small F diag(right) b."""
        F = self.low_rank.factor
        scaled = b * right.unsqueeze(-1)
        inner = b.new_zeros((*b.shape[:-2], F.shape[0], b.shape[-1]))
        pieces = (
            [slice(None)] if F.dtype == torch.float64 else self._chunks()
        )  # nothing to convert, or little
        for c in pieces:
            inner = inner + F[:, c].double() @ scaled[..., c, :]
        inner = small @ inner
        out = b * straight.unsqueeze(-1)
        for c in pieces:
            out[..., c, :] -= (F[:, c].double().T @ inner) * left[c].unsqueeze(-1)
        return out

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        inverse = 1.0 / self.d
        return self.correct(inverse, self._small, b, inverse, inverse)

    def _transpose(self) -> LowRankInverse:
        return self

    def _entries(self, idx: Tensor) -> Tensor:
        """The rows of F' S with S S' the inverse of I + F d^-1 F', divided by d."""
        return (self.low_rank.factor[:, idx].double().T @ self._inner) / self.d[idx].unsqueeze(-1)

    def _diag(self) -> Tensor:
        everything = torch.arange(self.shape[0], device=self.device)
        return 1.0 / self.d - self._entries(everything).square().sum(-1)

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        cols = torch.arange(self.shape[0], device=self.device) if cols is None else cols
        straight = (idx.unsqueeze(-1) == cols) / self.d[idx].unsqueeze(-1)
        return straight - self._entries(idx) @ self._entries(cols).T

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.low_rank.factor, self.d)

    def with_tensors(self, tensors: Sequence[Tensor]) -> LowRankInverse:
        """See `LinearOperator.with_tensors`."""
        old = self.low_rank
        return self._like(LowRank(tensors[0], old.pivots, old.trace, old.trace_error), tensors[1], None)


class LowRankRoot(LinearOperator):
    """L with L' L = (F' F + diag(d))^-1, square; not symmetric.

    Parameters
    ----------
    inverse : LowRankInverse
    transposed : bool
    """

    work = "preconditioner"

    def __init__(self, inverse: LowRankInverse, transposed: bool = False):
        self.inverse, self.transposed = inverse, transposed
        self.shape, self.torch_dtype, self.device = inverse.shape, inverse.torch_dtype, inverse.device
        self.symmetric = self.psd = False
        S = inverse._inner  # R^-1
        one = torch.eye(len(S), dtype=S.dtype, device=S.device)
        self._small = torch.linalg.solve(one + S, S @ S.T)  # (I + R)^-1 R'^-1

    def _scales(self) -> tuple[Tensor, Tensor, Tensor]:
        """On the diagonal, to the left and to the right of F' small F."""
        root, full = self.inverse.d.rsqrt(), 1.0 / self.inverse.d
        return (root, full, root) if self.transposed else (root, root, full)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        straight, left, right = self._scales()
        small = self._small.T if self.transposed else self._small
        return self.inverse.correct(straight, small, b, left, right)

    def _transpose(self) -> LowRankRoot:
        return LowRankRoot(self.inverse, not self.transposed)

    def _diag(self) -> Tensor:
        F = self.inverse.low_rank.factor.double()
        straight, left, right = self._scales()
        return straight - left * right * ((self._small @ F) * F).sum(0)

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        cols = torch.arange(self.shape[0], device=self.device) if cols is None else cols
        straight, left, right = self._scales()
        F, small = self.inverse.low_rank.factor, self._small.T if self.transposed else self._small
        outer = (F[:, idx].double().T * left[idx, None]) @ small @ (F[:, cols].double() * right[cols])
        return (idx.unsqueeze(-1) == cols) * straight[idx].unsqueeze(-1) - outer

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.inverse.tensors

    def with_tensors(self, tensors: Sequence[Tensor]) -> LowRankRoot:
        """See `LinearOperator.with_tensors`."""
        return LowRankRoot(self.inverse.with_tensors(tensors), self.transposed)


def split(A: LinearOperator, what: str) -> tuple[LinearOperator, Tensor]:
    """K and the full diagonal d, float64, of A = K + diag(d).

    Raises
    ------
    OptionError
        If A is not of that form with a positive d: without it a low-rank approximation is singular.
    ShapeError
        If A has a batch.
    """
    if not isinstance(A, AddedDiagonal):
        raise OptionError(
            f"{what} needs an operator K + alpha * identity(n), got {A!r}; add a positive "
            "diagonal, or pass an operator as preconditioner."
        )
    if len(A.shape) != 2:
        raise ShapeError(f"{what} works on one matrix; the operator has shape {A.shape}.")
    d = A.values.detach().to(torch.float64).expand(A.shape[:-1])
    if not bool((d > 0).all()):
        raise OptionError(f"{what} needs a positive diagonal; the least is {float(d.min())}.")
    return A.base, d


class Snapshot:
    """An operator as it was at one moment, to see whether another has the same entries."""

    def __init__(self, A: LinearOperator):
        self.operator, self.versions = A, _versions(A)

    def matches(self, A: LinearOperator) -> bool:
        """Whether A is made in the same way of the same tensors, and none was written to since."""
        return (
            self.versions is not None
            and _versions(A) == self.versions
            and (A is self.operator or _made_of(A) == _made_of(self.operator) is not None)
        )


def _versions(A: LinearOperator) -> tuple[int, ...] | None:
    if any(t.is_inference() for t in A.tensors):
        return None  # torch does not follow what is written to them
    return tuple(t._version for t in A.tensors)


def _made_of(A: LinearOperator) -> tuple | None:
    if isinstance(A, Dense):
        return (id(A.matrix),)
    if isinstance(A, KernelOperator):
        return (id(A.formula), A.blocks, A.sizes, id(A.ranges), *map(id, A.args))
    return None


def _factorise(M: Tensor) -> tuple[Tensor, Tensor]:
    """S with S S' = M^-1 and log det M, for M = I + something positive semi-definite.

    S is the inverse of an R with R' R = M; its eigenvalues are positive.
    """
    L, info = torch.linalg.cholesky_ex(M)
    if int(info) == 0:
        one = torch.eye(M.shape[0], dtype=M.dtype, device=M.device)
        return torch.linalg.solve_triangular(L.mT, one, upper=True), 2.0 * L.diagonal().log().sum()
    # rounding of huge entries has hidden the I; no eigenvalue can be below one
    values, vectors = torch.linalg.eigh(M)
    values = values.clamp_min(1.0)
    return (vectors / values.sqrt()) @ vectors.mT, values.log().sum()
