"""What the rules of the diagnosis look at: groups of languages, signs, and rows as evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from alignx_eval.comparison.contrasts import Contrast
from alignx_eval.comparison.costs import Cost, total
from alignx_eval.comparison.means import MeanDifference, align_layer, mean_difference
from alignx_eval.comparison.rows import MINIMUM_CLUSTERS, Comparison, ComparisonRow, ContrastKind, details
from alignx_eval.metrics import metric_card
from alignx_eval.statistics.clustered import Estimate
from alignx_eval.wording import amount, amounts, count, counted, interval_text, number, own_rate, p_text, sample_size

Status = Literal["found", "not-found", "cannot-tell"]
MAXIMUM_EVIDENCE = 8
MORE_THAN_CONTROL = 1.05  # ratio; times of two runs of one recipe differ by a few percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One number behind a diagnosis. `row` is the row of the comparison it stands in, None for a computed mean and for
    the price."""

    row: ComparisonRow | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A rule's answer on one candidate against one reference.

    `evidence`: first what the rule presupposes (a gain), then the worst of each kind of loss, then the others, worst
    first; `more` counts what was left out. The worst is the one farthest beyond what is noticeable: the loss where one
    is established, else the largest loss that the interval leaves possible.
    """

    rule: str
    candidate: str
    reference: str
    contrast: ContrastKind
    status: Status
    sentence: str
    evidence: tuple[Evidence, ...]
    more: int = 0


# --- what the rules look at -----------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Measure:
    suite: str
    name: str
    title: str
    unit: str  # what its rows are: "direction" or "language"
    higher_is_better: bool

    @property
    def noticeable(self) -> float:
        limit = metric_card(self.name).noticeable
        assert limit is not None, self.name
        return limit

    @property
    def worsening(self) -> str:
        return "fall" if self.higher_is_better else "rise"

    @property
    def worsened(self) -> str:
        return "fell" if self.higher_is_better else "rose"

    def loss(self, difference: float) -> float:
        return -difference if self.higher_is_better else difference

    def at_most(self, of: ComparisonRow | Estimate) -> float:
        """The largest loss that the interval leaves possible; negative where it is all on the good side of 0."""
        assert of.ci_low is not None and of.ci_high is not None
        return max(self.loss(of.ci_low), self.loss(of.ci_high))

    def at_least(self, of: ComparisonRow | Estimate) -> float:
        """The smallest loss that the interval leaves possible; positive where it is all on the bad side of 0."""
        assert of.ci_low is not None and of.ci_high is not None
        return min(self.loss(of.ci_low), self.loss(of.ci_high))

    def interval(self, of: ComparisonRow | Estimate) -> str:
        """ "+0.031 [+0.010, +0.052]"."""
        value = of.difference if isinstance(of, ComparisonRow) else of.value
        return interval_text(value, of.ci_low, of.ci_high, self.name)

    def size(self, value: float) -> str:
        """The size of a loss, with the decimals of a difference."""
        return f"{value:.{metric_card(self.name).difference_decimals}f}"


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one metric by language or direction: those with a verdict, the others, and the mean of those with an
    interval."""

    metric: Measure
    judged: list[ComparisonRow]
    unjudged: list[ComparisonRow]
    mean: MeanDifference | None  # None also where it has too few clusters

    @property
    def worse(self) -> list[ComparisonRow]:
        """Rows with an established loss, the largest first."""
        rows = [row for row in self.judged if row.verdict == "worse"]
        return sorted(rows, key=lambda row: -self.metric.loss(row.difference or 0.0))

    @property
    def open(self) -> list[ComparisonRow]:
        """Rows without an established loss, the largest that their intervals leave possible first."""
        return sorted((row for row in self.judged if row.verdict != "worse"), key=lambda row: -self.metric.at_most(row))

    @property
    def complete(self) -> bool:
        """Whether every number that both sides have was judged; else nothing is ruled out in all of them."""
        return all(row.difference is None for row in self.unjudged)

    @property
    def improved(self) -> bool:
        """Whether the mean is established to have improved."""
        return self.mean is not None and self.mean.verdict == "better"

    @property
    def got_worse(self) -> bool:
        """Whether the mean is established to have got worse."""
        return self.mean is not None and self.mean.verdict == "worse"

    def missing(self, title: str | None = None) -> str:
        """Why nothing can be said: "BLEU was not measured"."""
        rows = [*self.unjudged, *self.judged]
        why = f"could not be judged ({few(rows[0])})" if rows else "was not measured"
        return f"{self.metric.title if title is None else title} {why}"

    def mean_text(self) -> str:
        """ "BLEU +0.28 [+0.06, +0.51], mean of 18 directions"."""
        assert self.mean is not None
        scope = counted(self.mean.rows, self.mean.of, self.metric.unit)
        return f"{self.metric.title} {self.metric.interval(self.mean.estimate)}, mean of {scope}"

    def mean_evidence(self) -> Evidence:
        assert self.mean is not None
        values = f"from {number(self.mean.base, self.metric.name)} to {number(self.mean.candidate, self.metric.name)}"
        size = sample_size([size_of(self.mean.estimate)])
        return Evidence(row=None, text=f"{self.mean_text()}, {values}, {p_text(self.mean.p_adjusted)}, {size}")

    def row_evidence(self, row: ComparisonRow) -> tuple[float, Evidence]:
        """With its rank: the loss in units of what is noticeable, the largest possible one where none is
        established."""
        loss = self.metric.loss(row.difference or 0.0) if row.verdict == "worse" else self.metric.at_most(row)
        return loss / self.metric.noticeable, row_evidence(
            row, metric_card(self.metric.name).title if self.metric.suite != "tasks" else self.metric.title
        )


