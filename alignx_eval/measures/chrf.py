"""chrF++ by sacreBLEU: F-score of character and word n-grams; needs no tokenizer.

Card
  range        0 to 100, higher is better; 100 for a hypothesis equal to its reference. Unrelated text of the same
               language scores 10 to 20
  formula      Popovic 2017: precision, recall averaged over character orders 1 to 6 and word orders 1 and 2; recall
               counts twice (beta 2)
  comparable   under the same signature; between target languages only as a tendency
  failures     scripts without spaces, where the two word orders hold next to nothing; a copied source of a related
               language scores well
  reference    Popovic 2015 and 2017; sacreBLEU's defaults (whitespace removed, effective order)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from alignx_eval.errors import InputError

if TYPE_CHECKING:
    from sacrebleu.metrics import CHRF

WORD_ORDER = 2


def chrf_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Sentence statistics int64 [n, 24]: for each of the 8 orders the n-grams of hypothesis, of reference, and their
    matches.

    The corpus score is `statistics.corpus_metrics.chrf_from_statistics` of their sum. Raises InputError for lists of
    different length.
    """
    if len(hypotheses) != len(references):
        raise InputError(
            f"chrF++ needs one reference for each hypothesis, got {len(hypotheses)} hypotheses and {len(references)} "
            "references"
        )
    if not hypotheses:
        return np.zeros((0, 24), dtype=np.int64)
    return np.asarray(_metric()._extract_corpus_statistics(list(hypotheses), [list(references)]), dtype=np.int64)


def chrf_signature() -> str:
    """sacreBLEU's signature: what must agree for two scores to compare."""
    metric = _metric()
    metric._cache_references(
        [[""]]
    )  # the signature names the number of references, which sacreBLEU learns only from references
    return str(metric.get_signature())


@cache
def _metric() -> CHRF:
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=WORD_ORDER)
