"""Compiled binaries on disk: one checksummed file per source, shared safely by many processes.

The cache is an optimisation and never an obstacle: an entry that is damaged is compiled again, and a
directory that cannot be used costs one warning. No lock is needed: a file is written under a temporary name
and renamed into place, and two processes that race write the same content.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: Part of every key: raise it when binaries of an older kerngp must not be loaded any more.
CODEGEN_VERSION = 1

_MAGIC = b"kerngp\x00\x01"
_HEADER = struct.Struct("<8sQ32s")  # magic with the format's version, length of the payload, checksum
_SUFFIX = ".bin"
_STALE = 3600.0  # seconds after which a temporary file belongs to a process that died


class CacheInfo(NamedTuple):
    """What the cache directory holds."""

    directory: Path | None
    entries: int
    bytes: int


def cached_compile(
    key_parts: tuple[str | bytes, ...],
    compile: Callable[[], bytes],
    *,
    directory: Path | None = None,
    max_bytes: int = 256 << 20,
) -> bytes:
    """Return the binary stored under ``key_parts``, calling ``compile`` when there is none.

    Parameters
    ----------
    key_parts
        Everything the binary depends on: whole source, flags, compiler version, target triple, CPU, features.
    compile
        Makes the binary. What it raises reaches the caller, and nothing is stored.
    directory
        Where to look; by default `default_directory`.
    max_bytes
        The least recently used entries are removed when the directory holds more than this.

    Examples
    --------
    >>> binary = cached_compile((source, "-O2", version), lambda: build(source))  # doctest: +SKIP
    """
    folder = default_directory() if directory is None else Path(directory)
    if folder is None or not _usable(folder):
        return compile()
    key = _digest(key_parts)
    path = folder / (key.hex() + _SUFFIX)
    payload = _read(path, key)
    if payload is None:
        payload = compile()
        if _write(path, key, payload):
            _evict(folder, max_bytes)
    return payload


def default_directory() -> Path | None:
    """``$KERNGP_CACHE_DIR``, else the platform's place for caches; None when the user has no home."""
    chosen = os.environ.get("KERNGP_CACHE_DIR")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "kerngp" / "Cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "kerngp"
        base = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "kerngp"
    except RuntimeError:  # raised by expanduser and home() without a home directory
        return None


def cache_info(directory: Path | None = None) -> CacheInfo:
    """Count the entries and bytes on disk."""
    folder = default_directory() if directory is None else Path(directory)
    entries = _entries(folder) if folder is not None else []
    return CacheInfo(folder, len(entries), sum(size for _, size, _ in entries))


def clear_cache(directory: Path | None = None) -> int:
    """Remove every entry and return how many went; binaries already loaded stay valid."""
    folder = default_directory() if directory is None else Path(directory)
    return sum(_remove(path) for _, _, path in _entries(folder)) if folder is not None else 0


def _digest(parts: tuple[str | bytes, ...]) -> bytes:
    """Hash of the parts, each with its type and length so that no two tuples run together."""
    state = hashlib.sha256(b"kerngp codegen %d" % CODEGEN_VERSION)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(b"%c%d:" % (b"s" if isinstance(part, str) else b"b", len(data)))
        state.update(data)
    return state.digest()


def _checksum(key: bytes, payload: bytes) -> bytes:
    """Covers the key as well: a valid file under another entry's name is refused."""
    return hashlib.sha256(key + payload).digest()


def _ours(status: os.stat_result) -> bool:
    """Code is loaded from what the current user owns, on systems where files have such an owner."""
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def _usable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        _warn_once(folder, f"it cannot be created ({error.strerror or error})")
        return False
    if not _ours(status):
        _warn_once(folder, "it belongs to another user")
        return False
    return True


def _read(path: Path, key: bytes) -> bytes | None:
    """The payload, or None for anything but a complete, undamaged entry of our own."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not (stat.S_ISREG(status.st_mode) and _ours(status)):
                return None
            content = file.read()
    except OSError:
        return None
    if len(content) <= _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack_from(content)
    payload = content[_HEADER.size :]
    if magic != _MAGIC or length != len(payload) or checksum != _checksum(key, payload):
        return None
    with suppress(OSError):  # the time of last use, for eviction; a read-only directory still serves
        os.utime(path)
    return payload


def _write(path: Path, key: bytes, payload: bytes) -> bool:
    temporary = None
    try:
        # mkstemp makes the file readable and writable by its owner only
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
        with open(handle, "wb") as file:
            file.write(_HEADER.pack(_MAGIC, len(payload), _checksum(key, payload)) + payload)
        os.replace(temporary, path)
        return True
    except OSError as error:
        if temporary is not None:
            _remove(Path(temporary))
        # Windows refuses to replace a file another process has open: that process has the same binary.
        if not (sys.platform == "win32" and path.exists()):
            _warn_once(path.parent, f"it cannot be written ({error.strerror or error})")
        return False


def _entries(folder: Path, suffix: str = _SUFFIX) -> list[tuple[float, int, Path]]:
    """(time of last use, size, path) of the files with this suffix, less those that vanish meanwhile."""
    found = []
    with suppress(OSError), os.scandir(folder) as files:
        for file in files:
            if file.name.endswith(suffix):
                with suppress(OSError):
                    status = os.stat(file.path)  # DirEntry.stat is stale on Windows
                    found.append((status.st_mtime, status.st_size, Path(file.path)))
    return found


def _evict(folder: Path, max_bytes: int) -> None:
    entries = _entries(folder)
    excess = sum(size for _, size, _ in entries) - max_bytes
    for _, size, path in sorted(entries):
        if excess <= 0:
            break
        _remove(path)
        excess -= size
    for modified, _, path in _entries(folder, ".tmp"):
        if modified < time.time() - _STALE:
            _remove(path)


def _remove(path: Path) -> bool:
    with suppress(OSError):
        path.unlink()
        return True
    return False


@functools.cache
def _warn_once(folder: Path, reason: str) -> None:
    warnings.warn(
        f"kerngp keeps no compiled code in {folder}: {reason}. Formulas are compiled anew in each process; "
        "set KERNGP_CACHE_DIR to a directory you own and can write.",
        RuntimeWarning,
        stacklevel=2,
    )
