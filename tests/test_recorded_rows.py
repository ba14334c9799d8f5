"""Numbers of a small fixed measurement against the recorded ones: what moves them must raise the suite's measuring
version."""

from __future__ import annotations

import json
import math

import pytest

from alignx_eval.metrics import SUITES
from alignx_eval.suites.table import MEASURING_VERSIONS
from tools.record_rows import RECORD, measure

ADVICE = (
    "raise the suite's number in suites/table.py, name the change in CHANGELOG.md and run `python -m tools.record_rows`"
)


@pytest.fixture(scope="module")
def measured():
    return measure()


@pytest.mark.parametrize("suite", list(SUITES))
def test_numbers_that_move_raise_the_measuring_version(measured, suite):
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))[suite]
    assert recorded["measuring_version"] == MEASURING_VERSIONS[suite], f"recorded with another version: {ADVICE}"
    now, before = measured[suite]["values"], recorded["values"]
    assert sorted(now) == sorted(before), f"rows came or went: {ADVICE}"

    def same(one: float | None, other: float | None) -> bool:
        # Rounding differs between processors; what a change of the measure moves is larger.
        return one is other if None in (one, other) else math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)

    moved = [f"{key}: {before[key]} -> {now[key]}" for key in before if not same(before[key], now[key])]
    assert not moved, f"{len(moved)} numbers moved, first {moved[:3]}: {ADVICE}"
