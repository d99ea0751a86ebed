"""The other libraries of `solvers.py`, each solving (K + mu I) x = b in the way its own users would.

A peer that takes longer than its cap is stopped by a signal, and the iterate it had is taken from its
frame: none of them can be asked to return early. KeOps and GPyTorch have no true residual; what they
reached is computed by `solvers.py`.
"""

from __future__ import annotations

import contextlib
import math
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kerngp.models import RBF, Matern
from kerngp.solvers import LinearOperator, identity

Tensor = torch.Tensor

KERNELS = {"matern32": Matern(nu=1.5), "rbf": RBF()}
FORMULAS = {
    "matern32": "(IntCst(1)+Sqrt(IntCst(3)*SqDist(x,y)))*Exp(-Sqrt(IntCst(3)*SqDist(x,y)))*b",
    "rbf": "Exp(-SqDist(x,y)/IntCst(2))*b",
}
LOCALS = {"ConjugateGradientSolver": "a", "cg": "x", "linear_cg": "result"}  # where each keeps its iterate
DENSE_LIMIT = 4 * 2**30  # bytes of a stored matrix; a peer that needs more is not run


@dataclass(frozen=True)
class Problem:
    """A system: points in units of the lengthscale, right-hand sides, the kernel's name, mu."""

    x: Tensor
    b: Tensor
    kernel: str
    mu: float
    tol: float

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def K(self) -> LinearOperator:
        return KERNELS[self.kernel](self.x)

    @property
    def A(self) -> LinearOperator:
        return self.K + self.mu * identity(self.n)

    def head(self, n: int) -> Problem:
        """The first rows, to compile for."""
        return Problem(self.x[:n].clone(), self.b[:n].clone(), self.kernel, self.mu, self.tol)

    def residual(self, x: Any) -> float:
        """The largest true relative residual of the columns, in float64 whatever the dtype of the points."""
        found = torch.as_tensor(x).double().reshape(self.b.shape)
        r = self.b.double() - self.A.matmul(found, exact=True)
        return float((r.norm(dim=0) / self.b.double().norm(dim=0)).max())


@dataclass(frozen=True)
class Outcome:
    """What one run found: the iterate, passes over the matrix (nan where they can not be counted), a word."""

    x: Any
    passes: float
    status: str


class Unavailable(Exception):
    """A peer is not installed, or does not fit this system."""


class _OutOfTime(Exception):
    pass


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def capped(solve: Callable[[], Outcome], cap: float, passes: Callable[[], float]) -> Outcome:
    """The outcome of ``solve``, or of what it had when ``cap`` seconds were over."""
    try:
        with _alarm(cap):
            return solve()
    except _OutOfTime as late:
        x, trace = None, late.__traceback__
        while trace is not None:
            name = LOCALS.get(trace.tb_frame.f_code.co_name)
            if name:
                x = trace.tb_frame.f_locals.get(name, x)
                x = x * trace.tb_frame.f_locals.get("rhs_norm", 1.0)  # GPyTorch's is scaled back at the end
            trace = trace.tb_next
        return Outcome(x if hasattr(x, "shape") else None, passes(), f"not in {cap:.0f} s")


def _need_memory(p: Problem, copies: int) -> None:
    size = copies * p.n**2 * p.x.element_size()
    if size > DENSE_LIMIT:
        raise Unavailable(f"needs {size / 2**30:.0f} GiB")


# ---------------------------------------------------------------- the peers


