"""The only place that knows array libraries: their arrays come in as torch tensors and go out as they came.

NumPy shares its memory; anything else enters and leaves by DLPack. Nothing here imports a library
that the caller has not imported already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import DataError, DTypeError, ShapeError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NUMPY_FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


def dtype_name(dtype: object) -> str:
    """A dtype's name as NumPy writes it."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Kind:
    """Where an array came from: the name of its library, and the way back."""

    name: str
    leave: Callable[[torch.Tensor], Any]
    device: Any = None  # in the words of a library that is neither torch nor NumPy


def _to_numpy(t: torch.Tensor) -> np.ndarray:
    t = t.detach()
    return (t.float() if t.dtype == torch.bfloat16 else t).cpu().numpy()


def _unchanged(t: torch.Tensor) -> torch.Tensor:
    return t


def _through_dlpack(enter: Callable[[Any], Any], device: Any, t: torch.Tensor) -> Any:
    out = enter(t.detach())
    # torch knows the memory, not the device of a library that has several for the same memory
    if device is not None and out.device != device:
        out = out.to_device(device)
    return out


# functions with a name and their partial forms can be pickled
TORCH = Kind("torch", _unchanged)
NUMPY = Kind("numpy", _to_numpy)


def is_array(value: object) -> bool:
    """Whether a value is an array of some library (not a number, a list or a string)."""
    return (
        isinstance(value, (torch.Tensor, np.ndarray))
        or hasattr(value, "__dlpack__")
        or hasattr(value, "__array__")
    )


def kind_of(value: object) -> Kind:
    """The kind of an array. Numbers, lists and tables (pandas) count as NumPy."""
    if isinstance(value, torch.Tensor):
        return TORCH
    if isinstance(value, (np.ndarray, np.generic)) or not hasattr(value, "__dlpack__"):
        return NUMPY
    namespace = getattr(value, "__array_namespace__", None)
    enter = getattr(namespace(), "from_dlpack", None) if namespace is not None else None
    if enter is None:
        return NUMPY
    device = getattr(value, "device", None)
    return Kind(
        type(value).__module__.partition(".")[0], functools.partial(_through_dlpack, enter, device), device
    )


def restore(tensor: torch.Tensor, like: object) -> Any:
    """A result in the caller's library.

    Parameters
    ----------
    tensor : torch.Tensor
    like : array or Kind
        What the caller gave, or what `kind_of` said of it.

    Returns
    -------
    torch.Tensor, numpy.ndarray or an array of the caller's library, sharing memory where that is
    possible. A bfloat16 result becomes float32 in NumPy, which has no such type.

    Examples
    --------
    >>> import numpy as np, torch
    >>> restore(torch.ones(2), np.zeros(3))
    array([1., 1.], dtype=float32)
    """
    return (like if isinstance(like, Kind) else kind_of(like)).leave(tensor)


