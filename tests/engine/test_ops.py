"""Every op of the table: code against definition, derivatives against finite differences.

The ops are discovered: a new record is tested without touching this file, unless it takes attributes
or needs a special domain; then it adds a line to ATTRIBUTES or DOMAINS.
"""

from __future__ import annotations

import math

import pytest
import torch
from comparison import (
    CPU,
    REFERENCE,
    arguments,
    assert_close,
    assert_gradients,
    assert_jvp,
    assert_matches_reference,
    assert_same_values,
)

from kerngp.engine import ops, rewrite
from kerngp.engine.autodiff import vjp
from kerngp.engine.expr import OPS, Expr, Pm, Vi, Vj, node, variables
from kerngp.engine.mapreduce import map_reduce
from kerngp.engine.reductions import SUM
from kerngp.errors import FormulaError
from kerngp.options import Options

# Attributes to try for ops that take some, as a function of the argument's dim.
ATTRIBUTES = {
    "powi": lambda d: [(n,) for n in (-3, -2, -1, 0, 1, 2, 3, 4, 7, 16)],
    "exp_scaled": lambda d: [(-1.0,), (-0.37,)],
    "expand": lambda d: [(1,), (3,), (40,)] if d == 1 else [],
    "elem": lambda d: [(m,) for m in sorted({0, d // 2, d - 1})],
    "elem_t": lambda d: [(4, 1), (1, 0), (40, 39)] if d == 1 else [],
    "extract": lambda d: [(0, d), (d // 3, max(1, d // 2))],
    "extract_t": lambda d: [(0, d), (2, d + 5)],
    "alternate": lambda d: [(0,), (1,)],
    "gather": lambda d: [(n, d // n) for n in (d, d // 2) if n > 1 and d % n == 0],
    "round": lambda d: [(0,), (1,), (-1,)],
    "sinxdivx": lambda d: [(n,) for n in range(4)],
    "polygamma": lambda d: [(n,) for n in range(3)],
    "one_hot": lambda d: [(1,), (3,), (40,)] if d == 1 else [],
    "contract": lambda d: CONTRACTIONS[d],
}
# (lengths of the indices, indices of a, of b, of the result), for arguments of dim 1, 2, ...
CONTRACTIONS = {
    1: [((1,), (0,), (0,), ())],
    2: [((2,), (0,), (0,), ()), ((2, 2), (0,), (1,), (1, 0))],
    3: [((3,), (0,), (0,), (0,)), ((3, 3), (0,), (1,), (0, 1))],
    4: [((2, 2), (0, 1), (1, 0), (1,)), ((2, 2, 2), (0, 1), (1, 2), (2, 0))],
    40: [
        ((8, 5), (0, 1), (1, 0), ()),
        ((8, 5, 8), (0, 1), (1, 2), (2, 0)),
        ((5, 2, 2, 2), (0, 1, 2, 3), (0, 3, 2, 1), (1,)),
    ],
}
# Dims of the arguments of ops that are not elementwise, where they are not all equal.
PATTERNS = {
    "alternate": lambda d: [(2 * d,)],
    "gather": lambda d: [(d, 1)],
    "concat": lambda d: [(d, d), (1, d)],
    "softdtw": lambda d: [(d, 2, 1)],
    "softdtw_gradient": lambda d: [(min(d, 7), 2, 1)],
    "softdtw_curvature": lambda d: [(min(d, 7), 2, 1, min(d, 7) + 3)],
}
ONCE = {"softdtw_gradient"}  # differentiable once, but not in forward mode
NEVER = {"softdtw_curvature"}
# Ops defined on one side of zero only; all others are tried on both signs.
POSITIVE = {"log", "sqrt", "rsqrt", "exp_scaled", "matern32_profile", "matern52_profile", "pow"} | {
    "xlogx",
    "log1p",
    "lgamma",
    "polygamma",
    "gather",
    *(name for name in OPS if name.startswith("softdtw")),
}
NEGATIVE = {"exp_nonpos"}
# Of these, the ones that promise nothing on the other side, not even NaN.
CONTRACTS = {"exp_scaled", "matern32_profile", "matern52_profile"} | NEGATIVE
DIMS = (1, 3, 40)  # one component, a few, and more than the generated code unrolls


def is_elementwise(name: str) -> bool:
    return OPS[name].code is not None


def dim_patterns(name: str, dim: int) -> list[tuple[int, ...]]:
    """All arguments of dim D, and each one in turn of dim 1."""
    arity = OPS[name].arity
    if not is_elementwise(name):
        return PATTERNS[name](dim) if name in PATTERNS else [(dim,) * arity]
    whole = [(dim,) * arity]
    return whole + [tuple(1 if k == at else dim for k in range(arity)) for at in range(arity) if arity > 1]


def attributes(name: str, dim: int) -> list[tuple]:
    return ATTRIBUTES[name](dim) if name in ATTRIBUTES else [()]


def argument(k: int, dim: int, mixed: bool) -> Expr:
    """Argument k of an op: depending on i and j both, so that nothing can leave the loop, or on one."""
    number = 4 * k + (0 if dim == 1 else 2)
    if mixed:
        return Vi(number, dim) * Vj(number + 1, dim)
    return (Vi, Vj, Pm)[k % 3](number, dim)


def formulas(name: str, dim: int, mixed: bool = True) -> list[Expr]:
    """The op on arguments of several dims, with several attributes."""
    sign = -1.0 if name in NEGATIVE else 1.0
    return [
        node(name, *(rewrite.simplify(sign * argument(k, d, mixed)) for k, d in enumerate(dims)), attr=attr)
        for dims in dict.fromkeys(dim_patterns(name, dim))
        for attr in attributes(name, dims[0])
    ]


def combined(name: str, dim: int) -> Expr | None:
    """All of them in one formula: compiling costs more than running."""
    found = formulas(name, dim)
    return ops.concat(*found) if found else None


def test_table_is_not_empty() -> None:
    assert len(OPS) >= 60
    assert {"exp", "log", "sin", "sum", "concat", "ifelse", "powi"} <= set(OPS)


@pytest.mark.parametrize("name", sorted(OPS))
def test_record_is_complete(name: str) -> None:
    op = OPS[name]
    assert op.name == name and op.arity >= 1 and op.doc
    assert [op.code, op.pieces, op.lower].count(None) == 2
    assert any(formulas(name, d) for d in DIMS), f"give {name} example attributes in ATTRIBUTES"


@pytest.mark.parametrize("name", sorted(OPS))
@pytest.mark.parametrize(("dim", "dtype"), [(3, torch.float32), (3, torch.float64), (40, torch.float32)])
def test_values(name: str, dim: int, dtype: torch.dtype, launches) -> None:
    f = combined(name, dim) or combined(name, 1)
    assert f is not None
    args = arguments(f, 9, 11, dtype, positive=name in POSITIVE | NEGATIVE)
    powers = 16 if name in ("powi", "pow") else 1  # they multiply the roundings of their base
    assert_matches_reference(f, SUM, args, tol=64 * powers)
    assert launches.compiled == 1, f"{name} is not compiled"


def _special(arity: int, names: list[str], values: list[float], dtype: torch.dtype) -> None:
    """Ops on all tuples of values; one row, one pair: nothing is rounded on the way."""
    special = torch.tensor(values, dtype=dtype)
    rows = torch.cartesian_prod(*[special] * arity).reshape(-1, arity)
    one = torch.ones(1, 1, dtype=dtype)
    x = Vi(0, arity) * Vj(1, 1)
    cases = [(name, attr) for name in names for attr in attributes(name, 1)]
    f = ops.concat(*(node(name, *(x[k] for k in range(arity)), attr=attr) for name, attr in cases))
    got = map_reduce(f, SUM, (rows, one), options=CPU)
    want = map_reduce(f, SUM, (rows, one), options=REFERENCE)
    assert isinstance(got, torch.Tensor) and isinstance(want, torch.Tensor)
    eps = torch.finfo(dtype).eps
    for k, (name, attr) in enumerate(cases):
        allowed = 16 * eps * (1 + want[:, k].double().abs())
        assert_close(got[:, k], want[:, k], allowed, f"{name}{attr} on {rows.tolist()}")


@pytest.mark.parametrize("arity", sorted({op.arity for op in OPS.values()}))
def test_special_values(arity: int, dtype: torch.dtype, launches) -> None:
    """Zeros of both signs, infinities, NaN and ties, against the definition in the same dtype."""
    names = sorted(n for n in OPS if is_elementwise(n) and OPS[n].arity == arity)
    groups = {
        (0.0, -0.0, 1.0, -1.0, 2.0, -2.5, math.inf, -math.inf, math.nan): [
            n for n in names if n not in CONTRACTS
        ],
        (0.0, 1.0, 2.0, 30.0, math.inf, math.nan): [n for n in names if n in CONTRACTS - NEGATIVE],
        (0.0, -0.0, -1.0, -2.0, -30.0, -math.inf, math.nan): [n for n in names if n in CONTRACTS & NEGATIVE],
    }
    for values, some in groups.items():
        if some:
            _special(arity, some, list(values), dtype)
    assert launches.compiled == sum(map(bool, groups.values()))


@pytest.mark.parametrize("name", sorted(OPS.keys() - NEVER))
def test_gradients(name: str) -> None:
    """First and second derivatives of the sum over j at random points away from the kinks."""
    for f in formulas(name, 2) or formulas(name, 1):
        if f.dim <= 5:
            args = arguments(f, 2, 3, positive=name in POSITIVE | NEGATIVE)
            assert_gradients(f, args, second=f.dim <= 2)


@pytest.mark.parametrize("name", sorted(OPS.keys() - NEVER))
def test_gradient_in_generated_code(name: str, launches) -> None:
    """The formulas of the gradients, all arguments at once, compiled."""
    f = combined(name, 2) or combined(name, 1)
    assert f is not None
    args = arguments(f, 5, 7, torch.float32, positive=name in POSITIVE | NEGATIVE)
    e = torch.randn(5, f.dim)

    def gradients(options: Options, to: torch.dtype) -> list[torch.Tensor | None]:
        leaves = [a.to(to).requires_grad_() for a in args]
        out = map_reduce(f, SUM, leaves, options=options)
        assert isinstance(out, torch.Tensor)
        return list(torch.autograd.grad(out, leaves, e.to(to), allow_unused=True))

    want = gradients(REFERENCE, torch.float64)
    launches.clear()
    for got, exact in zip(gradients(CPU, torch.float32), want, strict=True):
        assert (got is None) == (exact is None)
        if got is not None and exact is not None:
            assert_close(got, exact, 1e-4 * (1 + exact.abs()), f"gradient of {f}")
    assert launches.reference == 0
    # a formula that is constant between its steps has the gradient 0, which needs no pass
    assert launches.compiled == 1 + any(g is not None and bool(g.any()) for g in want)


@pytest.mark.parametrize("name", sorted(OPS.keys() - NEVER - ONCE))
def test_jvp(name: str) -> None:
    for dim in (1, 3):
        for f in formulas(name, dim):
            assert_jvp(f, arguments(f, 2, 3, positive=name in POSITIVE | NEGATIVE))


@pytest.mark.parametrize("name", sorted(OPS))
def test_rewrites_preserve_values(name: str) -> None:
    for dim in (1, 4):
        for f in formulas(name, dim) + formulas(name, dim, mixed=False):
            args = arguments(f, 3, 4, positive=name in POSITIVE | NEGATIVE)
            simple = rewrite.simplify(f)
            assert_same_values(f, simple, args, (3, 4))
            assert_same_values(f, rewrite.strengthen(simple), args, (3, 4))
            # and of the derivative, which holds more to simplify
            for g in () if name in NEVER else vjp(f, ops.sin(f), variables(f)):
                if g is not None:
                    assert_same_values(g, rewrite.simplify(g), args, (3, 4))


def _constant_folds() -> list[str]:
    return sorted(
        n for n, op in OPS.items() if is_elementwise(n) and op.fold is not None and n not in ATTRIBUTES
    )


@pytest.mark.parametrize("name", _constant_folds())
def test_folding_constants_is_the_definition(name: str) -> None:
    arity = OPS[name].arity
    for values in torch.cartesian_prod(*[torch.tensor([0.25, 1.0, 2.0, 3.5]).double()] * arity).reshape(
        -1, arity
    ):
        f = node(name, *(ops.as_expr(float(v)) for v in values))
        folded = ops.value_of(rewrite.simplify(f))
        want = OPS[name].reference(*values)
        if folded is not None:
            assert folded == pytest.approx(float(want), rel=1e-14)


def test_signs_are_provable() -> None:
    """What the sign rules claim holds for random arguments of the claimed signs."""
    for name, op in OPS.items():
        if not is_elementwise(name) or op.sign is None or name in ATTRIBUTES:
            continue
        values = 0.1 + 2 * torch.rand(50, op.arity, dtype=torch.float64)
        for signs in torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * op.arity).reshape(-1, op.arity):
            factor = torch.where(signs == 0, torch.sign(torch.randn(50, op.arity)), signs.double())
            claim = op.sign(tuple(int(s) for s in signs), ())
            out = op.reference(*(values * factor).unbind(1))
            out = out[~torch.isnan(out)]
            assert claim == 0 or bool((out * claim >= 0).all()), f"{name} with signs {signs.tolist()}"


# ---------------------------------------------------------------- composites


def test_composites_have_their_meaning() -> None:
    a, b = torch.randn(6, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    x, y = Vi(0, 3), Vj(1, 3)
    left, right = a[:, None], b[None]
    matrix = torch.randn(9, dtype=torch.float64)
    full = torch.einsum("ijk,kl,ijl->ij", left - right, matrix.reshape(3, 3), left - right)
    cases = {
        "dot": (ops.dot(x, y), (left * right).sum(-1)),
        "or": (x | y, (left * right).sum(-1)),
        "sqdist": (ops.sqdist(x, y), (left - right).square().sum(-1)),
        "norm2": (ops.norm2(x - y), (left - right).norm(dim=-1)),
        "sqnorm2": (ops.sqnorm2(x - y), (left - right).square().sum(-1)),
        "weighted 1": (ops.weighted_sqdist(Pm(2, 9)[0], x, y), matrix[0] * (left - right).square().sum(-1)),
        "weighted D": (
            ops.weighted_sqdist(Pm(2, 9)[2:5], x, y),
            ((left - right).square() * matrix[2:5]).sum(-1),
        ),
        "weighted D x D": (ops.weighted_sqdist(Pm(2, 9), x, y), full),
    }
    for name, (f, want) in cases.items():
        got = map_reduce(f, SUM, (a, b, matrix), options=REFERENCE)
        assert isinstance(got, torch.Tensor)
        assert_close(got, want.sum(1, keepdim=True), 1e-12 * 100, name)
        assert_matches_reference(f, SUM, (a, b, matrix))
    got = map_reduce(ops.normalize(x - y), SUM, (a, b), options=CPU)
    assert isinstance(got, torch.Tensor)
    assert_close(got, torch.nn.functional.normalize(left - right, dim=-1).sum(1), 1e-11, "normalize")


def test_norms_at_coincident_points_have_zero_gradients() -> None:
    x = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    for f in (ops.norm2(Vi(0, 2) - Vj(1, 2)), ops.total(ops.normalize(Vi(0, 2) - Vj(1, 2)))):
        out = map_reduce(f, SUM, (x, x.detach()), options=CPU)
        assert isinstance(out, torch.Tensor)
        (g,) = torch.autograd.grad(out.sum(), x)
        assert torch.equal(g, torch.zeros_like(g))


@pytest.mark.parametrize(
    "profile",
    [ops.matern32_profile, ops.matern52_profile, lambda q: ops.exp(-q), lambda q: ops.inv(1 + q)],
    ids=["matern32", "matern52", "gaussian", "cauchy"],
)
def test_profiles_have_finite_derivatives_at_coincident_points(profile) -> None:
    x = torch.randn(4, 2, dtype=torch.float64)
    x[1] = x[0]
    x.requires_grad_()
    f = profile(ops.sqdist(Vi(0, 2), Vj(1, 2)))
    out = map_reduce(f, SUM, (x, x), options=CPU)
    assert isinstance(out, torch.Tensor)
    (g,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x)
    assert bool(torch.isfinite(g).all()) and bool(torch.isfinite(h).all())


def test_profiles_are_the_matern_functions() -> None:
    r = torch.linspace(0, 30, 301, dtype=torch.float64)[:, None]
    one = torch.zeros(1, 1, dtype=torch.float64)
    q = ops.square(Vi(0, 1) - Vj(1, 1))
    s3, s5 = math.sqrt(3) * r, math.sqrt(5) * r
    wants = {
        "matern32_profile": (1 + s3) * torch.exp(-s3),
        "matern52_profile": (1 + s5 + s5**2 / 3) * torch.exp(-s5),
    }
    for name, want in wants.items():
        got = map_reduce(node(name, q), SUM, (r, one), options=CPU)
        assert isinstance(got, torch.Tensor)
        assert_close(got, want, 64 * 2.0**-52 * (1 + s5) * want, name)


# ---------------------------------------------------------------- errors


def test_dimension_mismatches_name_the_dimensions() -> None:
    x, y = Vi(0, 3), Vj(1, 2)
    with pytest.raises(FormulaError, match=r"elementwise op on vectors of dims \(3, 2\)"):
        x + y
    with pytest.raises(FormulaError, match="squared distance of vectors of dims 3 and 2"):
        ops.sqdist(x, y)
    with pytest.raises(FormulaError, match="scalar product of vectors of dims 3 and 2"):
        ops.dot(x, y)
    with pytest.raises(FormulaError, match="weights of dim 2 for a vector of dim 3: expected 1, 3 or 9"):
        ops.weighted_sqnorm(y, x)
    with pytest.raises(FormulaError, match="index 3 is out of range for a vector of dim 3"):
        x[3]
    with pytest.raises(FormulaError, match="slice"):
        x[2:1]
    with pytest.raises(FormulaError, match=r"extract: \[1, 5\) is out of range for a vector of dim 3"):
        ops.extract(x, 1, 4)
    with pytest.raises(FormulaError, match="expand takes a scalar"):
        node("expand", x, attr=(6,))


def test_an_op_is_defined_once() -> None:
    with pytest.raises(FormulaError, match="op 'exp' is already defined"):
        ops.define(OPS["exp"])
