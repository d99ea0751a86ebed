"""Launch generated kernels on NVIDIA devices through PyCUDA, on torch's memory, context and stream.

PyCUDA is imported when it is first needed: without it, or without a driver, this backend is unavailable
and everything else works. torch owns the primary context and the streams; nothing is synchronised, and
no context stays pushed, because PyCUDA aborts when a thread ends with one.
"""

from __future__ import annotations

import array
import ctypes
import functools
import logging
import math
import struct
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...errors import BackendUnavailable
from ...options import Options
from .. import cuda_choice
from ..cache import cached_compile
from ..expr import Expr, variables
from ..plan import Geometry, Output, Plan, Shape, shapes_of, slices
from ..planner import Prepared, expandable, normal, passes
from ..reduction import over_rows, typed
from ..render.cuda_mma import form_of
from ..render.cuda_tile import PACK_THREADS
from . import nvrtc, reference
from .cuda_host import run_in_pieces
from .cuda_layout import CudaLayout, cuda_layout
from .cuda_tune import Tuner, tuned
from .halves import halved, joined, side, without_pairs

Tensor = torch.Tensor
name = "cuda"
LOG = logging.getLogger("kerngp")

OPTIONS = ("--std=c++17", "--fmad=false")  # products and sums are fused where the renderer says so
_ANY = torch.device("cuda")
# Largest squared distance from the centre that tensor cores take: in units of the exponent; of selections,
# which scale by it.
NORM_LIMIT, SELECT_LIMIT = 128.0, 2.0**60


@dataclass(frozen=True, eq=False)
class Device:
    """A GPU as the launcher sees it.

    Attributes
    ----------
    ordinal : int
        Its number, the same for torch and for PyCUDA.
    place : torch.device
        Where its tensors live.
    arch : str
        As ``sm_90``.
    multiprocessors : int
    compile : callable (source) -> bytes
        Source to what `pycuda.driver.module_from_buffer` loads.
    stream : callable () -> int
        Handle of torch's current stream; 0 is the default one.
    room : callable () -> int
        Bytes that data moved there for a call may take.
    is_current : callable () -> bool
        Whether it is the calling thread's current device.
    tuner : Tuner
        How it measures, where that is asked for.
    """

    ordinal: int
    place: torch.device
    arch: str
    multiprocessors: int
    compile: Callable[[str], bytes]
    stream: Callable[[], int]
    room: Callable[[], int]
    is_current: Callable[[], bool]
    tuner: Tuner


# ---------------------------------------------------------------- the device


@functools.cache
def driver() -> Any:
    """PyCUDA's driver module, initialised.

    Raises
    ------
    BackendUnavailable
        PyCUDA or NVIDIA's driver is missing; the message says which.
    """
    try:
        import pycuda.driver as module  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        if "libcuda" in str(error):
            raise BackendUnavailable(
                f"NVIDIA's driver was not found ({error}); backend='cuda' needs a GPU and its driver."
            ) from error
        raise BackendUnavailable(
            f"PyCUDA is not installed ({error}); install it with 'python -m kerngp install-cuda'."
        ) from error
    cuda: Any = module
    try:
        cuda.init()
    except cuda.RuntimeError as error:
        raise BackendUnavailable(
            f"the CUDA driver did not start ({error}); see 'python -m kerngp doctor'."
        ) from error
    return cuda


def device_of(place: torch.device) -> Device:
    """The GPU of torch's device; without a number, the current one.

    Raises
    ------
    BackendUnavailable
        It cannot be used; the message says what is missing.
    """
    return _device(place.index if place.index is not None else _current_ordinal())


def _current_ordinal() -> int:
    if not torch.cuda.is_available():
        raise BackendUnavailable(
            "torch sees no GPU (torch.cuda.is_available() is False); backend='cuda' needs one and a CUDA "
            "build of torch; see 'python -m kerngp doctor'."
        )
    return torch.cuda.current_device()


