"""Every shell line of docs/ci.md, the script of the action and the YAML around them, run or checked as a user's CI
would."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from helpers.models import tiny_model, tiny_tokenizer

from alignx_eval.judgement.policy import Policy

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
# The documented commands measure five suites on 452 lines; here the same lines run on less. One suite is enough for a
# gate.
SMALLER = "--suites language_modelling --languages deu_Latn,tur_Latn --limit 110"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.S)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with base.pt, alignx.pt and their like (one tiny model under several names), worse.pt, and `alignx-eval`
    in bin/."""
    import torch

    from alignx_eval.checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("ci")
    facts = {
        "tokenizer": tiny_tokenizer(),
        "stage": "align",
        "step": 1,
        "prompt_template": "plain",
        "heads": None,
        "recipe": {},
        "provenance": {},
    }
    write_checkpoint(folder / "base.pt", model=tiny_model(0, max_position_embeddings=512), **facts)
    worse = tiny_model(0, max_position_embeddings=512)
    with torch.no_grad():
        worse.get_input_embeddings().weight.mul_(30.0)
    write_checkpoint(folder / "worse.pt", model=worse, **facts)
    (folder / "checkpoints").mkdir()
    for name in ("alignx.pt", "step-100.pt", "step-200.pt", "checkpoints/base.pt", "checkpoints/alignx.pt"):
        shutil.copyfile(folder / "base.pt", folder / name)
    command = folder / "bin" / "alignx-eval"
    command.parent.mkdir()
    command.write_text(f'''#!/usr/bin/env bash
case "$1" in compare | run) further="{SMALLER}" ;; *) further="" ;; esac
exec "{sys.executable}" -m alignx_eval "$@" $further
''')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return folder


def shell(script: str, place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "trainer")]),
        "ALIGNX_EVAL_CACHE": str(place / "cache"),
        **variables,
    }
    return subprocess.run(
        ["bash", "-e", "-c", script], cwd=place, env=environment, capture_output=True, text=True, encoding="utf-8"
    )


def test_every_shell_block_of_the_page_runs_in_order(place):
    scripts = blocks("bash")
    assert len(scripts) >= 6
    for script in scripts:
        done = shell(script, place)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    for name in ("verdict.md", "verdict.junit.xml", "gate.yaml", "series.html", "alignx-baseline.json", "log.txt"):
        assert (place / name).stat().st_size > 0
    suites = ElementTree.parse(place / "verdict.junit.xml").getroot()
    assert int(suites.get("tests", 0)) > 0 and suites.get("failures") == "0"


def test_shell_lines_inside_the_yaml_of_the_page_run(place):
    lines = [
        line.strip()
        for block in blocks("yaml")
        for line in re.findall(r"^ *- (?:run: )?(alignx-eval .*)$", block, flags=re.M)
    ]
    assert len(lines) == 2
    for line in lines:
        done = shell(line, place, RUNNER_TEMP=str(place))
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert (place / "gate.junit.xml").exists() and (place / "summary.md").exists()


def test_S13_a_failed_gate_is_seen_through_a_pipe_with_pipefail_only(place):
    gate = "alignx-eval compare base.pt worse.pt --gate --out measured/worse | cat"
    assert shell(f"set -o pipefail\n{gate}", place).returncode == 3
    assert shell(gate, place).returncode == 0  # what the page warns of


def test_yaml_of_the_page_is_valid_and_gives_the_action_only_inputs_it_has():
    inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    given = 0
    for block in blocks("yaml"):
        document = yaml.safe_load(block)
        if isinstance(document, dict) and document.get("format"):
            Policy.model_validate(document)
            continue
        steps = (
            document
            if isinstance(document, list)
            else [step for job in document.get("jobs", {}).values() for step in job["steps"]]
        )
        for step in steps:
            if "alignx-eval" in step.get("uses", ""):
                given += 1
                assert set(step["with"]) <= set(inputs)
                assert {name for name, facts in inputs.items() if facts.get("required")} <= set(step["with"])
    assert given == 2


