"""Which kernel a call gets, without running anything."""

from __future__ import annotations

import pytest

from kerngp.engine import ops
from kerngp.engine.cuda_choice import choose_cuda
from kerngp.engine.expr import Expr, Vi, Vj
from kerngp.engine.plan import Output
from kerngp.engine.reductions import ARGMAX, ARGMIN, KMIN, LOGSUMEXP, SUM, Reduction
from kerngp.engine.symmetry import halve


def q(D: int) -> Expr:
    return ops.sqdist(Vi(0, D), Vj(1, D))


def gaussian(D: int, E: int = 1) -> Expr:
    return ops.exp(-q(D)) * Vj(2, E)


LARGE = (10**5, 10**5)
TABLE = [
    # formula, reduction, sizes, dtype, precision, the kernel, a word of the reason
    (gaussian(3), SUM, LARGE, "float32", "default", "mma", "many pairs"),
    (gaussian(3), SUM, LARGE, "float32", "exact", "tile", "exact"),
    (gaussian(3), SUM, LARGE, "float64", "default", "tile", "float64"),
    (gaussian(3), SUM, (100, 100), "float32", "default", "tile", "pairs do not pay"),
    (gaussian(3, 8), SUM, LARGE, "float32", "default", "mma", "many pairs"),
    (gaussian(100, 8), SUM, LARGE, "float32", "default", "mma", "many pairs"),
    (-q(3), LOGSUMEXP, LARGE, "float32", "default", "mma", "many pairs"),
    (
        gaussian(20) * (Vi(0, 20) - Vj(1, 20)),
        SUM,
        LARGE,
        "float32",
        "default",
        "mma",
        "differences, as columns",
    ),
    (gaussian(20) * (Vi(0, 20) - Vj(1, 20)), SUM, LARGE, "float32", "exact", "tile", "exact"),
    (q(3), ARGMIN, LARGE, "float32", "default", "mma", "candidates"),
    (-q(3), ARGMAX, LARGE, "float32", "default", "mma", "candidates"),
    (q(3), ARGMIN, (10**5, 10**4), "float32", "default", "tile", "candidates"),
    (q(3), KMIN(10), LARGE, "float32", "default", "tile", "candidates"),
    (q(2), ARGMIN, LARGE, "float32", "default", "tile", "smooth"),
    (ops.sqrt(q(100)), ARGMIN, LARGE, "float32", "default", "tile", "smooth"),
    (q(100), ARGMIN, LARGE, "float32", "default", "mma", "candidates"),
    (q(100), KMIN(3), LARGE, "float32", "default", "mma", "candidates"),
    (ops.exp(-ops.norm2(Vi(0, 3) - Vj(1, 3))), SUM, LARGE, "float32", "default", "tile", "smooth"),
    (ops.exp(-ops.total(abs(Vi(0, 3) - Vj(1, 3)))), SUM, LARGE, "float32", "default", "tile", "smooth"),
]


@pytest.mark.parametrize(("f", "r", "sizes", "dtype", "precision", "form", "word"), TABLE)
def test_the_table(
    f: Expr, r: Reduction, sizes: tuple[int, int], dtype: str, precision: str, form: str, word: str
) -> None:
    choice = choose_cuda((Output(f, r),), 3, *sizes, 1, dtype, precision, "sm_90")
    assert choice is not None and choice.form == form
    text = choice.explain()
    assert text.startswith(f"{form}: ") and word in text.splitlines()[0]
    assert (choice.aside is not None) == (form == "mma") == ("beside it" in text)


def test_symmetric_sums_of_short_vectors() -> None:
    for D, form in ((3, "tile-sym"), (10, "mma")):
        output = Output(gaussian(D), SUM)
        half = halve(output, 3, ((0, 1),))
        choice = choose_cuda((output,), 3, *LARGE, 1, "float32", "default", "sm_90", half)
        assert choice is not None and choice.form == form


def test_no_kernel_for_a_logsumexp_over_both_axes() -> None:
    assert choose_cuda((Output(-q(3), LOGSUMEXP, "ij"),), 2, 10, 10, 1, "float32", "default", "sm_90") is None