@functools.cache
def _device(ordinal: int) -> Device:
    _current_ordinal()  # there is one
    driver()
    properties = torch.cuda.get_device_properties(ordinal)
    arch = f"sm_{properties.major}{properties.minor}"
    current, chosen = torch._C._cuda_getCurrentRawStream, torch._C._cuda_getDevice
    return Device(
        ordinal,
        torch.device("cuda", ordinal),
        arch,
        properties.multi_processor_count,
        lambda source: compile_source(source, arch),
        lambda: current(ordinal),
        lambda: torch.cuda.mem_get_info(ordinal)[0] // 2,
        lambda: chosen() == ordinal,
        Tuner(f"{properties.name} {arch}", functools.partial(_seconds, ordinal), (driver().Error,)),
    )


def _seconds(ordinal: int, work: Callable[[], Any]) -> float:
    """How long the device works on what is launched; waits for it."""
    with torch.cuda.device(ordinal):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / 1e3


def usable(place: torch.device) -> bool:
    """Whether generated code can run there; if not, a warning says why, once."""
    return _reason(place) is None


@functools.cache
def _reason(place: torch.device) -> str | None:
    try:
        device_of(place)
    except BackendUnavailable as error:
        warnings.warn(f"{place}: formulas run as torch operations, many times slower: {error}", stacklevel=2)
        return str(error)
    return None


def compile_source(source: str, arch: str) -> bytes:
    """Machine code for an architecture, from the cache on disk, NVRTC, or nvcc where NVRTC is missing."""
    try:
        nvrtc.library()
    except BackendUnavailable:
        return _compile_with_nvcc(source, arch)
    options = (f"--gpu-architecture={arch}", *OPTIONS)
    version = ".".join(map(str, nvrtc.version()))
    key = ("nvrtc", version, *options, source)
    return cached_compile(key, lambda: nvrtc.compile(source, options))


def _compile_with_nvcc(source: str, arch: str) -> bytes:
    """The same by PyCUDA's compiler driver, which calls nvcc and keeps a cache of its own."""
    from pycuda.compiler import compile as nvcc  # pyright: ignore[reportMissingImports]

    return nvcc(source, options=list(OPTIONS), arch=arch, no_extern_c=True)


# ---------------------------------------------------------------- contexts, streams, modules

_LOCK = threading.RLock()


@functools.cache
def _context(ordinal: int) -> Any:
    """The device's primary context, torch's own. Kept to the end of the process, never left pushed."""
    cuda = driver()
    if torch.cuda.is_available():
        torch.cuda.init()
        torch.empty(1, device=f"cuda:{ordinal}")  # torch makes the context
    context = cuda.Device(ordinal).retain_primary_context()
    return _immortal(context)


