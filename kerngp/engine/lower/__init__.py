"""Lowering rules: elementary and special functions written once over the primitives every SIMD machine has.

A rule is a function ``(t, x, ...) -> block`` where ``t`` is the emitter of a target (the primitives are
those of `kerngp.engine.render.llvm.Emitter`) and ``x`` a block of vectors. One text serves float32 and
float64, every vector width and every instruction set. Nothing branches but ``sin`` and ``cos``, for large
arguments. A target whose language has its own functions uses the rules of those it lacks.

Accuracy is stated in ulps from the exact result and tested over the whole range of the dtype, for
machines with fused multiply-add. Without it (``t.fused`` false) products are split where exactness
matters, and the bounds grow by an ulp. NaN arguments give NaN everywhere, but for ``pow`` where C says
otherwise.
"""

from . import elementary, hyperbolic, inverse, special
from .tools import RULES

__all__ = ["RULES", "elementary", "hyperbolic", "inverse", "special"]
