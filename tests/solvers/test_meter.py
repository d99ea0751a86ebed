"""What a solve has cost is counted, by whoever asks an operator for something."""

from __future__ import annotations

import torch

from kerngp.solvers import CG, Dense, RPCholesky, identity, solve
from kerngp.solvers.meter import count, metering

F = torch.float64


def matrix(n: int) -> Dense:
    x = torch.linspace(0, 1, n, dtype=F)
    return Dense(torch.exp(-((x[:, None] - x) ** 2)), psd=True)


def test_products_rows_and_diagonals_are_counted_once():
    A = matrix(10) + 0.1 * identity(10)
    with metering() as meter:
        A @ torch.ones(10, 3, dtype=F)
        A.rows([0, 1])
        A.rows([0, 1], [2])
        A.diag()
        A.dense()
    assert meter.entries == {"products": 100.0, "rows": 20.0 + 2.0 + 10.0 + 100.0}
    assert meter.passes(100) == 2.32
    assert 0 <= sum(meter.seconds.values()) <= meter.elapsed


def test_a_solve_and_its_preconditioner_are_counted():
    A = matrix(200) + 1e-3 * identity(200)
    with metering() as meter:
        solution = solve(A, torch.ones(200, dtype=F), CG(tol=1e-8), preconditioner=RPCholesky(20))
    assert meter.entries["products"] == 200 * 200 * solution.products
    assert meter.entries["rows"] >= 200


def test_meters_nest_and_what_is_booked_is_not_booked_again():
    with metering() as outer:
        with metering() as inner, count("search", 7):
            matrix(3) @ torch.ones(3, dtype=F)
        matrix(3) @ torch.ones(3, dtype=F)
    assert inner.entries == {"search": 7}
    assert outer.entries == {"search": 7, "products": 9}
