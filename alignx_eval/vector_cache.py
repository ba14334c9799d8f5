"""The shared cache of sentence vectors: one safetensors file per checkpoint, setting and list of sentences, named by the hash of all that.

Files are written under a temporary name and renamed, so several processes may share a cache and a killed one leaves nothing half done under
a final name. The cache is capped: the files that were used longest ago go first. Deleting any file is always safe, it is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

SUFFIX = ".safetensors"
DEFAULT_MAX_BYTES = 20 * 2**30


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
    """Write an entry atomically and return its path."""
    from safetensors.numpy import save_file

    path = cache_path(cache_dir, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    os.close(handle)
    try:
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, temporary, metadata=dict(metadata))
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def open_entry(cache_dir: str | Path, key: str) -> Any | None:
    """An open safetensors file (`get_tensor(name)`, `metadata()`), or None where there is no entry. A damaged entry is removed.

    The file is memory-mapped: only the tensors that are asked for are read, and they stay readable when another process evicts the file.
    """
    from safetensors import SafetensorError, safe_open

    path = cache_path(cache_dir, key)
    try:
        entry = safe_open(str(path), framework="numpy")
        os.utime(path)  # last use, for `prune`
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError):
        path.unlink(missing_ok=True)
        return None
    return entry


def prune(cache_dir: str | Path, max_bytes: int = DEFAULT_MAX_BYTES, keep: Collection[Path] = ()) -> list[Path]:
    """Delete the entries used longest ago until the cache fits `max_bytes`; never those in `keep`. Returns what was deleted."""
    entries = []
    for path in (Path(cache_dir) / "vectors").glob("*/*" + SUFFIX):
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
            path.unlink(missing_ok=True)
            deleted.append(path)
            total -= size
    return deleted
