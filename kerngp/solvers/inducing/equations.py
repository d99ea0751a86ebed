"""The normal equations of a fit on centres, as an operator made of operators.

    H = Knm' W Knm + alpha Kmm

It can be rebuilt from other tensors, so the rule by which `solve` is differentiated holds for it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ...errors import ShapeError
from ..operator import LinearOperator, Remake, unique

Tensor = torch.Tensor
KernelFunction = Callable[[Tensor, Tensor], LinearOperator]

BLOCK = 1 << 22  # numbers of a block of rows that is formed for products or diagonals


class NormalEquations(LinearOperator):
    """Knm' W Knm + alpha Kmm, in float64; a matrix for each alpha, which share Knm and Kmm.

    Parameters
    ----------
    K : LinearOperator of shape (n, m), float64
    Kmm : LinearOperator of shape (m, m), float64
    w : Tensor of shape (n,)
    alpha : Tensor of shape () or (p,)
    """

    def __init__(self, K: LinearOperator, Kmm: LinearOperator, w: Tensor, alpha: Tensor):
        if len(K.shape) != 2:
            raise ShapeError(f"inducing points work on one matrix; kernel(X, Z) has shape {K.shape}.")
        self.K, self.Kmm, self.w, self.alpha = K, Kmm, w, alpha
        self.shape = (*alpha.shape, K.shape[1], K.shape[1])
        self.torch_dtype, self.device = torch.float64, K.device
        self.symmetric = self.psd = True

    @property
    def entries(self) -> float:
        """All alphas share the products with K."""
        return 2.0 * self.K.entries + self.Kmm.entries

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        b = b.expand(*torch.broadcast_shapes(self.alpha.shape, b.shape[:-2]), *b.shape[-2:])
        v = flat(b)
        gram = self.K.T._matmul(self.w.unsqueeze(-1) * self.K._matmul(v, exact), exact)
        return unflat(gram, b) + self.alpha[..., None, None] * unflat(self.Kmm._matmul(v, exact), b)

    def _transpose(self) -> NormalEquations:
        return self

    def _diag(self) -> Tensor:
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        for rows in chunks(self.K.shape[0], self.K.shape[1], self.device):
            squares = squares + (self.w[rows].unsqueeze(-1) * self.K._rows(rows, None).square()).sum(0)
        return squares + self.alpha.unsqueeze(-1) * self.Kmm._diag()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        unit = torch.zeros((self.shape[-1], len(idx)), dtype=torch.float64, device=self.device)
        unit[idx, torch.arange(len(idx), device=self.device)] = 1.0
        rows = self._matmul(unit, False).mT
        return rows if cols is None else rows[..., cols]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return unique((*self.K.tensors, *self.Kmm.tensors, self.w, self.alpha))

    def remade(self, new: Remake) -> NormalEquations:
        """See `LinearOperator.remade`."""
        return NormalEquations(self.K.remade(new), self.Kmm.remade(new), new(self.w, 1), new(self.alpha, 0))


class Blocks(LinearOperator):
    """The matrix of a kernel function that stores its matrices, asked for block by block and forgotten.

    Parameters
    ----------
    kernel : callable
    X, Z : Tensor of shape (n, D) and (m, D)
    turned : bool
        The transpose.
    """

    def __init__(self, kernel: KernelFunction, X: Tensor, Z: Tensor, turned: bool = False):
        self.kernel, self.X, self.Z, self.turned = kernel, X, Z, turned
        shape = (len(X), len(Z))
        self.shape = shape[::-1] if turned else shape
        self.torch_dtype, self.device = X.dtype, X.device
        self.symmetric = self.psd = False

    def _block(self, rows: Tensor) -> Tensor:
        return self.kernel(self.X[rows], self.Z).dense()

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        blocks = chunks(len(self.X), len(self.Z), self.device)
        if not self.turned:
            return torch.cat([self._block(rows) @ b for rows in blocks], -2)
        out = b.new_zeros((*b.shape[:-2], len(self.Z), b.shape[-1]))
        for rows in blocks:
            out = out + self._block(rows).mT @ b[..., rows, :]
        return out

    def _transpose(self) -> Blocks:
        return Blocks(self.kernel, self.X, self.Z, not self.turned)

    def _diag(self) -> Tensor:
        step = range(len(self.X))
        return torch.stack([self.kernel(self.X[i : i + 1], self.Z[i : i + 1]).dense()[0, 0] for i in step])

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        if self.turned:
            X = self.X if cols is None else self.X[cols]
            return self.kernel(X, self.Z[idx]).dense().mT
        return self.kernel(self.X[idx], self.Z if cols is None else self.Z[cols]).dense()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return unique((self.X, self.Z))

    def remade(self, new: Remake) -> Blocks:
        """See `LinearOperator.remade`."""
        return Blocks(self.kernel, new(self.X, 2), new(self.Z, 2), self.turned)


def chunks(n: int, width: int, device: torch.device, numbers: int = BLOCK) -> Iterator[Tensor]:
    """The indices 0 to n - 1, cut so that that many rows of ``width`` numbers make a block."""
    step = max(1, numbers // max(1, width))
    for start in range(0, n, step):
        yield torch.arange(start, min(n, start + step), device=device)


def flat(b: Tensor) -> Tensor:
    """(*batch, m, E) with the batch among the columns: (m, batch * E)."""
    return b if b.dim() == 2 else b.movedim(-2, 0).reshape(b.shape[-2], -1)


def unflat(v: Tensor, like: Tensor) -> Tensor:
    """The inverse of `flat`."""
    return v if like.dim() == 2 else v.reshape(len(v), *like.shape[:-2], like.shape[-1]).movedim(0, -2)
