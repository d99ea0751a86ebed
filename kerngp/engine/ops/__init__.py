"""Every math op: one record each, with dimensions, code, definition and derivative; composites are functions.

Adding an op is adding one record, `elementwise(...)` or `define(Op(...))`, to the file it belongs to.
"""
# ruff: noqa: F401, F403

from ..expr import OPS, Expr, Op, as_expr, const, define, node
from .alignment import *
from .arithmetic import *
from .base import *
from .choices import *
from .composites import *
from .elementary import *
from .folds import *
from .hyperbolic import *
from .lookup import *
from .profiles import *
from .special import *
from .splines import *
from .tensors import *
from .trigonometric import *
from .turns import *
from .vectors import *
