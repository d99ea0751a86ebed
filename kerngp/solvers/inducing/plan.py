"""What a fit on inducing points takes, from sizes alone: which form, how much memory, how many centres.

**Form.** Floating-point operations per row and centre:

    normal   D + 12 + 400 + 3 m      400: to write and read an entry; 3 m: solve, half a product
    fused    2 its (D + 12 + 2 E) + (4 m / n) normal
                                     D features, E targets (for each alpha), 12 for exponential and sums
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import OptionError
from .preconditioner import SAMPLE

TYPICAL_ITERATIONS = 20
FORMS = ("auto", "fused", "normal")


@dataclass(frozen=True)
class Memory:
    """Bytes beyond the data at the peak of a fit.

    Attributes
    ----------
    matrices : int
        Of shape (m, m), in float64.
    blocks : int
        Rows of the kernel matrix that are in work.
    vectors : int
        Of the length of the data: targets, weights, points in float64, products.
    """

    matrices: int
    blocks: int
    vectors: int

    @property
    def dense(self) -> int:
        """What the memory limit is about: dense and tiled temporaries."""
        return self.matrices + self.blocks

    @property
    def total(self) -> int:
        """Everything."""
        return self.dense + self.vectors


def choose_form(
    rows: int, features: int, centers: int, targets: int, iterations: int = TYPICAL_ITERATIONS
) -> str:
    """ "fused" or "normal", whichever takes fewer operations; see the head of this file."""
    normal = features + 12 + 400 + 3 * centers
    fused = 2 * iterations * (features + 12 + 2 * targets) + min(1.0, SAMPLE * centers / rows) * normal
    return "fused" if fused <= normal else "normal"


def square_matrices(preconditioner: str, alphas: int) -> int:
    """How many matrices over the centres are alive together.

    The factor T, the Gram matrix and the Cholesky factor of the preconditioner; "krill" has two more for
    its sums while there is no Cholesky factor; several alphas need eigenvectors, computed in two more.
    """
    if alphas > 1:
        return 5
    return 4 if preconditioner == "krill" else 3


def block_numbers(memory_limit: int) -> int:
    """Numbers of a block of rows; four such blocks are alive together, in an eighth of the limit."""
    return min(memory_limit // 8, 1 << 27) // 32


def memory(
    rows: int,
    features: int,
    targets: int,
    centers: int,
    *,
    alphas: int = 1,
    preconditioner: str = "sampled",
    memory_limit: int,
) -> Memory:
    """Forecast of the memory.

    Examples
    --------
    >>> memory(300_000, 10, 1, 6000, memory_limit=1 << 30).dense <= 1 << 30
    True
    """
    width = 8 * centers
    step = max(1, min(rows, block_numbers(memory_limit) // max(1, centers)))
    columns = targets * alphas
    return Memory(
        matrices=square_matrices(preconditioner, alphas) * centers * width,
        blocks=4 * step * width,
        vectors=8 * rows * (2 * features + 2 + 2 * targets + 2 * columns) + 12 * columns * width,
    )


def check_memory(need: Memory, rows: int, centers: int, memory_limit: int) -> None:
    """Refuse before anything is computed.

    Raises
    ------
    OptionError
        With the numbers.
    """
    if need.dense > memory_limit:
        gib = {name: f"{n / 2**30:.2f}" for name, n in vars(need).items()}
        raise OptionError(
            f"{centers:,} inducing points for {rows:,} rows need {need.dense / 2**30:.2f} GiB (matrices over "
            f"the centers {gib['matrices']}, blocks of rows {gib['blocks']}), more than the memory_limit of "
            f"{memory_limit / 2**30:.2f} GiB: use fewer n_centers, or raise the limit with "
            "kerngp.options.options(memory_limit=...)."
        )


def most_centers(rows: int, memory_limit: int, *, preconditioner: str = "sampled", alphas: int = 1) -> int:
    """10 sqrt(N) inducing points, at least 1,000, as far as half of the memory limit holds them.

    The order sqrt(N) is enough for the statistical rate of kernel ridge regression.

    References
    ----------
    Rudi, Carratino and Rosasco, FALKON: an optimal large scale kernel method, 2017, theorem 3.
    """
    room = math.isqrt(memory_limit // 2 // (8 * square_matrices(preconditioner, alphas)))
    return min(rows, room, max(1000, math.ceil(10 * math.sqrt(rows))))
