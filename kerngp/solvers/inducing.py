"""Kernel ridge regression on inducing points, for very large N (Falkon).

f = sum_j a_j k(., z_j) over m centres z minimises sum_i w_i (y_i - f(x_i))^2 + alpha |f|^2, that is

    (Knm' W Knm + alpha Kmm) a = Knm' W y.

Conjugate gradients run in the coordinates beta = R a of the preconditioner (after Rudi, Carratino and
Rosasco, 2017): with Kmm = T' T and S an estimate of Knm' W Knm,

    T^-T S T^-1 + alpha I = C' C,    R = C T,    B = R^-T (Knm' W Knm + alpha Kmm) R^-1 ~ I.

Falkon estimates S from the m centres themselves; 4 m rows drawn anew cost a little more and, measured,
save three iterations of four (60,000 rows, 1,000 centres, alpha = 1: 14 instead of 54; 0.01: 22 instead
of 132). They also serve centres that are no uniform sample.

Centres that the others determine to rounding level (duplicates above all) are left out, by Cholesky
with pivoting: nothing is added to the diagonal of Kmm. Memory is O(m^2) beyond the data.

**Two ways to the same products.** "fused" makes two passes of the engine per iteration. "normal" adds
up H = T^-T Knm' W Knm T^-1 once, block by block in float64; then S is exact and a step or two do. (In
this order: the entries of Knm' W Knm itself would bury the small eigenvalues of Kmm under rounding.)
With "fused" a float32 X means float32 products within the iteration, while the right-hand side,
inspections of the residual and, if need be, the last iterations are float64; "normal" is float64
throughout. `choose_form` compares floating-point operations per row and centre:

    normal   D + 12 + 400 + 4 m      400: writing and reading an entry; 4 m: solve, product, in float64
    fused    2 its (D + 12 + 2 E) + (4 m / n) normal
                                     D features, E targets, 12 for the exponential and the sums
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import options as _options
from ..engine.arrays import adopt, check_finite, kind_of, restore
from ..engine.transforms import refuse
from ..errors import OptionError, ShapeError
from .cg import CG, Callback
from .checks import columns
from .operator import Dense, LinearOperator
from .preconditioners.rpcholesky import RPCholesky
from .solution import Progress, Solution, Status
from .solve import ON_FAIL, judge

Tensor = torch.Tensor
KernelFunction = Callable[[Tensor, Tensor], LinearOperator]

Gram = Callable[[Tensor, bool], Tensor]

TYPICAL_ITERATIONS = 20
SAMPLE = 4  # rows of the preconditioner for each centre
FORMS = ("auto", "fused", "normal")


@dataclass(frozen=True)
class InducingPoints:
    """How to solve with inducing points; `solve` does it.

    Parameters
    ----------
    n_centers : int
        Ignored if ``centers`` is an array.
    tol : float
        On the residual of the preconditioned system, relative, for every target; it is close to the
        relative error of f in the norm of the objective.
    max_iter : int
    centers : {"uniform", "rpcholesky"} or array of shape (m, D), default "uniform"
        Rows of X drawn uniformly; pivots of randomly pivoted Cholesky on a subsample of X (fewer
        centres for the same accuracy, more time to find them); or given points.
    random_state : int
    form : {"auto", "fused", "normal"}
        See the head of this file.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense
    >>> def kernel(x, z):
    ...     return Dense(torch.exp(-((x - z.T) ** 2)))
    >>> x = torch.linspace(0, 3, 500, dtype=torch.float64)[:, None]
    >>> solution = InducingPoints(n_centers=20).solve(kernel, x, x.sin(), alpha=1e-4)
    >>> f = kernel(x, solution.extra["centers"]) @ solution.x
    >>> float((f - x.sin()).abs().max()) < 1e-3
    True
    """

    n_centers: int = 1000
    tol: float = 1e-6
    max_iter: int = 100
    centers: Any = "uniform"
    random_state: int = 0
    form: str = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.n_centers, bool) or not isinstance(self.n_centers, int) or self.n_centers < 1:
            raise OptionError(f"n_centers={self.n_centers!r}: expected a positive integer.")
        if isinstance(self.centers, str) and self.centers not in ("uniform", "rpcholesky"):
            raise OptionError(f"centers={self.centers!r}: expected 'uniform', 'rpcholesky' or an array.")
        if self.form not in FORMS:
            raise OptionError(f"form={self.form!r}: expected one of {FORMS}.")
        CG(self.tol, self.max_iter)  # checks these two

    def solve(
        self,
        kernel: KernelFunction,
        X: Any,
        y: Any,
        alpha: float,
        *,
        sample_weight: Any = None,
        callback: Callback | None = None,
        on_fail: str = "warn",
    ) -> Solution:
        """Coefficients of the centres.

        Parameters
        ----------
        kernel : callable
            ``kernel(X, Z)`` is the operator of the matrix k(x_i, z_j); positive semi-definite.
        X : array of shape (n, D)
        y : array of shape (n,) or (n, E)
            A float64 y gives float64 coefficients, whatever the dtype of X.
        alpha : float
            At least 0.
        sample_weight : array of shape (n,), optional
            At least 0.
        callback : callable
            Called with a `Progress` for every iteration and every block of preparation.
        on_fail : {"warn", "raise", "ignore"}

        Returns
        -------
        Solution
            ``x`` has shape (m,) or (m, E); ``extra["centers"]`` holds the m points it belongs to,
            ``extra["form"]`` the form chosen. Residuals are those of the preconditioned system.

        Raises
        ------
        ShapeError, DTypeError, DeviceError, OptionError, DataError, SolveError
        BackendUnavailable
            In forward mode and under a transform of `torch.func`.
        """
        points, kind = adopt("X", X), kind_of(y)
        if points.dim() != 2 or points.shape[0] == 0:
            raise ShapeError(f"X has shape {tuple(points.shape)}; expected (n, D) with n of at least 1.")
        if not alpha >= 0:
            raise OptionError(f"alpha={alpha!r}: expected a number of at least 0.")
        if on_fail not in ON_FAIL:
            raise OptionError(f"on_fail={on_fail!r}: expected one of {ON_FAIL}.")
        n = points.shape[0]
        target, vector = columns("y", y, (n, n), None, points.device)
        weight = _weights(sample_weight, points)
        refuse("a solve on inducing points", (points, target))
        with torch.no_grad():
            found = self._solve(kernel, points.detach(), target.detach(), float(alpha), weight, callback)
        judge(found, on_fail, stacklevel=3)
        pieces = {name: getattr(found, name) for name in ("x", "residual_norms", "history")}
        if vector:
            pieces = {name: t.squeeze(-1) for name, t in pieces.items()}
        extra = {**found.extra, "centers": restore(found.extra["centers"], kind_of(X))}
        return replace(found, extra=extra, **{name: restore(t, kind) for name, t in pieces.items()})

    def _solve(
        self, kernel: KernelFunction, X: Tensor, y: Tensor, alpha: float, w: Tensor, callback: Callback | None
    ) -> Solution:
        Z = self._choose(kernel, X)
        form = self.form
        if form == "auto":  # a kernel that stores its matrices is better asked for blocks of them
            stored = isinstance(kernel(X[:1], Z), Dense)
            form = "normal" if stored else choose_form(len(X), X.shape[1], len(Z), y.shape[-1])
        T, keep = _independent(
            kernel(Z.double(), Z.double()).dense(), X.dtype if form == "fused" else torch.float64
        )
        Z, wy = Z[keep], w.unsqueeze(-1) * y.double()
        extra = {"centers": Z, "form": form}
        if form == "normal":
            S, rhs = _normal_equations(kernel, X, Z, T, w, wy, callback, "normal equations")
            gram: Gram = lambda u, exact: S @ u  # noqa: E731
        else:
            S = self._sampled(kernel, X, Z, T, w, callback)
            gram = fused = _Fused(kernel, X, Z, T, w)
            rhs = fused.transposed(wy)
        L, info = torch.linalg.cholesky_ex(S + alpha * torch.eye(len(Z), dtype=S.dtype, device=S.device))
        if int(info) != 0:
            nothing, norms = y.new_full((len(Z), y.shape[-1]), torch.nan), torch.ones(y.shape[-1])
            detail = "the preconditioner has no Cholesky factor"
            return Solution(
                nothing, Status.indefinite, 0, norms, norms[None], 1, "InducingPoints", detail, extra
            )
        B = _Preconditioned(gram, T, L.mT, alpha)
        rhs = _up(L.mT, rhs, transposed=True)
        s = CG(self.tol, self.max_iter, refresh=25).run(B, rhs, callback=callback)
        if s.status is Status.stagnated and form == "fused" and X.dtype != torch.float64:
            s = self._finish(B, rhs, s, callback)
        return replace(
            s, x=B.out(s.x).to(y.dtype), method="InducingPoints", products=s.products + 1, extra=extra
        )

    def _finish(self, B: _Preconditioned, rhs: Tensor, s: Solution, callback: Callback | None) -> Solution:
        """Go on in float64 from where float32 products lead nowhere."""
        last = CG(self.tol, max(0, self.max_iter - s.iterations), refresh=25)
        t = last.run(B.exactly(), rhs, x0=s.x, callback=callback)
        history = torch.cat([s.history, t.history[1:]])
        return replace(
            t, iterations=s.iterations + t.iterations, history=history, products=s.products + t.products
        )

    def _choose(self, kernel: KernelFunction, X: Tensor) -> Tensor:
        """The centres."""
        n, generator = X.shape[0], torch.Generator().manual_seed(self.random_state)
        if not isinstance(self.centers, str):
            Z = adopt("centers", self.centers, dtype=X.dtype, device=X.device)
            if Z.dim() != 2 or Z.shape[1] != X.shape[1] or not len(Z):
                raise ShapeError(f"centers has shape {tuple(Z.shape)}; expected (m, {X.shape[1]}) as X has.")
            check_finite("centers", Z)
            return Z
        m = min(self.n_centers, n)
        order = torch.randperm(n, generator=generator).to(X.device)
        if self.centers == "uniform":
            return X[order[:m]]
        # the factor of the pivoting has m numbers for each row it looks at
        room = _options.current().memory_limit // (2 * m * X.element_size())
        sample = X[order[: max(m, min(n, 10 * m, room))]]
        low_rank = RPCholesky(m, random_state=self.random_state).approximate(kernel(sample, sample))
        return sample[low_rank.pivots]

    def _sampled(
        self, kernel: KernelFunction, X: Tensor, Z: Tensor, T: Tensor, w: Tensor, callback: Callback | None
    ) -> Tensor:
        """An estimate of T^-T Knm' W Knm T^-1 from a few rows."""
        generator = torch.Generator().manual_seed(self.random_state + 1)
        counted = w.nonzero().squeeze(-1)
        drawn = torch.randperm(len(counted), generator=generator)[: SAMPLE * len(Z)].to(X.device)
        rows = counted[drawn]
        none = w.new_zeros((len(rows), 0))
        S, _ = _normal_equations(kernel, X[rows], Z, T, w[rows], none, callback, "preconditioner")
        return S * (len(counted) / max(1, len(rows)))


