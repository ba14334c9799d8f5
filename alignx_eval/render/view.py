"""What every renderer says: contrasts, counts, order, wording and number formats. One place, so that no two outputs can
disagree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alignx_eval.comparison.contrasts import CONTRAST_MEANING, Contrast
from alignx_eval.comparison.means import layer_order, table_layer
from alignx_eval.comparison.rows import labels, own_language
from alignx_eval.judgement.gate import LEVELS, STATUSES
from alignx_eval.judgement.gate import WORDS as OUTCOME_WORDS
from alignx_eval.languages import LANGUAGES
from alignx_eval.metrics import SUITES, metric_card
from alignx_eval.wording import between, difference, loss, number, own_rate, sample_size

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison, ComparisonRow
    from alignx_eval.judgement.evidence import Diagnosis
    from alignx_eval.judgement.findings import Change, Headline
    from alignx_eval.judgement.gate import CandidateVerdict, GateRow, Verdict
    from alignx_eval.judgement.policy import Level
    from alignx_eval.judgement.report import Report
    from alignx_eval.results import LayerSimilarity, Row


VERDICTS = ("better", "worse", "no-evidence", "insufficient-data", "no-direction")
# A mark and a word, never colour alone.
MARKS = {
    "better": "✓",
    "worse": "✕",
    "no-evidence": "○",
    "insufficient-data": "…",
    "no-direction": "·",
    "no-claim": "…",
}
WORDS = {
    "better": "better",
    "worse": "worse",
    "no-evidence": "no evidence",
    "insufficient-data": "insufficient data",
    "no-direction": "descriptive",
    "no-claim": "no claim",  # of a headline
}
# Of a gated row, of the gate, and of a diagnosis. The words of an outcome are `gate.WORDS`.
STATUS_MARKS = {"red": "✕", "missing": "!", "amber": "?", "grey": "…", "green": "✓"}
STATUS_WORDS = {
    "red": "regression",
    "missing": "missing",
    "amber": "not settled",
    "grey": "not judged",
    "green": "within tolerance",
}
OUTCOME_MARKS = {"fail": "✕", "incomplete": "!", "inconclusive": "?", "pass": "✓"}
DIAGNOSIS_MARKS = {"found": "!", "not-found": "○", "cannot-tell": "?"}
DIAGNOSIS_WORDS = {"found": "found", "not-found": "not found", "cannot-tell": "cannot tell"}
LEVEL_MEANING = {"block": "a regression fails the gate", "warn": "only shown", "info": "only shown"}
HEADLINE_RULE = (
    "Better and worse: p below alpha after adjustment for all results of the suite. The intervals are not adjusted: "
    "one that does not hold "
    "0 can stand beside no evidence. No evidence is not equality: all in the interval is compatible with the data."
)


def count_verdicts(rows: Iterable[ComparisonRow]) -> dict[str, int]:
    """How many rows got each verdict, every verdict always present."""
    counts: Counter[str] = Counter(row.verdict for row in rows)
    return {verdict: counts.get(verdict, 0) for verdict in VERDICTS}


def signed_difference(row: ComparisonRow) -> float | None:
    """The difference with its sign turned so that positive is good; None where there is no difference or no good
    direction."""
    if row.difference is None or row.higher_is_better is None:
        return None
    return row.difference if row.higher_is_better else -row.difference


def worst_first(row: ComparisonRow) -> tuple[int, float]:
    """Sort key: the largest loss first, rows without a good direction after that, rows without a difference last."""
    signed = signed_difference(row)
    if signed is not None:
        return 0, signed
    return (1, -abs(row.difference)) if row.difference is not None else (2, 0.0)


def headline_rows(comparison: Comparison, contrast: Contrast) -> list[ComparisonRow]:
    """Rows at the layer that the tables show, and rows without a layer."""
    layer = table_layer(comparison.checkpoints.get(contrast.candidate, {}), contrast.rows)
    return [row for row in contrast.rows if row.layer is None or row.layer == layer]


def worst_languages(comparison: Comparison, contrast: Contrast, count: int = 3) -> list[tuple[str, ComparisonRow]]:
    """The languages with the largest losses, each with its worst row: (FLORES code, row).

    What a user meets is ranked: translation, language modelling, tasks, and retrieval at the align layer. Losses of
    different metrics are ranked in standard errors. A language that lost nowhere is left out.
    """
    worst: dict[str, tuple[float, ComparisonRow]] = {}
    for row in headline_rows(comparison, contrast):
        signed = signed_difference(row)
        if signed is None or signed >= 0 or not row.se or row.verdict == "insufficient-data":
            continue
        if row.suite == "language_id" or (row.suite == "layers" and row.metric != "precision_at_1"):
            continue
        code = own_language(row, comparison.pivot)
        if code is not None and (code not in worst or signed / row.se < worst[code][0]):
            worst[code] = (signed / row.se, row)
    ranked = sorted(worst.items(), key=lambda item: (item[1][0], item[0]))
    return [(code, row) for code, (_, row) in ranked[:count]]


def suites(comparison: Comparison) -> list[str]:
    """Suites that any checkpoint was measured with, in reading order."""
    present = {suite for by_suite in comparison.results.values() for suite in by_suite} | {
        row.suite for row in comparison.rows
    }
    return [suite for suite in SUITES if suite in present] + sorted(present - set(SUITES))


def row_key(row: ComparisonRow | Row) -> str:
    """Identity of the quantity, the same for every checkpoint; equals `Row.key`."""
    return "/".join(part or "-" for part in (row.suite, row.metric, row.layer, row.language, row.other_language))


def checkpoint_warnings(comparison: Comparison) -> list[str]:
    """Those of `comparison.warnings` that are about a checkpoint's own numbers; the others are about how the
    checkpoints were measured."""
    own = {
        f"{label}: {warning}"
        for label, suites in comparison.results.items()
        for result in suites.values()
        for warning in result.warnings
    }
    return [warning for warning in comparison.warnings if warning in own]


def opening_notes(comparison: Comparison) -> list[str]:
    """How the checkpoints were opened (an adapter merged, tensors left out), each note once, under the names of those
    it is about."""
    found: dict[str, list[str]] = {}
    for label in labels(comparison):
        for note in comparison.checkpoints.get(label, {}).get("notes") or []:
            found.setdefault(str(note), []).append(label)
    return [f"{', '.join(dict.fromkeys(names))}: {note}" for note, names in found.items()]


def no_control_sentence(comparison: Comparison) -> str | None:
    """What must be said where no control was given; None where one was, or where nothing is compared."""
    if comparison.control or not comparison.candidates:
        return None
    return (
        "No control was given: these differences are what all of the training changed, more text included, and they "
        "are not evidence "
        "for an effect of alignment. Compare with a checkpoint that saw the same tokens without alignment (--control) "
        "to separate the two."
    )


# --- the gate and the diagnosis -------------------------------------------------------------------
def verdict_line(verdict: Verdict) -> str:
    """The verdict's sentence, which starts with the word of its outcome."""
    word = OUTCOME_WORDS[verdict.outcome]
    return verdict.sentence if verdict.sentence.startswith(word) else f"{word}: {verdict.sentence}"


