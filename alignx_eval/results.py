"""What a measurement leaves behind: rows (one number each) and the per-item statistics that make them comparable in
pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame


SCHEMA_VERSION = 1
Kind = Literal["mean", "ratio", "jackknife", "bleu", "chrf", "peak"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number. `value` is None where the quantity is undefined, and `reason` then says why; NaN is never stored.

    `layer` is "0" (embeddings) to "L", or "L+norm" for the last state after the final norm; None where a metric has no
    layer. `language` and `other_language` are FLORES codes. `se`, `ci_low`, `ci_high` (95 %) are in the metric's unit,
    None where no valid interval exists. `null` is the mean of the metric under a permutation that breaks the pairing
    (of the off-target rate: the rate of the references, the identifier's own error), `chance` its expected value for a
    model that knows nothing. `n` is the number of parallel lines (or documents of a task) behind the number; `method`
    says how the interval was made. `unjudged` says why a number that is defined must not decide anything (a bound, the
    score of mostly empty outputs): a comparison shows it and gives no verdict.
    """

    suite: str
    metric: str
    checkpoint: str
    layer: str | None = None
    language: str | None = None
    other_language: str | None = None
    value: float | None
    se: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int
    null: float | None = None
    chance: float | None = None
    method: str = ""
    higher_is_better: bool | None = True
    reason: str | None = None
    unjudged: str | None = None

    @property
    def key(self) -> str:
        """Identity of the quantity, the same for every checkpoint."""
        return "/".join(
            part or "-" for part in (self.suite, self.metric, self.layer, self.language, self.other_language)
        )


@dataclass(frozen=True, slots=True)
class Items:
    """Per-item sufficient statistics of one row, in the order of the corpus (or of the task's documents).

    kind "mean":      values [n], the statistic is their mean
    kind "ratio":     values [n, 2], numerator and denominator; the statistic is sum / sum
    kind "jackknife": values [groups], the statistic with that group left out; `point` is the full-sample statistic
    kind "bleu":      values [n, 10] integer sentence statistics of sacreBLEU (hypothesis length, reference length, 4
                      correct, 4 total)
    kind "chrf":      values [n, k] sentence statistics of sacreBLEU's chrF with `word_order` 2
    kind "peak":      values [n, layers], the statistic is the number of the layer whose mean is largest
    """

    kind: Kind
    values: np.ndarray
    point: float | None = None


@dataclass(slots=True)
class SuiteResult:
    """All that one suite found out about one checkpoint."""

    suite: str
    rows: list[Row]
    items: dict[str, Items] = field(default_factory=dict)  # Row.key -> Items
    clusters: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # Row.key -> cluster of each item; missing: see `default_clusters`
    default_clusters: tuple[
        str, ...
    ] = ()  # cluster (document, article) of each parallel line; the unit that is resampled
    item_ids: tuple[str, ...] = ()  # identity of each parallel line
    samples: list[dict[str, Any]] = field(
        default_factory=list
    )  # plain JSON: id, language(s), source, reference, output, scores
    fingerprint: dict[str, Any] = field(default_factory=dict)  # what must agree for two results to compare
    environment: dict[str, Any] = field(
        default_factory=dict
    )  # what is recorded and only warned about: dtype, attention kernel, device
    notes: list[str] = field(default_factory=list)  # sentences for the reader of a report
    warnings: list[str] = field(
        default_factory=list
    )  # what no reader may miss: every rendering shows them, under the checkpoint's name
    extras: dict[str, Any] = field(
        default_factory=dict
    )  # plain JSON for pictures (projections, maps); never an input of a gate
    seconds: float = 0.0

    def to_frame(self) -> DataFrame:
        """The rows as a pandas table (see `frame_of`)."""
        return frame_of(self.rows, Row)


@dataclass(frozen=True, slots=True)
class LayerSimilarity:
    """Debiased CKA of the same sentences in two checkpoints, layer against layer; `layer_similarity.py` measures it.

    `values` [reference layers][candidate layers]: mean over languages of the debiased CKA of the same sentences; None
    where undefined.

    `same_layer` has one entry a layer, `layer, value, ci_low, ci_high` (95 %, jackknife by cluster): the diagonal;
    empty where the two checkpoints have different layers. `n` counts parallel lines. `key` says which vectors it was
    made of.
    """

    reference: str
    candidate: str
    contrast: Literal["candidate-base", "candidate-control"]
    languages: tuple[str, ...]
    n: int
    clusters: int
    layers: tuple[str, ...]
    candidate_layers: tuple[str, ...]
    values: list[list[float | None]]
    same_layer: list[dict[str, Any]]
    key: str = ""


def relabel(result: SuiteResult, label: str) -> SuiteResult:
    """The same result under another checkpoint label."""
    return replace(result, rows=[replace(row, checkpoint=label) for row in result.rows])


def unique_label(label: str, taken: Sequence[str]) -> str:
    """`label`, or `label (2)`, `label (3)`, ... where it is taken."""
    candidate, number = label, 1
    while candidate in taken:
        number += 1
        candidate = f"{label} ({number})"
    return candidate


def frame_of(rows: Sequence[Any], kind: type) -> DataFrame:
    """Rows of one kind as a pandas table: one line a row, `key` and one column a field; what is undefined is NaN or
    None."""
    import pandas

    columns = [each.name for each in fields(kind)]
    table = pandas.DataFrame([[getattr(row, name) for name in columns] for row in rows], columns=columns)
    table.insert(0, "key", [row.key for row in rows])
    return table
