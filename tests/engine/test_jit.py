"""From LLVM IR to callable code: results, errors, life times, and assembly for three kinds of processor."""

from __future__ import annotations

import ctypes
import gc
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from kerngp.engine import cache
from kerngp.engine.backends import jit
from kerngp.errors import CompileError

ADD = """
define void @add(ptr %x, ptr %y, ptr %out, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %px = getelementptr double, ptr %x, i64 %i
  %py = getelementptr double, ptr %y, i64 %i
  %po = getelementptr double, ptr %out, i64 %i
  %a = load double, ptr %px
  %b = load double, ptr %py
  %s = fadd double %a, %b
  store double %s, ptr %po
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""

#: acc += x * y on one vector, through a variable in memory, as the renderer writes it
FMA = """
declare <{w} x float> @llvm.fma.v{w}f32(<{w} x float>, <{w} x float>, <{w} x float>)
define void @fma(ptr %x, ptr %y, ptr %out) {{
  %var = alloca <{w} x float>
  %start = load <{w} x float>, ptr %out, align 4
  store <{w} x float> %start, ptr %var
  %a = load <{w} x float>, ptr %x, align 4
  %b = load <{w} x float>, ptr %y, align 4
  %c = load <{w} x float>, ptr %var
  %r = call <{w} x float> @llvm.fma.v{w}f32(<{w} x float> %a, <{w} x float> %b, <{w} x float> %c)
  store <{w} x float> %r, ptr %var
  %end = load <{w} x float>, ptr %var
  store <{w} x float> %end, ptr %out, align 4
  ret void
}}
"""


def set_to(value: int) -> str:
    return f"define void @set(ptr %p) {{\n  store i64 {value}, ptr %p\n  ret void\n}}\n"


def call_set(binary: bytes) -> int:
    out = ctypes.c_int64(0)
    jit.load(binary).function("set", 1)(ctypes.addressof(out))
    return out.value


@pytest.mark.parametrize("passes", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [1, 7, 31, 33, 1000])
def test_compiled_code_computes(passes: int, n: int, tmp_path: Path) -> None:
    x = (ctypes.c_double * n)(*range(n))
    y = (ctypes.c_double * n)(*(0.5 * i for i in range(n)))
    out = (ctypes.c_double * (n + 1))(*[-1.0] * (n + 1))
    add = jit.load(jit.compile_ir(ADD, jit.host_target(), passes, cache_dir=tmp_path)).function("add", 4)
    add(ctypes.addressof(x), ctypes.addressof(y), ctypes.addressof(out), n)
    assert list(out) == [1.5 * i for i in range(n)] + [-1.0]


def test_second_compile_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = jit.host_target()
    first = jit.compile_ir(set_to(7), target, cache_dir=tmp_path)
    monkeypatch.setattr(jit, "_generate", lambda *args: pytest.fail("compiled again"))
    assert jit.compile_ir(set_to(7), target, cache_dir=tmp_path) == first
    assert call_set(first) == 7


def test_source_level_and_target_are_all_in_the_key(tmp_path: Path) -> None:
    host = jit.host_target()
    plain = jit.Target(host.triple, host.cpu, "")
    for target in (host, plain):
        for passes in (0, 1):
            for value in (1, 2):
                jit.compile_ir(set_to(value), target, passes, cache_dir=tmp_path)
    assert cache.cache_info(tmp_path).entries == 8


def test_damaged_entry_is_compiled_again(tmp_path: Path) -> None:
    target = jit.host_target()
    jit.compile_ir(set_to(11), target, cache_dir=tmp_path)
    (entry,) = tmp_path.glob("*.bin")
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 0xFF
    entry.write_bytes(content)
    assert call_set(jit.compile_ir(set_to(11), target, cache_dir=tmp_path)) == 11


def source_of(error: CompileError) -> Path:
    found = re.search(r"kept in (\S+\.ll)\.", str(error))
    assert found, str(error)
    return Path(found.group(1))


@pytest.mark.parametrize(
    ("text", "log"),
    [
        ("define voi", "expected type"),
        ("define void @f() {\n  %x = add i64 %x, 1\n  ret void\n}", "own|Instruction|dominate|reference"),
        ("declare float @expf(float)\ndefine void @f() {\n  ret void\n}", "undefined functions: expf"),
    ],
)
def test_error_carries_source_and_log(text: str, log: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=log) as caught:
        jit.compile_ir(text, jit.host_target(), cache_dir=tmp_path)
    source = source_of(caught.value)
    assert source.read_text() == text
    source.unlink()
    assert cache.cache_info(tmp_path).entries == 0


def test_unknown_function_and_unknown_target(tmp_path: Path) -> None:
    library = jit.load(jit.compile_ir(set_to(1), jit.host_target(), cache_dir=tmp_path))
    with pytest.raises(KeyError, match="nope"):
        library.function("nope", 1)
    with pytest.raises(ValueError, match="unknown target 'sparc'; expected one of avx2, avx512, neon"):
        jit.Target.named("sparc")


def test_code_lives_as_long_as_a_function(tmp_path: Path) -> None:
    binary = jit.compile_ir(set_to(5), jit.host_target(), cache_dir=tmp_path)
    functions = [jit.load(binary).function("set", 1) for _ in range(20)]
    gc.collect()
    out = ctypes.c_int64(0)
    for function in functions:
        out.value = 0
        function(ctypes.addressof(out))
        assert out.value == 5


def test_many_threads_compile_and_load(tmp_path: Path) -> None:
    results: dict[int, int] = {}

    def work(value: int) -> None:
        binary = jit.compile_ir(set_to(value % 5), jit.host_target(), cache_dir=tmp_path)
        results[value] = call_set(binary)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {value: value % 5 for value in range(20)}


def test_the_gil_is_released(tmp_path: Path) -> None:
    """The compiled function spins until Python changes a flag; in a subprocess, for it may hang."""
    code = f"""
        import ctypes, threading
        from pathlib import Path
        from kerngp.engine.backends import jit
        text = '''
        define void @spin(ptr %flag) {{
        entry:
          br label %loop
        loop:
          %v = load volatile i64, ptr %flag
          %go = icmp eq i64 %v, 0
          br i1 %go, label %loop, label %done
        done:
          ret void
        }}
        '''
        binary = jit.compile_ir(text, jit.host_target(), cache_dir=Path({str(tmp_path)!r}))
        spin = jit.load(binary).function("spin", 1)
        flag = ctypes.c_int64(0)
        threading.Timer(0.05, lambda: setattr(flag, "value", 1)).start()
        spin(ctypes.addressof(flag))
    """
    script = textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "bits", "instruction"),
    [
        ("avx2", 256, r"vfmadd\w+ps\s.*%ymm"),
        ("avx512", 512, r"vfmadd\w+ps\s.*%zmm"),
        ("neon", 128, r"fmla\s+v\d+\.4s"),
    ],
)
@pytest.mark.parametrize("passes", [0, 1, 2, 3])
def test_named_targets_use_their_vectors(name: str, bits: int, instruction: str, passes: int) -> None:
    target = jit.Target.named(name)
    assert (target.width_bits, target.has_fma) == (bits, True)
    text = jit.assembly(FMA.format(w=bits // 32), target, passes)
    assert re.search(instruction, text)
    assert not re.search(r"\b(call|bl)\b", text)
    assert "sp" not in text.replace(".section", "")  # the variable became a register: no stack


def test_explicit_vectors_only() -> None:
    """Level 3 would vectorise the scalar loop, had we not said that vectors are the renderer's decision."""
    assert "addsd" in jit.assembly(ADD, jit.Target.named("avx2"), 3)
    assert "addpd" not in jit.assembly(ADD, jit.Target.named("avx2"), 3)


def test_target_properties_follow_the_features() -> None:
    linux = "x86_64-unknown-linux-gnu"
    assert jit.Target(linux, "x86-64", "").width_bits == 128
    assert not jit.Target(linux, "x86-64", "+sse2").has_fma
    assert jit.Target(linux, "sandybridge", "+avx").width_bits == 256
    assert not jit.Target(linux, "sandybridge", "-fma,+avx").has_fma
    assert jit.Target(linux, "znver3", "+fma,+avx2,-avx512f").width_bits == 256
    assert jit.Target(linux, "a", "+fma,-sse4a,+avx2") == jit.Target(linux, "a", "+avx2,+fma,-sse4a")
    assert jit.Target("arm64-apple-darwin23", "apple-m1", "").has_fma


def test_host_target_is_this_machine() -> None:
    host = jit.host_target()
    assert host is jit.host_target()
    assert host.width_bits in (128, 256, 512)
    assert host.triple and host.cpu
