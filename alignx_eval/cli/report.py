"""`alignx-eval report`: make the report of a run directory again, without a model."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from alignx_eval.cli import options as opt


def report(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="What `compare` or `run` wrote.")],
    output: opt.OutputOption = None,
    samples: opt.SamplesOption = None,
    allow_mismatch: opt.AllowMismatchOption = None,
    policy: opt.PolicyOption = None,
    annotations: opt.AnnotationsOption = None,
    quiet: opt.QuietOption = None,
    debug: opt.DebugOption = False,
) -> None:
    """Compute the comparison of a run directory again from its results and write its reports. No model is opened.

    \b
    Examples:
      alignx-eval report alignx-runs/base-alignx-3fa9c1
      alignx-eval report alignx-runs/base-alignx-3fa9c1 -o rows.csv -o summary.md
    """
    given = {name: value for name, value in locals().items() if name not in ("run_directory", "debug")}
    from alignx_eval.cli.display import Display
    from alignx_eval.cli.output import write_outputs, write_reports
    from alignx_eval.errors import InputError
    from alignx_eval.files import check_file
    from alignx_eval.judgement.report import make_report
    from alignx_eval.run_directory import RunDirectory
    from alignx_eval.settings import settings_from
    from alignx_eval.sources import read_comparison, read_policy, unfinished

    settings = settings_from(given, None)
    for file in settings.output:
        check_file(f"-o {file}", Path(file).expanduser())
    directory = RunDirectory.read(run_directory)
    idle = [name for name in ("policy", "allow_mismatch", "annotations") if given[name]]
    if idle and not directory.manifest.get("candidates"):
        raise InputError(
            f"--{idle[0].replace('_', '-')}: {run_directory} holds one checkpoint, and nothing is compared"
        )
    rules, name = read_policy(settings, directory)
    writable = os.access(directory.path, os.W_OK)
    with Display(quiet=settings.quiet) as display, directory.lock() if writable else nullcontext():
        if why := unfinished(directory):
            display.say(
                f"{run_directory}: {why}; the report shows what is there, and the same command again goes on with it"
            )
        enforced = bool((directory.manifest.get("policy") or {}).get("enforced"))
        found = make_report(read_comparison(directory, settings), rules, policy_name=name, enforced=enforced)
        if writable:
            write_reports(found, directory.path, settings)
        else:
            display.say(
                f"{run_directory}: cannot be written to, so the reports in it were not made again; those of -o are"
            )
        write_outputs(found, settings, display, page=directory.path / "report.html" if writable else None)
