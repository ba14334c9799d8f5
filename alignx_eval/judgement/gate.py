"""Policy + comparison -> one Verdict: is any loss larger than what is tolerated? Pure: no model, no file.

The question of a row is "is the loss larger than the tolerance", not "is there a difference". With loss = difference
with its sign turned so that positive is bad, the null hypothesis is loss <= tolerance, tested one-sided with the
standard error, degrees of freedom and skewness of the row's interval (`statistics.clustered.one_sided_p`). p values are
adjusted by Benjamini-Hochberg over a family: all judged rows of one level (block, warn, info) of one candidate. So with
nothing worse than tolerated, a gate is red in at most a share alpha of runs, however many rows it has.

    red      the adjusted p is below alpha; `loss_at_least` is then the lower confidence bound of the loss, adjusted for
             the selection (FCR)
    amber    the loss is beyond the tolerance but not significantly so; or a protected language is not shown to lose
             less than tolerated
    green    neither; in a protected language the loss is shown to be below the tolerance (non-inferiority, one-sided at
             alpha, not adjusted: all of them have to hold)
    grey     not judged: fewer items than `min_n`, too few clusters, no interval
    missing  wanted by the policy and not there for the candidate, or nothing to compare it with

References: Wellek, Testing Statistical Hypotheses of Equivalence and Noninferiority, 2010; Benjamini and Hochberg 1995;
Benjamini and Yekutieli 2005; Berger 1982 for the intersection-union test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np

from alignx_eval.comparison.contrasts import contrasts_of
from alignx_eval.comparison.means import align_layer
from alignx_eval.comparison.rows import MINIMUM_CLUSTERS, Comparison, ComparisonRow, own_language
from alignx_eval.errors import InputError
from alignx_eval.judgement.policy import Level, Policy, Rule
from alignx_eval.results import Row
from alignx_eval.statistics.clustered import lower_bound, one_sided_p
from alignx_eval.statistics.multiplicity import benjamini_hochberg
from alignx_eval.wording import own_rate, p_text, sample_size, signed, size

Status = Literal["red", "amber", "green", "grey", "missing"]
Outcome = Literal["fail", "incomplete", "inconclusive", "pass"]  # from worst to best
STATUSES: tuple[Status, ...] = ("red", "missing", "amber", "grey", "green")
ROUNDING = 1e-9  # a loss of 2 in 100 items is not beyond a tolerance of 0.02
LEVELS: tuple[Level, ...] = ("block", "warn", "info")
OUTCOMES: tuple[Outcome, ...] = ("fail", "incomplete", "inconclusive", "pass")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRow:
    """One gated row. `loss` and `tolerance` are in the metric's unit, a positive loss is bad; `row` has the difference
    and its interval. `skewness` is that of the loss.

    `p` is that of "the loss is not larger than the tolerance", `p_adjusted` after Benjamini-Hochberg; both are None
    where the row is not judged. `loss_at_least` is None unless red. `loss_at_most` is the upper confidence bound of the
    loss at 1 - alpha, one-sided, not adjusted. `row` is None where the policy wants something of which nothing was
    measured; `wanted` then says what.
    """

    row: ComparisonRow | None
    candidate: str
    level: Level
    status: Status
    language: str | None
    protected: bool
    tolerance: float | None
    alpha: float
    loss: float | None = None
    skewness: float = 0.0
    p: float | None = None
    p_adjusted: float | None = None
    loss_at_least: float | None = None
    loss_at_most: float | None = None
    reason: str | None = None
    wanted: str = ""

    @property
    def key(self) -> str:
        """Identity of the quantity, as `Row.key`; of something that was never measured, what was wanted."""
        return self.row.key if self.row is not None else self.wanted


@dataclass(frozen=True, slots=True)
class CandidateVerdict:
    """The gate's answer on one candidate. `rows` are in order of severity: red and missing first, the largest excess
    first."""

    candidate: str
    reference: str
    outcome: Outcome
    sentence: str
    rows: tuple[GateRow, ...]

    def counts(self, level: Level = "block") -> dict[Status, int]:
        """How many rows of a level have each status, every status present."""
        return {status: sum(row.status == status and row.level == level for row in self.rows) for status in STATUSES}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The one answer that every renderer and the exit code go by. `outcome` is the worst of the candidates'."""

    policy: Policy
    policy_name: str  # path of the file, or "default policy"
    candidates: tuple[CandidateVerdict, ...]
    outcome: Outcome
    sentence: str
    rule: str  # one sentence: when a row is red, amber, grey
    enforced: bool = False  # whether the user asked for a gate, so that the exit code goes by the outcome

    def exit_code(self, *, strict: bool = False) -> int:
        """3 for a regression, 2 where the result cannot be judged as a whole, 4 for an inconclusive one under `strict`,
        else 0."""
        return {"fail": 3, "incomplete": 2, "inconclusive": 4 if strict else 0, "pass": 0}[self.outcome]

    def worst(self, count: int) -> list[GateRow]:
        """The most severe rows of all candidates that are red, missing or amber; block before warn before info."""
        rows = [
            row for candidate in self.candidates for row in candidate.rows if row.status in ("red", "missing", "amber")
        ]
        return sorted(rows, key=_severity)[:count]


