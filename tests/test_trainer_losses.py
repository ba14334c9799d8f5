"""The losses against their formulas, written out naively."""

from __future__ import annotations

import math

import pytest
import torch
from alignx_trainer.losses import LanguageMatcher, contrastive_loss, matching_loss, mean_pool, summed_cross_entropy
from torch import nn
from torch.nn import functional as F

SOURCE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
TARGET = torch.tensor([[1.0, 0.2], [-0.3, 1.0], [0.5, 1.0]])


def cosine(a, b) -> float:
    return float(
        sum(x * y for x, y in zip(a, b, strict=True))
        / math.sqrt(sum(x * x for x in a))
        / math.sqrt(sum(y * y for y in b))
    )


def one_way(anchors, candidates, temperature: float) -> float:
    """-mean_i log exp(sim(i, i) / t) / sum_j exp(sim(i, j) / t), term by term."""
    total = 0.0
    for i, anchor in enumerate(anchors.tolist()):
        weights = [math.exp(cosine(anchor, candidate) / temperature) for candidate in candidates.tolist()]
        total -= math.log(weights[i] / sum(weights))
    return total / len(anchors)


def test_contrastive_forms_are_their_formulas():
    forward, backward = one_way(SOURCE, TARGET, 0.1), one_way(TARGET, SOURCE, 0.1)
    expected = {"paper_formula": forward, "official_code": forward / 2, "symmetric": (forward + backward) / 2}
    for form, value in expected.items():
        loss, _ = contrastive_loss(SOURCE, TARGET, temperature=0.1, form=form)
        assert float(loss) == pytest.approx(value, rel=1e-5), form
    assert expected["official_code"] / expected["paper_formula"] == pytest.approx(0.5)
    assert forward != pytest.approx(backward, rel=1e-2)


def test_contrastive_fixed_values():
    """Pinned figures, so that a change of the formula cannot hide behind a change of the test."""
    values = {
        form: float(contrastive_loss(SOURCE, TARGET, temperature=0.1, form=form)[0])
        for form in ("paper_formula", "official_code", "symmetric")
    }
    assert values == pytest.approx(
        {"paper_formula": 0.236165, "official_code": 0.1180825, "symmetric": 0.2305395}, rel=1e-5
    )


def test_contrastive_ignores_scale_but_not_order():
    loss, _ = contrastive_loss(SOURCE, TARGET, temperature=0.1, form="symmetric")
    scaled, _ = contrastive_loss(
        SOURCE * 7, TARGET * torch.tensor([[1.0], [5.0], [0.1]]), temperature=0.1, form="symmetric"
    )
    swapped, _ = contrastive_loss(SOURCE, TARGET[[1, 0, 2]], temperature=0.1, form="symmetric")
    assert float(scaled) == pytest.approx(float(loss), rel=1e-5)
    assert float(swapped) > float(loss) + 0.5


def test_contrastive_duplicates_are_no_negatives():
    source, target = torch.cat([SOURCE, SOURCE[:1]]), torch.cat([TARGET, TARGET[:1]])
    same = torch.eye(4, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    masked, accuracy = contrastive_loss(
        source, target, temperature=0.1, form="paper_formula", same_source=same, same_target=same
    )
    plain, tied = contrastive_loss(source, target, temperature=0.1, form="paper_formula")
    expected = sum(one_way_row(source, target, i, skip={0: 3, 3: 0}.get(i)) for i in range(4)) / 4
    assert float(masked) == pytest.approx(expected, rel=1e-5)
    assert float(masked) < float(plain)
    assert (
        float(accuracy) == 1.0 and float(tied) == 0.5
    )  # without the mask the duplicates tie with each other, and a tie is no hit


def one_way_row(anchors, candidates, i: int, skip: int | None) -> float:
    weights = {
        j: math.exp(cosine(anchors[i].tolist(), candidate) / 0.1)
        for j, candidate in enumerate(candidates.tolist())
        if j != skip
    }
    return -math.log(weights[i] / sum(weights.values()))


def test_matcher_equals_the_all_pairs_form():
    torch.manual_seed(0)
    matcher, vectors = LanguageMatcher(8, 5), torch.randn(6, 8)
    naive = torch.stack(
        [
            torch.stack(
                [matcher.down(F.silu(matcher.gate(torch.cat([a, b]))) * matcher.up(torch.cat([a, b]))) for b in vectors]
            )
            for a in vectors
        ]
    )
    torch.testing.assert_close(matcher(vectors), naive, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(matcher(vectors), matcher(vectors).transpose(0, 1))  # ordered pairs


@pytest.mark.parametrize("drop_diagonal", [True, False])
def test_matching_loss_is_the_mean_over_ordered_pairs(drop_diagonal: bool):
    torch.manual_seed(1)
    matcher, vectors, language = LanguageMatcher(4, 3), torch.randn(4, 4), torch.tensor([0, 1, 0, 2])
    logits, terms, right, same = matcher(vectors), [], 0, 0
    for i in range(4):
        for j in range(4):
            if drop_diagonal and i == j:
                continue
            label = int(language[i] == language[j])
            terms.append(-float(logits.detach()[i, j].log_softmax(-1)[label]))
            right += int(logits[i, j].argmax()) == label
            same += label
    loss, accuracy, share = matching_loss(matcher, vectors, language, drop_diagonal=drop_diagonal)
    assert float(loss) == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert float(accuracy) == pytest.approx(right / len(terms))
    assert float(share) == pytest.approx(same / len(terms))


def test_mean_pool_by_hand_and_empty_span():
    states = torch.arange(12, dtype=torch.bfloat16).reshape(2, 3, 2)
    mask = torch.tensor([[False, True, True], [False, False, False]])
    pooled = mean_pool(states, mask)
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[3.0, 4.0], [0.0, 0.0]]


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_cross_entropy_in_pieces_equals_the_whole(softcap: float | None, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(2)
    head, hidden, labels = (
        nn.Linear(6, 50, bias=False),
        torch.randn(11, 6, requires_grad=True),
        torch.randint(0, 50, (11,)),
    )
    logits = head(hidden) if softcap is None else torch.tanh(head(hidden) / softcap) * softcap
    whole = F.cross_entropy(logits, labels, reduction="sum")
    expected = torch.autograd.grad(whole, [hidden, head.weight])
    monkeypatch.setattr("alignx_trainer.losses.LOGITS_AT_ONCE", 150)  # three rows at a time
    pieces = summed_cross_entropy(hidden, labels, head, softcap)
    torch.testing.assert_close(pieces, whole)
    for ours, theirs in zip(torch.autograd.grad(pieces, [hidden, head.weight]), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_matching_in_pieces_equals_the_whole(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(4)
    matcher, vectors, language = (
        LanguageMatcher(6, 5),
        torch.randn(7, 6, requires_grad=True),
        torch.tensor([0, 1, 2, 0, 1, 2, 0]),
    )
    inputs = [vectors, *matcher.parameters()]

    def gradients() -> tuple[torch.Tensor, ...]:
        loss, *_ = matching_loss(matcher, vectors, language, drop_diagonal=True)
        return loss, *torch.autograd.grad(loss, inputs)

    whole = gradients()
    monkeypatch.setattr("alignx_trainer.losses.PAIR_STATES_AT_ONCE", 3 * 7 * 5)  # three rows of pairs at a time
    for ours, theirs in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
