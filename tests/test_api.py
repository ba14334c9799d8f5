"""The library: the same numbers as the commands, lazily loaded, with one clear error for wrong input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import LINES, environment, write_corpus
from helpers.models import tiny_model, tiny_tokenizer

import alignx_eval as ax
from alignx_eval.checkpoint import write_checkpoint
from alignx_eval.pipeline import Remarks

ROOT = Path(ax.__file__).resolve().parent.parent
SUITES = ["layers", "language_modelling"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    write_corpus(folder / "text", LINES)
    for seed, name in enumerate(("a", "b")):
        write_checkpoint(
            folder / f"{name}.pt", model=tiny_model(seed), tokenizer=tiny_tokenizer(), stage="pretrain", step=seed,
            prompt_template="plain", heads=None, recipe={}, provenance={},
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def comparison(place: Path) -> ax.Comparison:
    return ax.compare(place / "a.pt", place / "b.pt", corpus=str(place / "text"), suites=SUITES, out=place / "run")


def test_the_same_as_the_command(place: Path, comparison: ax.Comparison):
    command = [
        "compare",
        "a.pt",
        "b.pt",
        "--corpus",
        "text",
        "--suites",
        ",".join(SUITES),
        "-o",
        "rows.json",
        "--out",
        "own",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "alignx_eval", *command, "--quiet"],
        cwd=place, env=environment() | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads((place / "rows.json").read_text())
    ours = json.loads(ax_text(ax.judge(comparison), place / "ours.json"))
    assert ours["comparison_rows"] == told["comparison_rows"] and ours["headlines"] == told["headlines"]
    assert ours["verdict"] == told["verdict"] and ours["findings"] == told["findings"]


def ax_text(report: ax.Report, path: Path) -> str:
    ax.save(report, path)
    return path.read_text(encoding="utf-8")


def test_what_is_measured_is_not_measured_again(place: Path, comparison: ax.Comparison):
    told: list[str] = []
    again = ax.compare(
        place / "a.pt",
        place / "b.pt",
        corpus=str(place / "text"),
        suites=SUITES,
        out=place / "run",
        progress=Remarks(told.append),
    )
    assert again.rows == comparison.rows and sum("was done before" in line for line in told) == 2 * len(SUITES)


def test_from_disk_without_a_model(place: Path, comparison: ax.Comparison):
    run = ax.read_run(place / "run")
    assert run.comparison().rows == comparison.rows
    assert run.report().verdict == ax.judge(comparison).verdict
    assert set(run.results()) == {"a", "b"} and set(run.results()["a"]) == set(SUITES)
    command = run.directory.manifest["command"]
    assert command.startswith("alignx-eval compare ") and f"--suites {','.join(SUITES)}" in command


def test_open_checkpoints_and_text(place: Path, comparison: ax.Comparison):
    corpus = ax.load_corpus(str(place / "text"))
    results = ax.measure(ax.open_checkpoint(str(place / "a.pt")), corpus, suites=SUITES, out=place / "alone")
    assert list(results) == SUITES
    values = {row.key: row.value for row in comparison.results["a"]["language_modelling"].rows}
    assert {row.key: row.value for row in results["language_modelling"].rows} == values
    assert ax.read_run(place / "alone").comparison().candidates == []


def test_a_table_of_the_rows(comparison: ax.Comparison):
    table = comparison.to_frame()
    assert len(table) == len(comparison.rows) and list(table.key) == [row.key for row in comparison.rows]
    bits = table[(table.metric == "bits_per_byte") & table.language.notna()]
    assert len(bits) == len(LINES) and bits.n.eq(12).all()
    assert table.difference.dtype == float
    rows = comparison.results["a"]["language_modelling"]
    assert list(rows.to_frame().value) == [row.value for row in rows.rows]


def test_judging_by_a_policy_of_ones_own(place: Path, comparison: ax.Comparison):
    (place / "gate.yaml").write_text(
        "format: alignx-eval gate policy\nversion: 1\nmin_n: 5\nrules:\n"
        "- {suite: language_modelling, metric: bits_per_byte, tolerance: 9}\n"
    )
    report = ax.judge(comparison, place / "gate.yaml", enforced=True)
    assert report.verdict.enforced and report.verdict.policy_name.endswith("gate.yaml")
    assert {row.row.metric for row in report.verdict.candidates[0].rows} == {"bits_per_byte"}
    assert ax.judge(comparison, report.verdict.policy).verdict.outcome == report.verdict.outcome
    with pytest.raises(ax.InputError, match="against the control"):
        ax.judge(comparison, ax.Policy.model_validate({**report.verdict.policy.model_dump(), "against": "control"}))


@pytest.mark.parametrize("name", ["r.html", "r.json", "r.md", "r.csv", "r.junit.xml"])
def test_saving_in_every_format(comparison: ax.Comparison, tmp_path: Path, name: str):
    text = ax_text(ax.judge(comparison), tmp_path / name)
    assert "bits" in text
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"suits": ["layers"]}, "unknown option 'suits'; did you mean suites?"),
        ({"limit": "12"}, "option limit: a whole number is needed, not '12'"),
        ({"limit": 0}, "option limit: at least 1 is needed, not 0"),
        ({"seed": True}, "option seed: a whole number is needed, not True"),
        ({"suites": 5}, "option suites: a list or comma-separated text is needed, not 5"),
        ({"suites": ["layers", 5]}, "option suites: a list of texts is needed, not 5"),
        ({"corpus": 5}, "option corpus: text is needed, not 5"),
        ({"samples": "no"}, "option samples: true or false is needed, not 'no'"),
        ({"gate": True}, "option gate: belongs to the command"),
        ({"languages": ["de", "xx_none"]}, "xx_none"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(place: Path, options: dict, told: str):
    with pytest.raises(ax.InputError) as error:
        ax.compare(place / "a.pt", place / "b.pt", **options)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_wrong_references_are_told(place: Path, tmp_path: Path):
    with pytest.raises(ax.InputError, match="at least one candidate"):
        ax.compare(place / "a.pt")
    with pytest.raises(ax.InputError, match="nowhere"):
        ax.compare(tmp_path / "nowhere.pt", place / "a.pt", out=tmp_path / "run")
    with pytest.raises(ax.InputError):
        ax.read_run(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []


def test_nothing_heavy_is_loaded_before_it_is_asked_for():
    program = (
        "import sys, alignx_eval as ax\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'pydantic', 'scipy', 'typer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert set(ax.__all__) <= set(dir(ax))\n"
        "ax.METRICS['bleu'], ax.InputError\n"
        "assert not heavy & set(sys.modules)\n"
        "print(*(type(getattr(ax, name)).__name__ for name in ax.__all__))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ax.nothing


def test_help_loads_neither_torch_nor_numpy():
    program = (
        "import sys\nsys.argv = ['alignx-eval', '--help']\nfrom alignx_eval.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'scipy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_example_runs(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "examples" / "first_look.py"), "look"],
        cwd=tmp_path, env=environment() | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Retrieval of translations" in done.stdout and "precision@1" in done.stdout
    assert (tmp_path / "look" / "report.html").stat().st_size > 10_000


def test_the_page_on_the_library_names_what_there_is():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = set(ax.__all__) - {"Checkpoint", "Comparison", "Metric", "ParallelCorpus", "Report", "Run"}
    for name in shown:
        assert f"ax.{name}" in page or f"`{name}`" in page, name


def test_warnings_and_log_lines_are_those_of_the_program(place: Path):
    program = (
        "import logging, sys, warnings, alignx_eval as ax\n"
        "before = list(warnings.filters), logging.getLogger().level\n"
        f"ax.measure({str(place / 'a.pt')!r}, corpus={str(place / 'text')!r}, suites=['language_modelling'], out='w')\n"
        "added = [each for each in warnings.filters if each not in before[0]]\n"
        "assert not [each for each in added if each[0] == 'ignore' and each[2] is Warning and each[1] is None], added\n"
        "assert logging.getLogger().level == before[1]\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=place, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
