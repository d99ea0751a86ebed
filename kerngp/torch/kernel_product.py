"""`Kernel` and `kernel_product`: products with kernels that are given by a string, as KeOps 1 had them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..engine.expr import Expr, var
from ..engine.kernel_strings import parse_kernel
from ..engine.mapreduce import dense, map_reduce_many
from ..engine.ops import exp
from ..engine.plan import Output
from ..engine.reductions import LOGSUMEXP, SUM, Reduction
from ..errors import DeviceError, DTypeError, OptionError, ShapeError
from ..lazytensor.reduce import chosen

Tensor = torch.Tensor


class Kernel:
    """A kernel by its name, for `kernel_product`.

    Parameters
    ----------
    name : str
        Kernels of pairs of variables, combined by ``+ - * /``, ``**`` with a number, numbers and brackets:
        ``"gaussian(x,y)"``, ``"gaussian(x,y) * (1 + linear(u,v)**2)"``. With d2 = <x - y, G (x - y)>:

        - ``linear``: <x, y>, which has no parameter,
        - ``gaussian``: exp(-d2),
        - ``laplacian``: exp(-sqrt(d2)),
        - ``cauchy``: 1 / (1 + d2),
        - ``inverse_multiquadric``: 1 / sqrt(1 + d2),
        - ``distance``: sqrt(d2),

        and all names of `kerngp.engine.formulas.FORMULAS`, among them those that
        `kerngp.register_kernel` adds.

    Attributes
    ----------
    pairs : tuple of (str, str)
        The pairs of variables in the order in which `kernel_product` takes them.
    formulas : tuple of str
        The kernels in the order in which `kernel_product` takes their parameters.

    Raises
    ------
    FormulaError
        If the text is not such a combination; the message shows the place.

    Examples
    --------
    >>> k = Kernel("cauchy(x,y) + gaussian(x,y) * (1 + cauchy(u,v)**2)")
    >>> k.pairs, k.formulas
    ((('x', 'y'), ('u', 'v')), ('cauchy', 'gaussian', 'cauchy'))
    """

    def __init__(self, name: str) -> None:
        self._string = parse_kernel(name)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return self._string.pairs

    @property
    def formulas(self) -> tuple[str, ...]:
        return tuple(a.name for a in self._string.atoms)

    def formula(
        self,
        points: Sequence[tuple[Expr, Expr]],
        gammas: Sequence[Expr | None] | None = None,
        *,
        log: bool = False,
    ) -> Expr:
        """The kernel, or its logarithm, as a formula; see `KernelString.formula`."""
        return self._string.formula(points, gammas, log=log)

    def __eq__(self, other: object) -> bool:
        return self._string == other._string if isinstance(other, Kernel) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._string)

    def __repr__(self) -> str:
        return f"Kernel({self._string.text!r})"


@dataclass(frozen=True)
class _Mode:
    """What a mode computes from the kernel k, or from c = log k, and the arrays behind y.

    ``entry`` is what ``backend="matrix"`` returns; ``term`` is reduced over j, with the entry as its first
    argument.
    """

    log: bool
    reduction: Reduction
    arrays: tuple[tuple[str, str], ...]  # name and axis of each
    entry: Callable[..., Expr]
    term: Callable[..., Expr]


_B = ("b", "j")
_SCALES = (("a_log", "i"), ("b_log", "j"))

_MODES: dict[str, _Mode] = {
    "sum": _Mode(False, SUM, (_B,), lambda k, b: k, lambda k, b: k * b),
    "lse": _Mode(True, LOGSUMEXP, (_B,), lambda c, b: c, lambda c, b: c + b),
    "log_scaled": _Mode(
        True, SUM, (_B, *_SCALES), lambda c, b, s, t: c + s + t, lambda e, b, s, t: exp(e) * b
    ),
    "log_scaled_lse": _Mode(
        True, LOGSUMEXP, (_B, *_SCALES), lambda c, b, s, t: c + s + t, lambda e, b, s, t: e + b
    ),
    "log_scaled_barycenter": _Mode(
        True,
        SUM,
        (_B, *_SCALES, ("center", "i")),
        lambda c, b, s, t, center: c + s + t,
        lambda e, b, s, t, center: exp(e) * (b - center),
    ),
    "lse_mult_i": _Mode(True, LOGSUMEXP, (_B, ("a", "i")), lambda c, b, a: a * c, lambda e, b, a: e + b),
    "sinkhorn_primal": _Mode(
        True,
        SUM,
        (*_SCALES, ("u", "i"), ("v", "j")),
        lambda c, s, t, u, v: (u + v - 1.0) * exp(c + s + t),
        lambda e, s, t, u, v: e,
    ),
    "sinkhorn_cost": _Mode(True, SUM, _SCALES, lambda c, s, t: -(c * exp(c + s + t)), lambda e, s, t: e),
}


def kernel_product(
    params: dict[str, Any],
    x: Tensor | Sequence[Tensor],
    y: Tensor | Sequence[Tensor],
    *bs: Tensor,
    mode: str | None = None,
    backend: str | None = None,
    dtype: str | None = None,
    cuda_type: str | None = None,
) -> Tensor:
    """Reduce a kernel k(x_i, y_j) against a signal b_j, without its matrix.

    Parameters
    ----------
    params : dict
        ``"id"``: a `Kernel`. ``"gamma"``: its parameters, one for each kernel that stands in the name, in the
        order of the text (one alone needs no tuple): None stands for 1; a number or a tensor (1,), (D,) or
        (D*D,) is a scalar, a diagonal or a matrix by rows; a tensor (N, 1), (N, D) or (N, D*D) varies with j,
        and ``("i", tensor)`` with i. ``"mode"`` and ``"backend"`` are defaults of the arguments below.
    x, y : tensor or tuple of tensors
        (M, D) and (N, D), one for each pair of variables of the name.
    *bs : tensors
        What the mode takes: b (N, E), then scalings a_log (M, 1) and b_log (N, 1).
    mode : str
        With c = log k:

        - ``"sum"`` (default): sum_j k b_j,
        - ``"lse"``: log sum_j exp(c + b_j),
        - ``"log_scaled"``: sum_j exp(c + a_log_i + b_log_j) b_j,
        - ``"log_scaled_lse"``: log sum_j exp(c + a_log_i + b_log_j + b_j),
        - ``"log_scaled_barycenter"``: sum_j exp(c + a_log_i + b_log_j) (b_j - c_i), with a last array c,
        - ``"lse_mult_i"``: log sum_j exp(a_i c + b_j), with arrays b and a (M, 1),
        - ``"sinkhorn_primal"``: sum_j (u_i + v_j - 1) exp(c + a_log_i + b_log_j), arrays a_log, b_log, u, v,
        - ``"sinkhorn_cost"``: -sum_j c exp(c + a_log_i + b_log_j), arrays a_log, b_log.
    backend : str
        ``"auto"`` (default), ``"CPU"``, ``"GPU"``; ``"pytorch"`` for plain torch operations; ``"matrix"`` for
        the dense (M, N) matrix: k in mode "sum", the logarithm with its scalings in the log modes.
    dtype : str, optional
        Checked against the tensors, whose dtype is used. ``cuda_type`` is its old name.

    Returns
    -------
    Tensor of shape (M, E)
        Differentiable, to any order, in gamma, x, y and all arrays.

    Raises
    ------
    FormulaError, ShapeError, DTypeError, OptionError

    Examples
    --------
    >>> x, y, b = torch.zeros(4, 3), torch.ones(5, 3), torch.ones(5, 2)
    >>> params = {"id": Kernel("gaussian(x,y)"), "gamma": torch.tensor([0.0])}
    >>> kernel_product(params, x, y, b).shape
    torch.Size([4, 2])
    """
    kernel = _kernel(params)
    mode = mode or params.get("mode", "sum")
    backend = backend or params.get("backend", "auto")
    if mode not in _MODES:
        raise OptionError(f"mode={mode!r} is unknown; expected one of {', '.join(_MODES)}.")
    m = _MODES[mode]
    xs = _points("x", x, kernel)
    ys = _points("y", y, kernel, xs[0])
    _check_dtype(cuda_type or dtype, xs[0])

    args: list[Tensor] = []

    def variable(tensor: Tensor, axis: str) -> Expr:
        args.append(tensor)
        return var(len(args) - 1, tensor.shape[-1], axis)

    sizes = (xs[0].shape[0], ys[0].shape[0])
    gammas = [
        None if g is None else variable(*g)
        for g in (_gamma(k, g, xs[0], sizes) for k, g in enumerate(_gammas(params.get("gamma"), kernel)))
    ]
    points = list(zip([variable(t, "i") for t in xs], [variable(t, "j") for t in ys]))
    arrays = [variable(*b) for b in _arrays(bs, m, mode, xs[0], sizes)]
    entry = m.entry(kernel.formula(points, gammas, log=m.log), *arrays)
    if backend == "matrix":
        return dense(entry, args, sizes=sizes).squeeze(-1)
    options = chosen({"backend": "reference" if backend == "pytorch" else backend})
    (out,) = map_reduce_many(
        (Output(m.term(entry, *arrays), m.reduction),), tuple(args), sizes=sizes, options=options
    )
    return out[0]


# ---------------------------------------------------------------- arguments


def _kernel(params: dict[str, Any]) -> Kernel:
    kernel = params.get("id") if isinstance(params, dict) else None
    if not isinstance(kernel, Kernel):
        raise OptionError(
            f"params={params!r}: expected a dictionary with a Kernel under 'id', "
            "{'id': Kernel('gaussian(x,y)'), 'gamma': ...}."
        )
    return kernel


def _points(name: str, value: Any, kernel: Kernel, like: Tensor | None = None) -> list[Tensor]:
    tensors = list(value) if isinstance(value, (tuple, list)) else [value]
    if len(tensors) != len(kernel.pairs):
        raise ShapeError(
            f"{name} holds {len(tensors)} tensor(s); {kernel!r} takes {len(kernel.pairs)}, one for each pair "
            f"of variables: {', '.join(f'({a}, {b})' for a, b in kernel.pairs)}."
        )
    first = tensors[0]
    if not isinstance(first, Tensor) or first.dim() != 2:
        came = f"of shape {tuple(first.shape)}" if isinstance(first, Tensor) else f"a {type(first).__name__}"
        raise ShapeError(f"{name} is {came}; expected torch tensors of shape (rows, columns).")
    return [_checked(name, t, first.shape[0], like=first if like is None else like) for t in tensors]


def _checked(name: str, tensor: Any, rows: int, like: Tensor) -> Tensor:
    """A tensor of two axes with this number of rows, of the dtype and on the device of x."""
    if not isinstance(tensor, Tensor):
        raise DTypeError(f"{name} is a {type(tensor).__name__}; expected a torch tensor.")
    if tensor.dim() != 2 or tensor.shape[0] != rows:
        raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; expected ({rows}, number of columns).")
    return _alike(name, tensor, like)


def _alike(name: str, tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.dtype != like.dtype:
        raise DTypeError(f"{name} has dtype {tensor.dtype}, x has {like.dtype}; convert them to one dtype.")
    if tensor.device != like.device:
        raise DeviceError(f"{name} is on {tensor.device}, x on {like.device}; move them to one device.")
    return tensor


def _check_dtype(dtype: str | None, like: Tensor) -> None:
    """KeOps asks for the dtype; here it is that of the tensors."""
    if dtype is None:
        return
    name = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    if f"torch.{name}" != str(like.dtype):
        raise DTypeError(f"dtype={dtype!r}, but x has dtype {like.dtype}; leave dtype out or convert x.")


def _gammas(value: Any, kernel: Kernel) -> list[Any]:
    """One entry for each kernel of the name; what is missing at the end stands for None."""
    several = isinstance(value, (tuple, list)) and not _varying(value)
    entries = list(value) if several else [value]
    names = kernel.formulas
    if len(entries) > len(names) or any(n != "linear" for n in names[len(entries) :]):
        raise ShapeError(
            f"gamma has {len(entries)} entries; {kernel!r} has {len(names)} kernels, {', '.join(names)}, "
            "and takes one for each (None stands for 1)."
        )
    return entries + [None] * (len(names) - len(entries))


_AXES = ("i", "j")


def _varying(value: Any) -> bool:
    """Whether this is ("i", tensor) or ("j", tensor)."""
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    return pair and isinstance(value[0], str) and value[0] in _AXES


def _gamma(k: int, value: Any, like: Tensor, sizes: tuple[int, int]) -> tuple[Tensor, str] | None:
    """One entry of gamma and the axis along which it varies."""
    name = f"entry {k} of gamma"
    if value is None:
        return None
    axis = "p"
    if _varying(value):
        axis, value = value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = torch.tensor([value], dtype=like.dtype, device=like.device)
    if isinstance(value, Tensor) and axis == "p" and value.dim() < 2:
        return _alike(name, value.reshape(-1), like), "p"
    axis = "j" if axis == "p" else axis
    return _checked(name, value, sizes[_AXES.index(axis)], like), axis


def _arrays(
    bs: Sequence[Any], m: _Mode, mode: str, like: Tensor, sizes: tuple[int, int]
) -> list[tuple[Tensor, str]]:
    if len(bs) != len(m.arrays):
        raise ShapeError(
            f"mode={mode!r} takes {len(m.arrays)} array(s) behind x and y, "
            f"{', '.join(n for n, _ in m.arrays)}; got {len(bs)}."
        )
    return [
        (_checked(name, b, sizes[_AXES.index(axis)], like), axis) for b, (name, axis) in zip(bs, m.arrays)
    ]