def judge(
    comparison: Comparison, policy: Policy, *, policy_name: str = "default policy", enforced: bool = False
) -> Verdict:
    """Apply a policy to every candidate of a comparison; `enforced` says whether that was asked for.

    Raises InputError where there is no candidate, or no control to gate against.
    """
    if not comparison.candidates:
        raise InputError(
            "there is nothing to gate: one checkpoint alone was measured; compare it with another, or give --baseline"
        )
    if policy.against == "control" and comparison.control is None:
        raise InputError(
            "the policy gates against the control, and there is none: give --control, or set `against: base` in the "
            "policy"
        )
    reference = comparison.control if policy.against == "control" else comparison.base
    assert reference is not None
    judged = tuple(_judge_candidate(comparison, policy, candidate, reference) for candidate in comparison.candidates)
    outcome = min((each.outcome for each in judged), key=OUTCOMES.index)
    worst = [each for each in judged if each.outcome == outcome]
    sentence = worst[0].sentence
    if len(judged) > 1:
        counts = [f"{sum(each.outcome == name for each in judged)} {WORDS[name]}" for name in OUTCOMES]
        counts = [text for text in counts if not text.startswith("0 ")]
        sentence = f"{len(judged)} candidates: {', '.join(counts)}. {' '.join(each.sentence for each in worst[:3])}"
    return Verdict(policy, policy_name, judged, outcome, sentence, rule_sentence(policy), enforced)


WORDS: dict[Outcome, str] = {"fail": "FAIL", "incomplete": "INCOMPLETE", "inconclusive": "INCONCLUSIVE", "pass": "PASS"}


def rule_sentence(policy: Policy) -> str:
    """When a row is red, amber or grey, in one sentence."""
    protected = (
        f", or where {', '.join(policy.protected)} is not shown to lose less than tolerated" if policy.protected else ""
    )
    return (
        f"A row is red only where its loss against the {policy.against} is larger than its tolerance at p < "
        f"{policy.alpha:g} (one-sided, "
        f"Benjamini-Hochberg over the rows of its level), amber where only the point estimate is{protected}, and "
        "grey, not judged, below "
        f"{policy.min_n} items; one red row of level block fails the gate."
    )


def deciding_rule(policy: Policy, row: ComparisonRow | Row, *, language: str | None, layer: str | None) -> Rule | None:
    """The last rule that matches a row; `language` is the row's own one, `layer` the candidate's align layer. None: not
    gated."""
    for rule in reversed(policy.rules):
        if (
            rule.suite == row.suite
            and fnmatchcase(row.metric, rule.metric)
            and (row.layer is None or any(row.layer == (layer if name == "align" else name) for name in rule.layers))
            and policy.covers(rule.languages, language)
        ):
            return rule if (rule.direction is not None or row.higher_is_better is not None) else None
    return None


