"""kerngp: Gaussian processes and kernel methods without the N x N wall.

Importing this package imports nothing else: every public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> module that holds it
_NAMES = {
    "LazyTensor": "lazytensor",
    "Pm": "lazytensor",
    "Vi": "lazytensor",
    "Vj": "lazytensor",
    "define_reduction": "engine.define",
}
_MODULES = ("engine", "errors", "models", "numpy", "options", "solvers", "torch")

__all__ = ["__version__", *_NAMES, *_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from .engine.define import define_reduction as define_reduction
    from .lazytensor import LazyTensor as LazyTensor
    from .lazytensor import Pm as Pm
    from .lazytensor import Vi as Vi
    from .lazytensor import Vj as Vj


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
