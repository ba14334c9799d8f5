"""Baselines and the commands `bless` and `gate`, as a user's CI meets them: exit codes, refusals, and one damaged
language."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from helpers.measured import measured

import alignx_eval.cli
from alignx_eval.comparison.compare import compare
from alignx_eval.errors import InputError, NotComparableError
from alignx_eval.judgement import baseline as baselines
from alignx_eval.judgement.gate import judge
from alignx_eval.judgement.policy import DEFAULT_POLICY_YAML, Policy, default_policy
from alignx_eval.judgement.report import report_of
from alignx_eval.run_directory import RunDirectory

LANGUAGES = "eng_Latn,deu_Latn,ell_Grek,rus_Cyrl"
MEASURED = ("--suites", "layers,language_modelling", "--languages", LANGUAGES, "--limit", "150")


def call(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """The entry point in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["alignx-eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        alignx_eval.cli.main()
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return int(stopped.value.code or 0), captured.out, captured.err


def damage(model, tokenizer) -> int:
    """Shuffle the embedding rows of the tokens that only Greek text needs; returns how many."""
    ids = [
        number
        for number in range(len(tokenizer))
        if any("\u0370" <= char <= "\u03ff" for char in tokenizer.decode([number]))
    ]
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[ids] = weight[ids][torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
    return len(ids)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Run directories `base` (bundled:base) and `pair` (bundled:base and damaged.pt, in which Greek is damaged), and a
    blessed baseline."""
    from alignx_eval.checkpoint import open_checkpoint, write_checkpoint

    folder = tmp_path_factory.mktemp("gate")
    checkpoint = open_checkpoint("bundled:base")
    assert damage(checkpoint.model, checkpoint.tokenizer) > 20
    write_checkpoint(
        folder / "damaged.pt", model=checkpoint.model, tokenizer=checkpoint.tokenizer, stage="pretrain", step=1,
        prompt_template=checkpoint.prompt_template, heads=None, recipe={}, provenance={},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALIGNX_EVAL_CACHE", str(folder / "cache"))
        for arguments in (
            ["run", "bundled:base", "--out", folder / "base", *MEASURED],
            ["compare", folder / "base", folder / "damaged.pt", "--out", folder / "pair"],
            ["bless", folder / "base", "--to", folder / "baseline.json"],
        ):
            patch.setattr(sys, "argv", ["alignx-eval", *map(str, arguments), "--quiet"])
            with pytest.raises(SystemExit) as stopped:
                alignx_eval.cli.main()
            assert not stopped.value.code, arguments
    return folder


@pytest.fixture
def own(place, tmp_path) -> Path:
    """A copy of `place` to spoil."""
    for name in ("base", "pair"):
        shutil.copytree(place / name, tmp_path / name)
    shutil.copy(place / "baseline.json", tmp_path)
    return tmp_path


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def sealed(path: Path, change) -> None:
    """Edit a baseline and give it a checksum that fits, as another version of the program would have written it."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document.pop("sha256")
    change(document)
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    path.write_text(json.dumps({**document, "sha256": hashlib.sha256(text.encode()).hexdigest()}), encoding="utf-8")


def test_one_damaged_language_is_caught_and_named_in_every_rendering(place, tmp_path, monkeypatch, capsys):
    files = [tmp_path / f"verdict{suffix}" for suffix in (".json", ".md", ".csv", ".html", ".junit.xml")]
    outputs = [argument for file in files for argument in ("-o", file)]
    code, out, err = call(monkeypatch, capsys, "gate", place / "pair", "--annotations", *outputs)
    assert code == 3, err
    assert "FAIL" in out and "ell_Grek" in out.split("Rule")[0]
    assert any(line.startswith("::error") and "ell_Grek" in line for line in out.splitlines())
    document = json.loads(files[0].read_text())["verdict"]
    assert document["outcome"] == "fail" and document["exit_code"] == 3
    red = [row for row in document["candidates"][0]["rows"] if row["status"] == "red"]
    assert red and red[0]["language"] == "ell_Grek" and {row["language"] for row in red} <= {"ell_Grek", None}
    assert "FAIL" in files[1].read_text() and "ell_Grek" in files[1].read_text().split("<details>")[0]
    with files[2].open(newline="", encoding="utf-8") as file:
        assert {row["language"] for row in csv.DictReader(file) if row["gate_status"] == "red"} >= {"ell_Grek"}
    assert "ell_Grek" in files[3].read_text() and "FAIL" in files[3].read_text()
    failures = [
        case for case in ElementTree.parse(files[4]).getroot().iter("testcase") if case.find("failure") is not None
    ]
    assert any("ell_Grek" in (case.get("name") or "") for case in failures)


def test_the_gate_on_a_baseline_says_what_the_gate_on_both_checkpoints_says(place, monkeypatch, capsys, tmp_path):
    for arguments, name in (
        ((place / "pair",), "direct"),
        ((place / "pair", "--baseline", place / "baseline.json"), "baseline"),
    ):
        code, _, err = call(monkeypatch, capsys, "gate", *arguments, "-o", tmp_path / f"{name}.json")
        assert code == 3, err
    direct, against = (
        json.loads((tmp_path / f"{name}.json").read_text())["verdict"]["candidates"][0]
        for name in ("direct", "baseline")
    )
    assert len(direct["rows"]) == len(against["rows"]) > 5
    numbers = ("key", "status", "loss", "p", "p_adjusted", "loss_at_least", "loss_at_most", "tolerance")
    assert [[row[name] for name in numbers] for row in direct["rows"]] == [
        [row[name] for name in numbers] for row in against["rows"]
    ]


def test_S9_compare_A_A_passes_with_every_difference_0_and_every_p_1(place, monkeypatch, capsys, tmp_path):
    code, out, _ = call(
        monkeypatch,
        capsys,
        "compare",
        place / "base",
        place / "base",
        "--gate",
        "--out",
        tmp_path / "same",
        "-o",
        tmp_path / "same.json",
    )
    assert code == 0 and out.startswith("PASS")
    rows = json.loads((tmp_path / "same.json").read_text())["comparison_rows"]
    assert all(row["difference"] == 0 for row in rows if row["difference"] is not None)
    assert all(row["p"] == 1 for row in rows if row["p"] is not None) and any(row["p"] is not None for row in rows)
    code, out, _ = call(monkeypatch, capsys, "gate", place / "base", "--baseline", place / "baseline.json", "--strict")
    assert code == 0 and out.startswith("PASS")


def test_exit_code_4_under_strict_only(place, monkeypatch, capsys, tmp_path):
    policy = tmp_path / "gate.yaml"
    policy.write_text(
        "format: alignx-eval gate policy\nversion: 1\nmin_n: 151\nrules:\n"
        "  - {suite: language_modelling, metric: bits_per_byte, tolerance: 100}\n"
        "  - {suite: language_modelling, metric: bits_per_byte, tolerance: 100, languages: [deu_Latn], min_n: 100}\n"
    )
    assert call(monkeypatch, capsys, "gate", place / "pair", "--policy", policy)[0] == 0
    code, out, _ = call(monkeypatch, capsys, "gate", place / "pair", "--policy", policy, "--strict")
    assert code == 4 and out.startswith("INCONCLUSIVE")
    policy.write_text(policy.read_text().replace(", min_n: 100", ""))
    assert call(monkeypatch, capsys, "gate", place / "pair", "--policy", policy)[0] == 2  # nothing judged is no pass


def test_plain_compare_exits_0_whatever_the_verdict(place, monkeypatch, capsys, tmp_path):
    pair = [f"{place / 'pair'}#base", f"{place / 'pair'}#damaged"]
    code, out, _ = call(monkeypatch, capsys, "compare", *pair, "--out", tmp_path / "again")
    assert (
        code == 0 and out.startswith("Means, 95 % intervals") and "\nGate (default policy, not enforced): FAIL, " in out
    )
    assert ElementTree.parse(tmp_path / "again" / "junit.xml").getroot().get("failures") != "0"
    assert call(monkeypatch, capsys, "compare", *pair, "--out", tmp_path / "again", "--gate")[0] == 3
    code, _, err = call(monkeypatch, capsys, "compare", *pair, "--limit", "20", "--out", tmp_path / "limit")
    assert code == 2 and "--limit" in err


def test_S12_only_bless_writes_a_baseline_and_it_says_what_changed(own, monkeypatch, capsys):
    file = own / "baseline.json"
    before = file.read_bytes()
    for arguments in (
        ["gate", own / "pair", "--baseline", file],
        ["gate", own / "base", "--baseline", file],
        ["report", own / "pair"],
    ):
        call(monkeypatch, capsys, *arguments)
        assert file.read_bytes() == before
    code, out, _ = call(monkeypatch, capsys, "bless", f"{own / 'pair'}#damaged", "--to", file)
    assert code == 0 and file.read_bytes() != before
    assert "checkpoint: base" in out and "worst first" in out and "ell_Grek lost" in out
    code, out, _ = call(monkeypatch, capsys, "bless", f"{own / 'pair'}#damaged", "--to", file)
    assert code == 0 and "nothing changed" in out


def test_blessing_another_checkpoint_of_the_same_name_tells_what_changed(own, monkeypatch, capsys):
    """A trainer writes model.pt each time; the old and the new one must not be taken for one another."""

    def rename(document):
        document["candidates"] = ["base (2)"]
        document["base"] = "damaged"
        document["checkpoints"] = {
            "base (2)": {**document["checkpoints"]["damaged"], "name": "base"},
            "damaged": document["checkpoints"]["base"],
        }

    edit(own / "pair" / "manifest.json", rename)
    swapped = {"base": "damaged", "damaged": "base (2)"}
    for part in ("rows", "suites"):
        edit(
            own / "pair" / "results.json",
            lambda document: [each.update(checkpoint=swapped[each["checkpoint"]]) for each in document[part]],  # noqa: B023
        )
    code, out, err = call(monkeypatch, capsys, "bless", own / "pair", "--to", own / "baseline.json")
    assert code == 0, err
    assert baselines.load(own / "baseline.json").label == "base (baseline)"
    assert "rows changed" in out and "ell_Grek lost" in out


def test_bless_does_not_overwrite_what_is_no_baseline(own, monkeypatch, capsys):
    (own / "notes.md").write_text("my notes")
    code, out, err = call(monkeypatch, capsys, "bless", own / "base", "--to", own / "notes.md")
    assert (code, out) == (2, "") and "no baseline" in err and (own / "notes.md").read_text() == "my notes"
    cut = own / "baseline.json"
    cut.write_bytes(cut.read_bytes()[:5000])
    code, out, _ = call(monkeypatch, capsys, "bless", own / "base", "--to", cut)
    assert code == 0 and "could not be compared with" in out and baselines.load(cut).checkpoint["name"] == "base"


def test_a_baseline_is_small_and_holds_no_text_and_no_weights(place):
    text = (place / "baseline.json").read_text(encoding="utf-8")
    assert len(text.encode()) < 500_000
    from alignx_eval.corpora import load_corpus

    corpus = load_corpus("interface", "test", tuple(LANGUAGES.split(",")), 150)
    assert not [line for code in corpus.languages for line in corpus.sentences[code] if len(line) > 15 and line in text]


def test_S12_a_baseline_that_is_stale_foreign_edited_or_cut_is_refused(own, monkeypatch, capsys):
    file = own / "baseline.json"
    good = file.read_bytes()

    def refused(code: int, *parts: str) -> None:
        status, out, err = call(monkeypatch, capsys, "gate", own / "base", "--baseline", file)
        assert (status, out) == (code, "") and err.startswith("error: "), err
        for part in parts:
            assert part in err
        file.write_bytes(good)

    file.write_bytes(good[: len(good) // 2])
    refused(2, "not valid JSON")
    file.write_text("{}")
    refused(2, "not a baseline")
    file.write_bytes(good.replace(b'"value": 1', b'"value": 2', 1))
    refused(2, "edited or damaged")
    file.unlink()
    refused(2, "cannot be read")
    sealed(file, lambda document: document.update(version=2))
    refused(5, "version 2", "bless again")
    sealed(file, lambda document: document.update(rows=[]))
    refused(2, "not a baseline of this format")
    sealed(file, lambda document: document["suites"][0]["fingerprint"].update(pooling="last"))
    refused(5, "what differs", "pooling")
    sealed(file, lambda document: document["suites"][0].update(items="150 items, sha256 0"))
    refused(5, "item_ids")
    again = f"measure and bless again: alignx-eval run bundled:base --out DIR && alignx-eval bless DIR --to {file}"
    sealed(file, lambda document: [suite["fingerprint"].update(measuring_version=1) for suite in document["suites"]])
    refused(5, "version 1 of this suite", again)
    sealed(file, lambda document: [suite["fingerprint"].pop("measuring_version") for suite in document["suites"]])
    refused(5, "an older version of this suite", again)
    sealed(file, lambda document: [suite["fingerprint"].pop("measuring_version") for suite in document["suites"]])
    code, out, _ = call(monkeypatch, capsys, "bless", own / "base", "--to", file)  # what it says is done about it
    assert code == 0 and "could not be compared with" in out
    assert call(monkeypatch, capsys, "gate", own / "base", "--baseline", file)[0] == 0
    sealed(file, lambda document: document.update(alignx_eval="0.0.1"))  # the package's version alone means nothing
    assert call(monkeypatch, capsys, "gate", own / "base", "--baseline", file)[0] == 0


def test_S10_half_empty_and_foreign_results_never_pass(own, monkeypatch, capsys, tmp_path):
    def refused(code: int, *arguments: object, part: str) -> None:
        status, out, err = call(monkeypatch, capsys, *arguments)
        assert status == code and part in err + out, (status, err, out)

    gate = ("gate", own / "base", "--baseline", own / "baseline.json")
    refused(2, "gate", tmp_path / "nothing", part="does not exist")
    (tmp_path / "empty").mkdir()
    refused(2, "gate", tmp_path / "empty", part="empty")
    edit(own / "base" / "manifest.json", lambda document: document.update(status="running"))
    refused(2, *gate, part="not complete")
    refused(2, "bless", own / "base", "--to", own / "new.json", part="not complete")
    edit(own / "base" / "manifest.json", lambda document: document.update(status="complete"))
    assert call(monkeypatch, capsys, *gate)[0] == 0

    results = (own / "base" / "results.json").read_bytes()
    edit(own / "base" / "results.json", lambda document: document["suites"].pop())  # a suite that crashed
    refused(2, *gate, part="")
    (own / "base" / "results.json").write_bytes(results[: len(results) // 2])
    refused(2, *gate, part="cut short or damaged")
    (own / "base" / "results.json").write_bytes(results)
    edit(  # a language is gone
        own / "base" / "results.json",
        lambda document: document.update(rows=[row for row in document["rows"] if row["language"] != "rus_Cyrl"]),
    )
    refused(2, *gate, part="INCOMPLETE")
    refused(2, "gate", own / "base", part="one checkpoint alone")
    refused(2, "gate", f"{own / 'pair'}#base", part="--baseline")
    assert not (own / "new.json").exists()


def test_bless_refuses_what_cannot_be_a_baseline(own, monkeypatch, capsys, tmp_path):
    policy = tmp_path / "gate.yaml"
    rule = "format: alignx-eval gate policy\nversion: 1\n{}rules: [{{suite: {}, metric: '*', tolerance: 1}}]\n"
    for text, part in (
        (rule.format("", "tasks"), "gates none"),
        (rule.format("against: control\n", "layers"), "control"),
        (rule.format("protected: [swh_Latn]\n", "layers"), "swh_Latn"),
        (rule.format("min_n: 151\n", "language_modelling"), "n = 150"),
    ):
        policy.write_text(text)
        code, _, err = call(monkeypatch, capsys, "bless", own / "base", "--policy", policy, "--to", own / "new.json")
        assert code == 2 and part in err and not (own / "new.json").exists()
    code, _, err = call(monkeypatch, capsys, "bless", f"{own / 'pair'}#other", "--to", own / "new.json")
    assert code == 2 and "other" in err


def test_a_baseline_too_large_to_commit_is_refused(place, tmp_path, monkeypatch):
    loaded = baselines.load(place / "baseline.json")
    monkeypatch.setattr(baselines, "MAXIMUM_BYTES", 1000)
    with pytest.raises(InputError, match="gate fewer metrics"):
        baselines.write(loaded, tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()


def test_statistics_survive_the_file_unrounded(place):
    directory = RunDirectory.read(place / "base")
    results = directory.results("base")
    loaded = baselines.load(place / "baseline.json")
    comparison = baselines.compare_with(
        loaded, results, label="candidate", checkpoint={}, corpus=directory.manifest["corpus"]
    )
    for suite, result in comparison.results[loaded.label].items():
        assert result.items
        for key, items in result.items.items():
            assert (items.values == results[suite].items[key].values).all() and items.point == results[suite].items[
                key
            ].point
    assert judge(comparison, default_policy()).outcome == "pass"


def test_every_kind_of_statistics_gives_the_numbers_of_a_direct_comparison():
    sides = {"base": measured("base", 1), "candidate": measured("candidate", 2, lift=0.2, worse_language="zho_Hans")}
    names = {
        "layers": ("precision_at_1", "cka_debiased"),
        "language_modelling": ("*",),
        "translation": ("*",),
        "tasks": ("*",),
    }
    rules = [
        {
            "suite": suite,
            "metric": metric,
            "tolerance": 0.01,
            **({"direction": "higher"} if metric == "cka_debiased" else {}),
        }
        for suite, metrics in names.items()
        for metric in metrics
    ]
    policy = Policy.model_validate({"rules": rules, "min_n": 20, "protected": ["deu_Latn"]})
    stages = [
        {"stage": "pretrain", "tokens": 9e6, "seconds": 3000.0},
        {"stage": "stage1", "tokens": 1e6, "seconds": 200.0},
    ]
    facts = {
        "base": {"name": "base", "provenance": {"stages": stages[:1]}},  # it does not know the align layer
        "candidate": {"name": "candidate", "align_layer": 3, "provenance": {"stages": stages}},
    }
    corpus = {"name": "test", "languages": ["deu_Latn", "rus_Cyrl", "zho_Hans"]}
    direct = judge(compare(sides, base="base", candidates=["candidate"], checkpoints=facts, corpus=corpus), policy)
    made, itself = baselines.make(
        sides["base"],
        policy=policy,
        checkpoint=facts["base"],
        corpus=corpus,
        software={},
        version="1",
        blessed="2030-01-01T00:00:00Z",
    )
    assert itself.outcome != "fail" and all(row.loss == 0 for row in itself.candidates[0].rows)
    made = baselines.Baseline.model_validate(json.loads(json.dumps(made.model_dump(mode="json"))))
    options = {"label": "candidate", "checkpoint": facts["candidate"], "corpus": corpus}
    compared = baselines.compare_with(made, sides["candidate"], **options)
    assert any(
        "1.00 million tokens" in finding for finding in report_of(compared, None).findings
    )  # what came after the base
    against = judge(compared, policy)
    kinds = {made.statistics[number].kind for number in range(len(made.statistics))}
    assert kinds == {"mean", "ratio", "jackknife", "bleu", "chrf"}
    rows = [{row.key: row for row in verdict.candidates[0].rows} for verdict in (direct, against)]
    assert rows[0].keys() == rows[1].keys() and {row.row.layer for row in rows[1].values()} == {None, "3"}
    for key, expected in rows[0].items():
        found = rows[1][key]
        for name in ("status", "level", "loss", "p", "p_adjusted", "loss_at_least", "loss_at_most", "protected"):
            assert getattr(found, name) == getattr(expected, name), (key, name)
        for name in ("difference", "se", "ci_low", "ci_high", "degrees_of_freedom", "skewness", "p", "n", "clusters"):
            assert getattr(found.row, name) == getattr(expected.row, name), (key, name)
    assert {row.status for row in rows[1].values()} >= {"red", "green"}

    # S12: another metric signature
    sides["candidate"]["translation"].fingerprint["signatures"] = {"chrf++": "nrefs:1|case:lc"}
    with pytest.raises(NotComparableError, match="signatures"):
        baselines.compare_with(made, sides["candidate"], **options)
    # what the candidate lacks, and what the baseline lacks, is missing
    del sides["candidate"]["translation"]
    lacking = judge(baselines.compare_with(made, sides["candidate"], **options), policy)
    assert {row.reason for row in lacking.candidates[0].rows if row.status == "missing"} == {
        "not measured for candidate; measure it, or bless again without it"
    }
    smaller, _ = baselines.make(
        sides["candidate"],
        policy=Policy.model_validate({"rules": rules[:1] + rules[2:3], "min_n": 20}),
        checkpoint=facts["candidate"],
        corpus=corpus,
        software={},
        version="1",
        blessed="2030-01-01T00:00:00Z",
    )
    wider = judge(baselines.compare_with(smaller, sides["base"], **{**options, "label": "base"}, policy=policy), policy)
    assert wider.outcome in ("incomplete", "fail")
    assert "not measured for the baseline; to gate it, bless again" in {row.reason for row in wider.candidates[0].rows}


def test_S13_the_exit_code_survives_a_pipe_with_pipefail(place):
    program = f"{shlex.quote(sys.executable)} -m alignx_eval gate {shlex.quote(str(place / 'pair'))} --quiet"
    environment = {**os.environ, "PYTHONPATH": str(Path(alignx_eval.cli.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    for options, code in (
        (["-o", "pipefail"], 3),
        ([], 0),
    ):  # without it, a shell tells the exit code of the last command
        done = subprocess.run(
            ["bash", *options, "-c", f"{program} | cat"], capture_output=True, text=True, env=environment
        )
        assert done.returncode == code, done.stderr
        assert done.stdout.startswith("FAIL") and done.stderr == ""


def test_the_policy_of_a_comparison_goes_with_its_run_directory(place, monkeypatch, capsys, tmp_path):
    policy = tmp_path / "gate.yaml"
    policy.write_text(
        "format: alignx-eval gate policy\nversion: 1\nrules: [{suite: language_modelling, metric: bits_per_byte, "
        "tolerance: 99}]\n"
    )
    pair = [f"{place / 'pair'}#base", f"{place / 'pair'}#damaged"]
    code, out, _ = call(monkeypatch, capsys, "compare", *pair, "--out", tmp_path / "run", "--policy", policy, "--gate")
    assert code == 0 and out.startswith("PASS")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["policy"]["name"] == str(policy) and manifest["policy"]["content"]["rules"][0]["tolerance"] == 99
    policy.unlink()
    for command in ("report", "gate"):
        code, out, _ = call(monkeypatch, capsys, command, tmp_path / "run")
        assert code == 0 and out.startswith("PASS")
    default = tmp_path / "default.yaml"
    default.write_text(DEFAULT_POLICY_YAML)
    assert call(monkeypatch, capsys, "gate", tmp_path / "run", "--policy", default)[0] == 3
    edit(tmp_path / "run" / "manifest.json", lambda document: document["policy"].update(content={}))
    code, _, err = call(monkeypatch, capsys, "gate", tmp_path / "run")
    assert code == 2 and "no valid policy" in err


def test_gate_writes_nothing_into_the_run_directory(own, monkeypatch, capsys):
    def state(folder: Path) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    before = state(own)
    assert call(monkeypatch, capsys, "gate", own / "pair")[0] == 3
    assert call(monkeypatch, capsys, "gate", own / "pair", "--baseline", own / "baseline.json")[0] == 3
    assert state(own) == before


def test_S10_a_crashed_run_is_no_input_of_a_comparison(own, monkeypatch, capsys, tmp_path):
    for name in ("base", "pair"):  # both were killed before the last suite

        def crash(document):
            document["suites"] = [entry for entry in document["suites"] if entry["suite"] != "language_modelling"]
            document["rows"] = [row for row in document["rows"] if row["suite"] != "language_modelling"]

        edit(own / name / "results.json", crash)
    pair = (own / "base", f"{own / 'pair'}#damaged")
    code, out, err = call(monkeypatch, capsys, "compare", *pair, "--gate", "--out", tmp_path / "new")
    assert (code, out) == (2, "") and "has no results of language_modelling" in err and not (tmp_path / "new").exists()
    # asked for by name, the half that is there can be compared, and is still no pass: the default policy blocks nothing
    # of it
    code, out, _ = call(
        monkeypatch, capsys, "compare", *pair, "--suites", "layers", "--gate", "--out", tmp_path / "new"
    )
    assert code == 2 and out.startswith("INCOMPLETE")


def test_S12_results_of_different_versions_do_not_compare(own, monkeypatch, capsys, tmp_path):
    edit(
        own / "base" / "results.json",
        lambda document: [entry["fingerprint"].update(measuring_version=1) for entry in document["suites"]],
    )
    pair = (own / "base", f"{own / 'pair'}#damaged")
    for mismatch in ((), ("--allow-mismatch", "measuring_version")):
        code, _, err = call(monkeypatch, capsys, "compare", *pair, "--gate", "--out", tmp_path / "new", *mismatch)
        assert code == 5 and "version 1 of this suite" in err and not (tmp_path / "new").exists()


def test_allow_mismatch_is_recorded_and_shown(own, monkeypatch, capsys, tmp_path):
    edit(own / "pair" / "results.json", lambda document: document["suites"][0]["fingerprint"].update(pooling="last"))
    pair = [f"{own / 'pair'}#base", f"{own / 'pair'}#damaged"]
    code, _, err = call(monkeypatch, capsys, "compare", *pair, "--out", tmp_path / "new")
    assert code == 5 and "pooling" in err and "what differs" in err
    code, out, _ = call(monkeypatch, capsys, "compare", *pair, "--out", tmp_path / "new", "--allow-mismatch", "pooling")
    assert code == 0 and "pooling" in out
    manifest = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert manifest["options"]["allow_mismatch"] == ["pooling"] and any(
        "pooling" in text for text in manifest["mismatches"]
    )
    for name in ("report.html", "summary.md", "junit.xml"):
        assert "pooling is" in (tmp_path / "new" / name).read_text(encoding="utf-8")
    assert call(monkeypatch, capsys, "report", tmp_path / "new")[0] == 0


def test_series_names_the_first_step_that_fails(place, monkeypatch, capsys, tmp_path):
    base, damaged = f"{place / 'pair'}#base", f"{place / 'pair'}#damaged"
    code, out, _ = call(monkeypatch, capsys, "compare", base, base, damaged, "--series", "--out", tmp_path / "series")
    assert code == 0 and "would first have failed at damaged" in " ".join(out.split())
    assert "would first have failed at damaged" in (tmp_path / "series" / "report.html").read_text(encoding="utf-8")
    code, _, err = call(monkeypatch, capsys, "compare", base, damaged, "--series")
    assert code == 2 and "at least two candidates" in err


def test_a_gate_compares_only_what_was_measured_in_the_same_way(place, tmp_path):
    directory = RunDirectory.read(place / "base")
    loaded = baselines.load(place / "baseline.json")
    results = directory.results("base")
    results["layers"].default_clusters = tuple("one" for _ in results["layers"].default_clusters)
    with pytest.raises(NotComparableError, match="default_clusters"):
        baselines.compare_with(loaded, results, label="candidate", checkpoint={}, corpus=directory.manifest["corpus"])
    assert compare({"a": directory.results("base"), "b": directory.results("base")}, base="a", candidates=["b"]).rows
