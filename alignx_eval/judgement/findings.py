"""What a comparison says, in sentences: one that tells what was compared, and short findings computed from its rows and
items.

A finding over several languages or directions is the plain mean of their rows, with the interval and the verdict of
that mean (`comparison.means`). What has no verdict is worded as no evidence, never as equality. The headline numbers
are computed once (`Report.headlines`), and every rendering shows these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np

from alignx_eval.comparison.contrasts import CONTRAST_MEANING, Contrast, contrasts_of
from alignx_eval.comparison.costs import cost_ratios, costs_of
from alignx_eval.comparison.means import MeanDifference, align_layer, mean_difference
from alignx_eval.comparison.rows import (
    MINIMUM_CLUSTERS,
    Comparison,
    ComparisonRow,
    ContrastKind,
    details,
    own_language,
)
from alignx_eval.metrics import metric_card
from alignx_eval.statistics.clustered import Estimate
from alignx_eval.wording import (
    AMOUNTS,
    amounts,
    count,
    counted,
    interval_text,
    join,
    number,
    own_rate,
    sample_size,
    sentence_case,
)

TASKS_NAMED = 6
Word = Literal["better", "worse", "no-evidence", "no-claim"]


@dataclass(frozen=True, slots=True)
class Change:
    """A headline number against one reference.

    `word` is the verdict of the mean. It is "no-claim", with the reason, where fewer than half of the rows may be
    judged (`mean` is then None) or where there are too few clusters. Of a mean over some of the rows, `reason` says why
    the others are left out.
    """

    contrast: ContrastKind
    reference: str
    mean: MeanDifference | None
    word: Word
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """One headline number of a candidate: a mean over languages or directions, against the control (if there is one)
    and the base.

    `references_rate` is what the texts of the reference translations have themselves under the same rule, where a
    metric has that.
    """

    candidate: str
    suite: str
    metric: str
    layer: str | None
    title: str
    unit: str  # what the mean is over: "direction", "language" or "task"
    higher_is_better: bool
    changes: tuple[Change, ...]
    references_rate: float | None = None

    @property
    def value(self) -> float | None:
        """The candidate's mean; None where nothing is claimed of it."""
        return next((change.mean.candidate for change in self.changes if change.mean is not None), None)

    @property
    def scope(self) -> str:
        """ "mean of 18 directions", "mean of 9 of 10 languages", or empty where there is no mean or only one number."""
        mean = next((change.mean for change in self.changes if change.mean is not None), None)
        return "" if mean is None or self.unit == "task" else f"mean of {counted(mean.rows, mean.of, self.unit)}"

    @property
    def sentence(self) -> str:
        """ "BLEU, mean of 18 directions: x 8.27; against base 6.10 (what training changed) better: +2.17 [...], n =
        500, 480 clusters."."""
        reasons = list(dict.fromkeys(change.reason for change in self.changes if change.reason))
        if self.value is None:
            return f"{self.title}: no claim: {'; '.join(reasons)}."
        parts = [f"{self.candidate} {number(self.value, self.metric)}"]
        for change in self.changes:
            known = "" if change.mean is None else f" {number(change.mean.base, self.metric)}"
            against = f"against {change.reference}{known} ({CONTRAST_MEANING[change.contrast]})"
            parts.append(f"{against} {_outcome(change, self.metric)}")
        if self.references_rate is not None:
            parts.append(f"the references' own rate is {number(self.references_rate, self.metric)}")
        partly = [change.reason for change in self.changes if change.reason and change.word != "no-claim"]
        left_out = f" Left out: {partly[0]}." if partly else ""
        return f"{', '.join(filter(None, (self.title, self.scope)))}: {'; '.join(parts)}.{left_out}"


