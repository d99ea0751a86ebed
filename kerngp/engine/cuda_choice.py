"""Which CUDA kernel serves a call: pure, from formulas and sizes, with the reason for it.

tile      every formula; differences, exact in every precision
tile-sym  K(x, x) b of a symmetric formula: each unordered pair is visited once
mma       squared distances on tensor cores, with tile at its side for data they do not take
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .cuda_planner import Gpu
from .expr import variables
from .moments import Moments, moments
from .plan import UNROLL, Output, Plan, slices
from .planner import WIDE, Prepared, normal, prepare
from .symmetry import Halved

FEW_ROWS = 256  # up to here, each thread takes one row
HALVE_ABOVE = 4096  # symmetric sums of more points visit each pair once
SHORT = 4  # longest vectors of a symmetric sum that differences are fast enough for
SLICE = 8  # components of a long value in one launch, if it is not summed
PARTS = 4  # components of a state given by formulas beside inner sums too long to unroll: registers are few
TENSOR_ABOVE = 1 << 22  # pairs from which tensor cores pay for their second launch
SELECT_ABOVE = 1 << 15  # columns, for each of k, from which few groups of them hold candidates


@dataclass(frozen=True, eq=False)
class Choice:
    """A launch, or two of which one returns at once.

    ``aside`` is the plan launched beside ``ready``, for data it does not take; ``half`` the symmetric sum;
    ``moments`` the sum of differences that ``ready`` computes as columns.
    """

    form: str
    ready: Prepared
    why: str
    aside: Prepared | None = None
    half: Halved | None = None
    moments: Moments | None = None

    def explain(self) -> str:
        """The kernel, the reason, and how it walks the pairs."""
        lines = [f"{self.form}: {self.why}", *_describe(self.ready.plan)]
        if self.aside is not None:
            lines += ["beside it, for data far from their centre:", *_describe(self.aside.plan)]
        return "\n".join(lines)


def _describe(plan: Plan) -> list[str]:
    s = plan.schedule
    walk = (
        f"{s.lanes} lanes share rows, {s.columns} columns each at a time"
        if s.wide
        else f"{s.block_j} columns staged in shared memory, {max(s.group, s.gather)} evaluated together"
    )
    tasks = [
        f"  {t.code} over {'j' if t.by_row else 'i'} of {t.core}" + (f", times {t.post}" if t.post else "")
        for t in plan.tasks
    ]
    return [
        *tasks,
        f"  {plan.dtype}, {s.threads} threads of {s.rows} rows; {walk}",
        f"  fields of i: {', '.join(map(str, plan.fields_i)) or 'none'}",
        f"  fields of j: {', '.join(map(str, plan.fields_j)) or 'none'}",
    ]


def choose_cuda(
    outputs: tuple[Output, ...],
    args: int,
    M: int,
    N: int,
    batches: int,
    dtype: str,
    precision: str,
    arch: str,
    half: Halved | None = None,
    ranged: bool = False,
) -> Choice | None:
    """The kernel for outputs over j (or beside them sums over i); None if none is generated.

    Parameters
    ----------
    outputs : tuple of Output
    args : int
        Number of arguments.
    M, N, batches : int
    dtype : {"float32", "float64"}
    precision : {"exact", "default", "tf32"}
    arch : str
        As ``sm_90``.
    half : Halved, optional
        The two halves of the sum, where i and j are the same points and the formula is symmetric.
    ranged : bool
        Blocks of pairs are visited, whose rows are few.
    """
    gpu = Gpu(arch, M <= FEW_ROWS or ranged)
    if half is not None and max(v.dim for v in variables(*(o.expr for o in outputs))) <= SHORT:
        ready = planned(half.outputs, args + len(half.copies), dtype, gpu, True)
        if ready is not None:
            why = f"the formula is symmetric, i and j are the same {M} points, vectors of at most {SHORT}"
            return Choice("tile-sym", ready, why, half=half)
    ready = planned(outputs, args, dtype, gpu, False, ranged)
    if ready is None:
        return None
    if ranged:
        return Choice("tile", ready, "blocks of pairs")
    if precision == "exact":
        return Choice("tile", ready, "precision='exact' asks for differences")
    if dtype == "float64":
        return Choice("tile", ready, "float64")
    if M * N * batches < TENSOR_ABOVE:
        return Choice("tile", ready, f"{M * N * batches} pairs do not pay for a second launch")
    words = 1 if precision == "tf32" else 2
    cores = Gpu(arch, False, True, words)
    m = moments(outputs[0], args) if len(outputs) == 1 and outputs[0].expr.dim > WIDE else None
    fast = m and planned((m.output,), args + 1, dtype, cores, False)
    if fast is not None:
        why = "a sum of differences, as columns of a second product"
        return Choice("mma", fast, why, aside=ready, moments=m)
    fast = planned(outputs, args, dtype, cores, False)
    if fast is None:
        return Choice("tile", ready, "the formula is not a smooth function of one squared distance")
    if fast.plan.tasks[0].exact is not None:
        least = SELECT_ABOVE * outputs[0].reduction.k
        if N < least:
            return Choice("tile", ready, f"too many candidates among fewer than {least} columns")
        why = "selection by a squared distance, candidates decided by differences"
        return Choice("mma", fast, why, aside=ready)
    why = f"a function of one squared distance, many pairs, float32 in {words} word{'s'[: words - 1]}"
    return Choice("mma", fast, why, aside=ready)


def _axes(code: str) -> tuple[str, ...]:
    """The axes a kernel may reduce."""
    return {"sum": ("j", "i", "ij"), "fold": ("j", "ij")}.get(code, ("j",))


@functools.lru_cache(maxsize=4096)
def planned(
    outputs: tuple[Output, ...], args: int, dtype: str, gpu: Gpu, symmetric: bool, ranged: bool = False
) -> Prepared | None:
    """The plan of a launch, or None if there is no generated code for it."""
    if any(o.axis not in _axes(o.reduction.code) for o in outputs):
        return None
    if ranged and any(o.axis == "i" for o in outputs):  # these are launched over the transposed blocks
        return None
    ready = prepare(outputs, args, dtype, gpu, gpu.tensor, symmetric, (), FEW_ROWS if ranged else 0)
    if ready is None:
        return None
    wide = ready.plan.schedule.wide  # has no sums over i; and long values have code for sums only
    if wide and any(o.reduction.law is not None and slices(o, PARTS) for o in outputs):
        return None  # cut it first
    if any((t.code != "sum" and t.core.dim > UNROLL) or (wide and not t.by_row) for t in ready.plan.tasks):
        return None
    return ready


@functools.lru_cache(maxsize=4096)
def cut(o: Output, args: int, dtype: str, arch: str) -> tuple[Output, ...]:
    """The output, a few components at a time if its state has too many for one kernel."""
    form = normal((o,))[0]
    if o.reduction.law is None or planned(form, args, dtype, Gpu(arch), False) is not None:
        return (o,)
    parts = slices(o, SLICE) or slices(o, PARTS)
    return (o,) if parts is None else tuple([q for p in parts for q in cut(p, args, dtype, arch)])