@dataclass(slots=True)
class Sign:
    """What one part of a rule saw: a loss established, a noticeable loss ruled out, or neither."""

    title: str = ""
    claim: str = ""
    lost: bool = False
    ruled_out: bool = False
    evidence: list[tuple[float, Evidence]] = field(default_factory=list)  # (rank, evidence), the worst first
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (n, clusters) of the numbers in `claim`

    @property
    def text(self) -> str:
        return f"{self.title} {self.claim}"


@dataclass(frozen=True, slots=True)
class Case:
    """One candidate against one reference, with the headline metrics, precision@1 first."""

    comparison: Comparison
    contrast: Contrast
    layer: str | None
    groups: list[Group]

    def group(self, name: str) -> Group:
        return next(group for group in self.groups if group.metric.name == name)

    def diagnosis(
        self, rule: str, status: Status, text: str, evidence: Sequence[Evidence], sizes: Iterable[tuple[int, int]] = ()
    ) -> Diagnosis:
        size = f" ({sample_size(sizes)})" if sizes else ""
        contrast = self.contrast
        return Diagnosis(
            rule=rule,
            candidate=contrast.candidate,
            reference=contrast.other,
            contrast=contrast.kind,
            status=status,
            sentence=f"{contrast.candidate} against {contrast.other} ({contrast.meaning}): {text}{size}.",
            evidence=tuple(evidence[:MAXIMUM_EVIDENCE]),
            more=max(0, len(evidence) - MAXIMUM_EVIDENCE),
        )


def make_case(comparison: Comparison, contrast: Contrast) -> Case:
    layer, layer_title = align_layer(comparison.checkpoints.get(contrast.candidate, {}), contrast.rows)
    metrics = [
        Measure(suite, name, metric_card(name).title, unit, bool(metric_card(name).higher_is_better))
        for suite, name, unit in (
            ("layers", "precision_at_1", "direction"),
            ("translation", "bleu", "direction"),
            ("translation", "chrf++", "direction"),
            ("translation", "off_target_rate", "direction"),
            ("language_modelling", "bits_per_byte", "language"),
        )
    ]
    metrics[0] = replace(metrics[0], title=f"{metrics[0].title} at {layer_title or 'the align layer'}")
    metrics += task_metrics(contrast.rows)
    groups = [
        make_group(
            comparison,
            contrast,
            metric,
            [row for row in contrast.rows if metric.suite != "layers" or (layer is not None and row.layer == layer)],
        )
        for metric in metrics
    ]
    return Case(comparison, contrast, layer, groups)


def task_metrics(rows: Sequence[ComparisonRow]) -> list[Measure]:
    tasks = [
        row for row in rows if row.suite == "tasks" and row.language is not None and row.higher_is_better is not None
    ]
    directions = {row.metric: bool(row.higher_is_better) for row in tasks}
    return [Measure("tasks", name, name, "language", higher) for name, higher in directions.items()]


def make_group(comparison: Comparison, contrast: Contrast, metric: Measure, rows: Sequence[ComparisonRow]) -> Group:
    """The rows of `metric` among `rows`, with their mean."""
    chosen = details(row for row in rows if (row.suite, row.metric) == (metric.suite, metric.name))
    if metric.unit == "direction":  # the means into and out of the pivot are no directions
        chosen = [row for row in chosen if row.language is not None and row.other_language is not None]
    mean = mean_difference(comparison, contrast, chosen)
    if mean is not None and (mean.estimate.ci_low is None or mean.verdict == "insufficient-data"):
        mean = None
    judged = [row for row in chosen if row.p_adjusted is not None and row.ci_low is not None]
    return Group(metric, judged, [row for row in chosen if row not in judged], mean)


