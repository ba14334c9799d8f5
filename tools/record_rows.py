"""Write `tests/recorded_rows.json`: every number of a small fixed measurement, with the measuring version of its suite.

`tests/test_recorded_rows.py` measures again and compares. Whoever changes what a suite measures raises its version in
`suites/table.py`, names the change in CHANGELOG.md and runs this tool; results measured before then no longer pass as
new ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORD = Path(__file__).resolve().parent.parent / "tests" / "recorded_rows.json"
LANGUAGES = ("eng_Latn", "deu_Latn", "zho_Hans")
LINES = 12


def measure() -> dict[str, dict[str, Any]]:
    """Suite -> {"measuring_version": its number, "values": {key of the row: value}} of `bundled:base` on the first
    lines of `interface`."""
    from alignx_eval.checkpoint import open_checkpoint
    from alignx_eval.corpora import load_corpus
    from alignx_eval.engine.transformers_engine import TransformersEngine
    from alignx_eval.evaluate import evaluate
    from alignx_eval.metrics import SUITES
    from alignx_eval.suites.table import MEASURING_VERSIONS, Options

    corpus = load_corpus("interface", "test", LANGUAGES, LINES)
    results = evaluate(
        TransformersEngine(open_checkpoint("bundled:base")),
        corpus,
        tuple(SUITES),
        Options(languages=LANGUAGES, limit=LINES),
    )
    return {
        suite: {
            "measuring_version": MEASURING_VERSIONS[suite],
            "values": {row.key: None if row.value is None else round(row.value, 6) for row in result.rows},
        }
        for suite, result in results.items()
    }


if __name__ == "__main__":
    RECORD.write_text(json.dumps(measure(), indent=0, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {RECORD}")
