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
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ... import options as _options
from ...engine.arrays import adopt, check_finite, kind_of, restore
from ...engine.transforms import refuse
from ...errors import OptionError, ShapeError
from ..cg import CG
from ..checks import columns
from ..implicit import judge
from ..meter import Meter, metering
from ..operator import Dense, cast
from ..solution import Note, Progress, Solution, Status
from ..solve import solve
from ..watch import Watch
from .centers import choose_centers, enough, given_centers, seen_dimension
from .equations import Blocks, KernelFunction, NormalEquations
from .factors import independent, whiten
from .iteration import Iteration
from .plan import FORMS, block_numbers, check_memory, choose_form, memory, most_centers
from .preconditioner import PRECONDITIONERS, Rows, estimate, exact

Tensor = torch.Tensor
ON_FAIL = ("warn", "raise", "ignore")


@dataclass(frozen=True)
class InducingPoints:
    """How to solve with inducing points; `solve` does it.

    Parameters
    ----------
    n_centers : int, optional
        Ignored if ``centers`` is an array. By default 10 sqrt(n), at least 1,000, as far as half of
        ``options.memory_limit`` holds the matrices over them; fewer if the eigenvalues of the kernel
        decay so fast that these determine the same function. ``report.choice`` says why.
    tol : float
        On the residual of the preconditioned system, relative, for every target; it is close to the
        relative error of f in the norm of the objective.
    max_iter : int
    centers : {"uniform", "rpcholesky"} or array of shape (m, D), default "uniform"
        Rows of X drawn uniformly; pivots of randomly pivoted Cholesky on a subsample of X (fewer
        centres for the same accuracy, more time to find them); or given points.
    random_state : int
    form : {"auto", "fused", "normal"}
        "fused" makes two passes of the engine per iteration. "normal" adds up the matrix of the
        system once, block by block in float64; then a step or two do. "auto" compares operations.
    preconditioner : {"sampled", "krill", "falkon"}
        From what the preconditioner of "fused" is made. "sampled": 4 m rows, 4 m^2 entries of the
        kernel and 9 m^3 operations. "krill": 2 m random sums of all rows, n m entries (half an
        iteration), 8 n m additions and 5 m^3 operations; it misses no row, however much depends on
        that one. "falkon": the centres, no entries and m^3 operations, but often several times the
        iterations. ("normal" has the matrix itself.)
    time_limit : float, optional
        Seconds; the best iterate is returned then.

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

    n_centers: int | None = None
    tol: float = 1e-6
    max_iter: int = 100
    centers: Any = "uniform"
    random_state: int = 0
    form: str = "auto"
    preconditioner: str = "sampled"
    time_limit: float | None = None

    def __post_init__(self) -> None:
        m = self.n_centers
        if m is not None and (isinstance(m, bool) or not isinstance(m, int) or m < 1):
            raise OptionError(f"n_centers={m!r}: expected a positive integer, or None to choose.")
        if isinstance(self.centers, str) and self.centers not in ("uniform", "rpcholesky"):
            raise OptionError(f"centers={self.centers!r}: expected 'uniform', 'rpcholesky' or an array.")
        if self.form not in FORMS:
            raise OptionError(f"form={self.form!r}: expected one of {FORMS}.")
        if self.preconditioner not in PRECONDITIONERS:
            raise OptionError(f"preconditioner={self.preconditioner!r}: expected one of {PRECONDITIONERS}.")
        if self.time_limit is not None and not self.time_limit >= 0:
            raise OptionError(f"time_limit={self.time_limit!r}: expected seconds, or None.")
        CG(self.tol, self.max_iter)  # checks these two

    def solve(
        self,
        kernel: KernelFunction,
        X: Any,
        y: Any,
        alpha: Any,
        *,
        sample_weight: Any = None,
        x0: Any = None,
        callback: Callable[[Progress], Any] | None = None,
        on_fail: str = "warn",
    ) -> Solution:
        """Coefficients of the centres.

        Differentiable, to any order, in y, alpha, sample_weight, X, the centres and in whatever tensors
        the kernel is made of: a gradient costs one more solve, with the same factors, and two passes.
        Which rows become centres, and which of them are left out, counts as given.

        Parameters
        ----------
        kernel : callable
            ``kernel(X, Z)`` is the operator of the matrix k(x_i, z_j); positive semi-definite. It may
            close over tensors that require gradients. A kernel that stores its matrices is asked for
            blocks of rows, unless gradients are asked for: then it stores all of Knm.
        X : array of shape (n, D)
        y : array of shape (n,) or (n, E)
            A float64 y gives float64 coefficients, whatever the dtype of X.
        alpha : float, tensor of shape (), or array of shape (p,)
            At least 0. Several alphas are solved together: they share the centres, the factors (by
            eigenvalues, which takes five matrices over the centres instead of three) and all products.
        sample_weight : array of shape (n,), optional
            At least 0.
        x0 : array of the shape of the result for the same centres, optional
            Where to start.
        callback : callable
            Called with a `Progress` for every iteration and every block of preparation; returning True
            stops.
        on_fail : {"warn", "raise", "ignore"}

        Returns
        -------
        Solution
            ``x`` has shape (m,) or (m, E), with several alphas (p, m) or (p, m, E) and ``extra["alphas"]``;
            ``extra["centers"]`` holds the m points it belongs to, ``extra["form"]`` the form chosen.
            Residuals are those of the preconditioned system. ``report.passes`` counts in n m entries.

        Raises
        ------
        ShapeError, DTypeError, DeviceError, OptionError, DataError, SolveError
            OptionError also if the memory that is needed exceeds ``options.memory_limit``.
        BackendUnavailable
            In forward mode and under a transform of `torch.func`.
        """
        if on_fail not in ON_FAIL:
            raise OptionError(f"on_fail={on_fail!r}: expected one of {ON_FAIL}.")
        with metering() as meter, Watch(callback, self.time_limit) as watch:
            task = _Task(self, kernel, X, y, alpha, sample_weight, on_fail)
            found = task.run(x0, _Guard(watch), meter)
        judge(found, on_fail, stacklevel=3)
        return found


class _Ended(Exception):
    """A preparation has no result."""

    def __init__(self, status: Status):
        super().__init__(status.name)
        self.status = status


class _Guard:
    """The watch as a callback that remembers why it stopped the iteration."""

    def __init__(self, watch: Watch):
        self.watch = watch
        self.verdict: Status | None = None

    def __call__(self, progress: Progress) -> bool:
        self.verdict = self.watch.verdict(progress)
        return self.verdict is not None

    def halting(self, progress: Progress) -> None:
        """The same for a preparation."""
        if self(progress) and self.verdict is not None:
            raise _Ended(self.verdict)


class _Task:
    """The data of one solve, checked, and what is decided about them."""

    def __init__(
        self, method: InducingPoints, kernel: KernelFunction, X: Any, y: Any, alpha: Any, w: Any, on_fail: str
    ):
        self.method, self.kernel, self.on_fail = method, kernel, on_fail
        self.X, self.kind_x, self.kind = adopt("X", X), kind_of(X), kind_of(y)
        if self.X.dim() != 2 or self.X.shape[0] == 0:
            raise ShapeError(f"X has shape {tuple(self.X.shape)}; expected (n, D) with n of at least 1.")
        n, self.alpha = len(self.X), adopt("alpha", alpha, dtype=torch.float64, device=self.X.device)
        self.y, self.vector = columns("y", y, (n, n), None, self.X.device)
        refuse("a solve on inducing points", (self.X, self.y, self.alpha))
        _check_alpha(self.alpha)
        self.w = _weights(w, self.X)
        self.choice: list[str] = []
        self.notes: list[Note] = []
        self.Z = self._centers()
        probe = kernel(self.X[:1], self.Z[:1])  # to see what the kernel is made of
        self.stored = isinstance(probe, Dense)
        given = (self.X, self.y, self.w, self.alpha, self.Z, *probe.tensors)
        refuse("a solve on inducing points", given)
        self.differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in given)

    # ------------------------------------------------------------ decisions

    def _centers(self) -> Tensor:
        method, limit = self.method, _options.current().memory_limit
        n, how = len(self.X), method.centers
        given = None if isinstance(how, str) else given_centers(how, self.X)
        with torch.no_grad():
            m = min(n, method.n_centers or self._number(limit)) if given is None else len(given)
            sizes = (n, self.X.shape[1], self.y.shape[-1], m)
            kind, p = method.preconditioner, self.alpha.numel()
            check_memory(memory(*sizes, alphas=p, preconditioner=kind, memory_limit=limit), n, m, limit)
            if given is not None:
                return given
            rows = choose_centers(self.kernel, self.X, m, how, method.random_state)
        return self.X[rows]

    def _number(self, limit: int) -> int:
        n = len(self.X)
        most = most_centers(n, limit, preconditioner=self.method.preconditioner, alphas=self.alpha.numel())
        least = float(self.alpha.min())
        d = seen_dimension(self.kernel, self.X, self.w, least, self.method.random_state + 2)
        if d is None:
            seen = "the effective dimension is more than a subsample shows"
        else:
            wanted = f"for which {enough(d):,} are enough"
            seen = f"the effective dimension is about {d:.0f} at alpha={least:.3g}, {wanted}"
        m = most if d is None else min(most, enough(d))
        self.choice.append(
            f"{m:,} centres: at most {most:,} (10 sqrt(n) within half of the memory_limit of "
            f"{limit / 2**30:.2f} GiB); {seen}."
        )
        return m

    def _form(self) -> str:
        form = self.method.form
        if form == "auto":  # a kernel that stores its matrices is better asked for blocks of them
            n, D = self.X.shape
            targets = self.y.shape[-1] * self.alpha.numel()
            form = "normal" if self.stored else choose_form(n, D, len(self.Z), targets)
            why = "the kernel stores its matrices" if self.stored else "fewer operations"
            self.choice.append(f"form {form!r}: {why}.")
        return form

    # ------------------------------------------------------------ the solve

    def run(self, x0: Any, guard: _Guard, meter: Meter) -> Solution:
        """The solution, in the caller's library."""
        form, dtype = self._form(), self.X.dtype
        level = 1e-6 if form == "fused" and dtype != torch.float64 else 1e-12
        start = None if x0 is None else self._start(x0)
        with torch.set_grad_enabled(self.differentiated):
            X, Z, y = (t if self.differentiated else t.detach() for t in (self.X.double(), self.Z, self.y))
            with torch.no_grad():
                factor = independent(self.kernel(Z.double(), Z.double()), level)
            if factor is None:
                return self._without(Status.nan, Z, form, None, meter)
            T, keep = factor
            if len(keep) < len(Z):
                left = len(Z) - len(keep)
                self.choice.append(f"{left:,} of {len(Z):,} centres left out: the others determine them.")
            Z = Z[keep]
            start = None if start is None else start[..., keep, :]
            if not len(keep):
                self.notes.append(Note("NO_CENTERS", "the kernel vanishes at every centre, so f = 0."))
                return self._without(Status.converged, Z, form, None, meter)
            H = self._equations(X, Z.double())
            wy = H.w.unsqueeze(-1) * y.double()
            try:
                iteration, rhs = self._prepare(H, T, form, wy, guard)
            except _Ended as ended:
                return self._without(ended.status, Z, form, start, meter)
            if rhs is None:
                rhs = H.K.T.matmul(wy, exact=True)
            found = solve(H, rhs, iteration, x0=start, callback=guard, on_fail="ignore")
        if found.status is Status.stopped and guard.verdict is not None:
            found = replace(found, status=guard.verdict)
        return self._delivered(found, Z, form, meter)

    def _equations(self, X: Tensor, Z: Tensor) -> NormalEquations:
        """The system, in float64."""
        blocks = self.stored and not self.differentiated
        K = Blocks(self.kernel, X, Z) if blocks else self.kernel(X, Z)
        w, alpha = (t if self.differentiated else t.detach() for t in (self.w, self.alpha))
        return NormalEquations(K, self.kernel(Z, Z), w, alpha)

    @torch.no_grad()
    def _prepare(
        self, H: NormalEquations, T: Tensor, form: str, wy: Tensor, guard: _Guard
    ) -> tuple[Iteration, Tensor | None]:
        """The method with its factors; the right-hand side where it falls off."""
        method, numbers = self.method, block_numbers(_options.current().memory_limit)
        quick, G, rhs = torch.float64, None, None
        if form == "normal":
            root = H.w.sqrt().unsqueeze(-1)
            targets = None if self.differentiated else root * self.y.double()
            G, rhs = exact(Rows(H.K, H.w, numbers, guard.halting), T, targets)
            S = G
        else:
            quick = self.X.dtype
            work = self._working_dtype(H)
            rows = Rows(cast(H.K, work), H.w, numbers, guard.halting)
            S = estimate(method.preconditioner, rows, T, method.random_state + 1, work)
        if not bool(torch.isfinite(S.diagonal()).all()):
            raise _Ended(Status.nan)
        C = whiten(S, H.alpha)
        return Iteration(method.tol, method.max_iter, T, C, G, quick, self.on_fail), rhs

    def _working_dtype(self, H: NormalEquations) -> torch.dtype:
        """Of the preconditioner: float32 where its rounding errors stay below alpha."""
        bound = float(H.w.sum()) * float(H.Kmm.diag().max())  # of the eigenvalues of G
        safe = float(self.alpha.min()) >= 4 * torch.finfo(torch.float32).eps * bound
        return torch.float32 if self.X.dtype == torch.float32 and safe else torch.float64

    # ------------------------------------------------------------ results

    def _start(self, x0: Any) -> Tensor:
        """x0 with all its axes."""
        t = adopt("x0", x0, dtype=torch.float64, device=self.X.device).detach()
        shape = (*self.alpha.shape, len(self.Z), *(() if self.vector else self.y.shape[1:]))
        if t.shape != shape:
            raise ShapeError(f"x0 has shape {tuple(t.shape)}; expected {shape}, as the result has.")
        return t.unsqueeze(-1) if self.vector else t

    def _without(self, status: Status, Z: Tensor, form: str, start: Tensor | None, meter: Meter) -> Solution:
        """What is returned if there has been no iteration."""
        shape = (*self.alpha.shape, len(Z), self.y.shape[-1])
        x = torch.zeros(shape, dtype=torch.float64, device=Z.device) if start is None else start
        norms = x.new_full((*self.alpha.shape, shape[-1]), 0.0 if status is Status.converged else 1.0)
        if status is Status.nan:
            x, norms = torch.full_like(x, torch.nan), torch.full_like(norms, torch.nan)
        return self._delivered(
            Solution(x, status, 0, norms, norms[None], 0, "InducingPoints"), Z, form, meter
        )

    def _delivered(self, s: Solution, Z: Tensor, form: str, meter: Meter) -> Solution:
        pieces = {"x": s.x.to(self.y.dtype), "residual_norms": s.residual_norms, "history": s.history}
        if self.vector:
            pieces = {name: t.squeeze(-1) for name, t in pieces.items()}
        text = {"sampled": "rows drawn uniformly", "krill": "random sums of all rows", "falkon": "centres"}
        report = replace(
            s.report,
            choice=tuple(self.choice),
            preconditioner="the matrix itself" if form == "normal" else text[self.method.preconditioner],
            passes=meter.passes(float(len(self.X) * max(1, len(Z)))),
            seconds={**meter.seconds, "total": meter.elapsed},
            notes=(*s.report.notes, *self.notes),
        )
        extra = {**s.extra, "alphas": self.alpha.detach()} if self.alpha.dim() else s.extra
        extra = {**extra, "centers": restore(Z, self.kind_x), "form": form}
        found = {name: restore(t, self.kind) for name, t in pieces.items()}
        return replace(s, report=report, extra=extra, **found)


def _check_alpha(alpha: Tensor) -> None:
    if alpha.dim() > 1 or alpha.numel() == 0:
        raise ShapeError(f"alpha has shape {tuple(alpha.shape)}; expected a number or (p,) of them.")
    values = alpha.detach()
    if not bool(((values >= 0) & torch.isfinite(values)).all()):
        raise OptionError(f"alpha={values.tolist()}: expected finite numbers of at least 0.")


def _weights(sample_weight: Any, X: Tensor) -> Tensor:
    n = X.shape[0]
    if sample_weight is None:
        return torch.ones(n, dtype=torch.float64, device=X.device)
    w = adopt("sample_weight", sample_weight, dtype=torch.float64, device=X.device)
    if w.shape != (n,):
        raise ShapeError(
            f"sample_weight has shape {tuple(w.shape)}; expected ({n},), one number for each row of X."
        )
    check_finite("sample_weight", w.detach())
    if bool((w.detach() < 0).any()):
        raise OptionError(
            f"sample_weight has negative entries, the least is {float(w.min())}; expected >= 0."
        )
    return w
