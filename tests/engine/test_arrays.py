"""Arrays of other libraries come in without a copy where that is possible and go out as they came."""

from __future__ import annotations

import gc
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import kerngp
from kerngp.engine.arrays import (
    NUMPY,
    TORCH,
    adopt,
    adopt_complex,
    check_finite,
    is_complex,
    is_number,
    kind_of,
    restore,
)
from kerngp.engine.expr import Vi, Vj
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.reductions import SUM
from kerngp.errors import DataError, DTypeError, ShapeError


def test_torch_tensor_passes_through():
    t = torch.ones(3, requires_grad=True)
    assert adopt("x", t) is t


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_shares_memory(dtype):
    a = np.arange(6, dtype=dtype).reshape(2, 3)
    t = adopt("x", a)
    assert t.numpy().dtype == dtype
    a[0, 0] = 42
    assert t[0, 0] == 42


def test_strided_views_share_memory():
    a = np.arange(24.0).reshape(4, 6)
    for view in (a[:, ::2], a[1:3, 2:5], a.T, np.broadcast_to(a[0], (5, 6)), a[:, None, :]):
        t = adopt("x", view)
        assert np.array_equal(t.numpy(), view)
        assert t.data_ptr() == view.__array_interface__["data"][0]


def test_negative_strides_are_copied():
    a = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(adopt("x", a[::-1, ::-1]).numpy(), a[::-1, ::-1])


def test_field_of_a_record_array():
    a = np.zeros(4, dtype=[("u", "f8"), ("v", "f4")])  # stride 12: no multiple of 8
    a["u"] = [1, 2, 3, 4]
    assert adopt("x", a["u"]).tolist() == [1, 2, 3, 4]


@pytest.fixture
def _every_warning():
    """torch tells of read-only memory once in a process; the tests want to hear it each time."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


def test_read_only_memory_without_warning_or_copy(tmp_path, _every_warning):
    a = np.arange(5.0)
    a.setflags(write=False)
    np.save(tmp_path / "a.npy", np.arange(5.0))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (a, mapped, mapped[1:]):
            t = adopt("x", source)
            assert np.array_equal(t.numpy(), source)
            assert t.data_ptr() == source.__array_interface__["data"][0]


def test_read_only_memory_stays_alive():
    def make() -> torch.Tensor:
        a = np.full(100_000, 7.0)
        a.setflags(write=False)
        return adopt("x", a)

    t = make()
    gc.collect()
    np.full(100_000, 3.0)  # would reuse the memory, were it free
    assert bool((t == 7).all())


def test_foreign_byte_order_is_converted():
    t = adopt("x", np.arange(4, dtype=">f4"))
    assert t.dtype == torch.float32 and t.tolist() == [0, 1, 2, 3]


def test_empty_arrays():
    assert adopt("x", np.zeros((0, 3))).shape == (0, 3)
    assert adopt("x", np.zeros((3, 0))[:, ::-1]).shape == (3, 0)


def test_numbers_and_lists():
    assert adopt("x", 2).dtype == torch.get_default_dtype()
    assert adopt("x", 2.5, dtype=torch.float64).item() == 2.5
    assert adopt("x", np.float32(1.5)).item() == 1.5
    assert adopt("x", [1, 2, 3]).tolist() == [1, 2, 3]
    assert adopt("x", [[0.5, 1], [2, 3]], dtype=torch.float64).tolist() == [[0.5, 1], [2, 3]]
    assert adopt("x", []).shape == (0,)


def test_pandas():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    assert adopt("X", frame).tolist() == [[1, 3], [2, 4]]
    assert adopt("y", frame["a"]).tolist() == [1, 2]
    assert isinstance(restore(torch.ones(2), frame), np.ndarray)
    with pytest.raises(DTypeError, match="X has dtype object"):
        adopt("X", pd.DataFrame({"a": ["u", "v"]}))


def test_dlpack_goes_in_and_out():
    xp = pytest.importorskip("array_api_strict")
    a = xp.asarray([1.0, 2.0], dtype=xp.float32)
    t = adopt("x", a)
    assert t.tolist() == [1, 2]
    back = restore(t * 2, a)
    assert type(back) is type(a) and back.dtype == xp.float32 and float(back[1]) == 4


class Foreign:
    """An array of a library that speaks DLPack and nothing else."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def __dlpack__(self, **kwargs):
        return self.data.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.data.__dlpack_device__()

    def __array_namespace__(self):
        return Foreign

    @staticmethod
    def from_dlpack(x):
        return Foreign(np.from_dlpack(x))


def test_dlpack_shares_memory_both_ways():
    a = Foreign(np.arange(3.0))
    t = adopt("x", a)
    a.data[0] = 9
    assert t.tolist() == [9, 1, 2]
    back = restore(t.clone().requires_grad_() + 1, a)
    assert isinstance(back, Foreign) and back.data.tolist() == [10, 2, 3]
    with pytest.raises(DTypeError, match="x has dtype int64"):
        adopt("x", Foreign(np.arange(3)))


def test_dtype_and_device_are_converted_on_request():
    a = np.ones(3, dtype=np.float32)
    assert adopt("x", a, dtype=torch.float64).dtype == torch.float64
    assert adopt("x", a, device="meta").device.type == "meta"
    assert adopt("x", a, device="cpu").data_ptr() == a.__array_interface__["data"][0]


