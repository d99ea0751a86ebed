"""Options of a call: one frozen record, one context variable, read only at public entries."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from .errors import OptionError

BACKENDS = ("auto", "cpu", "reference", "cuda")
PRECISIONS = ("default", "exact", "tf32")


@dataclass(frozen=True)
class Options:
    """What a public entry may be told besides its data.

    Parameters
    ----------
    backend : {"auto", "cpu", "reference", "cuda"}
        Which engine runs the formula. "auto" takes the fastest one that supports it.
    precision : {"default", "exact", "tf32"}
        "exact" always computes differences x_i - y_j; "default" may expand squared distances into
        inner products where an error bound allows it; "tf32" permits reduced-precision hardware.
    threads : int or None
        Number of CPU threads; None means ``torch.get_num_threads()`` at the time of the call.
    memory_limit : int
        Bytes a dense or tiled temporary may take.
    autotune : bool
        On a GPU, measure several ways of running a new kind of call (a formula, sizes up to a factor of
        two) and keep the fastest one on disk. The first such call takes seconds; the last digits of
        sums may differ between the ways.
    """

    backend: str = "auto"
    precision: str = "default"
    threads: int | None = None
    memory_limit: int = 1 << 30
    autotune: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise OptionError(f"backend={self.backend!r} is unknown; expected one of {BACKENDS}.")
        if self.precision not in PRECISIONS:
            raise OptionError(f"precision={self.precision!r} is unknown; expected one of {PRECISIONS}.")
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise OptionError(
                f"threads={self.threads!r} is not a positive integer; pass None for torch's number."
            )
        if not isinstance(self.autotune, bool):
            raise OptionError(f"autotune={self.autotune!r}: expected True or False.")
        if self.memory_limit < 1 << 20:
            raise OptionError(f"memory_limit={self.memory_limit!r} bytes is below 1 MiB; nothing would fit.")


_DEFAULT = Options()
_CURRENT: contextvars.ContextVar[Options] = contextvars.ContextVar("kerngp_options", default=_DEFAULT)


def current() -> Options:
    """The options in force here (a context variable: per thread, per task)."""
    return _CURRENT.get()


@contextlib.contextmanager
def options(**changes: object) -> Iterator[Options]:
    """Change options within a ``with`` block.

    Examples
    --------
    >>> with options(precision="exact", threads=1):
    ...     pass
    """
    known = {f.name for f in fields(Options)}
    for name in changes:
        if name not in known:
            raise OptionError(f"option {name!r} is unknown; expected one of {sorted(known)}.")
    token = _CURRENT.set(replace(_CURRENT.get(), **changes))  # type: ignore[arg-type]
    try:
        yield _CURRENT.get()
    finally:
        _CURRENT.reset(token)
