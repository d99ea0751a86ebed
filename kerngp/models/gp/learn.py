"""Learning hyperparameters: by factorisation on few rows, in stages of growing subsets on many.

Where the optimum is, and how curved the evidence is there, hardly depends on which rows one looks at: a few
thousand of them say nearly everything, in seconds. The last stage looks at all rows, and starts so close
that a handful of evaluations is enough; what it knows of the curvature it takes from the stage before.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from ..hyperparameters import Hyperparameters
from .ascent import ascend, updated
from .dense import dense_evidence
from .evidence import Evidence, Objective
from .matrix_free import MatrixFreeEvidence
from .maximise import maximise
from .plan import GPPlan

Tensor = torch.Tensor

Part = Callable[[np.ndarray, bool], Objective]

LAST_STEPS = 5  # evaluations on all rows, at least
MIDDLE_STEPS = 10  # evaluations on a stage between, at most
START_TOLERANCE = 1e-4  # of the search on the subset, relative: a fraction of a nat
GROWTH = 8  # of rows from stage to stage, above which there is one between


@dataclass(frozen=True)
class Step:
    """One evaluation of the evidence.

    Attributes
    ----------
    rows : int
        Of the data that were looked at.
    theta : ndarray of shape (p,)
    value, standard_error : float
    seconds : float
    products : int
        Passes over the matrix of these rows.
    """

    rows: int
    theta: np.ndarray
    value: float
    standard_error: float
    seconds: float
    products: int


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes
    ----------
    h : Hyperparameters
    evidence : Evidence
        At h, of all rows.
    history : tuple of Step
    converged : bool
    """

    h: Hyperparameters
    evidence: Evidence
    history: tuple[Step, ...]
    converged: bool


class _Stopped(Exception):
    """The callback has asked to stop."""


class _Record:
    """An objective whose evaluations are kept."""

    def __init__(self, callback: Callable[[Step], Any] | None):
        self.callback = callback
        self.steps: list[Step] = []
        self.best: tuple[Hyperparameters, Evidence] | None = None
        self.gradients: list[tuple[np.ndarray, np.ndarray]] = []

    def stage(self) -> None:
        """Forget what was found on other rows; the steps are kept."""
        self.best, self.gradients = None, []

    def watch(self, objective: Objective) -> Objective:
        """The objective, with every evaluation recorded and reported."""

        def evaluate(h: Hyperparameters, gradient: bool) -> Evidence:
            start = time.perf_counter()
            e = objective(h, gradient)
            theta = np.array(h.theta)
            seconds = time.perf_counter() - start
            step = Step(e.rows, theta, e.value, e.standard_error, seconds, e.products)
            self.steps.append(step)
            if not e.failed and (self.best is None or e.value > self.best[1].value):
                self.best = h, e
            if not e.failed and e.gradient is not None:
                self.gradients.append((theta, e.gradient))
            if self.callback is not None and self.callback(step):
                raise _Stopped
            return e

        return evaluate

    def curvature(self) -> np.ndarray:
        """Minus the second derivatives at the best theta, from the gradients around it."""
        assert self.best is not None
        theta, e = self.best
        theta, p = theta.theta, len(theta.theta)
        pairs = [(theta - t, g - e.gradient) for t, g in self.gradients]
        pairs = [(s, y) for s, y in pairs if s @ y > 0]
        pairs = sorted(pairs, key=lambda pair: -float(pair[0] @ pair[0]))[-2 * p :]  # the nearest ones last
        scale = float(pairs[-1][1] @ pairs[-1][1] / (pairs[-1][0] @ pairs[-1][1])) if pairs else 1.0
        return updated(scale * np.eye(p), pairs)


