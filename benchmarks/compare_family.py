"""How long `compare` takes over a family of 1000 rows with 500 items each: `OMP_NUM_THREADS=1 python
benchmarks/compare_family.py`."""

import statistics
import time

import numpy as np

from alignx_eval.comparison.compare import compare
from alignx_eval.results import Items, Row, SuiteResult

ROWS, ITEMS, REPEATS = 1000, 500, 7


def side(name: str, generator: np.random.Generator) -> dict[str, SuiteResult]:
    values = generator.random((ROWS, ITEMS))
    rows = [
        Row(suite="layers", metric="cosine", checkpoint=name, layer=str(row), value=float(values[row].mean()), n=ITEMS)
        for row in range(ROWS)
    ]
    items = {row.key: Items("mean", values[index]) for index, row in enumerate(rows)}
    return {"layers": SuiteResult("layers", rows, items, default_clusters=tuple(map(str, range(ITEMS))))}


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    results = {name: side(name, generator) for name in ("base", "candidate")}
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        compare(results, base="base", candidates=["candidate"])
        seconds.append(time.process_time() - started)
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}, {REPEATS} runs"
    print(f"{ROWS} rows of {ITEMS} items: median {statistics.median(seconds):.2f} s of CPU time, {spread}")
