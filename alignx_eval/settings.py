"""The options of one job: command line over file over earlier run over defaults, each of its own type and nothing
else."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from alignx_eval.errors import InputError
from alignx_eval.languages import DEFAULT_PIVOT, LANGUAGES, resolve_language
from alignx_eval.metrics import SUITES, check_suites

OUTPUT_SUFFIXES = (".html", ".json", ".md", ".csv", ".xml")


def _names(value: Any) -> Any:
    """A list of names, which may also be written as text with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return value
    texts = [str(part) if isinstance(part, Path) else part for part in parts]
    return tuple(text.strip() if isinstance(text, str) else text for text in texts if text != "")


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Text = Annotated[str, BeforeValidator(_text)]


class Settings(BaseModel):
    """The options after command line, configuration file and defaults are put together. Types are strict: true is no 1,
    and 1 no text."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    suites: Names = tuple(SUITES)
    corpus: Text = "interface"
    split: Text = "test"
    languages: Names | None = None
    pivot: Text = DEFAULT_PIVOT
    limit: int | None = Field(default=None, ge=1)
    pooling: Text = "mean"
    window: int = Field(default=512, ge=2)
    seed: int = 0
    device: Text | None = None
    dtype: Text | None = None
    offline: bool = True
    cache_dir: Text | None = None
    samples: bool = True
    out: Text | None = None
    output: Names = ()
    tasks: Names | None = None
    template: Text | None = None
    quiet: bool = False
    control: Text | None = None
    allow_mismatch: Names = ()
    gate: bool = False
    policy: Text | None = None
    strict: bool = False
    series: bool = False
    annotations: bool = False

    def measuring(self) -> dict[str, Any]:
        """The options that decide what is measured, as they go into the manifest. A pivot stands there where it is not
        the default, so that earlier runs are known again."""
        names = ("suites", "corpus", "split", "languages", "limit", "pooling", "window", "seed", "tasks", "template")
        chosen = {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}
        return chosen | ({"pivot": self.pivot} if self.pivot != DEFAULT_PIVOT else {})


# Options that decide how a checkpoint is measured, and the suites that read them. --seed also decides resampling, and
# --offline and --no-samples are promises more than settings: these are never out of place.
_OF_TEXT = tuple(suite for suite in SUITES if suite != "tasks")
MEASURING: dict[str, tuple[str, ...]] = {
    "corpus": _OF_TEXT,
    "split": _OF_TEXT,
    "languages": tuple(SUITES),
    "pivot": ("layers", "translation"),
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

    `measures`: whether any input is a checkpoint, not a run directory. What stands in a file of --config is not looked
    at, since such a file may serve several commands.
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
                f"{_flags([name])}: only {' and '.join(suites)} {'use' if len(suites) > 1 else 'uses'} it, and "
                "--suites is "
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
    given: Mapping[str, Any], config: Path | None = None, inherited: Mapping[str, Any] | None = None
) -> Settings:
    """`given` (command line) over `config` (YAML file) over `inherited` (the options of an earlier run) over the
    defaults.

    What is None was not given. Lists may be text with commas. Raises InputError, one line that names the option, for
    unknown names and wrong types.
    """
    chosen: dict[str, Any] = {}
    from_file = _read_config(config) if config else {}
    for source in (inherited or {}, from_file, given):
        chosen |= {name: value for name, value in source.items() if value is not None}
    try:
        settings = Settings.model_validate(chosen)
    except ValidationError as error:
        name = error.errors()[0]["loc"][0]
        where = f"{config}: " if name in from_file and given.get(str(name)) is None else ""
        raise InputError(where + _problem(error)) from None
    for output in settings.output:
        if Path(output).suffix not in OUTPUT_SUFFIXES:
            raise InputError(f"-o {output}: the format follows the suffix, one of {' '.join(OUTPUT_SUFFIXES)}")
    told = settings.pivot in (settings.languages or ())
    resolved = {
        "suites": check_suites(settings.suites),
        "languages": _resolved("languages", settings.languages, settings.quiet),
        "pivot": (_resolved("pivot", (settings.pivot,), settings.quiet or told) or ("",))[0],
    }
    return settings.model_copy(update=resolved)


# What is needed, by pydantic's name of what is wrong.
_NEEDED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "string_type": "text",
    "tuple_type": "a list or comma-separated text",
    "greater_than_equal": "at least {ge}",
}


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong: "option limit: a whole number is needed, not '12'"."""
    first = error.errors()[0]
    name, *inside = map(str, first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown option {name!r}{_suggestion(name)}"
    needed = _NEEDED.get(first["type"], first["msg"]).format(**first.get("ctx", {}))
    where = "a list of texts" if inside and inside[-1].isdigit() else needed
    shown = repr(first["input"])
    return (
        f"option {name.replace('_', '-')}: {where} is needed, not {shown if len(shown) <= 80 else shown[:77] + '...'}"
    )


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, 1)
    return f"; did you mean {near[0].replace('_', '-')}?" if near else ""


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
    options = {}
    for name, value in document.items():
        plain = str(name).replace("-", "_")
        if plain in ("no_samples", "online") and isinstance(value, bool):
            plain, value = {"no_samples": "samples", "online": "offline"}[plain], not value
        if plain not in Settings.model_fields:
            raise InputError(f"{path}: unknown option {name!r}{_suggestion(plain)}")
        options[plain] = value
    return options


def _resolved(option: str, languages: tuple[str, ...] | None, quiet: bool) -> tuple[str, ...] | None:
    """FLORES codes, each once; what stood for them is printed to stderr."""
    if languages is None:
        return None
    codes = []
    for text in languages:
        code = resolve_language(text)
        if code != text and not quiet:
            print(f"language {text} is {code} ({LANGUAGES[code].name})", file=sys.stderr)
        codes.append(code)
    if not codes:
        raise InputError(f"--{option}: no language given")
    return tuple(dict.fromkeys(codes))
