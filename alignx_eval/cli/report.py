"""`alignx-eval report`: make the report of a run directory again, without a model."""

from __future__ import annotations

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
    from alignx_eval.cli.measuring import check_outputs, read_comparison, read_policy, write_outputs
    from alignx_eval.gate import judge
    from alignx_eval.run_directory import RunDirectory

    settings = opt.settings_from(given, None)
    check_outputs(settings.output)
    directory = RunDirectory.read(run_directory)
    rules, name = read_policy(settings, directory)
    with directory.lock(), Display(quiet=settings.quiet) as display:
        if directory.manifest.get("status") != "complete":
            display.say(f"{run_directory}: not complete, the report shows what is there; run the same command again to go on with it")
        comparison = read_comparison(directory, settings)
        enforced = bool((directory.manifest.get("policy") or {}).get("enforced"))
        verdict = judge(comparison, rules, policy_name=name, enforced=enforced) if comparison.candidates else None
        write_outputs(comparison, verdict, directory.path, settings, display)