def _judge_candidate(comparison: Comparison, policy: Policy, candidate: str, reference: str) -> CandidateVerdict:
    contrasts = contrasts_of(comparison, candidate)
    own = next((each.rows for each in contrasts if each.kind == f"candidate-{policy.against}"), ())
    layer, _ = align_layer(comparison.checkpoints.get(candidate, {}), own)
    used: set[int] = set()
    rows: list[GateRow] = []
    for row in own:
        language = own_language(row, comparison.pivot)
        rule = deciding_rule(policy, row, language=language, layer=layer)
        if rule is None:
            continue
        used.add(policy.rules.index(rule))
        protected = language is not None and policy.covers(policy.protected, language)
        gated = GateRow(
            row=row, candidate=candidate, level=rule.level, status="grey", language=language, protected=protected,
            tolerance=rule.tolerance, alpha=rule.alpha or policy.alpha,
        )  # fmt: skip
        rows.append(_with_loss(gated, rule, rule.min_n or policy.min_n))
    for level in LEVELS:
        _fill_family(rows, level)
    rows += _not_found(policy, candidate, rows, used)
    rows.sort(key=_severity)
    outcome, sentence = _outcome(candidate, reference, rows, policy)
    return CandidateVerdict(candidate, reference, outcome, sentence, tuple(rows))


def _with_loss(gated: GateRow, rule: Rule, min_n: int) -> GateRow:
    """The row with its loss and unadjusted p, or grey or missing with the reason."""
    row = gated.row
    assert row is not None
    if row.base is None or row.candidate is None:
        # What is undefined for both, or only for the reference, was not lost by the candidate.
        lost = (row.candidate is None and row.base is not None) or (row.reason or "").startswith("not measured")
        return replace(gated, status="missing" if lost else "grey", reason=row.reason)
    if row.difference is None:
        return replace(gated, status="missing", reason=row.reason)
    higher = rule.direction == "higher" if rule.direction is not None else bool(row.higher_is_better)
    sign = -1.0 if higher else 1.0
    gated = replace(gated, loss=sign * row.difference or 0.0, skewness=sign * row.skewness)
    if row.n < min_n:
        return replace(gated, reason=f"n = {row.n}, the policy asks for {min_n}")
    if row.se is None:
        return replace(gated, reason=row.reason or "no interval")
    if row.clusters < MINIMUM_CLUSTERS:
        return replace(gated, reason=f"{row.clusters} clusters, a verdict needs {MINIMUM_CLUSTERS}")
    assert gated.loss is not None and gated.tolerance is not None and row.degrees_of_freedom is not None
    return replace(
        gated,
        p=one_sided_p(gated.loss, gated.tolerance + ROUNDING, row.se, row.degrees_of_freedom, gated.skewness),
        loss_at_most=-lower_bound(-gated.loss, row.se, row.degrees_of_freedom, -gated.skewness, alpha=gated.alpha),
    )


def _fill_family(rows: list[GateRow], level: Level) -> None:
    """Adjusted p and status of all judged rows of a level, in place."""
    family = [index for index, row in enumerate(rows) if row.level == level and row.p is not None]
    if not family:
        return
    adjusted = benjamini_hochberg(np.array([rows[index].p for index in family], dtype=np.float64))
    red = [bool(p < rows[index].alpha) for index, p in zip(family, adjusted, strict=True)]
    for index, p_adjusted, is_red in zip(family, adjusted, red, strict=True):
        gated = replace(rows[index], p_adjusted=float(p_adjusted))
        row, loss, tolerance = gated.row, gated.loss, gated.tolerance
        assert row is not None and row.se is not None and row.degrees_of_freedom is not None
        assert loss is not None and tolerance is not None and gated.loss_at_most is not None
        if is_red:
            # The bound at level 1 - alpha * (number selected at this alpha) / (rows of the family) is beyond the
            # tolerance exactly where the adjusted p is below alpha.
            level_alpha = gated.alpha * int((adjusted < gated.alpha).sum()) / len(family)
            bound = lower_bound(loss, row.se, row.degrees_of_freedom, gated.skewness, alpha=level_alpha)
            rows[index] = replace(gated, status="red", loss_at_least=bound)
        elif loss - tolerance > ROUNDING:
            rows[index] = replace(gated, status="amber", reason="beyond the tolerance, but not significantly")
        elif gated.protected and not (gated.loss_at_most < tolerance or row.se == 0):
            rows[index] = replace(gated, status="amber", reason="protected: not shown to lose less than tolerated")
        else:
            rows[index] = replace(gated, status="green")


