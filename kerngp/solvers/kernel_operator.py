"""The matrix of a formula: entries are computed when they are used and never stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .. import options as _options
from ..engine.arrays import adopt
from ..engine.autodiff import rename, transpose
from ..engine.entries import diagonal, entries
from ..engine.expr import Expr, Pm, Vj, variables
from ..engine.mapreduce import map_reduce
from ..engine.ops import concat
from ..engine.plan import Output, measure, shapes_of
from ..engine.ranges import Ranges
from ..engine.reductions import SUM
from ..errors import FormulaError, ShapeError
from .checks import Scalar, everywhere
from .operator import LinearOperator, Remake, unique
from .selected import Selected

Tensor = torch.Tensor


class KernelOperator(LinearOperator):
    """The matrix F(x_i, y_j) of a formula, matrix-free: products, rows and gradients by the engine.

    With ``blocks=(p, q)`` every pair of points gives a p x q block; the matrix is then (M p) x (N q),
    row i p + a and column j q + c belong to points i and j. Sums and multiples of kernel operators
    become one formula, evaluated in one pass.

    Parameters
    ----------
    formula : Expr
        Of dimension p q, the block row by row. Its variables name positions in ``args``.
    args : sequence of arrays
        (..., M, dim) for i-variables, (..., N, dim) for j-variables, (..., dim) for parameters.
    sizes : (M, N), optional
        Needed only when no argument is indexed by i, or none by j.
    symmetric, psd : bool
        What is known of the matrix; psd implies symmetric. Not checked: it would cost a pass.
    blocks : (p, q)
    options : Options, optional
        For products. Default: those in force when a product is formed.
    ranges : Ranges, or KeOps's tuple of six integer arrays, optional
        Blocks of pairs of points; the matrix is 0 elsewhere.

    Raises
    ------
    FormulaError, ShapeError, DTypeError, DeviceError
        If the formula and its arguments do not fit together.

    Examples
    --------
    >>> import torch
    >>> from kerngp.engine.expr import Vi, Vj
    >>> from kerngp.engine.ops import exp, sqdist
    >>> x = torch.zeros(4, 3)
    >>> K = KernelOperator(exp(-sqdist(Vi(0, 3), Vj(1, 3))), (x, x), psd=True)
    >>> K @ torch.ones(4)
    tensor([4., 4., 4., 4.])
    """

    def __init__(
        self,
        formula: Expr,
        args: Sequence[Any],
        sizes: tuple[int | None, int | None] | None = None,
        *,
        symmetric: bool = False,
        psd: bool = False,
        blocks: tuple[int, int] = (1, 1),
        options: _options.Options | None = None,
        ranges: Ranges | tuple | None = None,
    ):
        if not isinstance(formula, Expr):
            raise FormulaError(
                f"formula is a {type(formula).__name__}; expected an Expr, built from Vi, Vj and Pm."
            )
        p, q = blocks
        if formula.dim != p * q:
            raise FormulaError(f"formula has dim {formula.dim}; blocks={blocks} needs dim {p * q}.")
        # one tensor for one array, so that repeated arguments stay recognisable
        given: dict[int, Tensor] = {}
        self.args = tuple(given.setdefault(id(a), adopt(f"argument {k}", a)) for k, a in enumerate(args))
        g = measure((Output(formula, SUM),), shapes_of(self.args), sizes or (None, None))
        self.formula, self.sizes, self.blocks, self.options = formula, (g.M, g.N), (p, q), options
        self.ranges = None if ranges is None else Ranges.of(ranges).check(g.M, g.N)
        self.shape = (*g.batch, g.M * p, g.N * q)
        self.torch_dtype, self.device = g.dtype, g.device
        self.symmetric, self.psd = symmetric or psd, psd
        if self.symmetric and self.shape[-1] != self.shape[-2]:
            raise ShapeError(
                f"a symmetric operator is square; this one is {self.shape[-2]} x {self.shape[-1]}."
            )

    def _like(self, formula: Expr, args: Sequence[Tensor], **changes: Any) -> KernelOperator:
        keep: dict[str, Any] = {"sizes": self.sizes, "blocks": self.blocks, "options": self.options}
        keep["ranges"] = self.ranges
        tags: dict[str, Any] = {"symmetric": self.symmetric, "psd": self.psd}
        return KernelOperator(formula, args, **(keep | tags | changes))

    # ------------------------------------------------------------ the contract

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        (p, q), (_, N), E = self.blocks, self.sizes, b.shape[-1]
        options, args = self.options, self.args
        if exact:
            options = replace(options or _options.current(), precision="exact")
            doubled = {id(a): a.double() for a in args}  # equal arguments stay equal
            args = tuple(doubled[id(a)] for a in args)
        signal = b.reshape(*b.shape[:-2], N, q * E).contiguous()
        expr = product_formula(self.formula, self.blocks, E, len(self.args))
        out = map_reduce(expr, SUM, (*args, signal), sizes=self.sizes, ranges=self.ranges, options=options)
        assert isinstance(out, Tensor)
        return out.reshape(*out.shape[:-2], self.sizes[0] * p, E)

    def _transpose(self) -> KernelOperator:
        (p, q), (M, N) = self.blocks, self.sizes
        f = transpose(self.formula)
        if p > 1 and q > 1:
            f = concat(*(f[a * q + c] for c in range(q) for a in range(p)))
        ranges = None if self.ranges is None else self.ranges.swap_axes()
        return self._like(f, self.args, sizes=(N, M), blocks=(q, p), ranges=ranges)

    def _diag(self) -> Tensor:
        p, q = self.blocks
        if p != q:
            raise ShapeError(f"the diagonal of {p} x {q} blocks crosses them; only square blocks have it.")
        values = diagonal(self.formula, self.args, sizes=self.sizes, options=self.options)
        k = torch.arange(self.sizes[0])
        values = self._in_ranges(values, k, k)
        return values[..., :: q + 1].reshape(*self.shape[:-1])

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        (p, q), N = self.blocks, self.sizes[1]
        i, a = (idx, None) if p == 1 else (idx // p, idx % p)
        j, c = (cols, None) if q == 1 or cols is None else (cols // q, cols % q)
        args = _take(self.formula, self.args, "i", i)
        if j is not None:
            args = _take(self.formula, args, "j", j)
        n = N if j is None else len(j)
        block = _entries(self.formula, args, (len(i), n), self.options)  # (*batch, k, n, p q)
        block = self._in_ranges(block, i[:, None], torch.arange(N) if j is None else j)
        block = block.expand(*self.shape[:-2], *block.shape[-3:]).unflatten(-1, (p, q))
        if a is not None:
            k = torch.arange(len(i), device=idx.device)
            block = block.movedim(-2, -4)[..., a, k, :, :].unsqueeze(-2)
        if c is not None:
            k = torch.arange(n, device=idx.device)
            return block.squeeze(-2)[..., :, k, c]
        return block.reshape(*self.shape[:-2], len(i), n * q)

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        (p, q), s = self.blocks, idx.shape[-1]
        i = idx if p == 1 else idx // p
        args = tuple(_gathered(self.formula, self.args, i, exact))
        block = entries(self.formula, args, sizes=(s, s), options=self.options)  # (*batch, B, s, s, p q)
        block = self._in_ranges(block, i.unsqueeze(-1), i.unsqueeze(-2))
        block = block.expand(*self.shape[:-2], len(idx), s, s, p * q)
        if p == 1:
            return block.squeeze(-1)
        component = (idx % p * q).unsqueeze(-1) + (idx % p).unsqueeze(-2)
        return block.gather(-1, component.unsqueeze(-1).expand(*block.shape[:-1], 1)).squeeze(-1)

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> LinearOperator:
        (p, q), same = self.blocks, rows is cols
        i, a = _whole(rows, p)
        j, c = (i, a) if same and p == q else _whole(cols, q)
        sub = self._at_points(i, j, same)
        if a is None and c is None:
            return sub
        everything = [torch.arange(n, device=self.device) for n in sub.shape[-2:]]
        return Selected(sub, everything[0] if a is None else a, everything[1] if c is None else c)

    def _at_points(self, i: Tensor | None, j: Tensor | None, same: bool) -> KernelOperator:
        """The matrix between points i and points j; None stands for all."""
        picked: dict[tuple[int, int], Tensor] = {}  # equal arguments stay equal
        args, ranges = list(self.args), self.ranges
        for v in variables(self.formula):
            k, _, axis = v.attr
            index = {"i": i, "j": j}.get(axis)
            if index is not None:
                key = (id(args[k]), id(index))
                if key not in picked:
                    picked[key] = args[k].index_select(-2, index)
                args[k] = picked[key]
        if ranges is not None:
            ranges = ranges if i is None else ranges.take(i.cpu().numpy())
            ranges = ranges if j is None else ranges.swap_axes().take(j.cpu().numpy()).swap_axes()
        M, N = self.sizes
        sizes = (M if i is None else len(i), N if j is None else len(j))
        tags: dict[str, Any] = {"symmetric": self.symmetric and same, "psd": self.psd and same}
        return self._like(self.formula, args, sizes=sizes, ranges=ranges, **tags)

    def _in_ranges(self, values: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Values (..., p q) at pairs of points, with 0 outside of the ranges."""
        if self.ranges is None:
            return values
        kept = self.ranges.contains(i, j).to(values.device)
        return torch.where(kept[..., None], values, values.new_zeros(()))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return unique(self.args)

    def remade(self, new: Remake) -> KernelOperator:
        """See `LinearOperator.remade`."""
        core = {v.attr[0]: 1 if v.attr[2] == "p" else 2 for v in variables(self.formula)}
        return self._like(self.formula, [new(a, core.get(k, a.dim())) for k, a in enumerate(self.args)])

    # ------------------------------------------------------------ sums and multiples are formulas again

    def _merge(self, other: LinearOperator) -> LinearOperator | None:
        if not isinstance(other, KernelOperator) or other.blocks != self.blocks or other.sizes != self.sizes:
            return None
        if other.options != self.options or other.ranges is not self.ranges:
            return None
        f, args = _append(self.formula, self.args, other.formula, other.args)
        return self._like(f, args, symmetric=self.symmetric and other.symmetric, psd=self.psd and other.psd)

    def _scale(self, alpha: Scalar) -> LinearOperator:
        # a factor is a parameter, never a constant of the code: a new value must not cost a compilation
        value = torch.as_tensor(alpha, dtype=self.torch_dtype, device=self.device).reshape(1)
        if isinstance(alpha, float) and alpha == -1.0:
            return self._like(-self.formula, self.args, psd=False)
        if isinstance(alpha, float) and alpha == 1.0:
            return self
        f = Pm(len(self.args), 1) * self.formula
        return self._like(f, (*self.args, value), psd=self.psd and everywhere(value.detach() >= 0))


