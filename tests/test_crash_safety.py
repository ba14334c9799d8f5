"""Crash safety: a kill at every operation on a file, at random moments and by Ctrl-C, and what several processes do to
one folder.

Work is killed in forked children of one fresh process with one thread (`fresh`), which imports everything once; a
process that runs pytest has threads of other tests, and forking it is not safe. Folders lie in memory where that is
possible: a killed process loses nothing that it has written, on whatever file system, and 200 kills need not wait for a
disk.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.commands import LINES, environment, write_corpus
from helpers.kills import Operations, exit_code, fork_child, forked
from helpers.run_directories import assert_equal, example_result

from alignx_eval.engine import vector_cache
from alignx_eval.errors import InputError
from alignx_eval.files import atomic_write
from alignx_eval.run_directory import RunDirectory

pytestmark = pytest.mark.slow


def killed_at(kill_at: int, work: Callable[[Path], object], folder: Path) -> None:
    """`work(folder)`, killed before its operation `kill_at`. Undisturbed, every file of the folder got its name in a
    counted way."""
    before = {path for path in folder.rglob("*") if path.is_file()}
    operations = Operations(kill_at)
    work(folder)
    for path in folder.rglob("*"):
        new = path.is_file() and path not in before and path.name != ".lock"
        assert not new or str(path) in operations.named, f"{path} was written in a way that is not counted"


def enumerate_kills(
    work: Callable[[Path], object],
    check: Callable[[Path], object],
    contents: Callable[[Path], object],
    start: Path,
    memory: Path,
) -> int:
    """Kill `work(folder)` before each of its operations in turn, `folder` being a copy of `start` each time. Returns
    how many there are.

    After each kill `check(folder)`, then `work(folder)` again, after which `contents(folder)` is as if nothing had
    happened.
    """
    undisturbed = memory / "undisturbed"
    shutil.copytree(start, undisturbed)
    assert forked(work, undisturbed) == 0
    expected = contents(undisturbed)
    kill_at = 0
    while True:
        folder = memory / f"killed-{kill_at}"
        shutil.copytree(start, folder)
        code = forked(killed_at, kill_at, work, folder)
        assert code in (0, -signal.SIGKILL), f"operation {kill_at}: exit code {code}"
        check(folder)
        assert forked(work, folder) == 0, f"operation {kill_at}: it does not go on"
        assert contents(folder) == expected, f"operation {kill_at}"
        shutil.rmtree(folder)
        if code == 0:
            return kill_at
        kill_at += 1


# What a run directory holds
TIMES = ("started", "resumed", "seconds")


def run_contents(run: Path) -> dict[str, Any]:
    """Everything in a run directory, without times, in a form that can be compared."""
    directory = RunDirectory.read(run)
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    results = {
        (label, suite): result for label in directory.labels() for suite, result in directory.results(label).items()
    }
    items = {
        (*place, name): (items.kind, items.point, items.values.dtype.str, items.values.shape, items.values.tobytes())
        for place, result in results.items()
        for name, items in result.items.items()
    }
    samples = run / "samples.jsonl"
    return {
        "manifest": {name: value for name, value in directory.manifest.items() if name not in TIMES},
        "rows": document["rows"],
        "suites": [{name: value for name, value in entry.items() if name not in TIMES} for entry in document["suites"]],
        "items": items,
        "pairs": {place: result.extras.get("pairs") for place, result in results.items()},
        "samples": [json.loads(line) for line in samples.read_text(encoding="utf-8").split("\n") if line]
        if samples.exists()
        else None,
        "files": sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()),
    }


def check_run(run: Path) -> dict[tuple[str, str], str]:
    """A run directory as a kill leaves it: whole files under final names, all of it readable. Returns the key of each
    complete suite."""
    if not run.exists() or not any(not entry.name.startswith(".") for entry in run.iterdir()):
        return {}
    assert json.loads((run / "manifest.json").read_text(encoding="utf-8"))["format"] == "alignx-eval run"
    for path in run.glob("items/*.safetensors"):
        from safetensors.numpy import load_file

        load_file(path)
    if (run / "samples.jsonl").exists():
        assert (run / "samples.jsonl").read_bytes()[-1:] in (b"", b"\n")
    if not (run / "results.json").exists():
        with pytest.raises(InputError, match="holds no finished results"):
            RunDirectory.read(run)
        return {}
    directory = RunDirectory.read(run)
    return {
        (label, suite): directory.key_and_options(label, suite)[0]
        for label in directory.labels()
        for suite in directory.results(label)
    }


# The measurements of `store_results`, in its order, and those that an earlier run left: one under another key, and one
# under the same key, but without samples and with other digits.
MEASUREMENTS = {
    ("a", "layers"): ("new", {"seed": 1}),
    ("a", "translation"): ("same", {"seed": 2, "samples": 2, "pairs": False}),
    ("b", "layers"): ("new", {"seed": 3, "samples": 1}),
}


EARLIER = {
    ("a", "layers"): ("old", {"seed": 11, "samples": 4}),
    ("a", "translation"): ("same", {"seed": 12, "samples": 0, "pairs": True}),
}


def store_results(folder: Path) -> None:
    directory = RunDirectory(folder / "run")
    with directory.lock():
        directory.write_manifest({"status": "running"})
        for (label, suite), (key, options) in MEASUREMENTS.items():
            if not directory.is_done(label, suite, key):
                directory.save(label, key, example_result(label, suite, **options))
        directory.write_manifest({"status": "complete"})


def check_results(folder: Path) -> None:
    """Each measurement is the old one or the new one, whole."""
    keys = check_run(folder / "run")
    if (folder / "started-with-results").exists():
        assert set(EARLIER) <= set(keys)
    for (label, suite), key in keys.items():
        result = RunDirectory.read(folder / "run").load(label, suite)
        known = [
            kind[label, suite]
            for kind in (EARLIER, MEASUREMENTS)
            if (label, suite) in kind and kind[label, suite][0] == key
        ]
        seeds = [
            options["seed"]
            for _, options in known
            if result.rows == example_result(label, suite, **options).rows
            and len(result.samples) == options.get("samples", 3)
        ]
        assert len(seeds) == 1, "neither the old state nor the new one"
        assert_equal(
            result, example_result(label, suite, **next(options for _, options in known if options["seed"] == seeds[0]))
        )


def results_contents(folder: Path) -> dict[str, Any]:
    return run_contents(folder / "run")


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "replacing"])
def test_results_survive_a_kill_at_every_operation(fresh, memory, tmp_path, earlier):
    start = tmp_path / "start"
    start.mkdir()
    if earlier:
        (start / "started-with-results").touch()
        directory = RunDirectory(start / "run")
        directory.write_manifest({"status": "complete"})
        for (label, suite), (key, options) in EARLIER.items():
            directory.save(label, key, example_result(label, suite, **options), samples=options["samples"] > 0)
    place = memory / f"results-{earlier}"
    place.mkdir()
    count = fresh(enumerate_kills, store_results, check_results, results_contents, start, place)
    assert count > 80
    kept = results_contents(place / "undisturbed")
    names = {
        ".lock",
        "manifest.json",
        "results.json",
        "samples.jsonl",
        "pairs.parquet",
        *(entry["items_file"] for entry in kept["suites"]),
    }
    assert set(kept["files"]) == names and len(names) == 5 + 3  # nothing is left of earlier measurements
    assert len(kept["samples"]) == 3 + 2 + 1


# The vector cache
KEYS = [vector_cache.cache_key({"entry": number}) for number in range(4)]


CAP = 7000  # bytes: two of the entries below


def vectors_of(key: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(int(key[:8], 16))
    return {"0": generator.random((8, 96), np.float32), "token_counts": generator.integers(1, 9, 8)}


def assert_whole(entry: Any, key: str) -> None:
    for name, values in vectors_of(key).items():
        np.testing.assert_array_equal(entry.get_tensor(name), values)


def fill_cache(folder: Path) -> None:
    """The first two entries through the cache, as encoding does it, then back under the cap."""
    for key in KEYS[:2]:
        if vector_cache.open_entry(folder, key) is None:
            vector_cache.store(folder, key, vectors_of(key), {"layers": "[]"})
    vector_cache.prune(folder, CAP, keep={vector_cache.cache_path(folder, key) for key in KEYS[:2]})


def cache_contents(folder: Path) -> dict[str, Any]:
    """Metadata and tensors of each entry, by file name. (The order of metadata in a file is safetensors' own, not
    always the same.)"""
    from safetensors import safe_open

    contents = {}
    for path in folder.rglob("*.safetensors"):
        with safe_open(str(path), framework="numpy") as entry:
            contents[path.name] = entry.metadata(), {name: entry.get_tensor(name).tobytes() for name in entry.keys()}
    return contents


def check_cache(folder: Path) -> None:
    assert set(cache_contents(folder)) <= {vector_cache.cache_path(folder, key).name for key in KEYS}
    for key in KEYS:
        path = vector_cache.cache_path(folder, key)
        if path.exists():
            entry = vector_cache.open_entry(folder, key)
            assert entry is not None, "a damaged entry under a final name"
            assert_whole(entry, key)


def test_vector_cache_survives_a_kill_at_every_operation(fresh, memory, tmp_path):
    start = tmp_path / "start"
    for number in (2, 3):  # of an earlier run, to be evicted
        os.utime(vector_cache.store(start, KEYS[number], vectors_of(KEYS[number]), {}), (number, number))
    place = memory / "cache"
    place.mkdir()
    count = fresh(enumerate_kills, fill_cache, check_cache, cache_contents, start, place)
    assert count > 10
    assert set(cache_contents(place / "undisturbed")) == {vector_cache.cache_path(place, key).name for key in KEYS[:2]}


def test_a_torn_cache_entry_is_detected_wherever_it_is_cut(tmp_path):
    """A file system may lose the end of a file that was not flushed; no cut passes for an entry."""
    path = vector_cache.store(tmp_path, KEYS[0], {"0": np.arange(12, dtype=np.float32)}, {"layers": "[]"})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert vector_cache.open_entry(tmp_path, KEYS[0]) is None, length
        assert not path.exists()


def test_temporary_files_of_killed_writers_leave_the_cache(fresh, tmp_path):
    assert fresh(kill_within_store, tmp_path) == -signal.SIGKILL
    (left_over,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left_over.suffix != vector_cache.SUFFIX and left_over.stat().st_size > 0
    vector_cache.prune(tmp_path, CAP)
    assert left_over.exists()  # its process may be alive
    hours_ago = left_over.stat().st_mtime - 2 * vector_cache.DEAD_AFTER_SECONDS
    os.utime(left_over, (hours_ago, hours_ago))
    vector_cache.prune(tmp_path, CAP)
    assert not left_over.exists()


def kill_within_store(folder: Path) -> int:
    def work(_: Path) -> None:
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        vector_cache.store(folder, KEYS[0], vectors_of(KEYS[0]), {})

    return forked(work, folder)


def test_a_cache_that_cannot_be_written_is_one_line_and_done_without(tmp_path, caplog):
    (tmp_path / "file").write_text("x")
    assert vector_cache.store(tmp_path / "file", KEYS[0], vectors_of(KEYS[0]), {}) is None
    (message,) = [record.getMessage() for record in caplog.records]
    assert "--cache-dir" in message and "in memory" in message and "\n" not in message


def write_and_prune_for_ever(folder: Path) -> None:
    while True:
        for key in KEYS:
            vector_cache.store(folder, key, vectors_of(key), {})
            vector_cache.prune(folder, CAP)


def read_whole_entries(folder: Path) -> None:
    """Until 300 entries were read; a file under a final name that cannot be read is an error, a missing one is not."""
    from safetensors import safe_open

    found = 0
    while found < 300:
        for key in KEYS:
            with contextlib.suppress(FileNotFoundError):
                assert_whole(safe_open(str(vector_cache.cache_path(folder, key)), framework="numpy"), key)
            entry = vector_cache.open_entry(folder, key)
            if entry is not None:
                assert_whole(entry, key)
                found += 1


def readers_beside_a_writer(folder: Path) -> list[int]:
    """Exit codes of two readers, and of the writer that stores and evicts until they are done."""
    import safetensors.numpy  # noqa: F401  once, before forking

    writer, *readers = (
        fork_child(work, folder) for work in (write_and_prune_for_ever, read_whole_entries, read_whole_entries)
    )
    codes = [exit_code(reader) for reader in readers]
    os.kill(writer, signal.SIGKILL)
    return [*codes, exit_code(writer)]


def test_readers_of_a_shared_cache_never_see_a_torn_entry(fresh, memory):
    assert fresh(readers_beside_a_writer, memory / "shared") == [0, 0, -signal.SIGKILL]


# Single files
REPORTS = {
    "report.html": "<html>" + "x" * 5000,
    "summary.md": "# Näher\n" * 100,
    "new/rows.csv": "metric,value\n" * 100,
}


def write_reports(folder: Path) -> None:
    for name, text in REPORTS.items():
        atomic_write(folder / name, text)


def report_contents(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text(encoding="utf-8") for name in REPORTS}


def check_reports(folder: Path) -> None:
    for name, text in REPORTS.items():
        if (folder / name).exists() or name != "new/rows.csv":
            assert (folder / name).read_text(encoding="utf-8") in (text, "old")


def test_report_files_survive_a_kill_at_every_operation(fresh, memory, tmp_path):
    start = tmp_path / "start"
    start.mkdir()
    for name in ("report.html", "summary.md"):
        (start / name).write_text("old")
    place = memory / "reports"
    place.mkdir()
    count = fresh(enumerate_kills, write_reports, check_reports, report_contents, start, place)
    assert count > 15


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    atomic_write(path, "old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, "new")
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


# Random kills
def checkpoint_files(folder: Path) -> None:
    """a.pt and b.pt with random weights, and the corpus `text`."""
    from helpers.models import tiny_model, tiny_tokenizer

    from alignx_eval.checkpoint import write_checkpoint

    for seed, name in enumerate("ab"):
        write_checkpoint(
            folder / f"{name}.pt",
            model=tiny_model(seed, max_position_embeddings=512),
            tokenizer=tiny_tokenizer(),
            stage="pretrain",
            step=1,
            prompt_template="plain",
            heads=None,
            recipe={},
            provenance={},
        )
    write_corpus(folder / "text", {code: LINES[code][:6] for code in ("eng_Latn", "deu_Latn")})


def kill_at_random(
    work: Callable[[Path], object],
    check: Callable[[Path], object],
    contents: Callable[[Path], object],
    place: Path,
    kills: int,
) -> dict[str, int]:
    """Kill `work(folder)` at random moments until `kills` were delivered; a folder is gone on with until its work is
    finished.

    Each finished folder holds what an undisturbed one does. Returns how many were killed, and how many folders were
    finished.
    """
    import tqdm

    tqdm.tqdm.monitor_interval = 0  # no thread in a process that forks
    tqdm.tqdm.set_lock(
        threading.RLock()
    )  # not its own, which forked processes share: one that is killed would never give it back
    undisturbed = place / "undisturbed"
    undisturbed.mkdir()
    with contextlib.suppress(SystemExit):
        work(undisturbed)  # here, for all that it imports, so that the children spend their time on work
    expected = contents(undisturbed)
    gc.freeze()
    durations = []
    for number in range(2):
        timed = place / f"timed-{number}"
        timed.mkdir()
        started = time.perf_counter()
        assert forked(work, timed) == 0
        durations.append(time.perf_counter() - started)
        assert contents(timed) == expected
    moments = random.Random(0)
    delivered = finished = 0
    while True:
        folder = place / f"trial-{finished}"
        folder.mkdir(exist_ok=True)
        child = fork_child(work, folder)
        moment = time.perf_counter() + moments.uniform(0, min(durations))
        ended = 0
        while delivered < kills and not ended and time.perf_counter() < moment:
            time.sleep(0.001)
            ended, status = os.waitpid(child, os.WNOHANG)
        if delivered < kills and not ended:
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(status) if ended else exit_code(child)
        assert code in (0, -signal.SIGKILL), f"after {delivered} kills: exit code {code}"
        check(folder)
        if code == 0:
            finished += 1
            assert contents(folder) == expected, f"after {delivered} kills"
            shutil.rmtree(folder)
            if delivered == kills:
                return {"kills": delivered, "finished": finished}
        else:
            delivered += 1


def check_run_and_cache(folder: Path) -> None:
    check_run(folder / "run")
    whole = cache_contents(folder.parent / "undisturbed" / "cache")
    for name, data in cache_contents(folder / "cache").items():
        assert data == whole[name]


def run_and_cache_contents(folder: Path) -> dict[str, Any]:
    return {**run_contents(folder / "run"), "cache": cache_contents(folder / "cache")}


def random_kills_of_a_small_run(place: Path, kills: int) -> dict[str, int]:
    from helpers.engines import evaluate

    from alignx_eval.checkpoint import open_checkpoint
    from alignx_eval.corpora import load_corpus
    from alignx_eval.suites.table import Options

    checkpoint_files(place)
    checkpoints = [open_checkpoint(str(place / f"{name}.pt")) for name in "ab"]
    corpus = load_corpus(str(place / "text"))
    suites = ("layers", "language_modelling")

    def work(folder: Path) -> None:
        directory = RunDirectory(folder / "run")
        with directory.lock():
            directory.write_manifest({"status": "running"})
            for checkpoint in checkpoints:
                evaluate(checkpoint, corpus, suites, Options(cache_dir=str(folder / "cache")), directory=directory)
            directory.write_manifest({"status": "complete"})

    return kill_at_random(work, check_run_and_cache, run_and_cache_contents, place, kills)


def test_200_random_kills_of_a_small_run_end_as_if_undisturbed(fresh, memory):
    place = memory / "small"
    place.mkdir()
    counts = fresh(random_kills_of_a_small_run, place, 200)
    assert counts["kills"] == 200


ALL_SUITES = "layers,language_id,language_modelling,translation,tasks"


def command_line(folder: Path, *arguments: str) -> None:
    """`alignx-eval ARGUMENTS` in `folder`, in this process; what it prints goes to the files `out` and `err` there."""
    import alignx_eval.cli

    os.chdir(folder)
    sys.argv = ["alignx-eval", *arguments]
    with open("out", "w", encoding="utf-8") as out, open("err", "w", encoding="utf-8") as err:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            alignx_eval.cli.main()


def compare_all_suites(place: Path) -> list[str]:
    """Arguments that compare the checkpoints in `place` on 4 lines; run directory, cache and table lie in the current
    folder."""
    sources = [str(place / f"{name}.pt") for name in "ab"]
    text = [
        "--corpus",
        str(place / "text"),
        "--limit",
        "4",
        "--suites",
        ALL_SUITES,
        "--tasks",
        "interface_choice_deu_Latn",
    ]
    return ["compare", *sources, *text, "--out", "run", "--cache-dir", "cache", "-o", "rows.csv"]


def run_all_suites(folder: Path) -> None:
    command_line(folder, *compare_all_suites(folder.parent))


def full_contents(folder: Path) -> dict[str, Any]:
    files = {name: (folder / name).read_text(encoding="utf-8") for name in ("rows.csv", "run/summary.md")}
    assert json.loads((folder / "run" / "manifest.json").read_text())["status"] == "complete"
    return {**run_and_cache_contents(folder), **files}


def random_kills_of_the_command_line(place: Path, kills: int) -> dict[str, int]:
    checkpoint_files(place)
    return kill_at_random(run_all_suites, check_run_and_cache, full_contents, place, kills)


@pytest.fixture(scope="module")
def full(fresh, memory) -> tuple[Path, dict[str, int]]:
    """Where `compare a.pt b.pt` with all suites was killed 10 times, and the counts; its folder `undisturbed` is
    left."""
    place = memory / "full"
    place.mkdir()
    return place, fresh(random_kills_of_the_command_line, place, 10)


def test_10_random_kills_of_all_suites_end_as_if_undisturbed(full):
    place, counts = full
    assert counts["kills"] == 10
    assert {row["suite"] for row in full_contents(place / "undisturbed")["rows"]} == set(ALL_SUITES.split(","))


def kill_at_the_first_manifest(folder: Path) -> None:
    replace = os.replace

    def replace_and_die(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).name == "manifest.json":
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_and_die  # type: ignore[assignment]
    run_all_suites(folder)


def test_a_finished_run_that_is_resumed_and_killed_can_still_be_reported(fresh, full):
    place, _ = full
    folder = place / "again"
    shutil.copytree(place / "undisturbed", folder)
    assert fresh(forked, kill_at_the_first_manifest, folder) == -signal.SIGKILL
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    assert manifest["status"] == "running"
    assert (manifest["base"], manifest["candidates"], list(manifest["checkpoints"])) == ("a", ["b"], ["a", "b"])
    (folder / "rows.csv").unlink()
    assert fresh(forked, command_line, folder, "report", "run", "-o", "rows.csv") == 0
    assert (folder / "rows.csv").read_bytes() == (place / "undisturbed" / "rows.csv").read_bytes()
    assert fresh(forked, run_all_suites, folder) == 0
    assert full_contents(folder) == full_contents(place / "undisturbed")


# Ctrl-C
def heed_interrupts() -> None:
    """A job in the background of a shell script inherits an ignored SIGINT, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupted_comparison_ends_with_130_and_goes_on(fresh, full):
    """SIGINT comes as soon as one suite of the first checkpoint is stored, so in the middle of measuring."""
    place, _ = full
    folder = place / "interrupted"
    folder.mkdir()
    command = [sys.executable, "-m", "alignx_eval", *compare_all_suites(place)]
    with open(folder / "err", "w", encoding="utf-8") as err:
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=err, env=environment(), preexec_fn=heed_interrupts
        )
    while not (folder / "run" / "results.json").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    lines = (folder / "err").read_text(encoding="utf-8").splitlines()
    assert process.returncode == 130 and out == b"", lines
    remarks, last = lines[:-1], lines[-1]
    assert last == "interrupted; the same command goes on where it was"
    assert all(line.startswith(("run directory: ", "a: ", "b: opened")) for line in remarks), remarks
    assert RunDirectory.read(folder / "run").labels() == ["a"]
    check_run_and_cache(folder)
    assert not list(folder.rglob("*.tmp")) and not list(folder.rglob(f"{vector_cache.TEMPORARY_PREFIX}*"))

    assert fresh(forked, run_all_suites, folder) == 0
    assert "a: layers was done before" in (folder / "err").read_text(encoding="utf-8")
    assert full_contents(folder) == full_contents(place / "undisturbed")


# Two writers
def test_a_second_writer_is_refused_and_its_turn_keeps_what_the_first_wrote(fresh, full, tmp_path):
    place, _ = full
    folder = place / "two"
    (folder / "run").mkdir(parents=True)
    first, second = RunDirectory(folder / "run"), RunDirectory(folder / "run")
    with first.lock():
        assert fresh(forked, run_all_suites, folder) == 2
        assert (folder / "err").read_text(encoding="utf-8").splitlines() == [
            "error: run: another process is writing there; wait for it or choose another --out"
        ]
        first.save("a", "k", example_result("a"))
    with second.lock():
        second.save("b", "k", example_result("b"))
    both = RunDirectory.read(folder / "run")
    assert both.labels() == ["a", "b"]
    for label in "ab":
        assert_equal(both.load(label, "layers"), example_result(label))


def test_results_without_a_manifest_of_the_caller_can_be_read(tmp_path):
    RunDirectory(tmp_path / "run").save("a", "k", example_result("a"))
    assert_equal(RunDirectory.read(tmp_path / "run").load("a", "layers"), example_result("a"))


def test_a_folder_that_cannot_be_locked_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"), RunDirectory(tmp_path / "file" / "run").lock():
        pass
