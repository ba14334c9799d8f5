"""BLEU by sacreBLEU, with the tokenizer that the target language asks for.

Card
  range        0 to 100, higher is better; 100 for a hypothesis equal to its reference (where the corpus has any 4-gram)
  formula      Papineni et al. 2002: geometric mean of 1- to 4-gram precision times the brevity penalty, over the whole
               corpus
  comparable   only under the same signature: the tokenizer alone moves a Chinese score from 0 to 100. Never between
               target languages
  failures     few lines or few matching 4-grams (smoothing then decides), free word order, rich morphology; blind to
               meaning
  reference    Post 2018, A call for clarity in reporting BLEU scores; sacreBLEU's defaults (mixed case, `exp`
               smoothing)
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from alignx_eval.errors import InputError, MissingAssetError
from alignx_eval.languages import LANGUAGES

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU

# Invisible marks that only steer the direction of display; a model or a translator may leave them out without changing
# the text.
_DIRECTION_MARKS = dict.fromkeys([0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
# What `prepare` does to hypothesis and reference alike before any metric sees them; `norm` in the stored signatures.
TEXT_POLICY = "nfc+marks+spaces"

_EXTRAS = {"ja-mecab": "ja", "ko-mecab": "ko"}


def prepare(text: str) -> str:
    """`text` as the translation metrics see it: Unicode NFC, no direction marks, single spaces, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).translate(_DIRECTION_MARKS).split())


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[str], language: str) -> np.ndarray:
    """Sentence statistics int64 [n, 10] for target `language` (FLORES code): hypothesis length, reference length, 4
    correct, 4 total.

    The corpus score is `statistics.corpus_metrics.bleu_from_statistics` of their sum. Texts are scored as given; see
    `prepare`. Raises InputError for an unknown language or lists of different length, MissingAssetError where the
    language's tokenizer is not installed.
    """
    if len(hypotheses) != len(references):
        raise InputError(
            f"BLEU needs one reference for each hypothesis, got {len(hypotheses)} hypotheses and {len(references)} "
            "references"
        )
    metric = _metric(bleu_tokenizer(language))
    if not hypotheses:
        return np.zeros((0, 10), dtype=np.int64)
    return np.asarray(metric._extract_corpus_statistics(list(hypotheses), [list(references)]), dtype=np.int64)


def bleu_signature(language: str) -> str:
    """sacreBLEU's signature for target `language`: what must agree for two scores to compare."""
    metric = _metric(bleu_tokenizer(language))
    metric._cache_references(
        [[""]]
    )  # the signature names the number of references, which sacreBLEU learns only from references
    return str(metric.get_signature())


def bleu_tokenizer(language: str) -> str:
    """sacreBLEU's name of the tokenizer for a FLORES code. Raises InputError for an unknown code: there is no
    default."""
    if language not in LANGUAGES:
        raise InputError(
            f"unknown language {language!r}: BLEU needs a FLORES code such as deu_Latn to choose its tokenizer"
        )
    return LANGUAGES[language].bleu_tokenizer


@cache
def _metric(tokenizer: str) -> BLEU:
    from sacrebleu.metrics import BLEU

    try:
        return BLEU(tokenize=tokenizer, force=True)  # force only silences the warning about text that looks tokenized
    except (RuntimeError, ImportError) as error:
        extra = _EXTRAS.get(tokenizer)
        advice = f"install it with: pip install 'sacrebleu[{extra}]'" if extra else str(error).strip().splitlines()[0]
        raise MissingAssetError(
            f"BLEU's tokenizer {tokenizer!r} is not installed; {advice}, or leave out its languages"
        ) from error
