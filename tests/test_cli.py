"""The command line as a user meets it: exit codes, one line per error, streams, resuming, and whole comparisons of tiny checkpoints."""

from __future__ import annotations

import csv
import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_model, tiny_tokenizer

import alignx_eval.cli
from alignx_eval.errors import InputError
from alignx_eval.results import SuiteResult
from alignx_eval.run_directory import RunDirectory

ROOT = Path(alignx_eval.__file__).parent.parent
LINES = {
    "eng_Latn": [f"The {thing} is {state}." for thing in ("door", "lamp", "sensor") for state in ("open", "closed", "new", "on")],
    "deu_Latn": [f"{thing} ist {state}." for thing in ("Die Tür", "Die Lampe", "Der Sensor") for state in ("offen", "zu", "neu", "an")],
    "rus_Cyrl": [f"{thing} {state}." for thing in ("Дверь", "Лампа", "Датчик") for state in ("открыто", "закрыто", "новое", "включено")],
}


def environment(**changes: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "trainer"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TERM": "dumb", **changes}


def alignx(*arguments: object, cwd: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alignx_eval", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=cwd, env=environment(**changes))


def write_corpus(folder: Path, lines: dict[str, list[str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for code, sentences in lines.items():
        (folder / f"{code}.txt").write_text("".join(sentence + "\n" for sentence in sentences), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with two checkpoints, a.pt and b.pt, and the corpus `text` of 12 lines in 3 languages."""
    from alignx_eval.checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("cli")
    for seed, name in enumerate("ab"):
        write_checkpoint(
            folder / f"{name}.pt", model=tiny_model(seed), tokenizer=tiny_tokenizer(), stage="pretrain", step=1, prompt_template="plain",
            heads=None, recipe={}, provenance={"align_layer": 1} if name == "b" else {},
        )  # fmt: skip
    write_corpus(folder / "text", LINES)
    return folder


@pytest.fixture(scope="module")
def identical(place) -> subprocess.CompletedProcess[str]:
    """`compare a.pt a.pt` with four suites."""
    return alignx(
        "compare", "a.pt", "a.pt", "--corpus", "text", "--suites", "layers,language_id,language_modelling,translation",
        "--out", "identical", "--cache-dir", "cache", "-o", "rows.json", "-o", "rows.csv", "-o", "summary.md", "-o", "page.html", cwd=place,
    )  # fmt: skip


def call(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """The entry point in this process: exit code, stdout, stderr."""
    level = logging.getLogger().level
    monkeypatch.setattr(sys, "argv", ["alignx-eval", *map(str, arguments)])
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit) as stopped:
        alignx_eval.cli.main()
    logging.getLogger().setLevel(level)
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def assert_one_line(result: tuple[int, str, str], code: int, *parts: str) -> None:
    status, out, err = result
    assert status == code, err
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    for part in parts:
        assert part in lines[0]


def test_help_is_light_and_has_examples():
    program = (
        "import sys; sys.argv = ['alignx-eval', 'compare', '--help']\n"
        "from alignx_eval.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'matplotlib', 'pandas', 'pyarrow', 'lm_eval', 'datasets', 'sacrebleu'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    assert "HEAVY []" in done.stdout
    assert "alignx-eval compare bundled:base bundled:alignx --control bundled:tuned" in done.stdout


@pytest.mark.parametrize("command", ["compare", "run", "report", "ls", "schema"])
def test_every_command_has_examples(monkeypatch, capsys, command):
    code, out, _ = call(monkeypatch, capsys, command, "--help")
    assert code == 0 and "Example" in out and f"alignx-eval {command}" in out


def test_usage_errors_are_2(monkeypatch, capsys):
    for arguments in (
        [],
        ["compare"],
        ["compare", "a.pt"],
        ["compare", "a", "b", "--nonsense"],
        ["nonsense"],
        ["run", "a", "--limit", "0"],
        ["ls", "x"],
    ):
        code, _, err = call(monkeypatch, capsys, *arguments)
        assert code == 2 and "Traceback" not in err


def test_train_command_has_the_same_exit_codes(monkeypatch, capsys):
    from alignx_trainer import cli

    for arguments, code in ((["--nonsense"], 2), (["train"], 2), (["nosuchrecipe"], 2), (["--help"], 0)):
        monkeypatch.setattr(sys, "argv", ["alignx-train", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        assert stopped.value.code == code and "Traceback" not in captured.err and "unexpected" not in captured.err


def test_S13_bad_inputs_end_in_one_line_and_exit_2(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    ran: list[int] = []

    class Payload:
        def __reduce__(self):
            return (ran.append, (1,))

    (tmp_path / "model.pkl").write_bytes(pickle.dumps([Payload()]))
    (tmp_path / "half.pt").write_bytes((place / "a.pt").read_bytes()[:60_000])
    (tmp_path / "photo.pt").write_bytes(b"\x89PNG\r\n\x1a\n")
    uneven = write_corpus(tmp_path / "uneven", {**LINES, "deu_Latn": LINES["deu_Latn"][:-1]})
    empty = write_corpus(tmp_path / "empty", {code: [] for code in LINES})
    (tmp_path / "nothing").mkdir()
    (tmp_path / "bad.yaml").write_text("suits: [layers]\n")
    common = ("--corpus", "text", "--suites", "language_modelling")
    for arguments, parts in (
        (("a.pt", "nowhere.pt", *common), ["nowhere.pt"]),
        (("a.pt", tmp_path / "model.pkl", *common), ["model.pkl", "pickle"]),
        (("a.pt", tmp_path / "half.pt", *common), ["half.pt"]),
        (("a.pt", tmp_path / "photo.pt", *common), ["photo.pt"]),
        (("a.pt", "b.pt", *common, "--languages", "klingon"), ["klingon"]),
        (("a.pt", "b.pt", *common, "--languages", "swh_Latn"), ["swh_Latn"]),
        (("a.pt", "b.pt", *common[2:], "--corpus", uneven), ["uneven", "deu_Latn", "11", "12"]),
        (("a.pt", "b.pt", *common[2:], "--corpus", empty), ["empty"]),
        (("a.pt", "b.pt", *common[2:], "--corpus", tmp_path / "nothing"), ["nothing"]),
        (("a.pt", "b.pt", *common[2:], "--corpus", "nosuch"), ["nosuch", "interface", "udhr"]),
        (("a.pt", "b.pt", *common[:2], "--suites", "layer"), ["layer", "language_id"]),
        (("a.pt", "b.pt", *common, "--pooling", "max"), ["max", "mean"]),
        (("a.pt", "b.pt", *common, "--template", "chatml"), ["chatml", "plain"]),
        (("a.pt", "b.pt", *common, "-o", "report.pdf"), ["report.pdf", ".html"]),
        (("a.pt", "b.pt", *common, "--config", tmp_path / "bad.yaml"), ["suits", "suites"]),
        (("a.pt", "b.pt", *common, "--out", place / "text"), ["text", "run directory"]),
        (("bundled:nonsense", "b.pt", *common), ["bundled:base"]),
    ):
        assert_one_line(call(monkeypatch, capsys, "compare", *arguments), 2, *parts)
    assert not ran, "a pickle was run"
    assert not (place / "alignx-runs").exists(), "a refused input leaves nothing behind"


def test_missing_from_the_hub_cache_is_6(place, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    result = call(
        monkeypatch, capsys, "run", "nobody/nothing", "--corpus", "text", "--suites", "layers", "--out", tmp_path / "out", "--quiet"
    )
    assert_one_line(result, 6, "nobody/nothing")


def test_unexpected_errors_are_one_line_and_1(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr("alignx_eval.corpora.load_corpus", lambda *_: 1 / 0)
    code, _, err = call(monkeypatch, capsys, "run", "a.pt")
    assert code == 1 and len(err.splitlines()) == 1 and "ZeroDivisionError" in err and "--debug" in err
    code, _, err = call(monkeypatch, capsys, "run", "a.pt", "--debug")
    assert code == 1 and "Traceback" in err


def test_S9_identical_checkpoints_differ_nowhere(place, identical):
    assert identical.returncode == 0, identical.stderr
    rows = json.loads((place / "rows.json").read_text())["comparison_rows"]
    assert len(rows) > 100
    assert {row["suite"] for row in rows} == {"layers", "language_id", "language_modelling", "translation"}
    assert {(row["base_name"], row["candidate_name"]) for row in rows} == {("a", "a (2)")}
    for row in rows:
        assert row["difference"] in (0, None), row
        assert row["p"] in (1, None), row
        assert row["verdict"] not in ("better", "worse"), row
        assert row["difference"] is not None or row["reason"], row
    assert any(row["p"] == 1 for row in rows)


def test_outputs_and_streams(place, identical):
    run = place / "identical"
    assert {"manifest.json", "results.json", "samples.jsonl", "report.html", "summary.md"} <= {entry.name for entry in run.iterdir()}
    assert "report.html" in identical.stdout and "a (2)" in identical.stdout
    assert "run directory: identical" in identical.stderr and "\x1b" not in identical.stdout + identical.stderr
    assert "a: layers" in identical.stderr and "run directory" not in identical.stdout
    assert max(len(line) for line in identical.stdout.splitlines() if "/" not in line) <= 80
    with open(place / "rows.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(json.loads((place / "rows.json").read_text())["comparison_rows"])
    assert (place / "page.html").read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    assert (place / "summary.md").read_text(encoding="utf-8").strip()
    manifest = json.loads((run / "manifest.json").read_text())
    assert (
        manifest["status"] == "complete" and manifest["base"] == "a" and manifest["candidates"] == ["a (2)"] and manifest["control"] is None
    )
    assert manifest["corpus"]["lines"] == 12 and set(manifest["checkpoints"]) == {"a", "a (2)"}
    assert manifest["options"]["template"] == "plain" and "torch" in manifest["software"]


def test_report_is_the_same_without_the_model(place, identical, monkeypatch, capsys):
    run = place / "identical"
    report, summary = (run / "report.html").read_bytes(), (run / "summary.md").read_bytes()
    monkeypatch.chdir(place)
    monkeypatch.setattr("alignx_eval.checkpoint.open_checkpoint", None)
    code, out, _ = call(monkeypatch, capsys, "report", "identical", "--quiet", "-o", "again.csv")
    assert code == 0 and "a (2)" in out
    assert (run / "report.html").read_bytes() == report
    assert (run / "summary.md").read_bytes() == summary
    assert (place / "again.csv").read_bytes() == (place / "rows.csv").read_bytes()
    call(monkeypatch, capsys, "report", "identical", "--quiet", "--no-samples")
    assert LINES["deu_Latn"][0] in report.decode() and LINES["deu_Latn"][0] not in (run / "report.html").read_text(encoding="utf-8")


def test_run_then_compare_from_disk(place, monkeypatch, capsys):
    """Two runs and a comparison of them give what a comparison of the checkpoints gives; a checkpoint beside a run is measured like it."""
    monkeypatch.chdir(place)
    options = ("--corpus", "text", "--suites", "language_modelling", "--languages", "de,en", "--no-samples")
    for name in "ab":
        code, out, err = call(monkeypatch, capsys, "run", f"{name}.pt", *options, "--out", f"run-{name}")
        assert code == 0, err
        assert "deu_Latn (German)" in err
    for arguments, target in (
        (("run-a", "run-b"), "runs.json"),
        (("run-a", "b.pt"), "mixed.json"),
        (("a.pt", "b.pt", *options), "direct.json"),
    ):
        code, _, err = call(monkeypatch, capsys, "compare", *arguments, "-o", target, "--out", f"out-{target}")
        assert code == 0, err
    tables = [json.loads((place / target).read_text())["comparison_rows"] for target in ("runs.json", "mixed.json", "direct.json")]
    assert tables[0] == tables[1] == tables[2]
    assert any(row["difference"] for row in tables[0])
    assert not (place / "run-a" / "samples.jsonl").exists()
    # one directory with two checkpoints needs a label
    assert_one_line(call(monkeypatch, capsys, "compare", "out-runs.json", "run-b", "--quiet"), 2, "out-runs.json#b")
    code, _, err = call(monkeypatch, capsys, "compare", "out-runs.json#a", "run-b", "--out", "picked", "--quiet")
    assert code == 0, err
    # measured on other lines: not comparable
    code, _, err = call(monkeypatch, capsys, "compare", "run-a", "b.pt", "--limit", "11", "--out", "shorter", "--quiet")
    assert code == 5 and "lines" in err and "Traceback" not in err


def test_changed_options_and_changed_checkpoints_are_measured_again(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(place)
    checkpoint = tmp_path / "model.pt"
    checkpoint.write_bytes((place / "a.pt").read_bytes())
    arguments = ("run", checkpoint, "--corpus", "text", "--suites", "language_modelling", "--out", tmp_path / "run")
    assert "was done before" not in call(monkeypatch, capsys, *arguments)[2]
    assert "was done before" in call(monkeypatch, capsys, *arguments)[2]
    assert "was done before" not in call(monkeypatch, capsys, *arguments, "--limit", "5")[2]
    checkpoint.write_bytes((place / "b.pt").read_bytes())
    assert "was done before" not in call(monkeypatch, capsys, *arguments, "--limit", "5")[2]


def test_the_window_of_bits_per_byte_is_an_option_and_part_of_the_result(place, tmp_path, monkeypatch, capsys):
    from alignx_eval.cli.options import Settings
    from alignx_eval.evaluate import Options
    from alignx_eval.suites import language_modelling

    monkeypatch.chdir(place)
    common = ("--corpus", "text", "--suites", "language_modelling", "--quiet")
    assert call(monkeypatch, capsys, "run", "a.pt", *common, "--window", "1", "--out", tmp_path / "none")[0] == 2
    for window in ("4", "8"):
        assert call(monkeypatch, capsys, "run", "a.pt", *common, "--window", window, "--out", tmp_path / window)[0] == 0
    fingerprint = RunDirectory.read(tmp_path / "4").results("a")["language_modelling"].fingerprint
    assert fingerprint["window"] == 4
    assert RunDirectory.read(tmp_path / "4").manifest["options"]["window"] == 4
    assert Settings().window == Options().window == language_modelling.WINDOW  # one default in three places
    code, _, err = call(monkeypatch, capsys, "compare", tmp_path / "4", tmp_path / "8", "--quiet", "--out", tmp_path / "both")
    assert code == 5 and "window" in err
    # Whoever measures beside a run does it in the run's window.
    assert call(monkeypatch, capsys, "compare", tmp_path / "4", "b.pt", "--quiet", "--out", tmp_path / "like")[0] == 0


def test_a_context_that_is_too_short_is_refused_by_language(place, tmp_path, monkeypatch, capsys):
    from alignx_eval.checkpoint import write_checkpoint

    write_checkpoint(
        tmp_path / "short.pt", model=tiny_model(max_position_embeddings=16), tokenizer=tiny_tokenizer(), stage="pretrain", step=1,
        prompt_template="plain", heads=None, recipe={}, provenance={},
    )  # fmt: skip
    corpus = write_corpus(tmp_path / "text", {"eng_Latn": ["on"] * 11 + ["The door " * 20], "deu_Latn": ["an"] * 12})
    command = ("run", tmp_path / "short.pt", "--corpus", corpus, "--suites", "language_modelling", "--quiet", "--out", tmp_path / "run")
    result = call(monkeypatch, capsys, *command)
    assert_one_line(result, 2, "short has a context of 16 tokens", "eng_Latn (1 line)", "--languages", "--window 16")
    assert "deu_Latn" not in result[2]
    assert call(monkeypatch, capsys, *command, "--window", "16")[0] == 0


def test_S10_a_suite_without_rows_is_an_error_not_an_empty_result(place, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(place)
    monkeypatch.setattr("alignx_eval.suites.language_modelling.run", lambda *_, **__: SuiteResult("language_modelling", []))
    result = call(monkeypatch, capsys, "run", "a.pt", "--corpus", "text", "--suites", "language_modelling", "--out", tmp_path, "--quiet")
    assert_one_line(result, 2, "language_modelling")
    with pytest.raises(InputError):
        RunDirectory.read(tmp_path)


def test_config_file_and_command_line(place, tmp_path, monkeypatch, capsys):
    from alignx_eval.cli.options import settings_from

    path = tmp_path / "options.yaml"
    path.write_text("suites: [tasks, layers]\nlanguages: de,en\nlimit: 20\nno-samples: true\ncache-dir: somewhere\n")
    settings = settings_from({"limit": 7, "quiet": True}, path, inherited={"limit": 3, "seed": 5})
    assert settings.suites == ("layers", "tasks") and settings.languages == ("deu_Latn", "eng_Latn")
    assert (settings.limit, settings.seed, settings.samples, settings.cache_dir) == (7, 5, False, "somewhere")
    for text in (
        "limit: many\n",
        "limit: true\n",
        "limit: 0\n",
        "window: 1\n",
        "window: half\n",
        "samples: 3\n",
        "suites: 3\n",
        "suites: []\n",
        "- layers\n",
        "a: [\n",
        "languages: []\n",
    ):
        path.write_text(text)
        with pytest.raises(InputError):
            settings_from({"quiet": True}, path)


def test_ls_lists_every_kind(monkeypatch, capsys):
    expected = {
        "languages": "deu_Latn\tGerman\tLatn\tltr\t13a",
        "tasks": "interface_choice",
        "corpora": "interface\ttest",
        "suites": "layers\t",
        "metrics": "bits_per_byte\t",
        "checkpoints": "bundled:alignx\t",
    }
    for kind, text in expected.items():
        code, out, err = call(monkeypatch, capsys, "ls", kind)
        assert code == 0 and text in out and err == ""


def test_schema_describes_a_row(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "schema")
    assert code == 0 and set(json.loads(out)["required"]) == {"suite", "metric", "checkpoint", "value", "n"}
