"""Our own multiple-choice task, from the parallel lines of `interface`."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Any

from alignx_eval.corpora import load_corpus
from alignx_eval.errors import InputError

CHOICES = 4


def interface_choice(language: str, **_metadata: Any) -> dict[str, Any]:
    """Documents of `interface_choice` in `language`, as lm-eval's `custom_dataset` wants them: {"test":
    datasets.Dataset}.

    Each has `id`, `group`, `source` (English), `choices` (4 lines of the language) and `gold` (index of the
    translation). The wrong choices are translations of other test lines of similar length, the same lines in every
    language, so the documents of two languages are parallel. They are read from the bundled text in memory: no file is
    written, so a read-only installation without network will do.
    """
    import datasets

    corpus = load_corpus("interface")
    if language not in corpus.sentences or language == "eng_Latn":
        raise InputError(f"interface_choice has no language {language!r}")
    english, lines = corpus.sentences["eng_Latn"], corpus.sentences[language]
    documents = [
        {
            "id": corpus.ids[line],
            "group": corpus.groups[line],
            "source": english[line],
            "choices": [lines[other] for other in chosen],
            "gold": chosen.index(line),
        }
        for line, chosen in enumerate(choice_lines())
    ]
    return {"test": datasets.Dataset.from_list(documents)}


@lru_cache(maxsize=1)
def choice_lines() -> tuple[tuple[int, ...], ...]:
    """For each test line of `interface` the 4 lines to choose from, itself among them: a pure function of the bundled
    text.

    Wrong choices are nearest in the length of their English side; ties and the order of the choices are decided by a
    hash of the ids. A line that equals the right one in any language, or that shares half of its English words with it,
    is never a wrong choice: it might be right.
    """
    corpus = load_corpus("interface")
    english = corpus.sentences["eng_Latn"]
    words = [frozenset(re.findall(r"\w+", line.lower())) for line in english]
    chosen = []
    for line, identity in enumerate(corpus.ids):

        def distance(other: int, line: int = line, identity: str = identity) -> tuple[int, str]:
            return abs(len(english[other]) - len(english[line])), hash_of(identity, corpus.ids[other])

        wrong: list[int] = []
        for other in sorted(range(len(corpus)), key=distance):
            if len(wrong) == CHOICES - 1:
                break
            alike = len(words[line] & words[other]) >= 0.5 * min(len(words[line]), len(words[other]))
            same = any(
                len({lines[index] for index in (line, other, *wrong)}) < len(wrong) + 2
                for lines in corpus.sentences.values()
            )
            if other != line and not alike and not same:
                wrong.append(other)
        chosen.append(
            tuple(sorted([line, *wrong], key=lambda other: hash_of("order", corpus.ids[line], corpus.ids[other])))
        )
    return tuple(chosen)


def hash_of(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
