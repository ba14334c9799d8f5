"""Files: written whole or not at all, one writer at a time, JSON without NaN. The one home of that."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from alignx_eval.errors import InputError

logger = logging.getLogger(__name__)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` as a whole or not at all: temporary file in the same folder, fsync, rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:  # also KeyboardInterrupt
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
        raise
    with contextlib.suppress(OSError):  # the rename itself becomes durable with the folder; not every file system can
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to `folder`, which is made. The lock goes with the process, whatever ends it.

    A file system without locks (some network file systems) is warned about, and there is no protection then. Raises
    InputError where the lock is taken or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _open_lock(folder / ".lock")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no such locks on Windows
            pass
        except BlockingIOError as error:
            raise InputError(
                f"{folder}: another process is writing there; wait for it or choose another --out"
            ) from error
        except OSError as error:
            logger.warning(
                "%s: this file system has no locks (%s); let no other process write there meanwhile",
                folder,
                error.strerror,
            )
        yield


def _open_lock(path: Path) -> IO[str]:
    """The file of a lock, made where it is missing. That of another user can be locked without being written."""
    try:
        return open(path, "a", encoding="ascii")
    except PermissionError:
        return open(path, encoding="ascii")


def dump_json(value: Any, what: str, indent: int | None = None) -> str:
    """Strict JSON on one line. numpy scalars become numbers; NaN, infinity and other objects are refused with
    ValueError."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain, indent=indent)
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair has no UTF-8 form; escaped it survives
            text = json.dumps(value, default=_plain, indent=indent)
        return text
    except (ValueError, TypeError) as error:
        raise ValueError(f"{what}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not plain JSON")


def refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def follow_umask(folder: Path) -> None:
    """Give the files of `folder` the mode of any new file there: safetensors writes its own for the owner alone."""
    probe = folder / f".{os.getpid()}.mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(mode)


def check_file(what: str, path: Path) -> None:
    """Raise InputError where a file cannot be written: found out before hours of work. `what` names the option."""
    if path.is_dir():
        raise InputError(f"{what}: is a folder, a file name is needed")
    check_folder(what, path.absolute().parent)


def check_folder(what: str, folder: Path) -> None:
    """Raise InputError where `folder` is not there and cannot be made, or cannot be written to."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{what}: {folder} is a file, a folder is needed")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{what}: the folder {folder} cannot be written to")
