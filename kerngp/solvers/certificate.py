"""How far an iterate can be from the solution: bounds that need no solution.

For a symmetric positive definite preconditioner M with all eigenvalues of M A at least ``node``,

    |x* - x|_A^2 = r' A^-1 r <= r' M r / node

for any x. Along a run of conjugate gradients Gauss-Radau quadrature sharpens that to within a small
factor (`coefficients.gauss_radau`). A preconditioner from below, P <= A, has the node 1: a column
Nystrom approximation, randomly pivoted Cholesky. Without a preconditioner the least entry of the
diagonal is a node, for a positive semi-definite matrix to which that diagonal was added.
"""

from __future__ import annotations

import numpy as np
import torch

from .coefficients import contradicts, gauss_radau
from .operator import AddedDiagonal, Diagonal, LinearOperator
from .solution import Certificate

Tensor = torch.Tensor


def least_eigenvalue(A: LinearOperator, shifts: Tensor | None = None) -> Tensor | None:
    """A positive lower bound on the eigenvalues of A (+ shifts, by column), from tags alone; None if unknown.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Dense, identity
    >>> float(least_eigenvalue(Dense(torch.ones(2, 2), psd=True) + 0.25 * identity(2)))
    0.25
    """
    if isinstance(A, Diagonal):
        bound = A.diag().double().amin(-1, keepdim=True)
    elif isinstance(A, AddedDiagonal) and A.base.psd:
        bound = A.values.detach().double().expand(A.shape[:-1]).amin(-1, keepdim=True)
    elif A.psd:
        bound = torch.zeros((), dtype=torch.float64, device=A.device)
    else:
        return None
    bound = bound if shifts is None else bound + shifts
    return bound if bound.numel() and bool((bound > 0).all()) else None


def known_node(A: LinearOperator, M: LinearOperator | None, shifts: Tensor | None) -> Tensor | None:
    """A number below all eigenvalues of M A, provably, by column; None if there is none."""
    if M is None:
        return least_eigenvalue(A, shifts)
    floor_for = getattr(M, "floor_for", None)
    return fixed_floor(getattr(M, "floor", None), shifts) if floor_for is None else floor_for(A, shifts)


def fixed_floor(floor: float | Tensor | None, shifts: Tensor | None) -> Tensor | None:
    """What is said of one operator, or by column, as a node: it holds for what was raised, not for less."""
    if floor is None or (isinstance(floor, float) and shifts is not None and bool((shifts < 0).any())):
        return None
    return torch.as_tensor(floor, dtype=torch.float64)


def least_added(A: LinearOperator, shifts: Tensor | None, d: Tensor) -> Tensor | None:
    """The least entry of D / d for A = K + D, or of (D + shifts[e]) / d for column e; None if not positive.

    Examples
    --------
    >>> from kerngp.solvers import Dense, identity
    >>> A = Dense(torch.ones(2, 2), psd=True) + 0.25 * identity(2)
    >>> least_added(A, None, torch.tensor([1.0, 0.5], dtype=torch.float64))
    tensor([0.2500], dtype=torch.float64)
    """
    if not d.numel():
        return None
    D = A.values.detach().double() if isinstance(A, AddedDiagonal) else d.new_zeros(())
    wanted = (0.0,) if shifts is None else shifts.tolist()
    least = torch.stack([((D + shift) / d).amin(-1) for shift in wanted], -1)
    return least if bool((least > 0).all()) else None


def certify(
    coefficients: tuple[np.ndarray, np.ndarray, np.ndarray],
    at: np.ndarray,
    rz: np.ndarray,
    slack: np.ndarray,
    node: np.ndarray,
    spectrum: np.ndarray,
    doubts: str,
) -> Certificate:
    """The certificate of the iterates ``at``.

    Parameters
    ----------
    coefficients : a, c and fresh of the run
    at, rz : arrays of shape (*batch, E)
        Number of each iterate, and its (r, M r) by the recursion.
    slack : array of shape (*batch, E)
        d' M d for the difference d between the true residual and the recursion's.
    node : array broadcasting with those
    spectrum : array of shape (*batch, E, 2)
        Ritz values, which would give a wrong node away.
    doubts : str
        Why the result cannot be more than an estimate; empty if it is a bound.
    """
    if contradicts(spectrum, node) and not doubts:
        doubts = "Ritz values contradict what the preconditioner states of the spectrum"
    g = gauss_radau(*coefficients, at, node)
    error = np.sqrt(g * rz.clip(0)) + np.sqrt(slack.clip(0) / node)
    error = np.where(np.isfinite(error), error, np.inf)
    return Certificate(torch.from_numpy(error), "estimate" if doubts else "bound", doubts)
