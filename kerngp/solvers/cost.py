"""What a solve would cost: the rates of this machine, and arithmetic on a few measured numbers.

Seconds are predicted from five rates that are measured once, from the time of one product with the
matrix in question, and from iteration counts (`race.py`). Everything here but `machine` and `measured` is
pure: the same numbers give the same decision.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .coordinates import coordinates
from .neighbours import TREE_DIMENSIONS
from .operator import AddedDiagonal, Dense, LinearOperator
from .preconditioners import Identity, LowRankInverse, RPCholesky, Vecchia, VecchiaInverse

Tensor = torch.Tensor
ENTRY = 40  # an entry that is stored costs about this much of one that is summed at once
TREE = 300  # operations to find one neighbour by a tree
GATHER = 0.6  # times that, in many small matrices, which stay in the cache
FEW_DIMENSIONS = 3  # where neighbours tell nearly everything
SELECTION = 3  # products that a search among all pairs costs
INSPECTION = 50  # iterations between two true residuals


@dataclass(frozen=True)
class Machine:
    """Rates of one device.

    Attributes
    ----------
    gemm, cholesky, small : float
        Operations a second in float64: of large products, of a large factorisation, of many small ones.
    stream : float
        Bytes a second that a product with a stored matrix reads.
    """

    gemm: float
    cholesky: float
    small: float
    stream: float


@functools.cache
def machine(device: str = "cpu") -> Machine:
    """The rates of a device, measured when they are first asked for (some hundredths of a second)."""
    like: dict[str, Any] = {"dtype": torch.float64, "device": device}
    n, m, batch = 768, 31, 256
    A = torch.ones(n, n, **like) + n * torch.eye(n, **like)
    blocks = (torch.ones(m, m, **like) + m * torch.eye(m, **like)).repeat(batch, 1, 1)
    tall, v = torch.ones(8192, 1024, **like), torch.ones(1024, 1, **like)

    def rate(work: float, call: Callable[[], Any]) -> float:
        return work / min(timed(call, A.device) for _ in range(3))

    return Machine(
        gemm=rate(2.0 * n**3, lambda: A @ A),
        cholesky=rate(n**3 / 3, lambda: torch.linalg.cholesky_ex(A)),
        small=rate(batch * m**3 / 3, lambda: torch.linalg.cholesky_ex(blocks)),
        stream=rate(8.0 * tall.numel(), lambda: tall @ v),
    )


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a call takes, its work on a GPU included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Workload:
    """The system in numbers.

    Attributes
    ----------
    n, columns, itemsize : int
        Unknowns, right-hand sides, bytes of an entry.
    product, exact : float
        Seconds of one product, and of one true residual.
    memory : int
        Bytes that a stored matrix or factor may take.
    batch : int
        Matrices side by side.
    stored : bool
        Whether entries are there already.
    dimensions : int, optional
        Of the points, if K depends on their distances alone.
    """

    n: int
    columns: int
    itemsize: int
    product: float
    exact: float
    memory: int
    batch: int = 1
    stored: bool = False
    dimensions: int | None = None

    @property
    def entry(self) -> float:
        """Seconds to compute and store one entry."""
        return (1 if self.stored else ENTRY) * self.product / max(1, self.batch * self.n**2)


@dataclass(frozen=True)
class Family:
    """A kind of preconditioner with a size: what it costs, and how one is made.

    Attributes
    ----------
    name, unit : str
        "RPCholesky", "rank".
    recipe : callable
        (size, random_state) to a recipe; None for no preconditioner.
    setup, apply : callable
        Seconds, of (machine, workload, size).
    memory : callable
        Bytes, of (workload, size).
    raced : callable
        The sizes to try on a subsample of so many rows, the one that tells most first.
    sizes : tuple of int
        Those to choose among.
    size_of : callable
        The size of a preconditioner of this kind, None for others.
    growth : float
        Iterations grow with this power of n at the same alpha / n.
    measured : bool
        Whether that power differs much from system to system, so that the race should measure it.
    """

    name: str
    unit: str
    recipe: Callable[[int, int], Any] | None
    setup: Callable[[Machine, Workload, int], float]
    apply: Callable[[Machine, Workload, int], float]
    memory: Callable[[Workload, int], float]
    raced: Callable[[int], tuple[int, ...]]
    sizes: tuple[int, ...]
    size_of: Callable[[LinearOperator], int | None]
    growth: float = 0.0
    measured: bool = False

    def label(self, size: int) -> str:
        """For reports: "RPCholesky, rank 200"."""
        return f"{self.name}, {self.unit} {size}" if self.unit else self.name


NONE = Family(
    "no preconditioner",
    "",
    None,
    setup=lambda m, w, k: 0.0,
    apply=lambda m, w, k: 0.0,
    memory=lambda w, k: 0.0,
    raced=lambda n: (0,),
    sizes=(0,),
    size_of=lambda M: 0 if isinstance(M, Identity) else None,
)
LOW_RANK = Family(
    "RPCholesky",
    "rank",
    lambda k, seed: RPCholesky(k, random_state=seed),
    # rows, their elimination, and the small matrix of Woodbury's identity
    setup=lambda m, w, k: k * w.n * w.entry + 4.0 * k**2 * w.n / m.gemm,
    apply=lambda m, w, k: 2.0 * 8 * k * w.n / m.stream,
    memory=lambda w, k: w.itemsize * k * w.n,
    raced=lambda n: (max(2, n // 3), max(1, n // 8)),  # eigenvalues of K / n: a rank means the same at any n
    sizes=(50, 100, 200, 300, 400, 600, 800, 1000, 1500, 2000, 3000),
    size_of=lambda M: len(M.pivots) if isinstance(M, LowRankInverse) else None,
    growth=0.1,
)


def _search(m: Machine, w: Workload, k: int) -> float:
    """Seconds to find k neighbours of every point."""
    if w.dimensions is None or w.dimensions > TREE_DIMENSIONS:
        return SELECTION * w.product
    return TREE * (1 + w.dimensions / 6) * k * w.n / m.small


SPARSE = Family(
    "Vecchia",
    "neighbours",
    lambda k, seed: Vecchia(k, random_state=seed),
    # neighbours, the small matrices, and their factorisation
    setup=lambda m, w, k: (
        _search(m, w, k) + GATHER * (k + 1) ** 2 * w.n * w.entry + 1.5 * (k + 1) ** 3 / 3 * w.n / m.small
    ),
    apply=lambda m, w, k: 2.0 * 20 * k * w.n / m.stream,
    memory=lambda w, k: 16.0 * k * w.n,
    raced=lambda n: (min(15, n - 1), min(40, n - 1)),
    sizes=(10, 15, 20, 30, 40, 50, 60, 80, 100, 150),
    size_of=lambda M: M.parents.shape[1] if isinstance(M, VecchiaInverse) else None,
    growth=0.5,
    measured=True,
)
FAMILIES = (SPARSE, LOW_RANK, NONE)


def promising(w: Workload) -> tuple[Family, ...]:
    """All families, the most promising first: those after it are called off sooner."""
    near = w.dimensions is not None and w.dimensions <= FEW_DIMENSIONS
    first = SPARSE if near else LOW_RANK
    return tuple(sorted(FAMILIES, key=lambda family: family is not first))


@dataclass(frozen=True)
class Prediction:
    """What a solve with one preconditioner is expected to take.

    Attributes
    ----------
    family : Family
    size : int
    iterations : float
    setup, iteration, inspection : float
        Seconds of the preconditioner, of an iteration, of the true residuals together.
    """

    family: Family
    size: int
    iterations: float
    setup: float
    iteration: float
    inspection: float

    @property
    def name(self) -> str:
        """For reports."""
        return self.family.label(self.size)

    @property
    def seconds(self) -> float:
        """Of everything together."""
        return self.setup + self.iterations * self.iteration + self.inspection


def predict(m: Machine, w: Workload, family: Family, size: int, iterations: float) -> Prediction:
    """The cost of conjugate gradients that take so many iterations."""
    inspections = 1 + (iterations // INSPECTION if math.isfinite(iterations) else math.inf)
    return Prediction(
        family=family,
        size=size,
        iterations=iterations,
        setup=family.setup(m, w, size),
        iteration=w.product + family.apply(m, w, size),
        inspection=inspections * w.exact,
    )


def cholesky_seconds(m: Machine, w: Workload) -> float:
    """All entries in float64, the factorisation, and a check."""
    entries = w.batch * w.n**2
    seconds = entries * (8.0 / w.itemsize) * w.entry + 8.0 * entries / m.stream
    return seconds + w.batch * w.n**3 / 3 / m.cholesky + 2.0 * entries * w.columns / m.gemm


def cholesky_fits(w: Workload) -> bool:
    """Whether the matrix may be stored."""
    return 8.0 * w.batch * w.n**2 <= w.memory


def extrapolate(measured: dict[int, float], size: int) -> float:
    """Iterations at a size, from those at one or two others: a power law.

    Its exponent is between -1 and 0, and -1/2 for lack of a second size.

    Examples
    --------
    >>> extrapolate({100: 80.0, 400: 40.0}, 1600)
    20.0
    """
    known = sorted((k, v) for k, v in measured.items() if math.isfinite(v) and v > 0)
    if not known:
        return math.inf
    if size in dict(known):
        return dict(known)[size]
    (a, many), (b, few) = known[0], known[-1]
    slope = -0.5 if a == b else math.log(few / many) / math.log(b / a)
    return max(2.0, few * (size / b) ** min(0.0, max(-1.0, slope)))


def forecasts(m: Machine, w: Workload, family: Family, measured: dict[int, float]) -> list[Prediction]:
    """Predictions for the sizes of a family that were raced, and for those that follow from them."""
    if not measured:
        return []
    least, most = min(measured), (3 if len(measured) == 1 else 8) * max(measured)
    sizes = {s for s in family.sizes if least <= s <= min(most, w.n // 4)} | set(measured)
    fitting = [s for s in sorted(sizes) if family.memory(w, s) <= w.memory / 2]
    return [predict(m, w, family, s, extrapolate(measured, s)) for s in fitting]


def cheapest(predictions: list[Prediction]) -> list[Prediction]:
    """The best size of each family, the cheapest first."""
    best: dict[str, Prediction] = {}
    for p in predictions:
        if p.family.name not in best or p.seconds < best[p.family.name].seconds:
            best[p.family.name] = p
    return sorted(best.values(), key=lambda p: (p.seconds, p.setup))


def workload(A: LinearOperator, columns: int, product: float, exact: float, memory: int) -> Workload:
    """The numbers of an operator, with the times that were measured."""
    base = A.base if isinstance(A, AddedDiagonal) else A
    points = coordinates(base)
    return Workload(
        n=A.shape[-1],
        columns=columns,
        itemsize=torch.empty((), dtype=A.torch_dtype).element_size(),
        product=product,
        exact=exact,
        memory=memory,
        batch=math.prod(A.shape[:-2]),
        stored=isinstance(base, Dense),
        dimensions=None if points is None else points.shape[1],
    )
