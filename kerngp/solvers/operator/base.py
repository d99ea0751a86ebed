"""What a linear operator is: a matrix that is known by what it does.

An operator has a shape, tags that its maker declares (symmetric, psd) and five things it can do:
multiply, transpose, give its diagonal, give rows, and name the tensors it is made of. Everything
else - sums, multiples, ``+ alpha * identity(n)``, SciPy's protocol - is built on these once.

Sums, products and selections of operators are operators, so their files import this one; it imports
them when they are first asked for.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...engine.arrays import dtype_name, is_array, kind_of, restore
from ...errors import BackendUnavailable, ShapeError
from ..checks import NUMPY_DTYPES, Scalar, columns, indices, require_square
from ..meter import count

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
        >>> from kerngp.solvers import Dense
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
        >>> from kerngp.solvers import Dense
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
        from ..selected import Selected

        return Selected(self, rows, cols)

    def __matmul__(self, b: Any) -> Any:
        if isinstance(b, LinearOperator):
            from ..product import compose

            return compose(self, b)
        if not is_array(b) and hasattr(b, "__rmatmul__"):
            return NotImplemented  # it knows how to become an operator
        return self.matmul(b)

    def __rmatmul__(self, b: Any) -> Any:
        if getattr(b, "ndim", 0) <= 1:
            return self.T.matmul(b)
        return self.T.matmul(b.swapaxes(-1, -2)).swapaxes(-1, -2)

    def __add__(self, other: Any) -> LinearOperator:
        return _add(self, other)

    def __radd__(self, other: Any) -> LinearOperator:
        return self if isinstance(other, int) and other == 0 else _add(self, other)  # sum() starts at 0

    def __sub__(self, other: Any) -> LinearOperator:
        return _add(self, -other if isinstance(other, LinearOperator) else other)

    def __mul__(self, alpha: Any) -> LinearOperator:
        return _scaled(self, alpha)

    def __rmul__(self, alpha: Any) -> LinearOperator:
        return _scaled(self, alpha)

    def __truediv__(self, alpha: Any) -> LinearOperator:
        return _scaled(self, 1.0 / alpha)

    def __neg__(self) -> LinearOperator:
        return _scaled(self, -1.0)

    def __repr__(self) -> str:
        tags = "".join(f", {t}" for t in ("symmetric", "psd") if getattr(self, t))
        return (
            f"{type(self).__name__}({' x '.join(map(str, self.shape))}, {dtype_name(self.torch_dtype)}{tags})"
        )


def _add(A: LinearOperator, B: Any) -> LinearOperator:
    from .algebra import add

    return add(A, B)


def _scaled(A: LinearOperator, alpha: Any) -> LinearOperator:
    from .algebra import scale

    return scale(A, alpha)


def _lenient(A: LinearOperator, b: Any) -> Any:
    """A b for any real dtype of b; the result has b's floating dtype."""
    t, kind = torch.as_tensor(b, device=A.device), kind_of(b)
    out = A.matmul(t.to(A.torch_dtype))
    return restore(out.to(t.dtype) if t.is_floating_point() else out, kind)


def cast(A: LinearOperator, dtype: torch.dtype) -> LinearOperator:
    """The operator made of the same tensors in another dtype."""
    return A if A.torch_dtype == dtype else A.with_tensors([t.to(dtype) for t in A.tensors])


def unique(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Each tensor once, in the order in which they first appear."""
    return tuple({id(t): t for t in tensors}.values())