def _immortal(x: Any) -> Any:
    """PyCUDA's destructors are bound to threads: what lives as long as the process is never destroyed."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(x))
    return x


class _active:
    """``with _active(ordinal)``: the context is current, as creating modules and streams demands."""

    def __init__(self, ordinal: int):
        self.context = _context(ordinal)

    def __enter__(self) -> None:
        self.context.push()

    def __exit__(self, *error: object) -> None:
        driver().Context.pop()


@dataclass(frozen=True, eq=False)
class Kernels:
    """The loaded functions of a plan."""

    pack: Callable[..., None]
    tile: Callable[..., None]
    merge: Callable[..., None]
    split: Callable[..., None] | None


@functools.lru_cache(maxsize=512)
def kernels(plan: Plan, device: Device) -> Kernels:
    """Render, compile (or find in the cache) and load a plan."""
    from ..render.cuda_tile import render

    start = time.perf_counter()
    image = device.compile(render(plan))
    LOG.info("cuda kernel ready after %.2f s: %s", time.perf_counter() - start, plan)
    with _LOCK, _active(device.ordinal):
        module = _immortal(driver().module_from_buffer(image))
        names = ("pack", "tile", "merge", *(("split",) if plan.schedule.tensor else ()))
        found = [_immortal(module.get_function(f"kg_{n}"))._launch_kernel for n in names]
    return Kernels(found[0], found[1], found[2], found[3] if plan.schedule.tensor else None)


_SIDE = threading.local()


def _side_stream(device: Device) -> tuple[Any, Any]:
    """A stream of PyCUDA's and torch's view of it, for this thread: PyCUDA cannot launch on a foreign one."""
    table = _SIDE.__dict__.setdefault("streams", {})
    if device.ordinal not in table:
        with _LOCK, _active(device.ordinal):
            stream = _immortal(driver().Stream(1))  # not synchronised with the default stream
        table[device.ordinal] = (stream, torch.cuda.ExternalStream(stream.handle, device=device.place))
    return table[device.ordinal]


def _launch(device: Device, calls: list[tuple[Callable[..., None], int, int, int]], context: bytes) -> None:
    """Kernels one after the other, ordered with the caller's current stream."""
    if not device.is_current():
        with torch.cuda.device(device.ordinal):
            _launch(device, calls, context)
        return
    if device.stream() == 0:
        if device.place.type == "cuda" and not _SIDE.__dict__.get("bound"):
            torch.cuda.current_stream(device.place).query()  # gives a new thread torch's context
            _SIDE.bound = True
        for function, blocks, threads, shared in calls:
            function((blocks, 1), (threads, 1, 1), context, shared, None)
        return
    stream, view = _side_stream(device)
    current = torch.cuda.current_stream(device.place)
    view.wait_stream(current)
    for function, blocks, threads, shared in calls:
        function((blocks, 1), (threads, 1, 1), context, shared, stream)
    current.wait_stream(view)


# ---------------------------------------------------------------- one call


def run(
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    g: Geometry,
    options: Options,
    shapes: tuple[Shape, ...] | None = None,
) -> list[tuple[Tensor, ...]]:
    """Each output's tensors; what the kernels do not cover goes to the reference backend."""
    if g.dtype in (torch.float16, torch.bfloat16):  # 16-bit floats are storage only
        wide = run(outputs, tuple(a.float() for a in args), replace(g, dtype=torch.float32), options)
        return [tuple(x.to(g.dtype) if x.is_floating_point() else x for x in out) for out in wide]
    if g.pairs == 0:
        return reference.run(outputs, args, g, options.memory_limit)
    device = device_of(g.device if g.device.type == "cuda" else _ANY)
    if not options.autotune and g.ranges is None:
        found = _recipe(outputs, shapes or shapes_of(args), g, device, options.precision)
        if found is not None:
            return [_follow(found, args, g, device)]
    cuts = [cuda_choice.cut(o, len(args), _name(g), device.arch) for o in outputs]
    if any(len(parts) > 1 for parts in cuts):
        rest = tuple([parts[0] for parts in cuts if len(parts) == 1])
        others = iter(run(rest, args, g, options) if rest else ())
        return [
            next(others)
            if len(parts) == 1
            else _side_by_side([run((p,), args, g, options)[0] for p in parts])
            for parts in cuts
        ]
    if g.device.type != device.place.type:
        move: Any = lambda o, a, piece: run(o, a, piece, options)  # noqa: E731
        return run_in_pieces(outputs, args, g, device.place, device.room(), move)
    results: dict[int, tuple[Tensor, ...]] = {}
    for group in passes(outputs):
        results.update(zip(group, _pass(group, outputs, args, g, device, options), strict=True))
    return [results[k] for k in range(len(outputs))]


@dataclass(frozen=True, eq=False)
class Recipe:
    """A launch of one output that needs nothing but addresses."""

    layout: CudaLayout
    calls: list[tuple[Callable[..., None], int, int, int]]
    pick: tuple[int, ...]  # which of the kernel's results are the output's


