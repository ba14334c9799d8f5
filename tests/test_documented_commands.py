"""Every command that README, docs, help texts, messages and the action show: parsed, and run where that takes no
network and no training.

Names that stand for a user's files (base.pt, BASE, ./llama, flores200/devtest, ...) are a tiny checkpoint or a small
text here.
"""

from __future__ import annotations

import glob
import itertools
import logging
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import alignx_trainer.cli
import pytest
import typer
import yaml
from alignx_trainer.config import load_recipe
from helpers.models import tiny_model, tiny_tokenizer

import alignx_eval.cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
UsageError = typer.BadParameter.__base__  # typer brings click along under a name of its own
APPS: dict[str, Any] = {
    "alignx-eval": typer.main.get_command(alignx_eval.cli.app),
    "alignx-train": typer.main.get_command(alignx_trainer.cli.app),
}
CHECKPOINTS = (
    "base.pt",
    "alignx.pt",
    "aligned.pt",
    "stage1.pt",
    "stage2.pt",
    "new.pt",
    "step-100.pt",
    "step-200.pt",
    "model.gguf",
    "BASE",
    "CANDIDATE",
    "CKPT",
    "checkpoints/base.pt",
    "checkpoints/alignx.pt",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma-3-270m.gguf",
)
# What the commands that read a run directory or a baseline find: made by other documented commands, or by ones like
# them.
BEFOREHAND = (
    "alignx-eval schema default-policy > gate.yaml",
    "alignx-eval run base.pt --suites layers,language_id --languages de,zh --out alignx-runs/base",
    "alignx-eval compare base.pt alignx.pt --out alignx-runs/base-alignx-3fa9c1",
    "alignx-eval run base.pt --out measured/base",
    "alignx-eval run alignx.pt --out measured/candidate",
    "alignx-eval bless measured/base --to alignx-baseline.json",
    "alignx-eval run CKPT --out RUN_DIRECTORY",
    "alignx-eval bless RUN_DIRECTORY --to FILE",
)


def joined(text: str) -> list[str]:
    """Lines, those that a backslash continues in one."""
    return re.sub(r"\\\n\s*", "", text).splitlines()


def commands_in(lines: list[str]) -> list[str]:
    """What of these lines is a command of ours, or starts one under a launcher."""
    found = []
    for line in lines:
        line = re.sub(r"^(- (run: )?|\$ )", "", line.strip())
        line = re.sub(r"^(torchrun|accelerate launch)\b.*?-m alignx_(eval|trainer)\b", _launched, line)
        if re.match(r"alignx-(eval|train) ", line):
            found.append(line)
    return found


def _launched(match: re.Match[str]) -> str:
    return "alignx-eval" if match[2] == "eval" else "alignx-train"


def documented() -> list[tuple[str, str]]:
    """(where, command) of every command that is shown anywhere."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.S)
        inline = [
            code.replace("\n", " ")
            for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.S))
        ]
        found += [(page.name, command) for command in commands_in([*itertools.chain(*map(joined, blocks)), *inline])]
    for name, group in APPS.items():
        for command in (group, *group.commands.values()):
            found += [(f"{name} {command.name} --help", line) for line in commands_in(joined(command.help or ""))]
    for source in (*(ROOT / "alignx_eval").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")):
        quoted = re.findall(r"`(alignx-(?:eval|train) [^`{}]*)`", source.read_text(encoding="utf-8"))
        found += [(source.name, command) for command in quoted]
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    for facts in action["inputs"].values():
        text = facts["description"]
        found += [("action.yml", command) for command in re.findall(r"`(alignx-eval [^`]*)`", text)]
        found += [
            ("action.yml", f"alignx-eval compare base.pt alignx.pt {options}")
            for options in re.findall(r"(--.*)\.", text)
        ]
    return list(dict.fromkeys(found))


def words(command: str) -> tuple[list[str], str | None]:
    """Arguments, and the file that stdout goes to. What is optional in a pattern is there; `...` and pipes are not."""
    command = re.sub(r"\$\([^)]*\)", "FILE", command)
    parts = shlex.split(command.split("|")[0].split("&&")[0], comments=True)
    target = parts[parts.index(">") + 1] if ">" in parts else None
    parts = parts[: parts.index(">")] if target else parts
    pattern = any(part.startswith("[") and not part.startswith("[{") for part in parts)
    parts = [part.strip("[]") if pattern else part for part in parts]
    return [part for part in parts if part not in ("...", "")], target


def parsed(arguments: list[str]) -> typer.Context | None:
    """The context of the subcommand, from the real parser; None where a help text is asked for. Raises UsageError."""
    name, *rest = arguments
    group = APPS[name]
    if name == "alignx-train" and rest and rest[0] not in group.commands and not rest[0].startswith("-"):
        rest = ["train", *rest]
    try:
        context = group.make_context(name, rest)
        command_name, command, remaining = group.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        return command.make_context(command_name, remaining, parent=context)
    except typer.Exit:
        return None


COMMANDS = documented()


def test_the_commands_are_found():
    """In every place that shows any, so that nothing below passes for want of commands."""
    places = {where for where, _ in COMMANDS}
    assert {"README.md", "ci.md", "real_model.md", "training.md", "action.yml", "alignx-eval compare --help"} <= places
    assert any(
        "--languages eng_Latn,deu_Latn,fra_Latn" in command for _, command in COMMANDS
    )  # a line that goes on after a backslash
    assert ("action.yml", "alignx-eval compare base.pt alignx.pt --languages de,zh --limit 500") in COMMANDS
    assert len(COMMANDS) > 60


def test_the_parser_is_the_real_one():
    with pytest.raises(UsageError):
        parsed(["alignx-eval", "compare", "base.pt", "alignx.pt", "--language", "de"])
    with pytest.raises(UsageError):
        parsed(["alignx-eval", "measure", "base.pt"])


@pytest.mark.parametrize("where, command", COMMANDS, ids=[f"{where}: {command[:60]}" for where, command in COMMANDS])
def test_a_documented_command_can_be_parsed(where, command, capsys):
    arguments, _ = words(command)
    if len(arguments) == 1 or (len(arguments) == 2 and arguments[1] in APPS[arguments[0]].commands):
        return  # `alignx-eval ... | tee`: any command; `alignx-eval bless`: the name of one
    context = parsed(arguments)
    if context is None:
        assert "Usage" in capsys.readouterr().out
        return
    parameters = context.params
    if arguments[0] == "alignx-train" and parameters.get("recipe") not in (None, "RECIPE"):
        overrides = [override for override in parameters["overrides"] or () if override != "key=value"]
        load_recipe(parameters["recipe"], overrides)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with all that the documented commands name."""
    from alignx_eval.checkpoint import export_folder, write_checkpoint

    folder = tmp_path_factory.mktemp("documented")
    (folder / "checkpoints").mkdir()
    write_checkpoint(
        folder / "base.pt",
        model=tiny_model(max_position_embeddings=1024),
        tokenizer=tiny_tokenizer(),
        stage="align",
        step=1,
        prompt_template="plain",
        heads=None,
        recipe={},
        provenance={"align_layer": 1},
    )
    for name in CHECKPOINTS[1:]:
        shutil.copyfile(folder / "base.pt", folder / name)
    for name in ("llama", "llama-aligned"):
        export_folder(folder / "base.pt", folder / name)
    for name, ending in (("devtest", "devtest"), ("dev-510", "dev")):
        text = folder / "flores200" / name
        text.mkdir(parents=True)
        for code in ("eng_Latn", "deu_Latn", "fra_Latn", "zho_Hans", "swh_Latn", "tur_Latn", "hin_Deva"):
            (text / f"{code}.{ending}").write_text(
                "".join(f"{code[:3]} line {number}\n" for number in range(110)), encoding="utf-8"
            )
    with pytest.MonkeyPatch.context() as patch:
        for command in BEFOREHAND:
            assert run(command, folder, patch) == (0, ""), command
    return folder


