"""Random estimates: what they return, and the random vectors they are made with."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import ConvergenceWarning, OptionError
from ..solution import Note, Status

Tensor = torch.Tensor


@dataclass(frozen=True)
class Estimate:
    """A number of an operator, and how far it may be off.

    Attributes
    ----------
    value : torch.Tensor, float64
    standard_error : torch.Tensor like value
        One standard deviation of the value over its random vectors, estimated from their spread, and
        ``truncation`` added in quadrature. 0 if the value was computed by factorisation.
    truncation : torch.Tensor like value
        The part of an iteration that was ended early.
    probes : int
        Random vectors; 0 if the value was computed by factorisation.
    products : int
        How often the whole matrix was passed over.
    status : Status
        ``max_iter`` if the iteration was ended before its tolerance was reached.
    notes : tuple of Note
    """

    value: Any
    standard_error: Any
    truncation: Any
    probes: int = 0
    products: int = 0
    status: Status = Status.converged
    notes: tuple[Note, ...] = ()

    @property
    def converged(self) -> bool:
        """Whether the iteration reached its tolerance; that says nothing of the random part."""
        return self.status is Status.converged


def exact(value: Tensor) -> Estimate:
    """The estimate that is none."""
    zero = torch.zeros_like(value.detach())
    return Estimate(value, zero, zero)


def random_estimate(
    samples: Tensor, truncation: Tensor, offset: Tensor | float = 0.0, **known: Any
) -> Estimate:
    """offset + the mean of samples (..., s); the gradient goes through the samples and the offset."""
    spread = samples.detach().std(-1) / samples.shape[-1] ** 0.5
    error = torch.hypot(spread, truncation)
    return Estimate(offset + samples.mean(-1), error, truncation, probes=samples.shape[-1], **known)


def rademacher(shape: tuple[int, ...], random_state: int, device: torch.device) -> Tensor:
    """Independent signs, the same on every device."""
    generator = torch.Generator().manual_seed(random_state)
    return (2.0 * torch.randint(0, 2, shape, generator=generator) - 1.0).to(device, torch.float64)


def gaussian(shape: tuple[int, ...], random_state: int, device: torch.device) -> Tensor:
    """Independent standard normal numbers, the same on every device."""
    generator = torch.Generator().manual_seed(random_state)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)


def check_count(name: str, value: Any, least: int, why: str = "") -> int:
    """Raise OptionError unless value is an integer >= least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name}={value!r}: expected an integer of at least {least}{why}.")
    return value


def check_tolerance(tol: float) -> float:
    """Raise OptionError unless 0 < tol < 1."""
    if not 0 < tol < 1:
        raise OptionError(f"tol={tol!r}: expected a number between 0 and 1, such as 1e-4.")
    return tol


def warn_unfinished(what: str, limit: str, count: int, error: float) -> None:
    """Say that an iteration was ended, by the argument ``limit``, before its tolerance was reached."""
    warnings.warn(
        f"{what} ended after {limit}={count} products with an error of {error:.1e} left; raise {limit}, "
        "loosen tol, use a better preconditioner, or add more to the diagonal.",
        ConvergenceWarning,
        stacklevel=3,
    )
