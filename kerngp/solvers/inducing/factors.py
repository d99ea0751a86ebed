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

    Left out are centres that the others determine to ``level``, relative to the largest diagonal entry:
    rounding errors of the products are magnified by its inverse square root. That holds because pivots are
    the largest of all that are left; pivots of blocks that are eliminated one after the other are faster
    to find and make the condition of T a thousand times worse. Kmm and T share one buffer.
    """
    from scipy.linalg.lapack import dpstrf  # type: ignore[attr-defined]

    m = Kmm.shape[-1]
    buffer = torch.empty((m, m), dtype=torch.float64)
    for rows in chunks(m, m, Kmm.device):
        buffer[int(rows[0]) : int(rows[-1]) + 1] = Kmm.rows(rows)
    largest = float(buffer.diagonal().max())
    # sums are not finite if an entry is not, or if the entries are of no use anyway
    if not bool(torch.isfinite(buffer.sum(0)).all()):
        return None
    with count("factors", 0.0):
        # the transposed view is the order of entries that LAPACK expects, so it works in place
        factor, order, rank, _ = dpstrf(buffer.numpy().T, tol=level * largest, lower=0, overwrite_a=1)
        rank = rank if largest > 0 else 0
        lower = torch.from_numpy(factor.T).tril_()
        lower = lower if rank == m else lower[:rank, :rank].contiguous()
    return lower.to(Kmm.device).mT, torch.from_numpy(order[:rank].astype("int64") - 1).to(Kmm.device)


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
