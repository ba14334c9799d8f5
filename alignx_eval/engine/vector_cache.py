"""The shared cache of sentence vectors: one safetensors file per checkpoint, setting and list of sentences, named by
the hash of all that.

Files are written under a temporary name, flushed to the disk and renamed, so several processes may share a cache, and a
killed process or machine leaves nothing half done under a final name; every tensor is checked against its checksum when
it is read. The cache is capped: the files that were used longest ago go first, except those of the checkpoint at hand,
which stay even if they alone are more than the cap. Deleting any file is always safe, it is made again. Files get the
rights that the umask leaves, so users may share a cache; entries that cannot be read, and a cache that cannot be
written, are said and done without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import stat
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alignx_eval.errors import InputError

logger = logging.getLogger(__name__)
SUFFIX = ".safetensors"
TEMPORARY_PREFIX = ".writing-"
DEFAULT_MAX_BYTES = 20 * 2**30
CHECKSUMS = "crc32"  # name of the metadata that holds them
DEAD_AFTER_SECONDS = (
    3600  # writing an entry takes seconds, so a temporary file as old as this belongs to a process that was killed
)


def cache_key(parts: Mapping[str, Any]) -> str:
    """Hexadecimal sha256 of the canonical JSON of `parts`; everything that changes the vectors belongs in there."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def cache_path(cache_dir: str | Path, key: str) -> Path:
    """Where the entry called `key` lies or would lie."""
    return Path(cache_dir) / "vectors" / key[:2] / (key + SUFFIX)


def expected_bytes(*, languages: int, lines: int, layers: int, width: int) -> int:
    """Size on disk of the float32 vectors of one checkpoint, to be announced beforehand; `layers` counts every stored
    state, L + 2."""
    return 4 * languages * lines * layers * width


def store(
    cache_dir: str | Path, key: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> Path | None:
    """Write an entry atomically and return its path; None, and a warning, where the cache cannot be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = cache_path(cache_dir, key)
    try:
        with _temporary(path.parent) as (temporary, mode):
            arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
            checksums = {name: zlib.crc32(array.data) for name, array in arrays.items()}
            save_file(arrays, temporary, metadata={**metadata, CHECKSUMS: json.dumps(checksums)})
            with open(temporary, "rb") as file:  # safetensors has put another file there, which only its owner may read
                os.chmod(temporary, mode)
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        logger.warning("%s", unwritable(cache_dir, error))
        return None
    return path


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[tuple[Path, int]]:
    """A new empty file in `folder`, which is made, and the rights that the umask leaves it; removed unless it was
    renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        yield path, mode
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def why_unwritable(cache_dir: str | Path) -> OSError | None:
    """What keeps this process from writing entries; None where it can."""
    try:
        with _temporary(Path(cache_dir) / "vectors"):
            return None
    except OSError as error:
        return error


def unwritable(cache_dir: str | Path, error: Exception) -> str:
    """What is done about it, for the user."""
    reason = error.strerror if isinstance(error, OSError) else error
    return (
        f"{cache_dir}: the vector cache cannot be written ({reason}); sentence vectors stay in memory, --cache-dir "
        "names another place"
    )


class Entry:
    """An open entry. The file is memory-mapped: only the tensors that are asked for are read, and they stay readable
    when another process evicts the file."""

    def __init__(self, path: Path, file: Any):
        self._path, self._file = path, file
        self._checksums: dict[str, int] = json.loads(self.metadata()[CHECKSUMS])

    def metadata(self) -> dict[str, str]:
        return self._file.metadata() or {}

    def keys(self) -> list[str]:
        return list(self._file.keys())

    def get_tensor(self, name: str) -> np.ndarray:
        """Raises InputError for a tensor that is not what was stored; the entry is removed, so that the next run makes
        it again."""
        tensor = self._file.get_tensor(name)
        if zlib.crc32(np.ascontiguousarray(tensor).data) != self._checksums.get(name):
            with contextlib.suppress(OSError):
                self._path.unlink()
            raise InputError(
                f"{self._path}: was damaged after it was written (its checksum is not the recorded one) and has been "
                "removed; "
                "give the same command again, it will be made anew"
            )
        return tensor


def open_entry(cache_dir: str | Path, key: str) -> Entry | None:
    """The entry called `key`, or None where there is none that this user may read. A damaged one is removed."""
    from safetensors import SafetensorError, safe_open

    path = cache_path(cache_dir, key)
    if os.path.exists(path) and not os.access(path, os.R_OK):
        logger.warning(
            "%s: holds entries of other users that cannot be read here; their sentences are encoded again", cache_dir
        )
        return None
    try:
        entry = Entry(path, safe_open(str(path), framework="numpy"))
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, KeyError, ValueError):
        with contextlib.suppress(OSError):  # of somebody else, perhaps; a new entry replaces it
            path.unlink()
        return None
    with contextlib.suppress(OSError):  # evicted meanwhile, or of somebody else; what is open stays readable
        os.utime(path)  # last use, for `prune`
    return entry


def prune(cache_dir: str | Path, max_bytes: int = DEFAULT_MAX_BYTES, keep: Collection[Path] = ()) -> list[Path]:
    """Delete the entries used longest ago until the cache fits `max_bytes`; never those in `keep`. Returns what was
    deleted.

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
        except OSError:  # evicted by another process meanwhile
            continue
        if os.access(path, os.R_OK):  # what cannot be read is somebody else's to remove
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
