"""The options of one job: command line over file over earlier run over defaults, checked."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from alignx_eval.errors import InputError
from alignx_eval.metrics import SUITES

OUTPUT_SUFFIXES = (".html", ".json", ".md", ".csv", ".xml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options after command line, configuration file and defaults are put together."""

    suites: tuple[str, ...] = tuple(SUITES)
    corpus: str = "interface"
    split: str = "test"
    languages: tuple[str, ...] | None = None
    limit: int | None = None
    pooling: str = "mean"
    window: int = 512
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
    offline: bool = True
    cache_dir: str | None = None
    samples: bool = True
    out: str | None = None
    output: tuple[str, ...] = ()
    tasks: tuple[str, ...] | None = None
    template: str | None = None
    quiet: bool = False
    control: str | None = None
    allow_mismatch: tuple[str, ...] = ()
    gate: bool = False
    policy: str | None = None
    strict: bool = False
    series: bool = False
    annotations: bool = False

    def measuring(self) -> dict[str, Any]:
        """The options that decide what is measured, as they go into the manifest."""
        names = ("suites", "corpus", "split", "languages", "limit", "pooling", "window", "seed", "tasks", "template")
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}


LISTS = ("suites", "languages", "tasks", "output", "allow_mismatch")


SWITCHES = ("offline", "samples", "quiet", "gate", "strict", "series", "annotations")


TYPES: dict[str, type] = {"limit": int, "window": int, "seed": int} | dict.fromkeys(SWITCHES, bool)


# Options that decide how a checkpoint is measured, and the suites that read them. --seed also decides resampling, and --offline and
# --no-samples are promises more than settings: these are never out of place.
_OF_TEXT = tuple(suite for suite in SUITES if suite != "tasks")


MEASURING: dict[str, tuple[str, ...]] = {
    "corpus": _OF_TEXT,
    "split": _OF_TEXT,
    "languages": tuple(SUITES),
    "limit": tuple(SUITES),
    "tasks": ("tasks",),
    "template": ("translation",),
    "pooling": ("layers", "language_id"),
    "window": ("language_modelling",),
    "device": tuple(SUITES),
    "dtype": tuple(SUITES),
}


# Options that decide nothing about a number, and still matter to some suites alone.
FURTHER: dict[str, tuple[str, ...]] = {"cache_dir": ("layers", "language_id")}


def check_effective(given: Mapping[str, Any], settings: Settings, *, measures: bool) -> None:
    """Raise InputError for an option on the command line that can have no effect: it would be believed to have had one.

    `measures`: whether any input is a checkpoint, not a run directory. What stands in a file of --config is not looked at, since such a
    file may serve several commands.
    """
    used = {name for name, value in given.items() if value is not None}
    idle = [name for name in MEASURING if name in used]
    if idle and not measures:
        raise InputError(
            f"{_flags(idle)}: nothing is measured, all inputs are run directories; leave it out, or give checkpoints"
        )
    for name, suites in (MEASURING | FURTHER).items():
        if name in used and not set(suites) & set(settings.suites):
            raise InputError(
                f"{_flags([name])}: only {' and '.join(suites)} {'use' if len(suites) > 1 else 'uses'} it, and --suites is "
                f"{','.join(settings.suites)}; leave it out, or add a suite"
            )
    if "languages" in used and settings.suites == ("tasks",) and settings.tasks is not None:
        raise InputError(
            "--languages: the tasks that --tasks names have languages of their own; leave one of the two out"
        )
    if given.get("annotations") and not (settings.gate or settings.strict):
        raise InputError("--annotations: they tell the verdict of a gate; add --gate")


def _flags(names: Sequence[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def settings_from(
    given: Mapping[str, Any], config: Path | None, inherited: Mapping[str, Any] | None = None
) -> Settings:
    """`given` (command line) over `config` (YAML file) over `inherited` (the options of an earlier run) over the defaults.

    Values may be strings with commas or sequences. Raises InputError for unknown names and wrong types.
    """
    chosen: dict[str, Any] = {}
    for source in (inherited or {}, _read_config(config) if config else {}, given):
        chosen |= {name: _checked(name, value) for name, value in source.items() if value is not None}
    settings = Settings(**chosen)
    _check_outputs(settings.output)
    return replace(
        settings, suites=_checked_suites(settings.suites), languages=_resolved(settings.languages, settings.quiet)
    )


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    from alignx_eval.plain_yaml import read_yaml

    try:
        document = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InputError(f"{path}: a mapping of option names to values is needed")
    known = {field.name for field in fields(Settings)}
    options = {}
    for name, value in document.items():
        plain = str(name).replace("-", "_")
        if plain in ("no_samples", "online") and isinstance(value, bool):
            plain, value = {"no_samples": "samples", "online": "offline"}[plain], not value
        if plain not in known:
            near = difflib.get_close_matches(plain, known, 1)
            raise InputError(
                f"{path}: unknown option {name!r}" + (f"; did you mean {near[0].replace('_', '-')}?" if near else "")
            )
        options[plain] = value
    return options


def _checked(name: str, value: Any) -> Any:
    if name in LISTS:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise InputError(f"option {name}: a list or comma-separated text is needed, not {value!r}")
        return tuple(str(part).strip() for part in parts if str(part).strip())
    wanted = TYPES.get(name, str)
    if wanted is str:
        return str(value)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise InputError(
            f"option {name}: {'true or false' if wanted is bool else 'a whole number'} is needed, not {value!r}"
        )
    if name == "limit" and isinstance(value, int) and value < 1:
        raise InputError(f"option limit: at least 1 is needed, not {value}")
    if name == "window" and isinstance(value, int) and value < 2:
        raise InputError(f"option window: at least 2 is needed, not {value}")
    return value


def _checked_suites(suites: tuple[str, ...]) -> tuple[str, ...]:
    from alignx_eval.metrics import check_suites

    return check_suites(suites)


def _check_outputs(outputs: tuple[str, ...]) -> None:
    for output in outputs:
        if Path(output).suffix not in OUTPUT_SUFFIXES:
            raise InputError(f"-o {output}: the format follows the suffix, one of {' '.join(OUTPUT_SUFFIXES)}")


def _resolved(languages: tuple[str, ...] | None, quiet: bool) -> tuple[str, ...] | None:
    """FLORES codes, each once; what stood for them is printed to stderr."""
    if languages is None:
        return None
    from alignx_eval.languages import LANGUAGES, resolve_language

    codes = []
    for text in languages:
        code = resolve_language(text)
        if code != text and not quiet:
            print(f"language {text} is {code} ({LANGUAGES[code].name})", file=sys.stderr)
        codes.append(code)
    if not codes:
        raise InputError("--languages: no language given")
    return tuple(dict.fromkeys(codes))
