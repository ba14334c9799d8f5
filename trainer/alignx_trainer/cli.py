"""`alignx-train`: train by a recipe, look at a recipe's data, export a checkpoint."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from alignx_eval.errors import AlignxError

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__)


def _bar(quiet: bool) -> Any:
    """A progress line on a terminal, a line every now and then elsewhere; both on stderr."""
    terminal = sys.stderr.isatty()

    def show(done: int, total: int, entry: dict[str, Any]) -> None:
        if quiet or not (terminal or done in (1, total) or done % max(1, total // 10) == 0):
            return
        parts = [f"step {done}/{total}", f"lm {entry['lm']:.3f}"]
        parts += [f"{name} {entry[name]:.3f}" for name in ("contrastive", "matching") if entry[name] is not None]
        remaining = entry["seconds"] / done * (total - done)
        parts += [f"{entry['tokens_per_second']:.0f} tokens/s", f"{remaining / 60:.1f} min left"]
        line = "  ".join(parts)
        print(f"\r\x1b[K{line}" if terminal else line, end="" if terminal and done < total else "\n", file=sys.stderr, flush=True)

    return show


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of a shipped recipe")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides, values in YAML")] = None,
    out: Annotated[Path | None, typer.Option(help="output folder; default: runs/RECIPE")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads")] = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="the same bits on every run with the same threads")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress")] = False,
) -> None:
    """Train by RECIPE and write OUT/model.pt and OUT/log.jsonl.

    \b
    alignx-train demo_stage1
    alignx-train paper_stage1 init=my_model.pt sources='[{kind: translation, path: ntrex}]'
    """
    from alignx_trainer.config import load_recipe

    settings = load_recipe(recipe, overrides)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    from alignx_trainer.train import train as run

    if threads is not None:
        torch.set_num_threads(threads)
    if deterministic:
        torch.use_deterministic_algorithms(True)
    folder = out or Path("runs") / Path(recipe).stem
    print(run(settings, folder, progress=_bar(quiet), command=shlex.join(["alignx-train", *sys.argv[1:]])))


@app.command()
def inspect(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of a shipped recipe")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="overrides, values in YAML")] = None,
    samples: Annotated[int, typer.Option(help="how many samples to show")] = 5,
) -> None:
    """Show what RECIPE would train on: the resolved recipe, the size of the work, samples with their spans."""
    from alignx_trainer.config import load_recipe

    settings = load_recipe(recipe, overrides)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from alignx_trainer.inspect import inspect as show

    print(show(settings, samples=samples, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="a .pt checkpoint")],
    folder: Annotated[Path, typer.Argument(help="a new Hugging Face folder")],
) -> None:
    """Write CHECKPOINT as a folder that transformers opens with `from_pretrained`."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from alignx_eval.checkpoint import export_folder

    export_folder(checkpoint, folder)
    print(folder)


def main() -> None:
    """Entry point: errors for users are one line and an exit code."""
    try:
        arguments = sys.argv[1:]
        # `alignx-train RECIPE` is short for `alignx-train train RECIPE`.
        commands = {"train", "inspect", "export"}
        if arguments and arguments[0] not in commands and not arguments[0].startswith("-"):
            arguments = ["train", *arguments]
        app(args=arguments, prog_name="alignx-train")
    except AlignxError as error:
        print(f"alignx-train: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as leave:  # typer's own: usage errors are 2, an interrupt is 130
        if leave.code == 130:
            print("alignx-train: interrupted; the same command goes on from the last saved step", file=sys.stderr)
        raise
    except Exception as error:
        if "ALIGNX_DEBUG" in os.environ:
            raise
        print(f"alignx-train: unexpected error: {type(error).__name__}: {error} (ALIGNX_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(1)
