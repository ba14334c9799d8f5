"""`alignx-eval run`: measure one checkpoint and keep the results for later comparisons."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from alignx_eval.cli import options as opt


def run(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CKPT", help="A .pt, Hugging Face folder, adapter folder, hub id, .gguf or bundled:NAME."
        ),
    ],
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
    config: opt.ConfigOption = None,
    out: opt.OutOption = None,
    output: opt.OutputOption = None,
    quiet: opt.QuietOption = None,
    debug: opt.DebugOption = False,
) -> None:
    """Measure one checkpoint. The run directory can stand for the checkpoint in `compare` later.

    \b
    Examples:
      alignx-eval run bundled:base
      alignx-eval run base.pt --suites layers,language_id --languages de,zh --out alignx-runs/base
      alignx-eval run model.gguf --corpus flores200/devtest --limit 100
    """
    given = {name: value for name, value in locals().items() if name not in ("checkpoint", "config", "debug")}
    from alignx_eval import processes
    from alignx_eval.cli.display import Display
    from alignx_eval.cli.output import write_outputs, write_reports
    from alignx_eval.errors import InputError
    from alignx_eval.judgement.report import make_report
    from alignx_eval.pipeline import comparing, plan
    from alignx_eval.settings import check_effective, settings_from
    from alignx_eval.sources import read_comparison, read_reference

    settings = settings_from(given, config)
    if junit := [name for name in settings.output if name.endswith(".xml")]:
        raise InputError(
            f"-o {junit[0]}: one checkpoint alone has no verdict, which JUnit needs; use `compare` or `gate`"
        )
    check_effective(given, settings, measures=True)
    source = read_reference(checkpoint)
    if source.run is not None:
        raise InputError(f"{checkpoint}: is a run directory already; show it with `alignx-eval report {checkpoint}`")
    with Display(quiet=settings.quiet or not processes.is_main()) as display:
        planned = plan([source], ["base"], settings, display)
        with comparing(planned, display) as (directory, comparison):
            if comparison is None:  # the main process does the rest
                return
            report = make_report(comparison)
            # The reports in the directory are of all that it holds, also where this command asked for less of it.
            more = set(directory.manifest["options"]["suites"]) != set(settings.suites)
            whole = make_report(read_comparison(directory, settings)) if more else report
            write_reports(whole, directory.path, settings)
            next_command = shlex.join(["alignx-eval", "compare", str(directory.path), "CANDIDATE"])
            write_outputs(report, settings, display, page=directory.path / "report.html", next_command=next_command)
