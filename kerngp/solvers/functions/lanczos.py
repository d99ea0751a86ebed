"""The Lanczos process on many start vectors at once: what every function of an operator is made of.

For each column v of the start, independently of the others, but with one product for all of them,

    q_1 = v / |v|
    w = B q_j;  a_j = (w, q_j);  w = w - Q (Q' w), twice;  b_j = |w|;  q_{j+1} = w / b_j

so that B Q = Q T + b_k q_{k+1} e_k' with T tridiagonal (a on the diagonal, b beside it). Then

    f(B) v   ~ |v| Q f(T) e_1                 the best that k products can do, nearly
    v'f(B) v ~ |v|^2 e_1' f(T) e_1            Gauss quadrature with k nodes

Vectors are made orthogonal to all previous ones: without that rounding errors let converged
eigenvalues come up again and again (Paige, 1971), with it T stays what the theory says. It costs
the memory of the basis, 8 n k bytes a column. All scalars and vectors are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ... import options as _options
from ...errors import SolveError

Tensor = torch.Tensor
EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Krylov:
    """Bases of s Krylov spaces and what B is in them.

    A space that is exhausted after fewer steps is filled up: basis vectors of zero, beta of zero, and
    an alpha from within the spectrum, which has no influence on anything computed below.

    Attributes
    ----------
    basis : Tensor of shape (*batch, s, k, n)
        Orthonormal rows.
    alpha, beta : Tensor of shape (*batch, s, k)
        beta[..., k - 1] is the norm of what the last product left over.
    norms : Tensor of shape (*batch, s)
        Of the start vectors.
    """

    basis: Tensor
    alpha: Tensor
    beta: Tensor
    norms: Tensor

    @property
    def steps(self) -> int:
        """Products with B."""
        return self.alpha.shape[-1]

    def eigh(self) -> tuple[Tensor, Tensor]:
        """Ritz values, ascending, (*batch, s, k), and the eigenvectors of T as columns."""
        return torch.linalg.eigh(tridiagonal(self.alpha, self.beta[..., :-1]))

    def apply(self, f: Callable[[Tensor], Tensor], eigh: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """f(B) times the start vectors, (*batch, n, s), for a function of eigenvalues."""
        theta, Y = self.eigh() if eigh is None else eigh
        small = (Y @ (f(theta) * Y[..., 0, :]).unsqueeze(-1)).squeeze(-1)
        return self.combine(small * self.norms.unsqueeze(-1))

    def residuals(self, eigh: tuple[Tensor, Tensor]) -> Tensor:
        """How far B x is from the start vectors, relative to them, (*batch, s); x is `apply` of 1 / theta."""
        theta, Y = eigh
        last = (Y[..., -1, :] * Y[..., 0, :] / theta).sum(-1)
        return (self.beta[..., -1] * last).abs()

    def combine(self, small: Tensor) -> Tensor:
        """Q c for coefficients c of shape (*batch, s, k)."""
        return (small.unsqueeze(-2) @ self.basis).squeeze(-2).mT


def tridiagonal(alpha: Tensor, beta: Tensor) -> Tensor:
    """Matrices (..., k, k) with alpha (..., k) on the diagonal and beta (..., k - 1) beside it."""
    return torch.diag_embed(alpha) + torch.diag_embed(beta, 1) + torch.diag_embed(beta, -1)


def lanczos(
    apply: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    enough: Callable[[Krylov], bool] | None = None,
) -> Krylov:
    """At most ``steps`` steps with every column of ``start``.

    Parameters
    ----------
    apply : callable
        v -> B v for v of shape (*batch, n, s), float64, B symmetric.
    start : Tensor of shape (*batch, n, s)
        The batch must be that of B.
    steps : int
        No more than n are done.
    enough : callable, optional
        Asked now and then whether to stop.

    Raises
    ------
    SolveError
        If a NaN or an infinity appears.

    Examples
    --------
    >>> B = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    >>> krylov = lanczos(lambda v: B @ v, torch.ones(3, 1, dtype=torch.float64), steps=10)
    >>> krylov.steps, krylov.eigh()[0].round(decimals=6)
    (3, tensor([[1., 2., 4.]], dtype=torch.float64))
    """
    vectors = start.mT
    steps = max(1, min(steps, start.shape[-2]))
    norms = vectors.norm(dim=-1)
    check_finite(norms, "the start vectors")
    basis = _Rows(vectors / _nonzero(norms).unsqueeze(-1), steps + 1)
    alpha, beta = norms.new_zeros((*norms.shape, steps)), norms.new_zeros((*norms.shape, steps))
    alive, scale = norms > 0, torch.zeros_like(norms)
    check = 1
    for k in range(1, steps + 1):
        q = basis.rows(k)[..., -1, :]
        w = apply(q.mT).mT
        a = (w * q).sum(-1)
        for _ in range(2):
            w = w - basis.project(w, k)
        b = w.norm(dim=-1)
        check_finite(a + b, "a product with the operator or the preconditioner")
        # an exhausted space goes on with its own first number, an empty one with 1
        rest = alpha[..., 0] if k > 1 else torch.ones_like(a)
        alpha[..., k - 1] = torch.where(alive, a, rest)
        scale = torch.maximum(scale, a.abs() + b)
        alive = alive & (b > 100 * EPS * scale) & torch.tensor(k < start.shape[-2], device=b.device)
        beta[..., k - 1] = torch.where(alive, b, 0.0)
        last = k == steps or not bool(alive.any())
        if last or (enough is not None and k >= check):
            krylov = Krylov(basis.rows(k), alpha[..., :k], beta[..., :k], norms)
            if last or (enough is not None and enough(krylov)):
                return krylov
            check = k + max(1, k // 8)
        basis.append(k, torch.where(alive.unsqueeze(-1), w / _nonzero(b).unsqueeze(-1), 0.0))
    raise AssertionError("not reached: the last step returns")


class _Rows:
    """A stack of vectors (*batch, s, k, n) that grows."""

    def __init__(self, first: Tensor, most: int):
        self.most = most
        self.memory = first.new_empty((*first.shape[:-1], min(8, most), first.shape[-1]))
        self.memory[..., 0, :] = first

    def rows(self, k: int) -> Tensor:
        return self.memory[..., :k, :]

    def project(self, w: Tensor, k: int) -> Tensor:
        """Q (Q' w)."""
        Q = self.rows(k)
        return ((Q @ w.unsqueeze(-1)).mT @ Q).squeeze(-2)

    def append(self, k: int, row: Tensor) -> None:
        old = self.memory
        if k == old.shape[-2]:
            size = min(self.most, 2 * k)
            self.memory = old.new_empty((*old.shape[:-2], size, old.shape[-1]))
            self.memory[..., :k, :] = old
        self.memory[..., k, :] = row


def in_groups(
    apply: Callable[[Tensor], Tensor], start: Tensor, steps: int, enough: Callable[[Krylov], bool]
) -> Iterator[Krylov]:
    """`lanczos` with as many columns at a time as have bases that fit into ``options.memory_limit``.

    The first group is made for ``steps`` steps, later ones for twice as many as were needed so far. Use
    each result before the next one is asked for.
    """
    done, most = 0, min(steps, start.shape[-2])
    expected, needed = most, 0
    while done < start.shape[-1]:
        column = 8 * (expected + 1) * start[..., 0].numel()
        part = start[..., done : done + max(1, _options.current().memory_limit // max(1, column))]
        krylov = lanczos(apply, part, steps, enough)
        done, needed = done + part.shape[-1], max(needed, krylov.steps)
        expected = min(most, 2 * needed)
        yield krylov


def check_finite(values: Tensor, what: str) -> None:
    """Raise SolveError if there is a NaN or an infinity."""
    if not bool(torch.isfinite(values).all()):
        raise SolveError(f"NaN or infinity in {what}; check the data, the parameters and their scale.")


def _nonzero(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1.0)
