"""What a solution has to say for itself: as text, as plain data, as a picture."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import torch

from ..errors import BackendUnavailable
from .solution import Certificate, Solution

WIDTH = 100
LABEL = 12
LEGEND = 10  # columns that are named in a plot


def explain(solution: Solution) -> str:
    """How a solve went, on one screen: outcome, why this method, error, cost, notes.

    Examples
    --------
    >>> import torch
    >>> from kerngp.solvers import Cholesky, Dense, solve
    >>> print(explain(solve(Dense(torch.eye(2), psd=True), torch.ones(2), Cholesky())).splitlines()[0])
    Outcome     converged: Cholesky, 1 iteration, relative residual 0.0e+00 (asked: 1.0e-06)
    """
    report = solution.report
    sections = [
        ("Outcome", [_outcome(solution)]),
        ("Why", list(report.choice)),
        ("Prepared", [report.preconditioner] if report.preconditioner else []),
        ("Error", _error(solution)),
        ("Cost", _cost(solution)),
        ("Spectrum", [_spectrum(report.ritz)] if report.ritz else []),
        ("Notes", [f"{note.code}: {note.text}" for note in report.notes]),
    ]
    return "\n".join(line for label, lines in sections for line in _section(label, lines))


def _section(label: str, lines: list[str]) -> list[str]:
    out: list[str] = []
    for line in lines:
        body = line.lstrip(" ")
        margin = " " * (LABEL + len(line) - len(body))
        out += textwrap.wrap(body, WIDTH, initial_indent=margin, subsequent_indent=margin + "  ")
    return [label.ljust(LABEL) + out[0][LABEL:], *out[1:]] if out else []


def _outcome(s: Solution) -> str:
    detail = f" ({s.detail})" if s.detail else ""
    text = f"{s.status.name}: {s.method}, {_plural(s.iterations, 'iteration')}, {_residual(s)}{detail}"
    return text if s.converged else f"{text}. {s.status.value[0].upper()}{s.status.value[1:]}"


def _residual(s: Solution) -> str:
    norms = _flat(s.residual_norms)
    worst = max(norms, default=0.0, key=lambda r: math.inf if math.isnan(r) else r)
    asked = f" (asked: {s.report.tol:.1e})" if s.report.tol is not None else ""
    many = f", the largest of {len(norms)} columns" if len(norms) > 1 else ""
    return f"relative residual {worst:.1e}{asked}{many}"


def _error(s: Solution) -> list[str]:
    lines = []
    certificate, report = s.report.certificate, s.report
    if certificate is not None:
        worst = max(_flat(certificate.error), default=0.0)
        kind = "proven" if certificate.kind == "bound" else f"an estimate: {certificate.reason}"
        lines.append(f"|x* - x| in the norm of A is at most {worst:.1e} ({kind})")
    if report.attainable is not None:
        lines.append(f"rounding errors stop the residual near {report.attainable:.1e}")
    if report.suggested_alpha is not None:
        lines.append(f"adding {report.suggested_alpha:.1e} to the diagonal would make the matrix positive")
    return lines


def _cost(s: Solution) -> list[str]:
    parts = {k: v for k, v in s.report.seconds.items() if k != "total"}
    total = s.report.seconds.get("total")
    passes = "" if math.isnan(s.report.passes) else f"{s.report.passes:.1f} passes over the matrix"
    clock = "" if total is None else f"{total:.3g} s"
    split = ", ".join(f"{k} {v:.2g} s" for k, v in sorted(parts.items(), key=lambda kv: -kv[1]))
    head = ", ".join(filter(None, (passes, clock)))
    return [": ".join(filter(None, (head, split)))] if head or split else []


def _spectrum(ritz: tuple[float, float]) -> str:
    low, high = ritz
    condition = f", condition number at least {high / low:.2g}" if low > 0 else ""
    return f"of the preconditioned matrix from {low:.2g} to {high:.2g}{condition}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def to_dict(solution: Solution) -> dict[str, Any]:
    """Everything but x and ``extra`` as plain data that JSON can hold; None for numbers that are not finite.

    Examples
    --------
    >>> import json, torch
    >>> from kerngp.solvers import Cholesky, Dense, solve
    >>> data = to_dict(solve(Dense(torch.eye(2), psd=True), torch.ones(2), Cholesky()))
    >>> data["status"], json.loads(json.dumps(data)) == data
    ('converged', True)
    """
    s, r = solution, solution.report
    return _plain(
        {
            "status": s.status.name,
            "converged": s.converged,
            "message": s.message,
            "method": s.method,
            "iterations": s.iterations,
            "products": s.products,
            "residual_norms": s.residual_norms,
            "history": s.history,
            "tol": r.tol,
            "choice": r.choice,
            "preconditioner": r.preconditioner,
            "passes": r.passes,
            "seconds": r.seconds,
            "ritz": r.ritz,
            "certificate": r.certificate,
            "suggested_alpha": r.suggested_alpha,
            "attainable": r.attainable,
            "notes": [{"code": n.code, "text": n.text} for n in r.notes],
        }
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, Certificate):
        return _plain({"error": value.error, "kind": value.kind, "reason": value.reason})
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def plot(solution: Solution, ax: Any = None) -> Any:
    """Residuals of each column against iterations, on a logarithmic scale, with the tolerance.

    Parameters
    ----------
    solution : Solution
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    BackendUnavailable
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise BackendUnavailable("plot() needs matplotlib: pip install kerngp[plot]") from error
    ax = plt.subplots(figsize=(7, 4.5), layout="constrained")[1] if ax is None else ax
    history = torch.as_tensor(solution.history).detach().cpu().double()
    history = history.reshape(len(history), -1)
    final = torch.as_tensor(solution.residual_norms).detach().cpu().double().reshape(-1)
    count = history.shape[1]
    for k in range(count):
        shown = torch.where(history[:, k] > 0, history[:, k], torch.nan)
        strong = count <= LEGEND
        (line,) = ax.plot(shown.numpy(), lw=1.5 if strong else 0.8, alpha=1.0 if strong else 0.5)
        if strong and count > 1:
            line.set_label(f"column {k}")
        if final[k] > 0:
            ax.plot(len(history) - 1, float(final[k]), "o", color=line.get_color(), ms=5)
    if solution.report.tol is not None:
        ax.axhline(solution.report.tol, color="0.4", ls="--", lw=1, label="tolerance")
    ax.set(yscale="log", xlabel="iteration", ylabel="relative residual")
    prepared = f" with {solution.report.preconditioner}" if solution.report.preconditioner else ""
    ax.set_title(f"{solution.method}{prepared}: {solution.status.name}")
    ax.grid(True, which="major", alpha=0.3)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False)
    return ax


def _flat(values: Any) -> list[float]:
    return torch.as_tensor(values).detach().cpu().double().reshape(-1).tolist()
