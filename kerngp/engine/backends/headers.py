"""Where CUDA's C headers are, for the two places that need them: building PyCUDA, and the tests' driver."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import BackendUnavailable


def find(names: tuple[str, ...] = ("cuda.h",)) -> Path:
    """The folder that holds these headers.

    Raises
    ------
    BackendUnavailable
        There is none.
    """
    for folder in _candidates():
        if all((folder / name).exists() for name in names):
            return folder
    raise BackendUnavailable(
        f"{' and '.join(names)} not found; install CUDA's headers with 'pip install nvidia-cuda-runtime', "
        "or set CUDA_HOME to a CUDA toolkit."
    )


def _candidates() -> Iterator[Path]:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            yield Path(os.environ[name]) / "include"
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations if spec and spec.submodule_search_locations else ():
        yield from sorted(Path(root).glob("*/include"), reverse=True)
    yield Path("/usr/local/cuda/include")
    yield Path("/usr/include")


def driver_symbols(include: Path) -> set[str]:
    """Names of the driver's functions, as its headers declare them."""
    found = {"cuProfilerInitialize", "cuProfilerStart", "cuProfilerStop"}  # of a header that may be missing
    for header in ("cuda.h", "cudaProfiler.h", "cudaGL.h", "cudaEGL.h"):
        path = include / header
        if path.exists():
            text = path.read_text(errors="replace")
            found |= set(re.findall(r"\bcu[A-Z][A-Za-z0-9]*(?:_v[0-9]+)?\b", text))
    return found