def learn(
    h: Hyperparameters,
    X: Any,
    Y: np.ndarray,
    alpha: float | np.ndarray,
    plan: GPPlan,
    *,
    objective: Objective | None = None,
    part: Part | None = None,
    optimizer: Any = "fmin_l_bfgs_b",
    n_restarts: int = 0,
    random_state: Any = None,
    max_iter: int = 20,
    callback: Callable[[Step], Any] | None = None,
) -> Learned:
    """The hyperparameters of largest evidence.

    Parameters
    ----------
    h : Hyperparameters
        Where to start.
    X : Tensor of shape (n, d); for a dense plan whatever the kernel takes
    Y : ndarray of shape (n, t)
    alpha : float or ndarray of shape (n,)
    plan : GPPlan
    objective : Objective, optional
        The evidence of all rows, if the caller has it already.
    part : callable (rows, dense) -> Objective, optional
        The evidence of some rows, an array of their numbers, by factorisation or from products; default that
        of regression with Gaussian noise.
    optimizer : "fmin_l_bfgs_b" or callable
        See `maximise`. A callable is given the evidence of all rows, whatever their number.
    n_restarts : int
        Further searches from random places; of many rows, on the subset.
    random_state : int, RandomState or None
        Chooses places of restarts and rows of subsets.
    max_iter : int
        Most evaluations on all rows; for a dense plan the optimizer decides.
    callback : callable, optional
        Called with every `Step`; learning ends with the best theta so far if it returns True.

    Raises
    ------
    OptionError
        See `maximise`.

    Warns
    -----
    ConvergenceWarning
        If the search did not converge, or solves failed on the way.

    Examples
    --------
    >>> from sklearn.gaussian_process.kernels import RBF, WhiteKernel
    >>> from kerngp.models.resolve import hyperparameters
    >>> from kerngp.models.gp.plan import make_gp_plan
    >>> X = np.linspace(0, 6, 50)[:, None]
    >>> h = hyperparameters(RBF() + WhiteKernel(0.1), 1)
    >>> found = learn(h, X, np.sin(X), 1e-6, make_gp_plan(50, 1, hyperparameters=2))
    >>> found.history[-1].rows, found.evidence.value > found.history[0].value
    (50, True)
    """
    record = _Record(callback)
    rng = check_random_state(random_state)
    if objective is None:
        objective = _objective(X, Y, alpha, plan.dense, plan.probes)
    whole = record.watch(objective)
    converged = True
    try:
        if plan.dense or callable(optimizer):
            value = _values(h, whole)
            options = {"optimizer": optimizer, "n_restarts": n_restarts, "random_state": rng}
            theta, _ = maximise(value, h.theta, h.bounds, **options)
            found = record.best
            if found is None or not np.array_equal(found[0].theta, theta):
                found = h.at(theta), objective(h.at(theta), False)
        else:
            if part is None:
                part = _regression(X, Y, alpha, plan.probes)
            start, curvature = _start(h, len(Y), part, plan, record, n_restarts, rng, optimizer)
            record.stage()
            end = ascend(whole, start, curvature, least=LAST_STEPS, most=max_iter)
            found, converged = (end.h, end.evidence), end.converged
    except _Stopped:
        found = record.best
    if found is None or found[1].rows != len(Y):  # stopped before all rows were looked at
        best = h if found is None else found[0]
        found = best, objective(best, False)
    if not plan.dense:
        _judge(found[1], record.steps, converged, max_iter)
    return Learned(*found, tuple(record.steps), converged)


def _start(
    h: Hyperparameters,
    n: int,
    part: Part,
    plan: GPPlan,
    record: _Record,
    n_restarts: int,
    rng: np.random.RandomState,
    optimizer: str,
) -> tuple[Hyperparameters, np.ndarray]:
    """Where the stage of all rows starts, and minus the second derivatives it has to expect."""
    order = rng.permutation(n)
    rows = plan.subset
    value = _values(h, record.watch(part(order[:rows], True)))
    options = {"optimizer": optimizer, "n_restarts": n_restarts, "random_state": rng}
    theta, _ = maximise(value, h.theta, h.bounds, ftol=START_TOLERANCE, **options)
    h = h.at(theta)
    curvature = record.curvature() if record.best else np.eye(len(theta))
    while rows * GROWTH < n:
        more = min(n, round(rows * min(GROWTH, (n / rows) ** 0.5)))
        record.stage()
        end = ascend(
            record.watch(part(order[:more], False)), h, curvature * (more / rows), least=1, most=MIDDLE_STEPS
        )
        h, curvature, rows = end.h, end.curvature, more
    return h, curvature * (n / rows)


def _regression(X: Tensor, Y: np.ndarray, alpha: float | np.ndarray, probes: int) -> Part:
    def part(some: np.ndarray, dense: bool) -> Objective:
        a = np.asarray(alpha)[some] if np.ndim(alpha) else alpha
        return _objective(X[torch.as_tensor(some, device=X.device)], Y[some], a, dense, probes)

    return part


def _objective(X: Any, Y: np.ndarray, alpha: float | np.ndarray, dense: bool, probes: int) -> Objective:
    if dense:
        return lambda h, gradient: dense_evidence(h, X, Y, alpha, gradient)
    return MatrixFreeEvidence(X, Y, alpha, probes=probes)


def _values(h: Hyperparameters, objective: Objective) -> Callable[[np.ndarray, bool], Any]:
    def value(theta: np.ndarray, gradient: bool) -> tuple[float, np.ndarray | None]:
        e = objective(h.at(theta), gradient)
        return e.value, e.gradient

    return value


def _judge(evidence: Evidence, steps: list[Step], converged: bool, max_iter: int) -> None:
    """Say what went wrong, and what to do."""
    if evidence.failed:
        why = " ".join(note.text for note in evidence.notes)
        text = f"the hyperparameters that learning started from have no log marginal likelihood: {why}"
    elif not converged:
        failed = sum(not np.isfinite(s.value) for s in steps if s.rows == evidence.rows)
        solves = f", {failed} of them without a value" if failed else ""
        text = (
            f"learning ended after max_iter={max_iter} evaluations on {evidence.rows:,} rows{solves}, before "
            "hyperparameters had settled; raise max_iter, or start from those found (kernel_)."
        )
    else:
        return
    warnings.warn(text[0].upper() + text[1:], ConvergenceWarning, stacklevel=4)
