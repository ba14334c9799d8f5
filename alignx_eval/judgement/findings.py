"""What a comparison says, in sentences: one that tells what was compared, and short findings computed from its rows and items.

A finding over several languages or directions is the plain mean of their rows, and its interval is that of the same mean: one cluster
(document) is left out of all of them at once, because translations of a line are not independent (delete-a-cluster jackknife). An
interval that holds 0 is worded as no evidence, never as equality. The headline numbers are computed once (`Comparison.headlines`), and
every rendering shows these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

from alignx_eval.comparison.costs import AMOUNTS, amounts, cost_ratios, costs_of
from alignx_eval.comparison.means import (
    CONTRAST_MEANING,
    RETRIEVAL,
    MeanDifference,
    _sign,
    align_layer,
    details,
    mean_difference,
)
from alignx_eval.comparison.rows import own_rate
from alignx_eval.statistics.clustered import Estimate
from alignx_eval.wording import counted, join, signed

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison, ComparisonRow


TASKS_NAMED = 6


Word = Literal["better", "worse", "no-evidence", "no-claim"]


@dataclass(frozen=True, slots=True)
class Change:
    """A headline number against one reference.

    `word` goes by the 95 % interval of the mean. It is "no-claim", with the reason, where fewer than half of the rows may be judged (`mean`
    is then None) or where there are too few clusters. Of a mean over some of the rows, `reason` says why the others are left out.
    """

    contrast: Literal["candidate-base", "candidate-control"]
    reference: str
    mean: MeanDifference | None
    word: Word
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Headline:
    """One headline number of a candidate: a mean over languages or directions, against the control (if there is one) and the base.

    `references_rate` is what the texts of the reference translations have themselves under the same rule, where a metric has that.
    """

    candidate: str
    suite: str
    metric: str
    layer: str | None
    title: str
    unit: str  # what the mean is over: "direction", "language" or "task"
    higher_is_better: bool
    decimals: int
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
        """ "BLEU, mean of 18 directions: x 8.27; against base 6.10 (what training changed) better: +2.17 [...], n = 500, 480 clusters."."""
        reasons = list(dict.fromkeys(change.reason for change in self.changes if change.reason))
        if self.value is None:
            return f"{self.title}: no claim: {'; '.join(reasons)}."
        parts = [f"{self.candidate} {self.value:.{self.decimals}f}"]
        for change in self.changes:
            known = "" if change.mean is None else f" {change.mean.base:.{self.decimals}f}"
            against = f"against {change.reference}{known} ({CONTRAST_MEANING[change.contrast]})"
            parts.append(f"{against} {_outcome(change, self.decimals)}")
        if self.references_rate is not None:
            parts.append(f"the references' own rate is {self.references_rate:.{self.decimals}f}")
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
    decimals: int

    def rows(self, rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
        """Those of single languages or directions; of a task without languages, its one row."""
        own = [row for row in rows if (row.suite, row.metric, row.layer) == (self.suite, self.metric, self.layer)]
        return own if self.unit == "task" else details(own)


def headline_metrics(rows: Sequence[ComparisonRow], layer: str | None, layer_title: str) -> list[HeadlineMetric]:
    """The headlines of a comparison with these rows; one accuracy a task, the plain one."""
    found = [
        HeadlineMetric(
            "layers",
            "precision_at_1",
            layer,
            f"Retrieval of translations (precision@1) at {layer_title}",
            "direction",
            True,
            3,
        ),
        HeadlineMetric("translation", "bleu", None, "BLEU", "direction", True, 2),
        HeadlineMetric("translation", "chrf++", None, "chrF++", "direction", True, 2),
        HeadlineMetric("translation", "off_target_rate", None, "Off-target rate", "direction", False, 3),
        HeadlineMetric("language_modelling", "bits_per_byte", None, "Bits per byte", "language", False, 3),
    ]
    tasks = [row for row in rows if row.suite == "tasks" and row.higher_is_better is not None]
    with_languages = {row.metric for row in tasks if row.language is not None}
    second = {f"{row.metric}_norm" for row in tasks if row.metric.endswith(".acc")}
    for metric, higher_is_better in {
        row.metric: bool(row.higher_is_better) for row in tasks if row.metric not in second
    }.items():
        title = f"{metric.removesuffix('.acc')}, accuracy" if metric.endswith(".acc") else metric
        unit = "language" if metric in with_languages else "task"
        found.append(HeadlineMetric("tasks", metric, None, title, unit, higher_is_better, 3))
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
    count = len(comparison.warnings)
    return f" There {'is 1 warning' if count == 1 else f'are {count} warnings'}." if count else ""


def text_measured(comparison: Comparison) -> str:
    """What the suites stand on: ", on 452 parallel lines of interface (test split) in 10 languages, and on the tasks ...".

    Only what was used is named: the corpus where a suite other than `tasks` was measured, the tasks with their own documents. Empty where
    the corpus is not known.
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