@dataclass(frozen=True, slots=True)
class HeadlineMetric:
    """What a headline is of: the rows of a suite's metric, at one layer where it has layers."""

    suite: str
    metric: str
    layer: str | None
    title: str
    unit: str
    higher_is_better: bool

    def rows(self, rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
        """Those of single languages or directions; of a task without languages, its one row."""
        own = [row for row in rows if (row.suite, row.metric, row.layer) == (self.suite, self.metric, self.layer)]
        return own if self.unit == "task" else details(own)


def headline_metrics(rows: Sequence[ComparisonRow], layer: str | None, layer_title: str) -> list[HeadlineMetric]:
    """The headlines of a comparison with these rows; one accuracy a task, the plain one."""
    found = [
        HeadlineMetric(suite, metric, None, sentence_case(card.title), unit, bool(card.higher_is_better))
        for suite, metric, unit in (
            ("layers", "precision_at_1", "direction"),
            ("translation", "bleu", "direction"),
            ("translation", "chrf++", "direction"),
            ("translation", "off_target_rate", "direction"),
            ("language_modelling", "bits_per_byte", "language"),
        )
        for card in [metric_card(metric)]
    ]
    retrieval = f"Retrieval of translations ({metric_card('precision_at_1').title}) at {layer_title}"
    found[0] = replace(found[0], layer=layer, title=retrieval)
    tasks = [row for row in rows if row.suite == "tasks" and row.higher_is_better is not None]
    with_languages = {row.metric for row in tasks if row.language is not None}
    second = {f"{row.metric}_norm" for row in tasks if row.metric.endswith(".acc")}
    for metric, higher_is_better in {
        row.metric: bool(row.higher_is_better) for row in tasks if row.metric not in second
    }.items():
        title = f"{metric.removesuffix('.acc')}, accuracy" if metric.endswith(".acc") else metric
        unit = "language" if metric in with_languages else "task"
        found.append(HeadlineMetric("tasks", metric, None, title, unit, higher_is_better))
    return found


def describe(comparison: Comparison) -> str:
    """One sentence or two: what was compared with what, on which text, and how."""
    if not comparison.candidates:
        return ""
    was = "was" if len(comparison.candidates) == 1 else "were each"
    names = comparison.candidates
    subject = join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])
    text = f"{subject} {was} compared with {comparison.base} (the base: what training changed)"
    if comparison.control is not None:
        text += f" and with {comparison.control} (the control, trained without alignment: the effect of alignment)"
    text += (
        f"{text_measured(comparison)}. Differences are candidate minus reference, paired by item; intervals are 95 %"
    )
    text += f"; a verdict needs a p below {comparison.alpha:g} after Benjamini-Hochberg adjustment within its suite."
    if comparison.control is None:
        text += " Without a control, none of this is called an effect of alignment."
    return text + warning_count(comparison)


def warning_count(comparison: Comparison) -> str:
    """ " There are 2 warnings.", or empty."""
    warnings = len(comparison.warnings)
    return f" There {'is' if warnings == 1 else 'are'} {count(warnings, 'warning')}." if warnings else ""


def text_measured(comparison: Comparison) -> str:
    """What the suites stand on: ", on 452 parallel lines of interface (test split) in 10 languages, and on the tasks
    ...".

    Only what was used is named: the corpus where a suite other than `tasks` was measured, the tasks with their own
    documents. Empty where the corpus is not known.
    """
    results = list(comparison.results.values())
    parts = []
    corpus = comparison.corpus
    if uses_corpus(comparison):
        if not corpus.get("name"):
            return ""
        text = f"on {corpus['lines']} parallel lines of" if corpus.get("lines") else "on"
        text += f" {corpus['name']}" + (f" ({corpus['split']} split)" if corpus.get("split") else "")
        parts.append(text + (f" in {len(corpus['languages'])} languages" if corpus.get("languages") else ""))
    documents: dict[str, dict[str | None, int]] = {}
    for row in (row for suites in results if "tasks" in suites for row in suites["tasks"].rows):
        documents.setdefault(row.metric.partition(".")[0], {})[row.language] = row.n
    tasks = [f"{task} ({_documents(by_language)})" for task, by_language in documents.items()]
    if len(tasks) > TASKS_NAMED:
        tasks = [*tasks[:TASKS_NAMED], f"{len(tasks) - TASKS_NAMED} more"]
    if tasks:
        parts.append(f"on the task{'s' if len(documents) > 1 else ''} {join(tasks)}")
    return "".join(f", {text}" for text in parts[:1]) + "".join(f", and {text}" for text in parts[1:])


def uses_corpus(comparison: Comparison) -> bool:
    """Whether any suite was measured that reads the corpus; `tasks` has documents of its own."""
    return any(suite != "tasks" for suites in comparison.results.values() for suite in suites)


def _documents(by_language: dict[str | None, int]) -> str:
    """ "40 documents in each of 9 languages"."""
    languages = [code for code in by_language if code is not None]
    sizes = sorted({by_language[code] for code in languages or by_language})
    size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    where = (
        ""
        if not languages
        else f" in {languages[0]}"
        if len(languages) == 1
        else f" in each of {len(languages)} languages"
    )
    return f"{size} documents{where}"


