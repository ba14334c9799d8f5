"""Bits per byte: what a language model pays, in bits, for each UTF-8 byte of a text.

Card
  range        0 to about 8 (8 bits per byte is a model that knows nothing about bytes); lower is better
  formula      -sum of log2 p(token | tokens before it) / number of UTF-8 bytes, over all lines (a ratio of sums, not a mean of ratios)
  comparable   between models with different tokenizers, because bytes do not depend on the tokenizer. Between languages only with care: the
               same sentence has more bytes in some scripts (Thai has three a letter), so the same bits give fewer bits per byte
  failures     text the model was trained on; tokenizers that drop or normalise characters are paid less than they should
  reference    Gao et al. 2020, The Pile, section 3.1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

LOG2_E = 1.4426950408889634


def token_bits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """-log2 p(target) for each position: logits [positions, vocabulary] of any float type, targets [positions] -> float32 [positions]."""
    logits = logits.float()
    return (logits.logsumexp(dim=-1) - logits.gather(-1, targets[:, None])[:, 0]) * LOG2_E


def utf8_bytes(text: str) -> int:
    """UTF-8 bytes of `text`; a lone surrogate counts the three bytes it would take."""
    return len(text.encode("utf-8", errors="surrogatepass"))


def bits_per_byte(bits_and_bytes: np.ndarray) -> float | None:
    """Sum of bits over sum of bytes of lines [n, 2]; None where there are no bytes."""
    bits, size = np.asarray(bits_and_bytes, dtype=np.float64).reshape(-1, 2).sum(axis=0)
    return float(bits / size) if size > 0 else None
