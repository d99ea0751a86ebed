"""Rows of a symmetric operator in blocks of strongly correlated ones, found by its entries alone."""

from __future__ import annotations

import torch

from .operator import LinearOperator

Tensor = torch.Tensor


def local_blocks(A: LinearOperator, size: int, generator: torch.Generator) -> list[Tensor]:
    """Disjoint blocks of at most ``size`` indices, nearly equal, which together hold every row.

    A set is cut in two by two of its members that are nearly uncorrelated: each part holds those that
    are more correlated with the one than with the other. Correlations know of lengthscales, and need no
    coordinates. Reads 3 n log2(n / size) entries.

    Examples
    --------
    >>> from kerngp.solvers import Dense
    >>> x = torch.tensor([0.0, 9.0, 1.0, 8.0])
    >>> K = Dense(torch.exp(-((x[:, None] - x) ** 2)), psd=True)
    >>> sorted(block.tolist() for block in local_blocks(K, 2, torch.Generator().manual_seed(0)))
    [[0, 2], [1, 3]]
    """
    n = A.shape[-1]
    scale = A.diag().double().abs().clamp_min(torch.finfo(torch.float64).tiny).rsqrt()
    done: list[Tensor] = []
    todo = [(torch.arange(n, device=A.device), -(-n // size))]
    while todo:
        index, parts = todo.pop()
        if parts <= 1:
            done.append(index.sort().values)
            continue
        near = _split_key(A, scale, index, generator)
        index = index[torch.argsort(near, descending=True, stable=True)]
        cut = len(index) * (parts // 2) // parts
        todo += [(index[:cut], parts // 2), (index[cut:], parts - parts // 2)]
    return done


def _split_key(A: LinearOperator, scale: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """How much more each row is correlated with one end of the set than with the other."""

    def correlations(k: int) -> Tensor:
        row = A.rows(index[k : k + 1], index)[0].double() * scale[index]
        return (row * scale[index[k]]).abs()

    start = int(torch.randint(len(index), (1,), generator=generator))
    one = int(correlations(start).argmin())
    first = correlations(one)
    return first - correlations(int(first.argmin()))
