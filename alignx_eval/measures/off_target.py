"""Off-target rate: how often a translation is not in the language that was asked for.

Card
  range        0 to 1, lower is better
  formula      outputs in another script or language, and empty outputs, over judged outputs
  judged       an output is judged when it is empty, or when enough letters are left without code, addresses, numbers
               and quoted source. Length is counted in letters, never in words, so scripts without spaces are judged
               like the others. Coverage is judged / all
  order        an output equal to its reference is on target; else one in another script is off target (see `script`,
               which also parts Simplified from Traditional Chinese); else the language decides, where the script does
               not
  identifier   py3langid, restricted to the labels of `languages.py`; an answer in the target's confusable group counts
               as on target, except the source language itself where it is written in the target's script
  chance       none; the rate of the references under the same rule (without the look at the reference) is the
               identifier's own error and stands beside every rate (0 to 6 % on short interface lines; most for Spanish
               and Russian, taken for Galician and Bulgarian)
  failures     short outputs; close relatives inside a confusable group; mixed languages count as one of them; languages
               py3langid lacks
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from alignx_eval.errors import InputError
from alignx_eval.languages import LANGUAGES
from alignx_eval.measures.script import LEAST_SHARE, WIDE_LETTERS, is_written_in, letter_count

# 10 letters of an alphabet; see `script` for the weight of a wide one.
MINIMUM_LETTERS = 10

Judgement = Literal["on", "off", "empty", "unjudged"]

# Printable ASCII and accented Latin: addresses, numbers, identifiers and acronyms end where another script begins, with
# or without a space.
_LATIN = "!-~\u00c0-\u024f\u1e00-\u1eff"
_LATIN_WORD = "A-Za-z0-9_\u00c0-\u024f\u1e00-\u1eff"
_CODE = re.compile(
    rf"https?://[{_LATIN}]+|www\.[{_LATIN}]+|[{_LATIN}]+@[{_LATIN}]+\.[{_LATIN}]+"  # addresses
    r"|`[^`]*`|<[^<>]*>|\{[^{}]*\}|\[%[^\]]*\]|%\(?\w*\)?[sd]"  # code, tags, placeholders
    rf"|[{_LATIN}]*\d[{_LATIN}]*|[{_LATIN}]*[_=/\\][{_LATIN}]*"  # numbers, versions, identifiers and paths
)
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^“”]+)”|„([^„“”]+)[“”]|«([^«»]+)»|「([^「」]+)」|'([^']+)'|‘([^‘’]+)’")
_ACRONYM = re.compile(rf"[{_LATIN_WORD}]*[A-Z][{_LATIN_WORD}]*[A-Z][{_LATIN_WORD}]*")


@dataclass(frozen=True, slots=True)
class Expected:
    """What tells that a text is in the target language: its script (ISO 15924), and the labels of py3langid that count
    as the language.

    Without labels the script alone decides.
    """

    script: str
    labels: frozenset[str]


def expected_language(source_language: str, target_language: str) -> tuple[Expected | None, str | None]:
    """What outputs of a direction should be in, and None; or None and the reason why that cannot be told.

    Raises InputError for an unknown code.
    """
    for code in (source_language, target_language):
        if code not in LANGUAGES:
            raise InputError(f"unknown language {code!r}: expected a FLORES code such as deu_Latn")
    source, target = LANGUAGES[source_language], LANGUAGES[target_language]
    same_script = source.script == target.script
    if target.lid_label is None:
        if _languages_by_script()[target.script] == 1:
            return Expected(target.script, frozenset()), None
        return None, f"py3langid has no label for {target_language}, and its script is that of other languages too"
    if same_script and source.lid_label == target.lid_label:
        return (
            None,
            f"py3langid does not tell {source_language} and {target_language} apart, and they have the same script",
        )
    labels = {target.lid_label}
    if target.confusable is not None:
        labels |= {
            language.lid_label
            for language in LANGUAGES.values()
            if language.confusable == target.confusable and language.lid_label
        }
    if same_script:
        labels -= {source.lid_label}
    return Expected(target.script, frozenset(labels)), None


def text_to_identify(output: str, source: str) -> str:
    """`output` without what is not language: code, addresses, numbers, acronyms, and quoted spans that stand in the
    source verbatim."""
    text = _QUOTED.sub(
        lambda match: " " if next(part for part in match.groups() if part) in source else match.group(0), output
    )
    text = _CODE.sub(" ", text)
    if not text.isupper():
        text = _ACRONYM.sub(" ", text)
    return " ".join(text.split())


def identify(text: str) -> str:
    """py3langid's answer among the labels of `languages.py`."""
    return _identifier().classify(text)[0]


def judge(output: str, source: str, expected: Expected, reference: str | None = None) -> tuple[Judgement, str | None]:
    """Whether one output is in the expected script and language, and what was found: py3langid's label, "not Hant" (or
    another script) where the script decided against it, None where nothing was looked for.

    With `reference`, an output equal to it is on target; without one, as for the identifier's own error, only the text
    counts.
    """
    if not output.strip():
        return "empty", None
    text = text_to_identify(output, source)
    if letter_count(text) < MINIMUM_LETTERS:
        return "unjudged", None
    if output == reference:
        return "on", None
    if not is_written_in(text, expected.script):
        return "off", f"not {expected.script}"
    if not expected.labels:
        return "on", None
    label = identify(text)
    return ("on" if label in expected.labels else "off"), label


def off_target_items(judgements: Sequence[Judgement]) -> list[tuple[int, int]]:
    """(off target, judged) of each output; the rate is the sum of the first over the sum of the second. Empty outputs
    are off target."""
    return [(int(judgement in ("off", "empty")), int(judgement != "unjudged")) for judgement in judgements]


def off_target_signature() -> str:
    """What must agree for two off-target rates to compare."""
    from importlib.metadata import version

    return (
        f"py3langid {version('py3langid')}|labels:languages.py|letters:{MINIMUM_LETTERS}|wide:{WIDE_LETTERS}"
        f"|script:{LEAST_SHARE:.2f} of letters, GB 2312 against Big5"
    )


@cache
def _languages_by_script() -> Counter[str]:
    return Counter(language.script for language in LANGUAGES.values())


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(
        MODEL_FILE
    )  # an instance of our own: py3langid's module-level one is shared by the process
    identifier.set_languages(sorted({language.lid_label for language in LANGUAGES.values() if language.lid_label}))
    return identifier
