"""What may not regress: the policy of the gate, as defaults, as a YAML file, and as a JSON schema."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from alignx_eval.errors import InputError
from alignx_eval.metrics import METRICS, SUITES

POLICY_FORMAT: Literal["alignx-eval gate policy"] = "alignx-eval gate policy"
POLICY_VERSION: Literal[1] = 1
Level = Literal["block", "warn", "info"]
Text = Annotated[str, Field(min_length=1)]


class Rule(BaseModel):
    """Which rows are gated, and how. The last rule of a policy that matches a row decides on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: Text = Field(description="Name of a suite: layers, language_id, language_modelling, translation, tasks.")
    metric: Text = Field(description="Name of a metric; * and ? stand for any characters, as in *.acc.")
    layers: tuple[Text, ...] = Field(
        default=("align",),
        description=(
            "Layers of a metric that has them: names such as 12 or 24+norm, or align: the candidate's align layer."
        ),
    )
    languages: tuple[Text, ...] = Field(
        default=("*",),
        description="FLORES codes (* and ? allowed, as in *_Cyrl), names of `groups`, or mean: rows "
        "that are a mean over languages. "
        "A translation direction belongs to the language that is not the pivot.",
    )
    direction: Literal["higher", "lower"] | None = Field(
        default=None,
        description="What is good. Left out: what the metric itself says; needed for metrics that have no direction.",
    )
    tolerance: float = Field(
        ge=0, allow_inf_nan=False, description="Largest loss that is accepted, in the metric's own units."
    )
    level: Level = Field(
        default="block", description="block: a regression fails the gate; warn and info: it is only shown."
    )
    alpha: float | None = Field(
        default=None, gt=0, lt=0.5, description="Level of the test of these rows; left out: that of the policy."
    )
    min_n: int | None = Field(
        default=None, ge=1, description="Rows with fewer items are not judged; left out: that of the policy."
    )


class Policy(BaseModel):
    """A gate policy. `format` and `version` must be given in a file, so that an old file is never read with a new
    meaning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["alignx-eval gate policy"] = POLICY_FORMAT
    version: Literal[1] = POLICY_VERSION
    against: Literal["base", "control"] = Field(default="base", description="What a candidate is gated against.")
    alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="Level of the one-sided tests, after Benjamini-Hochberg adjustment."
    )
    min_n: int = Field(default=100, ge=1, description="Rows with fewer items are grey: not judged.")
    protected: tuple[Text, ...] = Field(
        default=(),
        description=(
            "Languages (as in `languages` of a rule) for which it must be shown that the loss "
            "is below the tolerance, at `alpha`."
        ),
    )
    require_all: bool = Field(
        default=True,
        description="Whether every rule and every protected language must find a row; if not, the gate is incomplete.",
    )
    groups: dict[Text, tuple[Text, ...]] = Field(default={}, description="Names for lists of FLORES codes.")
    rules: tuple[Rule, ...] = Field(min_length=1)

    @field_validator("groups")
    @classmethod
    def _known_codes(cls, groups: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        from alignx_eval.languages import LANGUAGES

        for name, codes in groups.items():
            if name in ("*", "mean") or any(fnmatchcase(code, name) for code in LANGUAGES):
                raise ValueError(f"a group cannot be called {name!r}, which names languages already")
            if not codes:
                raise ValueError(f"group {name!r} is empty")
            for code in codes:
                _check_language(code, ())
        return groups

    @model_validator(mode="after")
    def _known_names(self) -> Policy:
        for rule in self.rules:
            if rule.suite not in SUITES:
                raise ValueError(f"unknown suite {rule.suite!r}; known: {', '.join(SUITES)}")
            for language in rule.languages:
                _check_language(language, tuple(self.groups))
        for language in self.protected:
            _check_language(language, tuple(self.groups))
        return self

    def covers(self, wanted: tuple[str, ...], language: str | None) -> bool:
        """Whether a row about `language` (None: a mean over languages) is among the languages `wanted`."""
        for name in wanted:
            if name in self.groups:
                if language in self.groups[name]:
                    return True
            elif (
                (name == "mean" and language is None)
                or name == "*"
                or (language is not None and fnmatchcase(language, name))
            ):
                return True
        return False


def _check_language(name: str, groups: tuple[str, ...]) -> None:
    from alignx_eval.languages import LANGUAGES

    if name in ("*", "mean", *groups):
        return
    if not any(fnmatchcase(code, name) for code in LANGUAGES):
        raise ValueError(
            f"no language is called {name!r}; FLORES codes such as deu_Latn are needed, or the name of a group"
        )


# Tolerances are what a user would hardly notice, and about what the smallest sensible test set (some 500 lines) can
# tell from 0.
DEFAULT_POLICY_YAML = f"""\
# The policy that the gate uses where no file is given. Copy, change, and pass it with --policy.
format: {POLICY_FORMAT}
version: {POLICY_VERSION}
against: base            # or control
alpha: 0.05              # one-sided, Benjamini-Hochberg over all rows of one level
min_n: 100               # rows with fewer items are grey: not judged
protected: [eng_Latn]    # must be shown to lose less than the tolerance
require_all: false       # true (a file's default): a rule or protected language without a row makes the gate incomplete
rules:                   # the last rule that matches a row decides; tolerances are in the metric's own units
  - {{suite: language_modelling, metric: bits_per_byte, tolerance: {METRICS["bits_per_byte"].tolerated}}}
  - {{suite: translation, metric: chrf++, tolerance: {METRICS["chrf++"].tolerated}}}
  - {{suite: translation, metric: bleu, tolerance: {METRICS["bleu"].tolerated}}}
  - {{suite: translation, metric: off_target_rate, tolerance: {METRICS["off_target_rate"].tolerated}}}
  - {{suite: tasks, metric: "*.acc", tolerance: {METRICS["acc"].tolerated}}}
  - {{suite: layers, metric: precision_at_1, tolerance: {METRICS["precision_at_1"].tolerated}, level: warn}}
"""


def default_policy() -> Policy:
    """The policy that holds where none is given."""
    return _parse(DEFAULT_POLICY_YAML, "the default policy")


def load_policy(path: str | Path) -> Policy:
    """Read a policy from a YAML file. Raises InputError, with the place in the file, for anything that is not one."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    return _parse(text, str(path))


def policy_schema() -> dict[str, Any]:
    """JSON schema of a policy file."""
    schema = Policy.model_json_schema()
    schema["required"] = sorted({*schema["required"], "format", "version"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _parse(text: str, where: str) -> Policy:
    import yaml

    from alignx_eval.plain_yaml import read_yaml

    try:
        document = read_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(document, dict) or document.get("format") != POLICY_FORMAT:
        raise InputError(
            f"{where}: not a gate policy (a line `format: {POLICY_FORMAT}` is needed; "
            "`alignx-eval schema policy` shows one)"
        )
    if document.get("version") != POLICY_VERSION:
        raise InputError(
            f"{where}: has version {document.get('version')!r}, this alignx-eval reads version {POLICY_VERSION}"
        )
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        told = [
            (".".join(map(str, each["loc"])) or "policy", each["msg"].removeprefix("Value error, "))
            for each in error.errors()
        ]
        problems = [f"{place}: {message}" for place, message in told]
        raise InputError(f"{where}: {'; '.join(problems)}") from error