def adopt(
    name: str,
    value: Any,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """A torch tensor with the values of any array; memory is shared where that is possible.

    Parameters
    ----------
    name : str
        What the caller calls the value, for messages.
    value : array, number or (nested) list of numbers
        Arrays must have a floating dtype. Python numbers may be integers.
    dtype : torch.dtype, optional
        Convert to this dtype. Default: the array's own, ``torch.get_default_dtype()`` for numbers.
    device : optional
        Move to this device. Default: where the array is.

    Returns
    -------
    torch.Tensor
        The same object for a torch tensor, unless it is a negated view. Treat it as read-only: it may be
        the caller's memory.

    Raises
    ------
    DTypeError
        Integers, booleans, complex numbers, objects, extended precision.
    ShapeError
        A ragged list.
    DataError
        A masked array.

    Examples
    --------
    >>> import numpy as np
    >>> adopt("x", np.zeros((2, 3), dtype=np.float32)).shape
    torch.Size([2, 3])
    """
    if isinstance(value, torch.Tensor):
        t = value
    elif isinstance(value, np.ndarray):
        t = _from_numpy(name, value)
    elif is_number(value):
        t = torch.tensor(float(value), dtype=dtype or torch.get_default_dtype())
    elif isinstance(value, (list, tuple)):
        t = _from_list(name, value).to(dtype or torch.get_default_dtype())
    elif hasattr(value, "__dlpack__"):
        t = _from_dlpack(name, value)
    elif hasattr(value, "__array__"):
        t = _from_numpy(name, np.asarray(value))
    else:
        raise DTypeError(
            f"{name} is a {type(value).__name__}; expected a torch tensor, a NumPy array, a number or a list."
        )
    if t.dtype not in FLOATS:
        raise _wrong_dtype(name, t.dtype, ".to(torch.float32)")
    if t.layout != torch.strided:
        raise DTypeError(
            f"{name} has layout {t.layout}; expected a dense tensor: convert it with .to_dense()."
        )
    if (dtype is not None and t.dtype != dtype) or device is not None:
        t = t.to(device=device, dtype=dtype)
    # The imaginary parts of a conjugate view have the other sign in memory. Other tensors stay themselves,
    # also where a transform would wrap them anew; the compiler cannot ask for the sign.
    return t.resolve_neg() if torch.compiler.is_compiling() or t.is_neg() else t


def adopt_target(name: str, value: Any) -> torch.Tensor:
    """The memory of a torch tensor or a NumPy array, to be written to. Real numbers of any dtype, or truths.

    Raises
    ------
    DataError
        What would have to be copied, or is read-only.

    Examples
    --------
    >>> import numpy as np
    >>> target = np.zeros(2, dtype=np.int64)
    >>> adopt_target("out", target).fill_(7)
    tensor([7, 7])
    >>> target
    array([7, 7])
    """
    if isinstance(value, torch.Tensor) and not value.is_neg():
        return value
    if not (isinstance(value, np.ndarray) and value.flags.writeable and _shareable(value)):
        raise DataError(
            f"{name} cannot be written to in place; expected a torch tensor or a writable NumPy array."
        )
    return torch.from_numpy(value)


def adopt_integers(name: str, value: Any) -> torch.Tensor:
    """An int64 tensor with the values of an integer array of any library.

    Raises
    ------
    DTypeError
        The array holds anything else.

    Examples
    --------
    >>> adopt_integers("labels", [0, 2])
    tensor([0, 2])
    """
    t = adopt_any(name, value)
    if t.dtype.is_floating_point or t.dtype.is_complex or t.dtype == torch.bool:
        raise DTypeError(
            f"{name} has dtype {dtype_name(t.dtype)}; expected integers: convert it, for example to int64."
        )
    return t.to(torch.int64)


def adopt_mask(name: str, value: Any) -> torch.Tensor:
    """A boolean tensor with the values of an array of booleans (or of 0 and 1) of any library.

    Raises
    ------
    DTypeError
        The array holds numbers other than 0 and 1.

    Examples
    --------
    >>> adopt_mask("keep", [True, False])
    tensor([ True, False])
    """
    t = adopt_any(name, value)
    mask = t.to(torch.bool)
    if t.dtype != torch.bool and not bool((t == mask.to(t.dtype)).all()):
        raise DTypeError(f"{name} holds numbers other than 0 and 1; expected booleans, as from {name} > 0.")
    return mask


def adopt_any(name: str, value: Any) -> torch.Tensor:
    """A torch tensor with the values and the dtype of an array of any library.

    Raises
    ------
    DTypeError
        What torch has no dtype for.

    Examples
    --------
    >>> adopt_any("labels", [0, 2])
    tensor([0, 2])
    """
    if isinstance(value, torch.Tensor):
        return value
    try:
        return torch.from_dlpack(value) if _foreign(value) else torch.from_numpy(np.array(value))
    except (BufferError, RuntimeError, TypeError, ValueError) as e:
        raise DTypeError(
            f"{name}, a {type(value).__name__}, could not be read as an array of numbers ({e})."
        ) from e


def _foreign(value: object) -> bool:
    return hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray)


