"""`alignx-eval compare`: measure two or more checkpoints and say what differs, with evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignx_eval.cli import options as opt


def compare(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help="What to compare with: .pt, Hugging Face folder, adapter folder, hub id, .gguf, bundled:NAME, or a run directory.",
        ),
    ],
    candidates: Annotated[
        list[str],
        typer.Argument(
            metavar="CANDIDATE", help="One or more checkpoints or run directories. DIR#LABEL picks one checkpoint of a run directory."
        ),
    ],
    control: Annotated[
        str | None,
        typer.Option(
            "--control",
            metavar="CKPT",
            help="A checkpoint that was trained on the same tokens without alignment; candidate minus control is the effect of alignment.",
        ),
    ] = None,
    suites: opt.SuitesOption = None,
    corpus: opt.CorpusOption = None,
    split: opt.SplitOption = None,
    languages: opt.LanguagesOption = None,
    limit: opt.LimitOption = None,
    tasks: opt.TasksOption = None,
    template: opt.TemplateOption = None,
    pooling: opt.PoolingOption = None,
    seed: opt.SeedOption = None,
    device: opt.DeviceOption = None,
    dtype: opt.DtypeOption = None,
    offline: opt.OfflineOption = None,
    cache_dir: opt.CacheOption = None,
    samples: opt.SamplesOption = None,
    allow_mismatch: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-mismatch",
            metavar="FIELD",
            help="Compare although this field of the fingerprints differs; the report says so. Repeatable.",
        ),
    ] = None,
    config: opt.ConfigOption = None,
    out: opt.OutOption = None,
    output: opt.OutputOption = None,
    quiet: opt.QuietOption = None,
    debug: opt.DebugOption = False,
) -> None:
    """Measure checkpoints and compare each candidate with the base, and with the control if there is one.

    Writes a run directory with results.json, samples.jsonl, report.html and summary.md, and prints the findings.
    Interrupted, it goes on where it stopped when the same command is given again. Works without a network.

    \b
    Examples:
      alignx-eval compare bundled:base bundled:alignx --control bundled:tuned
      alignx-eval compare base.pt stage1.pt stage2.pt --suites layers,language_modelling --languages de,zh,tr
      alignx-eval compare ./llama ./llama-aligned --corpus flores200/devtest --limit 200 -o report.html -o rows.csv
      alignx-eval compare alignx-runs/base new.pt --out alignx-runs/new

    \b
    Exit codes: 0 done, whatever the findings; 2 wrong usage or input; 5 the results do not compare;
    6 something is missing and the network is off.
    """
    given = {name: value for name, value in locals().items() if name not in ("base", "candidates", "config", "debug")}
    from alignx_eval.cli.display import Display
    from alignx_eval.cli.measuring import default_out, inherited_options, measure, plan, read_reference, write_outputs
    from alignx_eval.run_directory import RunDirectory

    settings = opt.settings_from(given, config)  # before anything is opened, so that a wrong option is told first
    sources = [read_reference(reference) for reference in (base, *candidates, *([settings.control] if settings.control else []))]
    roles = ["base"] + ["candidate"] * len(candidates) + ["control"] * bool(settings.control)
    if inherited := inherited_options(sources):
        settings = opt.settings_from(given, config, inherited)
    planned = plan(sources, roles, settings)
    directory = RunDirectory(Path(settings.out).expanduser() if settings.out else default_out(sources))
    with directory.lock(), Display(quiet=settings.quiet) as display:
        display.say(f"run directory: {directory.path}")
        labels, results, checkpoints = measure(planned, directory, display)
        from alignx_eval.comparison import compare as compare_results

        comparison = compare_results(
            results,
            base=labels[0],
            candidates=[label for label, role in zip(labels, roles) if role == "candidate"],
            control=labels[-1] if settings.control else None,
            checkpoints=checkpoints,
            corpus=planned.corpus_facts,
            seed=settings.seed,
            allow_mismatch=settings.allow_mismatch,
        )
        write_outputs(comparison, directory, settings.output, display)
