"""Comparison rows as tables for programs: JSON with a schema version, and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import TYPE_CHECKING

from alignx_eval.render import view
from alignx_eval.results import SCHEMA_VERSION

if TYPE_CHECKING:
    from alignx_eval.comparison import Comparison

COLUMNS = (
    "suite",
    "metric",
    "layer",
    "language",
    "other_language",
    "contrast",
    "base_name",
    "candidate_name",
    "base",
    "candidate",
    "difference",
    "se",
    "ci_low",
    "ci_high",
    "p",
    "p_adjusted",
    "minimum_detectable_effect",
    "n",
    "clusters",
    "method",
    "higher_is_better",
    "verdict",
    "reason",
)


def render_json(comparison: Comparison) -> str:
    """The comparison as JSON: verdict counts, comparison rows, and the rows of every checkpoint. Undefined is null, never NaN."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "sentence": view.title_sentence(comparison),
        "base": comparison.base,
        "control": comparison.control,
        "candidates": list(comparison.candidates),
        "counts": [
            {"contrast": contrast.kind, "candidate": contrast.candidate, "against": contrast.other, **view.count_verdicts(contrast.rows)}
            for contrast in view.contrasts(comparison)
        ],
        "findings": list(comparison.findings),
        "warnings": list(comparison.warnings),
        "corpus": comparison.corpus,
        "checkpoints": comparison.checkpoints,
        "comparison_rows": [{column: getattr(row, column) for column in COLUMNS} for row in comparison.rows],
        "rows": [
            {**dataclasses.asdict(row), "checkpoint": label}
            for label, suites in comparison.results.items()
            for result in suites.values()
            for row in result.rows
        ],
    }
    return json.dumps(view.finite(document), ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def render_csv(comparison: Comparison) -> str:
    """Comparison rows as CSV (RFC 4180, header line); of a single checkpoint, its rows. Undefined is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    if comparison.candidates:
        writer.writerow(COLUMNS)
        writer.writerows([_field(getattr(row, column)) for column in COLUMNS] for row in comparison.rows)
        return out.getvalue()
    rows = [row for suites in comparison.results.values() for result in suites.values() for row in result.rows]
    names = [field.name for field in dataclasses.fields(rows[0])] if rows else []
    writer.writerow(names)
    writer.writerows([_field(getattr(row, name)) for name in names] for row in rows)
    return out.getvalue()


def _field(value: object) -> object:
    value = view.finite(value)
    if value is None:
        return ""
    # A spreadsheet runs text that starts like a formula.
    if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t"):
        return "'" + value
    return value
