"""From outputs to a `Plan`: pure, table-driven, and testable without running anything."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .autodiff import transpose
from .cuda_planner import Gpu
from .expr import Expr, const, postorder, variables
from .plan import Output, Plan, Schedule, Task, stored
from .rewrite import (
    Facts,
    distances,
    expand_distances,
    factor,
    hoist,
    merge_exponentials,
    product,
    simplify,
    strengthen,
)
from .tensor_form import tensor_form

UNROLL = 16  # inner dimensions above this are walked by loops; see render.lowering
EXPAND_ABOVE = 16  # dimension from which |u - v|^2 is computed as |u|^2 + |v|^2 - 2 <u, v>
MAX_NODES = 4000  # formulas larger than this are left to the reference backend
MAX_DEPTH = 150
WIDE = 16  # components of an output from which it has a pass of its own


@dataclass(frozen=True)
class Machine:
    """What the planner needs to know of a processor."""

    vector_bits: int
    registers: int
    fma: bool
    scaling: bool = False  # multiplies by powers of two and takes fractions in one instruction
    memory: int = 3000  # numbers that formulas may store for each pair

    def width(self, dtype: str) -> int:
        return self.vector_bits // (32 if dtype == "float32" else 64)

    def choose(self, tasks: tuple[Task, ...], fields: dict[str, tuple[Expr, ...]], dtype: str) -> Schedule:
        """The schedule of a plan over ``fields``."""
        return choose(tasks, sum(f.dim for f in fields["j"]), dtype, self)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A plan and what the launch computes around it.

    signal : formula of the signal of a signal task, over the arguments.
    posts : for each output, a factor the launch applies (results for j), or None.
    """

    plan: Plan
    signal: Expr | None
    posts: tuple[Expr | None, ...]


@functools.lru_cache(maxsize=4096)
def expandable(outputs: tuple[Output, ...], above: int = EXPAND_ABOVE) -> tuple[Expr, ...]:
    """The squared distances an expanded plan would expand, in the order of their centres."""
    found = [
        e for o in outputs for e in distances(simplify(-o.expr if o.reduction.negated else o.expr), above)
    ]
    return tuple(dict.fromkeys(found))


@functools.lru_cache(maxsize=4096)
def prepare(
    outputs: tuple[Output, ...],
    args: int,
    dtype: str,
    machine: Machine | Gpu,
    expand: bool,
    symmetric: bool,
    facts: Facts = (),
) -> Prepared | None:
    """The plan of a pass, or None if this kind of kernel cannot compute it.

    ``symmetric`` asks for one visit of each unordered pair: the caller knows that i and j index the
    same points and that the formula is symmetric in them, and passes the two outputs accordingly.
    ``facts`` are signs of parameters, which hold for the arguments of this call. For tensor cores every
    distance is expanded, and there is no plan where that would cost accuracy.
    """
    exprs = tuple(simplify(-o.expr if o.reduction.negated else o.expr) for o in outputs)
    if any(too_large(f) for f in exprs) or stored(exprs) > machine.memory:
        return None
    count = args
    tensor = isinstance(machine, Gpu) and machine.tensor
    if expand:
        expanded, count = expand_distances(exprs, 0 if tensor else EXPAND_ABOVE, args)
        exprs = tuple(map(simplify, expanded))
    tasks: list[Task] = []
    posts: list[Expr | None] = []
    signal: Expr | None = None
    for o, f in zip(outputs, exprs, strict=True):
        task, post, own_signal = _task(o, f, alone=len(outputs) == 1)
        tasks.append(task)
        posts.append(post)
        signal = own_signal or signal
    cores = tuple(strengthen(merge_exponentials(t.core), facts) for t in tasks)
    fields = hoist((*cores, *(t.post for t in tasks)))
    n = len(tasks)
    done = tuple(
        Task(t.code, core, post, t.by_row, t.signal, t.dim)
        for t, core, post in zip(tasks, fields.exprs[:n], fields.exprs[n:], strict=True)
        if core is not None
    )
    if tensor and not _suits_tensor_cores(done):
        return None
    schedule = machine.choose(done, fields.fields, dtype)
    plan = Plan(
        dtype, done, fields.fields["i"], fields.fields["j"], fields.fields["p"], count, symmetric, schedule
    )
    return Prepared(plan, signal, tuple(posts))


def _suits_tensor_cores(tasks: tuple[Task, ...]) -> bool:
    """One smooth function of one distance; selections only where expanding is usual anyway."""
    form = tensor_form([t.core for t in tasks])
    if form is None or not all(t.by_row for t in tasks):
        return False
    short = all(t.code in ("sum", "logsumexp") and t.core.dim == 1 for t in tasks)
    return form.U.dim > EXPAND_ABOVE or short


