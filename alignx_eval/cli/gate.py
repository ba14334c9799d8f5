"""`alignx-eval gate`: is any loss larger than tolerated? From results on disk, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignx_eval.cli import options as opt


def gate(
    result: Annotated[
        str,
        typer.Argument(
            metavar="RESULT",
            help="Run directory of a comparison; with --baseline, of one checkpoint (DIR#LABEL picks one of several).",
        ),
    ],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="FILE", help="Compare with what `bless` wrote.")
    ] = None,
    policy: opt.PolicyOption = None,
    strict: opt.StrictOption = None,
    allow_mismatch: opt.AllowMismatchOption = None,
    annotations: opt.AnnotationsOption = None,
    output: opt.OutputOption = None,
    quiet: opt.QuietOption = None,
    debug: opt.DebugOption = False,
) -> None:
    """Judge results by a policy. No model is opened, and nothing is written but the files of -o.

    Without --policy, the policy is the one that the comparison was made with, or that the baseline was blessed with.

    \b
    Examples:
      alignx-eval gate alignx-runs/base-alignx-3fa9c1
      alignx-eval gate measured/candidate --baseline alignx-baseline.json -o verdict.junit.xml
      alignx-eval gate measured/candidate --baseline alignx-baseline.json --policy gate.yaml --strict

    \b
    Exit codes: 0 no loss beyond tolerance; 2 wrong usage or input, or an incomplete gate; 3 a regression; 4
    inconclusive (--strict); 5 the results do not compare.
    """
    given = {name: value for name, value in locals().items() if name not in ("result", "baseline", "debug")}
    from alignx_eval.cli.display import Display
    from alignx_eval.cli.output import write_outputs
    from alignx_eval.errors import InputError
    from alignx_eval.files import check_file
    from alignx_eval.judgement.gate import judge
    from alignx_eval.judgement.report import report_of
    from alignx_eval.run_directory import RunDirectory
    from alignx_eval.settings import settings_from
    from alignx_eval.sources import check_finished, read_comparison, read_finished, read_policy

    settings = settings_from(given, None)
    for file in settings.output:
        check_file(f"-o {file}", Path(file).expanduser())
    folder, _, label = result.partition("#")
    directory = RunDirectory.read(folder)
    with Display(quiet=settings.quiet) as display:
        if baseline is None:
            if label:
                raise InputError(
                    f"{result}: one checkpoint alone cannot be gated; give --baseline, or the whole comparison: "
                    f"{folder}"
                )
            check_finished(directory)
            rules, name = read_policy(settings, directory)
            comparison = read_comparison(directory, settings)
        else:
            from alignx_eval.judgement.baseline import compare_with, load

            blessed = load(baseline)
            rules, name = read_policy(settings) if settings.policy else (blessed.policy, f"policy of {baseline}")
            measured = read_finished(directory, label)
            comparison = compare_with(
                blessed,
                measured.results,
                label=measured.label,
                checkpoint=measured.checkpoint,
                corpus=measured.corpus,
                policy=rules,
                allow_mismatch=settings.allow_mismatch,
                seed=measured.seed,
            )
        verdict = judge(comparison, rules, policy_name=name, enforced=True)
        write_outputs(report_of(comparison, verdict), settings, display)
    raise typer.Exit(verdict.exit_code(strict=settings.strict))