def find(comparison: Comparison, headlines: Sequence[Headline]) -> list[str]:
    """Findings on each candidate: its headlines in sentences, then what was lost; then the price."""
    found: list[str] = []
    for candidate in comparison.candidates:
        found += [headline.sentence for headline in headlines if headline.candidate == candidate]
        contrasts = [contrast for contrast in contrasts_of(comparison, candidate) if contrast.rows]
        found += _last_layer(comparison, candidate, contrasts)
        found += [
            f"{candidate} against {contrast.other} ({contrast.meaning}): {_losses(comparison, contrast)}"
            for contrast in contrasts
        ]
    return found + [text for candidate in comparison.candidates if (text := _price(comparison, candidate))]


def find_headlines(comparison: Comparison) -> list[Headline]:
    """The headline numbers of every candidate, each computed here and nowhere else."""
    found = []
    for candidate in comparison.candidates:
        contrasts = [contrast for contrast in contrasts_of(comparison, candidate) if contrast.rows]
        every = [row for contrast in contrasts for row in contrast.rows]
        facts = comparison.checkpoints.get(candidate, {})
        for metric in headline_metrics(every, *align_layer(facts, every)):
            headline = _headline(comparison, candidate, metric, contrasts)
            if headline is not None:
                found.append(headline)
    return found


def _headline(
    comparison: Comparison, candidate: str, metric: HeadlineMetric, contrasts: Sequence[Contrast]
) -> Headline | None:
    """None where nothing of it was measured for the candidate and a reference."""
    sides = [(contrast, metric.rows(contrast.rows)) for contrast in contrasts]
    sides = [side for side in sides if any(row.base is not None and row.candidate is not None for row in side[1])]
    if not sides:
        return None
    judged = [{row.key for row in rows if row.se is not None} for _, rows in sides]
    # The same languages against base and control, else the candidate would have two values.
    enough = [keys for keys, (_, rows) in zip(judged, sides, strict=True) if keys and 2 * len(keys) >= len(rows)]
    common = set.intersection(*enough) if enough else set()
    changes = []
    for (contrast, rows), keys in zip(sides, judged, strict=True):
        mean = None
        if keys in enough:
            mean = mean_difference(comparison, contrast, [row for row in rows if row.key in common], of=len(rows))
        # Of a row that has a verdict here, the reason is that of the other contrast.
        others = [row for _, other in sides for row in other if row.key not in common and row.se is None]
        reason = _why([row for row in rows if row.se is None] or others)
        word: Word = "no-claim"
        if mean is None:
            reason = reason or "no statistics per item"
        elif mean.verdict in ("better", "worse", "no-evidence"):
            word = mean.verdict
        else:
            reason = mean.reason or reason
        changes.append(Change(contrast.kind, contrast.other, mean, word, reason))
    rates = [
        row.null
        for row in sides[0][1]
        if metric.metric == "off_target_rate" and row.null is not None and row.key in common
    ]
    return Headline(
        candidate=candidate,
        **{field.name: getattr(metric, field.name) for field in fields(HeadlineMetric)},
        changes=tuple(changes),
        references_rate=float(np.mean(rates)) if rates else None,
    )


def _why(rows: Sequence[ComparisonRow]) -> str:
    """ "x: 95 % of its outputs are empty (eng_Latn to fra_Latn, and 3 more)": why rows have no verdict, by the first of
    them."""
    if not rows:
        return ""
    first = rows[0]
    places = [" to ".join(code for code in (first.language, first.other_language) if code)]
    count = len({row.key for row in rows})
    where = ", ".join(filter(None, [*places, f"and {count - 1} more" if count > 1 else ""]))
    return (first.reason or "no interval").removeprefix("no verdict, ") + (f" ({where})" if where else "")


def _outcome(change: Change, metric: str) -> str:
    """ "better: +0.162 [+0.141, +0.183], n = 500, 480 clusters", or why there is no claim."""
    if change.mean is None:
        return f"no claim: {change.reason}"
    numbers = _numbers(change.mean.estimate, metric)
    if change.word == "no-claim":
        return f"no claim ({change.reason}): {numbers}"
    return f"{'no evidence of a difference' if change.word == 'no-evidence' else change.word}: {numbers}"


def _numbers(estimate: Estimate, metric: str) -> str:
    """ "+0.162 [+0.141, +0.183], n = 500, 480 clusters"."""
    numbers = interval_text(estimate.value, estimate.ci_low, estimate.ci_high, metric)
    return f"{numbers}, {sample_size([(estimate.n, estimate.clusters)])}"