def gate_title(verdict: Verdict) -> str:
    """ "Gate (default policy, not enforced)"."""
    return f"Gate ({verdict.policy_name}{'' if verdict.enforced else ', not enforced'})"


def rule_line(verdict: Verdict) -> str:
    """The rule, with the name of the policy it comes from."""
    return f"Rule ({verdict.policy_name}): {verdict.rule}"


def levels(candidate: CandidateVerdict) -> list[Level]:
    """Levels that have rows; block always."""
    return [level for level in LEVELS if level == "block" or any(row.level == level for row in candidate.rows)]


def status_counts(candidate: CandidateVerdict, level: Level, *, words: bool = True) -> str:
    """ "2 red (regression), 77 green (within tolerance)": the rows of one level; statuses without rows are left out."""
    counts = candidate.counts(level)
    names = {
        status: f"{status} ({STATUS_WORDS[status]})" if words and status != "missing" else status for status in STATUSES
    }
    return ", ".join(f"{counts[status]} {names[status]}" for status in STATUSES if counts[status]) or "no rows"


def gate_bound(gated: GateRow) -> str:
    """The one-sided bound that a status rests on: "≥ 0.022" of a red row, "≤ 0.031" of any other that was judged."""
    if gated.row is None:
        return ""
    if gated.loss_at_least is not None:
        return f"≥ {loss(gated.loss_at_least, gated.row.metric)}"
    return f"≤ {loss(gated.loss_at_most, gated.row.metric)}" if gated.loss_at_most is not None else ""


def gate_loss(gated: GateRow) -> str:
    """The loss, negative for a gain; as many decimals as a difference of the metric."""
    if gated.loss is None or gated.row is None:
        return "–"
    return loss(gated.loss, gated.row.metric)


def gate_tolerance(gated: GateRow) -> str:
    return "–" if gated.tolerance is None else f"{gated.tolerance:g}"


def worst_diagnoses(found: Iterable[Diagnosis]) -> list[Diagnosis]:
    """One for each rule and candidate: of its contrasts, the one with the worst answer; a tie goes to the first."""
    order = ("found", "cannot-tell", "not-found")
    worst: dict[tuple[str, str], Diagnosis] = {}
    for each in found:
        key = (each.rule, each.candidate)
        if key not in worst or order.index(each.status) < order.index(worst[key].status):
            worst[key] = each
    return list(worst.values())