def _whole(index: Tensor | None, p: int) -> tuple[Tensor | None, Tensor | None]:
    """The points whose groups of p rows hold ``index``, and where in those rows; None: all, in order."""
    if index is None or p == 1:
        return index, None
    points = index[::p] // p
    rows = points[:, None] * p + torch.arange(p, device=index.device)
    if torch.equal(rows.reshape(-1), index):
        return points, None
    points, place = torch.unique(index // p, return_inverse=True)
    return points, place * p + index % p


def product_formula(f: Expr, blocks: tuple[int, int], E: int, index: int) -> Expr:
    """The formula whose sum over j is the product with E columns, the signal being argument ``index``."""
    p, q = blocks
    b = Vj(index, q * E)
    if (p, q) == (1, 1):
        return f * b
    rows = []
    for a in range(p):
        row = f[a * q] * b[0:E]
        for c in range(1, q):
            row = row + f[a * q + c] * b[c * E : (c + 1) * E]
        rows.append(row)
    return concat(*rows)


def _append(
    f: Expr, f_args: Sequence[Tensor], g: Expr, g_args: Sequence[Tensor]
) -> tuple[Expr, tuple[Tensor, ...]]:
    """f + g over one argument list; a tensor that both use the same way stands in it once."""
    args = list(f_args)
    known = {(id(f_args[v.attr[0]]), *v.attr[1:]): v.attr[0] for v in variables(f)}
    moved: dict[int, int] = {}
    for v in variables(g):
        position, dim, axis = v.attr
        key = (id(g_args[position]), dim, axis)
        if key not in known:
            known[key] = len(args)
            args.append(g_args[position])
        moved[position] = known[key]
    return f + rename(g, moved), tuple(args)


def _take(f: Expr, args: Sequence[Tensor], axis: str, index: Tensor) -> tuple[Tensor, ...]:
    """The arguments with rows ``index`` of those that the formula reads along ``axis``."""
    out = list(args)
    for v in variables(f):
        if v.attr[2] == axis:
            out[v.attr[0]] = args[v.attr[0]].index_select(-2, index)
    return tuple(out)


def _gathered(f: Expr, args: Sequence[Tensor], idx: Tensor, exact: bool) -> list[Tensor]:
    """The arguments of many small blocks: rows ``idx`` of shape (B, s), B being a batch axis."""
    out = list(args)
    for v in variables(f):
        k, _, axis = v.attr
        out[k] = args[k].unsqueeze(-2) if axis == "p" else args[k][..., idx, :]
    return [a.double() for a in out] if exact else out


def _entries(
    f: Expr, args: Sequence[Tensor], sizes: tuple[int, int], options: _options.Options | None
) -> Tensor:
    """All values of the formula, (*batch, M, N, dim), by column tiles with temporaries of bounded size."""
    M, N = sizes
    limit = min((options or _options.current()).memory_limit, 1 << 26)
    leaves = variables(f)
    shapes = [args[v.attr[0]].shape[: -1 if v.attr[2] == "p" else -2] for v in leaves]
    pairs = M * math.prod(torch.broadcast_shapes(*shapes))
    widest = max([f.dim, *(v.attr[1] for v in leaves)])
    step = max(1, limit // (8 * 3 * widest * max(1, pairs)))  # about three temporaries of the widest kind
    if step >= N or not any(v.attr[2] == "j" for v in leaves):
        return entries(f, args, sizes=sizes, options=options)
    tiles = []
    for j in range(0, N, step):
        cut = torch.arange(j, min(N, j + step), device=args[0].device)
        tiles.append(entries(f, _take(f, args, "j", cut), sizes=(M, len(cut)), options=options))
    return torch.cat(tiles, dim=-2)
