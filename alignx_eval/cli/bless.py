"""`alignx-eval bless`: write the baseline that later gates compare with. No other command writes one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignx_eval.cli import options as opt


def bless(
    result: Annotated[
        str, typer.Argument(metavar="RESULT", help="Run directory of one checkpoint (DIR#LABEL picks one of several).")
    ],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="The baseline. [default: alignx-baseline.json]")
    ] = None,
    policy: opt.PolicyOption = None,
    quiet: opt.QuietOption = None,
    debug: opt.DebugOption = False,
) -> None:
    """Write the gated numbers of a measured checkpoint, with their statistics per item, into a small file to commit.

    It holds no weights and no text. What changed against the file that was there is printed.

    \b
    Examples:
      alignx-eval bless measured/base
      alignx-eval bless measured/base --to baselines/base.json --policy gate.yaml

    \b
    Exit codes: 0 written; 2 wrong usage or input: nothing is written.
    """
    import time

    from alignx_eval.errors import AlignxError, InputError
    from alignx_eval.judgement.baseline import DEFAULT_NAME, changes, load, looks_like_baseline, make, write
    from alignx_eval.run_directory import RunDirectory
    from alignx_eval.settings import settings_from
    from alignx_eval.sources import read_finished, read_policy

    path = to or Path(DEFAULT_NAME)
    settings = settings_from({"policy": policy, "quiet": quiet}, None)
    rules, name = read_policy(settings)
    measured = read_finished(RunDirectory.read(result.partition("#")[0]), result.partition("#")[2])
    baseline, verdict = make(
        measured.results,
        policy=rules,
        checkpoint=measured.checkpoint,
        corpus=measured.corpus,
        software=measured.software,
        version=measured.version,
        blessed=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    told = []
    if path.expanduser().exists():
        if not looks_like_baseline(path):
            raise InputError(f"{path}: is there and is no baseline; choose another file with --to")
        try:
            told = changes(load(path), baseline, measured.results) or ["nothing changed but the date"]
        except AlignxError as error:
            told = [f"the baseline that was there could not be compared with: {error}"]
    size = write(baseline, path)
    judged = sum(row.status in ("green", "amber", "red") for row in verdict.candidates[0].rows)
    print(f"blessed {measured.label}: {len(baseline.rows)} rows by {name} to {path} ({size / 1e3:.0f} kB)")
    if judged < len(verdict.candidates[0].rows):
        print(
            f"{len(verdict.candidates[0].rows) - judged} of {len(verdict.candidates[0].rows)} gated rows have too "
            "little data to be judged"
        )
    for line in told:
        print(line)
