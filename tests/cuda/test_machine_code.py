"""Machine code for real devices, made without one: it exists, fits the registers, and does not grow.

The number of instructions of the innermost loop for each pair (issue slots) is what the narrow kernels'
speed follows from. Budgets only go down: a change that makes code better lowers them here.
"""

from __future__ import annotations

import functools

import pytest
import sass
from test_cpu_backend import FORMULAS

from kerngp.engine import ops
from kerngp.engine.backends import cuda, nvrtc
from kerngp.engine.cuda_planner import Gpu
from kerngp.engine.expr import OPS, Expr, Vi, Vj, node
from kerngp.engine.folds import PROD, SUMSOFTMAXWEIGHT, weighted_entry
from kerngp.engine.plan import Output, Plan
from kerngp.engine.planner import prepare
from kerngp.engine.reductions import ARGKMIN, ARGMIN, LOGSUMEXP, SUM, Reduction
from kerngp.engine.render.cuda_tile import render
from kerngp.engine.symmetry import halve

ARCHITECTURES = ["sm_80", "sm_90", "sm_120"]


def q(D: int) -> Expr:
    return ops.sqdist(Vi(0, D), Vj(1, D))


def gaussian(D: int) -> Expr:
    return ops.exp(-q(D))


def one(f: Expr, r: Reduction = SUM, axis: str = "j") -> tuple[Output, ...]:
    return (Output(f, r, axis),)


def gradients(D: int) -> tuple[Output, ...]:
    """Forward, and the gradients in x and in y."""
    k = gaussian(D) * Vj(2, 1)
    difference = Vi(0, D) - Vj(1, D)
    return (Output(k, SUM), Output(k * difference, SUM), Output(k * Vi(3, 1) * difference, SUM, "i"))


CASES: dict[str, tuple[Output, ...]] = {
    "gaussian 3": one(gaussian(3) * Vj(2, 1)),
    "gaussian 10": one(gaussian(10) * Vj(2, 1)),
    "gaussian 100": one(gaussian(100) * Vj(2, 1)),
    "columns 3": one(gaussian(3) * Vj(2, 64)),
    "columns 100": one(gaussian(100) * Vj(2, 64)),
    "matern 3": one(ops.matern52_profile(q(3)) * Vj(2, 1)),
    "logsumexp 3": one(-q(3), LOGSUMEXP),
    "argmin 3": one(q(3), ARGMIN),
    "argmin 100": one(q(100), ARGMIN),
    "neighbours 10": one(q(10), ARGKMIN(10)),
    "softmax 3": one(weighted_entry(-q(3), Vj(2, 3)), SUMSOFTMAXWEIGHT),
    "softmax 100": one(weighted_entry(-q(100), Vj(2, 4)), SUMSOFTMAXWEIGHT),
    "product 3": one(gaussian(3), PROD),
    "gradients 3": gradients(3),
    "long gradient": one(gaussian(33) * (Vi(0, 33) - Vj(1, 33))),
}
REGISTERS = 255  # at most: two blocks of 128 threads fit a multiprocessor
PLAIN = 128  # at most for one scalar sum or selection in float32: four blocks

SCALAR = {"gaussian 3", "gaussian 10", "matern 3", "logsumexp 3", "argmin 3", "argmin 100", "neighbours 10"}

# Issue slots of the longest innermost loop for each pair (wide forms: each pair and component), on sm_90.
BUDGET = {
    ("gaussian 3", "float32"): 9.45,
    ("gaussian 10", "float32"): 24.4,
    ("gaussian 100", "float32"): 2.29,
    ("matern 3", "float32"): 17.5,
    ("logsumexp 3", "float32"): 12.2,
    ("argmin 3", "float32"): 7.6,
    ("argmin 100", "float32"): 2.29,
    ("gaussian 3", "float64"): 26.1,
    ("symmetric 3", "float32"): 11.95,
}
# The same on tensor cores: the usual way once around the loop over j
TENSOR_BUDGET = {
    "gaussian 3": 5.75,
    "gaussian 10": 6.6,
    "logsumexp 3": 7.6,
    "argmin 3": 2.5,
    "neighbours 10": 2.95,
    "columns 3": 13.2,
}


