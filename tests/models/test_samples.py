"""What tests of distributions are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist

from kerngp.errors import OptionError
from kerngp.models import RBF, median_heuristic
from kerngp.models.distances.samples import kernel_on, read_sample

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [2, 7, 31, 300])
def test_median_of_all_distances(n: int):
    X = RNG.normal(size=(n, 3))
    assert median_heuristic(X) == pytest.approx(np.median(pdist(X)), rel=1e-12)
    assert median_heuristic(torch.from_numpy(X)) == median_heuristic(X)


def test_median_of_a_part():
    X = RNG.normal(size=(3000, 2))
    assert median_heuristic(X, max_rows=500) == pytest.approx(np.median(pdist(X)), rel=0.1)
    assert median_heuristic(X, max_rows=500) == median_heuristic(X, max_rows=500)


def test_coincident_points():
    assert median_heuristic([0.0] * 10 + [3.0]) == 3.0
    assert median_heuristic(np.ones((5, 2))) == 1.0


@pytest.mark.parametrize(
    "X",
    [
        [1, 2, 3],
        np.array([1, 2, 3]),
        pd.Series([1, 2, 3]),
        pd.DataFrame({"a": [1, 2, 3]}),
        torch.arange(3) + 1,
    ],
)
def test_one_column(X: Any):
    found = read_sample("X", X, 2, None)
    torch.testing.assert_close(found, torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    "X", [[[1.0, np.nan]], [[1.0, np.inf]], np.zeros((0, 2)), np.zeros((2, 2, 2)), [["a"], ["b"]]]
)
def test_bad_samples_are_named(X: Any):
    with pytest.raises(ValueError, match="^Z: "):
        read_sample("Z", X, 1, None)


@pytest.mark.parametrize("bandwidth", ["mean", 0.0, -1.0, np.inf, None])
def test_bad_bandwidths(bandwidth: Any):
    with pytest.raises(OptionError, match="bandwidth"):
        kernel_on("kernel", None, bandwidth, torch.zeros(3, 1), 0)


def test_kernels():
    x = torch.from_numpy(RNG.normal(size=(9, 2)))
    kernel, width = kernel_on("kernel", None, "median", x, 0)
    assert isinstance(kernel, RBF) and width == median_heuristic(x)
    assert kernel_on("kernel", "laplacian", "median", x, 0)[1] is None
    with pytest.raises(OptionError, match="kernel_y=.*no formula"):
        kernel_on("kernel_y", lambda a, b: float(np.minimum(a, b).sum()), "median", x, 0)
