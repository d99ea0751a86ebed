from kerngp.engine import ops
from kerngp.engine.expr import const
from kerngp.engine.vocabulary import WORDS, word

if "Exp" not in WORDS:
    word("Exp", "f", ops.exp)
    word("SqDist", "ff", ops.sqdist)
    word("IntCst", "n", const)
    word("Pow", "fn", ops.power)
    word("Square", "f", ops.square)
