"""Numbers the lowering rules need: the two floating-point formats, their polynomials, and constants in words.

The polynomials are relative fits made in 60 digits, each coefficient rounded in turn and the others refitted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["FORMATS", "Format", "HALF_PI", "LOG2E", "float_bits", "words"]

LOG2E = Fraction("1.44269504088896340735992468100189213742664595415298593413544940693")
HALF_PI = Fraction("1.57079632679489661923132169163975144209858469968755291048747229615")


@dataclass(frozen=True)
class Format:
    """What the rules need to know of a floating-point format.

    Polynomials hold the coefficients of the named series after its exact leading terms, lowest power
    first; the comment above each gives its largest error relative to the function.
    """

    mantissa: int  # stored bits
    bias: int
    log_zero: float  # exp of less is zero
    log_max: float  # exp of more is infinite
    ln2: tuple[float, float]  # the first word times any exponent is exact
    half_pi: tuple[float, ...]  # words for the fused reduction
    half_pi_split: tuple[float, ...]  # short words: each times the turn count is exact
    turn_bound: tuple[float, float]  # |x| up to which those reductions hold
    sqrt_half_bits: int
    exp2: tuple[float, ...]  # (2**f - 1) / f, |f| <= 1/2
    exp: tuple[float, ...]  # (e**f - 1 - f) / f**2, |f| <= log(2) / 2
    sin: tuple[float, ...]  # (sin r - r) / r**3 in r**2, |r| <= 0.81
    cos: tuple[float, ...]  # (cos r - 1 + r**2 / 2) / r**4 in r**2
    log: tuple[float, ...]  # (2 atanh(s) - 2 s) / s**3 in s**2, |s| <= 0.172
    log2: tuple[float, ...]  # 2/ln2 (atanh(s) - s - s**3 / 3) / s**5 in s**2

    @property
    def magic(self) -> float:
        """Adding it rounds to an integer, which then stands in the low bits."""
        return 1.5 * 2.0**self.mantissa

    @property
    def split(self) -> float:
        """Dekker's multiplier: halves the significand."""
        return 2.0 ** (self.mantissa // 2 + 1) + 1.0


FLOAT32 = Format(
    mantissa=23,
    bias=127,
    log_zero=-104.0,
    log_max=89.0,
    ln2=(0.693145751953125, 1.4286068203094173e-06),
    half_pi=(1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
    half_pi_split=(1.57080078125, -4.454515874385834e-06, 6.077272018956137e-11, -1.7150994166548195e-15),
    turn_bound=(131072.0, 1000.0),
    sqrt_half_bits=0x3F3504F3,
    # 2.2e-9
    exp2=(
        0.6931471824645996,
        0.24022644758224487,
        0.055503588169813156,
        0.00961883831769228,
        0.0013391353422775865,
        0.00015239657659549266,
    ),
    # 3.7e-9
    exp=(
        0.49999988079071045,
        0.16666516661643982,
        0.041669633239507675,
        0.008369115181267262,
        0.0013747054617851973,
    ),
    # 5.0e-9
    sin=(-0.16666652262210846, 0.00833201128989458, -0.0001949505094671622),
    # 1.7e-10
    cos=(0.04166664183139801, -0.001388712553307414, 2.4411221602349542e-05),
    # 8.3e-10
    log=(0.6666677594184875, 0.39977574348449707, 0.2987123727798462),
    # 8.6e-12
    log2=(0.5770803093910217, 0.4118395447731018, 0.3380393087863922),
)

FLOAT64 = Format(
    mantissa=52,
    bias=1023,
    log_zero=-746.0,
    log_max=710.0,
    ln2=(0.6931471805601177, -1.7239444525614835e-13),
    half_pi=(1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33),
    half_pi_split=(
        1.5707963267341256,
        6.077100506303966e-11,
        2.0222662487111665e-21,
        8.478427660348229e-32,
    ),
    turn_bound=(1073741824.0, 3.0e6),
    sqrt_half_bits=0x3FE6A09E667F3BCD,
    # 4.0e-18
    exp2=(
        0.6931471805599453,
        0.24022650695910133,
        0.05550410866482223,
        0.009618129107593338,
        0.0013333558146391036,
        0.00015403530458108313,
        1.5252733795209373e-05,
        1.3215434775077107e-06,
        1.0178090931618263e-07,
        7.073872610148164e-09,
        4.4493674908349806e-10,
    ),
    # 4.2e-18
    exp=(
        0.5000000000000013,
        0.16666666666666485,
        0.041666666666511636,
        0.008333333333448958,
        0.0013888888947879597,
        0.00019841269603845463,
        2.4801489110158403e-05,
        2.755750005033544e-06,
        2.7631567772592245e-07,
        2.5027323383195078e-08,
    ),
    # 5.7e-18
    sin=(
        -0.16666666666666613,
        0.008333333333317781,
        -0.00019841269826147145,
        2.7557312434927492e-06,
        -2.505056316032341e-08,
        1.588560112137638e-10,
    ),
    # 1.0e-19
    cos=(
        0.04166666666666655,
        -0.0013888888888866438,
        2.480158728482939e-05,
        -2.755731304346771e-07,
        2.0875549528508273e-09,
        -1.1350845754566435e-11,
    ),
    # 1.3e-18
    log=(
        0.6666666666666737,
        0.3999999999939863,
        0.28571428745551214,
        0.22222198273544116,
        0.1818357906686337,
        0.1531368752092411,
        0.14799487338447104,
    ),
    # 1.2e-20
    log2=(
        0.5770780163556198,
        0.41219858309115887,
        0.3205989023980617,
        0.26230769118053254,
        0.22198442261887263,
        0.19124587742521051,
        0.19046701657603043,
    ),
)

FORMATS = {"float32": FLOAT32, "float64": FLOAT64}


def words(value: Fraction, dtype: str, count: int = 2) -> tuple[float, ...]:
    """``value`` as an unevaluated sum of ``count`` numbers of the dtype, largest first."""
    words = []
    for _ in range(count):
        word = float(value)
        if dtype == "float32":
            word = struct.unpack("f", struct.pack("f", word))[0]
        words.append(word)
        value -= Fraction(word)
    return tuple(words)


def float_bits(x: float, dtype: str) -> int:
    """The bits of ``x`` in the dtype, as an unsigned integer."""
    codes = ("f", "I") if dtype == "float32" else ("d", "Q")
    return struct.unpack(codes[1], struct.pack(codes[0], x))[0]