def _task(o: Output, f: Expr, alone: bool) -> tuple[Task, Expr | None, Expr | None]:
    """One output as a task, the factor left to the launch, and the signal if it has one."""
    if o.reduction.code != "sum":
        return Task(o.reduction.code, f, dim=f.dim), None, None
    if o.axis == "i":
        parts = factor(f, "i")
        core = product([p for p in (parts.pair, parts.signal) if p is not None]) or const(1.0)
        return Task("sum", core, None, by_row=False, dim=core.dim), parts.post, None
    parts = factor(f, "j")
    scalar = parts.pair is None or parts.pair.dim == 1
    plain = parts.post is None or parts.post.dim == 1
    if alone and parts.signal is not None and parts.signal.dim > 1 and scalar and plain:
        return Task("sum", parts.pair or const(1.0), parts.post, signal=True), None, parts.signal
    core = product([p for p in (parts.pair, parts.signal) if p is not None]) or const(1.0)
    return Task("sum", core, parts.post, dim=f.dim), None, None


@functools.lru_cache(maxsize=4096)
def passes(outputs: tuple[Output, ...]) -> tuple[tuple[int, ...], ...]:
    """Which outputs share a pass: all narrow ones; each wide one, whose columns have a scheme, alone."""
    narrow = tuple(k for k, o in enumerate(outputs) if o.expr.dim <= WIDE)
    wide = tuple((k,) for k, o in enumerate(outputs) if o.expr.dim > WIDE)
    return ((narrow,) if narrow else ()) + wide


@functools.lru_cache(maxsize=4096)
def normal(outputs: tuple[Output, ...]) -> tuple[tuple[Output, ...], bool]:
    """Outputs of the kernel's form, and whether i and j had to be exchanged for it.

    The form: any reduction over j, and beside it sums over i or over both. Where everything is
    reduced over i, that is the transpose.
    """
    if any(o.axis == "i" for o in outputs) and all(o.axis == "i" or o.axis == "ij" for o in outputs):
        turned = (Output(transpose(o.expr), o.reduction, "j" if o.axis == "i" else "ij") for o in outputs)
        return tuple(turned), True
    return outputs, False


@functools.lru_cache(maxsize=4096)
def decisive(outputs: tuple[Output, ...]) -> tuple[int, ...]:
    """Scalar parameters in the argument of an exponential: their signs may make it cheaper."""
    inside = [e.args[0] for o in outputs for e in postorder(o.expr) if e.op == "exp"]
    return tuple(v.attr[0] for v in variables(*inside) if v.attr[2] == "p" and v.dim == 1)


@functools.lru_cache(maxsize=4096)
def too_large(f: Expr) -> bool:
    """Whether the generated code would be unreasonable: very many nodes or a very deep formula."""
    depth: dict[Expr, int] = {}
    for e in postorder(f):
        depth[e] = 1 + max((depth[a] for a in e.args), default=0)
    return len(depth) > MAX_NODES or depth[f] > MAX_DEPTH


def choose(tasks: tuple[Task, ...], width_j: int, dtype: str, machine: Machine) -> Schedule:
    """Tile sizes, from the kind of work; measured on AVX2, scaled by the number of registers."""
    width = machine.width(dtype)
    many = machine.registers >= 32
    rolled = any(
        e.op == "sum" and e.args[0].dim > UNROLL and {"i", "j"} <= e.axes
        for t in tasks
        for e in postorder(t.core)
    )
    codes = {t.code for t in tasks}
    block = max(32, min(256, (1 << 17) // (4 * max(1, width_j)) // 32 * 32))
    signal = any(t.signal for t in tasks)
    breadth = 1
    if rolled:
        rows, columns, block_signal = (5, 4, 6) if many else (2, 6, 6)
        breadth = 1 if many else 3
    elif signal:
        rows, columns, block_signal = (4, 1, 6) if many else (3, 1, 4)
    elif codes == {"logsumexp"}:
        components = sum(t.core.dim for t in tasks)
        rows, columns, block_signal = 2, max(2, 16 // components), 4  # long code compiles slowly
        breadth = 2
    else:
        rows, columns, block_signal = 4, 1, 4
        if codes == {"min"}:
            rows, breadth = (4 if many else 2), 1
            columns = max(1, 8 // sum(t.core.dim for t in tasks))  # long code compiles slowly
        elif codes == {"sum"}:
            rows, columns, breadth = (4, 2, 2) if many else (3, 2, 2)
    total = sum(t.core.dim for t in tasks if not t.signal)
    if total > 4 and not rolled:
        rows = 2
    if stored(tuple(t.core for t in tasks)):
        rows, columns, breadth = 2, 1, 1
    if "kmin" in codes:
        rows = min(rows, 64 // width)  # the rows that passed are bits of one integer
    block = min(block, 128) if signal else block
    return Schedule(width, rows, columns, block, block_signal, breadth, machine.fma, machine.scaling)


__all__ = ["Machine", "Prepared", "choose", "expandable", "prepare", "too_large", "variables"]
