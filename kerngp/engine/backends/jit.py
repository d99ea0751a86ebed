"""LLVM through llvmlite: IR text to an object file, an object file to callable functions.

Importing this module imports llvmlite (about 0.1 s); only the cpu backend does so, when it first compiles.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import llvmlite
from llvmlite import binding as llvm

from kerngp.engine.cache import cached_compile
from kerngp.errors import CompileError

#: Version of LLVM and of its binding: part of every cache key.
COMPILER = f"LLVM {'.'.join(map(str, llvm.llvm_version_info))}, llvmlite {llvmlite.__version__}"

_MACHINE_LEVEL = 2  # of instruction selection and scheduling; 3 gives the same code for straight-line kernels
_NAMED = {
    "avx2": ("x86_64-unknown-linux-gnu", "haswell", "+avx2,+fma"),
    "avx512": ("x86_64-unknown-linux-gnu", "skylake-avx512", "+avx2,+avx512dq,+avx512f,+fma"),
    "neon": ("aarch64-unknown-linux-gnu", "neoverse-n1", "+neon"),
}
_setup_lock = threading.Lock()


@dataclass(frozen=True)
class Target:
    """A processor to generate code for.

    Attributes
    ----------
    triple, cpu
        As LLVM names them, such as ``x86_64-unknown-linux-gnu`` and ``haswell``.
    features
        Sorted and comma-separated, ``+avx2,-avx512f``; added to those the CPU's name stands for.
    width_bits
        Bits of a vector register: 512 with AVX-512, 256 with AVX, else 128. We take 512 wherever it exists,
        also on processors that lower their clock for it: the kernels are arithmetic from end to end.
    has_fma
        Whether a fused multiply-add is one instruction. Without it ``llvm.fma`` becomes a library call.
    has_scaling
        Whether one instruction multiplies by a power of two, and one takes the fraction (AVX-512DQ).
    """

    triple: str
    cpu: str
    features: str
    width_bits: int = field(init=False)
    has_fma: bool = field(init=False)
    has_scaling: bool = field(init=False)

    def __post_init__(self) -> None:
        features = ",".join(sorted(filter(None, self.features.split(",")), key=lambda name: name[1:]))
        on = {name[1:] for name in features.split(",") if name.startswith("+")}
        width = 512 if "avx512f" in on else 256 if "avx" in on or "avx2" in on else 128
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "width_bits", width)
        object.__setattr__(self, "has_fma", bool({"fma", "fma4", "avx512f"} & on) or self._is_arm64)
        object.__setattr__(self, "has_scaling", {"avx512f", "avx512dq"} <= on)

    @property
    def _is_arm64(self) -> bool:
        return self.triple.startswith(("aarch64", "arm64"))

    @staticmethod
    def named(name: str) -> Target:
        """One of ``avx2``, ``avx512``, ``neon``: for looking at assembly on any machine."""
        if name not in _NAMED:
            raise ValueError(f"unknown target {name!r}; expected one of {', '.join(_NAMED)}")
        return Target(*_NAMED[name])


@functools.cache
def host_target() -> Target:
    """The machine we run on; to restrict it, build a `Target` with other features."""
    _setup()
    try:
        features = llvm.get_host_cpu_features().flatten()
    except RuntimeError:  # not known on this system: the CPU's name alone decides
        features = ""
    return Target(llvm.get_process_triple(), llvm.get_host_cpu_name(), features)


def compile_ir(text: str, target: Target, passes: int = 1, *, cache_dir: Path | None = None) -> bytes:
    """Compile a module to an object file, or find it in the cache.

    Parameters
    ----------
    text
        LLVM IR. Vectors are explicit: LLVM vectorises nothing.
    passes
        0 promotes variables to registers and nothing more; 1, 2 and 3 run LLVM's pipeline of that level.
        Measured on our kernels, 0 compiles in 20-60 ms and is up to 10 % slower than 1 (45-100 ms) on short
        bodies; 2 (50-150 ms) gains over 1 only on long ones.
    cache_dir
        Directory of the cache, by default the user's.

    Raises
    ------
    CompileError
        LLVM refused the module; the message holds its log and the path of the source.
    """
    flags = f"passes={passes} machine={_MACHINE_LEVEL} source-order"
    key = ("llvm", text, flags, COMPILER, target.triple, target.cpu, target.features)

    def emit() -> bytes:
        return _generate(text, target, passes, lambda machine, module: machine.emit_object(module))

    return cached_compile(key, emit, directory=cache_dir)


def assembly(text: str, target: Target, passes: int = 1) -> str:
    """The assembly `compile_ir` stands for, for any target, host or not."""
    return _generate(text, target, passes, lambda machine, module: machine.emit_assembly(module))


def load(binary: bytes) -> Library:
    """Load an object file compiled for this machine. It must be undamaged: LLVM aborts on one that is not."""
    return Library(binary)


class Library:
    """Functions of a loaded object file; its code lives as long as the library or any function of it."""

    def __init__(self, binary: bytes) -> None:
        _setup()
        # The engine owns a module; ours is empty, the code comes from the object file.
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(host_target()))
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
        self._engine.finalize_object()

    def function(self, name: str, n_args: int) -> Callable[..., None]:
        """A C function ``void name(int64, ...)``: pass integers and addresses. It runs without the GIL."""
        address = self._engine.get_function_address(name)
        if not address:
            raise KeyError(f"no function {name!r} in the library")
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * n_args)(address)
        function.library = self  # type: ignore[attr-defined]  # keeps the code mapped
        return function


def _generate(text: str, target: Target, passes: int, emit: Callable):
    """Parse, verify, optimise and emit; LLVM's complaints become a CompileError."""
    _setup()
    try:
        # A context of its own, so that the types and constants of this module go when it goes. Both are
        # closed here: the garbage collector may dispose of a context before its module, and that is a crash.
        with llvm.create_context() as context, llvm.parse_assembly(text, context) as module:
            module.verify()
            declared = [function.name for function in module.functions if function.is_declaration]
            missing = [name for name in declared if not name.startswith("llvm.")]
            if missing:  # loading the code would end the process
                raise RuntimeError(f"undefined functions: {', '.join(missing)}")
            machine = _machine(target)
            module.triple, module.data_layout = target.triple, str(machine.target_data)
            _optimise(module, machine, passes)
            with _source_order():
                return emit(machine, module)
    except RuntimeError as error:
        with tempfile.NamedTemporaryFile("w", prefix="kerngp-", suffix=".ll", delete=False) as file:
            file.write(text)
        raise CompileError(
            f"LLVM refused generated code for {target.cpu} ({COMPILER}). Please report it with the source, "
            f"kept in {file.name}. LLVM says:\n{error}"
        ) from error


