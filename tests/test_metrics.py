"""The cards of the metrics: what every other file says of a metric comes from here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alignx_eval.judgement.diagnosis import RULES
from alignx_eval.judgement.policy import default_policy
from alignx_eval.metrics import METRICS, SUFFIXES, SUITE_TITLES, SUITES, metric_card
from alignx_eval.wording import difference, number

ROOT = Path(__file__).resolve().parent.parent


def test_every_card_says_what_it_is():
    assert set(SUITES) == set(SUITE_TITLES)
    for name, card in METRICS.items():
        assert card.title and card.about and card.unit, name
        assert card.tolerated is None or card.higher_is_better is not None, name
        assert not card.about.endswith("."), name


@pytest.mark.parametrize(
    ("metric", "title", "of"),
    [
        ("belebele.acc", "belebele: accuracy", "acc"),
        ("precision_at_1_peak", "precision@1, highest", "precision_at_1"),
        ("bleu_floor_copy", "BLEU of the copied source", "bleu"),
        ("something_new", "something new", None),
        ("mgsm.exact_match", "mgsm: exact match", None),
    ],
)
def test_a_metric_without_a_card_of_its_own(metric, title, of):
    card = metric_card(metric)
    assert card.title == title
    if of is not None:
        assert (card.decimals, card.unit) == (METRICS[of].decimals, METRICS[of].unit)
    assert metric_card("mgsm.exact_match").noticeable == METRICS["acc"].noticeable
    assert all(metric_card(f"precision_at_1{suffix}").noticeable is None for suffix in SUFFIXES)


def test_numbers_have_the_decimals_of_the_card():
    assert (number(8.254, "bleu"), difference(8.254, "bleu")) == ("8.3", "+8.25")
    assert (number(0.8254, "precision_at_1"), difference(-0.8254, "precision_at_1")) == ("0.825", "−0.825")


def test_the_default_policy_tolerates_what_the_cards_say():
    for rule in default_policy().rules:
        assert rule.tolerance == METRICS[rule.metric.removeprefix("*.")].tolerated, rule.metric


def test_the_page_on_the_diagnosis_shows_what_is_noticeable_and_what_is_tolerated():
    page = (ROOT / "docs" / "diagnosis.md").read_text(encoding="utf-8")
    for card in METRICS.values():
        if card.noticeable is None:
            continue
        line = next(line for line in page.splitlines() if line.startswith(f"| {card.title} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1:3] == [f"{card.noticeable:g}", "–" if card.tolerated is None else f"{card.tolerated:g}"], line
        assert card.people in line
        assert any(re.search(rf"\b{card.noticeable:g}\b", rule) for rule in RULES.values())
