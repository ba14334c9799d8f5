"""Comparison rows: paired differences, each with an interval, a p value and a verdict. Numbers only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from alignx_eval.languages import DEFAULT_PIVOT
from alignx_eval.results import LayerSimilarity, Row, SuiteResult, frame_of

if TYPE_CHECKING:
    from pandas import DataFrame

# Below this many independent clusters neither the t interval nor the power of a sign flip deserves a verdict.
MINIMUM_CLUSTERS = 10

ContrastKind = Literal["candidate-base", "candidate-control"]
RowVerdict = Literal["better", "worse", "no-evidence", "insufficient-data", "no-direction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One paired difference. Where a number is None, `reason` says why; NaN never occurs.

    `base` is the value of the reference `base_name` (the control in the contrast `candidate-control`). `se` and the 95
    % interval `ci_low`, `ci_high` belong to `difference` and are not adjusted for multiplicity; neither is
    `minimum_detectable_effect` (80 % power, two-sided). `degrees_of_freedom` and `skewness` are those of the interval
    (see `statistics.clustered.Estimate`). `p_adjusted` is None outside of a family. `n` counts items (parallel lines,
    documents of a task), `clusters` the independent groups of them. `null` is the candidate's `Row.null`: what the
    metric is worth without the pairing, of the off-target rate the references' own rate.
    """

    suite: str
    metric: str
    layer: str | None
    language: str | None
    other_language: str | None
    contrast: ContrastKind
    base_name: str
    candidate_name: str
    base: float | None
    candidate: float | None
    difference: float | None = None
    se: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    degrees_of_freedom: float | None = None
    skewness: float = 0.0
    p: float | None = None
    p_adjusted: float | None = None
    minimum_detectable_effect: float | None = None
    n: int
    clusters: int = 0
    method: str = ""
    higher_is_better: bool | None
    verdict: RowVerdict
    reason: str | None = None
    null: float | None = None

    @property
    def key(self) -> str:
        """Identity of the quantity, as `Row.key`."""
        return "/".join(
            part or "-" for part in (self.suite, self.metric, self.layer, self.language, self.other_language)
        )


@dataclass(slots=True)
class Comparison:
    """The numbers of a comparison. Labels in `base`, `candidates`, `control` are keys of `results` and `checkpoints`.

    `mismatches` are the differences of the fingerprints that --allow-mismatch let pass; `series` says that the
    candidates are steps of one training, in order; `pivot` is the language that the suites paired all others with.
    """

    base: str
    candidates: list[str]
    control: str | None
    rows: list[ComparisonRow]
    results: dict[str, dict[str, SuiteResult]]
    checkpoints: dict[str, dict[str, Any]]
    corpus: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    alpha: float = 0.05
    seed: int = 0
    series: bool = False
    layer_similarity: list[LayerSimilarity] = field(default_factory=list)
    pivot: str = DEFAULT_PIVOT

    def to_frame(self) -> DataFrame:
        """The rows as a pandas table (see `results.frame_of`)."""
        return frame_of(self.rows, ComparisonRow)


AnyRow = TypeVar("AnyRow", ComparisonRow, Row)


def labels(comparison: Comparison) -> list[str]:
    """Labels of all checkpoints: base, control, candidates."""
    ordered = [comparison.base, comparison.control, *comparison.candidates]
    known = [label for label in ordered if label]
    return list(dict.fromkeys([*known, *comparison.results]))


def pivot_of(results: Mapping[str, Mapping[str, SuiteResult]]) -> str:
    """The language that the suites paired all others with, by their fingerprints; English where none of them says."""
    recorded = (result.fingerprint.get("pivot") for suites in results.values() for result in suites.values())
    return next((str(pivot) for pivot in recorded if pivot), DEFAULT_PIVOT)


def own_language(row: ComparisonRow | Row, pivot: str) -> str | None:
    """The language a row is about: of a pair, the one that is not the pivot; None for a mean over languages."""
    if is_mean(row):
        return None
    if row.language == pivot and row.other_language:
        return row.other_language
    return row.language


def is_mean(row: ComparisonRow | Row) -> bool:
    """Whether a row is a mean over languages or directions."""
    return row.language is None or (row.suite == "translation" and row.other_language is None)


def details(rows: Iterable[AnyRow]) -> list[AnyRow]:
    """The rows of single languages or directions, without the means that a suite reports beside them."""
    rows = list(rows)
    pairs = [row for row in rows if row.language is not None and row.other_language is not None]
    return pairs or [row for row in rows if row.language is not None]
