"""The command `alignx-train`: train by a recipe, look at a recipe's data, export a checkpoint."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from alignx_eval import processes
from alignx_eval.cli import entry
from alignx_eval.cli.options import DebugOption
from alignx_eval.environment import prepare_environment
from alignx_eval.errors import InputError
from alignx_trainer.display import Display

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def alignx_train(version: entry.VersionOption = False) -> None:
    """Train by a recipe, look at a recipe's data, export a checkpoint. `alignx-train RECIPE` is short for `alignx-train
    train RECIPE`.

    \b
    Examples:
      alignx-train demo
      alignx-train inspect demo
      alignx-train ls

    \b
    Exit codes: 0 done; 1 training cannot go on, or an unexpected error; 2 wrong usage or input; 6 something is missing
    and the network is off; 130 interrupted. An error is one line; --debug shows where it came from.
    """


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of a shipped recipe")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides, values in YAML")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="output folder; default: runs/RECIPE")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda where there is one")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="the same bits on every run with the same threads")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline/--online", help="whether models and data of the hub may be fetched")
    ] = True,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="no progress and no remarks; errors still appear")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Train by RECIPE and write OUT/model.pt, OUT/log.jsonl and OUT/report.html.

    Interrupted, it goes on from the last saved step when the same command is given again. A finished run is not done
    again. An override of one of two keys that exclude each other, as `steps` and `epochs`, replaces the other one.

    \b
    Examples:
      alignx-train demo
      alignx-train paper_stage1 init=my_model.pt sources='[{kind: translation, path: ntrex}]'
      accelerate launch --num_processes 4 -m alignx_trainer paper_stage1 init=my_model.pt

    \b
    Exit codes: 0 done; 1 training cannot go on, as where a loss is not finite or the disk is full; 2 wrong usage or
    input, or a damaged file of the run; 6 something is missing and the network is off; 130 interrupted.
    """
    from alignx_trainer.config import load_recipe

    display = Display(quiet=quiet)
    settings = load_recipe(recipe, overrides, display.say)
    prepare_environment(offline)
    import torch

    from alignx_trainer.training import train as run

    if threads is not None:
        torch.set_num_threads(threads)
    if deterministic:
        torch.use_deterministic_algorithms(True)
    folder = out or Path("runs") / Path(recipe).stem
    if device not in (None, "cpu", "cuda"):
        raise InputError(f"unknown device {device!r}; use cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: there is none here")
    command = shlex.join(["alignx-train", *sys.argv[1:]])
    with display:
        path = run(
            settings, folder, device=device, progress=display.step, say=display.say, command=command, offline=offline
        )
    if processes.is_main():
        print(path)


@app.command()
def inspect(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of a shipped recipe")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides, values in YAML")
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="how many samples to show")] = 5,
    check: Annotated[int, typer.Option(min=0, help="records of each source to count truncation over; 0: all")] = 5000,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="whether to run two micro-batches for time and memory")
    ] = True,
    offline: Annotated[
        bool, typer.Option("--offline/--online", help="whether models and data of the hub may be fetched")
    ] = True,
    debug: DebugOption = False,
) -> None:
    """Show what RECIPE would train on, and what that would take: data, samples with their spans, memory and time.

    \b
    Examples:
      alignx-train inspect alignx_stage1 init=bundled:base
      alignx-train inspect paper_stage1 init=my_model.pt sources.0.path=my_text --no-measure
    """
    from alignx_trainer.config import load_recipe

    settings = load_recipe(recipe, overrides, Display().say)
    prepare_environment(offline)
    from alignx_trainer.inspect import inspect as show

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for line in show(settings, samples=samples, colour=colour, checked=check, measure=measure, offline=offline):
        print(line, flush=True)


@app.command()
def ablate(
    recipe: Annotated[str, typer.Argument(help="a recipe with both losses")] = "ablation",
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides, values in YAML")
    ] = None,
    seeds: Annotated[str, typer.Option(help="seeds, comma-separated")] = "0",
    split: Annotated[
        str, typer.Option(help="split of the corpus to measure on; choose on validation, score test once")
    ] = "validation",
    corpus: Annotated[str, typer.Option(help="corpus to measure on, as in `alignx-eval compare`")] = "interface",
    suites: Annotated[
        str, typer.Option(help="suites, comma-separated")
    ] = "layers,language_id,language_modelling,translation",
    limit: Annotated[int | None, typer.Option(min=1, help="only the first lines of the corpus")] = None,
    out: Annotated[Path | None, typer.Option(help="output folder; default: runs/RECIPE")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads")] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="no progress and no remarks; errors still appear")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Which loss does what: train RECIPE with the next-token loss alone, + contrastive, + matching, and both; compare
    the four.

    All arms see the same samples in the same order. Writes OUT/ablation.md and, for each seed, a report in
    OUT/comparison-seedN.

    \b
    Examples:
      alignx-train ablate
      alignx-train ablate ablation steps=100 --seeds 0,1,2
    """
    from alignx_trainer.config import load_recipe

    display = Display(quiet=quiet)
    settings = load_recipe(recipe, overrides, display.say)
    try:
        numbers = [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise InputError(f"--seeds: whole numbers, comma-separated, not {seeds!r}") from None
    prepare_environment(True)
    import torch

    from alignx_trainer.ablation import ablate as run

    if threads is not None:
        torch.set_num_threads(threads)
    options = {"corpus": corpus, "split": split, "suites": suites, "limit": limit or None}
    folder = out or Path("runs") / Path(recipe).stem
    command = shlex.join(["alignx-train", *sys.argv[1:]])
    with display:
        table = run(
            settings,
            folder,
            seeds=numbers,
            options=options,
            progress=display.step,
            say=display.say,
            command=command,
        )
    print(table.read_text(encoding="utf-8"))


@app.command(name="ls")
def list_recipes(debug: DebugOption = False) -> None:
    """The shipped recipes and configurations for `accelerate launch`, and what each is for: a table on a terminal,
    tab-separated in a pipe.

    \b
    Examples:
      alignx-train ls
    """
    from alignx_trainer.config import ACCELERATE, RECIPES

    paths = [*sorted(RECIPES.glob("*.yaml")), *sorted(ACCELERATE.glob("*.yaml"))]
    rows = [(path.relative_to(RECIPES).with_suffix("").as_posix(), _purpose(path)) for path in paths]
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid("name", "purpose", padding=(0, 2))
    for name, purpose in rows:
        table.add_row(Text(name, no_wrap=True), Text(purpose))
    Console(highlight=False).print(table)


def _purpose(path: Path) -> str:
    """The first sentence of the comment that a recipe begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("# "), lines)
    return " ".join(line.removeprefix("# ") for line in comment).partition(". ")[0].partition("   ")[0]


@app.command(name="path")
def recipe_path(
    name: Annotated[str, typer.Argument(help="a shipped recipe, or accelerate/NAME")],
    debug: DebugOption = False,
) -> None:
    """Where the file of a shipped recipe or configuration is: to copy it, or for `accelerate launch --config_file`.

    \b
    Examples:
      alignx-train path demo
      alignx-train path accelerate/fsdp2
    """
    from alignx_trainer.config import find_recipe

    print(find_recipe(name).resolve())


@app.command()
def export(
    checkpoint: Annotated[
        str, typer.Argument(help="whatever alignx-eval opens: .pt, .gguf, folder, adapter, hub id, bundled:NAME")
    ],
    folder: Annotated[Path, typer.Argument(help="a new Hugging Face folder")],
    offline: Annotated[
        bool, typer.Option("--offline/--online", help="whether models of the hub may be fetched")
    ] = True,
    debug: DebugOption = False,
) -> None:
    """Write CHECKPOINT as a folder that transformers opens with `from_pretrained`: adapters merged, blocks of a .gguf
    unpacked.

    \b
    Examples:
      alignx-train export bundled:alignx alignx-folder
      alignx-train export runs/demo/model.pt demo-folder
    """
    prepare_environment(offline)
    from alignx_eval.checkpoint import export_folder

    export_folder(checkpoint, folder, offline=offline)
    print(folder)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="the output folder of a training run, finished or not")],
    debug: DebugOption = False,
) -> None:
    """Write FOLDER/report.html: losses, validation, speed, recipe and data of a training run.

    \b
    Examples:
      alignx-train report runs/demo
    """
    from alignx_trainer.report import write_report

    print(write_report(folder))


def main() -> None:
    """Entry point of the command."""
    arguments = sys.argv[1:]
    commands = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    if arguments and arguments[0] not in commands and not arguments[0].startswith("-"):
        arguments = ["train", *arguments]
    entry.run(app, "alignx-train", arguments)
