"""The dense algebra over the centres: factors of Kmm, Gram matrices, and the preconditioner.

In the coordinates u = T a, with Kmm = T' T, the normal equations are G + alpha I for
G = T^-T Knm' W Knm T^-1. Gram matrices are added up in this order, rows first: the entries of Knm' W Knm
itself would bury the small eigenvalues of Kmm under rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from ..meter import count
from ..operator import LinearOperator
from .equations import chunks

Tensor = torch.Tensor

PANEL = 128  # centres that are eliminated together
PANELS = 8  # a symmetric product computes its upper panels only: 1/2 + 1/16 of the operations


class Whitening(Protocol):
    """C with C' C close to G + alpha I."""

    def solve(self, v: Tensor) -> Tensor:
        """C^-1 v."""
        ...

    def adjoint(self, v: Tensor) -> Tensor:
        """C^-T v."""
        ...

    def apply(self, v: Tensor) -> Tensor:
        """C v."""
        ...


@dataclass(frozen=True)
class Triangle:
    """C upper triangular: for one alpha."""

    C: Tensor

    def solve(self, v: Tensor) -> Tensor:
        """C^-1 v."""
        return upper(self.C, v)

    def adjoint(self, v: Tensor) -> Tensor:
        """C^-T v."""
        return upper(self.C, v, transposed=True)

    def apply(self, v: Tensor) -> Tensor:
        """C v."""
        return self.C @ v


@dataclass(frozen=True)
class Spectrum:
    """C = diag(roots) V': one matrix V for all alphas, roots of shape (*alpha, m)."""

    V: Tensor
    roots: Tensor

    def solve(self, v: Tensor) -> Tensor:
        """C^-1 v."""
        return self.V @ (v / self.roots.unsqueeze(-1))

    def adjoint(self, v: Tensor) -> Tensor:
        """C^-T v."""
        return (self.V.mT @ v) / self.roots.unsqueeze(-1)

    def apply(self, v: Tensor) -> Tensor:
        """C v."""
        return self.roots.unsqueeze(-1) * (self.V.mT @ v)


def whiten(S: Tensor, alpha: Tensor) -> Whitening:
    """The factor of S + alpha I, by Cholesky if there is one alpha.

    Eigenvalues serve several alphas with one factorisation. They also serve where rounding has made
    S + alpha I indefinite: whatever lies below the rounding level of S is taken for that level. This
    changes the speed of convergence, not what is converged to.
    """
    with count("factors", 0.0):
        if alpha.dim() == 0:
            diagonal = S.diagonal().clone()
            S.diagonal().add_(alpha)  # and back again: a copy would be one more large matrix
            L, info = torch.linalg.cholesky_ex(S)
            S.diagonal().copy_(diagonal)
            if int(info) == 0:
                return Triangle(L.mT)
        values, V = torch.linalg.eigh(S)
        level = len(S) * torch.finfo(S.dtype).eps * values[-1].abs()
        values = values.clamp_min(0.0) + alpha.unsqueeze(-1)
        return Spectrum(V, values.clamp_min(level.clamp_min(torch.finfo(S.dtype).tiny)).sqrt())


def independent(Kmm: LinearOperator, level: float) -> tuple[Tensor, Tensor] | None:
    """T, upper triangular, and the centres ``keep`` with T' T = Kmm[keep, keep]; None if Kmm is not finite.

    Left out are centres that those before them determine to ``level``, relative to the largest diagonal
    entry: rounding errors of the products are magnified by its inverse square root. Block by block, what
    is left of Kmm after elimination of the centres so far is factorised with pivoting; so only the lower
    half of Kmm is ever computed, and nearly all operations are those of a triangular solve.
    """
    m, device = Kmm.shape[-1], Kmm.device
    largest = float(Kmm.diag().max()) if m else 0.0
    L = torch.zeros((m, m), dtype=torch.float64, device=device)
    keep = torch.zeros(0, dtype=torch.int64, device=device)
    for idx in chunks(m, 1, device, PANEL):
        block = Kmm.rows(idx, torch.cat([keep, idx]))
        if not bool(torch.isfinite(block).all()):
            return None
        with count("factors", 0.0):
            r = len(keep)
            done = _eliminated(L[:r, :r], block[:, :r].clone())
            order, corner = _pivoted(block[:, r:] - done @ done.mT, level * largest)
            stop = r + len(order)
            L[r:stop, :r], L[r:stop, r:stop] = done[order], corner
            keep = torch.cat([keep, idx[order]])
    rank = len(keep)
    return (L if rank == m else L[:rank, :rank].contiguous()).mT, keep


def _eliminated(L: Tensor, rows: Tensor) -> Tensor:
    """rows L^-T in place, panel by panel (a solve with a part of a matrix would copy that part first)."""
    for start in range(0, len(L), PANEL):
        own = slice(start, min(len(L), start + PANEL))
        rows[:, own].addmm_(rows[:, :start], L[own, :start].mT, alpha=-1.0)
        rows[:, own] = torch.linalg.solve_triangular(L[own, own], rows[:, own].mT, upper=False).mT
    return rows


def _pivoted(matrix: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """The pivots above the level, and the lower triangular Cholesky factor of the matrix at them."""
    from scipy.linalg.lapack import dpstrf  # type: ignore[attr-defined]

    factor, order, rank, _ = dpstrf(matrix.cpu().numpy(), tol=level, lower=1)
    if rank and factor[0, 0] ** 2 <= level:  # LAPACK takes any positive number for its first pivot
        rank = 0
    corner = torch.from_numpy(factor[:rank, :rank]).tril().to(matrix.device)
    return torch.from_numpy(order[:rank].astype("int64") - 1).to(matrix.device), corner


def gram(blocks: Iterable[Tensor], T: Tensor, dtype: torch.dtype) -> Tensor:
    """T^-T (sum of B' B over the blocks B of rows) T^-1, computed in ``dtype``, given in float64."""
    m = T.shape[0]
    total = torch.zeros((m, m), dtype=dtype, device=T.device)
    T = T.to(dtype)
    for block in blocks:
        with count("factors", 0.0):
            add_square(total, upper(T, block.to(dtype).mT, transposed=True))
    with count("factors", 0.0):
        return mirrored(total).double()


def falkon(T: Tensor, scale: float) -> Tensor:
    """The same with the centres in the place of all rows, as Falkon has it: scale T T'."""
    with count("factors", 0.0):
        total = torch.zeros_like(T)
        add_square(total, T)
        return mirrored(total).mul_(scale)


def add_square(total: Tensor, half: Tensor) -> None:
    """total += half half', in the panels on and above the diagonal."""
    m = len(total)
    panel = max(1, -(-m // PANELS))
    for start in range(0, m, panel):
        stop = min(m, start + panel)
        total[:stop, start:stop].addmm_(half[:stop], half[start:stop].mT)


def mirrored(total: Tensor) -> Tensor:
    """``total`` with its upper half copied to the lower one, in place."""
    m = len(total)
    panel = max(1, -(-m // PANELS))
    for start in range(0, m, panel):
        stop = min(m, start + panel)
        total[start:stop, :start] = total[:start, start:stop].mT
    return total


def upper(U: Tensor, v: Tensor, transposed: bool = False) -> Tensor:
    """U^-1 v or U^-T v for an upper triangular U."""
    if transposed:
        return torch.linalg.solve_triangular(U.mT, v, upper=False)
    return torch.linalg.solve_triangular(U, v, upper=True)
