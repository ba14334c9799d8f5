"""BLEU and chrF from sentence statistics: against sacreBLEU's own scores."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from alignx_eval.statistics.corpus_metrics import bleu_from_statistics, chrf_from_statistics

WORDS = "the a cat dog sat on mat , . house (red) runs fast and slow!".split()


def corpus(seed: int, lines: int, longest: int, overlap: float) -> tuple[list[str], list[str]]:
    """Random references and hypotheses that keep each reference word with probability `overlap`."""
    generator = np.random.default_rng(seed)
    references, hypotheses = [], []
    for _ in range(lines):
        reference = generator.choice(WORDS, size=generator.integers(0, longest + 1)).tolist()
        hypothesis = [
            word if generator.random() < overlap else str(generator.choice(WORDS))
            for word in reference
            if generator.random() < 0.95
        ]
        references.append(" ".join(reference))
        hypotheses.append(" ".join(hypothesis))
    return hypotheses, references


CORPORA = [
    pytest.param(
        *corpus(seed, lines, longest, overlap), id=f"{lines} lines of up to {longest}, overlap {overlap}, seed {seed}"
    )
    for seed in range(4)
    for lines, longest, overlap in [(1, 3, 0.5), (2, 6, 0.3), (20, 20, 0.0), (50, 25, 0.6), (30, 10, 1.0)]
] + [
    pytest.param(["", ""], ["the cat sat", "a dog"], id="empty hypotheses"),
    pytest.param(["the cat", "a"], ["the cat", "a"], id="no 4-gram"),
    pytest.param(["xx yy zz ww vv"], ["the cat sat on mat"], id="no match"),
    pytest.param(["猫は座る"], ["猫は走る"], id="no spaces"),
]


@pytest.mark.parametrize(("hypotheses", "references"), CORPORA)
def test_equal_to_sacrebleu(hypotheses, references):
    for metric, function in ((BLEU(tokenize="13a"), bleu_from_statistics), (CHRF(word_order=2), chrf_from_statistics)):
        statistics = np.array(metric._extract_corpus_statistics(hypotheses, [references]))
        ours = function(statistics.sum(axis=0))
        assert isinstance(ours, float)
        assert ours == pytest.approx(metric.corpus_score(hypotheses, [references]).score, rel=1e-14, abs=1e-300)
        each = function(statistics)  # every line as a corpus of its own
        assert each.shape == (len(hypotheses),)
        expected = [metric._compute_score_from_stats(list(line)).score for line in statistics]
        np.testing.assert_allclose(each, expected, rtol=1e-14, atol=1e-300)


def test_leading_axes_are_kept():
    generator = np.random.default_rng(0)
    sums = generator.integers(1, 50, size=(3, 4, 24))
    assert chrf_from_statistics(sums).shape == (3, 4)
    assert bleu_from_statistics(sums[..., :10]).shape == (3, 4)
    assert bleu_from_statistics(sums[..., :10])[1, 2] == bleu_from_statistics(sums[1, 2, :10])


def test_wrong_width_is_refused():
    with pytest.raises(ValueError, match="10 statistics"):
        bleu_from_statistics(np.zeros(9))
    with pytest.raises(ValueError, match="24 statistics"):
        chrf_from_statistics(np.zeros(18))