def _not_found(policy: Policy, candidate: str, rows: Sequence[GateRow], used: set[int]) -> list[GateRow]:
    """What the policy insists on and no row answers."""
    if not policy.require_all:
        return []
    found = []
    for number, rule in enumerate(policy.rules):
        if number not in used:
            wanted = f"{rule.suite}/{rule.metric} of {', '.join(rule.languages)}"
            reason = (
                f"no row matches rule {number + 1} of the policy, or later rules take all of them, or the metric "
                "needs a direction"
            )
            found.append(_wanted(policy, candidate, wanted, reason, rule.level))
    for name in policy.protected:
        if not any(row.language is not None and policy.covers((name,), row.language) for row in rows):
            found.append(
                _wanted(policy, candidate, f"protected language {name}", f"no gated row is about {name}", "block")
            )
    return found


def _wanted(policy: Policy, candidate: str, wanted: str, reason: str, level: Level) -> GateRow:
    return GateRow(
        row=None,
        candidate=candidate,
        level=level,
        status="missing",
        language=None,
        protected=False,
        tolerance=None,
        alpha=policy.alpha,
        reason=reason,
        wanted=wanted,
    )


def _severity(gated: GateRow) -> tuple[int, int, float, str]:
    """Sort key: block before warn before info, then the status, then the largest excess over the tolerance in standard
    errors."""
    excess = 0.0
    if gated.row is not None and gated.loss is not None and gated.tolerance is not None:
        excess = (gated.loss - gated.tolerance) / (gated.row.se or 1e-12)
    return LEVELS.index(gated.level), STATUSES.index(gated.status), -excess, gated.key


def _outcome(candidate: str, reference: str, rows: Sequence[GateRow], policy: Policy) -> tuple[Outcome, str]:
    """The outcome over the rows of level block, and a sentence that says it with the worst row."""
    blocking = [row for row in rows if row.level == "block"]
    count = {status: sum(row.status == status for row in blocking) for status in STATUSES}
    judged = len(blocking) - count["missing"] - count["grey"]
    who = f"{candidate} against {reference}"
    amber = f"{count['amber']} not settled" if count["amber"] else ""
    grey = f"{count['grey']} not judged for lack of data" if count["grey"] else ""
    missing = f"{count['missing']} missing" if count["missing"] else ""
    rest = "; ".join(text for text in (missing, amber, grey) if text)
    rest = f" ({rest})" if rest else ""
    if count["red"]:
        lost = f"{count['red']} of {judged} judged rows lost more than tolerated"
        return "fail", f"FAIL: {who}: {lost}{rest}; worst: {describe_row(blocking[0])}."
    if count["missing"]:
        first = next(row for row in blocking if row.status == "missing")
        return "incomplete", f"INCOMPLETE: {who}: {rest[2:-1]}, which is no pass; first: {first.key} ({first.reason})."
    if not judged:
        why = "no row of level block was measured; measure more suites or change the policy"
        if blocking:
            why = f"none of {len(blocking)} rows could be judged; the first: {blocking[0].reason}"
        return "incomplete", f"INCOMPLETE: {who}: {why}; this is no pass."
    if count["amber"] or count["grey"]:
        first = next(row for row in blocking if row.status in ("amber", "grey"))
        what = f"{describe_row(first)}, {first.reason}"
        return "inconclusive", f"INCONCLUSIVE: {who}: no loss beyond tolerance is shown{rest}; first: {what}."
    return "pass", f"PASS: {who}: none of {judged} judged rows is beyond its tolerance."


def describe_row(gated: GateRow) -> str:
    """ "bits_per_byte deu_Latn lost 0.041, tolerance 0.020, at least 0.035 (adj. p 0.001, n = 452, 261 clusters)"."""
    row = gated.row
    if row is None or gated.loss is None or gated.tolerance is None:
        return gated.key
    about = " to ".join(code for code in (row.language, row.other_language) if code) or "mean"
    layer = f" at layer {row.layer}" if row.layer is not None else ""
    changed = f"{'lost' if gated.loss >= 0 else 'gained'} {size(gated.loss, row.metric)}"
    bound = (
        f", at least {signed(gated.loss_at_least, row.metric).removeprefix('+')}"
        if gated.loss_at_least is not None
        else ""
    )
    if gated.status == "amber" and gated.loss_at_most is not None:
        bound = f", at most {signed(gated.loss_at_most, row.metric).removeprefix('+')}"
    p = f"{p_text(gated.p_adjusted)}, " if gated.p_adjusted is not None else ""
    numbers = f"{p}{sample_size([(row.n, row.clusters)])}{own_rate(row)}"
    return f"{row.metric} {about}{layer} {changed}, tolerance {gated.tolerance:g}{bound} ({numbers})"