TENSOR = {
    "gaussian 3": one(gaussian(3) * Vj(2, 1)),
    "gaussian 10": one(gaussian(10) * Vj(2, 1)),
    "gaussian 100": one(gaussian(100) * Vj(2, 1)),
    "columns 3": one(gaussian(3) * Vj(2, 64)),
    "columns 100": one(gaussian(100) * Vj(2, 64)),
    "long gradient": one(gaussian(33) * (Vi(0, 33) - Vj(1, 33))),
    "logsumexp 3": one(-q(3), LOGSUMEXP),
    "argmin 3": one(q(3), ARGMIN),
    "argmin 100": one(q(100), ARGMIN),
    "neighbours 10": one(q(10), ARGKMIN(10)),
}


def tensor_plan(case: str) -> Plan:
    ready = prepare(TENSOR[case], 4, "float32", Gpu("sm_90", tensor=True), True, False)
    assert ready is not None and ready.plan.schedule.tensor
    return ready.plan


@functools.cache
def tensor_compiled(case: str, arch: str) -> tuple[bytes, str]:
    options = (f"--gpu-architecture={arch}", *cuda.OPTIONS, "--ptxas-options=-v")
    return nvrtc.compile_with_log(render(tensor_plan(case)), options)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("case", TENSOR)
def test_tensor_kernels_compile_into_registers(case: str, arch: str) -> None:
    _, log = tensor_compiled(case, arch)
    found = sass.usage(log)
    assert set(found) == {"kg_pack", "kg_split", "kg_tile", "kg_merge"}
    for name, use in found.items():
        assert use.spills == 0 and use.stack == 0, f"{name} of {case} spills: {use}"
        assert use.registers <= REGISTERS, f"{name} of {case} takes {use.registers} registers"


@pytest.mark.parametrize("case", TENSOR_BUDGET)
def test_issue_slots_on_tensor_cores_stay_within_the_budget(case: str) -> None:
    s = tensor_plan(case).schedule
    image, _ = tensor_compiled(case, "sm_90")
    turn = sass.usual_turn(sass.disassemble(image), "HMMA")
    assert turn.instructions["HMMA"] >= s.rows // 2 * s.columns // 2  # every product is on the way
    assert turn.slots / (s.rows * s.columns) <= TENSOR_BUDGET[case]


def plan(case: str, dtype: str) -> Plan:
    outputs = CASES.get(case)
    symmetric = outputs is None
    if outputs is None:
        half = halve(CASES["gaussian 3"][0], 3, ((0, 1),))
        assert half is not None
        outputs = half.outputs
    ready = prepare(outputs, 4, dtype, Gpu("sm_90"), False, symmetric)
    assert ready is not None
    return ready.plan


@functools.cache
def compiled(case: str, dtype: str, arch: str) -> tuple[bytes, str]:
    options = (f"--gpu-architecture={arch}", *cuda.OPTIONS, "--ptxas-options=-v")
    return nvrtc.compile_with_log(render(plan(case, dtype)), options)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [*CASES, "symmetric 3"])
def test_everything_compiles_into_registers(case: str, dtype: str, arch: str) -> None:
    _, log = compiled(case, dtype, arch)
    found = sass.usage(log)
    assert set(found) == {"kg_pack", "kg_tile", "kg_merge"}
    for name, use in found.items():
        assert use.spills == 0 and use.stack == 0, f"{name} of {case} spills: {use}"
        limit = PLAIN if dtype == "float32" and case in SCALAR else REGISTERS
        assert use.registers <= limit, f"{name} of {case} takes {use.registers} registers"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [c for c in CASES if c != "gradients 3"])
def test_kernels_of_blocks_compile_into_registers(case: str, dtype: str) -> None:
    ready = prepare(CASES[case], 4, dtype, Gpu("sm_90", few=True), False, False, (), 64)
    assert ready is not None and ready.plan.ranged
    options = ("--gpu-architecture=sm_90", *cuda.OPTIONS, "--ptxas-options=-v")
    for name, use in sass.usage(nvrtc.compile_with_log(render(ready.plan), options)[1]).items():
        assert use.spills == 0 and use.stack == 0, f"{name} of {case} spills: {use}"
        assert use.registers <= REGISTERS, f"{name} of {case} takes {use.registers} registers"


