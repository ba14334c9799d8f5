"""As on a cluster or in a container: no home folder, no locks, a cache that several users share, results that may only
be read."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.models import tiny_model, tiny_tokenizer

from alignx_eval.engine import vector_cache
from alignx_eval.errors import InputError
from alignx_eval.run_directory import RunDirectory

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
STRANGER = "54321"  # a number that no entry of /etc/passwd has
another_user = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root, to run as another user",
)
SMALL = ("--suites", "layers,language_modelling", "--limit", "4", "--languages", "en,de")


def alignx(*arguments: object, cwd: Path, stranger: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
    """`alignx-eval` with no variables but those named; `stranger`: as a user who may read everything, and write what
    everybody may."""
    as_stranger = ["setpriv", "--reuid", STRANGER, "--regid", STRANGER, "--clear-groups"]
    as_stranger += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    command = [*(as_stranger if stranger else []), sys.executable, "-m", "alignx_eval", *map(str, arguments)]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "trainer")]),
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a.pt and b.pt where everybody may write; pytest's own are for their owner alone."""
    from alignx_eval.checkpoint import write_checkpoint

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        for seed, file in enumerate(("a.pt", "b.pt")):
            write_checkpoint(
                folder / file,
                model=tiny_model(seed, max_position_embeddings=1024),
                tokenizer=tiny_tokenizer(),
                stage="align",
                step=1,
                prompt_template="plain",
                heads=None,
                recipe={},
                provenance={},
            )
        yield folder


@another_user
def test_no_home_folder_is_said_and_worked_around(place):
    (place / "temporary").mkdir(mode=0o777)
    (place / "temporary").chmod(0o777)
    done = alignx("run", "a.pt", *SMALL, "--out", "run", cwd=place, stranger=True, TMPDIR=str(place / "temporary"))
    assert done.returncode == 0, done.stderr
    folder = place / "temporary" / f"alignx-eval-{STRANGER}"
    assert done.stderr.count("no home folder") == 1 and str(folder) in done.stderr
    assert list((folder / ".cache" / "alignx-eval").rglob("*.safetensors"))
    assert not (place / "~").exists()


@another_user
def test_a_home_folder_that_cannot_be_written_is_worked_around(place):
    (place / "home").mkdir(mode=0o755)
    done = alignx("run", "a.pt", *SMALL, "--out", "run", cwd=place, stranger=True, HOME=str(place / "home"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("vector cache cannot be written (Permission denied)") == 1 and "in memory" in done.stderr


def test_without_a_home_folder_a_temporary_one_is_taken(monkeypatch, capsys, tmp_path):
    import pwd

    from alignx_eval.environment import default_cache_dir, ensure_home

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "ALIGNX_EVAL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["alignx-eval", "ls"])
    monkeypatch.setenv("LOGNAME", "x")
    monkeypatch.setenv("HOME", "placeholder")  # so that what is set below is undone
    monkeypatch.delenv("HOME")
    ensure_home()
    assert Path(default_cache_dir()).is_relative_to(tmp_path) and capsys.readouterr().err.count("no home folder") == 1


WITHOUT_LOCKS = """
    import errno, fcntl, os, sys
    def flock(*_):
        raise OSError(errno.{error}, os.strerror(errno.{error}))
    fcntl.flock = flock
    from alignx_{which}.cli import main
    main()
"""


@pytest.mark.parametrize("error", ["ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_said_once_and_worked_on(place, error):
    program = textwrap.dedent(WITHOUT_LOCKS.format(error=error, which="eval"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "trainer")])}
    suites = ("--suites", "language_modelling", *SMALL[2:])
    for arguments in (["run", "a.pt", *suites, "--out", "run"], ["report", "run"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=place, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("this file system has no locks") == 1


def test_the_trainer_works_on_a_file_system_without_locks(place, monkeypatch, caplog):
    import errno
    import fcntl

    from alignx_trainer.training import sole_writer

    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with sole_writer(place / "training"):
        (place / "training" / "state.pt").write_bytes(b"")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    monkeypatch.undo()
    with sole_writer(place / "training"):
        with pytest.raises(InputError, match="another process is writing there"), sole_writer(place / "training"):
            pass


def vectors() -> dict[str, np.ndarray]:
    return {"0": np.arange(8, dtype=np.float32)}


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_cache_entries_have_the_rights_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        path = vector_cache.store(tmp_path / "cache", "0" * 64, vectors(), {})
    finally:
        os.umask(before)
    assert path is not None and stat.S_IMODE(path.stat().st_mode) == mode
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


@another_user
def test_a_cache_of_another_user_is_read_where_it_can_be_and_left_alone(place):
    made = alignx("run", "a.pt", *SMALL, "--out", "mine", "--cache-dir", "cache", cwd=place)
    assert made.returncode == 0, made.stderr
    entries = {path: path.stat().st_ino for path in (place / "cache").rglob("*.safetensors")}
    assert len(entries) == 2
    done = alignx(
        "compare", "a.pt", "b.pt", *SMALL, "--out", "theirs", "--cache-dir", "cache", cwd=place, stranger=True
    )
    assert done.returncode == 0, done.stderr
    assert (
        "b: layers" in done.stderr and done.stderr.count("the vector cache cannot be written (Permission denied)") == 1
    )
    assert {path: path.stat().st_ino for path in (place / "cache").rglob("*.safetensors")} == entries


@another_user
def test_an_entry_that_cannot_be_read_is_neither_deleted_nor_fatal(place):
    """A child of this process gives up its rights; what it needs is imported before."""
    import safetensors.numpy  # noqa: F401

    path = vector_cache.store(place / "cache", "0" * 64, vectors(), {})
    assert path is not None
    path.chmod(0o600)
    for folder in (place / "cache", *path.parents[:2]):
        folder.chmod(0o777)  # deleting would be possible
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(int(STRANGER))
            os.setuid(int(STRANGER))
            unread = vector_cache.open_entry(place / "cache", "0" * 64) is None
            vector_cache.prune(place / "cache", 0)
            code = 0 if unread and path.exists() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.exists() and path.stat().st_uid == 0


@another_user
def test_results_that_may_only_be_read_can_be_reported_on(place):
    assert alignx("compare", "a.pt", "b.pt", *SMALL, "--out", "run", "--cache-dir", "cache", cwd=place).returncode == 0
    before = {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()}
    done = alignx("report", "run", "-o", "rows.csv", cwd=place, stranger=True, HOME="/tmp")
    assert done.returncode == 0, done.stderr
    assert (
        (place / "rows.csv").stat().st_size > 0
        and "run: cannot be written to" in done.stderr
        and "Report" not in done.stdout
    )
    assert {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()} == before
    done = alignx("compare", "run#a", "run#b", "--out", "theirs", cwd=place, stranger=True, HOME="/tmp")
    assert done.returncode == 0 and RunDirectory.read(place / "theirs").labels() == ["a", "b"]


@another_user
def test_a_lock_that_another_user_left_does_not_lock_anybody_out(place):
    (place / "run").mkdir()
    (place / "run" / ".lock").write_text("")
    (place / "run" / ".lock").chmod(0o644)
    (place / "run").chmod(0o777)
    done = alignx(
        "run",
        "a.pt",
        "--suites",
        "language_modelling",
        *SMALL[2:],
        "--out",
        "run",
        cwd=place,
        stranger=True,
        HOME="/tmp",
    )
    assert done.returncode == 0, done.stderr
