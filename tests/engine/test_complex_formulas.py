"""Complex formulas against torch's complex numbers: values, derivatives, generated code in loops."""

from __future__ import annotations

import pytest
import torch
from comparison import CPU, assert_close, assert_gradients, assert_matches_reference

from kerngp.engine import complex as cx
from kerngp.engine import rewrite
from kerngp.engine.expr import Expr, Pm, Vi, Vj, postorder
from kerngp.engine.mapreduce import dense, map_reduce
from kerngp.engine.reductions import SUM
from kerngp.engine.vocabulary import WORDS
from kerngp.errors import FormulaError

# word -> torch's meaning of it, on complex z, w of D components and a real scalar r
MEANINGS = {
    "ComplexReal": (lambda f, z, w, r: f(z), lambda z, w, r: z.real),
    "ComplexImag": (lambda f, z, w, r: f(z), lambda z, w, r: z.imag),
    "Real2Complex": (lambda f, z, w, r: f(cx.real(z)), lambda z, w, r: z.real + 0j),
    "Imag2Complex": (lambda f, z, w, r: f(cx.real(z)), lambda z, w, r: 1j * z.real),
    "Conj": (lambda f, z, w, r: f(z), lambda z, w, r: z.conj()),
    "ComplexAbs": (lambda f, z, w, r: f(z), lambda z, w, r: z.abs()),
    "ComplexSquareAbs": (lambda f, z, w, r: f(z), lambda z, w, r: z.abs() ** 2),
    "ComplexAngle": (lambda f, z, w, r: f(z), lambda z, w, r: z.angle()),
    "ComplexSum": (lambda f, z, w, r: f(z), lambda z, w, r: z.sum(-1, keepdim=True)),
    "ComplexSumT": (
        lambda f, z, w, r: f(cx.sum_of(z), 6),
        lambda z, w, r: z.sum(-1, keepdim=True).expand(*z.shape[:-1], 3),
    ),
    "ComplexAdd": (lambda f, z, w, r: f(z, w), lambda z, w, r: z + w),
    "ComplexSubtract": (lambda f, z, w, r: f(z, w), lambda z, w, r: z - w),
    "ComplexMult": (lambda f, z, w, r: f(z, w), lambda z, w, r: z * w),
    "ComplexRealScal": (lambda f, z, w, r: f(r, z), lambda z, w, r: r * z),
    "ComplexDivide": (lambda f, z, w, r: f(z, w), lambda z, w, r: z / w),
    "ComplexInverse": (lambda f, z, w, r: f(z), lambda z, w, r: 1 / z),
    "ComplexPow": (lambda f, z, w, r: f(f(z, 3), -2), lambda z, w, r: z**-6),
    "ComplexExp": (lambda f, z, w, r: f(z), lambda z, w, r: z.exp()),
    "ComplexExp1j": (lambda f, z, w, r: f(cx.real(z)), lambda z, w, r: (1j * z.real).exp()),
    "ComplexLog": (lambda f, z, w, r: f(z), lambda z, w, r: z.log()),
    "ComplexSqrt": (lambda f, z, w, r: f(z), lambda z, w, r: z.sqrt()),
}
NAMES = sorted(n for n in WORDS if "omplex" in n or n == "Conj")


def formula(name: str, D: int) -> Expr:
    z, w = Vi(0, 2 * D), cx.mult(Vj(1, 2 * D), Vi(0, 2 * D))
    return MEANINGS[name][0](WORDS[name].build, z, w, Pm(2, 1))


def arguments(D: int, M: int = 7, N: int = 9, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(*s, dtype=dtype) for s in ((M, 2 * D), (N, 2 * D), (1,)))


def as_complex(t: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous())