def _last_layer(comparison: Comparison, candidate: str, contrasts: Sequence[Contrast]) -> list[str]:
    """Retrieval in the last state, before and after the final norm: a change is claimed only where both show it.

    Neither direction is better there, so the rows have no verdict and the 95 % intervals decide.
    """
    metric = "precision_at_1"  # raw cosine, both directions
    nothing = "no evidence of a difference"
    words = {
        1: ("higher", "translations are closer"),
        -1: ("lower", "translations are further apart"),
        0: (nothing,) * 2,
    }
    parts = []
    for contrast in contrasts:
        retrieval = [row for row in contrast.rows if (row.suite, row.metric) == ("layers", metric) and row.layer]
        numbered = [int(row.layer) for row in retrieval if row.layer is not None and row.layer.isdigit()]
        before, after = (
            mean_difference(comparison, contrast, details(row for row in retrieval if row.layer in layers))
            for layers in (
                {"L", str(max(numbered, default=None))},
                {row.layer for row in retrieval if str(row.layer).endswith("+norm")},
            )
        )
        if before is None or after is None:
            continue
        signs = [_sign(each.estimate) for each in (before, after)]
        claim = words[signs[0]][1] if len(set(signs)) == 1 else "the two do not agree on a change, so none is claimed"
        if before.estimate.clusters < MINIMUM_CLUSTERS:
            claim = f"no claim ({before.estimate.clusters} clusters, a claim needs {MINIMUM_CLUSTERS})"
        outcomes = [
            f"{words[sign][0]}: {_numbers(each.estimate, metric)}"
            for sign, each in zip(signs, (before, after), strict=True)
        ]
        parts.append(
            f"against {contrast.other} ({contrast.meaning}) {claim} (before the final norm {outcomes[0]}; after it "
            f"{outcomes[1]})"
        )
    return [f"Retrieval of translations in the last layer, {candidate}: {'; '.join(parts)}."] if parts else []


def _sign(estimate: Estimate) -> int:
    """1 or -1 where the interval lies on one side of 0, else 0."""
    if estimate.ci_low is None or estimate.ci_high is None or estimate.ci_low <= 0 <= estimate.ci_high:
        return 0
    return 1 if estimate.value > 0 else -1


def _losses(comparison: Comparison, contrast: Contrast) -> str:
    """Which languages got worse in what a user of the model meets: translation, language modelling, tasks."""
    judged = [
        row
        for suite in ("translation", "language_modelling", "tasks")
        for row in details(row for row in contrast.rows if row.suite == suite)
        if row.p_adjusted is not None
    ]
    if not judged:
        return (
            "no result of a single language in translation, language modelling or tasks has enough data for a verdict."
        )
    smallest, largest = min(row.n for row in judged), max(row.n for row in judged)
    size = f"of {len(judged)} results by language (n = {smallest}{f' to {largest}' if largest > smallest else ''})"
    worse = sorted(
        (row for row in judged if row.verdict == "worse"), key=lambda row: -abs(row.difference or 0) / (row.se or 1)
    )
    if not worse:
        unseen = "a loss below the minimum detectable effect of its row cannot be seen"
        return f"{size}, none is worse at adjusted p < {comparison.alpha:g}; {unseen}."
    by_language: dict[str, list[str]] = {}
    for row in worse:
        direction = f" {row.language} to {row.other_language}" if row.other_language else ""
        numbers = interval_text(row.difference, row.ci_low, row.ci_high, row.metric)
        told = f"{row.metric}{direction} {numbers}{own_rate(row)}"
        by_language.setdefault(str(own_language(row, comparison.pivot)), []).append(told)
    shown = [f"{code} ({', '.join(told[:3])}{', ...' if len(told) > 3 else ''})" for code, told in by_language.items()]
    more = f"; and {len(shown) - 5} more languages" if len(shown) > 5 else ""
    losers = f"{len(worse)} {'is' if len(worse) == 1 else 'are'} worse"
    return f"{size}, {losers} at adjusted p < {comparison.alpha:g}: {'; '.join(shown[:5])}{more}."


def _price(comparison: Comparison, candidate: str) -> str:
    """What a candidate's own training took, against the control's, from the provenance; empty where it does not say."""
    own, control = costs_of(comparison, candidate)
    if not own:
        return ""
    text = f"Price of {candidate}: {amounts(own)}"
    if control:
        text += f"; the control {comparison.control} took {amounts(control)}"
        ratios = [f"{ratio:.2f} times its {AMOUNTS[name]}" for name, ratio in cost_ratios(own, control).items()]
        text += f", so {candidate} took {join(ratios)}" if ratios else ""
    return f"{text}."
