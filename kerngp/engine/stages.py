"""Weighted exponentials of very many weights, in two passes that the engine is best at.

One pass keeps a state of all weights for each row. Beyond a few of them it is faster to compute the
logsumexp first, and then the sum of w exp(f - lse), whose weights are the columns of a signal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from .expr import var
from .folds import LOGSUMEXPWEIGHT, SOFTMIN, above, comparing
from .ops import exp
from .plan import KEPT, Output
from .reductions import LOGSUMEXP, SUM
from .rewrite import simplify

Tensor = torch.Tensor
MANY = 16  # weights from which two passes are faster


def staged(o: Output) -> bool:
    """Whether the output is computed in two passes."""
    r = o.reduction
    return r.scores == 1 and r.separable and o.expr.dim - 1 > MANY


@functools.lru_cache(maxsize=1024)
def stages(o: Output, args: int) -> tuple[Output, Output]:
    """The logsumexp, and the sum; the first one's result is argument ``args`` of the second."""
    f, w = simplify(o.expr[:1]), simplify(o.expr[1:])
    f = -f if o.reduction.build is SOFTMIN.build else f
    lse = var(args, 1, KEPT[o.axis])
    shifted = exp(f - comparing("eq", lse, torch.inf, 0.0, above(lse)))
    return Output(f, LOGSUMEXP, o.axis), Output(shifted * w, SUM, o.axis)


def run_in_stages(
    o: Output, args: tuple[Tensor, ...], launch: Callable[[Output, tuple[Tensor, ...]], Tensor]
) -> tuple[Tensor, ...]:
    """The results of ``o``, in two launches."""
    first, second = stages(o, len(args))
    lse = launch(first, args)
    total = launch(second, (*args, lse))
    if o.reduction.build is LOGSUMEXPWEIGHT.build:
        return (lse + total.log(),)
    mean = torch.where(torch.isinf(lse), torch.nan, total)  # no weight at all, or infinite ones
    return (mean, lse)[: len(o.reduction.outputs)]