@contextlib.contextmanager
def _source_order() -> Iterator[None]:
    """Code generation that keeps the order of the instructions.

    The renderer interleaves independent chains; LLVM's machine scheduler undoes that to save registers
    it need not save, at 15-20 % of the speed. The option is LLVM's for the whole process, so it is set
    back; another user of LLVM in this moment gets code that is scheduled by the processor alone.
    """
    with _setup_lock:
        llvm.set_option("kerngp", "--enable-misched=false")
        try:
            yield
        finally:
            llvm.set_option("kerngp", "--enable-misched=true")


def _machine(target: Target) -> llvm.TargetMachine:
    # llvmlite's default code model for x86 is "large". It reads each constant through a register that holds
    # its address, which measures 10-40 % faster on our kernels than the small model's rip-relative loads.
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=_MACHINE_LEVEL
    )


def _optimise(module: llvm.ModuleRef, machine: llvm.TargetMachine, passes: int) -> None:
    options = llvm.create_pipeline_tuning_options(speed_level=passes)
    # Vectors, register blocks and unrolling are the renderer's decisions.
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_interleaving = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    if passes > 0:
        builder.getModulePassManager().run(module, builder)
        return
    manager = llvm.create_new_function_pass_manager()
    manager.add_sroa_pass()
    for function in module.functions:
        if not function.is_declaration:
            manager.run(function, builder)


def _setup() -> None:
    with _setup_lock:
        _initialise_once()


@functools.cache
def _initialise_once() -> None:
    llvm.initialize_all_targets()  # 2 ms; other processors than the host serve to look at assembly
    llvm.initialize_all_asmprinters()
