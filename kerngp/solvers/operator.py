"""Matrices that are known by what they do: a small algebra of linear operators.

An operator has a shape, tags that its maker declares (symmetric, psd) and five things it can do:
multiply, transpose, give its diagonal, give rows, and name the tensors it is made of. Everything
else - sums, multiples, ``+ alpha * identity(n)``, SciPy's protocol - is built on these once.
Subclasses are final; `KernelOperator` lives in its own file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..engine.arrays import adopt, dtype_name, is_array, is_number, kind_of, restore
from ..errors import BackendUnavailable, DeviceError, DTypeError, FormulaError, ShapeError
from .checks import NUMPY_DTYPES, Scalar, columns, everywhere, indices, require_square, scalar
from .meter import count

Tensor = torch.Tensor
Remake = Callable[[Tensor, int], Tensor]


class LinearOperator(ABC):
    """A matrix of shape (*batch, M, N), real, immutable.

    Operators combine with ``+``, ``-`` and multiplication by a number; ``A @ b`` applies one,
    ``A @ B`` applies one after the other.
    ``A + alpha * identity(n)`` adds to the diagonal. An operator of rank 2 is accepted by
    ``scipy.sparse.linalg.aslinearoperator`` and by SciPy's solvers as it is.

    Attributes
    ----------
    shape : tuple of int
        (*batch, M, N).
    torch_dtype : torch.dtype
        Of the entries and of products; `dtype` is the same for NumPy.
    device : torch.device
    symmetric, psd : bool
        Declared by whoever made the operator, not measured. psd implies symmetric.
    tensors : tuple of torch.Tensor
        All tensors the entries depend on, each once: what a gradient can be taken with respect to.
    """

    __array_ufunc__ = None  # NumPy's @ and * give way to the methods below

    shape: tuple[int, ...]
    torch_dtype: torch.dtype
    device: torch.device
    symmetric: bool
    psd: bool
    columns: int | None = None  # how many columns a product must have, for what differs from column to column
    work = "products"  # what a meter books products under; entries of other kinds of work are not counted

    # ------------------------------------------------------------ the contract

    @abstractmethod
    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        """Product with b of shape (..., N, E), E >= 1, on the operator's device, in its dtype.

        With ``exact`` b is float64 and so is everything else, entries included.
        """

    @abstractmethod
    def _transpose(self) -> LinearOperator:
        """The transposed operator."""

    @abstractmethod
    def _diag(self) -> Tensor:
        """The diagonal, shape (*batch, n); called on square operators only."""

    @abstractmethod
    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        """Entries (*batch, len(idx), len(cols)); indices are valid int64 tensors on the device."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors the entries depend on, each once."""

    def remade(self, new: Remake) -> LinearOperator:
        """The same operator with every tensor t replaced by ``new(t, core)``.

        ``core`` is the number of its last axes that are not batch axes: 0 for a number, 1 for a diagonal,
        2 for a matrix or for points. What is new may have more batch axes in front.
        """
        raise BackendUnavailable(
            f"torch.vmap over the tensors of a {type(self).__name__} is not defined: it has no method "
            "`remade`. Solve the systems one by one."
        )

    def with_tensors(self, tensors: Sequence[Tensor]) -> LinearOperator:
        """The same operator made of other tensors, given in the order of `tensors`."""
        given = dict(zip(map(id, self.tensors), tensors, strict=True))
        return self.remade(lambda t, core: given[id(t)])

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        """Entries (*batch, B, s, s) at idx x idx, for idx of shape (B, s); float64 if ``exact``."""
        A = cast(self, torch.float64) if exact else self
        return torch.stack([A._rows(i, i) for i in idx], -3)

    # ------------------------------------------------------------ what follows from it

    @property
    def dtype(self) -> np.dtype:
        """The NumPy dtype of the entries (SciPy asks for it under this name)."""
        return np.dtype(NUMPY_DTYPES[self.torch_dtype])

    @property
    def entries(self) -> float:
        """How many entries a product computes, for those who count."""
        return float(math.prod(self.shape))

    @property
    def T(self) -> LinearOperator:
        """The transpose; a symmetric operator is its own."""
        return self if self.symmetric else self._transpose()

    def matmul(self, b: Any, *, exact: bool = False) -> Any:
        """The product A b.

        Parameters
        ----------
        b : array of shape (N,), (N, E) or (*batch, N, E)
            torch or NumPy, of the operator's dtype; integers are converted.
        exact : bool
            Take a float64 b and do everything in float64, from the tensors that the operator is made
            of, and in the most accurate form. Solvers compute residuals in this way.

        Returns
        -------
        array of shape (M,), (M, E) or (*batch, M, E), of the library of ``b``.

        Raises
        ------
        ShapeError, DTypeError, DeviceError
            Saying what b is and what it should be.

        Examples
        --------
        >>> import torch
        >>> Dense(torch.eye(2)).matmul(torch.tensor([1.0, 2.0]))
        tensor([1., 2.])
        """
        t, vector = columns("b", b, self.shape, torch.float64 if exact else self.torch_dtype, self.device)
        if t.shape[-1] == 0:
            batch = torch.broadcast_shapes(self.shape[:-2], t.shape[:-2])
            out = t.new_zeros((*batch, self.shape[-2], 0))
        else:
            with count(self.work, self.entries if self.work == "products" else 0.0):
                out = self._matmul(t, exact)
        return restore(out.squeeze(-1) if vector else out, kind_of(b))

    def diag(self) -> Tensor:
        """The diagonal, a tensor of shape (*batch, n); the operator must be square."""
        require_square(self, "diag()")
        with count("rows", math.prod(self.shape[:-1])):
            return self._diag()

    def rows(self, idx: Any, cols: Any = None) -> Tensor:
        """The entries of rows ``idx`` (and columns ``cols``), a tensor (*batch, len(idx), N or len(cols))."""
        picked = None if cols is None else indices("cols", cols, self.shape[-1], self.device)
        rows = indices("idx", idx, self.shape[-2], self.device)
        width = self.shape[-1] if picked is None else len(picked)
        with count("rows", math.prod(self.shape[:-2]) * len(rows) * width):
            return self._rows(rows, picked)

    def submatrices(self, idx: Tensor, *, exact: bool = False) -> Tensor:
        """Many small submatrices, A[idx_k, idx_k] for each k.

        Parameters
        ----------
        idx : int64 tensor of shape (B, s), B >= 1
        exact : bool
            In float64, from the tensors that the operator is made of.

        Returns
        -------
        Tensor of shape (*batch, B, s, s)
        """
        require_square(self, "submatrices()")
        with count("rows", math.prod(self.shape[:-2]) * idx.numel() * idx.shape[-1]):
            return self._submatrices(idx, exact)

    def dense(self) -> Tensor:
        """All entries, a tensor of shape (*batch, M, N)."""
        with count("rows", math.prod(self.shape)):
            return self._rows(torch.arange(self.shape[-2], device=self.device), None)

    def submatrix(self, rows: Any = None, cols: Any = None) -> LinearOperator:
        """The operator of some rows and columns, in the order given; None stands for all.

        Its products cost what its own size says: solvers that work block by block multiply with
        ``A.submatrix(rows)``. A principal submatrix of a symmetric operator is symmetric.

        Parameters
        ----------
        rows, cols : vectors of integers or slices, optional

        Raises
        ------
        ShapeError

        Examples
        --------
        >>> import torch
        >>> Dense(torch.eye(3)).submatrix([2, 0]).dense()
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
        """
        i = None if rows is None else indices("rows", rows, self.shape[-2], self.device)
        j = None if cols is None else indices("cols", cols, self.shape[-1], self.device)
        if i is None and j is None:
            return self
        return self._submatrix(i, i if i is not None and j is not None and torch.equal(i, j) else j)

    def matvec(self, b: Any) -> Any:
        """SciPy's name for the product with a vector; other dtypes are converted to the operator's."""
        return _lenient(self, b)

    def rmatvec(self, b: Any) -> Any:
        """SciPy's name for the product of the transpose with a vector."""
        return _lenient(self.T, b)

    def scipy(self) -> Any:
        """This operator as SciPy's ``LinearOperator``, with products of several columns in one pass."""
        from scipy.sparse.linalg import LinearOperator as ScipyOperator

        if len(self.shape) != 2:
            raise ShapeError(
                f"SciPy operators have two axes, this one has shape {self.shape}; pick one of the batch."
            )
        multiply, transposed = (lambda b: _lenient(self, b)), (lambda b: _lenient(self.T, b))
        make: Any = ScipyOperator  # its type stubs describe the abstract class, not the factory
        return make(self.shape, multiply, transposed, multiply, dtype=self.dtype, rmatmat=transposed)

    def _merge(self, other: LinearOperator) -> LinearOperator | None:
        """self + other as one operator of a simpler kind, or None (a subclass may know a way)."""
        return None

    def _scale(self, alpha: Scalar) -> LinearOperator | None:
        """alpha * self as one operator of a simpler kind, or None."""
        return None

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> LinearOperator:
        """See `submatrix`; one of the two is given, and equal ones are the same tensor."""
        from .selected import Selected

        return Selected(self, rows, cols)

    def __matmul__(self, b: Any) -> Any:
        if isinstance(b, LinearOperator):
            from .product import compose

            return compose(self, b)
        if not is_array(b) and hasattr(b, "__rmatmul__"):
            return NotImplemented  # it knows how to become an operator
        return self.matmul(b)

    def __rmatmul__(self, b: Any) -> Any:
        if getattr(b, "ndim", 0) <= 1:
            return self.T.matmul(b)
        return self.T.matmul(b.swapaxes(-1, -2)).swapaxes(-1, -2)

    def __add__(self, other: Any) -> LinearOperator:
        return add(self, other)

    def __radd__(self, other: Any) -> LinearOperator:
        return self if isinstance(other, int) and other == 0 else add(self, other)  # sum() starts at 0

    def __sub__(self, other: Any) -> LinearOperator:
        return add(self, -other if isinstance(other, LinearOperator) else other)

    def __mul__(self, alpha: Any) -> LinearOperator:
        return scale(self, alpha)

    def __rmul__(self, alpha: Any) -> LinearOperator:
        return scale(self, alpha)

    def __truediv__(self, alpha: Any) -> LinearOperator:
        return scale(self, 1.0 / alpha)

    def __neg__(self) -> LinearOperator:
        return scale(self, -1.0)

    def __repr__(self) -> str:
        tags = "".join(f", {t}" for t in ("symmetric", "psd") if getattr(self, t))
        return (
            f"{type(self).__name__}({' x '.join(map(str, self.shape))}, {dtype_name(self.torch_dtype)}{tags})"
        )


