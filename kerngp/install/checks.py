"""What KeOps's users call to look after their installation."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ..engine import cache
from ..errors import KerngpError
from .doctor import report

_LOG = logging.getLogger("kerngp")


def set_verbose(val: bool) -> None:
    """Say on the terminal which kernels are compiled, or stop saying it.

    It raises the level of Python's logger "kerngp" to INFO and gives it a handler if it has none; programs
    with a logging set-up of their own need not call this.
    """
    if val and not _LOG.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("[kerngp] %(message)s"))
        _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO if val else logging.WARNING)


def clean_pykeops(recompile_jit_binaries: bool = True) -> int:
    """Remove the compiled kernels from the cache on disk; those this process has loaded keep working.

    Parameters
    ----------
    recompile_jit_binaries : bool
        Without effect: kerngp has no binaries besides the kernels.

    Returns
    -------
    int
        How many files were removed.
    """
    return cache.clear_cache()


def check_health(config_type: str = "all") -> bool:
    """Print what is here, what is missing, and what to do about it, as ``python -m kerngp doctor`` does.

    Parameters
    ----------
    config_type : str
        Without effect: the report is short.

    Returns
    -------
    bool
        Whether all that applies to this machine works.
    """
    text, healthy = report()
    print(text)
    return healthy


def get_build_folder() -> str | None:
    """The directory of compiled kernels; None if the user has no home directory."""
    folder = cache.default_directory()
    return None if folder is None else str(folder)


def set_build_folder(path: str | Path | None = None) -> None:
    """Keep compiled kernels in this directory from now on, in this process and those it starts.

    None returns to the platform's place for caches. It sets the environment variable KERNGP_CACHE_DIR.
    """
    if path is None:
        os.environ.pop("KERNGP_CACHE_DIR", None)
    else:
        os.environ["KERNGP_CACHE_DIR"] = str(Path(path).expanduser().absolute())


def test_torch_bindings() -> None:
    """Compute a small formula of torch tensors and print that it works.

    Raises
    ------
    KerngpError
        The result is wrong.
    """
    from .. import torch as facade

    _try(facade, torch.as_tensor, "torch")


def test_numpy_bindings() -> None:
    """Compute a small formula of NumPy arrays and print that it works; see `test_torch_bindings`."""
    from .. import numpy as facade

    _try(facade, np.asarray, "numpy")


def _try(facade: ModuleType, library: Any, name: str) -> None:
    x, y = np.arange(1, 10).reshape(3, 3), np.arange(3, 9).reshape(2, 3)
    want = ((x[:, None] - y) ** 2).sum(-1).sum(0)[:, None]
    routine = facade.Genred("SqNorm2(x - y)", ["x = Vi(3)", "y = Vj(3)"])
    got = routine(library(x.astype(np.float32)), library(y.astype(np.float32)))
    if type(got) is not type(library(want)) or not np.array_equal(np.asarray(got), want):
        raise KerngpError(f"kerngp with {name} gave {got!r}; expected {want.tolist()}.")
    print(f"kerngp with {name} is working!")