def is_number(value: object) -> bool:
    """A real number of Python or NumPy; bool is not one."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def is_complex(value: object) -> bool:
    """Whether a value is a complex number or an array of complex numbers."""
    if isinstance(value, torch.Tensor):
        return value.is_complex()
    if isinstance(value, (list, tuple)):
        return any(isinstance(v, complex) for v in value)
    if isinstance(value, complex):  # np.complex128 is one, np.complex64 has a dtype
        return True
    return "complex" in str(getattr(value, "dtype", ""))


def adopt_complex(name: str, value: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The real and the imaginary parts of complex numbers, as tensors of the shape of the array.

    Raises
    ------
    DTypeError
        As for `adopt`; numbers without imaginary parts are accepted.

    Examples
    --------
    >>> import numpy as np
    >>> adopt_complex("z", np.array([1 + 2j, 3]))
    (tensor([1., 3.], dtype=torch.float64), tensor([2., 0.], dtype=torch.float64))
    """
    if not isinstance(value, (torch.Tensor, np.ndarray)):
        if isinstance(value, (complex, list, tuple)) or not hasattr(value, "__dlpack__"):
            value = np.asarray(value)
        else:
            value = torch.from_dlpack(value)
    if not is_complex(value):
        t = adopt(name, value)
        return t, torch.zeros_like(t)
    if isinstance(value, torch.Tensor):
        value = value.resolve_conj()
    return adopt(name, value.real), adopt(name, value.imag)


def check_finite(name: str, tensor: torch.Tensor) -> None:
    """Raise unless every entry is a finite number. Costs one pass, no memory.

    Raises
    ------
    DataError
        Counting the offending entries and naming the first.

    Examples
    --------
    >>> check_finite("y", torch.tensor([1.0, float("nan")]))
    Traceback (most recent call last):
    ...
    kerngp.errors.DataError: Input y contains NaN: 1 of 2 entries, first at (1,); remove or replace them.
    """
    # a finite sum has finite terms; only an infinite or overflowing one needs a closer look
    if tensor.numel() == 0 or bool(torch.isfinite(tensor.detach().sum())):
        return
    bad = ~torch.isfinite(tensor.detach())
    count = int(bad.sum())
    if count == 0:
        return
    first = tuple(int(k) for k in bad.nonzero()[0])
    what = "NaN" if bool(torch.isnan(tensor.detach()).any()) else "infinity"
    raise DataError(
        f"Input {name} contains {what}: {count} of {tensor.numel()} entries, first at {first}; "
        "remove or replace them."
    )


def _wrong_dtype(name: str, dtype: object, remedy: str) -> DTypeError:
    text = dtype_name(dtype)
    if "complex" in text:
        hint = "pass the real and the imaginary part as separate arrays"
    elif text == "object":
        hint = f"convert it to numbers first, for example with {name}.astype('float64')"
    else:
        hint = f"convert it, for example with {name}{remedy}"
    return DTypeError(
        f"{name} has dtype {text}; expected a real floating dtype "
        f"(float16, bfloat16, float32 or float64): {hint}."
    )


def _from_numpy(name: str, a: np.ndarray) -> torch.Tensor:
    if isinstance(a, np.ma.MaskedArray) and np.ma.is_masked(a):
        raise DataError(f"{name} is a masked array; expected plain numbers: fill or drop the masked entries.")
    if a.dtype not in _NUMPY_FLOATS:  # dtypes compare equal only in the byte order of this machine
        native = a.dtype.newbyteorder("=")
        if native not in _NUMPY_FLOATS:
            raise _wrong_dtype(name, a.dtype, ".astype('float32')")
        a = a.astype(native)
    if not _shareable(a):
        a = np.ascontiguousarray(a)
    if not a.flags.writeable:
        a = np.asarray(_Unlocked(a))
    return torch.from_numpy(a)


def _shareable(a: np.ndarray) -> bool:
    """Whether torch can describe the memory: it has no negative strides, and none of a part of a number."""
    return a.dtype.isnative and all(s >= 0 and s % a.itemsize == 0 for s in a.strides)


class _Unlocked:
    """A read-only array seen as writable: torch warns about read-only memory, which is never written here."""

    def __init__(self, a: np.ndarray) -> None:
        self.owner = a
        interface = dict(a.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def _from_list(name: str, value: list | tuple) -> torch.Tensor:
    try:
        a = np.asarray(value)
    except ValueError:
        raise ShapeError(f"{name} is a ragged list; expected rows of equal length.") from None
    if a.dtype.kind == "i" or a.dtype.kind == "u" or a.size == 0:
        a = a.astype(np.float64)  # integers that Python wrote are numbers like any other
    return _from_numpy(name, a)


def _from_dlpack(name: str, value: Any) -> torch.Tensor:
    try:
        return torch.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as e:
        if hasattr(value, "__array__"):
            return _from_numpy(name, np.asarray(value))
        raise DTypeError(
            f"{name}, a {type(value).__name__}, could not be read through DLPack ({e}); "
            "convert it to a NumPy array or a torch tensor."
        ) from e
