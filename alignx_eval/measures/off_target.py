"""Off-target rate: how often a translation is not in the language that was asked for.

Card
  range        0 to 1, lower is better
  formula      outputs in another language, and empty outputs, over judged outputs
  judged       an output is judged when it is empty, or when enough letters are left without code, addresses, numbers and quoted source.
               Length is counted in letters, never in words, so scripts without spaces are judged like the others. Coverage is judged / all
  identifier   py3langid, restricted to the labels of `languages.py`; an answer in the target's confusable group counts as on target,
               except the source language itself
  chance       none; the rate of the references under the same rule is the identifier's own error and stands beside every rate
               (0 to 6 % on short interface lines; most for Spanish and Russian, taken for Galician and Bulgarian)
  failures     short outputs; close relatives inside a confusable group; mixed languages count as their majority; languages py3langid lacks
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from alignx_eval.errors import InputError
from alignx_eval.languages import LANGUAGES

# 10 letters of an alphabet; a wide character (Han, kana, Hangul) counts as 3 of them.
MINIMUM_LETTERS = 10
WIDE_LETTERS = 3

Judgement = Literal["on", "off", "empty", "unjudged"]

_CODE = re.compile(
    r"https?://\S+|www\.\S+|\S+@\S+\.\S+"  # addresses
    r"|`[^`]*`|<[^<>]*>|\{[^{}]*\}|\[%[^\]]*\]|%\(?\w*\)?[sd]"  # code, tags, placeholders
    r"|\S*\d\S*|\S*[_=/\\]\S*"  # numbers, versions, identifiers and paths
)
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^“”]+)”|„([^„“”]+)[“”]|«([^«»]+)»|「([^「」]+)」|'([^']+)'|‘([^‘’]+)’")
_ACRONYM = re.compile(r"\b\w*[A-Z]\w*[A-Z]\w*\b")


def accepted_labels(source_language: str, target_language: str) -> tuple[frozenset[str], str | None]:
    """Labels of py3langid that count as the target language, and None; or an empty set and the reason why no answer can tell.

    Raises InputError for an unknown code.
    """
    for code in (source_language, target_language):
        if code not in LANGUAGES:
            raise InputError(f"unknown language {code!r}: expected a FLORES code such as deu_Latn")
    source, target = LANGUAGES[source_language], LANGUAGES[target_language]
    if target.lid_label is None:
        return frozenset(), f"py3langid has no label for {target_language}"
    if source.lid_label == target.lid_label:
        return frozenset(), f"py3langid does not tell {source_language} and {target_language} apart"
    labels = {target.lid_label}
    if target.confusable is not None:
        labels |= {language.lid_label for language in LANGUAGES.values() if language.confusable == target.confusable and language.lid_label}
    return frozenset(labels - {source.lid_label}), None


def text_to_identify(output: str, source: str) -> str:
    """`output` without what is not language: code, addresses, numbers, acronyms, and quoted spans that stand in the source verbatim."""
    text = _QUOTED.sub(lambda match: " " if next(part for part in match.groups() if part) in source else match.group(0), output)
    text = _CODE.sub(" ", text)
    if not text.isupper():
        text = _ACRONYM.sub(" ", text)
    return " ".join(text.split())


def letter_count(text: str) -> int:
    """Letters of `text`, a wide one counted as `WIDE_LETTERS`; marks, digits, spaces and punctuation count nothing."""
    return sum(
        WIDE_LETTERS if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
        if unicodedata.category(character)[0] == "L"
    )


def identify(text: str) -> str:
    """py3langid's answer among the labels of `languages.py`."""
    return _identifier().classify(text)[0]


def judge(output: str, source: str, accepted: frozenset[str]) -> tuple[Judgement, str | None]:
    """Whether one output is in an accepted language, and the label that was found (None where none was sought)."""
    if not output.strip():
        return "empty", None
    text = text_to_identify(output, source)
    if letter_count(text) < MINIMUM_LETTERS:
        return "unjudged", None
    label = identify(text)
    return ("on" if label in accepted else "off"), label


def off_target_items(judgements: Sequence[Judgement]) -> list[tuple[int, int]]:
    """(off target, judged) of each output; the rate is the sum of the first over the sum of the second. Empty outputs are off target."""
    return [(int(judgement in ("off", "empty")), int(judgement != "unjudged")) for judgement in judgements]


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(
        MODEL_FILE
    )  # an instance of our own: py3langid's module-level one is shared by the process
    identifier.set_languages(sorted({language.lid_label for language in LANGUAGES.values() if language.lid_label}))
    return identifier
