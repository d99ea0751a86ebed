"""Reading machine code: registers and spills from the compiler's remarks, loops from the disassembly."""

from __future__ import annotations

import collections
import importlib.util
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    """What a kernel takes of a multiprocessor."""

    registers: int
    stack: int
    spills: int


def usage(log: str) -> dict[str, Usage]:
    """By kernel, from the remarks of ``--ptxas-options=-v``."""
    found = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part.split("'")[0]
        stack, stores = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", part).groups()  # type: ignore[union-attr]
        registers = re.search(r"Used (\d+) registers", part).group(1)  # type: ignore[union-attr]
        found[name] = Usage(int(registers), int(stack), int(stores))
    return found


@dataclass(frozen=True)
class Loop:
    """A loop of a kernel without loops inside it: its instructions, by name."""

    kernel: str
    instructions: collections.Counter

    @property
    def slots(self) -> int:
        """Issue slots of one turn."""
        return sum(self.instructions.values())


def disassemble(image: bytes) -> str:
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    tools = [p for root in roots for p in Path(root).glob("*/bin/nvdisasm")]
    assert tools, "nvdisasm is missing: pip install nvidia-cuda-nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        done = subprocess.run([str(tools[0]), "-c", file.name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name, whether it is predicated, and where it branches to, if it does."""

    name: str
    predicated: bool
    target: str | None


def code_of(text: str) -> dict[str, tuple[list[Instruction], dict[str, int]]]:
    """By kernel: its instructions, and the position of each label."""
    kernels = {}
    for section in re.split(r"\.section\s+\.text\.", text)[1:]:
        labels: dict[str, int] = {}
        code: list[Instruction] = []
        for line in section.splitlines():
            label = re.match(r"^(\.L_x?_?\w+):", line)
            if label:
                labels[label.group(1)] = len(code)
            found = re.search(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);", line)
            if found:
                name = found.group(2).split(".")[0]
                target = re.search(r"(\.L_x?_?\w+)", found.group(3)) if name in ("BRA", "BRX") else None
                code.append(Instruction(name, bool(found.group(1)), target and target.group(1)))
        kernels[section.split(",")[0].split()[0]] = (code, labels)
    return kernels


def innermost(text: str) -> list[Loop]:
    """The innermost loops: a backward branch that encloses no other."""
    loops = []
    for kernel, (code, labels) in code_of(text).items():
        spans = _loops(code, labels)
        for lo, hi in spans:
            if not any(lo <= a and b <= hi and (a, b) != (lo, hi) for a, b in spans) and hi - lo > 1:
                loops.append(Loop(kernel, collections.Counter(c.name for c in code[lo:hi])))
    return loops


def _loops(code: list[Instruction], labels: dict[str, int]) -> list[tuple[int, int]]:
    """First and last instruction of each loop, the last one excluded."""
    return [
        (labels[c.target], at + 1)
        for at, c in enumerate(code)
        if c.target in labels and labels[c.target] <= at  # type: ignore[index]
    ]


def main_loop(text: str, kernel: str = "kg_tile") -> Loop:
    """The longest innermost loop of a kernel: the pairs of a whole block of columns."""
    return max((loop for loop in innermost(text) if loop.kernel == kernel), key=lambda loop: loop.slots)


def usual_turn(text: str, name: str, kernel: str = "kg_tile") -> Loop:
    """The shortest way once around the shortest loop that holds an instruction ``name``.

    What is rarely done (a candidate that is looked at again) is branched around, and does not count.
    """
    code, labels = code_of(text)[kernel]
    lo, hi = min(
        (span for span in _loops(code, labels) if any(c.name == name for c in code[span[0] : span[1]])),
        key=lambda span: span[1] - span[0],
    )
    before: dict[int, int] = {lo: -1}  # by breadth first: every instruction takes one slot
    queue = collections.deque([lo])
    while queue:
        at = queue.popleft()
        if at == hi - 1:
            break
        c = code[at]
        jump = [labels[c.target]] if c.target in labels else []  # type: ignore[index]
        ways = jump if jump and not c.predicated else [at + 1, *jump]
        for to in ways:
            if lo < to < hi and to not in before and c.name != "EXIT":
                before[to] = at
                queue.append(to)
    turn, at = [], hi - 1
    while at >= 0:
        turn.append(code[at].name)
        at = before[at]
    return Loop(kernel, collections.Counter(turn))