# --- the parts of a rule --------------------------------------------------------------------------
def identity_sign(case: Case) -> Sign:
    """Language identity in the last state: a fall is claimed only where both sides of the final norm show it."""
    rows = {
        row.layer: row
        for row in case.contrast.rows
        if row.metric == "probe_balanced_accuracy" and row.layer is not None
    }
    title = "language identity in the last state"
    after = next((row for layer, row in rows.items() if layer.endswith("+norm")), None)
    before = rows.get(str(after.layer).removesuffix("+norm")) if after is not None else None
    if before is None or after is None:
        return Sign(title, "was not measured")
    for row in (before, after):
        if row.ci_low is None or row.clusters < MINIMUM_CLUSTERS:
            return Sign(title, f"could not be judged ({few(row)})")
    metric = Measure("language_id", "probe_balanced_accuracy", "language identity, probe accuracy", "language", True)
    fell = [metric.at_least(row) > 0 for row in (before, after)]
    largest = max(metric.at_most(before), metric.at_most(after))
    sign = Sign(
        title,
        lost=all(fell),
        ruled_out=not all(fell) and largest <= metric.noticeable,
        sizes=[(before.n, before.clusters)],
    )
    for row in (before, after):
        loss = metric.loss(row.difference or 0.0) if sign.lost else metric.at_most(row)
        sign.evidence.append((loss / metric.noticeable, row_evidence(row, metric.title)))
    numbers = f"probe accuracy {metric.interval(before)} before the final norm, {metric.interval(after)} after it"
    if sign.lost:
        fallen = fallen_recall(case, str(before.layer), str(after.layer))
        sign.evidence += [(0.0, row_evidence(row, "language identity, recall")) for row in fallen[:2]]
        most = f", most of all in {fallen[0].language}" if fallen else ""
        sign.claim = f"fell{most} ({numbers}{small(metric, largest)})"
    elif any(fell):
        sign.claim = (
            f"fell on one side of the final norm only, so no fall is claimed ({numbers}{beyond(metric, largest)})"
        )
    elif largest < 0:
        sign.claim = f"rose ({numbers})"
    else:
        sign.claim = f"shows no evidence of a fall ({numbers}{beyond(metric, largest)})"
    return sign


def fallen_recall(case: Case, before: str, after: str) -> list[ComparisonRow]:
    """Languages that the probe recognises less on both sides of the final norm, the largest fall first; descriptive,
    not adjusted."""
    fallen = [
        row
        for row in case.contrast.rows
        if row.metric == "probe_recall" and row.ci_high is not None and row.ci_high < 0
    ]
    earlier = {row.language for row in fallen if row.layer == before}
    return sorted(
        (row for row in fallen if row.layer == after and row.language in earlier), key=lambda row: row.difference or 0.0
    )


def group_sign(group: Group, *, with_mean: bool = False, of: str = "") -> Sign:
    """Whether a language or direction got worse, or, `with_mean`, their mean did. `of`: the one language that the group
    is about."""
    metric, worse, rest = group.metric, group.worse, group.open
    title = metric.title + (f" of {of}" if of else "")
    if not group.judged:
        return Sign(title, group.missing("").strip())
    mean = group.mean if with_mean and group.got_worse else None
    first = (worse or rest)[0]
    largest = max((metric.at_most(row) for row in rest), default=0.0)
    lost = bool(worse) or mean is not None
    ruled_out = not lost and largest <= metric.noticeable and group.complete
    sign = Sign(title, lost=lost, ruled_out=ruled_out, sizes=[(first.n, first.clusters)])
    sign.evidence = [group.row_evidence(row) for row in (worse if lost else rest[:3])]
    if mean is not None:
        sign.evidence.append((metric.loss(mean.estimate.value) / metric.noticeable, group.mean_evidence()))
        sign.evidence.sort(key=lambda each: -each[0])
        sign.sizes.append(size_of(mean.estimate))
    total = count(len(group.judged), metric.unit)
    if worse:
        where = (
            f"in {len(worse)} of {total}, {'most in ' if len(worse) > 1 else ''}{place(first)} " if not of else "by "
        )
        sign.claim = f"{metric.worsened} {where}{metric.interval(first)}, {p_text(first.p_adjusted)}"
    elif not any(row.se for row in rest):
        sign.claim = f"is as it was in every item{'' if of else f' of {total}'}"
    elif of:
        sign.claim = f"{metric.interval(first)}, {'better' if largest < 0 else f'no evidence of a {metric.worsening}'}"
    elif largest > 0 and mean is None:
        limit = f", above the limit of {metric.noticeable:g}" if largest > metric.noticeable else ""
        room = f"up to {metric.size(largest)} remains possible in {place(first)}{limit}"
        sign.claim = f"is not shown to {metric.worsening} in any of {total} ({room})"
    else:
        excluded = "" if mean is not None else f" (every interval excludes a {metric.worsening})"
        sign.claim = (
            f"is not shown to {metric.worsening} in any of {total}{' alone' if mean is not None else ''}{excluded}"
        )
    if of and not lost:
        sign.claim += beyond(metric, largest)
    if mean is not None:
        sign.claim += (
            f"{', and' if worse else ', but'} {metric.worsened} on average by {metric.interval(mean.estimate)}"
        )
    if lost:
        established = [metric.at_most(row) for row in worse] + (
            [metric.at_most(mean.estimate)] if mean is not None else []
        )
        sign.claim += small(metric, max(established))
    if group.unjudged:
        places = [place(row) for row in group.unjudged]
        sign.claim += f" ({len(places)} not judged: {', '.join(places[:3])}{', ...' if len(places) > 3 else ''})"
    return sign