def find(comparison: Comparison) -> list[str]:
    """Findings on each candidate: its headlines in sentences, then what was lost; then the price."""
    found: list[str] = []
    for candidate in comparison.candidates:
        found += [headline.sentence for headline in comparison.headlines if headline.candidate == candidate]
        contrasts = _contrasts(comparison, candidate)
        found += _last_layer(comparison, candidate, contrasts)
        found += [
            f"{candidate} against {reference} ({CONTRAST_MEANING[contrast]}): {_losses(comparison, rows)}"
            for contrast, reference, rows in contrasts
        ]
    return found + [text for candidate in comparison.candidates if (text := _price(comparison, candidate))]


# Kind, label of the reference, rows.
Contrasts = Sequence[tuple[Literal["candidate-base", "candidate-control"], str, list["ComparisonRow"]]]


def _contrasts(comparison: Comparison, candidate: str) -> Contrasts:
    """Those of a candidate that have rows, the effect of alignment first."""
    found: list[tuple[Literal["candidate-base", "candidate-control"], str, list[ComparisonRow]]] = []
    if comparison.control is not None:
        found.append(("candidate-control", comparison.control, []))
    found.append(("candidate-base", comparison.base, []))
    for row in comparison.rows:
        for contrast, reference, rows in found:
            if (row.candidate_name, row.base_name, row.contrast) == (candidate, reference, contrast):
                rows.append(row)
    return [each for each in found if each[2]]


def find_headlines(comparison: Comparison) -> list[Headline]:
    """The headline numbers of every candidate, each computed here and nowhere else."""
    found = []
    for candidate in comparison.candidates:
        contrasts = _contrasts(comparison, candidate)
        every = [row for _, _, rows in contrasts for row in rows]
        for metric in headline_metrics(every, *align_layer(comparison, every, candidate)):
            headline = _headline(
                comparison, candidate, metric, [(kind, name, metric.rows(rows)) for kind, name, rows in contrasts]
            )
            if headline is not None:
                found.append(headline)
    return found


def _headline(comparison: Comparison, candidate: str, metric: HeadlineMetric, contrasts: Contrasts) -> Headline | None:
    """None where nothing of it was measured for the candidate and a reference."""
    contrasts = [
        each for each in contrasts if any(row.base is not None and row.candidate is not None for row in each[2])
    ]
    if not contrasts:
        return None
    judged = [{row.key for row in rows if row.se is not None} for _, _, rows in contrasts]
    # The same languages against base and control, else the candidate would have two values.
    enough = [keys for keys, (_, _, rows) in zip(judged, contrasts, strict=True) if keys and 2 * len(keys) >= len(rows)]
    common = set.intersection(*enough) if enough else set()
    changes = []
    for (contrast, reference, rows), keys in zip(contrasts, judged, strict=True):
        mean = (
            mean_difference(comparison, [row for row in rows if row.key in common], of=len(rows))
            if keys in enough
            else None
        )
        # Of a row that has a verdict here, the reason is that of the other contrast.
        others = [row for _, _, other in contrasts for row in other if row.key not in common and row.se is None]
        reason = _why([row for row in rows if row.se is None] or others)
        word: Word = "no-claim"
        if mean is None:
            reason = reason or "no statistics per item"
        elif mean.estimate.clusters < _minimum_clusters():
            reason = f"{mean.estimate.clusters} clusters, a claim needs {_minimum_clusters()}"
        else:
            word = _word(mean.estimate, metric.higher_is_better)
        changes.append(Change(contrast, reference, mean, word, reason))
    rates = [
        row.null
        for row in contrasts[0][2]
        if metric.metric == "off_target_rate" and row.null is not None and row.key in common
    ]
    return Headline(
        candidate=candidate,
        **{field.name: getattr(metric, field.name) for field in fields(HeadlineMetric)},
        changes=tuple(changes),
        references_rate=float(np.mean(rates)) if rates else None,
    )


def _minimum_clusters() -> int:
    from alignx_eval.comparison.rows import MINIMUM_CLUSTERS  # which reads this module

    return MINIMUM_CLUSTERS


