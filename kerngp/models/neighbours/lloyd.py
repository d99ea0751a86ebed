"""k-means: first centers, and Lloyd's iterations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch

from ...engine.expr import Vi, Vj
from ...engine.mapreduce import map_reduce
from ...engine.ops import sqdist
from ...engine.reductions import ARGMIN
from ...solvers import Progress, Status
from ...solvers.watch import Watch
from .search import exact_options

Tensor = torch.Tensor

BLOCK = 1 << 16  # rows of which copies are made


@dataclass(frozen=True)
class Clustering:
    """The end of one run. ``labels`` are those of ``centers``; ``stopped`` says that a callback ended it."""

    labels: Tensor
    centers: Tensor
    inertia: float
    iterations: int
    stopped: bool = False


def nearest_center(X: Tensor, centers: Tensor) -> Tensor:
    """The number of each row's nearest center, the first of equally near ones; int64."""
    dim = X.shape[1]
    out = map_reduce(sqdist(Vi(0, dim), Vj(1, dim)), ARGMIN, (X, centers), options=exact_options(X.device))
    assert isinstance(out, Tensor)
    return out[:, 0]


def inertia(X: Tensor, weight: Tensor, centers: Tensor, labels: Tensor) -> float:
    """The weighted sum of squared distances to the centers."""
    parts = [(_to_own(X[b], centers, labels[b]) * weight[b]).sum() for b in _blocks(X)]
    return float(torch.stack(parts).sum())


def plus_plus(X: Tensor, weight: Tensor, k: int, random: np.random.RandomState) -> Tensor:
    """First centers by k-means++: each of the best of 2 + log k rows, drawn by their squared distances.

    The draws are those of `sklearn.cluster.kmeans_plusplus`.

    References
    ----------
    Arthur and Vassilvitskii, k-means++: the advantages of careful seeding, 2007.
    """
    trials, norms = 2 + int(np.log(k)), torch.einsum("nd,nd->n", X, X)
    chosen = [_draw(random, weight, 1, replace=True)[0]]
    closest = _squared(X[chosen], X, norms)[0]
    for _ in range(1, k):
        mass = torch.cumsum(weight * closest, 0)
        target = torch.from_numpy(random.uniform(size=trials)).to(mass) * torch.dot(weight, closest)
        rows = torch.searchsorted(mass, target).clamp_max(len(X) - 1)
        candidates = torch.minimum(_squared(X[rows], X, norms), closest)
        best = int(torch.argmin(candidates @ weight))
        closest = candidates[best]
        chosen.append(int(rows[best]))
    return X[chosen]


def random_rows(X: Tensor, weight: Tensor, k: int, random: np.random.RandomState) -> Tensor:
    """k rows drawn without replacement, with probabilities proportional to the weights."""
    return X[_draw(random, weight, k, replace=False)]


def run(
    X: Tensor,
    weight: Tensor,
    centers: Tensor,
    *,
    max_iter: int,
    tol: float,
    callback: Callable[[Progress], Any] | None,
    report: Callable[[str], None] | None,
) -> Clustering:
    """Lloyd's iterations: to the nearest center, to the mean; until no label changes, or hardly a center.

    Parameters
    ----------
    X : Tensor of shape (n, D)
    weight : Tensor of shape (n,)
    centers : Tensor of shape (k, D)
    max_iter : int
    tol : float
        Of the sum of the squared moves of the centers.
    callback : callable, optional
        Told the root of that sum as the residual.
    report : callable, optional
        Called with a line of text for every iteration.
    """
    labels, settled, stopped, done = None, False, False, 0
    with Watch(callback) as watch:
        for done in range(1, max_iter + 1):
            before, labels = labels, nearest_center(X, centers)
            moved = _means(X, weight, centers, labels)
            if report:
                report(f"Iteration {done - 1}, inertia {inertia(X, weight, centers, labels)}.")
            shift, centers = float(((moved - centers) ** 2).sum()), moved
            settled = before is not None and bool(torch.equal(before, labels))
            if settled or shift <= tol:
                if report:
                    why = "strict convergence" if settled else f"center shift {shift} within tolerance {tol}"
                    report(f"Converged at iteration {done - 1}: {why}.")
                break
            progress = Progress(done, max_iter, torch.tensor([shift**0.5]), 1)
            if watch.verdict(progress) is Status.stopped:
                stopped = True
                break
    if labels is None or not settled:
        labels = nearest_center(X, centers)
    return Clustering(labels, centers, inertia(X, weight, centers, labels), done, stopped)


def _means(X: Tensor, weight: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """The means of the clusters; an empty one is put where a point is far from its center."""
    k = len(centers)
    sums, mass = _segment_sums(X, weight, labels, k)
    empty = torch.nonzero(mass == 0).reshape(-1)
    if len(empty):
        far = torch.cat([_to_own(X[b], centers, labels[b]) for b in _blocks(X)])
        distance, rows = torch.topk(far, len(empty))
        if float(distance[0]) > 0:
            moved, w = X[rows].double(), weight[rows].double()
            sums.index_add_(0, labels[rows], -moved * w.unsqueeze(-1))
            mass.index_add_(0, labels[rows], -w)
            sums[empty], mass[empty] = moved * w.unsqueeze(-1), w
    # what is empty still (more clusters than different points) goes to the heaviest one
    sums, mass = _filled(sums, mass)
    return (sums / mass.unsqueeze(-1)).to(X.dtype)


def _filled(sums: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    heaviest = torch.argmax(mass)
    place = torch.where(mass > 0, torch.arange(len(mass), device=mass.device), heaviest)
    return sums[place], mass[place]


def _segment_sums(X: Tensor, weight: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Weighted sums of the rows of each label, and sums of weights, in float64."""
    mass = torch.bincount(labels, weight.double(), minlength=k)
    sums = torch.zeros(k, X.shape[1], dtype=torch.float64, device=X.device)
    for b in _blocks(X):
        rows = X[b].double()
        if X.device.type == "cpu":  # SciPy's product is many times quicker than torch's scattered sums
            n = len(rows)
            entries = (weight[b].double().numpy(), labels[b].numpy(), np.arange(n + 1))
            members = scipy.sparse.csr_array(entries, shape=(n, k))
            sums += torch.from_numpy(members.T @ rows.numpy())
        else:
            sums.index_add_(0, labels[b], rows * weight[b].double().unsqueeze(-1))
    return sums, mass


def _to_own(X: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """Squared distances of rows to the centers of their labels."""
    return ((X - centers[labels]) ** 2).sum(1, dtype=torch.float64)


def _squared(A: Tensor, X: Tensor, norms: Tensor) -> Tensor:
    """Squared distances (len(A), n) by inner products, of data near the origin."""
    own = torch.einsum("nd,nd->n", A, A).unsqueeze(-1)
    return torch.addmm(own + norms, A, X.T, alpha=-2.0).clamp_min(0)


def _draw(random: np.random.RandomState, weight: Tensor, size: int, replace: bool) -> list[int]:
    p = weight.cpu().numpy()
    found = random.choice(len(p), size=None if replace else size, replace=replace, p=p / p.sum())
    return np.atleast_1d(found).tolist()


def _blocks(X: Tensor) -> Iterator[slice]:
    return (slice(i, i + BLOCK) for i in range(0, len(X), BLOCK))
