"""BLEU and chrF++ from summed sentence statistics, for many sums at once.

A corpus metric is a function of sums over sentences, so resampling never has to look at text again: sum the statistics
of the drawn sentences and apply one of these functions (Popel's review of sacreBLEU #70 gives the reason: scoring text
anew for each draw is unacceptably slow).
"""

from __future__ import annotations

import numpy as np

MAX_NGRAM_ORDER = 4
CHRF_ORDERS = 6 + 2  # characters 1-6 and words 1-2: chrF++
CHRF_BETA = 2


def bleu_from_statistics(statistics: np.ndarray) -> np.ndarray | float:
    """BLEU of summed sentence statistics, in 0..100.

    statistics: [..., 10]: hypothesis length, reference length, 4 numbers of correct n-grams, 4 totals, as sacreBLEU's
    `BLEU._extract_corpus_statistics` gives them for one sentence and as their sum gives them for a corpus. Leading axes
    are kept; [10] gives a float.

    Reference: Papineni et al. 2002 with sacreBLEU's defaults (`exp` smoothing, no effective order); equals
    `BLEU.corpus_score` bit for bit up to the rounding of exp and log. Assumes: one tokenizer for everything in the sum.
    Fails: few matching 4-grams; then the smoothing decides, the metric is not a smooth function of the sums and no
    resampling of it can be trusted.
    """
    statistics = np.asarray(statistics, dtype=np.float64)
    if statistics.shape[-1:] != (2 + 2 * MAX_NGRAM_ORDER,):
        raise ValueError(f"BLEU needs 10 statistics on the last axis, not shape {statistics.shape}")
    hypothesis, reference = statistics[..., 0], statistics[..., 1]
    correct, total = statistics[..., 2 : 2 + MAX_NGRAM_ORDER], statistics[..., 2 + MAX_NGRAM_ORDER :]
    with np.errstate(divide="ignore", invalid="ignore"):
        brevity = np.where(hypothesis < reference, np.exp(1 - reference / hypothesis), 1.0)
        # The k-th order without a match counts as 1 / 2^k of a match (sacreBLEU's `exp`, NIST's mteval-v13a).
        unmatched = np.cumsum(correct == 0, axis=-1)
        precision = 100.0 * np.where(correct == 0, 0.5**unmatched, correct) / total
        logarithms = np.log(precision)
        # left to right, as Python's sum() does
        mean = (((logarithms[..., 0] + logarithms[..., 1]) + logarithms[..., 2]) + logarithms[..., 3]) / MAX_NGRAM_ORDER
        score = brevity * np.exp(mean)
    # No match at all, or no 4-gram at all (all hypotheses shorter than 4 tokens): 0, as in sacreBLEU.
    score = np.where((correct > 0).any(axis=-1) & (total > 0).all(axis=-1) & (hypothesis > 0), score, 0.0)
    return float(score) if score.ndim == 0 else score


def chrf_from_statistics(statistics: np.ndarray) -> np.ndarray | float:
    """chrF++ (character order 6, word order 2, beta 2) of summed sentence statistics, in 0..100.

    statistics: [..., 24]: for each of the 8 orders the n-grams of the hypothesis, of the reference and their matches,
    as sacreBLEU's `CHRF(word_order=2)._extract_corpus_statistics` gives them. Leading axes are kept; [24] gives a
    float.

    Reference: Popovic 2017 with sacreBLEU's defaults (effective order, no epsilon smoothing); equals
    `CHRF.corpus_score`. Assumes: one reference for each hypothesis. Fails: scripts without spaces, where the two word
    orders hold hardly anything.
    """
    statistics = np.asarray(statistics, dtype=np.float64)
    if statistics.shape[-1:] != (3 * CHRF_ORDERS,):
        raise ValueError(f"chrF++ needs {3 * CHRF_ORDERS} statistics on the last axis, not shape {statistics.shape}")
    triples = statistics.reshape(*statistics.shape[:-1], CHRF_ORDERS, 3)
    precision = np.zeros(triples.shape[:-2])
    recall = np.zeros_like(precision)
    orders = np.zeros_like(precision)
    with np.errstate(divide="ignore", invalid="ignore"):
        for order in range(CHRF_ORDERS):
            hypothesis, reference, matches = triples[..., order, 0], triples[..., order, 1], triples[..., order, 2]
            present = (hypothesis > 0) & (reference > 0)
            precision = precision + np.where(present, matches / hypothesis, 0.0)
            recall = recall + np.where(present, matches / reference, 0.0)
            orders = orders + present
        precision, recall = precision / orders, recall / orders
        factor = CHRF_BETA**2
        score = 100 * ((1 + factor) * precision * recall / ((factor * precision) + recall))
    score = np.where((orders > 0) & (precision + recall > 0), score, 0.0)
    return float(score) if score.ndim == 0 else score
