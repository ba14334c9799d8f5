"""The command `alignx-eval`: one module per command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import traceback

import typer

from alignx_eval import __version__
from alignx_eval.cli import bless, compare, gate, ls, report, run, schema
from alignx_eval.cli.options import ensure_home
from alignx_eval.errors import AlignxError

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


def _print_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def alignx_eval(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
) -> None:
    """Did multilingual alignment help, where, and at what price?

    \b
    Examples:
      alignx-eval compare bundled:base bundled:alignx --control bundled:tuned
      alignx-eval compare base.pt aligned.pt --corpus flores200/devtest --languages de,zh,sw -o report.html
      alignx-eval compare base.pt aligned.pt --gate
      alignx-eval ls suites

    \b
    Exit codes: 0 done, gate passed; 1 unexpected error; 2 wrong usage or input, or an incomplete gate; 3 a regression; 4 inconclusive
    under --strict; 5 results that do not compare; 6 something is missing and the network is off; 130 interrupted. An error is one line;
    --debug shows where it came from.
    """


def _say_interrupted() -> None:
    print("interrupted; the same command goes on where it was", file=sys.stderr, flush=True)


def main() -> None:
    """Entry point: errors meant for the user end in one line on stderr and their exit code."""
    debug = "--debug" in sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):  # sentences in every script, whatever the locale says
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    ensure_home()
    try:
        app()
    except SystemExit as stopped:
        if stopped.code == 130:  # what typer makes of KeyboardInterrupt
            _say_interrupted()
        raise
    except KeyboardInterrupt:
        _say_interrupted()
        sys.exit(130)
    except BrokenPipeError:  # the reader of stdout has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except AlignxError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            traceback.print_exc()
        message = " ".join(str(error).split())
        print(f"unexpected error: {type(error).__name__}: {message} (run again with --debug to see where)", file=sys.stderr)
        sys.exit(1)
    finally:
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # what is left to do is to go; nothing of it can be interrupted