def keops(p: Problem, cap: float) -> Outcome:
    """KernelSolve. It stops where the norm of its recursive residual is below eps times sqrt(size of b).

    So eps is tol times the root mean square of b: the same relative residual as ours, if the recursion
    tells the truth.
    """
    import pykeops  # pyright: ignore[reportMissingImports]
    from pykeops.torch import KernelSolve  # pyright: ignore[reportMissingImports]
    from pykeops.torch import operations as module  # pyright: ignore[reportMissingImports]

    pykeops.set_verbose(False)
    count, original = [0], module.ConjugateGradientSolver

    def counting(binding: Any, linop: Any, b: Any, eps: float = 1e-6) -> Any:
        def product(v: Any) -> Any:
            count[0] += 1
            return linop(v)

        return original(binding, product, b, eps)

    d, e = p.x.shape[-1], p.b.shape[-1]
    aliases = [f"x=Vi({d})", f"y=Vj({d})", f"b=Vj({e})"]
    routine = KernelSolve(FORMULAS[p.kernel], aliases, "b", axis=1)
    eps = p.tol * float(p.b.norm()) / math.sqrt(p.b.numel())

    def run() -> Outcome:
        x = routine(p.x, p.x, p.b, alpha=p.mu, eps=eps, backend="CPU")
        return Outcome(x, float(count[0]), "returned")

    module.ConjugateGradientSolver = counting
    try:
        return capped(run, cap, lambda: float(count[0]))
    finally:
        module.ConjugateGradientSolver = original


def scipy_cg(p: Problem, cap: float) -> Outcome:
    """scipy.sparse.linalg.cg with our matrix-free products, one column after the other."""
    from scipy.sparse.linalg import LinearOperator as ScipyOperator
    from scipy.sparse.linalg import cg

    A, count, columns = p.A, [0], []

    def product(v: np.ndarray) -> np.ndarray:
        count[0] += 1
        return A.matvec(v)

    make: Any = ScipyOperator
    operator = make(A.shape, product, dtype=A.dtype)

    def run() -> Outcome:
        for b in p.b.numpy().T:
            x, info = cg(operator, b, rtol=p.tol, atol=0.0, maxiter=100_000)
            columns.append(x)
        return Outcome(np.stack(columns, 1), float(count[0]), "returned" if info == 0 else f"info {info}")

    found = capped(run, cap, lambda: float(count[0]))
    if found.x is not None and np.size(found.x) != p.b.numel():
        return Outcome(None, found.passes, found.status)
    return found


def sklearn_cholesky(p: Problem, cap: float) -> Outcome:
    """scikit-learn's KernelRidge: the matrix, stored, and SciPy's Cholesky."""
    from sklearn.gaussian_process.kernels import RBF as RadialBasis
    from sklearn.gaussian_process.kernels import Matern as MaternKernel
    from sklearn.kernel_ridge import KernelRidge

    _need_memory(p, 2)
    points = p.x.numpy()

    def run() -> Outcome:
        matrix = (RadialBasis(1.0) if p.kernel == "rbf" else MaternKernel(1.0, nu=1.5))(points)
        alpha: Any = p.mu  # its type says int
        model = KernelRidge(alpha=alpha, kernel="precomputed").fit(matrix, p.b.numpy())
        return Outcome(model.dual_coef_, 1.0, "returned")

    return capped(run, cap, lambda: 1.0)


def gpytorch_cg(p: Problem, cap: float) -> Outcome:
    """GPyTorch's CG with its own preconditioner (pivoted Cholesky of rank 15), the matrix stored.

    Its 1000 iterations are its default; it can not get below a residual of some 1e-6, where it takes
    p'Ap for zero.
    """
    from gpytorch import kernels, settings  # pyright: ignore[reportMissingImports]

    _need_memory(p, 3)
    kernel: Any = kernels.RBFKernel() if p.kernel == "rbf" else kernels.MaternKernel(nu=1.5)
    kernel = kernel.to(p.x.dtype)
    kernel.lengthscale = 1.0

    def run() -> Outcome:
        with (
            torch.no_grad(),
            settings.max_cholesky_size(0),
            settings.cg_tolerance(p.tol),
            warnings.catch_warnings(record=True) as found,
        ):
            warnings.simplefilter("always")
            x = kernel(p.x).add_jitter(p.mu).solve(p.b)
        unfinished = any("CG terminated" in str(w.message) for w in found)
        return Outcome(x, math.nan, "1000 iterations" if unfinished else "returned")

    return capped(run, cap, lambda: math.nan)


PEERS: dict[str, Callable[[Problem, float], Outcome]] = {
    "KeOps KernelSolve": keops,
    "SciPy cg, our products": scipy_cg,
    "scikit-learn Cholesky": sklearn_cholesky,
    "GPyTorch CG": gpytorch_cg,
}
