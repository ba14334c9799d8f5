"""The options that commands share: how they are declared, read from a YAML file, and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignx_eval.metrics import SUITES

# Every option is None where it was not given, so that a value from --config or from an earlier run can stand in.
SuitesOption = Annotated[
    str | None, typer.Option("--suites", metavar="LIST", help=f"Suites, comma-separated. [default: {','.join(SUITES)}]")
]
CorpusOption = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        metavar="NAME|FOLDER",
        help="Bundled corpus (interface, udhr) or a folder of eng_Latn.txt, deu_Latn.txt, ... [default: interface]",
    ),
]
SplitOption = Annotated[str | None, typer.Option("--split", help="Split of the corpus. [default: test]")]
LanguagesOption = Annotated[
    str | None,
    typer.Option(
        "--languages",
        metavar="LIST",
        help="FLORES codes, comma-separated; de, zh or German are resolved. [default: all of the corpus]",
    ),
]
PivotOption = Annotated[
    str | None,
    typer.Option(
        "--pivot",
        metavar="LANGUAGE",
        help="The language that every other is paired with, in `layers` and `translation`. [default: eng_Latn]",
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        "--limit", metavar="N", min=1, help="Only the first N lines of the corpus and N documents of each task."
    ),
]
PoolingOption = Annotated[
    str | None,
    typer.Option(
        "--pooling", help="How token states become a sentence vector: mean, last or weighted. [default: mean]"
    ),
]
WindowOption = Annotated[
    int | None,
    typer.Option(
        "--window",
        metavar="N",
        min=2,
        help="Tokens that a model sees at a time for bits per byte; longer lines roll. [default: 512]",
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Seed of probes, permutations and resampling. [default: 0]")
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1, mps, or auto to spread one model. [default: cuda if there is one, else cpu]",
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype", help="float32, bfloat16 or float16. [default: float32 on a CPU, else the checkpoint's own]"
    ),
]
OfflineOption = Annotated[
    bool | None,
    typer.Option(
        "--offline/--online",
        help="Whether the network may be used, for checkpoints and corpora of the hub. [default: offline]",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR",
        help="Where sentence vectors are cached. [default: $ALIGNX_EVAL_CACHE or ~/.cache/alignx-eval]",
    ),
]
SamplesOption = Annotated[
    bool | None,
    typer.Option(
        "--samples/--no-samples",
        help="Whether sentences of the corpus and what models wrote are stored and shown. [default: samples]",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="YAML file with these options by their long names; the command line wins."
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Run directory; what is complete in it is not measured again. [default: below alignx-runs/]",
    ),
]
OutputOption = Annotated[
    list[Path] | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Also write this file, format by suffix: .html .json .md .csv .junit.xml. Repeatable.",
    ),
]
TasksOption = Annotated[
    str | None,
    typer.Option(
        "--tasks", metavar="LIST", help="Tasks of the suite `tasks`, comma-separated; see `alignx-eval ls tasks`."
    ),
]
TemplateOption = Annotated[
    str | None,
    typer.Option(
        "--template",
        help=(
            "Prompt template for every checkpoint: plain or alpaca. [default: the first that a checkpoint names, else "
            "plain]"
        ),
    ),
]
PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="What may not regress, as YAML. [default: see `alignx-eval schema default-policy`]",
    ),
]
StrictOption = Annotated[
    bool | None,
    typer.Option("--strict", help="An inconclusive gate fails too, with exit code 4. With `compare`, implies --gate."),
]
AnnotationsOption = Annotated[
    bool | None, typer.Option("--annotations", help="Also print the verdict and the worst rows as GitHub annotations.")
]
AllowMismatchOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-mismatch",
        metavar="FIELD",
        help="Compare although this field of the fingerprints differs; every report says so. Repeatable.",
    ),
]
QuietOption = Annotated[
    bool | None, typer.Option("--quiet", "-q", help="No progress and no remarks on stderr; errors still appear.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
