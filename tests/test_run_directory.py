"""Run directories: exact round trips, atomic and resumable writing, and one clear line for whatever is not a run
directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.run_directories import assert_equal, example_result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignx_eval.errors import InputError
from alignx_eval.files import atomic_write
from alignx_eval.results import Items, Row, SuiteResult
from alignx_eval.run_directory import RunDirectory, suite_key


def saved(path: Path, **options) -> RunDirectory:
    directory = RunDirectory(path)
    directory.write_manifest({"base": "base"})
    directory.save("base", "k1", example_result(**options))
    return directory


def test_what_is_read_is_what_was_written(tmp_path):
    directory = saved(tmp_path / "run")
    directory.save("base", "k2", example_result(suite="translation", seed=1, pairs=False))
    directory.save("other (2)", "k3", example_result("other (2)", seed=2))
    again = RunDirectory.read(tmp_path / "run")
    assert again.labels() == ["base", "other (2)"]
    assert_equal(again.load("base", "layers"), example_result())
    assert_equal(again.load("base", "translation"), example_result(suite="translation", seed=1, pairs=False))
    assert_equal(again.load("other (2)", "layers"), example_result("other (2)", seed=2))
    assert (
        again.is_done("base", "layers", "k1")
        and not again.is_done("base", "layers", "k2")
        and not again.is_done("base", "tasks", "k1")
    )


@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    text=st.text(max_size=20),
    label=st.text(min_size=1, max_size=12),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_number_text_and_label_survive(tmp_path_factory, value, text, label):
    result = SuiteResult(
        suite="layers",
        rows=[Row(suite="layers", metric="m", checkpoint=label, value=value, n=1, method=text)],
        items={"layers/m": Items(kind="mean", values=np.array([value]))},
        samples=[{"output": text}],
    )
    path = tmp_path_factory.mktemp("run")
    directory = RunDirectory(path)
    directory.write_manifest({})
    directory.save(label, "k", result)
    assert_equal(RunDirectory.read(path).load(label, "layers"), result)


def test_results_json_is_tidy_and_strict(tmp_path):
    saved(tmp_path)
    document = json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert document["schema_version"] == 1
    assert len(document["rows"]) == 7 and set(document["rows"][0]) >= {
        "suite",
        "metric",
        "checkpoint",
        "layer",
        "value",
        "reason",
    }
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [line["checkpoint"] for line in lines] == ["base"] * 3
    assert not list(tmp_path.rglob("*.pkl")) and not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused_everywhere(tmp_path, bad):
    directory = saved(tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    row = Row(suite="layers", metric="m", checkpoint="base", value=bad, n=1)
    finite = Row(suite="layers", metric="m", checkpoint="base", value=0.0, n=1)
    for result in (
        SuiteResult("layers", [row]),
        SuiteResult("layers", [finite], items={"i": Items(kind="mean", values=np.array([0.0, bad]))}),
        SuiteResult("layers", [finite], items={"i": Items(kind="jackknife", values=np.zeros(2), point=bad)}),
        SuiteResult("layers", [finite], samples=[{"score": bad}]),
        SuiteResult("layers", [finite], extras={"map": [[bad]]}),
        SuiteResult("layers", [finite], fingerprint={"x": np.float64(bad)}),
    ):
        with pytest.raises(ValueError):
            directory.save("base", "k9", result)
    assert (tmp_path / "results.json").read_bytes() == before
    assert_equal(RunDirectory.read(tmp_path).load("base", "layers"), example_result())


def test_undefined_needs_a_reason_and_rows_belong_to_their_suite(tmp_path):
    directory = saved(tmp_path)
    with pytest.raises(ValueError, match="no reason"):
        directory.save(
            "base", "k", SuiteResult("layers", [Row(suite="layers", metric="m", checkpoint="base", value=None, n=0)])
        )
    with pytest.raises(ValueError, match="belongs"):
        directory.save(
            "base", "k", SuiteResult("layers", [Row(suite="layers", metric="m", checkpoint="other", value=0.0, n=0)])
        )


def test_measuring_again_replaces_and_leaves_nothing_behind(tmp_path):
    directory = saved(tmp_path)
    directory.save("base", "k2", example_result(seed=9, samples=1))
    again = RunDirectory.read(tmp_path)
    assert_equal(again.load("base", "layers"), example_result(seed=9, samples=1))
    assert len(list((tmp_path / "items").iterdir())) == 1
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 1


def test_without_samples_counts_as_done_only_where_none_are_wanted(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.write_manifest({})
    directory.save("base", "k", example_result(), samples=False)
    assert not (tmp_path / "samples.jsonl").exists()
    assert directory.is_done("base", "layers", "k", samples=False) and not directory.is_done(
        "base", "layers", "k", samples=True
    )
    directory.save("base", "k", example_result())
    assert_equal(RunDirectory.read(tmp_path).load("base", "layers"), example_result())


def test_key_depends_on_all_that_decides_a_number():
    reference = {"label": "a", "content_hash": "h", "suite": "layers", "options": {"seed": 0, "pooling": "mean"}}
    key = suite_key(**reference)
    assert key == suite_key(**{**reference, "options": {"pooling": "mean", "seed": 0}})
    for change in (
        {"label": "b"},
        {"content_hash": "g"},
        {"suite": "tasks"},
        {"options": {"seed": 1, "pooling": "mean"}},
    ):
        assert suite_key(**{**reference, **change}) != key


def damage_half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


DAMAGES = {
    "half results": lambda run: damage_half(run / "results.json"),
    "empty results": lambda run: (run / "results.json").write_text(""),
    "half manifest": lambda run: damage_half(run / "manifest.json"),
    "half items": lambda run: damage_half(next((run / "items").iterdir())),
    "changed items": lambda run: (p := next((run / "items").iterdir())).write_bytes(p.read_bytes()[:-1] + b"\x01"),
    "missing items": lambda run: next((run / "items").iterdir()).unlink(),
    "half samples": lambda run: damage_half(run / "samples.jsonl"),
    "fewer samples": lambda run: (p := run / "samples.jsonl").write_text("\n".join(p.read_text().split("\n")[1:])),
    "missing samples": lambda run: (run / "samples.jsonl").unlink(),
    "half pairs": lambda run: damage_half(run / "pairs.parquet"),
    "missing pairs": lambda run: (run / "pairs.parquet").unlink(),
    "other schema": lambda run: (p := run / "results.json").write_text(
        p.read_text().replace('"schema_version": 1', '"schema_version": 99')
    ),
    "foreign json": lambda run: (run / "results.json").write_text('{"results": {}, "config": {}}'),
    "json list": lambda run: (run / "results.json").write_text("[]"),
    "NaN": lambda run: (p := run / "results.json").write_text(p.read_text().replace('"se": 0.1', '"se": NaN')),
    "unknown column": lambda run: (p := run / "results.json").write_text(
        p.read_text().replace('"se": 0.1', '"sem": 0.1')
    ),
    "row of nobody": lambda run: (p := run / "results.json").write_text(
        p.read_text().replace('"suite": "layers", "metric"', '"suite": "x", "metric"')
    ),
    "not utf-8": lambda run: (run / "results.json").write_bytes(b"\xff\xfe{}"),
    "only a manifest": lambda run: (run / "results.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_foreign_and_other_schema_is_one_line(tmp_path, damage):
    run = tmp_path / "run"
    saved(run)
    DAMAGES[damage](run)
    with pytest.raises(InputError) as error:
        RunDirectory.read(run).load("base", "layers")
    assert "\n" not in str(error.value) and str(run) in str(error.value)


def test_places_that_are_no_run_directory(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        RunDirectory.read(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        RunDirectory(tmp_path / "file")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_text("x")
    with pytest.raises(InputError, match="not a run directory"):
        RunDirectory(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    assert RunDirectory(tmp_path / "empty").labels() == []


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    atomic_write(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_two_processes_do_not_write_to_one_directory(tmp_path):
    directory = saved(tmp_path)
    program = f"from alignx_eval.run_directory import RunDirectory\nwith RunDirectory({str(tmp_path)!r}).lock(): pass"
    with directory.lock():
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode != 0 and "another process is writing" in done.stderr
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
