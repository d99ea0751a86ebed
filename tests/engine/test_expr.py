"""Formulas: equal means identical, whatever the road; digests; errors; depth."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import subprocess
import sys
import threading

import pytest

from kerngp.engine import autodiff, ops, rewrite
from kerngp.engine.expr import Expr, Pm, Vi, Vj, as_expr, const, node, postorder, substitute, variables
from kerngp.errors import FormulaError

GAUSSIAN = "ops.exp(-ops.sqdist(Vi(0, 3), Vj(1, 3)) / (2 * ops.square(Pm(2, 1)))) * Vj(3, 2)"


def gaussian() -> Expr:
    return eval(GAUSSIAN)


# ---------------------------------------------------------------- interning


def test_equal_formulas_are_one_object() -> None:
    assert gaussian() is gaussian()
    assert Vi(0, 3) is Vi(0, 3)
    assert Vi(0, 3) is not Vj(0, 3) and Vi(0, 3) is not Vi(0, 2) and Vi(0, 3) is not Vi(1, 3)
    assert Vi(0, 3) + Vj(1, 3) is not Vj(1, 3) + Vi(0, 3)


def test_constants_keep_sign_and_type() -> None:
    assert const(0.0) is not const(-0.0)
    assert const(1.0) is const(1) and as_expr(True) is const(1.0)
    assert const(math.nan) is const(math.nan)
    assert const(math.inf) is not const(-math.inf)
    x = Vi(0, 1)
    assert node("powi", x, attr=(1,)) is not node("powi", x, attr=(True,))
    assert node("exp_scaled", x, attr=(-1.0,)) is not node("exp_scaled", x, attr=(-1,))
    assert math.copysign(1, const(-0.0).attr[0]) == -1


def test_integer_and_real_powers_differ() -> None:
    x = Vi(0, 1)
    assert (x**3).op == "powi" and (x**3.0).op == "pow" and (x**2).op == "square"
    assert (2**x).op == "pow"


def test_copy_deepcopy_and_pickle_intern_again() -> None:
    f = gaussian()
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(f, protocol)) is f
    assert copy.copy(f) is f and copy.deepcopy(f) is f
    assert copy.deepcopy({"kernel": [f]})["kernel"][0] is f


def test_interning_from_threads() -> None:
    found: list[list[Expr]] = []
    barrier = threading.Barrier(8)

    def build() -> None:
        barrier.wait()
        found.append([ops.sin(Vi(0, 4) * (k + 0.125)) + Vj(1, 4) for k in range(300)])

    threads = [threading.Thread(target=build) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 8
    assert all(a is b for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_interning_while_others_are_collected() -> None:
    """Threads build and drop the same formulas: whoever holds one holds the only one."""
    errors: list[str] = []

    def churn() -> None:
        for k in range(400):
            f = ops.cos(Vi(0, 2) * (k % 7 + 0.375))
            if f is not ops.cos(Vi(0, 2) * (k % 7 + 0.375)):
                errors.append(f"two objects for {k % 7}")

    threads = [threading.Thread(target=churn) for _ in range(6)]
    for t in threads:
        t.start()
    for _ in range(5):
        gc.collect()
    for t in threads:
        t.join()
    assert not errors


def test_the_table_does_not_keep_formulas_alive() -> None:
    import weakref

    f = ops.sin(Vi(0, 5)) * 0.0009765625
    ref = weakref.ref(f)
    del f
    gc.collect()
    assert ref() is None


def test_formulas_are_immutable() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        gaussian().dim = 4


# ---------------------------------------------------------------- digests


def test_digests_are_the_same_in_every_process() -> None:
    code = f"from kerngp.engine import ops\nfrom kerngp.engine.expr import *\nprint(({GAUSSIAN}).digest)"
    out = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=_with_hash_seed(seed),
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert out == {gaussian().digest}


def _with_hash_seed(seed: str) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONHASHSEED": seed}


def test_digests_differ_between_formulas() -> None:
    x, y = Vi(0, 2), Vj(1, 2)
    family = [
        x + y,
        y + x,
        x - y,
        x * y,
        x * 0.0,
        x * -0.0,
        x * 1.0,
        x**1,
        node("powi", x, attr=(1,)),
        x[0],
        x[1],
        Vi(0, 3),
        Vi(1, 2),
        Vj(0, 2),
        Pm(0, 2),
        ops.concat(x, y),
        x[0:1],
        node("exp_scaled", x, attr=(-1.0,)),
        node("exp_scaled", x, attr=(-1,)),
    ]
    distinct = set(family)
    assert len({f.digest for f in distinct}) == len(distinct)


# ---------------------------------------------------------------- depth and sharing

DEPTH = 10_000


def deep(step) -> Expr:
    f: Expr = Vi(0, 1)
    for _ in range(DEPTH):
        f = step(f)
    return f


def test_deep_formulas_do_not_recurse() -> None:
    f = deep(lambda f: ops.sin(f))
    assert sum(1 for _ in postorder(f)) == DEPTH + 1
    assert len(f.digest) == 32
    assert variables(f) == (Vi(0, 1),)
    assert substitute(f, {Vi(0, 1): Vj(0, 1)}).axes == {"j"}
    assert autodiff.transpose(autodiff.transpose(f)) is f
    (g,) = autodiff.vjp(f, Vi(1, 1), (Vi(0, 1),))
    assert g is not None and sum(1 for _ in postorder(g)) > DEPTH
    assert rewrite.simplify(f) is f


def test_deep_formulas_are_printed_pickled_and_freed() -> None:
    f = deep(lambda f: f + 0.1)
    assert isinstance(repr(f), str)
    assert pickle.loads(pickle.dumps(f)) is f
    del f
    gc.collect()


def test_shared_formulas_stay_small() -> None:
    """80 doublings: 2**80 paths, 81 nodes."""
    f: Expr = Vi(0, 1)
    for _ in range(80):
        f = f + f
    assert sum(1 for _ in postorder(f)) == 81
    assert len(f.digest) == 32
    assert len(repr(f)) < 100_000
    assert pickle.loads(pickle.dumps(f)) is f
    (g,) = autodiff.vjp(f, Vi(1, 1), (Vi(0, 1),))
    assert g is not None and sum(1 for _ in postorder(g)) < 400
    assert sum(1 for _ in postorder(rewrite.simplify(f))) <= 200


def test_text_of_a_formula() -> None:
    assert repr(ops.exp(-Vi(0, 3)) * Vj(1, 1)) == "mul(exp(neg(Vi(0,3))), Vj(1,1))"
    assert repr(node("powi", Pm(2, 1), attr=(3,))) == "powi(Pm(2,1), 3)"
    assert repr(const(2.5)) == "2.5"


# ---------------------------------------------------------------- attributes


def test_dim_and_axes() -> None:
    f = gaussian()
    assert f.dim == 2 and f.axes == {"i", "j", "p"}
    assert const(1.0).axes == frozenset() and Pm(0, 4).axes == {"p"}
    assert ops.concat(Vi(0, 3), Vj(1, 2), const(1)).dim == 6
    assert Vi(0, 5)[-1] is Vi(0, 5)[4] and Vi(0, 5)[1:3].dim == 2


# ---------------------------------------------------------------- errors


def test_unknown_op_suggests_names() -> None:
    with pytest.raises(FormulaError, match="unknown op 'sinn'; did you mean .*sin"):
        node("sinn", Vi(0, 1))
    with pytest.raises(FormulaError, match="unknown op 'qqqqqqqq'; known ops: .*exp"):
        node("qqqqqqqq", Vi(0, 1))


def test_wrong_number_of_arguments() -> None:
    with pytest.raises(FormulaError, match=r"add takes 2 argument\(s\), got 1"):
        node("add", Vi(0, 1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Vi(-1, 3), "variable index -1"),
        (lambda: Vi("x", 3), "variable index 'x'"),  # type: ignore[arg-type]
        (lambda: Vi(0, 0), "variable 0 has dim 0; expected a positive integer"),
        (lambda: Vj(2, 1.5), "variable 2 has dim 1.5"),  # type: ignore[arg-type]
    ],
)
def test_bad_variables(build, message: str) -> None:
    with pytest.raises(FormulaError, match=message):
        build()


def test_bad_axis() -> None:
    from kerngp.engine.expr import var

    with pytest.raises(FormulaError, match="axis='k' of variable 0: expected 'i', 'j' or 'p'"):
        var(0, 1, "k")


def test_one_index_with_two_meanings() -> None:
    with pytest.raises(FormulaError, match=r"variable 0 is used as Vi\(0,3\) and as Vj\(0,3\)"):
        variables(Vi(0, 3) + Vj(0, 3))
    with pytest.raises(FormulaError, match="give each its own index"):
        variables(ops.total(Vi(0, 3)) + ops.total(Vi(0, 2)))


def test_foreign_values_in_formulas() -> None:
    with pytest.raises(FormulaError, match="str cannot stand in a formula; expected an Expr or a number"):
        Vi(0, 1) + "one"  # type: ignore[operator]
    with pytest.raises(FormulaError, match="list cannot stand in a formula"):
        ops.exp([1.0])  # type: ignore[arg-type]


def test_numpy_numbers_are_numbers() -> None:
    import numpy as np

    x = Vi(0, 1)
    assert x * np.float64(2.0) is x * 2.0
    assert x * np.float32(0.5) is x * 0.5
    assert x + np.int64(3) is x + 3
    assert x ** np.int64(3) is x**3


def test_formulas_need_no_import_but_their_own() -> None:
    """Operators and unpickling find the ops in a process that has imported nothing else."""
    x, y = Vi(0, 2), Vj(1, 2)
    code = (
        "import pickle, sys\n"
        "from kerngp.engine.expr import Vi, Vj\n"
        f"f = pickle.loads({pickle.dumps(x - y)!r})\n"
        "assert f is Vi(0, 2) - Vj(1, 2)\n"
    )
    for program in (code, "from kerngp.engine.expr import Vi, Vj\nassert (Vi(0, 1) * Vj(1, 1)).dim == 1"):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