def run(command: str, place: Path, patch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and errors of a command of alignx-eval in `place`, on few lines; where it names none, in one suite and
    two languages."""
    arguments, target = words(command)
    context = parsed(arguments)
    assert context is not None
    inputs = [str(context.params.get(name)) for name in ("base", "checkpoint")]
    if context.info_name in ("compare", "run"):
        arguments += ["--quiet"]
        if not any((place / name / "manifest.json").exists() for name in inputs):  # a run directory decides it
            judged = any(
                part in command for part in ("measured/", "RUN_DIRECTORY", "3fa9c1", "--gate")
            )  # which takes more lines
            smaller = {
                "limit": "110" if judged else "12",
                "suites": "language_modelling" if judged else "layers",
                "languages": "de,tr",
            }
            arguments += [
                part
                for name, value in smaller.items()
                if context.params[name] is None or name == "limit"
                for part in (f"--{name}", value)
            ]
    patch.chdir(place)
    patch.setenv("RUNNER_TEMP", str(place))
    patch.setenv("ALIGNX_EVAL_CACHE", str(place / "cache"))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        patch.setenv(name, "1")
    expanded = [os.path.expandvars(argument) for argument in arguments]
    expanded = [
        name for argument in expanded for name in (sorted(glob.glob(argument)) if "*" in argument else [argument])
    ]
    patch.setattr(sys, "argv", expanded)
    level = logging.getLogger().level
    with (
        open(place / (target or "out"), "w", encoding="utf-8") as out,
        open(place / "err", "w", encoding="utf-8") as err,
    ):
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as stopped:
            alignx_eval.cli.main()
    patch.undo()
    logging.getLogger().setLevel(level)
    return int(stopped.value.code or 0), (place / "err").read_text(encoding="utf-8")


# Each once, wherever it is shown.
RUN = {
    shlex.join(words(command)[0]): (where, command)
    for where, command in COMMANDS
    if command.startswith("alignx-eval ") and len(words(command)[0]) > 2 and not where.endswith(".py")
}.values()


@pytest.mark.parametrize("where, command", RUN, ids=[f"{where}: {command[:60]}" for where, command in RUN])
def test_a_documented_command_runs(place, where, command, monkeypatch):
    if parsed(words(command)[0]) is None:
        return
    code, errors = run(command, place, monkeypatch)
    assert code == 0, f"{where}: {command}\n{errors}"


def test_documented_lists_of_alignx_train_are_printed(monkeypatch, capsys):
    ran = 0
    for _, command in COMMANDS:
        arguments, _ = words(command)
        if arguments[0] == "alignx-train" and arguments[1:2] in (["ls"], ["path"]) and "NAME" not in arguments:
            monkeypatch.setattr(sys, "argv", arguments)
            try:
                alignx_trainer.cli.main()
            except SystemExit as stopped:
                assert not stopped.code
            assert capsys.readouterr().out.strip()
            ran += 1
    assert ran >= 1