@functools.lru_cache(maxsize=4096)
def _recipe(
    outputs: tuple[Output, ...], shapes: tuple[Shape, ...], g: Geometry, device: Device, precision: str
) -> Recipe | None:
    """What a plain call comes to, so that calls like it are a look-up; None if there is more to it."""
    plain = (
        len(outputs) == 1 and outputs[0].axis == "j" and not g.batch and g.device.type == device.place.type
    )
    if not plain or outputs[0].reduction.law is not None or (g.M == g.N and g.M >= cuda_choice.HALVE_ABOVE):
        return None
    o = outputs[0]
    choice = cuda_choice.choose_cuda(outputs, len(shapes), g.M, g.N, 1, _name(g), precision, device.arch)
    if choice is None or choice.aside is not None:
        return None
    ready = choice.ready
    if ready.signal is not None or ready.posts != (None,):
        return None
    sign = -1 if o.reduction.negated else 1
    lay = cuda_layout(ready.plan, g, shapes, None, o.reduction.k, (sign,), device.multiprocessors)
    code = kernels(ready.plan, device)
    kinds = ("value", "index")
    return Recipe(lay, _calls(code, lay), tuple(kinds.index(kind) for kind in o.reduction.outputs))


def _follow(recipe: Recipe, args: tuple[Tensor, ...], g: Geometry, device: Device) -> tuple[Tensor, ...]:
    lay = recipe.layout
    numbers = array.array("q", lay.numbers)
    for slot, k in lay.bind:
        numbers[slot] = args[k].data_ptr()
    work = torch.empty(lay.work, dtype=torch.uint8, device=g.device)
    base = work.data_ptr()
    for slot, offset in lay.regions:
        numbers[slot] = base + offset
    found = []
    for slot, shape, dtype in lay.outputs[0]:
        a = torch.empty(shape, dtype=dtype, device=g.device)
        numbers[slot] = a.data_ptr()
        found.append(a)
    _launch(device, recipe.calls, numbers.tobytes())
    return tuple([found[k] for k in recipe.pick])


def _calls(code: Kernels, lay: CudaLayout) -> list[tuple[Callable[..., None], int, int, int]]:
    """The kernels of a launch in their order: function, blocks, threads, bytes of shared memory."""
    pack, tile, merge = lay.grids
    calls = [(code.pack, pack, PACK_THREADS, 0)] if pack else []
    if code.split is not None:
        calls.append((code.split, lay.split_grid, PACK_THREADS, 0))
    calls.append((code.tile, tile, lay.threads, lay.shared))
    return [*calls, (code.merge, merge, PACK_THREADS, 0)] if merge else calls


def _pass(
    group: tuple[int, ...],
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    g: Geometry,
    device: Device,
    options: Options,
) -> list[tuple[Tensor, ...]]:
    """One launch for all outputs of a group; else one for each; else the definition."""
    found = _generated(tuple([outputs[k] for k in group]), args, g, device, options)
    if found is not None:
        return found
    first, *others = group
    if others:  # the results for i, then those for j; else each alone
        apart = [tuple(k for k in group if (outputs[k].axis == "i") is turned) for turned in (False, True)]
        results: dict[int, tuple[Tensor, ...]] = {}
        for part in apart if all(apart) else [(k,) for k in group]:
            results.update(zip(part, _pass(part, outputs, args, g, device, options), strict=True))
        return [results[k] for k in group]
    o = outputs[first]
    parts = slices(o, cuda_choice.SLICE) if o.reduction.code != "sum" and o.reduction.law is None else None
    if parts is not None:
        return [_side_by_side([_pass((0,), (part,), args, g, device, options)[0] for part in parts])]
    return reference.run((o,), args, g, options.memory_limit)


