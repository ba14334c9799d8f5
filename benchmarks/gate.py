"""How often the gate is red on pure noise, and how large a loss has to be to be seen.

    python benchmarks/gate.py [--runs 2000] [--rows 500] [--out benchmarks/gate.json]

Every run draws per-line differences for 500 gated rows (50 languages x 10 metrics) on the same lines, so that rows are
correlated through what a line has in common, as they are in a real comparison; lines of one document are correlated
too. Differences, cluster-robust standard errors and the gate are those of the package. "Noise" sets the true loss of
every row to exactly its tolerance, the hardest null there is (below it, the gate is red less often); "nothing changed"
sets it to 0 with a tolerance above 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import stats

from alignx_eval.comparison.rows import Comparison, ComparisonRow
from alignx_eval.judgement.gate import judge
from alignx_eval.judgement.policy import Policy
from alignx_eval.statistics.clustered import clustered_mean

LANGUAGES, METRICS = 50, 10
SIZES = {200: 100, 452: 261, 1012: 281}  # lines: documents; the last two are those of `interface` and of FLORES devtest


def policy(tolerance: float) -> Policy:
    rule = {"suite": "tasks", "metric": "*", "tolerance": tolerance}
    return Policy.model_validate({"rules": [rule], "require_all": False, "protected": []})


def documents(lines: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Document of each line, [lines]: every document has one line, the others fall on documents unevenly, as they do in
    real text."""
    shares = generator.dirichlet(np.full(count, 1.0))
    return np.sort(np.concatenate([np.arange(count), generator.choice(count, lines - count, p=shares)]))


def differences(codes: np.ndarray, rows: int, correlation: float, generator: np.random.Generator) -> np.ndarray:
    """[lines, rows] with mean 0 and variance 1; 0.3 of the variance belongs to the document, `correlation` of either
    part to all rows."""
    count = codes.max() + 1

    def shared(size: int) -> np.ndarray:
        common = generator.standard_normal((size, 1))
        return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * generator.standard_normal((size, rows))

    return np.sqrt(0.3) * shared(count)[codes] + np.sqrt(0.7) * shared(len(codes))


def gate_once(values: np.ndarray, codes: np.ndarray, tolerance: float) -> list[str]:
    """Status of every row, in the order of the columns of `values` (losses by line)."""
    clusters = tuple(map(str, codes))
    rows = []
    for number, column in enumerate(values.T):
        estimate = clustered_mean(column, clusters)
        rows.append(
            ComparisonRow(
                suite="tasks",
                metric=f"metric{number}",
                layer=None,
                language="deu_Latn",
                other_language=None,
                contrast="candidate-base",
                base_name="base",
                candidate_name="candidate",
                base=0.0,
                candidate=estimate.value,
                difference=estimate.value,
                se=estimate.se,
                ci_low=estimate.ci_low,
                ci_high=estimate.ci_high,
                degrees_of_freedom=estimate.degrees_of_freedom,
                skewness=estimate.skewness,
                n=estimate.n,
                clusters=estimate.clusters,
                higher_is_better=False,
                verdict="no-evidence",
            )  # fmt: skip
        )
    comparison = Comparison(
        base="base",
        candidates=["candidate"],
        control=None,
        rows=rows,
        results={},
        checkpoints={"base": {}, "candidate": {}},
        corpus={},
    )
    judged = judge(comparison, policy(tolerance)).candidates[0].rows
    status = {row.key: row.status for row in judged}
    return [status[row.key] for row in rows]


def rate(hits: int, runs: int) -> dict[str, float]:
    low, high = stats.binomtest(hits, runs).proportion_ci(method="exact")
    return {"rate": hits / runs, "low": float(low), "high": float(high)}


def false_alarms(runs: int, rows: int) -> list[dict]:
    """Share of runs in which any row is red although no loss is beyond its tolerance."""
    found = []
    for lines, count in SIZES.items():
        for correlation in (0.0, 0.5):
            for name, loss, tolerance in (("noise at the tolerance", 0.1, 0.1), ("nothing changed", 0.0, 0.1)):
                generator = np.random.default_rng([lines, int(10 * correlation), int(loss > 0)])
                codes = documents(lines, count, generator)
                red = sum(
                    "red" in gate_once(loss + differences(codes, rows, correlation, generator), codes, tolerance)
                    for _ in range(runs)
                )
                p = stats.binomtest(red, runs, 0.05, alternative="greater").pvalue
                cell = {
                    "case": name,
                    "lines": lines,
                    "documents": count,
                    "correlation": correlation,
                    "rows": rows,
                    "runs": runs,
                }
                found.append({**cell, **rate(red, runs), "p_above_5_percent": float(p)})
                print(
                    f"{name:24s} n {lines:5d} correlation {correlation:.1f}: red in {red} of {runs} runs "
                    f"({red / runs:.3f})",
                    flush=True,
                )
    return found


def power(runs: int, rows: int) -> list[dict]:
    """Share of damaged rows that are red, by how far their loss is beyond the tolerance in standard errors."""
    found = []
    lines, count = 452, 261
    for damaged in (1, rows // 10):
        for excess in (2.0, 3.0, 4.0, 5.0, 6.0):
            generator = np.random.default_rng([damaged, int(excess)])
            codes = documents(lines, count, generator)
            sizes = np.bincount(codes)
            se = float(np.sqrt((0.3 * (sizes**2).sum() + 0.7 * lines) / lines**2))
            red = runs_seen = 0
            for _ in range(runs):
                values = differences(codes, rows, 0.5, generator)
                values[:, :damaged] += 0.1 + excess * se
                statuses = gate_once(values, codes, 0.1)
                red += statuses[:damaged].count("red")
                runs_seen += damaged
            found.append({"damaged": damaged, "rows": rows, "excess_in_se": excess, **rate(red, runs_seen)})
            print(
                f"{damaged:3d} of {rows} rows damaged by tolerance + {excess} se: red {red / runs_seen:.3f}", flush=True
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=LANGUAGES * METRICS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    result = {
        "false_alarms": false_alarms(options.runs, options.rows),
        "power": power(max(1, options.runs // 10), options.rows),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