@pytest.mark.parametrize(
    ("value", "dtype", "remedy"),
    [
        (np.arange(3), "int64", r"x\.astype\('float32'\)"),
        (np.zeros(3, bool), "bool", "astype"),
        (np.zeros(3, np.uint8), "uint8", "astype"),
        (np.zeros(3, complex), "complex128", "real and the imaginary part"),
        (np.zeros(3, ">i4"), ">i4|int32", "astype"),
        (np.zeros(3, np.longdouble), "float128|longdouble|float96", "astype"),
        (np.array(["a"]), "<U1", "astype"),
        (np.array([object()]), "object", "convert it to numbers"),
        (np.zeros(2, dtype=[("u", "f8")]), "u", "astype"),
        (torch.arange(3), "int64", r"x\.to\(torch\.float32\)"),
        (torch.zeros(3, dtype=torch.complex64), "complex64", "real and the imaginary part"),
        ([True, False], "bool", "convert"),
        ([1j], "complex128", "imaginary"),
    ],
)
def test_wrong_dtypes_are_named(value, dtype, remedy):
    with pytest.raises(DTypeError, match=rf"^x has dtype .*({dtype}).*; expected .*float.*: .*{remedy}"):
        adopt("x", value)


def test_other_values_are_refused():
    with pytest.raises(DTypeError, match="x is a str; expected"):
        adopt("x", "text")
    with pytest.raises(DTypeError, match="x is a bool"):
        adopt("x", True)
    with pytest.raises(ShapeError, match="x is a ragged list"):
        adopt("x", [[1.0], [1.0, 2.0]])
    with pytest.raises(DTypeError, match="to_dense"):
        adopt("x", torch.eye(3).to_sparse())
    with pytest.raises(DataError, match="masked"):
        adopt("x", np.ma.array([1.0, 2.0], mask=[True, False]))


def test_kind_and_restore():
    assert kind_of(torch.ones(1)) is TORCH
    for value in (np.ones(1), np.float64(1), 2.0, [1.0]):
        assert kind_of(value) is NUMPY
    t = torch.ones(2, requires_grad=True)
    assert restore(t, torch.ones(1)) is t
    a = restore(t * 3, np.ones(1))
    assert isinstance(a, np.ndarray) and a.tolist() == [3, 3]
    assert restore(torch.ones(1, dtype=torch.bfloat16), NUMPY).dtype == np.float32
    assert restore(torch.ones(1, dtype=torch.int64), NUMPY).dtype == np.int64


def test_restore_shares_memory():
    t = torch.zeros(3)
    restore(t, NUMPY)[1] = 5
    assert t.tolist() == [0, 5, 0]


def test_is_number():
    assert all(map(is_number, (1, 1.0, np.float32(1), np.int8(1))))
    assert not any(map(is_number, (True, np.bool_(True), 1j, "1", None, torch.ones(()), np.ones(()))))


def test_check_finite():
    check_finite("X", torch.ones(3, 2))
    check_finite("X", torch.empty(0))
    check_finite("X", torch.full((4,), 3e38))  # the sum overflows, the entries do not
    with pytest.raises(DataError, match=r"X contains NaN: 2 of 6 entries, first at \(0, 1\)"):
        check_finite("X", torch.tensor([[0, float("nan"), 1], [2, 3, float("nan")]]))
    with pytest.raises(DataError, match=r"y contains infinity: 1 of 2"):
        check_finite("y", torch.tensor([1.0, float("-inf")]))
    with pytest.raises(DataError, match="infinity: 2 of 2"):  # inf - inf is NaN in the sum only
        check_finite("y", torch.tensor([float("inf"), float("-inf")]))
    with pytest.raises(ValueError):
        check_finite("y", torch.tensor([float("nan")]))


# ---------------------------------------------------------------- complex numbers


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (torch.zeros(2, dtype=torch.complex64), True),
        (np.zeros(2, dtype=np.complex128), True),
        (np.complex64(1), True),
        (1j, True),
        ([1.0, 2j], True),
        (torch.zeros(2), False),
        (np.zeros(2), False),
        (1.0, False),
        ([1.0, 2.0], False),
        ("complex", False),
    ],
)
def test_complex_values_are_recognised(value, want: bool) -> None:
    assert is_complex(value) is want


def test_parts_of_complex_arrays() -> None:
    z = torch.randn(3, 2, dtype=torch.complex128)
    for value in (z, z.numpy(), z.tolist(), z.conj().conj()):
        re, im = adopt_complex("z", value)
        assert torch.equal(re.double(), z.real.contiguous()) and torch.equal(im.double(), z.imag.contiguous())
    re, im = adopt_complex("z", z.conj())
    assert torch.equal(im, -z.imag) and not im.is_neg()
    re, im = adopt_complex("x", z.real)
    assert torch.equal(re, z.real) and not im.any()


def test_negated_views_keep_their_sign() -> None:
    z = torch.randn(3, 1, dtype=torch.complex128)
    negated = z.conj().imag
    assert negated.is_neg()
    assert adopt("x", negated).data_ptr() != z.imag.data_ptr()
    got = map_reduce(Vi(0, 1) * Vj(1, 1), SUM, (negated, torch.ones(1, 1, dtype=torch.float64)))
    assert torch.equal(got, -z.imag)
    lazy = kerngp.Vi(z.imag) + kerngp.Vi(negated)  # the same memory, but not the same numbers
    assert not lazy.dense().any()
