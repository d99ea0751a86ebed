"""CUDA kernels on the CPU: generated sources compiled by g++, and a driver for PyCUDA that runs them.

The unmodified source is compiled with `emulation/device.h` in front. What a real device adds, machine code
and speed, is tested elsewhere; what is tested here is everything else, tails, barriers, merges, and the way
from `map_reduce` through PyCUDA to the kernel's arguments.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from kerngp.engine.backends import cuda, headers
from kerngp.engine.backends.cuda_tune import Tuner

HERE = Path(__file__).with_name("emulation")
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-w", "-ffp-contract=off"]
ENTRY = """
static void kg_body_{name}(const void *a) {{ KgContext c; memcpy(&c, a, sizeof c); {name}(c); }}
extern "C" int kg_entry_{name}(const unsigned *g, const unsigned *b, unsigned s, const void *a) {{
  return kg_launch(g, b, s, kg_body_{name}, a);
}}
"""


@functools.cache
def home() -> Path:
    """The built emulator: scheduler, driver, precompiled header. Made once for a version of its sources."""
    text = b"".join(p.read_bytes() for p in sorted(HERE.iterdir()))
    text += repr((FLAGS, sorted(headers.driver_symbols(headers.find())))).encode()
    digest = hashlib.sha256(text).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kerngp-tests"
    final = base / digest
    if not final.exists():
        base.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=base))
        _build(draft)
        try:
            draft.rename(final)  # another process may have been faster
        except OSError:
            shutil.rmtree(draft)
    return final


def _build(folder: Path) -> None:
    include = headers.find()
    scheduler = str(folder / "libkgemulator.so")
    run(["g++", *FLAGS, "-O2", "-shared", str(HERE / "scheduler.cpp"), "-o", scheduler])
    run(["g++", *FLAGS, f"-I{include}", "-c", str(HERE / "mock_libcuda.cpp"), "-o", str(folder / "mock.o")])
    have = set(re.findall(r" T (cu\w+)", run(["nm", "--defined-only", str(folder / "mock.o")])))
    rest = sorted(headers.driver_symbols(include) - have)
    stub = folder / "rest.c"
    stub.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in rest))
    run(["gcc", "-w", "-fPIC", "-O1", "-c", str(stub), "-o", str(folder / "rest.o")])
    objects = [str(folder / "mock.o"), str(folder / "rest.o")]
    run(["g++", "-shared", *objects, "-ldl", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")])
    shutil.copy(HERE / "device.h", folder / "device.h")
    run(["g++", *FLAGS, "-x", "c++-header", str(folder / "device.h"), "-o", str(folder / "device.h.gch")])


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[:4000]}"
    return done.stdout


def compile_kernels(source: str) -> bytes:
    """A shared object that the mock driver loads in place of machine code."""
    folder = home()
    names = re.findall(r'extern "C" __global__ void __launch_bounds__\(\d+, \d+\) (\w+)\(', source)
    text = source + "".join(ENTRY.format(name=n) for n in names)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "kernel.cpp"
        path.write_text(text)
        out = Path(scratch) / "kernel.so"
        link = ["-shared", str(folder / "libkgemulator.so"), f"-Wl,-rpath,{folder}", "-Wl,--strip-debug"]
        run(["g++", *FLAGS, "-include", str(folder / "device.h"), str(path), "-o", str(out), *link])
        return out.read_bytes()


@functools.cache
def load_emulator() -> ctypes.CDLL:
    return ctypes.CDLL(str(home() / "libkgemulator.so"), mode=ctypes.RTLD_GLOBAL)


@functools.cache
def load_driver() -> ctypes.CDLL:
    """Put the mock driver where PyCUDA finds it; returns it, for its counters."""
    load_emulator()
    return ctypes.CDLL(str(home() / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)


@functools.cache
def cached_kernels(source: str) -> bytes:
    """`compile_kernels`, remembered on disk by the product's own cache."""
    from kerngp.engine.cache import cached_compile

    key = ("emulator", str(home()), source)
    return cached_compile(key, lambda: compile_kernels(source), directory=home() / "kernels")


@functools.cache
def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def device() -> cuda.Device:
    """The emulated device; its memory is the CPU's."""
    load_driver()
    return cuda.Device(
        0,
        torch.device("cpu"),
        "sm_90",
        4,
        cached_kernels,
        lambda: 0,
        lambda: 1 << 30,
        lambda: True,
        Tuner("emulated sm_90", seconds),
    )
