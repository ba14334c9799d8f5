"""Sentence vectors of a corpus made by hand."""

from __future__ import annotations

import numpy as np

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine.encode import CorpusVectors, Encoding
from helpers.encoding import WORDS

LANGUAGES = ("eng_Latn", "deu_Latn", "rus_Cyrl")


def make_corpus(lines=40, groups=None, languages=LANGUAGES, seed=0) -> ParallelCorpus:
    generator = np.random.default_rng(seed)
    sentences = {
        language: tuple(
            f"{' '.join(generator.choice(WORDS, generator.integers(2, 9)))} w{line % 40} {line}"
            for line in range(lines)
        )
        for language in languages
    }
    ids = tuple(f"line-{number}" for number in range(lines))
    return ParallelCorpus(
        name="toy", split="test", sentences=sentences, ids=ids, groups=groups or ids, licence="CC0", attribution=""
    )


def by_key(result):
    return {row.key: row for row in result.rows}


def as_vectors(stacks: dict[str, np.ndarray], token_counts=9, shares=0.2) -> CorpusVectors:
    """What encoding gives for the vectors layer name -> [languages, lines, width], tokens of each line and largest
    share of each layer."""
    names, lines = tuple(stacks), next(iter(stacks.values())).shape[1]
    counts = np.broadcast_to(token_counts, lines)
    shares = np.broadcast_to(np.reshape(shares, (-1, 1)), (len(names), lines))
    sources = {
        language: Encoding(np.stack([stacks[name][index] for name in names]).astype(np.float32), names, counts, shares)
        for index, language in enumerate(LANGUAGES)
    }
    return CorpusVectors(
        LANGUAGES, names, dict.fromkeys(LANGUAGES, counts), dict.fromkeys(LANGUAGES, shares), 0, sources
    )
