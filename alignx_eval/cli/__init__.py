"""The command `alignx-eval`: one module per command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys

import typer

from alignx_eval.cli import bless, compare, entry, gate, ls, report, run, schema

app = typer.Typer(
    name="alignx-eval",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("compare")(compare.compare)
app.command("run")(run.run)
app.command("gate")(gate.gate)
app.command("bless")(bless.bless)
app.command("report")(report.report)
app.command("ls")(ls.ls)
app.command("schema")(schema.schema)


@app.callback()
def alignx_eval(version: entry.VersionOption = False) -> None:
    """Did multilingual alignment help, where, and at what price?

    \b
    Examples:
      alignx-eval compare bundled:base bundled:alignx --control bundled:tuned
      alignx-eval compare base.pt aligned.pt --corpus flores200/devtest --languages de,zh,sw -o report.html
      alignx-eval compare base.pt aligned.pt --gate
      alignx-eval ls suites

    \b
    Exit codes: 0 done, gate passed; 1 unexpected error; 2 wrong usage or input, or an incomplete gate; 3 a regression;
    4 inconclusive under --strict; 5 results that do not compare; 6 something is missing and the network is off; 130
    interrupted. An error is one line; --debug shows where it came from.
    """


def main() -> None:
    """Entry point of the command."""
    entry.run(app, "alignx-eval", sys.argv[1:])
