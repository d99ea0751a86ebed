"""What the scalars of conjugate gradients say: Ritz values, and bounds on the error.

CG is Lanczos in disguise: with a_k the step lengths and c_k = (r_k, z_k) / (r_{k-1}, z_{k-1}) the matrix

    T = tridiagonal,  T_kk = 1 / a_k + c_k / a_{k-1},   T_{k,k+1} = sqrt(c_{k+1}) / a_k

has the Ritz values of M A as its eigenvalues: bounds from inside of the spectrum. From outside, for any
node <= all eigenvalues of M A, Gauss-Radau quadrature (Meurant and Tichy, 2013) gives

    |x* - x_k|_A^2 <= g_k (r_k, z_k),   g_0 = 1 / node,   g_{k+1} = (g_k - a_k) / (node (g_k - a_k) + c_{k+1})

g_k <= 1 / node throughout and grows with g_{k-1}, so beginning anew at 1 / node is safe at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

Tensor = torch.Tensor

REPLACED, STARTED = 1, 2  # the recursion took over a true residual; it began again with p = z
_ROUNDING = 1e-6  # of differences of coefficients
_MOST = 1000  # of a tridiagonal matrix that is looked at


@dataclass
class Coefficients:
    """The scalars of a run, step by step, for the columns that took part (``home``)."""

    steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    def append(self, home: Tensor, a: Tensor, c: Tensor, fresh: Tensor) -> None:
        """One step: lengths a (0: the column stood still), ratios c after it, what happened before it."""
        self.steps.append((home, a, c, fresh))

    def arrays(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """a, c and fresh, each of shape (steps, *shape), on the CPU."""
        a, c = np.zeros((len(self.steps), *shape)), np.zeros((len(self.steps), *shape))
        fresh = np.zeros((len(self.steps), *shape), dtype=np.int64)
        for k, (home, *values) in enumerate(self.steps):
            index = home.cpu().numpy()
            for whole, value in zip((a, c, fresh), values, strict=True):
                whole[k][..., index] = value.cpu().numpy()
        return a, c, fresh


def tridiagonal(a: np.ndarray, c: np.ndarray, fresh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal and off-diagonal of T for one column: its longest stretch between two starts."""
    moving = np.flatnonzero(a > 0)
    a, c, fresh = a[moving], c[moving], fresh[moving]
    cuts = np.concatenate([[0], np.flatnonzero(fresh[1:] == STARTED) + 1, [len(a)]])
    k = int(np.argmax(np.diff(cuts)))
    a, c = a[cuts[k] : cuts[k + 1]][:_MOST], c[cuts[k] : cuts[k + 1]][:_MOST]
    diagonal = 1.0 / a
    diagonal[1:] += c[:-1] / a[:-1]
    return diagonal, np.sqrt(c[:-1].clip(0)) / a[:-1]


def ritz(a: np.ndarray, c: np.ndarray, fresh: np.ndarray) -> tuple[float, float] | None:
    """Least and largest Ritz value of one column; None if it never moved."""
    from scipy.linalg import eigvalsh_tridiagonal

    if not (a > 0).any():
        return None
    d, e = tridiagonal(a, c, fresh)
    if not (np.isfinite(d).all() and np.isfinite(e).all()):
        return None
    last = len(d) - 1
    if last == 0:
        return float(d[0]), float(d[0])
    low, high = (eigvalsh_tridiagonal(d, e, select="i", select_range=(k, k)) for k in (0, last))
    return float(low[0]), float(high[0])


def spectra(a: np.ndarray, c: np.ndarray, fresh: np.ndarray, *, each: bool) -> np.ndarray:
    """Ritz values (*batch, E, 2) of the operator of every column, NaN where it never moved.

    Unless ``each`` column has an operator of its own, only the one that took longest is looked at.
    """
    found = np.full((*a.shape[1:], 2), np.nan)
    if not a.size:
        return found
    length = (a > 0).sum(0)
    for batch in np.ndindex(*a.shape[1:-1]):
        longest = int(length[batch].argmax())
        for e in range(a.shape[-1]) if each else [longest]:
            column = (slice(None), *batch, e)
            values = ritz(a[column], c[column], fresh[column])
            found[(*batch, e)] = np.nan if values is None else values
        if not each:
            found[batch] = found[(*batch, longest)]
    return found


def gauss_radau(
    a: np.ndarray, c: np.ndarray, fresh: np.ndarray, at: np.ndarray, node: np.ndarray
) -> np.ndarray:
    """g with |x* - x_k|_A^2 <= g (r_k, z_k) for the iterate k = ``at`` of each column."""
    g = 1.0 / node * np.ones(at.shape)
    for k in range(len(a)):
        live = (k < at) & (a[k] > 0)
        g = np.where(live & (fresh[k] > 0), 1.0 / node, g)
        rest = g - a[k]
        sharp = rest > _ROUNDING * g  # otherwise nothing but rounding is left of it
        following = np.where(sharp, rest, 1.0) / np.where(sharp, node * rest + c[k], node)
        g = np.where(live, following, g)
    return g


def contradicts(spectrum: np.ndarray, node: np.ndarray) -> bool:
    """Whether Ritz values (*batch, E, 2), bounds from inside, lie below the node: then it is none."""
    least, largest = spectrum[..., 0], spectrum[..., 1]
    return bool((least < node * (1 - _ROUNDING) - 1e-14 * largest).any())