def _lenient(A: LinearOperator, b: Any) -> Any:
    """A b for any real dtype of b; the result has b's floating dtype."""
    t, kind = torch.as_tensor(b, device=A.device), kind_of(b)
    out = A.matmul(t.to(A.torch_dtype))
    return restore(out.to(t.dtype) if t.is_floating_point() else out, kind)


# ---------------------------------------------------------------- algebra


def add(A: LinearOperator, B: Any) -> LinearOperator:
    """A + B. Diagonals are collected, terms that know how to merge become one operator.

    Raises
    ------
    FormulaError
        If B is no operator; a number does not say whether it means every entry or the diagonal.
    ShapeError, DTypeError, DeviceError
    """
    if not isinstance(B, LinearOperator):
        raise FormulaError(f"cannot add a {type(B).__name__} to an operator; for alpha on the diagonal write "
                           "A + alpha * identity(n), for a matrix Dense(matrix).")  # fmt: skip
    if A.shape[-2:] != B.shape[-2:]:
        raise ShapeError(f"cannot add operators of shapes {A.shape} and {B.shape}.")
    if A.device != B.device:
        raise DeviceError(f"cannot add an operator on {B.device} to one on {A.device}; move one of them.")
    if isinstance(A, Diagonal) and isinstance(B, Diagonal):
        return Diagonal(*_sum_values(A.values, B.values), n=A.shape[-1])
    if isinstance(A, Diagonal):
        A, B = B, A
    if isinstance(B, Diagonal):
        if isinstance(A, AddedDiagonal):
            return AddedDiagonal(A.base, *_sum_values(A.values, B.values))
        return AddedDiagonal(A, B.values)
    if A.torch_dtype != B.torch_dtype:
        raise DTypeError(
            f"cannot add operators of dtypes {A.torch_dtype} and {B.torch_dtype}; convert one with cast()."
        )
    if isinstance(A, AddedDiagonal) or isinstance(B, AddedDiagonal):
        bases = [X.base if isinstance(X, AddedDiagonal) else X for X in (A, B)]
        values = [X.values for X in (A, B) if isinstance(X, AddedDiagonal)]
        return AddedDiagonal(add(*bases), *_sum_values(*values))
    terms = [*(A.terms if isinstance(A, Sum) else (A,)), *(B.terms if isinstance(B, Sum) else (B,))]
    merged: list[LinearOperator] = []
    for term in terms:
        for k, other in enumerate(merged):
            both = other._merge(term)
            if both is not None:
                merged[k] = both
                break
        else:
            merged.append(term)
    return merged[0] if len(merged) == 1 else Sum(tuple(merged))


