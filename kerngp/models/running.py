"""What surrounds the work of an estimator: its memory limit, and a log line before and after.

They go to the logger "kerngp" at level INFO: a plan before anything is computed, what it took at the end.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from .. import options as _options
from ..solvers.auto import seconds_text

LOG = logging.getLogger("kerngp")


@dataclass
class Run:
    """A call in progress; `say` adds to the line at its end."""

    remarks: list[str] = field(default_factory=list)

    def say(self, remark: str) -> None:
        """Add a remark, such as "23 iterations, residual 4e-7"."""
        self.remarks.append(remark)


@contextlib.contextmanager
def running(estimator: Any, method: str, plan: object = None) -> Iterator[Run]:
    """The body runs without gradients, under ``estimator.memory_limit`` if it has one, and is logged.

    Parameters
    ----------
    estimator : object
        Or a name, where there is none.
    method : str
        "fit", "predict" …
    plan : object, optional
        Its text is logged first.

    Examples
    --------
    >>> with running("an estimator", "fit", "3 rows, Cholesky") as run:
    ...     run.say("residual 1e-16")
    """
    owner = estimator if isinstance(estimator, str) else type(estimator).__name__
    name = f"{owner}.{method}"
    if plan is not None:
        LOG.info("%s: %s", name, plan)
    limit = getattr(estimator, "memory_limit", None)
    changes = {} if limit is None else {"memory_limit": limit}
    run, start = Run(), time.perf_counter()
    with _options.options(**changes), torch.no_grad():
        yield run
    remarks = "".join(f"; {r}" for r in run.remarks)
    LOG.info("%s took %s%s", name, seconds_text(time.perf_counter() - start), remarks)
