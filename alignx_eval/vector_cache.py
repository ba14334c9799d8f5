"""The shared cache of sentence vectors: one safetensors file per checkpoint, setting and list of sentences, named by the hash of all that.

Files are written under a temporary name, flushed to the disk and renamed, so several processes may share a cache, and a killed process or
machine leaves nothing half done under a final name. The cache is capped: the files that were used longest ago go first. Deleting any file
is always safe, it is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alignx_eval.errors import InputError

SUFFIX = ".safetensors"
TEMPORARY_PREFIX = ".writing-"
DEFAULT_MAX_BYTES = 20 * 2**30
DEAD_AFTER_SECONDS = 3600  # writing an entry takes seconds, so a temporary file as old as this belongs to a process that was killed


def cache_key(parts: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 of the canonical JSON of `parts`; everything that changes the vectors belongs in there."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def cache_path(cache_dir: str | Path, key: str) -> Path:
    """Where the entry called `key` lies or would lie."""
    return Path(cache_dir) / "vectors" / key[:2] / (key + SUFFIX)


def expected_bytes(*, languages: int, lines: int, layers: int, width: int) -> int:
    """Size on disk of the float32 vectors of one checkpoint, to be announced beforehand; `layers` counts every stored state, L + 2."""
    return 4 * languages * lines * layers * width


def store(cache_dir: str | Path, key: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Path:
    """Write an entry atomically and return its path. Raises InputError where the cache cannot be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = cache_path(cache_dir, key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY_PREFIX)
        try:
            save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary, metadata=dict(metadata))
            os.fsync(handle)
            os.replace(temporary, path)
        finally:
            os.close(handle)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        raise InputError(f"{path.parent}: the vector cache cannot be written ({error}); name another --cache-dir") from error
    return path


def open_entry(cache_dir: str | Path, key: str) -> Any | None:
    """An open safetensors file (`get_tensor(name)`, `metadata()`), or None where there is no entry. A damaged entry is removed.

    The file is memory-mapped: only the tensors that are asked for are read, and they stay readable when another process evicts the file.
    """
    from safetensors import SafetensorError, safe_open

    path = cache_path(cache_dir, key)
    try:
        entry = safe_open(str(path), framework="numpy")
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError):
        with contextlib.suppress(OSError):  # of somebody else, perhaps; a new entry replaces it
            path.unlink()
        return None
    with contextlib.suppress(OSError):  # evicted meanwhile, or of somebody else; what is open stays readable
        os.utime(path)  # last use, for `prune`
    return entry


def prune(cache_dir: str | Path, max_bytes: int = DEFAULT_MAX_BYTES, keep: Collection[Path] = ()) -> list[Path]:
    """Delete the entries used longest ago until the cache fits `max_bytes`; never those in `keep`. Returns what was deleted.

    Temporary files of killed processes go too, once they are an hour old.
    """
    vectors = Path(cache_dir) / "vectors"
    for temporary in vectors.glob(f"*/{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            if temporary.stat().st_mtime < time.time() - DEAD_AFTER_SECONDS:
                temporary.unlink()
    entries = []
    for path in vectors.glob("*/*" + SUFFIX):
        try:
            status = path.stat()
        except FileNotFoundError:  # evicted by another process meanwhile
            continue
        entries.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in entries)
    deleted = []
    for _, size, path in sorted(entries):
        if total <= max_bytes:
            break
        if path not in keep:
            with contextlib.suppress(OSError):  # evicted by another process meanwhile, or of somebody else
                path.unlink()
                deleted.append(path)
            total -= size
    return deleted
