"""NVRTC, NVIDIA's run-time compiler, through ctypes: CUDA C++ to machine code, without device or driver.

torch's CUDA wheels bring it; ``pip install nvidia-cuda-nvrtc`` does where torch has no CUDA.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kerngp.errors import BackendUnavailable, CompileError


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library.

    Raises
    ------
    BackendUnavailable
        It is nowhere to be found.
    """
    tried = []
    for path in _candidates():
        try:
            found = _load(path)
        except OSError as error:
            tried.append(f"{path}: {error}")
            continue
        found.nvrtcGetErrorString.restype = ctypes.c_char_p
        return found
    raise BackendUnavailable(
        "NVRTC, CUDA's run-time compiler, was not found; install it with 'pip install nvidia-cuda-nvrtc' "
        "or a CUDA build of torch." + "".join(f"\n  tried {t}" for t in tried)
    )


def _load(path: str) -> ctypes.CDLL:
    for builtins in sorted(Path(path).parent.glob("libnvrtc-builtins.so*"))[:1] if os.sep in path else ():
        ctypes.CDLL(str(builtins))  # NVRTC opens it by its bare name, which finds what is loaded already
    return ctypes.CDLL(path)


def _candidates() -> Iterator[str]:
    """Paths and names to try: wheels first, since their version is the one torch was built with."""
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations if spec and spec.submodule_search_locations else ():
        for pattern in ("*/lib/libnvrtc.so.1*", "*/bin/nvrtc64_1*.dll", "*/bin/*/nvrtc64_1*.dll"):
            yield from sorted(
                (
                    str(p)
                    for p in Path(root).glob(pattern)
                    if "alt" not in p.name and "builtins" not in p.name
                ),
                reverse=True,
            )
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    yield from (str(p) for p in sorted(Path(home).glob("lib*/libnvrtc.so.1*")))
    name = ctypes.util.find_library("nvrtc")
    if name:
        yield name
    yield "libnvrtc.so"


@functools.cache
def version() -> tuple[int, int]:
    """Major and minor version."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    return major.value, minor.value


def compile(source: str, options: tuple[str, ...]) -> bytes:
    """Machine code of a source.

    Parameters
    ----------
    source : str
        CUDA C++ without includes.
    options : tuple of str
        As ``--gpu-architecture=sm_90``.

    Raises
    ------
    CompileError
        With NVRTC's log and the path of the source.
    BackendUnavailable
        NVRTC is not installed.
    """
    return compile_with_log(source, options)[0]


def compile_with_log(source: str, options: tuple[str, ...]) -> tuple[bytes, str]:
    """Machine code and the compiler's remarks (``--ptxas-options=-v`` asks for registers and spills)."""
    lib = library()
    program = ctypes.c_void_p()
    text = source.encode()
    _check(
        lib.nvrtcCreateProgram(ctypes.byref(program), text, b"kerngp.cu", 0, None, None), "nvrtcCreateProgram"
    )
    try:
        given = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        failed = lib.nvrtcCompileProgram(program, len(options), given)
        log = _text(lib, program, "ProgramLog").decode(errors="replace").rstrip("\0")
        if failed:
            with tempfile.NamedTemporaryFile("w", prefix="kerngp-", suffix=".cu", delete=False) as file:
                file.write(source)
            raise CompileError(
                f"NVRTC {'.'.join(map(str, version()))} refused generated code. Please report it with the "
                f"source, kept in {file.name}. NVRTC says:\n{log}"
            )
        return _text(lib, program, "CUBIN"), log
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))


def _text(lib: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"nvrtcGet{what}Size")
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(lib, f"nvrtcGet{what}")(program, buffer), f"nvrtcGet{what}")
    return buffer.raw


def _check(result: int, what: str) -> None:
    if result:
        raise CompileError(f"{what} failed: {library().nvrtcGetErrorString(result).decode()}")
