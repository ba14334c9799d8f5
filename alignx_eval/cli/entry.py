"""How a command ends: whatever goes wrong is one line on stderr and an exit code. `alignx-eval` and `alignx-train`
share it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from alignx_eval import __version__
from alignx_eval.environment import ensure_home, silence
from alignx_eval.errors import AlignxError, NotComparableError


def _print_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit()


VersionOption = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
]


def run(app: typer.Typer, name: str, arguments: Sequence[str]) -> NoReturn:
    """Run the command line `name ARGUMENTS` and exit: with what the command says (`typer.Exit`), the exit code of an
    AlignxError, 2 for wrong usage, 130 where it was interrupted, else 1 for an unexpected error. --debug shows where an
    error came from."""
    debug = "--debug" in sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):  # sentences in every script, whatever the locale says
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    ensure_home()
    if not debug:
        silence()
    try:
        code = (
            app(args=list(arguments), prog_name=name, standalone_mode=False) or 0
        )  # 130 is what typer makes of KeyboardInterrupt
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of stdout has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except typer.TyperException as error:
        code = error.exit_code
        _say(_usage_error(error))
    except AlignxError as error:
        code = error.exit_code
        if debug:
            traceback.print_exc()
        # The table of what differs is easier to read as one.
        _say(f"error: {error if isinstance(error, NotComparableError) else _one_line(error)}")
    except Exception as error:
        code = 1
        if debug:
            traceback.print_exc()
        if isinstance(error, typer.Abort) and isinstance(error.__cause__, Exception):  # what typer makes of EOFError
            error = error.__cause__
        text = f"unexpected error: {type(error).__name__}: {_one_line(error)} (run again with --debug to see where)"
        print(text, file=sys.stderr, flush=True)
    finally:
        atexit.register(
            signal.signal, signal.SIGINT, signal.SIG_IGN
        )  # what is left to do is to go; nothing of it can be interrupted
    if code == 130:
        _say("interrupted; the same command goes on where it was")
    sys.exit(code)


def _say(text: str) -> None:
    """Of the processes that a launcher started on one machine, which all meet the same error, one says so."""
    if int(os.environ.get("LOCAL_RANK") or 0) == 0:
        print(text, file=sys.stderr, flush=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).splitlines())


def _usage_error(error: typer.TyperException) -> str:
    message = error.format_message()
    if "\n" in message:  # without any argument: the help
        return message
    context = getattr(error, "ctx", None)
    return f"error: {message.rstrip('.')}" + (f"; see `{context.command_path} -h`" if context is not None else "")