def as_real(t: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(t.resolve_conj()).flatten(-2) if t.is_complex() else t


def test_every_word_of_keops_is_there() -> None:
    keops = "ComplexReal ComplexImag Real2Complex Imag2Complex Conj ComplexAbs ComplexSquareAbs ComplexAngle "
    keops += "ComplexSum ComplexSumT ComplexAdd ComplexSubtract ComplexMult ComplexRealScal ComplexDivide "
    keops += "ComplexExp ComplexExp1j"
    assert set(keops.split()) <= set(NAMES)
    assert set(NAMES) == set(MEANINGS)
    assert all(WORDS[n].doc for n in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_values(name: str, launches) -> None:
    f, args = formula(name, 3), arguments(3)
    z, w = as_complex(args[0])[:, None], as_complex(args[1])[None]
    want = as_real(MEANINGS[name][1](z + 0 * w, z * w, args[2]))
    assert_close(dense(f, args, sizes=(7, 9)), want, 1e-12 * (1 + want.abs()), name)
    launches.clear()
    got = map_reduce(f, SUM, args, sizes=(7, 9), options=CPU)
    assert isinstance(got, torch.Tensor)
    assert launches.compiled == 1 and launches.reference == 0
    assert_close(got, want.sum(1), 1e-11 * (1 + want.abs().sum(1)), name)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"ComplexSumT"}))
def test_long_vectors_in_loops(name: str, launches) -> None:
    f = formula(name, 21)
    assert_matches_reference(f, SUM, arguments(21, 5, 3), sizes=(5, 3), tol=4096)
    assert launches.compiled == 1, f"{name} is not compiled"


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    D = 3 if name == "ComplexSumT" else 2
    args = arguments(D, 2, 2)
    f = formula(name, D)
    used = [a for k, a in enumerate(args) if any(e.op == "var" and e.attr[0] == k for e in postorder(f))]
    assert used
    f = cx.mult(f, cx.real_to_complex(Vj(1, 2 * D)[0])) if f.dim % 2 == 0 else f * Vj(1, 2 * D)[0]
    assert_gradients(f, args)


def test_gradient_of_long_vectors_in_generated_code(launches) -> None:
    f, args = cx.mult(cx.exponential(Vi(0, 42)), Vj(1, 42)), arguments(21, 4, 5)
    leaves = [a.requires_grad_() for a in args[:2]]
    out = map_reduce(f, SUM, leaves, options=CPU)
    assert isinstance(out, torch.Tensor)
    weights = torch.randn_like(out)
    got = torch.autograd.grad(out, leaves, weights)
    assert launches.reference == 0
    z, w = (as_complex(a) for a in leaves)
    want = torch.autograd.grad(as_real((z.exp()[:, None] * w).sum(1)), leaves, weights)
    for g, h in zip(got, want, strict=True):
        assert_close(g, h, 1e-12 * (1 + h.abs()), "gradient")


def test_chains_form_no_vectors_in_between() -> None:
    z, w = Vi(0, 6), Vj(1, 6)
    f = cx.real(cx.mult(cx.exponential(cx.mult(z, w)), cx.conj(w)))
    assert not any(e.op == "interleave" for e in postorder(f))
    again = rewrite.simplify(cx.pair(cx.real(z), cx.imag(z)))
    assert again is z


def test_roots_and_moduli_at_special_points() -> None:
    z = torch.tensor([[0, 0], [4, 0], [-4, 0], [0, 2], [0, -2], [-1e-300, 1e-200]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    got = map_reduce(cx.square_root(Vi(0, 2)) * Vj(1, 1), SUM, (z, one))
    assert isinstance(got, torch.Tensor)
    want = as_real(as_complex(z).sqrt())
    assert_close(got, want, 1e-15 * (1 + want.abs()), "roots")
    zero = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    for f in (cx.modulus(Vi(0, 2)), cx.square_abs(Vi(0, 2))):
        out = map_reduce(f * Vj(1, 1), SUM, (zero, one))
        assert isinstance(out, torch.Tensor)
        (g,) = torch.autograd.grad(out.sum(), zero)
        assert torch.equal(g, torch.zeros_like(g))


def test_errors_name_the_dim() -> None:
    with pytest.raises(FormulaError, match="even dim, .*has dim 3"):
        cx.real(Vi(0, 3))
    with pytest.raises(FormulaError, match="dim must be even|even dim"):
        cx.conj(Vi(0, 1))
    with pytest.raises(FormulaError, match="got dim 4 and 6"):
        cx.repeat(Vi(0, 4), 6)
    with pytest.raises(FormulaError, match=r"dims \(3, 2\)"):
        cx.mult(Vi(0, 6), Vj(1, 4))