def _sum_values(*values: Tensor) -> tuple[Tensor]:
    if len(values) == 1:
        return (values[0],)
    a, b = (v.to(torch.promote_types(values[0].dtype, values[1].dtype)) for v in values)
    return (a + b,)


def scale(A: LinearOperator, alpha: Any) -> LinearOperator:
    """alpha * A for a number or a 0-d tensor alpha."""
    alpha = scalar(alpha)
    if isinstance(alpha, Tensor) and alpha.device != A.device:
        alpha = alpha.to(A.device)
    if isinstance(A, Diagonal):
        return Diagonal(A.values * alpha, n=A.shape[-1])
    if isinstance(A, AddedDiagonal):
        return AddedDiagonal(scale(A.base, alpha), A.values * alpha)
    if isinstance(A, Sum):
        return Sum(tuple(scale(term, alpha) for term in A.terms))
    if isinstance(A, Scaled):
        return Scaled(A.base, A.alpha * alpha)
    return A._scale(alpha) or Scaled(A, alpha)


def identity(n: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Diagonal:
    """The identity matrix. In ``A + alpha * identity(n)`` the dtype follows A.

    Examples
    --------
    >>> import torch
    >>> (Dense(torch.ones(2, 2)) + 3.0 * identity(2)).dense()
    tensor([[4., 1.],
            [1., 4.]])
    """
    return Diagonal(torch.ones((), dtype=dtype, device=device), n=n)


def cast(A: LinearOperator, dtype: torch.dtype) -> LinearOperator:
    """The operator made of the same tensors in another dtype."""
    return A if A.torch_dtype == dtype else A.with_tensors([t.to(dtype) for t in A.tensors])


def as_operator(A: Any) -> LinearOperator:
    """Operators pass through; a matrix becomes `Dense`, symmetric if its entries are."""
    if isinstance(A, LinearOperator):
        return A
    t = adopt("A", A)
    if t.dim() < 2:
        raise ShapeError(f"A has shape {tuple(t.shape)}; expected an operator or a matrix (*batch, M, N).")
    square = t.shape[-1] == t.shape[-2]
    return Dense(t, symmetric=square and everywhere(t.detach() == t.detach().mT))


def _unique(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple({id(t): t for t in tensors}.values())


# ---------------------------------------------------------------- the operators


class Dense(LinearOperator):
    """A matrix that is stored.

    Parameters
    ----------
    matrix : array of shape (*batch, M, N)
    symmetric, psd : bool
    """

    def __init__(self, matrix: Any, *, symmetric: bool = False, psd: bool = False):
        self.matrix = adopt("matrix", matrix)
        if self.matrix.dim() < 2:
            raise ShapeError(f"matrix has shape {tuple(self.matrix.shape)}; expected (*batch, M, N).")
        self.shape, self.torch_dtype = tuple(self.matrix.shape), self.matrix.dtype
        self.device, self.psd, self.symmetric = self.matrix.device, psd, symmetric or psd

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        if not exact or self.torch_dtype == torch.float64:
            return self.matrix @ b
        step = max(1, (1 << 22) // max(1, self.matrix[..., :1, :].numel()))  # a few rows in float64 at a time
        rows = (self.matrix[..., i : i + step, :].double() for i in range(0, max(1, self.shape[-2]), step))
        return torch.cat([r @ b for r in rows], -2)

    def _transpose(self) -> Dense:
        return Dense(self.matrix.mT)

    def _diag(self) -> Tensor:
        return self.matrix.diagonal(dim1=-2, dim2=-1)

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        rows = self.matrix[..., idx, :]
        return rows if cols is None else rows[..., cols]

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        found = self.matrix[..., idx.unsqueeze(-1), idx.unsqueeze(-2)]
        return found.double() if exact else found

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> Dense:
        m = self.matrix if rows is None else self.matrix[..., rows, :]
        same = rows is cols
        return Dense(
            m if cols is None else m[..., cols],
            symmetric=self.symmetric and same,
            psd=self.psd and same,
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.matrix,)

    def remade(self, new: Remake) -> Dense:
        """See `LinearOperator.remade`."""
        return Dense(new(self.matrix, 2), symmetric=self.symmetric, psd=self.psd)

    def _merge(self, other: LinearOperator) -> LinearOperator | None:
        if not isinstance(other, Dense):
            return None
        return Dense(
            self.matrix + other.matrix,
            symmetric=self.symmetric and other.symmetric,
            psd=self.psd and other.psd,
        )


class Diagonal(LinearOperator):
    """diag(values), or one value times the identity.

    Parameters
    ----------
    values : array of shape (*batch, n), or a number
    n : int, optional
        Needed for a number.
    """

    def __init__(self, values: Any, *, n: int | None = None):
        self.values = (
            adopt("values", values)
            if not is_number(values)
            else torch.tensor(float(values), dtype=torch.float64)
        )
        v = self.values
        if v.dim() == 0 and n is None:
            raise ShapeError("Diagonal of one number has no size; pass n=..., or use alpha * identity(n).")
        if n is not None and v.dim() and v.shape[-1] not in (1, n):
            raise ShapeError(f"values has shape {tuple(v.shape)}; expected ({n},) or a number.")
        size = n if n is not None else v.shape[-1]
        self.shape, self.torch_dtype, self.device = (*v.shape[:-1], size, size), v.dtype, v.device
        self.symmetric, self.psd = True, everywhere(v.detach() >= 0)

    def _full(self) -> Tensor:
        return self.values.expand(*self.shape[:-1])

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        return self._full().to(b.dtype).unsqueeze(-1) * b

    def _transpose(self) -> Diagonal:
        return self

    def _diag(self) -> Tensor:
        return self._full()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        cols = torch.arange(self.shape[-1], device=self.device) if cols is None else cols
        return (idx.unsqueeze(-1) == cols) * self._full()[..., idx].unsqueeze(-1)

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        values = self._full().double() if exact else self._full()
        return (idx.unsqueeze(-1) == idx.unsqueeze(-2)) * values[..., idx].unsqueeze(-1)

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> LinearOperator:
        if rows is not None and rows is cols and len(rows.unique()) == len(rows):
            return Diagonal(self._full()[..., rows])
        return super()._submatrix(rows, cols)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.values,)

    def remade(self, new: Remake) -> Diagonal:
        """See `LinearOperator.remade`."""
        return Diagonal(_remade_values(self.values, new), n=self.shape[-1])


def _remade_values(values: Tensor, new: Remake) -> Tensor:
    """A diagonal; one number that has become a batch of numbers gets an axis for the rows."""
    core = min(1, values.dim())
    found = new(values, core)
    return found.unsqueeze(-1) if found.dim() > core == 0 else found


class AddedDiagonal(LinearOperator):
    """base + diag(values): what kernel ridge regression and Gaussian processes solve with.

    Parameters
    ----------
    base : LinearOperator
        Square.
    values : array of shape (*batch, n), or a number
        Kept in its own dtype; products use the base's.
    """

    def __init__(self, base: LinearOperator, values: Any):
        require_square(base, "adding to the diagonal")
        d = Diagonal(values, n=base.shape[-1])
        if d.device != base.device:
            d = Diagonal(d.values.to(base.device), n=base.shape[-1])
        self.base, self.values = base, d.values
        self.shape = (*torch.broadcast_shapes(base.shape[:-2], d.shape[:-2]), *base.shape[-2:])
        self.torch_dtype, self.device = base.torch_dtype, base.device
        self.symmetric, self.psd = base.symmetric, base.psd and d.psd

    def _diagonal(self) -> Diagonal:
        return Diagonal(self.values.to(self.torch_dtype), n=self.shape[-1])

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        return self.base._matmul(b, exact) + Diagonal(self.values.to(b.dtype), n=self.shape[-1])._matmul(
            b, exact
        )

    def _transpose(self) -> AddedDiagonal:
        return AddedDiagonal(self.base.T, self.values)

    def _diag(self) -> Tensor:
        return self.base._diag() + self._diagonal()._diag()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        return self.base._rows(idx, cols) + self._diagonal()._rows(idx, cols)

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        found = self.base._submatrices(idx, exact)
        d = Diagonal(self.values.to(found.dtype), n=self.shape[-1])
        if bool((idx.sort(-1)[0].diff(dim=-1) == 0).any()):  # an index twice: entries beside the diagonal
            return found + d._submatrices(idx, exact)
        return found + torch.diag_embed(d._full()[..., idx])

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> LinearOperator:
        base = self.base._submatrix(rows, cols)
        part = Diagonal(self.values, n=self.shape[-1])._submatrix(rows, cols)
        return AddedDiagonal(base, part.values) if isinstance(part, Diagonal) else Sum((base, part))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return _unique((*self.base.tensors, self.values))

    def remade(self, new: Remake) -> AddedDiagonal:
        """See `LinearOperator.remade`."""
        return AddedDiagonal(self.base.remade(new), _remade_values(self.values, new))


class Sum(LinearOperator):
    """A sum of operators that could not be merged into one."""

    def __init__(self, terms: tuple[LinearOperator, ...]):
        self.terms = terms
        self.shape = (*torch.broadcast_shapes(*(t.shape[:-2] for t in terms)), *terms[0].shape[-2:])
        self.torch_dtype, self.device = terms[0].torch_dtype, terms[0].device
        self.psd = all(t.psd for t in terms)
        self.symmetric = all(t.symmetric for t in terms)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        return _total([t._matmul(b, exact) for t in self.terms])

    def _transpose(self) -> Sum:
        return Sum(tuple(t.T for t in self.terms))

    def _diag(self) -> Tensor:
        return _total([t._diag().to(self.torch_dtype) for t in self.terms])

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        return _total([t._rows(idx, cols).to(self.torch_dtype) for t in self.terms])

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> Sum:
        return Sum(tuple(t._submatrix(rows, cols) for t in self.terms))

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        dtype = torch.float64 if exact else self.torch_dtype
        return _total([t._submatrices(idx, exact).to(dtype) for t in self.terms])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return _unique([t for term in self.terms for t in term.tensors])

    def remade(self, new: Remake) -> Sum:
        """See `LinearOperator.remade`."""
        return Sum(tuple(term.remade(new) for term in self.terms))


class Scaled(LinearOperator):
    """alpha * base, for a base that cannot take the factor in."""

    def __init__(self, base: LinearOperator, alpha: Scalar):
        self.base = base
        self.alpha = (
            alpha
            if isinstance(alpha, Tensor)
            else torch.tensor(alpha, dtype=torch.float64, device=base.device)
        )
        batch = torch.broadcast_shapes(base.shape[:-2], self.alpha.shape)
        self.shape, self.torch_dtype, self.device = (*batch, *base.shape[-2:]), base.torch_dtype, base.device
        self.symmetric, self.psd = base.symmetric, base.psd and everywhere(self.alpha.detach() >= 0)

    def _factor(self, axes: int, dtype: torch.dtype) -> Tensor:
        """alpha, to multiply what has ``axes`` axes after those of the batch."""
        return self.alpha[(..., *[None] * axes)].to(dtype)

    def _matmul(self, b: Tensor, exact: bool) -> Tensor:
        return self._factor(2, b.dtype) * self.base._matmul(b, exact)

    def _transpose(self) -> Scaled:
        return Scaled(self.base.T, self.alpha)

    def _diag(self) -> Tensor:
        return self._factor(1, self.torch_dtype) * self.base._diag()

    def _rows(self, idx: Tensor, cols: Tensor | None) -> Tensor:
        return self._factor(2, self.torch_dtype) * self.base._rows(idx, cols)

    def _submatrices(self, idx: Tensor, exact: bool) -> Tensor:
        found = self.base._submatrices(idx, exact)
        return self._factor(3, found.dtype) * found

    def _submatrix(self, rows: Tensor | None, cols: Tensor | None) -> LinearOperator:
        return Scaled(self.base._submatrix(rows, cols), self.alpha)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return _unique((*self.base.tensors, self.alpha))

    def remade(self, new: Remake) -> Scaled:
        """See `LinearOperator.remade`."""
        return Scaled(self.base.remade(new), new(self.alpha, 0))


def _total(parts: list[Tensor]) -> Tensor:
    out = parts[0]
    for part in parts[1:]:
        out = out + part
    return out
