"""Bits per byte: what a language model pays, in bits, for each UTF-8 byte of a text.

Card
  range        0 to about 8 (8 bits per byte is a model that knows nothing about bytes); lower is better
  formula      -sum of log2 p(token | tokens before it) / number of UTF-8 bytes, over all lines (a ratio of sums, not a
               mean of ratios)
  comparable   between models with different tokenizers, because bytes do not depend on the tokenizer. Between languages
               only with care: the same sentence has more bytes in some scripts (Thai has three a letter), so the same
               bits give fewer bits per byte
  failures     text the model was trained on; tokenizers that drop or normalise characters are paid less than they
               should. An unknown token (<unk>) costs once and stands for any number of bytes: where one occurs, the
               number is a lower bound (`unknown_bytes`)
  reference    Gao et al. 2020, The Pile, section 3.1
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

LOG2_E = 1.4426950408889634


def token_bits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log2 p(target) for each position: logits [positions, vocabulary] of any float type, targets [positions] ->
    float32 [positions]."""
    logits = logits.float()
    return (logits.logsumexp(dim=-1) - logits.gather(-1, targets[:, None])[:, 0]) * LOG2_E


def utf8_bytes(text: str) -> int:
    """UTF-8 bytes of `text`; a lone surrogate counts the three bytes it would take."""
    return len(text.encode("utf-8", errors="surrogatepass"))


def unknown_bytes(text: str, offsets: Sequence[tuple[int, int]], unknown: Sequence[bool]) -> int:
    """UTF-8 bytes of the characters of `text` that a tokenizer does not tell apart: those of unknown tokens, and those
    of no token at all.

    offsets: the characters [begin, end) of each token; unknown: whether it is the unknown token. Spaces, control and
    format characters without a token do not count, since many tokenizers leave them out on purpose.
    """
    spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    lost = _covered(len(text), spans[np.asarray(unknown, dtype=bool)])
    for index in np.flatnonzero(~_covered(len(text), spans)).tolist():
        lost[index] = _is_written(text[index])
    return utf8_bytes("".join(text[index] for index in np.flatnonzero(lost).tolist()))


def bytes_not_in(text: str, known: str) -> int:
    """`unknown_bytes` where a tokenizer gives no offsets: bytes of the characters of `text` that `known`, its known
    tokens decoded, lacks.

    Characters are looked up in compatibility form and lower case, because such tokenizers may write them so.
    """
    left, lost = Counter(unicodedata.normalize("NFKC", known).casefold()), ""
    for character in filter(_is_written, text):
        wanted = Counter(unicodedata.normalize("NFKC", character).casefold())
        if wanted <= left:
            left -= wanted
        else:
            lost += character
    return utf8_bytes(lost)


def _covered(length: int, spans: np.ndarray) -> np.ndarray:
    """Whether each of `length` characters lies in one of the spans [n, 2] (begin, end): bool [length]."""
    steps = np.zeros(length + 1, dtype=np.int64)
    np.add.at(steps, spans[:, 0], 1)
    np.add.at(steps, spans[:, 1], -1)
    return steps.cumsum()[:length] > 0


def _is_written(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CZ"


def bits_per_byte(bits_and_bytes: np.ndarray) -> float | None:
    """Sum of bits over sum of bytes of lines [n, 2]; None where there are no bytes."""
    bits, size = np.asarray(bits_and_bytes, dtype=np.float64).reshape(-1, 2).sum(axis=0)
    return float(bits / size) if size > 0 else None