def mean_sign(group: Group, what: str) -> Sign:
    """Whether the mean of a group got worse. `what`: what the mean is of, "translation into eng_Latn"."""
    metric, title = group.metric, f"{group.metric.title} of {what}"
    if group.mean is None:
        return Sign(title, group.missing("").strip())
    estimate = group.mean.estimate
    lost, largest = group.got_worse, metric.at_most(estimate)
    ruled_out = not lost and largest <= metric.noticeable and group.complete
    sign = Sign(title, lost=lost, ruled_out=ruled_out, sizes=[size_of(estimate)])
    rank = (metric.loss(estimate.value) if lost else largest) / metric.noticeable
    sign.evidence = [(rank, Evidence(row=None, text=f"{what}: {group.mean_evidence().text}"))]
    sign.claim = f"{metric.interval(estimate)}, mean of {counted(group.mean.rows, group.mean.of, metric.unit)}, "
    sign.claim += (
        f"worse{small(metric, largest)}"
        if lost
        else "better"
        if group.improved
        else f"no evidence of a {metric.worsening}"
    )
    sign.claim += "" if lost else beyond(metric, largest)
    return sign


# --- wording --------------------------------------------------------------------------------------
def in_order(signs: Sequence[Sign]) -> list[Evidence]:
    """The worst of each sign, then the others; both worst first."""
    heads = sorted((sign.evidence[0] for sign in signs if sign.evidence), key=lambda each: -each[0])
    tails = sorted((each for sign in signs for each in sign.evidence[1:]), key=lambda each: -each[0])
    return [evidence for _, evidence in heads + tails]


def row_evidence(row: ComparisonRow, title: str) -> Evidence:
    """ "off-target rate eng_Latn -> deu_Latn +0.031 [+0.010, +0.052], adj. p 0.004, n = 452, 261 clusters"."""
    where = "".join([f", layer {row.layer}" if row.layer is not None else "", f" {place(row)}" if place(row) else ""])
    numbers = interval_text(row.difference, row.ci_low, row.ci_high, row.metric)
    size = sample_size([(row.n, row.clusters)])
    return Evidence(row=row, text=f"{title}{where} {numbers}, {p_text(row.p_adjusted)}, {size}{own_rate(row)}")


def stage_evidence(cost: Cost) -> Evidence:
    recorded = amounts(total([cost])) or "nothing recorded"
    device = f", {cost.device}" if cost.device else ""
    return Evidence(row=None, text=f"{cost.checkpoint}, stage {cost.stage}: {recorded}{device}")


def small(metric: Measure, largest: float) -> str:
    """A note on an established loss that is too small to matter wherever in its interval the truth lies."""
    return f", yet below the limit of {metric.noticeable:g}" if largest < metric.noticeable else ""


def beyond(metric: Measure, largest: float) -> str:
    """A note on a loss that is not established, but not ruled out either."""
    if largest <= metric.noticeable:
        return ""
    return f", up to {metric.size(largest)} remains possible, above the limit of {metric.noticeable:g}"


def few(row: ComparisonRow) -> str:
    few = f"{row.clusters} clusters, a verdict needs {MINIMUM_CLUSTERS}"
    return row.reason or (few if row.clusters < MINIMUM_CLUSTERS else "no statistics per item")


def two(name: str, first: float, word: str, second: float) -> str:
    """ "3.2 against 3.4 min": two amounts, with one unit where it is the same."""
    one, other = amount(name, first), amount(name, second)
    return f"{one.split(' ')[0] if one.split(' ')[1:] == other.split(' ')[1:] else one} {word} {other}"


def place(row: ComparisonRow) -> str:
    return f"{row.language} -> {row.other_language}" if row.other_language else row.language or ""


def size_of(estimate: Estimate) -> tuple[int, int]:
    return estimate.n, estimate.clusters


def sizes_of_means(groups: Iterable[Group]) -> list[tuple[int, int]]:
    return [size_of(group.mean.estimate) for group in groups if group.mean is not None]
