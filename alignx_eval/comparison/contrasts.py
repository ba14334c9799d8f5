"""A contrast: a candidate against the base or the control, and its rows. The one filter of rows by contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison, ComparisonRow, ContrastKind

CONTRAST_TITLES = {"candidate-control": "Effect of alignment", "candidate-base": "What training changed"}
CONTRAST_MEANING = {"candidate-control": "the effect of alignment", "candidate-base": "what training changed"}


@dataclass(frozen=True, slots=True)
class Contrast:
    """One candidate against one other checkpoint, with the rows of that pair."""

    kind: ContrastKind
    candidate: str
    other: str
    rows: tuple[ComparisonRow, ...]

    @property
    def title(self) -> str:
        return CONTRAST_TITLES[self.kind]

    @property
    def meaning(self) -> str:
        """ "the effect of alignment" or "what training changed"."""
        return CONTRAST_MEANING[self.kind]

    @property
    def formula(self) -> str:
        role = "control" if self.kind == "candidate-control" else "base"
        return f"{self.candidate} − {self.other}" + (f" ({role})" if role != self.other else "")


def contrasts_of(comparison: Comparison, candidate: str) -> list[Contrast]:
    """A candidate against the control, where there is another one, then against the base; each with its rows, which may
    be none."""
    sides: list[tuple[ContrastKind, str]] = [("candidate-base", comparison.base)]
    if comparison.control is not None and comparison.control != candidate:
        sides.insert(0, ("candidate-control", comparison.control))
    return [
        Contrast(
            kind,
            candidate,
            other,
            tuple(
                row
                for row in comparison.rows
                if (row.candidate_name, row.base_name, row.contrast) == (candidate, other, kind)
            ),
        )
        for kind, other in sides
    ]


def list_contrasts(comparison: Comparison) -> list[Contrast]:
    """The contrasts of all candidates, in their order."""
    return [contrast for candidate in comparison.candidates for contrast in contrasts_of(comparison, candidate)]
