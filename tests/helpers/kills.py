"""Processes that are killed at every operation on a file."""

from __future__ import annotations

import builtins
import faulthandler
import io
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest


# Processes
@pytest.fixture(scope="module")
def fresh() -> Iterator[Callable[..., Any]]:
    """`fresh(function, *arguments)` calls a function of this module in the fresh process; what it raises is raised
    here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"):
            patch.setenv(name, "1")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            yield lambda function, *arguments: pool.submit(function, *arguments).result()


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder, in memory where the system has a place for that."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


def fork_child(function: Callable[..., object], *arguments: object) -> int:
    """Process number of a forked child that calls `function`."""
    child = os.fork()
    if child == 0:
        code = 1
        faulthandler.dump_traceback_later(600, exit=True)  # a child that hangs says where
        try:
            function(*arguments)
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    """Exit code of a child when it has ended: 0, 1 for an exception, its own, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def forked(function: Callable[..., object], *arguments: object) -> int:
    """Exit code of a forked child that calls `function`."""
    return exit_code(fork_child(function, *arguments))


# Every operation on a file
class Operations:
    """Counts this process's operations on files, and ends it by SIGKILL before operation `kill_at` (None: never).

    The state after an operation is the state before the next one. Each write is two operations, one for each half of
    its bytes, which reach the file at once. `written` holds the bytes that went through here, by path; a file that is
    renamed with any other size was written in a way that is not counted, and ends the process with 97.
    """

    def __init__(self, kill_at: int | None):
        self.kill_at, self.count = kill_at, 0
        self.written: dict[str, int] = {}
        self.named: set[str] = set()  # files that got their final name here
        for name in (
            "mkdir",
            "rmdir",
            "unlink",
            "remove",
            "fsync",
            "fdatasync",
            "utime",
            "truncate",
            "ftruncate",
            "link",
            "symlink",
        ):
            setattr(os, name, self.counted(getattr(os, name)))
        for name in ("replace", "rename"):
            setattr(os, name, self.renaming(getattr(os, name)))
        os.open = self.opening_number(os.open)
        builtins.open = io.open = self.opening(builtins.open)  # type: ignore[assignment]
        import safetensors.numpy

        safetensors.numpy.save_file = self.saving(safetensors.numpy.save_file)

    def before(self, half_done: Callable[[], object] | None = None) -> None:
        if self.count == self.kill_at:
            if half_done is not None:
                half_done()
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.before()
            return operation(*arguments, **options)

        return call

    def renaming(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(source: Any, target: Any) -> None:
            if os.stat(source).st_size != self.written.pop(os.fspath(source), None):
                os._exit(97)
            self.before()
            operation(source, target)
            self.named.add(os.fspath(target))

        return call

    def opening_number(self, operation: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                self.before()
            return operation(path, flags, *arguments, **options)

        return call

    def opening(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+"):
                return operation(path, mode, *arguments, **options)
            self.before()
            return CountedFile(self, os.fspath(path), operation(path, mode, *arguments, **options))

        return call

    def saving(self, operation: Callable[..., None]) -> Callable[..., None]:
        """safetensors writes by itself; a kill within that leaves a part of the file."""

        def call(tensors: Any, path: Any, metadata: Any = None) -> None:
            self.before()
            operation(tensors, path, metadata=metadata)
            size = os.stat(path).st_size
            self.before(half_done=lambda: Path(path).write_bytes(Path(path).read_bytes()[: size // 2]))
            self.written[os.fspath(path)] = size

        return call


class CountedFile:
    """A file opened for writing whose writes and flushes are counted."""

    def __init__(self, operations: Operations, path: str, file: Any):
        self.operations, self.path, self.file = operations, path, file
        operations.written[path] = 0

    def write(self, data: Any) -> int:
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            self.operations.before()
            self.file.write(part)
            self.file.flush()
            self.operations.written[self.path] += len(part)
        return len(data)

    def flush(self) -> None:
        self.operations.before()
        self.file.flush()

    def __enter__(self) -> CountedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        assert not name.startswith("write"), f"{name} is not counted"
        return getattr(self.file, name)
