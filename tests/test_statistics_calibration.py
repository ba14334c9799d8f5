"""The calibration benchmark: its stored result, and that it would notice what it is there to notice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import calibration
from benchmarks.calibration import SIMULATIONS, Cell, Simulation, judge, run_simulation, sample

STORED = Path(calibration.__file__).with_name("calibration.json")


stored = pytest.mark.skipif(
    not STORED.exists(), reason="no result of benchmarks/calibration.py is stored; run it with --out"
)


@stored
def test_stored_sizes_and_coverages_hold_up():
    cells = [Cell(**cell) for cell in json.loads(STORED.read_text())["cells"]]
    family = [cell for cell in cells if not cell.limit]
    assert [cell.method for cell in family if cell.verdict not in ("ok", "conservative")] == []
    assert judge(cells) == cells
    for cell in family:
        assert cell.nulls == 10_000 or (cell.method, cell.n, cell.nulls) == (
            "permutation test of debiased CKA",
            1012,
            1_000,
        )
        assert cell.rate < 0.06 if cell.what == "size" else cell.rate > 0.94
    assert {cell.n for cell in family} == {50, 200, 1012} and any(cell.clusters < cell.n for cell in family)


@stored
def test_the_stored_cells_are_those_of_the_benchmark():
    there = {
        (cell["method"], cell["what"], cell["n"], cell["clusters"]) for cell in json.loads(STORED.read_text())["cells"]
    }
    now = set()
    for simulation in SIMULATIONS:
        for clustered in simulation.clustered:
            for n in simulation.sizes[:1]:
                now |= {
                    (cell.method, cell.what, cell.n, cell.clusters)
                    for cell in run_simulation(simulation, n, clustered, 1)[0]
                }
    assert now <= there


def test_a_wrong_interval_and_a_wrong_test_are_found():
    def wrong(generator, drawn, nulls):
        for _ in range(nulls):
            values = drawn.normal(generator)
            half_width = 1.96 * values.std(ddof=1) / np.sqrt(drawn.n)  # as if lines of a document were independent
            yield [
                ("naive interval", "coverage", abs(values.mean()) <= half_width),
                ("naive test", "size", abs(values.mean()) > half_width),
            ]

    cells, _ = run_simulation(Simulation("wrong", wrong), 200, True, 2000)
    assert [cell.verdict for cell in judge(cells)] == ["FAIL", "FAIL"]
    shy = replace(cells[1], rate=0.01, p=1.0)
    assert judge([shy])[0].verdict == "conservative"
    assert judge([replace(cells[0], limit=True)])[0].verdict == "limit"  # shown, not judged


def test_samples_have_the_clusters_they_claim():
    flat, clustered = sample(200, False), sample(200, True)
    assert (flat.count, len(clustered.clusters)) == (200, 200) and clustered.count < 150
    values = clustered.normal(np.random.default_rng(0), 4000)
    same = clustered.codes[:-1] == clustered.codes[1:]
    neighbours = (values[:-1] * values[1:]).mean(axis=1)
    assert neighbours[same].mean() == pytest.approx(calibration.CORRELATION, abs=0.02)
    assert neighbours[~same].mean() == pytest.approx(0, abs=0.02)
