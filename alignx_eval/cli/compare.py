"""`alignx-eval compare`: measure two or more checkpoints and say what differs, with evidence."""

from __future__ import annotations

from typing import Annotated

import typer

from alignx_eval.cli import options as opt


def compare(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE",
            help=(
                "What to compare with: .pt, Hugging Face folder, adapter folder, hub id, .gguf, bundled:NAME, or a run "
                "directory."
            ),
        ),
    ],
    candidates: Annotated[
        list[str],
        typer.Argument(
            metavar="CANDIDATE",
            help="One or more checkpoints or run directories. DIR#LABEL picks one checkpoint of a run directory.",
        ),
    ],
    control: Annotated[
        str | None,
        typer.Option(
            "--control",
            metavar="CKPT",
            help=(
                "A checkpoint that was trained on the same tokens without alignment; candidate minus control is the "
                "effect of alignment."
            ),
        ),
    ] = None,
    suites: opt.SuitesOption = None,
    corpus: opt.CorpusOption = None,
    split: opt.SplitOption = None,
    languages: opt.LanguagesOption = None,
    pivot: opt.PivotOption = None,
    limit: opt.LimitOption = None,
    tasks: opt.TasksOption = None,
    template: opt.TemplateOption = None,
    pooling: opt.PoolingOption = None,
    window: opt.WindowOption = None,
    seed: opt.SeedOption = None,
    device: opt.DeviceOption = None,
    dtype: opt.DtypeOption = None,
    offline: opt.OfflineOption = None,
    cache_dir: opt.CacheOption = None,
    samples: opt.SamplesOption = None,
    allow_mismatch: opt.AllowMismatchOption = None,
    gate: Annotated[
        bool | None, typer.Option("--gate", help="Exit with 3 where a loss is larger than the policy tolerates.")
    ] = None,
    policy: opt.PolicyOption = None,
    strict: opt.StrictOption = None,
    series: Annotated[
        bool | None,
        typer.Option(
            "--series",
            help=(
                "The candidates are steps of one training: draw trajectories, name the first step that fails the gate."
            ),
        ),
    ] = None,
    annotations: opt.AnnotationsOption = None,
    config: opt.ConfigOption = None,
    out: opt.OutOption = None,
    output: opt.OutputOption = None,
    quiet: opt.QuietOption = None,
    debug: opt.DebugOption = False,
) -> None:
    """Measure checkpoints and compare each candidate with the base, and with the control if there is one.

    Writes a run directory with results.json, samples.jsonl, report.html, summary.md and junit.xml, and prints the
    findings. With --gate or --strict the verdict of the gate comes first, and the exit code follows it.
    Interrupted, it goes on where it stopped when the same command is given again. Works without a network.

    \b
    Examples:
      alignx-eval compare bundled:base bundled:alignx --control bundled:tuned
      alignx-eval compare base.pt stage1.pt stage2.pt --suites layers,language_modelling --languages de,zh,tr
      alignx-eval compare ./llama ./llama-aligned --corpus flores200/devtest --limit 200 -o report.html -o rows.csv
      alignx-eval compare alignx-runs/base new.pt --out alignx-runs/new
      alignx-eval compare base.pt alignx.pt --gate --policy gate.yaml -o verdict.junit.xml
      alignx-eval compare base.pt step-*.pt --series

    \b
    Exit codes: 0 done (with --gate: no loss beyond tolerance); 2 wrong usage or input, or an incomplete gate; 3 a
    regression (--gate); 4 inconclusive (--strict); 5 the results do not compare; 6 something is missing and the network
    is off.
    """
    given = {name: value for name, value in locals().items() if name not in ("base", "candidates", "config", "debug")}
    from alignx_eval import processes
    from alignx_eval.cli.display import Display
    from alignx_eval.cli.output import write_outputs, write_reports
    from alignx_eval.errors import InputError
    from alignx_eval.judgement.report import make_report
    from alignx_eval.pipeline import comparing, plan
    from alignx_eval.settings import check_effective, settings_from
    from alignx_eval.sources import policy_facts, read_comparison, read_policy, sources_of

    settings = settings_from(given, config)  # before anything is opened, so that a wrong option is told first
    sources, roles, inherited = sources_of(base, candidates, settings.control)
    if inherited:
        settings = settings_from(given, config, inherited)
    check_effective(given, settings, measures=any(source.run is None for source in sources))
    rules, name = read_policy(settings)
    enforced = settings.gate or settings.strict
    if settings.series and len(candidates) < 2:
        raise InputError("--series: at least two candidates are needed")
    if rules.against == "control" and not settings.control:
        raise InputError(
            "the policy gates against the control, and there is none: give --control, or set `against: base` in the "
            "policy"
        )
    with Display(quiet=settings.quiet or not processes.is_main()) as display:
        planned = plan(sources, roles, settings, display)
        with comparing(planned, display, policy_facts(rules, name, enforced)) as (directory, comparison):
            if comparison is None:  # the main process does the rest
                return
            report = make_report(comparison, rules, policy_name=name, enforced=enforced)
            # The reports in the directory are of all that it holds, also where this command asked for less of it.
            whole = report
            if set(directory.manifest["options"]["suites"]) != set(settings.suites):
                whole = make_report(read_comparison(directory, settings), rules, policy_name=name, enforced=enforced)
            write_reports(whole, directory.path, settings)
            write_outputs(report, settings, display, page=directory.path / "report.html")
    if enforced:
        assert report.verdict is not None
        raise typer.Exit(report.verdict.exit_code(strict=settings.strict))