def _why(rows: Sequence[ComparisonRow]) -> str:
    """ "x: 95 % of its outputs are empty (eng_Latn to fra_Latn, and 3 more)": why rows have no verdict, by the first of them."""
    if not rows:
        return ""
    first = rows[0]
    places = [" to ".join(code for code in (first.language, first.other_language) if code)]
    count = len({row.key for row in rows})
    where = ", ".join(filter(None, [*places, f"and {count - 1} more" if count > 1 else ""]))
    return (first.reason or "no interval").removeprefix("no verdict, ") + (f" ({where})" if where else "")


def _word(estimate: Estimate, higher_is_better: bool) -> Word:
    sign = _sign(estimate)
    return "no-evidence" if sign == 0 else "better" if (sign > 0) == higher_is_better else "worse"


def _outcome(change: Change, decimals: int) -> str:
    """ "better: +0.162 [+0.141, +0.183], n = 500, 480 clusters", or why there is no claim."""
    if change.mean is None:
        return f"no claim: {change.reason}"
    numbers = _numbers(change.mean.estimate, decimals)
    if change.word == "no-claim":
        return f"no claim ({change.reason}): {numbers}"
    return f"{'no evidence of a difference' if change.word == 'no-evidence' else change.word}: {numbers}"


def _numbers(estimate: Estimate, decimals: int) -> str:
    """ "+0.162 [+0.141, +0.183], n = 500, 480 clusters"."""
    interval = "without interval"
    if estimate.ci_low is not None and estimate.ci_high is not None:
        interval = f"[{signed(estimate.ci_low, decimals)}, {signed(estimate.ci_high, decimals)}]"
    return f"{signed(estimate.value, decimals)} {interval}, n = {estimate.n}, {estimate.clusters} clusters"


def _last_layer(comparison: Comparison, candidate: str, contrasts: Contrasts) -> list[str]:
    """Retrieval in the last state, before and after the final norm: a change is claimed only where both show it."""
    parts = []
    for contrast, reference, rows in contrasts:
        retrieval = details(
            [row for row in rows if row.suite == "layers" and row.metric in RETRIEVAL and row.layer is not None]
        )
        numbered = [int(row.layer) for row in retrieval if row.layer is not None and row.layer.isdigit()]
        before = mean_difference(
            comparison, [row for row in retrieval if row.layer in ("L", str(max(numbered, default=None)))]
        )
        after = mean_difference(comparison, [row for row in retrieval if str(row.layer).endswith("+norm")])
        if before is None or after is None:
            continue
        signs = {_sign(before.estimate), _sign(after.estimate)}
        claim = "the two do not agree on a change, so none is claimed"
        if before.estimate.clusters < _minimum_clusters():
            claim = f"no claim ({before.estimate.clusters} clusters, a claim needs {_minimum_clusters()})"
        elif len(signs) == 1:
            claim = {
                -1: "translations are further apart",
                1: "translations are closer",
                0: "no evidence of a difference",
            }[signs.pop()]
        words = {-1: "lower", 1: "higher", 0: "no evidence of a difference"}
        outcomes = [f"{words[_sign(each)]}: {_numbers(each, 3)}" for each in (before.estimate, after.estimate)]
        meaning = CONTRAST_MEANING[contrast]
        parts.append(
            f"against {reference} ({meaning}) {claim} (before the final norm {outcomes[0]}; after it {outcomes[1]})"
        )
    return [f"Retrieval of translations in the last layer, {candidate}: {'; '.join(parts)}."] if parts else []


def _losses(comparison: Comparison, rows: list[ComparisonRow]) -> str:
    """Which languages got worse in what a user of the model meets: translation, language modelling, tasks."""
    suites = ("translation", "language_modelling", "tasks")
    judged = [
        row
        for suite in suites
        for row in details([row for row in rows if row.suite == suite])
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
    pivot = comparison.corpus.get("pivot") or "eng_Latn"
    by_language: dict[str, list[str]] = {}
    for row in worse:
        code = row.other_language if row.language == pivot and row.other_language else row.language
        decimals = 2 if row.metric.startswith(("bleu", "chrf")) else 3
        direction = f" {row.language} to {row.other_language}" if row.other_language else ""
        interval = f"[{signed(row.ci_low, decimals)}, {signed(row.ci_high, decimals)}]"
        by_language.setdefault(str(code), []).append(
            f"{row.metric}{direction} {signed(row.difference, decimals)} {interval}{own_rate(row)}"
        )
    shown = [
        f"{code} ({', '.join(details[:3])}{', ...' if len(details) > 3 else ''})"
        for code, details in by_language.items()
    ]
    more = f"; and {len(shown) - 5} more languages" if len(shown) > 5 else ""
    count = f"{len(worse)} {'is' if len(worse) == 1 else 'are'} worse"
    return f"{size}, {count} at adjusted p < {comparison.alpha:g}: {'; '.join(shown[:5])}{more}."


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
