"""MEXA of 10 languages x 19 layers x 200 lines against the published way to compute it: `PYTHONPATH=. python
benchmarks/mexa.py`.

ours       vectors to length 1, one product, `retrieval.hits(...).mutual.mean()`
published  one call of scipy's cosine in float64 per pair of sentences, then a loop over lines, as compute_mexa.py of
           cisnlp/MEXA does

Vectors are random: content shared by the translations of a line, an offset per language, and noise, so that scores lie
between 0 and 1. The published way does one (language, layer) a turn, another one each time; its time for all of them is
that times their number.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.spatial.distance import cosine as cosine_distance
from turns import in_turns, show_ratio, show_times

from alignx_eval.measures import cosine, retrieval

LANGUAGES, LAYERS, LINES, WIDTH = 10, 19, 200, 640
REPEATS = 9


def ours(vectors: np.ndarray) -> np.ndarray:
    """Scores [layers, languages] of vectors [layers, pivot and languages, lines, width]."""
    scores = np.empty((LAYERS, LANGUAGES))
    for layer, stack in enumerate(vectors):
        pivot, *languages = cosine.unit(stack)
        for language, unit in enumerate(languages):
            scores[layer, language] = retrieval.hits(unit @ pivot.T).mutual.mean()
    return scores


def published(pivot: np.ndarray, language: np.ndarray) -> float:
    """Score of vectors [lines, width] and [lines, width]."""
    similarity = np.zeros((LINES, LINES))
    for row in range(LINES):
        for column in range(LINES):
            similarity[row, column] = 1 - cosine_distance(
                pivot[row].astype(np.float64), language[column].astype(np.float64)
            )
    count = 0
    for line in range(LINES):
        own = similarity[line, line]
        if own > max(np.delete(similarity[line], line)) and own > max(np.delete(similarity[:, line], line)):
            count += 1
    return count / LINES


def main() -> None:
    generator = np.random.default_rng(0)
    noise = np.linspace(2, 6, LAYERS)[:, None, None, None]
    vectors = generator.normal(size=(LAYERS, 1, LINES, WIDTH)) + generator.normal(
        size=(LAYERS, LANGUAGES + 1, 1, WIDTH)
    )
    vectors = (vectors + noise * generator.normal(size=(LAYERS, LANGUAGES + 1, LINES, WIDTH))).astype(np.float32)

    tasks = itertools.cycle(generator.permutation(LAYERS * LANGUAGES).tolist())
    found: dict[tuple[int, int], float] = {}

    def one_published() -> None:
        layer, language = divmod(next(tasks), LANGUAGES)
        found[layer, language] = published(vectors[layer, 0], vectors[layer, language + 1])

    times = in_turns({"ours": lambda: ours(vectors), "one published": one_published}, REPEATS)
    scores = ours(vectors)
    deviation = max(abs(scores[place] - score) for place, score in found.items())
    print(
        f"scores from {scores.min():.3f} to {scores.max():.3f}; largest difference over {len(found)} of them "
        f"{deviation:.1e}"
    )
    show_times(times)
    show_ratio(times, "one published", "ours", scale=LAYERS * LANGUAGES)


if __name__ == "__main__":
    main()
