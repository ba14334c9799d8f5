"""The command line as a user meets it: exit codes, one line per error, streams, resuming, and whole comparisons of tiny
checkpoints."""

from __future__ import annotations

import csv
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import LINES, call, environment, write_corpus
from helpers.models import tiny_model, tiny_tokenizer

from alignx_eval.errors import InputError
from alignx_eval.results import SuiteResult
from alignx_eval.run_directory import RunDirectory


def alignx(*arguments: object, cwd: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alignx_eval", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", cwd=cwd, env=environment(**changes)
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with two checkpoints, a.pt and b.pt, and the corpus `text` of 12 lines in 3 languages."""
    from alignx_eval.checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("cli")
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
            provenance={"align_layer": 1} if name == "b" else {},
        )
    write_corpus(folder / "text", LINES)
    return folder


@pytest.fixture(scope="module")
def identical(place) -> subprocess.CompletedProcess[str]:
    """`compare a.pt a.pt` with four suites."""
    return alignx(
        "compare",
        "a.pt",
        "a.pt",
        "--corpus",
        "text",
        "--suites",
        "layers,language_id,language_modelling,translation",
        "--out",
        "identical",
        "--cache-dir",
        "cache",
        "-o",
        "rows.json",
        "-o",
        "rows.csv",
        "-o",
        "summary.md",
        "-o",
        "page.html",
        cwd=place,
    )


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
        "heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'matplotlib', 'pandas', 'pyarrow', 'lm_eval', "
        "'datasets', 'sacrebleu'}\n"
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
        assert not arguments or len(err.splitlines()) == 1 and err.startswith("error: ") and " -h`" in err


def test_train_command_has_the_same_exit_codes(monkeypatch, capsys):
    from alignx_trainer import cli

    for arguments, code in ((["--nonsense"], 2), (["train"], 2), (["nosuchrecipe"], 2), (["--help"], 0)):
        monkeypatch.setattr(sys, "argv", ["alignx-train", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        assert stopped.value.code == code and "Traceback" not in captured.err and "unexpected" not in captured.err


def test_missing_from_the_hub_cache_is_6(place, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    result = call(
        monkeypatch,
        capsys,
        "run",
        "nobody/nothing",
        "--corpus",
        "text",
        "--suites",
        "layers",
        "--out",
        tmp_path / "out",
        "--quiet",
    )
    assert_one_line(result, 6, "nobody/nothing")


def test_unexpected_errors_are_one_line_and_1(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr("alignx_eval.corpora.load_corpus", lambda *_: 1 / 0)
    code, _, err = call(monkeypatch, capsys, "run", "a.pt")
    assert code == 1 and len(err.splitlines()) == 1 and "ZeroDivisionError" in err and "--debug" in err
    code, _, err = call(monkeypatch, capsys, "run", "a.pt", "--debug")
    assert code == 1 and "Traceback" in err
    # One that the command line's library takes for the end of its own input.
    monkeypatch.setattr("alignx_eval.corpora.load_corpus", lambda *_: pickle.loads(b""))
    code, _, err = call(monkeypatch, capsys, "run", "a.pt")
    assert code == 1 and err.strip().startswith("unexpected error: EOFError: ") and "--debug" in err


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
    assert {"manifest.json", "results.json", "samples.jsonl", "report.html", "summary.md"} <= {
        entry.name for entry in run.iterdir()
    }
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
        manifest["status"] == "complete"
        and manifest["base"] == "a"
        and manifest["candidates"] == ["a (2)"]
        and manifest["control"] is None
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
    assert LINES["deu_Latn"][0] in report.decode() and LINES["deu_Latn"][0] not in (run / "report.html").read_text(
        encoding="utf-8"
    )


def test_run_then_compare_from_disk(place, monkeypatch, capsys):
    """Two runs and a comparison of them give what a comparison of the checkpoints gives; a checkpoint beside a run is
    measured like it."""
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
    tables = [
        json.loads((place / target).read_text())["comparison_rows"]
        for target in ("runs.json", "mixed.json", "direct.json")
    ]
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


def manifest_of(run: Path) -> dict:
    return json.loads((run / "manifest.json").read_text(encoding="utf-8"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def own(place, tmp_path, monkeypatch) -> Path:
    """The current folder: a.pt, b.pt and the corpus `text`, to spoil; and a cache of its own."""
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes((place / name).read_bytes())
    write_corpus(tmp_path / "text", LINES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALIGNX_EVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path


SMALL = ("--corpus", "text", "--suites", "language_modelling")


def test_another_command_gets_another_directory_and_the_same_one_resumes(own, monkeypatch, capsys):
    """Text, split, languages, limit, pooling, seed, prompt, dtype and the checkpoints' content: none may overwrite the
    other's results."""
    seen: dict[str, tuple] = {}
    both = ("--corpus", "text", "--suites", "language_modelling,translation,language_id")
    for change in (
        (),
        ("--limit", "11"),
        ("--languages", "en,de"),
        ("--seed", "1"),
        ("--pooling", "last"),
        ("--template", "alpaca"),
        ("--dtype", "bfloat16"),
    ):
        code, _, err = call(monkeypatch, capsys, "run", "a.pt", *both, *change)
        assert code == 0, err
        directory = next(line for line in err.splitlines() if line.startswith("run directory: ")).removeprefix(
            "run directory: "
        )
        assert directory not in seen and directory.startswith("alignx-runs/a-"), change
        seen[directory] = change
    before = {directory: files_of(own / directory) for directory in seen}
    assert "was done before" in call(monkeypatch, capsys, "run", "a.pt", *both)[2]
    assert len(list((own / "alignx-runs").iterdir())) == len(seen)
    (own / "a.pt").write_bytes((own / "b.pt").read_bytes())  # training went on
    assert "was done before" not in call(monkeypatch, capsys, "run", "a.pt", *both)[2]
    assert len(list((own / "alignx-runs").iterdir())) == len(seen) + 1
    for directory, files in before.items():
        assert files["results.json"] == (own / directory / "results.json").read_bytes()
    identity = manifest_of(own / list(seen)[1])["identity"]
    assert (identity["limit"], identity["lines"], identity["corpus"]) == (11, 11, "text")
    assert identity["checkpoints"][0]["name"] == "a" and identity["languages"] == ["deu_Latn", "eng_Latn", "rus_Cyrl"]


def test_out_of_another_identity_is_refused_and_left_as_it_is(own, monkeypatch, capsys):
    assert call(monkeypatch, capsys, "run", "a.pt", *SMALL, "--out", "run")[0] == 0
    before = files_of(own / "run")
    for arguments, parts in (
        (("run", "a.pt", *SMALL, "--limit", "5"), ["limit is not given there and 5 here", "alignx-runs/a-"]),
        (
            ("run", "a.pt", *SMALL, "--languages", "de"),
            ["languages is deu_Latn,eng_Latn,rus_Cyrl there and deu_Latn here"],
        ),
        (("run", "b.pt", *SMALL), ["its checkpoints are a, here they are b"]),
        (("compare", "run", "b.pt"), ["its checkpoints are a, here they are a, b"]),  # the input is the output
    ):
        assert_one_line(
            call(monkeypatch, capsys, *arguments, "--out", "run", "--quiet"), 2, "results of another run", *parts
        )
    (own / "a.pt").write_bytes((own / "b.pt").read_bytes())
    assert_one_line(call(monkeypatch, capsys, "run", "a.pt", *SMALL, "--out", "run", "--quiet"), 2, "content of a is ")
    assert files_of(own / "run") == before


def test_suites_add_to_a_directory_and_its_report_shows_all_of_it(own, monkeypatch, capsys):
    pair = ("compare", "a.pt", "b.pt", "--corpus", "text", "--out", "run")
    assert call(monkeypatch, capsys, *pair, "--suites", "layers,language_modelling", "-o", "all.json")[0] == 0
    before, similarity = manifest_of(own / "run"), (own / "run" / "layer_similarity.json").read_bytes()
    code, _, err = call(monkeypatch, capsys, *pair, "--suites", "language_modelling", "-o", "one.json")
    assert code == 0 and "was done before" in err
    assert {row["suite"] for row in json.loads((own / "one.json").read_text())["comparison_rows"]} == {
        "language_modelling"
    }
    assert (own / "run" / "layer_similarity.json").read_bytes() == similarity
    assert (
        manifest_of(own / "run")["options"]["suites"] == before["options"]["suites"] == ["layers", "language_modelling"]
    )
    html = (own / "run" / "report.html").read_text(encoding="utf-8")
    assert "precision_at_1" in html or "precision@1" in html
    assert call(monkeypatch, capsys, *pair, "--suites", "language_id")[0] == 0
    assert manifest_of(own / "run")["options"]["suites"] == ["layers", "language_id", "language_modelling"]
    assert call(monkeypatch, capsys, "report", "run", "-o", "again.json")[0] == 0
    rows = json.loads((own / "again.json").read_text())["comparison_rows"]
    assert {row["suite"] for row in rows} == {"layers", "language_id", "language_modelling"}
    kept = [row for row in rows if row["suite"] == "layers"]
    assert kept == [
        row for row in json.loads((own / "all.json").read_text())["comparison_rows"] if row["suite"] == "layers"
    ]


def test_tasks_add_to_a_directory(own, monkeypatch, capsys):
    def tasks(out: str) -> set:
        return {row.language for row in RunDirectory.read(own / out).load("a", "tasks").rows if row.language}

    common = ("run", "a.pt", "--suites", "tasks", "--limit", "4", "--out", "run", "--tasks")
    assert call(monkeypatch, capsys, *common, "interface_choice_deu_Latn")[0] == 0
    assert call(monkeypatch, capsys, *common, "interface_choice_tur_Latn")[0] == 0
    assert tasks("run") == {"deu_Latn", "tur_Latn"}
    assert manifest_of(own / "run")["options"]["tasks"] == ["interface_choice_deu_Latn", "interface_choice_tur_Latn"]
    code, _, err = call(monkeypatch, capsys, *common, "interface_choice_deu_Latn")
    assert code == 0 and "tasks was done before" in err and tasks("run") == {"deu_Latn", "tur_Latn"}


def outdate(run: Path, suite: str = "language_modelling", version: int | None = 1) -> None:
    """Make the results of a suite those of an earlier measuring version, or of a time that knew none."""
    document = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for entry in document["suites"]:
        if entry["suite"] == suite:
            entry["key"] = "0" * 16  # which it is part of
            entry["fingerprint"].pop("measuring_version")
            entry["fingerprint"] |= {} if version is None else {"measuring_version": version}
    (run / "results.json").write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("version", [1, None])
def test_results_of_an_older_measuring_version_are_never_read(own, monkeypatch, capsys, version):
    """Wherever results come in: one line, exit code 5, and the command that makes them anew; which does."""
    for name in "ab":
        assert call(monkeypatch, capsys, "run", f"{name}.pt", *SMALL, "--out", name)[0] == 0
    assert call(monkeypatch, capsys, "compare", "a.pt", "b.pt", *SMALL, "--out", "pair")[0] == 0
    outdate(own / "a", version=version)
    outdate(own / "pair", version=version)
    again = "measure again: alignx-eval run a.pt --corpus text --suites language_modelling --out a"
    for arguments, told in (
        (("compare", "a", "b"), again),
        (("compare", "a", "b.pt"), again),
        (("report", "a"), again),
        (("bless", "a"), again),
        (("gate", "a", "--baseline", "none.json"), "none.json"),
        (("report", "pair"), "measure again: alignx-eval compare a.pt b.pt"),
        (("gate", "pair"), "measure again: alignx-eval compare a.pt b.pt"),
    ):
        code = 2 if "none.json" in told else 5
        assert_one_line(
            call(monkeypatch, capsys, *arguments, *(["--quiet"] if arguments[0] != "bless" else [])), code, told
        )
    assert not (own / "alignx-runs").exists() and not (own / "alignx-baseline.json").exists()
    code, _, err = call(monkeypatch, capsys, *again.split()[3:])
    assert code == 0, err
    assert call(monkeypatch, capsys, "compare", "a", "b", "--quiet")[0] == 0


def test_results_of_an_older_measuring_version_are_measured_again(own, monkeypatch, capsys):
    monkeypatch.setattr(
        "alignx_eval.suites.table.MEASURING_VERSIONS", dict.fromkeys(["language_modelling", "language_id"], 1)
    )
    assert call(monkeypatch, capsys, "run", "a.pt", *SMALL, "--out", "a")[0] == 0
    monkeypatch.undo()
    monkeypatch.chdir(own)
    code, _, err = call(monkeypatch, capsys, "run", "a.pt", *SMALL, "--out", "a")
    assert code == 0 and "was done before" not in err


def test_the_package_version_makes_nothing_incomparable(own, monkeypatch, capsys):
    assert call(monkeypatch, capsys, "run", "a.pt", *SMALL, "--out", "a")[0] == 0
    for module in ("alignx_eval", "alignx_eval.run_directory"):
        monkeypatch.setattr(f"{module}.__version__", "9.9.9")
    assert "was done before" in call(monkeypatch, capsys, "run", "a.pt", *SMALL, "--out", "a")[2]
    code, _, err = call(monkeypatch, capsys, "compare", "a", "b.pt", "--quiet")
    assert code == 0, err
    assert "version" not in RunDirectory.read(own / "a").load("a", "language_modelling").fingerprint


def break_measuring(monkeypatch, after: int = 1) -> list[str]:
    """Measuring of bits per byte fails at the checkpoint after the first `after`; what was measured is in the list."""
    from alignx_eval.suites import language_modelling

    whole, measured = language_modelling.run, []

    def run(checkpoint, *arguments, **named):
        if len(measured) == after:
            raise RuntimeError("the card fell off")
        measured.append(checkpoint.name)
        return whole(checkpoint, *arguments, **named)

    monkeypatch.setattr(language_modelling, "run", run)
    return measured


def damaged(path: Path, target: Path, *, value: float) -> None:
    """A copy of a checkpoint with one weight that is not finite."""
    import torch

    document = torch.load(path, weights_only=True)
    next(iter(document["state_dict"].values())).view(-1)[0] = value
    torch.save(document, target)


def test_what_can_be_known_beforehand_is_told_before_the_first_suite(own, monkeypatch, capsys):
    """A bad candidate after a good base: one line, nothing measured, nothing left behind."""
    damaged(own / "b.pt", own / "nan.pt", value=float("nan"))
    (own / "half.pt").write_bytes((own / "b.pt").read_bytes()[:60_000])
    (own / "folder").mkdir()
    (own / "file").write_text("")
    measured = break_measuring(monkeypatch, after=99)
    before = files_of(own)
    for arguments, code in (
        (("nan.pt", *SMALL), 2),
        (("half.pt", *SMALL), 2),
        (("folder", *SMALL), 2),
        (("nosuch/model", *SMALL), 6),
        (
            ("b.pt", "--corpus", "text", "--languages", "de", "--suites", "language_modelling,language_id"),
            2,
        ),  # a probe needs two
        (("b.pt", *SMALL, "--policy", "nosuch.yaml"), 2),
        (("b.pt", *SMALL, "-o", "file/report.html"), 2),
        (("b.pt", *SMALL, "--out", "file/run"), 2),
        (("b.pt", *SMALL, "--dtype", "int3"), 2),
        (("b.pt", *SMALL, "--device", "cuda:77"), 2),
    ):
        for out in ((), ("--out", "new")):
            if "--out" in arguments and out:
                continue
            assert_one_line(call(monkeypatch, capsys, "compare", "a.pt", *arguments, *out, "--quiet"), code)
    assert (
        not measured and files_of(own) == before and not (own / "new").exists() and not (own / "alignx-runs").exists()
    )


def test_runs_that_do_not_compare_leave_nothing_behind(own, monkeypatch, capsys):
    for name, limit in (("a", "12"), ("b", "11")):
        assert call(monkeypatch, capsys, "run", f"{name}.pt", *SMALL, "--limit", limit, "--out", name)[0] == 0
    for arguments in (("a", "b"), ("a", "b.pt", "--limit", "11")):
        code, out, err = call(monkeypatch, capsys, "compare", *arguments, "--out", "new", "--quiet")
        assert (code, out) == (5, "") and "lines" in err and not (own / "new").exists()


def test_checkpoints_are_opened_once_where_they_fit_and_one_at_a_time_where_not(own, monkeypatch, capsys):
    import alignx_eval.checkpoint as checkpoint

    whole, opened = checkpoint.open_checkpoint, []
    monkeypatch.setattr(
        checkpoint, "open_checkpoint", lambda reference, **rest: opened.append(reference) or whole(reference, **rest)
    )
    assert call(monkeypatch, capsys, "compare", "a.pt", "b.pt", *SMALL, "-o", "fits.json")[0] == 0
    assert opened == ["a.pt", "b.pt"]
    opened.clear()
    monkeypatch.setattr("alignx_eval.pipeline._room", lambda settings: 0.0)
    assert call(monkeypatch, capsys, "compare", "a.pt", "b.pt", *SMALL, "--out", "again", "-o", "not.json")[0] == 0
    assert opened == ["a.pt", "b.pt", "a.pt", "b.pt"]
    tables = [json.loads((own / name).read_text())["comparison_rows"] for name in ("fits.json", "not.json")]
    assert tables[0] == tables[1]


def test_what_fails_while_measuring_keeps_what_is_finished_and_says_so(own, monkeypatch, capsys):
    command = ("compare", "a.pt", "b.pt", *SMALL, "--out", "run")
    with monkeypatch.context() as patch:
        measured = break_measuring(patch)
        code, out, err = call(patch, capsys, *command, "--quiet")
    assert code == 1 and "the card fell off" in err and out == "" and measured == ["a"]
    manifest = manifest_of(own / "run")
    assert (manifest["status"], manifest["reason"]) == ("failed", "RuntimeError: the card fell off")
    assert not (own / "run" / "report.html").exists() and RunDirectory.read(own / "run").labels() == ["a"]
    for arguments in (
        ("gate", "run"),
        ("report", "run"),
        ("bless", "run"),
        ("compare", "run", "b.pt", "--suites", "language_id"),
    ):
        code, out, err = call(monkeypatch, capsys, *arguments)
        assert code == 2 and "the card fell off" in err and "Traceback" not in err, (arguments, err)
    code, _, err = call(monkeypatch, capsys, *command)
    assert code == 0 and "a: language_modelling was done before" in err
    manifest = manifest_of(own / "run")
    assert manifest["status"] == "complete" and "reason" not in manifest and (own / "run" / "report.html").exists()


def test_the_first_start_and_the_time_of_all_sessions_are_kept(own, monkeypatch, capsys):
    command = ("compare", "a.pt", "b.pt", *SMALL, "--out", "run", "--quiet")
    with monkeypatch.context() as patch:
        break_measuring(patch)
        assert call(patch, capsys, *command)[0] == 1
    first = manifest_of(own / "run")
    document = {**first, "started": "2026-01-01T00:00:00Z", "seconds": 1000.0}
    (own / "run" / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    assert call(monkeypatch, capsys, *command)[0] == 0
    second = manifest_of(own / "run")
    assert first["resumed"] == [] and second["started"] == "2026-01-01T00:00:00Z" and len(second["resumed"]) == 1
    assert second["resumed"][0] >= first["started"] and 1000 <= second["seconds"] < 1100


def test_an_option_without_effect_is_refused_with_the_reason(own, monkeypatch, capsys):
    for name in "ab":
        assert call(monkeypatch, capsys, "run", f"{name}.pt", *SMALL, "--out", name)[0] == 0
    before = files_of(own)
    pair = ("compare", "a.pt", "b.pt", "--corpus", "text", "--suites")
    for arguments, parts in (
        ((*pair, "layers", "--tasks", "interface_choice_deu_Latn"), ["--tasks", "only tasks uses it", "layers"]),
        ((*pair, "layers,language_modelling", "--template", "alpaca"), ["--template", "translation"]),
        ((*pair, "language_modelling", "--pooling", "last"), ["--pooling", "layers and language_id"]),
        ((*pair, "language_modelling", "--cache-dir", "cache"), ["--cache-dir", "layers and language_id"]),
        ((*pair, "tasks"), ["--corpus", "language_modelling"]),
        (
            ("run", "a.pt", "--suites", "tasks", "--tasks", "interface_choice_deu_Latn", "--languages", "de"),
            ["--languages", "--tasks"],
        ),
        ((*pair, "language_modelling", "--annotations"), ["--annotations", "--gate"]),
        (("report", "a", "--annotations"), ["--annotations", "one checkpoint"]),
        (("report", "a", "--policy", "gate.yaml"), ["--policy", "one checkpoint"]),
        (("report", "a", "--allow-mismatch", "pooling"), ["--allow-mismatch", "one checkpoint"]),
        *(
            (("compare", "a", "b", f"--{name}", value), [f"--{name}", "nothing is measured"])
            for name, value in (
                ("corpus", "text"),
                ("split", "test"),
                ("languages", "de"),
                ("limit", "5"),
                ("tasks", "x"),
                ("template", "plain"),
                ("pooling", "last"),
                ("device", "cpu"),
                ("dtype", "float32"),
            )
        ),
    ):
        assert_one_line(call(monkeypatch, capsys, *arguments, "--quiet"), 2, *parts)
    assert files_of(own) == before
    from alignx_eval.settings import check_effective, settings_from

    given = {"tasks": "interface_choice_deu_Latn", "quiet": True}  # all suites, the suite `tasks` among them
    check_effective(given, settings_from(given, None), measures=True)


def test_the_window_of_bits_per_byte_is_an_option_and_part_of_the_result(place, tmp_path, monkeypatch, capsys):
    from alignx_eval.engine import score
    from alignx_eval.settings import Settings
    from alignx_eval.suites.table import Options

    monkeypatch.chdir(place)
    common = ("--corpus", "text", "--suites", "language_modelling", "--quiet")
    assert call(monkeypatch, capsys, "run", "a.pt", *common, "--window", "1", "--out", tmp_path / "none")[0] == 2
    for window in ("4", "8"):
        assert call(monkeypatch, capsys, "run", "a.pt", *common, "--window", window, "--out", tmp_path / window)[0] == 0
    fingerprint = RunDirectory.read(tmp_path / "4").results("a")["language_modelling"].fingerprint
    assert fingerprint["window"] == 4
    assert RunDirectory.read(tmp_path / "4").manifest["options"]["window"] == 4
    assert Settings().window == Options().window == score.WINDOW  # one default in three places
    code, _, err = call(
        monkeypatch, capsys, "compare", tmp_path / "4", tmp_path / "8", "--quiet", "--out", tmp_path / "both"
    )
    assert code == 5 and "window" in err
    # Whoever measures beside a run does it in the run's window.
    assert call(monkeypatch, capsys, "compare", tmp_path / "4", "b.pt", "--quiet", "--out", tmp_path / "like")[0] == 0


def test_a_context_that_is_too_short_is_refused_by_language(place, tmp_path, monkeypatch, capsys):
    from alignx_eval.checkpoint import write_checkpoint

    write_checkpoint(
        tmp_path / "short.pt",
        model=tiny_model(max_position_embeddings=16),
        tokenizer=tiny_tokenizer(),
        stage="pretrain",
        step=1,
        prompt_template="plain",
        heads=None,
        recipe={},
        provenance={},
    )
    corpus = write_corpus(tmp_path / "text", {"eng_Latn": ["on"] * 11 + ["The door " * 20], "deu_Latn": ["an"] * 12})
    command = (
        "run",
        tmp_path / "short.pt",
        "--corpus",
        corpus,
        "--suites",
        "language_modelling",
        "--quiet",
        "--out",
        tmp_path / "run",
    )
    result = call(monkeypatch, capsys, *command)
    assert_one_line(result, 2, "short has a context of 16 tokens", "eng_Latn (1 line)", "--languages", "--window 16")
    assert "deu_Latn" not in result[2]
    assert call(monkeypatch, capsys, *command, "--window", "16")[0] == 0


def test_S10_a_suite_without_rows_is_an_error_not_an_empty_result(place, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(place)
    monkeypatch.setattr(
        "alignx_eval.suites.language_modelling.run", lambda *_, **__: SuiteResult("language_modelling", [])
    )
    result = call(
        monkeypatch,
        capsys,
        "run",
        "a.pt",
        "--corpus",
        "text",
        "--suites",
        "language_modelling",
        "--out",
        tmp_path,
        "--quiet",
    )
    assert_one_line(result, 2, "language_modelling")
    with pytest.raises(InputError):
        RunDirectory.read(tmp_path)


def test_config_file_and_command_line(place, tmp_path, monkeypatch, capsys):
    from alignx_eval.settings import settings_from

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


def test_whether_a_gate_was_asked_for_goes_with_the_run_directory(place, monkeypatch, capsys):
    """`compare` alone gives no verdict that anybody asked for; `report` makes of a run directory what its command made
    of it."""
    from alignx_eval.render import console

    seen = []
    render = console.render
    monkeypatch.setattr(console, "render", lambda report, **rest: seen.append(report.verdict) or render(report, **rest))
    monkeypatch.chdir(place)
    common = ("a.pt", "a.pt", "--corpus", "text", "--suites", "language_modelling", "--quiet")
    for out, arguments, enforced in (
        ("ungated", (), False),
        ("gated", ("--gate",), True),
        ("strict", ("--strict",), True),
    ):
        call(monkeypatch, capsys, "compare", *common, "--out", out, *arguments)
        call(monkeypatch, capsys, "report", out, "--quiet")
        assert [verdict.enforced for verdict in seen] == [enforced, enforced]
        call(monkeypatch, capsys, "gate", out, "--quiet")
        assert seen[-1].enforced
        seen.clear()


def test_another_pivot_on_text_without_english(place, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(place)
    write_corpus(tmp_path / "text", {code: LINES[code] for code in ("deu_Latn", "rus_Cyrl")})
    common = ("compare", "a.pt", "b.pt", "--corpus", tmp_path / "text", "--suites", "layers", "--quiet")
    status, _, err = call(monkeypatch, capsys, *common, "--out", tmp_path / "english")
    assert status == 2 and "another --pivot" in err and not (tmp_path / "english").exists()
    rows = tmp_path / "rows.json"
    assert call(monkeypatch, capsys, *common, "--pivot", "de", "--out", tmp_path / "run", "-o", rows)[0] == 0
    pairs = {(row["language"], row["other_language"]) for row in json.loads(rows.read_text())["comparison_rows"]}
    assert {("rus_Cyrl", "deu_Latn"), ("deu_Latn", "rus_Cyrl")} <= pairs
    # It is part of what the run is: the report and a comparison beside it have it, another one is refused.
    assert call(monkeypatch, capsys, "report", tmp_path / "run", "--quiet")[0] == 0
    status, _, err = call(monkeypatch, capsys, *common, "--pivot", "rus_Cyrl", "--out", tmp_path / "run")
    assert status == 2 and "pivot is deu_Latn there and rus_Cyrl here" in err
    beside = (
        "compare",
        f"{tmp_path / 'run'}#a",
        "b.pt",
        "--corpus",
        tmp_path / "text",
        "--suites",
        "layers",
        "--quiet",
    )
    assert call(monkeypatch, capsys, *beside, "--out", tmp_path / "beside")[0] == 0
    manifest = json.loads((tmp_path / "beside" / "manifest.json").read_text())
    assert manifest["options"]["pivot"] == "deu_Latn"
    status, _, err = call(monkeypatch, capsys, "compare", "a.pt", "b.pt", "--suites", "tasks", "--pivot", "de")
    assert status == 2 and "--pivot: only layers and translation use it" in err


def test_the_pivot_is_added_where_a_suite_needs_it_and_said(place, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(place)
    common = ("run", "a.pt", "--corpus", "text", "--languages", "de,ru")
    code, _, err = call(
        monkeypatch, capsys, *common, "--suites", "layers,language_modelling", "--out", tmp_path / "both"
    )
    assert code == 0 and "eng_Latn (English) is added: layers pair every language with it" in err
    both = RunDirectory.read(tmp_path / "both")
    assert {row.other_language for row in both.load("a", "layers").rows} >= {"eng_Latn"}
    # a suite that can do without it is measured on what was asked for
    assert {row.language for row in both.load("a", "language_modelling").rows} == {None, "deu_Latn", "rus_Cyrl"}
    code, _, err = call(monkeypatch, capsys, *common, "--suites", "language_modelling", "--out", tmp_path / "one")
    assert code == 0 and "is added" not in err
    assert (
        RunDirectory.read(tmp_path / "one").load("a", "language_modelling").rows
        == both.load("a", "language_modelling").rows
    )


def test_a_corpus_without_the_pivot_is_refused_with_what_to_do(place, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(place)
    write_corpus(tmp_path / "text", {code: lines for code, lines in LINES.items() if code != "eng_Latn"})
    for languages in ((), ("--languages", "de,ru")):
        result = call(
            monkeypatch,
            capsys,
            "run",
            "a.pt",
            "--corpus",
            tmp_path / "text",
            *languages,
            "--suites",
            "translation",
            "--quiet",
        )
        assert_one_line(
            result, 2, "translation", "eng_Latn (English)", "lacks", "--suites language_id,language_modelling,tasks"
        )
    result = call(monkeypatch, capsys, "run", "a.pt", "--corpus", tmp_path / "text", "--languages", "de,tr", "--quiet")
    assert_one_line(result, 2, "tur_Latn")  # what is wrong with the languages asked for comes first
