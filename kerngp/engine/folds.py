"""Reductions given by formulas: products, counts, means, and exponentials with weights.

Entries of the weighted ones are exponents f and weights w side by side, `weighted_entry`. Their state is
(m, v): the largest f, and the sum of w exp(f - m).

What has no number. Sums, means and products follow IEEE arithmetic: NaN stays, inf - inf and 0 inf are NaN;
a product with a zero is zero if all other entries are finite, and parts of it may over- or underflow. Its
first and second derivatives are right at zeros; a third one misses triples of zeros. NaN counts as nonzero.
In the weighted ones an entry of -inf weighs nothing; a row of nothing else has the logarithm -inf and no
weighted mean (NaN); where f is +inf, logarithms are +inf for positive weights and weighted means NaN. The
logarithm of a negative sum is NaN. Rows of the logarithm -inf, and entries of -inf, have the gradient 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..errors import FormulaError
from .expr import Expr, const, node
from .law import Law, Parts
from .ops import concat, exp, ifelse, log, maximum, minimum, nonzero, total, widen
from .reduction import Reduction, fold

INF = math.inf


def comparing(name: str, a: Expr, b: float | Expr, yes: Expr | float, no: Expr | float) -> Expr:
    """``yes`` where the comparison ``name`` of a and b holds; not where one of them is NaN."""
    return ifelse(node(name, a, b if isinstance(b, Expr) else const(b)) - 1.0, yes, no)


# ---------------------------------------------------------------- counts, means, products


def _count(r: Reduction, dim: int) -> Law:
    return Law(
        dim,
        (0.0,),
        (dim,),
        lambda s, fs: (sum(map(nonzero, fs), s[0]),),
        lambda a, b: (a[0] + b[0],),
        lambda s: s,
    )


def _any(r: Reduction, dim: int) -> Law:
    def step(s: Parts, fs: Parts) -> Parts:
        found = s[0]
        for f in fs:
            found = maximum(found, nonzero(f))
        return (found,)

    return Law(dim, (0.0,), (dim,), step, lambda a, b: (maximum(a[0], b[0]),), lambda s: s)


def _all(r: Reduction, dim: int) -> Law:
    def step(s: Parts, fs: Parts) -> Parts:
        found = s[0]
        for f in fs:
            found = minimum(found, nonzero(f))
        return (found,)

    return Law(dim, (1.0,), (dim,), step, lambda a, b: (minimum(a[0], b[0]),), lambda s: s)


def _mean(r: Reduction, dim: int) -> Law:
    """(number, sum); the number is a residual."""
    return Law(
        dim,
        (0.0, 0.0),
        (1, dim),
        lambda s, fs: (s[0] + float(len(fs)), sum(fs, s[1])),
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
        lambda s: (s[1] / s[0], s[0]),
    )


def _mean_seed(r: Reduction, f: Expr, results: Parts, g: Parts) -> Expr:
    return g[0] / results[1]


def _prod(r: Reduction, dim: int) -> Law:
    """(product q of the nonzero entries, number z of zeros).

    The product is q e, with e the product of the zeros. Residuals, for the derivative: q, z, e, and the sum u
    of the zeros, which is zero, but not its derivative.
    """

    def step(s: Parts, fs: Parts) -> Parts:
        q, z = s
        for f in fs:
            zero = node("eq", f, const(0.0))
            q, z = q * ifelse(zero - 1.0, 1.0, f), z + zero
        return q, z

    def results(s: Parts) -> Parts:
        q, z = s
        return ifelse(-z, q, q * 0.0), q, z, node("eq", z, const(0.0)), z * 0.0

    return Law(dim, (1.0, 0.0), (dim, dim), step, lambda a, b: (a[0] * b[0], a[1] + b[1]), results)


def _prod_seed(r: Reduction, f: Expr, results: Parts, g: Parts) -> Expr:
    """The product of the others, which at a zero is q (one zero) or q times the other zero (two of them).

    Written in q, e and u, whose own derivatives follow, so that second derivatives are right too.
    """
    _, q, z, e, u = results
    by_q = q / comparing("eq", f, 0.0, 1.0, f)
    by_e = comparing("eq", z, 1.0, 1.0, comparing("eq", z, 2.0, u - f, 0.0))
    of_q, of_e = g[0] * e + g[1], g[0] * q + g[3]
    return comparing("eq", f, 0.0, of_e * by_e + g[4], of_q * by_q)


# ---------------------------------------------------------------- exponentials with weights


def weighted_entry(f: Expr, w: Expr) -> Expr:
    """Exponents and weights as one entry; a scalar weight stands for all exponents, and the other way round.

    Raises
    ------
    FormulaError
        Other dims.
    """
    w = widen(w, f.dim) if w.dim == 1 else w
    if f.dim not in (1, w.dim):
        raise FormulaError(f"weights of dim {w.dim} for exponents of dim {f.dim}: expected 1 or {f.dim}.")
    return concat(f, w)


def _split(r: Reduction, e: Expr) -> tuple[Expr, Expr]:
    """Exponents and weights of an entry."""
    if not r.scores:
        return e, const(1.0)
    if e.dim not in (r.scores * 2, r.scores + 1) and r.scores != 1 or e.dim <= r.scores:
        raise FormulaError(
            f"{r.name} of entries of dim {e.dim}: expected {r.scores} exponents and their weights; "
            "write the entry as weighted_entry(f, w)."
        )
    return e[: r.scores], e[r.scores :]


def _grown(old: Expr, new: Expr) -> Expr:
    """exp(old - new) for new >= old, and 1 where both are the same infinity."""
    return comparing("ge", old, new, 1.0, exp(old - new))


def _finite(m: Expr) -> Expr:
    """m, and 0 where it is infinite: exp(f - m) is then exp(f), 0 or infinite itself."""
    return comparing("lt", abs(m), INF, m, 0.0)


def _shifted(r: Reduction, dim: int, sign: float, ones: bool, final: Callable[[int, Parts], Parts]) -> Law:
    """The law of (m, v); ``ones`` puts a weight of 1 before the others."""

    def parts(e: Expr) -> tuple[Expr, Expr]:
        f, w = _split(r, e)
        f = f if sign > 0 else -f
        return f, concat(widen(const(1.0), f.dim), w) if ones else w

    scores = r.scores or dim
    weights = dim - r.scores + (scores if ones else 0)

    def spread(x: Expr) -> Expr:
        """A factor of each exponent, for the weights it goes with."""
        return concat(x, x) if ones and scores > 1 else x

    def step(s: Parts, es: Parts) -> Parts:
        m, v = s
        entries = [parts(e) for e in es]
        new = m
        for f, _ in entries:
            new = maximum(new, f)
        shift, out = _finite(new), v * spread(_grown(m, new))
        for f, w in entries:
            out = out + w * spread(exp(f - shift))
        return new, out

    def merge(a: Parts, b: Parts) -> Parts:
        new = maximum(a[0], b[0])
        return new, a[1] * spread(_grown(a[0], new)) + b[1] * spread(_grown(b[0], new))

    return Law(dim, (-INF, 0.0), (scores, weights), step, merge, lambda s: final(scores, s))


def _lse_law(r: Reduction, dim: int) -> Law:
    return _shifted(r, dim, 1.0, False, lambda F, s: (s[0] + log(s[1]),))


def _pair_law(r: Reduction, dim: int) -> Law:
    """(m, v) itself; beside it the number of entries that equal m, which share its derivative."""
    plain = _shifted(r, dim, 1.0, False, lambda F, s: s)

    def step(s: Parts, es: Parts) -> Parts:
        m, v = plain.step(s[:2], es)
        ties = s[2] * node("eq", s[0], m)
        for e in es:
            ties = ties + node("eq", _split(r, e)[0], m)
        return m, v, ties

    def merge(a: Parts, b: Parts) -> Parts:
        m, v = plain.merge(a[:2], b[:2])
        return m, v, a[2] * node("eq", a[0], m) + b[2] * node("eq", b[0], m)

    dims = (*plain.dims, plain.dims[0])
    return Law(dim, (*plain.neutral, 0.0), dims, step, merge, lambda s: (concat(s[0], s[1]), s[2]))


def _mean_of_softmax(F: int, s: Parts) -> Parts:
    m, v = s
    return v[F:] / v[:F], m + log(v[:F])


def _softmax_law(r: Reduction, dim: int) -> Law:
    return _shifted(r, dim, 1.0, True, _mean_of_softmax)


def _softmin_law(r: Reduction, dim: int) -> Law:
    return _shifted(r, dim, -1.0, True, _mean_of_softmax)


def above(lse: Expr) -> Expr:
    """A logarithm to be subtracted from exponents: a row of -inf has no weight anywhere."""
    return comparing("eq", lse, -INF, INF, lse)


def _narrow(g: Expr, dim: int) -> Expr:
    return total(g) if dim == 1 and g.dim > 1 else widen(g, dim)


def _lse_seed(r: Reduction, e: Expr, results: Parts, g: Parts) -> Expr:
    f, w = _split(r, e)
    h = g[0] * exp(f - above(results[0]))
    return concat(_narrow(h * w, f.dim), widen(h, w.dim))


def _pair_seed(r: Reduction, e: Expr, results: Parts, g: Parts) -> Expr:
    """dv = sum of h dw + w h (df - dm) with h = exp(f - m); dm is the mean of df where f = m."""
    f, w = _split(r, e)
    pair, ties = results
    m, v = pair[: f.dim], pair[f.dim :]
    of_m, of_v = g[0][: f.dim], g[0][f.dim :]
    h = of_v * exp(f - above(m))
    of_f = _narrow(h * w, f.dim) + comparing("eq", f, m, (of_m - _narrow(of_v * v, f.dim)) / ties, 0.0)
    return concat(of_f, widen(h, w.dim)) if r.scores else of_f


def _softmax_seed(r: Reduction, e: Expr, results: Parts, g: Parts) -> Expr:
    return _softened(r, e, results, g, 1.0)


def _softmin_seed(r: Reduction, e: Expr, results: Parts, g: Parts) -> Expr:
    return _softened(r, e, results, g, -1.0)


def _softened(r: Reduction, e: Expr, results: Parts, g: Parts, sign: float) -> Expr:
    """With p = exp(f - lse): p (g (w - mean) + g of lse) for the exponents, p g for the weights."""
    f, w = _split(r, e)
    mean, lse = results
    p = exp((f if sign > 0 else -f) - above(lse))
    inner = _narrow(g[0] * (w - mean), f.dim) + g[1]
    # where p is 0 the mean may be NaN, of a row that has no weight at all
    return concat(sign * ifelse(-p, 0.0, p * inner), ifelse(-p, 0.0, p * g[0]))


# ---------------------------------------------------------------- records

PROD = fold("prod", ("value",), _prod, _prod_seed, residuals=4, absent=1.0, doc="The product")
MEAN = fold("mean", ("value",), _mean, _mean_seed, residuals=1, doc="The mean")
COUNT = fold("count", ("count",), _count, absent=0.0, doc="The number of nonzero entries")
ANY = fold("any", ("flag",), _any, absent=0.0, doc="Whether an entry is nonzero")
ALL = fold("all", ("flag",), _all, absent=1.0, doc="Whether all entries are nonzero")
LOGSUMEXPWEIGHT = fold(
    "logsumexpweight", ("value",), _lse_law, _lse_seed, scores=1, doc="log sum w exp(f) with weights w"
)
SUMSOFTMAXWEIGHT = fold(
    "sumsoftmaxweight",
    ("value",),
    _softmax_law,
    _softmax_seed,
    residuals=1,
    scores=1,
    doc="sum w exp(f) / sum exp(f): the mean of weights under the softmax of f",
)
SOFTMAX = fold(
    "softmax",
    ("value",),
    _softmax_law,
    _softmax_seed,
    residuals=1,
    scores=1,
    doc="sum w exp(f) / sum exp(f), as `sumsoftmaxweight`",
)
SOFTMIN = fold(
    "softmin",
    ("value",),
    _softmin_law,
    _softmin_seed,
    residuals=1,
    scores=1,
    doc="sum w exp(-f) / sum exp(-f): the mean of weights under the softmax of -f",
)
MAX_SUMSHIFTEXP = fold(
    "max_sumshiftexp",
    ("value",),
    _pair_law,
    _pair_seed,
    residuals=1,
    separable=False,
    doc="The pair (m, s): the maximum m, and the sum of exp(f - m)",
)
MAX_SUMSHIFTEXPWEIGHT = fold(
    "max_sumshiftexpweight",
    ("value",),
    _pair_law,
    _pair_seed,
    residuals=1,
    scores=1,
    separable=False,
    doc="The pair (m, s): the maximum m, and the sum of w exp(f - m)",
)

FOLDS = (
    PROD,
    MEAN,
    COUNT,
    ANY,
    ALL,
    LOGSUMEXPWEIGHT,
    SUMSOFTMAXWEIGHT,
    SOFTMAX,
    SOFTMIN,
    MAX_SUMSHIFTEXP,
    MAX_SUMSHIFTEXPWEIGHT,
)

# of the same name in KeOps, with and without weights
WEIGHTED = {"logsumexp": LOGSUMEXPWEIGHT, "max_sumshiftexp": MAX_SUMSHIFTEXPWEIGHT}
