"""Errors a user can act on. The command line prints their message as one line and exits with `exit_code`; no
traceback."""


class AlignxError(Exception):
    """Base of the errors that are meant for the user: what happened, which input, what to do."""

    exit_code = 1


class InputError(AlignxError):
    """The input is wrong: a bad path, file, option, language or corpus."""

    exit_code = 2


class NotComparableError(AlignxError):
    """Two results were measured differently, so their numbers do not compare."""

    exit_code = 5


class MissingAssetError(AlignxError):
    """Something has to be fetched and the network is off, or an optional dependency is not installed."""

    exit_code = 6