def _side_by_side(results: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Results of some components each, as one."""
    return tuple([torch.cat(values, -1) for values in zip(*results, strict=True)])


def _generated(
    outputs: tuple[Output, ...], args: tuple[Tensor, ...], g: Geometry, device: Device, options: Options
) -> list[tuple[Tensor, ...]] | None:
    form, exchanged = normal(outputs)
    if exchanged:
        g = g.exchanged()
    half = halved(form, args, g, cuda_choice.HALVE_ABOVE)
    sizes = (len(args), g.M, g.N, math.prod(g.batch))
    ranged = g.ranges is not None
    choice = cuda_choice.choose_cuda(form, *sizes, _name(g), options.precision, device.arch, half, ranged)
    if choice is None:
        return None
    tune = options.autotune
    if choice.half is not None:
        both = (*args, *(args[k] for k in choice.half.copies))
        results = _execute(choice.ready, choice.half.outputs, both, g, device, tune=tune)
        return [(joined(choice.half, results, args, outputs[0].expr.dim, g),)]
    if choice.aside is not None:
        return _guarded(choice, choice.aside, form, args, g, device, tune)
    return _execute(choice.ready, form, args, g, device, tune=tune)


def _name(g: Geometry) -> str:
    return "float64" if g.dtype == torch.float64 else "float32"


def _guarded(
    choice: cuda_choice.Choice,
    exact: Prepared,
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    g: Geometry,
    device: Device,
    tune: bool,
) -> list[tuple[Tensor, ...]]:
    """Tensor cores, and differences where norms about the centre are too large for them.

    Both are launched and one returns at once, told by a word on the device: the host does not wait.
    """
    fast, m = choice.ready, choice.moments
    (distance,) = expandable(outputs, 0)
    u, v = distance.args[0].args[0].args
    centre = side(v if "j" in v.axes else u, args, g).mean(-2)
    limit = SELECT_LIMIT
    if all(t.exact is None for t in fast.plan.tasks):
        limit = NORM_LIMIT / max(1.0, abs(form_of(fast.plan).scale))
    word = torch.zeros(1, dtype=torch.int32, device=g.device)
    check = (word.data_ptr(), struct.unpack("i", struct.pack("f", limit))[0])
    arrays: list[list[Tensor]] = []
    if m is None:
        _execute(fast, outputs, (*args, centre), g, device, arrays, check, tune)
        return _execute(exact, outputs, args, g, device, arrays, check)
    ((sums,),) = _execute(fast, (m.output,), (*args, centre, centre), g, device, arrays, check, tune)
    ((plain,),) = _execute(exact, outputs, args, g, device, check=check)
    total = side(m.own, (*args, centre), g) * sums[..., -1:] - sums[..., :-1]
    if m.post is not None:
        total = total * side(m.post, args, g)
    return [(torch.where(word.view(torch.float32) <= limit, total, plain),)]


@functools.lru_cache(maxsize=4096)
def _axes(outputs: tuple[Output, ...], count: int) -> tuple[str, ...]:
    """The axis of each argument; '' where no formula reads it."""
    found = {v.attr[0]: v.attr[2] for v in variables(*(o.expr for o in outputs))}
    return tuple(found.get(k, "") for k in range(count))


def _flat(a: Tensor, axis: str, batch: tuple[int, ...]) -> Tensor:
    """The argument with at most one batch axis, which is copied only where its strides demand it."""
    rank = 1 if axis == "p" else 2
    lead = a.shape[:-rank]
    if not axis or len(lead) <= 1 and len(batch) <= 1:
        return a
    if all(n == 1 for n in lead):
        return a.reshape(a.shape[-rank:])
    return a.expand(*batch, *a.shape[-rank:]).reshape(-1, *a.shape[-rank:])


def _execute(
    ready: Prepared,
    outputs: tuple[Output, ...],
    args: tuple[Tensor, ...],
    g: Geometry,
    device: Device,
    arrays: list[list[Tensor]] | None = None,
    check: tuple[int, int] = (0, 0),
    tune: bool = False,
) -> list[tuple[Tensor, ...]]:
    """Allocate, fill in the addresses, launch.

    ``arrays`` take the results, and are made if the list is empty; ``check`` is the address of the largest
    norm and the bits of its limit, for plans of which one of two forms runs.
    """
    plan, whole, args_given = ready.plan, g, args
    if g.batch:
        axes = _axes(outputs, len(args))
        if plan.schedule.tensor:
            axes = (*axes[:-1], "p")  # the centre
        args = tuple([_flat(a, axis, g.batch) for a, axis in zip(args, axes, strict=True)])
        g = replace(g, batch=(math.prod(g.batch),))
    signal = None if ready.signal is None else _signal(ready.signal, args, g)
    kept = max([o.reduction.k for o in outputs])
    signs = tuple([-1 if o.reduction.negated else 1 for o in outputs])
    shape = None if signal is None else shapes_of((signal,))[0]
    shapes = shapes_of(args)
    rows = plan.schedule.rows_of_range
    walk = None if g.ranges is None else g.ranges.i.walk(rows)
    sizes = replace(g, ranges=None)

    results = [] if arrays is None else arrays

    def layout(plan: Plan) -> CudaLayout:
        return cuda_layout(plan, sizes, shapes, shape, kept, signs, device.multiprocessors, walk)

    def launch(plan: Plan) -> None:
        lay = layout(plan)
        tables = () if g.ranges is None else g.ranges.i.tables(rows, lay.splits, g.device)
        numbers = array.array("q", lay.numbers)
        for slot, k in lay.bind:
            numbers[slot] = args[k].data_ptr()
        for slot, table in zip(lay.walk, tables, strict=True):
            numbers[slot] = table.data_ptr()
        if signal is not None:
            numbers[lay.signal] = signal.data_ptr()
        work = torch.empty(lay.work, dtype=torch.uint8, device=g.device)
        base = work.data_ptr()
        for slot, offset in lay.regions:
            numbers[slot] = base + offset
        numbers[lay.guard], numbers[lay.guard + 1] = check
        for own, outs in zip(results, lay.outputs, strict=True):
            for a, (slot, _, _) in zip(own, outs, strict=True):
                numbers[slot] = a.data_ptr()
        _launch(device, _calls(kernels(plan, device), lay), numbers.tobytes())

    if not results:
        found = layout(plan).outputs
        results += [[torch.empty(shape, dtype=t, device=g.device) for _, shape, t in o] for o in found]
    if tune and g.ranges is None:
        about = (g.M, g.N, math.prod(g.batch), 1 if shape is None else shape.shape[-1], kept)
        plan = tuned(plan, about, device.tuner, lambda p: layout(p).shared, launch)
    launch(plan)
    return [
        _result(o, own, whole, None if post is None else side(post, args_given, whole))
        for o, own, post in zip(outputs, results, ready.posts, strict=True)
    ]


def _signal(f: Expr, args: tuple[Tensor, ...], g: Geometry) -> Tensor:
    """The signal's values, (batch or 1, N, E) or (N, E)."""
    b = side(f, args, g)
    return b.expand(*b.shape[:-2], g.N, b.shape[-1])


def _result(o: Output, arrays: list[Tensor], g: Geometry, post: Tensor | None) -> tuple[Tensor, ...]:
    if len(g.batch) > 1:
        arrays = [a.reshape(*g.batch, *a.shape[1:]) for a in arrays]
    r = o.reduction
    if r.law is not None:
        state = without_pairs(o, tuple(arrays), g, state=True)
        state = over_rows(r, state) if o.axis == "ij" else state
        return tuple([typed(x, kind, g.dtype) for x, kind in zip(r.final(r, state), r.outputs, strict=True)])
    named: dict[str, Tensor] = dict(zip(("value", "index"), arrays, strict=False))
    if o.axis == "i":
        value = named["value"] if post is None else named["value"] * post
        return (value.to(g.dtype).expand(*g.batch, g.N, o.expr.dim),)
    found = without_pairs(o, tuple([named[kind] for kind in o.reduction.outputs]), g)
    return found if o.axis == "j" else (found[0].sum(-2, dtype=torch.float64).to(g.dtype),)
