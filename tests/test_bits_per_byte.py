"""Bits per byte over arrays."""

import math

import numpy as np
import pytest

from alignx_eval.measures.bits_per_byte import bits_per_byte, bytes_not_in, token_bits, unknown_bytes, utf8_bytes


def test_uniform_logits_cost_log2_of_the_vocabulary():
    import torch

    bits = token_bits(torch.full((3, 256), 7.5), torch.tensor([0, 17, 255]))
    np.testing.assert_allclose(bits.numpy(), 8.0, rtol=1e-6)


def test_equals_cross_entropy_in_bits_also_for_half_precision():
    import torch

    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(50, 30, generator=generator) * 4, torch.randint(30, (50,), generator=generator)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none") / math.log(2)
    torch.testing.assert_close(token_bits(logits, targets), expected)
    half = logits.bfloat16()
    torch.testing.assert_close(token_bits(half, targets), token_bits(half.float(), targets))


def test_ratio_of_sums_not_mean_of_ratios():
    lines = np.array([[10.0, 1.0], [10.0, 9.0]])
    assert bits_per_byte(lines) == 2.0
    assert bits_per_byte(lines) != pytest.approx(np.mean(lines[:, 0] / lines[:, 1]))
    assert bits_per_byte(np.zeros((2, 2))) is None


def test_bytes_are_utf8_bytes():
    assert [utf8_bytes(text) for text in ("", "abc", "é", "中文", "ไทย", "😀")] == [0, 3, 2, 6, 9, 4]
    assert utf8_bytes("\ud800") == 3


def test_unknown_bytes_by_offsets():
    text = "a 中文\u200c ж"
    known = [(0, 1), (1, 2)]
    assert unknown_bytes(text, [*known, (2, 4), (5, 6), (6, 7)], [False, False, True, False, False]) == 6
    assert unknown_bytes(text, [*known, (2, 3), (3, 4), (5, 6), (6, 7)], [False, False, True, True, False, True]) == 8
    # The mark before a word may claim its first character, which is unknown all the same.
    assert unknown_bytes(text, [*known, (2, 3), (2, 4), (6, 7)], [False, False, False, True, False]) == 6
    assert (
        unknown_bytes(text, known, [False, False]) == 8
    )  # no token at all; a space and a joiner without one are left out on purpose
    assert unknown_bytes("", [], []) == 0


def test_unknown_bytes_without_offsets():
    assert bytes_not_in("ab, ＡＢ ﬁ É", "AB ab fi é ,") == 0
    assert bytes_not_in("中文中", "文 x") == 6
    assert bytes_not_in("", "x") == bytes_not_in(" \n", "") == 0
