"""Comparison and policy -> Report: all that is said of a comparison, made once, and taken by every renderer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from alignx_eval.comparison.rows import Comparison
from alignx_eval.judgement.diagnosis import diagnose
from alignx_eval.judgement.evidence import Diagnosis
from alignx_eval.judgement.findings import Headline, describe, find, find_headlines, text_measured, warning_count
from alignx_eval.judgement.gate import Verdict, judge
from alignx_eval.judgement.policy import Policy, default_policy
from alignx_eval.judgement.series import Series, make_series


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison, or one checkpoint alone, with what is said of it.

    `sentence` says what was compared with what, on which text. `verdict` is None for one checkpoint alone, `series`
    where the candidates are not steps of one training. `findings` are sentences, those of the headlines first.
    """

    comparison: Comparison
    verdict: Verdict | None
    sentence: str
    headlines: Sequence[Headline]
    findings: Sequence[str]
    diagnoses: Sequence[Diagnosis]
    series: Series | None

    def of(self, candidates: Collection[str]) -> Report:
        """The report on some of the candidates; verdict and series remain those of all."""
        comparison = self.comparison
        kept = {comparison.base, comparison.control, *candidates}
        part = replace(
            comparison,
            candidates=[label for label in comparison.candidates if label in candidates],
            rows=[row for row in comparison.rows if row.candidate_name in candidates],
            layer_similarity=[each for each in comparison.layer_similarity if each.candidate in candidates],
            results={label: suites for label, suites in comparison.results.items() if label in kept},
        )
        headlines = [each for each in self.headlines if each.candidate in candidates]
        diagnoses = [each for each in self.diagnoses if each.candidate in candidates]
        return replace(self, comparison=part, headlines=headlines, findings=find(part, headlines), diagnoses=diagnoses)


def make_report(
    comparison: Comparison,
    policy: Policy | None = None,
    *,
    policy_name: str = "default policy",
    enforced: bool = False,
) -> Report:
    """Judge every candidate by `policy` (default: the shipped one) and say all that is to be said; of one checkpoint
    alone, no verdict.

    Raises InputError where the policy gates against a control and there is none.
    """
    verdict = None
    if comparison.candidates:
        verdict = judge(comparison, policy or default_policy(), policy_name=policy_name, enforced=enforced)
    return report_of(comparison, verdict)


def report_of(comparison: Comparison, verdict: Verdict | None) -> Report:
    """The report on a comparison whose verdict is known; without one the report has no series either."""
    headlines = find_headlines(comparison)
    alone = f"{comparison.base} was measured alone, without a comparison{text_measured(comparison)}."
    return Report(
        comparison=comparison,
        verdict=verdict,
        sentence=describe(comparison) if comparison.candidates else alone + warning_count(comparison),
        headlines=headlines,
        findings=find(comparison, headlines),
        diagnoses=diagnose(comparison),
        series=make_series(comparison, verdict) if comparison.series and verdict is not None else None,
    )
