"""Checkpoints of one training, in order: how the headline numbers moved, and the first step at which the gate would
have failed. Pure.

A trajectory is the mean over languages or directions of one metric, over the same ones at every step, each step paired
with the base (`comparison.means`). Every step is compared with the base and judged by itself: neither intervals nor p
values are adjusted for the number of steps, so over many steps a chance failure is likelier than alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignx_eval.comparison.contrasts import Contrast, contrasts_of
from alignx_eval.comparison.means import align_layer, mean_difference
from alignx_eval.judgement.findings import HeadlineMetric, headline_metrics
from alignx_eval.judgement.gate import OUTCOMES, WORDS, Outcome
from alignx_eval.wording import counted, join

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison
    from alignx_eval.judgement.gate import CandidateVerdict, Verdict


@dataclass(frozen=True, slots=True)
class Step:
    """One checkpoint. `title` is "base", "stage1 400" where the checkpoint records that and no other does, else the
    label.

    `outcome` is None for the base, which is not judged.
    """

    label: str
    step: int | None
    title: str
    outcome: Outcome | None


@dataclass(frozen=True, slots=True)
class Point:
    """One step of a trajectory. `difference` and its 95 % interval are paired, against the base, in the metric's unit.

    All numbers are None, and `n` and `clusters` 0, where the step was not measured in the same languages as the others.
    """

    label: str
    value: float | None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    clusters: int = 0


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One headline metric over the steps; `points` are in the order of `Series.steps`, the base first."""

    suite: str
    metric: str
    layer: str | None
    title: str
    note: str  # what was averaged, and how the layer was chosen
    higher_is_better: bool
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """`steps` begins with the base; `first_failure` is the first step whose gate outcome is "fail"."""

    steps: tuple[Step, ...]
    trajectories: tuple[Trajectory, ...]
    first_failure: Step | None
    sentence: str


