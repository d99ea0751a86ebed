"""The on-disk cache: damage is repaired, processes share it, it stays bounded and never gets in the way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kerngp.engine import cache
from kerngp.engine.cache import cache_info, cached_compile, clear_cache

KEY = ("source", "-O2", b"\x00flags")
PAYLOAD = bytes(range(256)) * 5
posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are POSIX")


class Compiler:
    """Counts how often it was asked."""

    def __init__(self, payload: bytes = PAYLOAD) -> None:
        self.payload, self.calls = payload, 0

    def __call__(self) -> bytes:
        self.calls += 1
        return self.payload


@pytest.fixture(autouse=True)
def forget_warnings() -> Iterator[None]:
    cache._warn_once.cache_clear()
    yield
    cache._warn_once.cache_clear()


def the_entry(folder: Path) -> Path:
    (entry,) = folder.glob("*.bin")
    return entry


def test_second_call_does_not_compile(tmp_path: Path) -> None:
    compiler = Compiler()
    assert cached_compile(KEY, compiler, directory=tmp_path) == PAYLOAD
    assert cached_compile(KEY, compiler, directory=tmp_path) == PAYLOAD
    assert compiler.calls == 1


def test_every_part_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[tuple[str | bytes, ...]] = [
        *[(), ("abc",), ("abc", ""), ("ab", "c"), ("a", "bc"), ("c", "ab")],
        *[(b"ab", "c"), ("ab", b"c"), ("s2:ab", "c")],
    ]
    for number, key in enumerate(keys):
        cached_compile(key, Compiler(b"%d" % number), directory=tmp_path)
    for number, key in enumerate(keys):
        assert (
            cached_compile(key, lambda: pytest.fail("compiled again"), directory=tmp_path) == b"%d" % number
        )
    monkeypatch.setattr(cache, "CODEGEN_VERSION", cache.CODEGEN_VERSION + 1)
    assert cached_compile(keys[0], Compiler(b"new"), directory=tmp_path) == b"new"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "only part of the header": lambda b: b[:20],
    "only the header": lambda b: b[: cache._HEADER.size],
    "truncated by one byte": lambda b: b[:-1],
    "truncated by half": lambda b: b[: len(b) // 2],
    "one byte more": lambda b: b + b"\x00",
    "a bit of the payload": lambda b: b[:-7] + bytes([b[-7] ^ 1]) + b[-6:],
    "a bit of the checksum": lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:],
    "another format": lambda b: b"kerngp\x00\x02" + b[8:],
    "another file": lambda b: b"#!/bin/sh\n" * 200,
    "zeros, as after a crash": lambda b: b"\x00" * len(b),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entry_is_replaced(damage: str, tmp_path: Path) -> None:
    cached_compile(KEY, Compiler(), directory=tmp_path)
    entry = the_entry(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(DAMAGE[damage](whole))
    compiler = Compiler()
    for _ in range(2):
        assert cached_compile(KEY, compiler, directory=tmp_path) == PAYLOAD
    assert compiler.calls == 1
    assert entry.read_bytes() == whole


def test_entry_under_another_name_is_refused(tmp_path: Path) -> None:
    cached_compile(("evil",), Compiler(b"evil code"), directory=tmp_path)
    evil = the_entry(tmp_path)
    evil.rename(tmp_path / (cache._digest(KEY).hex() + ".bin"))
    assert cached_compile(KEY, Compiler(), directory=tmp_path) == PAYLOAD


def test_errors_of_the_compiler_pass_and_leave_nothing(tmp_path: Path) -> None:
    def broken() -> bytes:
        raise ArithmeticError("no")

    with pytest.raises(ArithmeticError, match="no"):
        cached_compile(KEY, broken, directory=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_many_processes_at_once(tmp_path: Path) -> None:
    """Processes compile, read, damage, evict and clear the same entries; each gets what it asked for."""
    code = """
        import random, sys
        from pathlib import Path
        from kerngp.engine.cache import cached_compile, clear_cache
        folder, seed = Path(sys.argv[1]), int(sys.argv[2])
        random.seed(seed)
        for step in range(300):
            k = random.randrange(6)
            want = bytes([k]) * (2000 + k)
            got = cached_compile(("source", str(k)), lambda: want, directory=folder, max_bytes=7000)
            assert got == want, (seed, step, k)
            if step % 50 == seed:
                clear_cache(folder)
            if step % 20 == seed:
                for path in list(folder.glob("*.bin"))[:1]:
                    path.write_bytes(b"torn")
    """
    script = textwrap.dedent(code)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(seed)], stderr=subprocess.PIPE, text=True
        )
        for seed in range(4)
    ]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert not errors
    assert not list(tmp_path.glob("*.tmp"))
    assert cache_info(tmp_path).bytes <= 7000 + 4 * 2100  # the last writers may each have missed the others


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    size = 1000 + cache._HEADER.size

    def use(name: str, limit: int = 3 * size) -> int:
        compiler = Compiler(name.encode() * 1000)
        assert cached_compile((name,), compiler, directory=tmp_path, max_bytes=limit) == name.encode() * 1000
        return compiler.calls

    for age, name in enumerate("abc"):
        use(name)
        path = tmp_path / (cache._digest((name,)).hex() + ".bin")
        os.utime(path, (1e9 + age, 1e9 + age))
    assert use("a") == 0  # touched: now b is the oldest
    assert use("d") == 1
    assert cache_info(tmp_path) == (tmp_path, 3, 3 * size)
    assert [use(name, limit=10**9) for name in "acdb"] == [0, 0, 0, 1]


def test_binary_larger_than_the_limit(tmp_path: Path) -> None:
    assert cached_compile(KEY, Compiler(), directory=tmp_path, max_bytes=100) == PAYLOAD
    assert cache_info(tmp_path).entries == 0


def test_eviction_survives_files_removed_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cache._entries

    def entries(folder: Path, suffix: str = ".bin") -> list[tuple[float, int, Path]]:
        return [(0.0, 10**9, folder / "gone.bin"), *real(folder, suffix)]

    monkeypatch.setattr(cache, "_entries", entries)
    assert cached_compile(KEY, Compiler(), directory=tmp_path) == PAYLOAD
    assert the_entry(tmp_path)


def test_temporary_files_of_dead_processes_go(tmp_path: Path) -> None:
    old, fresh = tmp_path / ".old.tmp", tmp_path / ".fresh.tmp"
    for file in (old, fresh):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 1e5,) * 2)
    cached_compile(KEY, Compiler(), directory=tmp_path)
    assert not old.exists() and fresh.exists()


def test_info_and_clear(tmp_path: Path) -> None:
    assert cache_info(tmp_path / "none") == (tmp_path / "none", 0, 0)
    assert clear_cache(tmp_path / "none") == 0
    for number in range(3):
        cached_compile((str(number),), Compiler(), directory=tmp_path)
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    assert cache_info(tmp_path) == (tmp_path, 3, 3 * (len(PAYLOAD) + cache._HEADER.size))
    assert clear_cache(tmp_path) == 3
    assert cache_info(tmp_path).entries == 0 and other.exists()


def served_without_cache(folder: Path) -> list[str]:
    """Compile twice in a directory that does not work; return the warnings."""
    compiler = Compiler()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert cached_compile(KEY, compiler, directory=folder) == PAYLOAD
    assert compiler.calls == 2
    return [str(warning.message) for warning in caught]


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    (message,) = served_without_cache(file)
    assert str(file) in message and "KERNGP_CACHE_DIR" in message
    (message,) = served_without_cache(file / "below")
    assert "cannot be created" in message


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(source: str, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    (message,) = served_without_cache(tmp_path)
    assert "No space left on device" in message
    assert list(tmp_path.iterdir()) == []


@posix
def test_read_only_directory_serves_what_it_has() -> None:
    """Run as an ordinary user: to root, no directory is read-only, and pytest's own are private to root."""
    code = """
        import os, sys, tempfile, warnings
        from pathlib import Path
        from kerngp.engine.cache import cached_compile
        if os.geteuid() == 0:
            os.setuid(12345)
        folder = Path(tempfile.mkdtemp(dir="/tmp"))
        cached_compile(("old",), lambda: b"old", directory=folder)
        os.chmod(folder, 0o500)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                assert cached_compile(("old",), lambda: sys.exit("compiled"), directory=folder) == b"old"
                assert cached_compile(("new",), lambda: b"new", directory=folder) == b"new"
        os.chmod(folder, 0o700)
        (folder / os.listdir(folder)[0]).unlink()
        folder.rmdir()
        assert len(caught) == 1 and "cannot be written" in str(caught[0].message), caught
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@posix
def test_directory_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_compile(KEY, Compiler(b"planted"), directory=tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    (message,) = served_without_cache(tmp_path)
    assert "belongs to another user" in message
    assert cache_info(tmp_path).entries == 1


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_entry_of_another_user(tmp_path: Path) -> None:
    """In a shared directory of ours, somebody else may have put an entry that looks right."""
    cached_compile(KEY, Compiler(b"planted"), directory=tmp_path)
    os.chown(the_entry(tmp_path), 12345, -1)
    assert cached_compile(KEY, Compiler(), directory=tmp_path) == PAYLOAD
    assert the_entry(tmp_path).stat().st_uid == 0


@posix
def test_only_the_owner_may_read(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "cache"
    cached_compile(KEY, Compiler(), directory=folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert the_entry(folder).stat().st_mode & 0o777 == 0o600


def test_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    for name in ("KERNGP_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: home)

    def on(platform: str) -> Path | None:
        monkeypatch.setattr(sys, "platform", platform)
        return cache.default_directory()

    assert on("linux") == home / ".cache" / "kerngp"
    assert on("darwin") == home / "Library" / "Caches" / "kerngp"
    assert on("win32") == home / "AppData" / "Local" / "kerngp" / "Cache"
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert on("win32") == tmp_path / "local" / "kerngp" / "Cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert on("linux") == tmp_path / "xdg" / "kerngp"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert on("linux") == home / ".cache" / "kerngp"
    monkeypatch.setenv("KERNGP_CACHE_DIR", str(tmp_path / "mine"))
    assert on("linux") == on("darwin") == on("win32") == tmp_path / "mine"
    assert cached_compile(KEY, Compiler()) == PAYLOAD
    assert cache_info().entries == 1 and cache_info().directory == tmp_path / "mine"
    assert clear_cache() == 1


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KERNGP_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    compiler = Compiler()
    assert cached_compile(KEY, compiler) == cached_compile(KEY, compiler) == PAYLOAD
    assert compiler.calls == 2
    assert cache_info() == (None, 0, 0) and clear_cache() == 0