def choose_form(
    rows: int, features: int, centers: int, targets: int, iterations: int = TYPICAL_ITERATIONS
) -> str:
    """ "fused" or "normal", whichever takes fewer operations; see the head of this file."""
    normal = features + 12 + 400 + 4 * centers
    fused = 2 * iterations * (features + 12 + 2 * targets) + min(1.0, SAMPLE * centers / rows) * normal
    return "fused" if fused <= normal else "normal"


def _weights(sample_weight: Any, X: Tensor) -> Tensor:
    n = X.shape[0]
    if sample_weight is None:
        return torch.ones(n, dtype=torch.float64, device=X.device)
    w = adopt("sample_weight", sample_weight, dtype=torch.float64, device=X.device)
    if w.shape != (n,):
        raise ShapeError(
            f"sample_weight has shape {tuple(w.shape)}; expected ({n},), one number for each row of X."
        )
    check_finite("sample_weight", w)
    if bool((w < 0).any()):
        raise OptionError(
            f"sample_weight has negative entries, the least is {float(w.min())}; expected >= 0."
        )
    return w.detach()


def _independent(Kmm: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """T, upper triangular, with T' T = Kmm[keep, keep]; keep leaves out what the others determine.

    The level is relative to the diagonal; rounding errors of the products are magnified by its inverse
    square root.
    """
    from scipy.linalg.lapack import dpstrf  # type: ignore[attr-defined]

    level = (1e-12 if dtype == torch.float64 else 1e-6) * float(Kmm.diagonal().max())
    factor, order, rank, _ = dpstrf(Kmm.cpu().numpy(), tol=level, lower=0)
    T = torch.from_numpy(factor[:rank, :rank].copy()).triu()
    return T.to(Kmm.device), torch.from_numpy(order[:rank].astype("int64") - 1).to(Kmm.device)


class _Fused:
    """u -> T^-T Knm' W Knm T^-1 u by two passes, in the dtype of X or, exactly, in float64."""

    def __init__(self, kernel: KernelFunction, X: Tensor, Z: Tensor, T: Tensor, w: Tensor):
        self.T, self.w = T, w.unsqueeze(-1)
        self.quick = kernel(X, Z)
        self.exact = self.quick if X.dtype == torch.float64 else kernel(X.double(), Z.double())

    def transposed(self, v: Tensor) -> Tensor:
        """T^-T Knm' v."""
        return _up(self.T, self.exact.T.matmul(v, exact=True), transposed=True)

    def __call__(self, u: Tensor, exact: bool) -> Tensor:
        K = self.exact if exact else self.quick
        v = _up(self.T, u).to(K.torch_dtype)
        f = self.w * K.matmul(v, exact=exact).double()
        return _up(self.T, K.T.matmul(f.to(K.torch_dtype), exact=exact).double(), transposed=True)


def _normal_equations(
    kernel: KernelFunction,
    X: Tensor,
    Z: Tensor,
    T: Tensor,
    w: Tensor,
    wy: Tensor,
    callback: Callback | None,
    phase: str,
) -> tuple[Tensor, Tensor]:
    """T^-T Knm' W Knm T^-1 and T^-T Knm' wy, block by block in float64."""
    n, m = X.shape[0], Z.shape[0]
    step = max(1, min(_options.current().memory_limit // 4, 1 << 27) // (16 * m))
    H = torch.zeros((m, m), dtype=torch.float64, device=X.device)
    rhs = torch.zeros((m, wy.shape[-1]), dtype=torch.float64, device=X.device)
    starts = range(0, n, step)
    for k, i in enumerate(starts):
        rows = slice(i, i + step)
        half = _up(T, kernel(X[rows].double(), Z.double()).dense().mT, transposed=True)
        rhs.addmm_(half, wy[rows])
        half *= w[rows].sqrt()
        H.addmm_(half, half.mT)
        if callback is not None:
            callback(Progress(k + 1, len(starts), torch.empty(0), 0, phase=phase))
    return H, rhs


class _Preconditioned(LinearOperator):
    """B = C^-T (G + alpha I) C^-1 for G = T^-T Knm' W Knm T^-1."""

    def __init__(
        self,
        gram: Gram,
        T: Tensor,
        C: Tensor,
        alpha: float,
        always_exact: bool = False,
    ):
        self.always_exact = always_exact
        self.gram, self.T_, self.C, self.alpha = gram, T, C, alpha
        self.shape, self.torch_dtype, self.device = tuple(T.shape), torch.float64, T.device
        self.symmetric = self.psd = True

    def out(self, beta: Tensor) -> Tensor:
        """R^-1 beta."""
        return _up(self.T_, _up(self.C, beta))

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        u = _up(self.C, b)
        z = self.gram(u, exact or self.always_exact)
        return _up(self.C, z + self.alpha * u, transposed=True)

    def exactly(self) -> _Preconditioned:
        """The same with all products in float64."""
        return _Preconditioned(self.gram, self.T_, self.C, self.alpha, always_exact=True)

    def _transpose(self) -> _Preconditioned:
        return self

    def _diag(self) -> Tensor:
        return self.dense().diagonal()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        unit = torch.zeros((self.shape[0], len(idx)), dtype=torch.float64, device=self.device)
        unit[idx, torch.arange(len(idx), device=self.device)] = 1.0
        rows = self._matmul(unit, False).T
        return rows if cols is None else rows[:, cols]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.T_, self.C)

    def with_tensors(self, tensors: Sequence[Tensor]) -> _Preconditioned:
        """See `LinearOperator.with_tensors`."""
        return _Preconditioned(self.gram, tensors[0], tensors[1], self.alpha, self.always_exact)


def _up(U: Tensor, v: Tensor, transposed: bool = False) -> Tensor:
    """U^-1 v or U^-T v for an upper triangular U."""
    return (
        torch.linalg.solve_triangular(U.mT, v, upper=False)
        if transposed
        else torch.linalg.solve_triangular(U, v, upper=True)
    )
