"""From outputs to a `Plan`: pure, table-driven, and testable without running anything."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from .autodiff import transpose
from .cuda_planner import Gpu
from .expr import Expr, const, postorder, variables
from .law import Law
from .ops import widen
from .plan import UNROLL, Output, Plan, Schedule, Task, stored
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

EXPAND_ABOVE = 16  # dimension from which |u - v|^2 is computed as |u|^2 + |v|^2 - 2 <u, v>
MAX_NODES = 4000  # formulas larger than this are left to the reference backend
MAX_DEPTH = 150
SELECT_FROM = 3  # dimension from which few points are as near as the error of an expanded distance
WIDE = 16  # components of an output from which it has a pass of its own
STATE = 80  # components of a state given by formulas, of which all are registers


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
    ranged: int = 0,
) -> Prepared | None:
    """The plan of a pass, or None if this kind of kernel cannot compute it.

    ``symmetric`` asks for one visit of each unordered pair: the caller knows that i and j index the
    same points and that the formula is symmetric in them, and passes the two outputs accordingly.
    ``facts`` are signs of parameters, which hold for the arguments of this call. ``ranged`` asks for a
    kernel that visits blocks of pairs, with about so many rows. For tensor cores every
    distance is expanded, and there is no plan where that would cost accuracy.
    """
    exprs = tuple(simplify(-o.expr if o.reduction.negated else o.expr) for o in outputs)
    if any(too_large(f) for f in exprs) or stored(exprs) > machine.memory:
        return None
    if any(o.reduction.law and too_long(o.reduction.law) for o in outputs):
        return None
    count, given = args, exprs
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
    exact = (f if tensor and o.reduction.selects else None for o, f in zip(outputs, given, strict=True))
    fields = hoist((*cores, *(t.post for t in tasks), *exact))
    n = len(tasks)
    found = (fields.exprs[k : k + n] for k in (0, n, 2 * n))
    done = tuple(
        replace(t, core=core, post=post, exact=f)
        for t, core, post, f in zip(tasks, *found, strict=True)
        if core is not None
    )
    if tensor and not _suits_tensor_cores(done):
        return None
    schedule = machine.choose(done, fields.fields, dtype)
    if ranged:
        schedule = schedule.for_ranges(done, ranged)
    i, j, p = (fields.fields[axis] for axis in "ijp")
    plan = Plan(dtype, done, i, j, p, count, symmetric, schedule, ranged > 0)
    return Prepared(plan, signal, tuple(posts))


def _suits_tensor_cores(tasks: tuple[Task, ...]) -> bool:
    """One smooth function of one distance, or selection by a distance alone.

    Not for states given by formulas: they may ask whether a value is exactly zero.
    """
    form = tensor_form([t.core for t in tasks])
    if form is None or not all(t.by_row and t.law is None for t in tasks):
        return False
    if any(t.exact is not None for t in tasks):
        (core, *others) = [t.core for t in tasks]
        near = core is form.node or (core.op == "neg" and core.args[0] is form.node)
        return near and not others and form.U.dim >= SELECT_FROM
    short = all(t.code in ("sum", "logsumexp") and t.core.dim == 1 for t in tasks)
    return form.U.dim > EXPAND_ABOVE or short


def _task(o: Output, f: Expr, alone: bool) -> tuple[Task, Expr | None, Expr | None]:
    """One output as a task, the factor left to the launch, and the signal if it has one."""
    law = o.reduction.law
    if law is not None:
        return Task("fold", f, dim=law.size, law=law), None, None
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
    core, post = product([p for p in (parts.pair, parts.signal) if p is not None]) or const(1.0), parts.post
    if core.dim == 1 and plain:  # a scalar that stands for a vector
        post = None if post is None and f.dim == 1 else widen(post or const(1.0), f.dim)
    return Task("sum", core, post, dim=f.dim), None, None


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


def too_long(law: Law) -> bool:
    """Whether a state does not fit into registers, or sums over many of its components at once."""
    formulas = (*law.stepped(1), *law.merged)
    return law.size > STATE or any(e.op == "sum" and e.args[0].dim > UNROLL for e in postorder(*formulas))


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
    elif codes == {"fold"}:
        states = sum(t.dim for t in tasks)
        rows, columns, block_signal = (2 if states <= 8 else 1), (4 if states <= 32 else 2), 4
    else:
        rows, columns, block_signal = 4, 1, 4
        if codes == {"min"}:
            rows, breadth = (4 if many else 2), 1
            columns = max(1, 8 // sum(t.core.dim for t in tasks))  # long code compiles slowly
        elif codes == {"sum"}:
            rows, columns, breadth = (4, 2, 2) if many else (3, 2, 2)
    total = sum(t.core.dim for t in tasks if not t.signal)
    if total > 4 and not rolled:
        rows = min(rows, 2)
    if stored(tuple(t.core for t in tasks)):
        rows, columns, breadth = 2, 1, 1
    if "kmin" in codes:
        rows = min(rows, 64 // width)  # the rows that passed are bits of one integer
    block = min(block, 128) if signal else block
    return Schedule(width, rows, columns, block, block_signal, breadth, machine.fma, machine.scaling)


__all__ = ["Machine", "Prepared", "choose", "expandable", "prepare", "too_large", "too_long", "variables"]