def brief(diagnosis: Diagnosis) -> str:
    """The claim of a diagnosis, its first number and n; "..." stands for what the whole sentence has beside that."""
    text = diagnosis.sentence.removeprefix(
        f"{diagnosis.candidate} against {diagnosis.reference} ({CONTRAST_MEANING[diagnosis.contrast]}): "
    )
    size = re.search(r" (\(n = [^()]*\))\.$", text)
    text = text.removesuffix(".") if size is None else text[: size.start()]
    claim, *others = re.split(r"\. (?=[A-Z])", text)
    kept = [claim, *(part for part in others if part.startswith("Lost"))]
    short = ". ".join(part.partition("; ")[0] for part in kept)
    return short + (" ..." if len(short) < len(text) else "") + (f" {size.group(1)}" if size is not None else "")


def similarity_sentence(similarity: LayerSimilarity) -> str:
    """The layer that differs most from the same layer of the other checkpoint."""
    size = f"mean of {len(similarity.languages)} languages, n = {similarity.n}, {similarity.clusters} clusters"
    defined = [entry for entry in similarity.same_layer if entry["value"] is not None]
    if not similarity.same_layer:
        return (
            f"The layers of {similarity.candidate} are not those of {similarity.reference}, so no layer has a "
            f"counterpart ({size})."
        )
    if not defined:
        return f"No layer has a defined similarity to the same layer of {similarity.reference} ({size})."
    lowest = min(defined, key=lambda entry: entry["value"])
    interval = (
        f" [{lowest['ci_low']:.3f}, {lowest['ci_high']:.3f}]"
        if None not in (lowest["ci_low"], lowest["ci_high"])
        else ""
    )
    return (
        f"Layer {lowest['layer']} is the one least like the same layer of {similarity.reference}: "
        f"debiased CKA {lowest['value']:.3f}{interval} ({size})."
    )


# --- headline numbers -----------------------------------------------------------------------------
def changes_of(report: Report, contrast: Contrast) -> list[tuple[Headline, Change]]:
    """The headlines of a contrast."""
    return [
        (headline, change)
        for headline in report.headlines
        for change in headline.changes
        if (headline.candidate, change.contrast, change.reference)
        == (contrast.candidate, contrast.kind, contrast.other)
    ]


def headline_title(headline: Headline) -> str:
    """ "precision@1, layer 3"."""
    return metric_card(headline.metric).title + (f", layer {headline.layer}" if headline.layer is not None else "")


def headline_note(headline: Headline) -> str:
    """What the number is a mean of, and what it has to be read against."""
    rate = headline.references_rate
    return "; ".join(
        filter(None, (headline.scope, "" if rate is None else f"references' own rate {number(rate, headline.metric)}"))
    )


def headline_value(headline: Headline, contrast: str) -> str:
    """The mean of the control, the base or ("") the candidate."""
    means = [
        change.mean for change in headline.changes if change.mean is not None and contrast in ("", change.contrast)
    ]
    if not means:
        return "–"
    return number(means[0].base if contrast else means[0].candidate, headline.metric)


def change_numbers(headline: Headline, change: Change) -> str:
    """ "+0.153 [+0.105, +0.205]", empty without a mean."""
    if change.mean is None:
        return ""
    estimate = change.mean.estimate
    ends = between(estimate.ci_low, estimate.ci_high, headline.metric)
    return f"{difference(estimate.value, headline.metric)} {ends}".rstrip()


def change_text(headline: Headline, change: Change) -> str:
    """ "better: +0.153 [+0.105, +0.205]", "no claim: x: 95 % of its outputs are empty"."""
    word, numbers = WORDS[change.word], change_numbers(headline, change)
    if change.word == "no-claim":
        return f"{word}: {change.reason}" + (f" ({numbers})" if numbers else "")
    return f"{word}: {numbers}" + (f"; left out: {change.reason}" if change.reason else "")


def headline_sizes(headlines: Iterable[Headline]) -> str:
    """ "n = 40, 36 clusters", or the ranges; empty without means."""
    return sample_size(
        (change.mean.estimate.n, change.mean.estimate.clusters)
        for headline in headlines
        for change in headline.changes
        if change.mean is not None
    )


def other_findings(report: Report) -> list[str]:
    """The findings that are not the sentence of a headline, for renderings that show the headlines as a table."""
    told = {headline.sentence for headline in report.headlines}
    return [text for text in report.findings if text not in told]


