"""Conjugate gradients for the normal equations, in the coordinates of their preconditioner.

    beta = C T a,    B = C^-T (G + alpha I) C^-1 ~ I,    G = T^-T Knm' W Knm T^-1

"fused" multiplies with G by two passes of the engine; a float32 X means float32 products there, while
inspections of the residual and, if need be, the last iterations are float64. "normal" has G stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..cg import CG
from ..implicit import judge
from ..operator import LinearOperator, Remake, cast
from ..solution import Progress, Solution, Status
from .equations import NormalEquations, flat, unflat
from .factors import Whitening, upper

Tensor = torch.Tensor


@dataclass(frozen=True)
class Iteration:
    """The method with which `solve` solves `NormalEquations`; also for gradients, with the same factors.

    Attributes
    ----------
    tol, max_iter
        See `InducingPoints`.
    T : Tensor of shape (m, m)
    C : Whitening
    G : Tensor of shape (m, m), optional
        Of the form "normal".
    quick : torch.dtype
        Of products in the form "fused".
    on_fail : str
        What to do about a gradient that fails.
    """

    tol: float
    max_iter: int
    T: Tensor
    C: Whitening
    G: Tensor | None
    quick: torch.dtype
    on_fail: str

    def run(
        self,
        A: LinearOperator,
        b: Tensor,
        *,
        preconditioner: LinearOperator | None = None,
        x0: Tensor | None = None,
        callback: Callable[[Progress], Any] | None = None,
    ) -> Solution:
        """Solve A a = b for b of shape (*batch, m, E). A solve without a callback is that of a gradient."""
        assert isinstance(A, NormalEquations)
        with torch.no_grad():
            B = Whitened(A, self.T, self.C, self.G, self.quick)
            rhs = self.C.adjoint(upper(self.T, b, transposed=True))
            start = None if x0 is None else self.C.apply(self.T @ x0)
            s = CG(self.tol, self.max_iter, refresh=25).run(B, rhs, x0=start, callback=callback)
            if s.status is Status.stagnated and self.G is None and self.quick != torch.float64:
                s = self._finish(B, rhs, s, callback)
            x = upper(self.T, self.C.solve(s.x))
        found = replace(s, x=x, method="InducingPoints", products=s.products + 1)
        if callback is None:
            judge(found, self.on_fail, stacklevel=4, what="gradient of a solve: ")
        return found

    def _finish(self, B: Whitened, rhs: Tensor, s: Solution, callback: Any) -> Solution:
        """Go on in float64 from where float32 products lead nowhere."""
        last = CG(self.tol, max(0, self.max_iter - s.iterations), refresh=25)
        exactly = Whitened(B.H, self.T, self.C, None, torch.float64)
        t = last.run(exactly, rhs, x0=s.x, callback=callback)
        history = torch.cat([s.history, t.history[1:]])
        return replace(
            t, iterations=s.iterations + t.iterations, history=history, products=s.products + t.products
        )


class Whitened(LinearOperator):
    """B = C^-T (G + alpha I) C^-1.

    Parameters
    ----------
    H : NormalEquations
    T : Tensor
    C : Whitening
    G : Tensor, optional
        Default: products with H's operators.
    quick : torch.dtype
        Of products that need not be exact.
    """

    def __init__(self, H: NormalEquations, T: Tensor, C: Whitening, G: Tensor | None, quick: torch.dtype):
        self.H, self.T_, self.C, self.G, self.quick = H, T, C, G, quick
        self.K = cast(H.K, quick) if G is None else H.K
        self.shape, self.torch_dtype, self.device = H.shape, torch.float64, H.device
        self.symmetric = self.psd = True

    @property
    def entries(self) -> float:
        """None of the kernel if G is stored."""
        return 2.0 * self.K.entries if self.G is None else 0.0

    def _gram(self, u: Tensor, exact: bool) -> Tensor:
        if self.G is not None:
            return self.G @ u
        K = self.H.K if exact else self.K
        f = self.H.w.unsqueeze(-1) * K._matmul(upper(self.T_, u).to(K.torch_dtype), exact).double()
        return upper(self.T_, K.T._matmul(f.to(K.torch_dtype), exact).double(), transposed=True)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        u = self.C.solve(b)
        z = unflat(self._gram(flat(u), exact), u)
        return self.C.adjoint(z + self.H.alpha[..., None, None] * u)

    def _transpose(self) -> Whitened:
        return self

    def _diag(self) -> Tensor:
        return self.dense().diagonal(dim1=-2, dim2=-1)

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        unit = torch.zeros((*self.shape[:-1], len(idx)), dtype=torch.float64, device=self.device)
        unit[..., idx, torch.arange(len(idx), device=self.device)] = 1.0
        rows = self._matmul(unit, False).mT
        return rows if cols is None else rows[..., cols]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.H.tensors

    def remade(self, new: Remake) -> Whitened:
        """See `LinearOperator.remade`."""
        return Whitened(self.H.remade(new), self.T_, self.C, self.G, self.quick)