def test_action_and_workflow_refer_to_what_exists():
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"inputs\.([a-z-]+)", text)) == set(action["inputs"])
    assert all(facts["description"] for facts in action["inputs"].values())
    assert os.access(ROOT / "tools" / "action.sh", os.X_OK)
    script = (ROOT / "tools" / "action.sh").read_text()
    step = next(step for step in action["runs"]["steps"] if step.get("id") == "gate")
    assert all(re.search(rf"\b{name}\b", script) for name in step["env"])
    assert all(each.get("shell") for each in action["runs"]["steps"] if "run" in each)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    own = [step for job in workflow["jobs"].values() for step in job["steps"] if step.get("uses") == "./"]
    assert own and all(set(step["with"]) <= set(action["inputs"]) for step in own)


def run_action(place: Path, name: str, **inputs: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str], str]:
    """The script of the action: what it printed, its outputs, the step summary."""
    files = {variable: place / f"{name}.{variable}" for variable in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.write_text("")
    done = shell(
        f'"{ROOT / "tools" / "action.sh"}"',
        place,
        OUTPUT=f"action/{name}",
        **inputs,
        **{key: str(path) for key, path in files.items()},
    )
    outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    return done, outputs, files["GITHUB_STEP_SUMMARY"].read_text()


def test_the_action_compares_and_passes(place):
    done, outputs, summary = run_action(place, "same", BASE="base.pt", CANDIDATE="\n  alignx.pt \n\n", STRICT="true")
    assert done.returncode == 0, done.stderr
    assert outputs["exit-code"] == "0" and (place / outputs["report"]).exists()
    assert "PASS" in summary and "PASS" in done.stdout
    assert sorted(path.name for path in (place / "action" / "same").iterdir()) == [
        "junit.xml", "report.html", "rows.csv", "run", "summary.md", "verdict.json",
    ]  # fmt: skip


def test_the_action_fails_on_a_regression_and_still_reports(place):
    done, outputs, summary = run_action(place, "worse", BASE="base.pt", CANDIDATE="worse.pt", ARGUMENTS="--seed 1")
    assert done.returncode == 3 and outputs["exit-code"] == "3"
    assert "FAIL" in summary and "::error" in done.stdout
    root = ElementTree.parse(place / "action" / "worse" / "junit.xml").getroot()
    assert int(root.get("failures", 0)) > 0


def test_the_action_gates_against_a_baseline(place):
    blessed = shell(
        "alignx-eval run base.pt --out action/base && alignx-eval bless action/base --to action/baseline.json", place
    )
    assert blessed.returncode == 0, blessed.stderr
    before = (place / "action" / "baseline.json").read_bytes()
    for name, candidate, code in (("good", "alignx.pt", 0), ("bad", "worse.pt", 3)):
        done, outputs, summary = run_action(place, name, BASELINE="action/baseline.json", CANDIDATE=candidate)
        assert (done.returncode, outputs["exit-code"]) == (code, str(code)), done.stderr
        assert summary.strip()
    assert (place / "action" / "baseline.json").read_bytes() == before


@pytest.mark.parametrize(
    "inputs",
    [
        {"CANDIDATE": "alignx.pt"},
        {"CANDIDATE": "alignx.pt", "BASE": "base.pt", "BASELINE": "x.json"},
        {"CANDIDATE": "alignx.pt\nworse.pt", "BASELINE": "x.json"},
        {"CANDIDATE": "nothing-$(touch injected).pt", "BASE": "base.pt"},
    ],
)
def test_the_action_refuses_wrong_inputs_and_never_reads_them_as_shell_code(place, inputs):
    done, _, _ = run_action(place, "wrong", **inputs)
    assert done.returncode == 2 and "error: " in done.stderr and "Traceback" not in done.stderr
    assert not list(place.rglob("injected"))