def order_steps(candidates: Sequence[str], checkpoints: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Labels by recorded step, where all are of one stage and record different steps; else in the order given.

    A shell gives step-1000 before step-200.
    """
    facts = [checkpoints.get(label, {}) for label in candidates]
    steps = [fact.get("step") for fact in facts]
    one_stage = len({fact.get("stage") for fact in facts}) == 1
    if not one_stage or not all(isinstance(step, int) for step in steps) or len(set(steps)) < len(steps):
        return list(candidates)
    return sorted(candidates, key=lambda label: checkpoints[label]["step"])


def make_series(comparison: Comparison, verdict: Verdict) -> Series:
    """Trajectories and the first failure of a comparison whose candidates are steps of one training, in order."""
    judged = {each.candidate: each for each in verdict.candidates}
    titles = _titles(comparison)
    steps = [
        Step(
            label,
            _recorded_step(comparison, label),
            "base" if label == comparison.base else titles[label],
            judged[label].outcome if label in judged else None,
        )
        for label in (comparison.base, *comparison.candidates)
    ]
    failures = [step for step in steps if step.outcome == "fail"]
    first = failures[0] if failures else None
    return Series(
        tuple(steps), tuple(_trajectories(comparison)), first, _sentence(comparison, steps[1:], first, judged)
    )


def _recorded_step(comparison: Comparison, label: str) -> int | None:
    step = comparison.checkpoints.get(label, {}).get("step")
    return step if isinstance(step, int) else None


def _titles(comparison: Comparison) -> dict[str, str]:
    titles = {}
    for label in comparison.candidates:
        step = _recorded_step(comparison, label)
        stage = comparison.checkpoints.get(label, {}).get("stage") or "step"
        titles[label] = label if step is None else f"{stage} {step}"
    return {label: title if list(titles.values()).count(title) == 1 else label for label, title in titles.items()}


def _sentence(
    comparison: Comparison, steps: Sequence[Step], first: Step | None, judged: Mapping[str, CandidateVerdict]
) -> str:
    if first is None:
        counts = [(sum(step.outcome == outcome for step in steps), WORDS[outcome]) for outcome in OUTCOMES]
        others = join([f"{count} {word}" for count, word in counts if count])
        none_failed = (
            f"The gate would have failed at none of {len(steps)} steps"
            if len(steps) > 1
            else "The gate would not have failed"
        )
        return f"{none_failed}: {others}."
    verdict = judged[first.label]
    why = verdict.sentence.removeprefix(f"{WORDS[verdict.outcome]}: {verdict.candidate} against {verdict.reference}: ")
    stage = comparison.checkpoints.get(first.label, {}).get("stage")
    where = ", ".join(([str(stage)] if stage else []) + ([f"step {first.step}"] if first.step is not None else []))
    text = f"The gate would first have failed at {first.label}{f' ({where})' if where else ''}: {why}"
    place = steps.index(first)
    open_before = [step.label for step in steps[:place] if step.outcome == "incomplete"]
    if open_before:
        text += f" Before it, {join(open_before)} could not be judged as a whole."
    after = steps[place + 1 :]
    if after:
        counts = [(sum(step.outcome == outcome for step in after), WORDS[outcome]) for outcome in OUTCOMES]
        text += f" After it: {join([f'{count} {word}' for count, word in counts if count])}."
    return text


def _trajectories(comparison: Comparison) -> list[Trajectory]:
    own = {label: contrasts_of(comparison, label)[-1] for label in comparison.candidates}  # against the base
    every = [row for contrast in own.values() for row in contrast.rows]
    # One layer for all steps, else a curve could rise because the layer changed.
    recorded = {label: comparison.checkpoints.get(label, {}).get("align_layer") for label in comparison.candidates}
    named = [label for label in comparison.candidates if recorded[label] is not None]
    last = named[-1] if named else comparison.candidates[-1]
    layer, layer_title = align_layer(comparison.checkpoints.get(last, {}), every)
    layer_note = ""
    if len(set(recorded.values())) > 1:
        layer_note = (
            f"; not all steps record the same align layer: all are shown at that of {last}, the gate judges each at "
            "its own"
        )
    found = []
    for metric in headline_metrics(every, layer, layer_title):
        points, count, of = _points(comparison, metric, own)
        if points:
            note = "" if metric.unit == "task" else f"mean of {counted(count, of, metric.unit)}"
            note += layer_note if metric.suite == "layers" else ""
            of_metric = metric.suite, metric.metric, metric.layer, metric.title
            found.append(Trajectory(*of_metric, note, metric.higher_is_better, points))
    return found


def _points(
    comparison: Comparison, metric: HeadlineMetric, own: Mapping[str, Contrast]
) -> tuple[tuple[Point, ...], int, int]:
    """Points of the base and all steps, over the rows that every measured step has, the number of these, and of how
    many; or nothing."""
    chosen = {label: metric.rows(contrast.rows) for label, contrast in own.items()}
    keys = [{row.key for row in rows if row.se is not None} for rows in chosen.values()]
    of = len({row.key for rows in chosen.values() for row in rows})
    # A step that could hardly be judged does not shrink the others.
    measured = [each for each in keys if each and 2 * len(each) >= of]
    common = set.intersection(*measured) if measured else set()
    means = {
        label: mean_difference(comparison, own[label], [row for row in rows if row.key in common], of=of)
        for label, rows in chosen.items()
    }
    count = max((mean.rows for mean in means.values() if mean is not None), default=0)
    # A mean over fewer rows than the others' is another quantity.
    first = next((mean for mean in means.values() if mean is not None and mean.rows == count), None)
    if first is None:
        return (), 0, 0
    points = [Point(comparison.base, first.base, n=first.estimate.n, clusters=first.estimate.clusters)]
    for label, mean in means.items():
        if mean is None or mean.rows < count:
            points.append(Point(label, None))
            continue
        estimate = mean.estimate
        points.append(
            Point(
                label, mean.candidate, estimate.value, estimate.ci_low, estimate.ci_high, estimate.n, estimate.clusters
            )
        )
    return tuple(points), count, of