@dataclass(frozen=True, slots=True)
class Measured:
    """One headline number of a checkpoint that was measured alone. `beside` is what it has to be read against."""

    title: str
    row: Row
    beside: str = ""


def measured(comparison: Comparison) -> list[Measured]:
    """The headline numbers of a checkpoint without a comparison, suite by suite."""
    rows = [row for result in comparison.results.get(comparison.base, {}).values() for row in result.rows]

    def find(metric: str, suite: str, layer: str | None = None) -> list[Row]:
        return [row for row in rows if (row.suite, row.metric, row.layer) == (suite, metric, layer)]

    def means(metric: str, suite: str, layer: str | None = None) -> list[Row]:
        return [row for row in find(metric, suite, layer) if row.language is None and row.other_language is None]

    found = []
    for peak, metric in (("peak_layer", "precision_at_1"), ("peak_layer_centred", "precision_at_1_centred")):
        for row in means(peak, "layers"):
            layer = None if row.value is None else str(round(row.value))
            found += [
                Measured(f"{metric_card(metric).title} (peak: layer {layer})", each)
                for each in means(metric, "layers", layer)
            ]
    probed = sorted(
        {row.layer for row in rows if row.metric == "probe_balanced_accuracy" and row.layer is not None},
        key=layer_order,
    )
    if last := [layer for layer in probed if "+" not in layer][-1:]:
        found += [Measured(row_title(row), row) for row in means("probe_balanced_accuracy", "language_id", last[0])]
    bits = find("bits_per_byte", "language_modelling")
    found += [Measured(f"{metric_card(row.metric).title} (mean)", row) for row in bits if row.language is None]
    if by_language := [row for row in bits if row.language is not None and row.value is not None]:
        worst = max(by_language, key=lambda row: row.value or 0.0)
        found.append(Measured(f"{metric_card(worst.metric).title} (worst: {worst.language})", worst))
    for metric in ("bleu", "chrf++", "off_target_rate"):
        found += [Measured(f"{metric_card(metric).title} (mean)", row) for row in means(metric, "translation")]
    tasks = [row for row in rows if row.suite == "tasks" and row.metric.endswith((".acc", ".exact_match"))]
    for metric in dict.fromkeys(row.metric for row in tasks):
        of_task = [row for row in tasks if row.metric == metric]
        mean = [row for row in of_task if row.language is None]
        found += [
            Measured(row_title(row) + ("" if row.language is None else f", {row.language}"), row)
            for row in mean or of_task
        ]
    return [replace(each, beside=_beside(each.row)) for each in found]


def _beside(row: Row) -> str:
    return f"chance {number(row.chance, row.metric)}" if row.chance is not None else own_rate(row).removeprefix(", ")


def measured_numbers(row: Row) -> str:
    """ "0.611 [0.475, 0.739]", or why there is no number."""
    if row.value is None:
        return f"undefined: {row.reason or 'no reason given'}"
    return f"{number(row.value, row.metric)} {value_interval(row)}".rstrip()


def value_interval(row: Row) -> str:
    """The interval of a value in brackets, or empty where there is no valid one."""
    if row.ci_low is None or row.ci_high is None:
        return ""
    return f"[{number(row.ci_low, row.metric)}, {number(row.ci_high, row.metric)}]"


def language_name(code: str | None) -> str:
    language = LANGUAGES.get(code or "")
    return language.name if language else (code or "")


def language_tag(code: str | None) -> str:
    """BCP 47 tag for the `lang` attribute, so that browsers choose fonts and voices well."""
    language = LANGUAGES.get(code or "")
    if language is None:
        return "und"
    label = language.lid_label
    return f"{label if label and len(label) == 2 else language.code[:3]}-{language.script}"


def text_direction(code: str | None) -> str:
    language = LANGUAGES.get(code or "")
    return language.direction if language else "auto"


def pair_title(row: ComparisonRow | Row) -> str:
    """What a row is about, in codes: "deu_Latn", "eng_Latn → deu_Latn", or "all" where it is a mean."""
    if row.language is None and row.other_language is None:
        return "all"
    if row.suite == "translation":
        return f"{row.language or 'all'} → {row.other_language or 'all'}"
    return " → ".join(code for code in (row.language, row.other_language) if code)


def row_title(row: ComparisonRow | Row) -> str:
    """Metric with its layer: "precision@1, layer 3"."""
    return metric_card(row.metric).title + (f", layer {row.layer}" if row.layer is not None else "")


def interval_or_reason(row: ComparisonRow) -> str:
    """The interval of the difference; where there is none, why."""
    return interval(row) or row.reason or ""


def interval(row: ComparisonRow) -> str:
    """The interval of the difference in brackets, or empty where there is no valid one."""
    return between(row.ci_low, row.ci_high, row.metric)
