"""Sentences of several languages, aligned by line."""

from __future__ import annotations

import difflib
import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from alignx_eval.errors import InputError
from alignx_eval.languages import LANGUAGES, resolve_language


@dataclass(frozen=True)
class ParallelCorpus:
    """Line i of every language says the same thing.

    `sentences` maps a FLORES code to its lines; `ids` names each line; `groups` names the cluster (document, article,
    family of near-duplicates) of each line, which is the unit that statistics resample, and equals `ids` where no
    cluster is known. Text is kept as it was found: nothing is trimmed or put into a Unicode normal form (`describe`
    reports what is not in NFC).

    Raises InputError when there is no language or no line, a code is unknown, or the languages, ids and groups differ
    in length.
    """

    name: str
    split: str
    sentences: dict[str, tuple[str, ...]]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    licence: str
    attribution: str
    note: str = ""

    def __post_init__(self) -> None:
        if not self.sentences:
            raise InputError(f"corpus {self.name} has no language")
        for code in self.sentences:
            if code not in LANGUAGES:
                raise InputError(f"corpus {self.name}: {code!r} is not a FLORES-200 code")
        lengths = {code: len(lines) for code, lines in self.sentences.items()} | {
            "ids": len(self.ids),
            "groups": len(self.groups),
        }
        if len(set(lengths.values())) > 1:
            first, *others = lengths
            other = next(part for part in others if lengths[part] != lengths[first])
            raise InputError(
                f"corpus {self.name} is not aligned: {first} has {lengths[first]} lines, {other} has {lengths[other]}"
            )
        if not self.ids:
            raise InputError(f"corpus {self.name} is empty")
        if len(set(self.ids)) < len(self.ids):
            repeated = next(identity for identity in self.ids if self.ids.count(identity) > 1)
            raise InputError(f"corpus {self.name}: two lines have the id {repeated!r}")

    def __len__(self) -> int:
        """Number of parallel lines."""
        return len(self.ids)

    @property
    def languages(self) -> tuple[str, ...]:
        """FLORES codes, in the order of `sentences`."""
        return tuple(self.sentences)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256, as hex, of languages, lines, ids and groups, in the order of the lines. The order of the languages
        has no part in it."""
        digest = hashlib.sha256()
        for part in (
            [list(self.ids), list(self.groups)],
            *([code, list(self.sentences[code])] for code in sorted(self.sentences)),
        ):
            digest.update(json.dumps(part).encode("ascii") + b"\n")
        return digest.hexdigest()

    def select(self, languages: Sequence[str] | None = None, limit: int | None = None) -> ParallelCorpus:
        """The same corpus with only these languages (as `resolve_language` takes them, in this order) and only its
        first `limit` lines.

        Raises InputError for a language that the corpus lacks, for no language at all, and for a limit below 1.
        """
        if limit is not None and limit < 1:
            raise InputError(f"limit is {limit}; a corpus needs at least 1 line")
        codes = self.languages if languages is None else choose_languages(self.name, languages, self.languages)
        return replace(
            self,
            sentences={code: self.sentences[code][:limit] for code in codes},
            ids=self.ids[:limit],
            groups=self.groups[:limit],
        )

    def duplicates(self) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Per language, the sets of line numbers (from 0) that hold the same text; languages without any are left out.

        Identical lines cannot be told apart by retrieval, so precision@1 cannot reach 1 there.
        """
        found = {}
        for code, lines in self.sentences.items():
            places: dict[str, list[int]] = {}
            for number, line in enumerate(lines):
                places.setdefault(line, []).append(number)
            repeated = tuple(tuple(numbers) for numbers in places.values() if len(numbers) > 1)
            if repeated:
                found[code] = repeated
        return found

    def not_nfc(self) -> dict[str, int]:
        """Per language, the number of lines that are not in Unicode normal form C; languages without any are left
        out."""
        counts = {
            code: sum(not unicodedata.is_normalized("NFC", line) for line in lines)
            for code, lines in self.sentences.items()
        }
        return {code: count for code, count in counts.items() if count}


def choose_languages(corpus: str, wanted: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """FLORES codes of the wanted languages, each once, in the order asked for.

    Raises InputError when one is no language, when the corpus lacks one (naming the nearest that it has), or when none
    is wanted.
    """
    if isinstance(wanted, str):
        wanted = wanted.split(",")
    codes = tuple(dict.fromkeys(resolve_language(text) for text in wanted))
    if not codes:
        raise InputError(f"no language chosen from corpus {corpus}; it has {', '.join(available)}")
    for code in codes:
        if code not in available:
            raise InputError(f"corpus {corpus} has no {code} ({LANGUAGES[code].name}); {_nearest(code, available)}")
    return codes


def _nearest(code: str, available: Sequence[str]) -> str:
    """What to offer in place of `code`: everything where that is short, otherwise its relatives and look-alikes."""
    if len(available) <= 12:
        return f"it has {', '.join(available)}"
    language = LANGUAGES[code]

    def likeness(other: str) -> float:
        relative = LANGUAGES.get(other)
        if relative is None:
            return 0.0
        same_group = relative.confusable is not None and relative.confusable == language.confusable
        same_language = code[:3] == other[:3]
        return (
            same_language
            + same_group
            + difflib.SequenceMatcher(None, language.name.lower(), relative.name.lower()).ratio()
        )

    return f"nearest of its {len(available)}: {', '.join(sorted(available, key=likeness, reverse=True)[:4])}"
