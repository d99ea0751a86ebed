"""Our estimators beside scikit-learn's, and GPyTorch's Gaussian processes, on the same data, in one run.

    python benchmarks/estimators.py [--quick] [--only "ridge; gpr"] [--cap 600] [--memory 8] [--repeats 3]

Every contender of every size runs in a process of its own, one after the other: what counts is the median
time of its `fit` and of its predictions (the first fit of a process, which imports and compiles, is not
counted where a fit is quick), and the highest resident memory beyond that before the fit. A contender whose
matrices would not fit is shown with the memory they would take, one that is not done after the cap as such.
Scores are those of held-out rows. Data come from `kerngp.datasets`. Only standard output is written to.

Time: some minutes with --quick, an hour without.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2
SEED = 0
TEST_ROWS = 5_000
REPEAT_BELOW = 20.0  # seconds: what takes longer runs once
PEER = "scikit-learn"


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Data:
    """Rows to learn from, and others to be judged by."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def load(name: str, n: int) -> Data:
    """The first n rows in random order, standardised, and at most `TEST_ROWS` (or a fifth) of the others."""
    from kerngp import datasets

    data = getattr(datasets, name)()
    order = np.random.default_rng(SEED).permutation(len(data.y))
    test, rest = np.split(order, [min(TEST_ROWS, len(order) // 5)])
    if n > len(rest):  # all there is: a fifth is held out
        test, rest = np.split(order, [len(order) // 5])
    rows = rest[:n]
    X, y = np.ascontiguousarray(data.X, dtype=np.float64), np.asarray(data.y, dtype=np.float64)
    return Data(X[rows], y[rows], X[test], y[test])


# ---------------------------------------------------------------- contenders


@dataclass(frozen=True)
class Contender:
    """A model, how it is judged, and what it would need.

    Attributes
    ----------
    make : callable (Data) -> estimator
    judge : callable (estimator, Data) -> dict of str to number or array
        Its predictions are timed. Arrays are compared with the first contender's.
    memory : callable n -> bytes, optional
        Known to be needed.
    """

    make: Callable[[Data], Any]
    judge: Callable[[Any, Data], dict[str, Any]]
    memory: Callable[[int], float] = field(default=lambda n: 0.0)


@dataclass(frozen=True)
class Task:
    """One comparison at several sizes; contenders are made when they run, in their process."""

    name: str
    data: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    contenders: Callable[[], dict[str, Contender]]
    what: str = ""


def rmse(y: np.ndarray, mean: Any) -> float:
    return float(np.sqrt(np.mean((y - np.asarray(mean).reshape(y.shape)) ** 2)))


def regression(model: Any, data: Data) -> dict[str, Any]:
    mean = model.predict(data.X_test)
    return {"RMSE": rmse(data.y_test, mean), "output": np.asarray(mean)[:1000]}


def bits(count: float) -> Callable[[int], float]:
    """So many matrices of n x n numbers in double precision."""
    return lambda n: count * 8.0 * n * n


def ridge() -> dict[str, Contender]:
    from sklearn.kernel_ridge import KernelRidge as Theirs

    from kerngp.models import KernelRidge

    arguments = {"kernel": "rbf", "gamma": 0.05, "alpha": 0.1}
    return {
        "kerngp": Contender(lambda d: KernelRidge(**arguments), regression),
        PEER: Contender(lambda d: Theirs(**arguments), regression, bits(3)),
    }


def flights() -> dict[str, Contender]:
    from sklearn.neighbors import KNeighborsRegressor

    from kerngp.models import KernelRidge, Matern

    # what GaussianProcessRegressor learns from 3,000 of the training rows
    kernel = Matern(nu=0.5, lengthscale=(0.31, 0.12, 0.88, 1.14, 3.0, 7.0, 3.0))
    return {
        "kerngp": Contender(
            lambda d: KernelRidge(kernel=kernel, alpha=1.6, n_centers=6_000, tol=5e-3), regression
        ),
        f"{PEER} 10-NN": Contender(lambda d: KNeighborsRegressor(10, n_jobs=THREADS), regression),
        f"{PEER} 20-NN": Contender(lambda d: KNeighborsRegressor(20, n_jobs=THREADS), regression),
        f"{PEER} 40-NN": Contender(lambda d: KNeighborsRegressor(40, n_jobs=THREADS), regression),
    }


def gaussian(model: Any, data: Data) -> dict[str, Any]:
    from kerngp.models.metrics import negative_log_likelihood

    mean, std = model.predict(data.X_test, return_std=True)
    out = {"RMSE": rmse(data.y_test, mean), "NLL": negative_log_likelihood(data.y_test, mean, std)}
    if hasattr(model, "log_marginal_likelihood_value_"):
        out["evidence / n"] = float(model.log_marginal_likelihood_value_) / len(data.y)
    return out


def gpr() -> dict[str, Contender]:
    from sklearn.gaussian_process import GaussianProcessRegressor as Theirs

    from kerngp.models import GaussianProcessRegressor

    return {
        "kerngp": Contender(lambda d: GaussianProcessRegressor(ard(d.X.shape[1]), alpha=0.0), gaussian),
        PEER: Contender(lambda d: Theirs(ard(d.X.shape[1]), alpha=0.0), gaussian, bits(30)),
        "GPyTorch": Contender(lambda d: GPyTorch(), gaussian, bits(6)),
        f"{PEER}, 5,000 rows": Contender(
            lambda d: Subset(Theirs(ard(d.X.shape[1]), alpha=0.0), 5_000),
            gaussian,
            lambda n: bits(30)(min(n, 5_000)),
        ),
    }


def ard(columns: int) -> Any:
    """A constant times Matern-3/2 with a lengthscale for each column, plus noise."""
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    scales = Matern(np.ones(columns), (1e-2, 1e3), nu=1.5)  # pyright: ignore[reportArgumentType]
    return ConstantKernel(1.0, (1e-2, 1e3)) * scales + WhiteKernel(0.1, (1e-4, 1e1))


class Subset:
    """An estimator that learns from the first rows only."""

    def __init__(self, model: Any, rows: int):
        self.model, self.rows = model, rows

    def fit(self, X: np.ndarray, y: np.ndarray) -> Subset:
        self.model.fit(X[: self.rows], y[: self.rows])
        return self

    def predict(self, X: np.ndarray, **options: Any) -> Any:
        return self.model.predict(X, **options)


class GPyTorch:
    """The same model in GPyTorch: 50 steps of Adam, its default solver."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> GPyTorch:
        import gpytorch  # pyright: ignore[reportMissingImports]
        import torch

        x, t = torch.from_numpy(X), torch.from_numpy(y)

        class Model(gpytorch.models.ExactGP):
            def __init__(self, likelihood: Any):
                super().__init__(x, t, likelihood)
                self.mean_module = gpytorch.means.ZeroMean()
                self.covar_module = gpytorch.kernels.ScaleKernel(
                    gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=X.shape[1])
                )

            def forward(self, x: Any) -> Any:
                mean, covariance = self.mean_module(x), self.covar_module(x)
                return gpytorch.distributions.MultivariateNormal(mean, covariance)  # type: ignore[arg-type]

        self.likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
        self.model = Model(self.likelihood).double().train()
        objective = gpytorch.mlls.ExactMarginalLogLikelihood(self.likelihood, self.model)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        for _ in range(50):
            optimizer.zero_grad()
            loss = -objective(self.model(x), t)  # type: ignore[operator]
            loss.backward()
            optimizer.step()
        self.model.eval()
        self.likelihood.eval()
        return self

    def predict(self, X: np.ndarray, return_std: bool = False) -> Any:
        import torch

        with torch.no_grad():
            out = self.likelihood(self.model(torch.from_numpy(X)))
        return out.mean.numpy(), out.stddev.numpy()


def gpc() -> dict[str, Contender]:
    from sklearn.gaussian_process import GaussianProcessClassifier as Theirs
    from sklearn.gaussian_process.kernels import RBF

    from kerngp.models import GaussianProcessClassifier

    def late(d: Data) -> Data:
        return Data(d.X, d.y > 0, d.X_test, d.y_test > 0)

    def judge(model: Any, data: Data) -> dict[str, Any]:
        p = model.predict_proba(data.X_test[:1000])[:, 1]
        return {"accuracy": float(np.mean((p > 0.5) == (data.y_test[:1000] > 0))), "output": p}

    def binary(make: Callable[[], Any]) -> Callable[[Data], Any]:
        return lambda d: Mapped(make(), late)

    kernel = 1.0 * RBF(1.0)
    return {
        "kerngp": Contender(binary(lambda: GaussianProcessClassifier(kernel)), judge),
        PEER: Contender(binary(lambda: Theirs(kernel)), judge, bits(8)),
    }


class Mapped:
    """An estimator that sees the data through a function."""

    def __init__(self, model: Any, change: Callable[[Data], Data]):
        self.model, self.change = model, change

    def fit(self, X: np.ndarray, y: np.ndarray) -> Mapped:
        data = self.change(Data(X, y, X[:0], y[:0]))
        self.model.fit(data.X, data.y)
        return self

    def predict_proba(self, X: np.ndarray) -> Any:
        return self.model.predict_proba(X)


def density() -> dict[str, Contender]:
    from sklearn.neighbors import KernelDensity as Theirs

    from kerngp.models import KernelDensity

    def judge(model: Any, data: Data) -> dict[str, Any]:
        scores = model.score_samples(data.X_test)
        return {"mean log density": float(np.mean(scores)), "output": np.asarray(scores)}

    return {
        "kerngp": Contender(lambda d: KernelDensity(bandwidth=0.3), judge),
        PEER: Contender(lambda d: Theirs(bandwidth=0.3), judge),
    }


def neighbours() -> dict[str, Contender]:
    from sklearn.neighbors import KNeighborsRegressor as Theirs

    from kerngp.models import KNeighborsRegressor

    return {
        "kerngp": Contender(lambda d: KNeighborsRegressor(10), regression),
        PEER: Contender(lambda d: Theirs(10), regression),
        f"{PEER}, brute": Contender(lambda d: Theirs(10, algorithm="brute"), regression),
    }


def kernel_pca() -> dict[str, Contender]:
    from sklearn.decomposition import KernelPCA as Theirs

    from kerngp.models import KernelPCA

    def judge(model: Any, data: Data) -> dict[str, Any]:
        values = np.asarray(model.eigenvalues_)
        return {
            "first eigenvalue": float(values[0]),
            "output": np.abs(np.asarray(model.transform(data.X_test))[:1000]),
        }

    arguments = {"n_components": 5, "kernel": "rbf", "gamma": 0.05}
    return {
        "kerngp": Contender(lambda d: KernelPCA(**arguments), judge),
        PEER: Contender(lambda d: Theirs(**arguments), judge, bits(2)),
    }


def kmeans() -> dict[str, Contender]:
    from sklearn.cluster import KMeans as Theirs

    from kerngp.models import KMeans

    def judge(model: Any, data: Data) -> dict[str, Any]:
        return {"inertia / n": float(model.inertia_) / len(data.y), "iterations": int(model.n_iter_)}

    arguments: dict[str, Any] = {"n_clusters": 100, "n_init": 1, "random_state": 0, "max_iter": 30}
    return {
        "kerngp": Contender(lambda d: KMeans(**arguments), judge),
        PEER: Contender(lambda d: Theirs(**arguments), judge),
    }


def spectral() -> dict[str, Contender]:
    from sklearn.cluster import SpectralClustering as Theirs

    from kerngp.models import SpectralClustering

    def judge(model: Any, data: Data) -> dict[str, Any]:
        sizes = np.sort(np.bincount(np.asarray(model.labels_)))[::-1]
        return {"largest cluster": float(sizes[0] / sizes.sum())}

    arguments: dict[str, Any] = {"n_clusters": 4, "gamma": 0.2, "random_state": 0}
    return {
        "kerngp": Contender(lambda d: SpectralClustering(**arguments), judge),
        PEER: Contender(lambda d: Theirs(**arguments), judge, bits(4)),
    }


TASKS = {
    t.name: t
    for t in (
        Task("ridge, small", "diamonds", (500, 1_000, 2_000, 4_000), (500, 2_000), ridge, "KernelRidge, RBF"),
        Task("ridge", "diamonds", (20_000, 43_152), (6_000,), ridge, "KernelRidge, RBF"),
        Task("flights", "flights", (261_877,), (20_000,), flights, "KernelRidge and neighbours"),
        Task("gpr", "flights", (2_000, 10_000, 50_000), (600,), gpr, "ARD Matern-3/2, learned"),
        Task("gpc", "flights", (500, 2_000), (300,), gpc, "Laplace, learned"),
        Task("density", "diamonds", (20_000, 48_000), (5_000,), density, "KernelDensity, Gaussian, exact"),
        Task("neighbours", "flights", (20_000, 100_000), (5_000,), neighbours, "10 nearest neighbours"),
        Task("kernel pca", "flights", (4_000, 20_000, 100_000), (2_000,), kernel_pca, "5 components"),
        Task("kmeans", "flights", (100_000,), (10_000,), kmeans, "100 clusters"),
        Task("spectral", "diamonds", (4_000, 20_000), (1_500,), spectral, "4 clusters"),
    )
}


# ---------------------------------------------------------------- one contender, in its own process


def resident() -> int:
    """Bytes of memory in use."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def highest() -> int:
    """Most bytes in use since `forget`."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))


def forget() -> None:
    """Start `highest` anew."""
    Path("/proc/self/clear_refs").write_text("5")


def work(task: Task, name: str, n: int, repeats: int, out: Path) -> None:
    """Run one contender and write what came of it."""
    import torch

    torch.set_num_threads(THREADS)
    warnings.simplefilter("ignore")
    data = load(task.data, n)
    contender = task.contenders()[name]
    small = min(n, 300)
    few = Data(data.X[:small], data.y[:small], data.X_test[:50], data.y_test[:50])
    contender.judge(contender.make(few).fit(few.X, few.y), few)  # imports, compiles
    forget()
    before, fits, predictions = resident(), [], []
    scores: dict[str, Any] = {}
    peak = 0
    for _ in range(repeats):
        model = contender.make(data)
        start = time.perf_counter()
        model.fit(data.X, data.y)
        fits.append(time.perf_counter() - start)
        peak = max(peak, highest())
        start = time.perf_counter()
        scores = contender.judge(model, data)
        predictions.append(time.perf_counter() - start)
        if fits[0] + predictions[0] > REPEAT_BELOW:
            break
    output = scores.pop("output", None)
    if output is not None:
        np.save(out.with_suffix(".npy"), output)
    line = getattr(model, "plan_", "")
    out.write_text(
        json.dumps(
            {
                "fit": statistics.median(fits),
                "predict": statistics.median(predictions),
                "memory": max(0, peak - before),
                "scores": scores,
                "plan": str(line),
            }
        )
    )


# ---------------------------------------------------------------- all of them


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    fit: float
    predict: float
    memory: float
    scores: dict[str, float]
    note: str = ""
    output: np.ndarray | None = None
    plan: str = ""


def contest(task: Task, n: int, cap: float, limit: float, repeats: int) -> list[Row]:
    """All contenders of a task at one size."""
    rows = []
    for name, contender in task.contenders().items():
        need = contender.memory(n)
        if need > limit:
            rows.append(Row(name, math.nan, math.nan, need, {}, f"needs {need / 2**30:.0f} GiB"))
            continue
        rows.append(run(task, name, n, cap, repeats))
        print(f"  {task.name}, {n:,}: {name} done", file=sys.stderr, flush=True)
    return rows


def run(task: Task, name: str, n: int, cap: float, repeats: int) -> Row:
    """One contender at one size, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "result.json")
        command = [sys.executable, __file__, "--worker", task.name, name, str(n), str(repeats), str(out)]
        env = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "passive"}
        try:
            done = subprocess.run(command, timeout=cap, env=env, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return Row(name, math.nan, math.nan, math.nan, {}, f"not done after {cap:.0f} s")
        if done.returncode:
            why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            return Row(name, math.nan, math.nan, math.nan, {}, why[:80])
        found = json.loads(out.read_text())
        array = out.with_suffix(".npy")
        output = np.load(array) if array.exists() else None
    return Row(
        name, found["fit"], found["predict"], found["memory"], found["scores"], "", output, found["plan"]
    )


def table(rows: Sequence[Row]) -> None:
    """Markdown, with times in units of ours."""
    names = list(dict.fromkeys(key for r in rows for key in r.scores))
    print(f"| | fit | predict | memory | {' | '.join(names)} | fit / kerngp | difference |")
    print("|---" * (6 + len(names)) + "|")
    ours = rows[0]
    for r in rows:
        cells = [text(r.fit, "{:.3g} s"), text(r.predict, "{:.3g} s"), text(r.memory / 2**20, "{:,.0f} MiB")]
        cells += [text(r.scores.get(key, math.nan), "{:.5g}") for key in names]
        cells += [text(r.fit / ours.fit, "{:.2f}"), difference(r, ours), r.note]
        print(f"| {r.name} | {' | '.join(cells)} |".replace(" |  |", " |"))
    if ours.plan:
        print(f"\nkerngp: {ours.plan}")
    sys.stdout.flush()


def text(value: float, form: str) -> str:
    return "–" if math.isnan(value) else form.format(value)


def difference(r: Row, ours: Row) -> str:
    """The largest difference of predictions from ours, relative to the largest prediction."""
    if r is ours or r.output is None or ours.output is None or r.output.shape != ours.output.shape:
        return "–"
    return f"{np.abs(r.output - ours.output).max() / np.abs(ours.output).max():.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--only", default="", help="tasks, separated by semicolons")
    parser.add_argument("--cap", type=float, default=900.0, help="seconds that a contender may take")
    parser.add_argument("--memory", type=float, default=8.0, help="GiB that a contender may take")
    parser.add_argument("--repeats", type=int, default=3, help="fits of those that are quick (median)")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, contender, n, repeats, out = options.worker
        work(TASKS[name], contender, int(n), int(repeats), Path(out))
        return 0
    only = [w.strip() for w in options.only.split(";") if w.strip()]
    unknown = sorted(set(only) - set(TASKS))
    if unknown:
        parser.error(f"unknown: {unknown}; known are {list(TASKS)}")
    print(f"{THREADS} threads, {options.repeats} fits, cap {options.cap:.0f} s, {options.memory:.0f} GiB")
    for name in only or TASKS:
        task = TASKS[name]
        for n in task.quick if options.quick else task.sizes:
            print(f"\n### {task.what}: {task.data}, n = {n:,}\n", flush=True)
            table(contest(task, n, options.cap, options.memory * 2**30, options.repeats))
    return 0


if __name__ == "__main__":
    sys.exit(main())
