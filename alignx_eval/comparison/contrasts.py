"""A contrast: a candidate against the base or the control, and its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison, ComparisonRow


CONTRAST_TITLES = {"candidate-control": "Effect of alignment", "candidate-base": "What training changed"}


@dataclass(frozen=True, slots=True)
class Contrast:
    """One candidate against one other checkpoint, with the rows of that pair."""

    kind: str  # "candidate-control" or "candidate-base"
    candidate: str
    other: str
    rows: tuple[ComparisonRow, ...]

    @property
    def title(self) -> str:
        return CONTRAST_TITLES[self.kind]

    @property
    def formula(self) -> str:
        role = "control" if self.kind == "candidate-control" else "base"
        return f"{self.candidate} − {self.other}" + (f" ({role})" if role != self.other else "")


# --- contrasts, counts, order ----------------------------------------------------------------------------------------------------
def list_contrasts(comparison: Comparison) -> list[Contrast]:
    """Each candidate against the control, where there is one, then against the base."""
    found: dict[tuple[str, str, str], list[ComparisonRow]] = {}
    for candidate in comparison.candidates:
        if comparison.control:
            found[("candidate-control", candidate, comparison.control)] = []
        found[("candidate-base", candidate, comparison.base)] = []
    for row in comparison.rows:
        found.setdefault((row.contrast, row.candidate_name, row.base_name), []).append(row)
    result = [Contrast(*key, tuple(rows)) for key, rows in found.items()]
    # The control is itself compared with the base in some comparisons; without rows a contrast says nothing.
    return [contrast for contrast in result if contrast.rows or comparison.candidates]
