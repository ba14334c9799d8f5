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
    allow_mismatch: Annotated[
        list[str] | None, typer.Option("--allow-mismatch", metavar="FIELD", help="As for `compare`. Repeatable.")
    ] = None,
    quiet: opt.QuietOption = None,
    debug: opt.DebugOption = False,
) -> None:
    """Compute the comparison of a run directory again from its results and write report.html and summary.md. No model is opened.

    \b
    Examples:
      alignx-eval report alignx-runs/base-alignx-3fa9c1
      alignx-eval report alignx-runs/base-alignx-3fa9c1 -o rows.csv -o summary.md
    """
    from alignx_eval.cli.display import Display
    from alignx_eval.cli.measuring import check_outputs, write_outputs
    from alignx_eval.comparison import compare as compare_results
    from alignx_eval.errors import InputError
    from alignx_eval.run_directory import RunDirectory

    settings = opt.settings_from({"output": output, "samples": samples, "quiet": quiet, "allow_mismatch": allow_mismatch}, None)
    check_outputs(settings.output)
    directory = RunDirectory.read(run_directory)
    manifest = directory.manifest
    base, candidates, control = manifest.get("base"), list(manifest.get("candidates") or []), manifest.get("control")
    missing = [label for label in (base, *candidates, control) if label is not None and label not in directory.labels()]
    if base is None or missing:
        raise InputError(
            f"{run_directory}: nothing is finished for {', '.join(missing) or 'its base'}; run the same command again to go on with it"
        )
    with directory.lock(), Display(quiet=settings.quiet) as display:
        if manifest.get("status") != "complete":
            display.say(f"{run_directory}: not complete, the report shows what is there; run the same command again to go on with it")
        wanted = manifest.get("options", {}).get("suites") or []
        results = {
            label: {suite: result for suite, result in directory.results(label).items() if suite in wanted or not wanted}
            for label in dict.fromkeys(label for label in (base, *candidates, control) if label is not None)
        }
        if not settings.samples:
            for result in (result for suites in results.values() for result in suites.values()):
                result.samples = []
        comparison = compare_results(
            results,
            base=base,
            candidates=candidates,
            control=control,
            checkpoints=manifest.get("checkpoints", {}),
            corpus=manifest.get("corpus", {}),
            seed=int(manifest.get("options", {}).get("seed", 0)),
            allow_mismatch=settings.allow_mismatch,
        )
        write_outputs(comparison, directory, settings.output, display)
