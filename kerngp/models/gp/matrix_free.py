"""The log marginal likelihood from products alone: memory linear in the rows.

With Vecchia's factor L of A (L'L close to A^-1), B = L A L' and random signs z

    y' A^-1 y = x'(y + r) + (L r)' B^-1 (L r)               x from the last call, r = y - A x
    log det A = log det (L'L)^-1 + mean of z' (log B - c B) z + c n
    trace(A^-1 dA) = mean of z' (B^-1 - c) L dA L' z + c trace(L dA L')

One Lanczos process on all of L r and z gives everything but the derivatives, which one more pass adds up.
Two traces are known exactly and take most of the variance away: that of B is n, and that of L dA L', which is
the derivative of log det (L'L)^-1 (L minimises trace(L A L') - log det L'L), is a sum over neighbours.
The coefficient c is that of least squares. The signs stay the same from call to call, so that differences
of values know little of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ... import options as _options
from ...errors import KerngpError, OptionError, SolveError
from ...solvers import AddedDiagonal, Diagonal, LinearOperator, Note, Vecchia
from ...solvers.functions.congruence import Congruence, check_positive
from ...solvers.functions.estimate import rademacher
from ...solvers.functions.lanczos import Krylov, in_groups
from ...solvers.functions.logdet import quadrature
from ...solvers.functions.trace import coefficients
from ...solvers.preconditioners.vecchia import VecchiaInverse
from ..hyperparameters import Hyperparameters
from ..kernel_base import Kernel
from ..kernel_matrix import kernel_matrix
from .evidence import Evidence, no_evidence

Tensor = torch.Tensor

MOVED = 0.5  # neighbours are searched anew when a hyperparameter has changed by this factor (a logarithm)
FEWEST_STEPS = 20  # of the Lanczos process that all columns do together, whatever the memory limit
ROUNDING_ROWS, ROUNDING_COLUMNS = 32, 2048  # entries that float32 and float64 are compared at
LOOSER = 10.0  # times tol: for random vectors, whose solutions are multiplied with noise anyway
CHUNK = 1 << 24  # numbers of gathered points at a time


class MatrixFreeEvidence:
    """The evidence of one data set, to be evaluated at many thetas that are near each other.

    It keeps random signs, neighbours, the factor and the last solution. Products are float32 where the
    rounding of entries changes the value by less than 50 tol, float64 otherwise.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Computed on its device.
    Y : ndarray or Tensor of shape (n, t) or (n,)
    alpha : float or array of shape (n,)
        Added to the diagonal.
    probes : int or Tensor of shape (n, s)
        Number of random signs, at least 2; or vectors to take their place, whose outer products are the
        identity on average.
    neighbours : int
        See `kerngp.solvers.Vecchia`.
    tol : float
        On relative residuals of the solves, in the preconditioned norm. Values have errors of the order of
        its square, relative to the number of rows.
    max_iter : int
        Most products of a solve.
    random_state : int

    References
    ----------
    Gardner, Pleiss, Bindel, Weinberger, Wilson, GPyTorch, 2018; Wenger and others, Preconditioning for
    scalable Gaussian process hyperparameter optimization, 2022; Lin and others, Improving linear system
    solvers for hyperparameter optimisation in iterative Gaussian processes, 2024.
    """

    def __init__(
        self,
        X: Tensor,
        Y: np.ndarray | Tensor,
        alpha: float | np.ndarray,
        *,
        probes: int | Tensor = 16,
        neighbours: int = 30,
        tol: float = 0.02,
        max_iter: int = 100,
        random_state: int = 0,
    ):
        n = len(X)
        self.X, self.tol, self.max_iter = X.detach(), tol, max_iter
        self.Y = torch.as_tensor(Y, dtype=torch.float64, device=X.device).reshape(n, -1)
        self.alpha = torch.as_tensor(alpha, dtype=torch.float64, device=X.device).reshape(-1).expand(n)
        if isinstance(probes, int):
            if probes < 2:
                raise OptionError(f"probes={probes}: expected at least 2, whose spread is the error.")
            probes = rademacher((n, probes), random_state, X.device)
        self.Z = probes.to(X.device, torch.float64)
        self.recipe = Vecchia(neighbours, random_state=random_state)
        self.factor: VecchiaInverse | None = None
        self._searched: np.ndarray | None = None  # the theta that neighbours were found at
        self._dual: Tensor | None = None

    def __call__(self, h: Hyperparameters, gradient: bool = False, *, tol: float | None = None) -> Evidence:
        """The evidence at a theta.

        Parameters
        ----------
        h : Hyperparameters
            With a formula.
        gradient : bool
        tol : float, optional
            Instead of that of the constructor.

        Returns
        -------
        Evidence
            Of value -inf, with a note, if the matrix is not positive definite or a solve did not reach
            ``tol``.
        """
        tol = self.tol if tol is None else tol
        with torch.no_grad():
            try:
                job, found = self._run(h, tol)
            except KerngpError as error:
                return no_evidence(h, len(self.X), Note("NO_EVIDENCE", str(error)))
            if found.residual > tol:
                text = (
                    f"{found.products} products left a relative residual of {found.residual:.1e}, more than "
                    f"{tol:.0e}; a larger alpha or more white noise makes solves easier."
                )
                note = Note("UNFINISHED_SOLVE", text)
                return no_evidence(h, len(self.X), note, products=found.products)
        self._dual = found.dual
        return Evidence(
            value=float(found.samples.mean()),
            gradient=job.slope(h, found) if gradient else None,
            dual=found.dual,
            rows=len(self.X),
            standard_error=found.error,
            samples=found.samples.cpu().numpy(),
            residual=found.residual,
            products=found.products,
        )

    def _run(self, h: Hyperparameters, tol: float) -> tuple[_Job, _Found]:
        """With float32 products if they will do, with float64 ones otherwise, or if the others went wrong."""
        kernel = h.formula()
        A = self._operator(kernel, torch.float64)
        low = self._operator(kernel, torch.float32)
        self.factor = factor = self._factor(A, h.theta)
        if _float32_will_do(A, low, tol):
            job = _Job(Congruence(low, factor, factor.root(), False), factor, self, self.X.float(), tol)
            try:
                return job, job.run(*self._start(job.B))
            except SolveError:  # rounding may have made a small eigenvalue negative
                pass
        job = _Job(Congruence(A, factor, factor.root(), True), factor, self, self.X.double(), tol)
        return job, job.run(*self._start(job.B))

    def _operator(self, kernel: Kernel, dtype: torch.dtype) -> LinearOperator:
        return kernel_matrix(kernel, self.X.to(dtype)) + Diagonal(self.alpha.to(dtype))

    def _factor(self, A: LinearOperator, theta: np.ndarray) -> VecchiaInverse:
        """Of the neighbours at hand, as long as they were found near by."""
        at = self._searched
        near = at is not None and len(at) == len(theta) and np.abs(theta - at).max(initial=0) <= MOVED
        if self.factor is not None and near:
            return self.factor.refresh(A)
        self._searched = np.array(theta)
        return self.recipe.build(A)

    def _start(self, B: Congruence) -> tuple[Tensor, Tensor, int]:
        """The last solution, if it is better than nothing; its residual; how many products that took."""
        nothing = torch.zeros_like(self.Y), self.Y
        if self._dual is None:
            return *nothing, 0
        R = self.Y - B.times_A(self._dual)
        better = bool((B.left(R).norm(dim=-2) < B.left(self.Y).norm(dim=-2)).all())
        return (self._dual, R, 1) if better else (*nothing, 1)


def _float32_will_do(A: LinearOperator, low: LinearOperator, tol: float) -> bool:
    """Whether rounding the entries, by E, changes c'Ec for c = A^-1 y by little: |c|^2 is up to n / least(D).

    The norm of E is about twice sqrt(n) times the size of its entries, which are measured.
    """
    n = A.shape[-1]
    some = torch.linspace(0, n - 1, min(n, ROUNDING_ROWS), device=A.device).long()
    others = torch.linspace(0, n - 1, min(n, ROUNDING_COLUMNS), device=A.device).long()
    error = float((A.rows(some, others) - low.rows(some, others).double()).square().mean().sqrt())
    least = float(A.values.min()) if isinstance(A, AddedDiagonal) else 0.0
    return error * n <= 50 * tol * least and 20 * math.sqrt(n) * error <= least


@dataclass(frozen=True)
class _Found:
    """What the Lanczos process gave.

    ``samples`` are the values that each z alone would give, ``solved`` is L' B^-1 z, ``c`` the coefficients.
    """

    samples: Tensor
    error: float
    dual: Tensor
    solved: Tensor
    c: Tensor
    residual: float
    products: int


@dataclass(frozen=True)
class _Job:
    """One evaluation."""

    B: Congruence
    factor: VecchiaInverse
    data: MatrixFreeEvidence
    x: Tensor
    tol: float

    def run(self, x0: Tensor, R: Tensor, products: int) -> _Found:
        """Value and solutions, the solves starting at x0, where the residual is R."""
        Y, Z, (n, t) = self.data.Y, self.data.Z, self.data.Y.shape
        size = torch.cat([self.B.left(Y), Z], -1).norm(dim=-2)
        size = torch.where(size > 0, size, 1.0)
        size[t:] *= LOOSER
        start = torch.cat([self.B.left(R), Z], -1) / size
        parts: list[tuple[Tensor, ...]] = []
        for krylov in in_groups(self.B, start, self._steps(start), self._enough):
            theta, V = krylov.eigh()
            check_positive("the evidence", theta)
            logs, gaps = quadrature(krylov, theta, V, None)
            doubts = quadrature(krylov, theta, V, None, torch.reciprocal)[1]
            forms = krylov.norms.square() * (V[..., 0, :].square() / theta).sum(-1)
            first = krylov.norms.square() * krylov.alpha[..., 0]  # of B itself
            left = krylov.residuals((theta, V)) * krylov.norms
            x = krylov.apply(torch.reciprocal, (theta, V))
            parts.append((x, logs, gaps, forms, doubts, first, left))
            products += krylov.steps
        columns = (torch.cat(p, -1) for p in zip(*parts, strict=True))
        solved, logs, gaps, forms, doubts, first, left = columns
        solved, square = self.B.right(solved * size), size.square()
        quadratic = float((forms * square)[:t].sum() + (x0 * (Y + R)).sum())
        logs, known = (logs * square)[t:], (first * square)[t:] - n
        # of a factor that is as good as exact nothing is left but rounding, from which no c can be learned
        rounding = 100 * torch.finfo(self.B.A.torch_dtype).eps * n
        c = coefficients(logs[None], torch.where(known.abs() > rounding, known, 0.0)[None])[0]
        offset = float(self.factor.logdet()) + n * math.log(2 * math.pi)
        samples = -0.5 * (quadratic + t * (logs - c * known + offset))
        truncation = 0.5 * (t * float((gaps * square)[t:].mean()) + float((doubts * square)[:t].sum()))
        return _Found(
            samples=samples,
            error=math.hypot(float(samples.std()) / math.sqrt(len(samples)), truncation),
            dual=x0 + solved[:, :t],
            solved=solved[:, t:],
            c=c,
            residual=float(left.max()),
            products=products,
        )

    def _steps(self, start: Tensor) -> int:
        """As many steps as all columns can do together within the memory limit."""
        fit = _options.current().memory_limit // (8 * start.numel()) - 1
        return min(self.data.max_iter, max(FEWEST_STEPS, fit))

    def _enough(self, krylov: Krylov) -> bool:
        """Whether residuals are below the tolerance, relative to L y and to z, which have norm 1 here."""
        theta, V = krylov.eigh()
        left = krylov.residuals((theta, V)) * krylov.norms
        return bool((theta[..., 0] <= 0).any()) or bool((left <= self.tol).all())

    def slope(self, h: Hyperparameters, found: _Found) -> np.ndarray:
        """The gradient by theta."""
        t, s = self.data.Y.shape[1], self.data.Z.shape[1]
        if not len(h.theta):
            return np.zeros(0)
        W = self.B.right(self.data.Z)
        U = torch.cat([0.5 * found.dual, (-0.5 * t / s) * (found.solved - found.c * W)], -1)
        W = torch.cat([found.dual, W], -1).to(self.x.dtype)
        total = self._form(h, lambda kernel: (U * kernel_matrix(kernel, self.x).matmul(W).double()).sum())
        weight = -0.5 * t * float(found.c.mean())
        return (total + weight * self._known(h)).cpu().numpy()

    def _known(self, h: Hyperparameters) -> Tensor:
        """trace(L dA L'), from the neighbours of each point."""
        n, d = self.x.shape
        own = torch.arange(n, device=self.x.device).unsqueeze(-1)
        parents = self.factor.parents.long()
        idx = torch.cat([torch.where(parents >= 0, parents, own), own], -1)
        rows = self.factor.weights.to(self.x.dtype).unsqueeze(-1)
        total = torch.zeros(len(h.theta), dtype=torch.float64, device=self.x.device)
        for i in torch.arange(n, device=self.x.device).split(max(1, CHUNK // (idx.shape[1] * d))):
            points, w = self.x[idx[i]], rows[i]
            total += self._form(
                h, lambda kernel, points=points, w=w: (kernel_matrix(kernel, points).matmul(w) * w).sum()
            )
        return total

    def _form(self, h: Hyperparameters, form: Callable) -> Tensor:
        """The gradient by theta of a function of the kernel."""
        theta = torch.tensor(h.theta, dtype=torch.float64, device=self.x.device, requires_grad=True)
        with torch.enable_grad():
            value = form(h.formula(theta))
            (slope,) = torch.autograd.grad(value, theta, allow_unused=True, materialize_grads=True)
        return slope