def slots(case: str, dtype: str) -> float:
    """Issue slots for each pair, or pair and component."""
    image, _ = compiled(case, dtype, "sm_90")
    s = plan(case, dtype).schedule
    columns = s.columns * s.unroll if s.wide else max(s.group, s.gather) * s.unroll
    return sass.main_loop(sass.disassemble(image)).slots / (s.rows * columns)


@pytest.mark.parametrize(("case", "dtype"), BUDGET)
def test_issue_slots_stay_within_the_budget(case: str, dtype: str) -> None:
    assert slots(case, dtype) <= BUDGET[case, dtype]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_is_accepted_by_the_real_compiler(name: str, dtype: str) -> None:
    """The emulator compiles the same text, but with another compiler."""
    for D in (3, 33):
        ready = prepare(one(FORMULAS[name](D) * Vj(2, 1)), 6, dtype, Gpu("sm_90"), False, False)
        assert ready is not None
        assert nvrtc.compile(render(ready.plan), ("--gpu-architecture=sm_90", *cuda.OPTIONS))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_op_is_accepted_by_the_real_compiler(dtype: str) -> None:
    total: Expr | None = None
    numbered = {"powi": 3, "round": 2, "sinxdivx": 1, "polygamma": 1}
    for name, op in sorted(OPS.items()):
        if op.code is None or name in ("exp_scaled", "exp_nonpos"):
            continue
        args = (Vi(0, 1), Vj(1, 1), Vi(0, 1) * Vj(1, 1))[: op.arity]
        value = node(name, *args, attr=(numbered[name],) if name in numbered else ())
        total = value if total is None else total + value
    assert total is not None
    total = total + ops.dot(ops.matvecmult(Vi(2, 400), Vj(3, 20)), ops.one_hot(Vj(1, 1), 20))
    total = total + ops.vector_argmax(Vj(3, 20) * Vi(0, 1)) * ops.softdtw_sqdist(
        Vi(4, 5), Vj(3, 20), Vi(0, 1)
    )
    ready = prepare(one(total), 5, dtype, Gpu("sm_90"), False, False)
    assert ready is not None
    assert nvrtc.compile(render(ready.plan), ("--gpu-architecture=sm_90", *cuda.OPTIONS))


def test_float64_arithmetic_stays_within_the_budget() -> None:
    """It is half as fast as anything else, so it is what binds: 17 operations for three dimensions."""
    image, _ = compiled("gaussian 3", "float64", "sm_90")
    s = plan("gaussian 3", "float64").schedule
    loop = sass.main_loop(sass.disassemble(image))
    double = sum(n for name, n in loop.instructions.items() if name.startswith("D") and name != "DEPBAR")
    assert double / (s.rows * max(s.group, s.gather) * s.unroll) <= 17


def test_control_more_work_takes_more_slots() -> None:
    assert slots("gaussian 10", "float32") > slots("gaussian 3", "float32") + 12


def test_control_spills_are_seen() -> None:
    many = "; ".join(f"float r{k} = p[{k} * n]" for k in range(300))
    use = "; ".join(f"p[{k}] = r{(k * 7) % 300} * r{k}" for k in range(300))
    source = (
        f'extern "C" __global__ void __launch_bounds__(1024) kg_many(float *p, int n) {{ {many}; {use}; }}'
    )
    _, log = nvrtc.compile_with_log(source, ("--gpu-architecture=sm_90", "--ptxas-options=-v"))
    assert sass.usage(log)["kg_many"].spills > 0


def test_errors_hold_the_log_and_the_source() -> None:
    from pathlib import Path

    from kerngp.errors import CompileError

    with pytest.raises(CompileError, match='identifier "nonsense" is undefined') as raised:
        nvrtc.compile("__global__ void f() { nonsense; }", ("--gpu-architecture=sm_90",))
    path = next(w for w in str(raised.value).replace(". NVRTC", " ").split() if w.endswith(".cu"))
    assert "nonsense" in Path(path).read_text()
    Path(path).unlink()
