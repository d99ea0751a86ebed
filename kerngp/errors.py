"""Every exception and warning kerngp raises, so that callers can catch one family."""

from __future__ import annotations


class KerngpError(Exception):
    """Base class of all errors raised by kerngp."""


class FormulaError(KerngpError, ValueError):
    """A formula is malformed: unknown op, wrong number of arguments, incompatible dimensions."""


class ShapeError(KerngpError, ValueError):
    """An array has the wrong shape, or two arrays disagree about a size."""


class DTypeError(KerngpError, TypeError):
    """An array has a dtype the operation does not accept."""


class DataError(KerngpError, ValueError):
    """An array holds values the operation cannot use: NaN, infinity, masked entries."""


class DataUnavailable(KerngpError, FileNotFoundError):
    """A data set is not on this machine; the message says how to install it."""


class DeviceError(KerngpError, ValueError):
    """Arrays live on different devices, or on one that no backend serves."""


class OptionError(KerngpError, ValueError):
    """An option has an unknown name or an impossible value."""


class CompileError(KerngpError, RuntimeError):
    """Generated code did not compile; the message holds the source path and the compiler's log."""


class BackendUnavailable(KerngpError, RuntimeError):
    """A backend was asked for by name but cannot run here; the message says what is missing."""


class SolveError(KerngpError, ArithmeticError):
    """A linear solve failed and the caller asked for an exception; ``solution`` is what was found."""

    solution: object = None


class ConvergenceWarning(UserWarning):
    """A solver stopped before it reached the tolerance; the message holds status and residual."""
