"""What is here, what is missing, and what to do about it."""

from __future__ import annotations

import platform
from collections.abc import Callable

import torch

from ..errors import BackendUnavailable, KerngpError


def report() -> tuple[str, bool]:
    """A line for each thing kerngp needs, and whether everything that applies to this machine is there.

    The CPU backend must work. CUDA's parts are faults only where torch sees a GPU.
    """
    here = torch.cuda.is_available()
    checks: list[tuple[str, Callable[[], str], bool]] = [
        ("python", lambda: f"{platform.python_version()} on {platform.platform()}", True),
        ("torch", _torch, True),
        ("cpu backend", _cpu, True),
        ("cache of binaries", _cache, True),
        ("GPU", _gpu, False),
        ("NVRTC", _nvrtc, here),
        ("PyCUDA and driver", _pycuda, here),
        ("cuda backend", _cuda, here),
    ]
    lines, healthy = [], True
    for name, check, needed in checks:
        try:
            text, mark = check(), "ok  "
        except (KerngpError, OSError, RuntimeError) as error:
            text, mark = str(error), "FAIL" if needed else "none"
            healthy &= not needed
        lines.append(f"{mark} {name:18} {text}")
    return "\n".join(lines), healthy


def _try(place: str, backend: str) -> None:
    """A small sum, compared with its definition."""
    from ..engine.expr import Vi, Vj
    from ..engine.mapreduce import map_reduce
    from ..engine.ops import exp, sqdist
    from ..engine.reductions import SUM
    from ..options import Options

    x, y = torch.rand(70, 3, device=place), torch.rand(90, 3, device=place)
    f = exp(-sqdist(Vi(0, 3), Vj(1, 3)))
    got = map_reduce(f, SUM, (x, y), options=Options(backend=backend))
    want = torch.exp(-(torch.cdist(x.double(), y.double()) ** 2)).sum(1, keepdim=True)
    assert isinstance(got, torch.Tensor)
    if not torch.allclose(got.double(), want, rtol=1e-5):
        raise KerngpError(f"a sum of 70 x 90 terms came out wrong by {float((got - want).abs().max()):.1e}")


def _torch() -> str:
    return (
        f"{torch.__version__}, built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'the CPU'}"
    )


def _cpu() -> str:
    from ..engine.backends import jit

    _try("cpu", "cpu")
    target = jit.host_target()
    threads = torch.get_num_threads()
    return f"{target.cpu}, vectors of {target.width_bits} bits, {jit.COMPILER}, {threads} threads"


def _cache() -> str:
    from ..engine.cache import cache_info

    info = cache_info()
    return f"{info.directory}: {info.entries} entries, {info.bytes / 2**20:.1f} MiB"


def _gpu() -> str:
    if not torch.cuda.is_available():
        why = "this torch is built for the CPU" if torch.version.cuda is None else "torch sees no device"
        raise BackendUnavailable(f"{why}; formulas run on the CPU")
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return ", ".join(names)


def _nvrtc() -> str:
    from ..engine.backends import nvrtc

    return f"version {'.'.join(map(str, nvrtc.version()))}"


def _pycuda() -> str:
    from ..engine.backends import cuda

    number = cuda.driver().get_driver_version()
    return f"driver interface {number // 1000}.{number % 1000 // 10}"


def _cuda() -> str:
    if not torch.cuda.is_available():
        raise BackendUnavailable("no GPU")
    _try("cuda", "cuda")
    return "works"
