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


def innermost(text: str) -> list[Loop]:
    """The innermost loops: a backward branch that encloses no other."""
    loops = []
    for section in re.split(r"\.section\s+\.text\.", text)[1:]:
        kernel = section.split(",")[0].split()[0]
        labels: dict[str, int] = {}
        code: list[str] = []
        spans: list[tuple[int, int]] = []
        for line in section.splitlines():
            label = re.match(r"^(\.L_x?_?\w+):", line)
            if label:
                labels[label.group(1)] = len(code)
            found = re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);", line)
            if not found:
                continue
            code.append(found.group(1).split(".")[0])
            target = re.search(r"(\.L_x?_?\w+)", found.group(2))
            if code[-1] in ("BRA", "BRX") and target and target.group(1) in labels:
                spans.append((labels[target.group(1)], len(code)))
        for lo, hi in spans:
            if not any(lo <= a and b <= hi and (a, b) != (lo, hi) for a, b in spans) and hi - lo > 1:
                loops.append(Loop(kernel, collections.Counter(code[lo:hi])))
    return loops


def main_loop(text: str, kernel: str = "kg_tile") -> Loop:
    """The longest innermost loop of a kernel: the pairs of a whole block of columns."""
    return max((loop for loop in innermost(text) if loop.kernel == kernel), key=lambda loop: loop.slots)
