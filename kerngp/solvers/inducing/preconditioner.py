"""What estimates the Gram matrix G = T^-T Knm' W Knm T^-1 for the preconditioner, and what gives it exactly.

    "falkon"    the centres in the place of all rows: G ~ (n / m) T T'. No entries, m^3 operations.
                Good if the centres are a uniform sample, and slow otherwise.
    "sampled"   4 m rows drawn uniformly: 4 m^2 entries, 9 m^3 operations. They serve any centres.
    "krill"     2 m sums of all rows with random signs, every row in 8 of them (a sparse sign embedding,
                after Diaz, Epperly, Frangella, Tropp and Webber, 2023): n m entries and 8 n m additions,
                5 m^3 operations, 2 m^2 numbers of memory more. No row can be missed, so that few rows
                which alone determine some directions (outliers, very uneven weights) do no harm.

The last two are measured against each other at `SAMPLE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ..operator import LinearOperator
from ..solution import Progress
from .equations import chunks
from .factors import falkon, gram

Tensor = torch.Tensor
Halting = Callable[[Progress], None]  # raises to end a preparation

PRECONDITIONERS = ("sampled", "krill", "falkon")
SAMPLE = 4  # rows drawn for each centre
SKETCH = 2  # sums of rows for each centre
NONZEROS = 8  # sums that each row is part of


class Rows:
    """Blocks of rows W^1/2 K for the Gram matrix; watched while they are made.

    Parameters
    ----------
    K : LinearOperator of shape (n, m)
    w : Tensor of shape (n,)
    numbers : int
        How many of a block.
    halting : callable
        Told of every block.
    """

    def __init__(self, K: LinearOperator, w: Tensor, numbers: int, halting: Halting):
        self.K, self.w, self.numbers, self.halting = K, w, numbers, halting

    def blocks(self, chosen: Tensor, phase: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices of some of the chosen rows, and these rows."""
        cuts = list(chunks(len(chosen), self.K.shape[1], chosen.device, self.numbers))
        for k, cut in enumerate(cuts):
            rows = chosen[cut]
            yield rows, self.K.rows(rows) * self.w[rows].sqrt().to(self.K.torch_dtype).unsqueeze(-1)
            self.halting(Progress(k + 1, len(cuts), torch.empty(0), 0, phase=phase))


def exact(rows: Rows, T: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """G from all rows; on the way Knm' W^1/2 targets, if there are any."""
    moment = None if targets is None else torch.zeros_like(T[:, :1]).repeat(1, targets.shape[-1])

    def blocks() -> Iterator[Tensor]:
        for idx, block in rows.blocks(torch.arange(len(rows.w), device=T.device), "normal equations"):
            if moment is not None and targets is not None:
                moment.addmm_(block.mT, targets[idx])
            yield block

    return gram(blocks(), T, T.dtype), moment


def estimate(kind: str, rows: Rows, T: Tensor, seed: int, dtype: torch.dtype) -> Tensor:
    """G, roughly; see the head of this file."""
    m, counted = T.shape[0], rows.w.nonzero().squeeze(-1)
    generator = torch.Generator().manual_seed(seed)
    if kind == "falkon":
        return falkon(T, float(rows.w.sum()) / m)
    if kind == "krill":
        sums = _sums_of_rows(rows, counted, m, generator)
        cuts = chunks(len(sums), m, T.device, rows.numbers)
        return gram((sums[cut] for cut in cuts), T, dtype)
    drawn = counted[torch.randperm(len(counted), generator=generator)[: SAMPLE * m].to(T.device)]
    S = gram((block for _, block in rows.blocks(drawn, "preconditioner")), T, dtype)
    return S.mul_(len(counted) / max(1, len(drawn)))


def _sums_of_rows(rows: Rows, counted: Tensor, m: int, generator: torch.Generator) -> Tensor:
    """Phi W^1/2 K, shape (2 m, m)."""
    size, dtype, device = SKETCH * m, rows.K.torch_dtype, counted.device
    sums = torch.zeros((size, m), dtype=dtype, device=device)
    for idx, block in rows.blocks(counted, "preconditioner"):
        places = torch.randint(size, (len(idx) * NONZEROS,), generator=generator)
        signs = torch.randint(2, places.shape, generator=generator).to(dtype) * 2 - 1
        columns = torch.arange(len(idx)).repeat_interleave(NONZEROS)
        Phi = torch.sparse_coo_tensor(
            torch.stack([places, columns]), signs / NONZEROS**0.5, (size, len(idx)), check_invariants=False
        )
        sums += torch.sparse.mm(Phi.to(device), block)
    return sums
