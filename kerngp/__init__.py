"""kerngp: Gaussian processes and kernel methods without the N x N wall.

Importing this package imports nothing else: every public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module that holds it
_NAMES = {
    "ComplexLazyTensor": "lazytensor",
    "LazyTensor": "lazytensor",
    "Pm": "lazytensor",
    "Vi": "lazytensor",
    "Vj": "lazytensor",
    "define_reduction": "engine.define",
    "kernel": "lazytensor",
    "lookup": "lazytensor",
    "check_health": "install.checks",
    "clean_pykeops": "install.checks",
    "get_build_folder": "install.checks",
    "register_kernel": "engine.kernel_algebra",
    "set_build_folder": "install.checks",
    "set_verbose": "install.checks",
    "test_numpy_bindings": "install.checks",
    "test_torch_bindings": "install.checks",
}
_MODULES = ("config", "datasets", "engine", "errors", "models", "numpy", "options", "solvers", "torch")

default_device_id = 0  # the GPU of data in the computer's memory, as KeOps counts them

__all__ = ["__version__", "default_device_id", *_NAMES, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .engine.define import define_reduction as define_reduction
    from .engine.kernel_algebra import register_kernel as register_kernel
    from .install.checks import check_health as check_health
    from .install.checks import clean_pykeops as clean_pykeops
    from .install.checks import get_build_folder as get_build_folder
    from .install.checks import set_build_folder as set_build_folder
    from .install.checks import set_verbose as set_verbose
    from .install.checks import test_numpy_bindings as test_numpy_bindings
    from .install.checks import test_torch_bindings as test_torch_bindings
    from .lazytensor import ComplexLazyTensor as ComplexLazyTensor
    from .lazytensor import LazyTensor as LazyTensor
    from .lazytensor import Pm as Pm
    from .lazytensor import Vi as Vi
    from .lazytensor import Vj as Vj
    from .lazytensor import kernel as kernel
    from .lazytensor import lookup as lookup


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    elif name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
