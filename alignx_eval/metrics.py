"""What is known of each suite and metric: one card a metric. No other file knows how a metric is written or what counts
as much of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from alignx_eval.errors import InputError

# In the order of measuring: what is cheap and tells most comes first.
SUITES = {
    "layers": "alignment of languages layer by layer: cosine, CKA, retrieval",
    "language_id": "how well a linear probe reads the language off each layer",
    "language_modelling": "bits per byte per language",
    "translation": "BLEU, chrF++ and off-target rate, from and to the pivot language",
    "tasks": "tasks of the LM evaluation harness",
}
SUITE_TITLES = {
    "layers": "Alignment by layer",
    "language_id": "Language identity by layer",
    "language_modelling": "Language modelling",
    "translation": "Translation",
    "tasks": "Tasks",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """The card of a metric.

    `decimals` are those of a value, `difference_decimals` those of a difference. `higher_is_better` is None where
    neither direction is. `noticeable` is the smallest difference that matters to a rule of the diagnosis, `tolerated`
    the loss that the gate's default policy accepts, both in the metric's unit; None where there is none. They are
    conventions of this tool: a diagnosis asks what a user would notice, a gate what may slip in with one change.
    `people` says how many people agree with a difference, where that is known.
    """

    title: str
    about: str = ""
    unit: str = ""
    higher_is_better: bool | None = None
    decimals: int = 3
    difference_decimals: int = 3
    noticeable: float | None = None
    tolerated: float | None = None
    reference: str = ""
    people: str = ""


METRICS: dict[str, Metric] = {
    "precision_at_1": Metric(
        "precision@1",
        "share of sentences whose nearest neighbour in the other language is their own translation",
        "share",
        higher_is_better=True,
        noticeable=0.02,
        tolerated=0.02,
        reference="Artetxe and Schwenk 2019 (error rate of similarity search, as 1 - x)",
    ),
    "mutual_nearest_neighbour": Metric(
        "mutual nearest neighbour",
        "share of pairs in which each sentence is the other's nearest neighbour (MEXA)",
        "share",
        higher_is_better=True,
        reference="Kargaran et al. 2025 (MEXA)",
    ),
    "cosine_centred": Metric(
        "centred cosine",
        "cosine of translations after the mean of each language is taken away",
        "cosine",
        higher_is_better=True,
    ),
    "cka_debiased": Metric(
        "debiased CKA",
        "linear centred kernel alignment between the two languages, corrected for the number of sentences",
        "similarity",
        higher_is_better=True,
        reference="Kornblith et al. 2019; debiased as in Murphy et al. 2024",
    ),
    "precision_at_1_centred": Metric(
        "precision@1, centred",
        "share of sentences whose nearest neighbour is their translation, after the mean of each language is taken "
        "away",
        "share",
        higher_is_better=True,
    ),
    "cosine_z": Metric(
        "cosine against wrong pairs",
        "raw cosine of translations, in standard deviations of wrong pairs",
        "standard deviations",
        higher_is_better=True,
    ),
    "cosine": Metric(
        "raw cosine",
        "cosine of translations; all vectors share one direction, so a high value alone says little",
        "cosine",
    ),
    "precision_at_1_without_largest": Metric(
        "precision@1 without the 3 largest dimensions",
        "a check of sensitivity: a big fall or rise means that a few dimensions decide",
        "share",
    ),
    "cka_debiased_without_largest": Metric(
        "debiased CKA without the 3 largest dimensions",
        "a check of sensitivity: a big fall or rise means that a few dimensions decide",
        "similarity",
    ),
    "cka_biased": Metric(
        "biased CKA",
        "for comparison with papers; near 1 for noise too where vectors have more dimensions than there are lines",
        "similarity",
    ),
    "largest_token_share": Metric(
        "largest share of one token",
        "of the squared norm of a sentence's states; near 1 the sentence vector is that of one token",
        "share",
    ),
    "ratio_margin": Metric(
        "ratio margin accuracy",
        "retrieval with the cosine divided by that of the neighbourhood (xsim)",
        "share",
        higher_is_better=True,
        reference="Artetxe and Schwenk 2019 (xsim)",
    ),
    "probe_balanced_accuracy": Metric(
        "language-ID probe",
        "balanced accuracy of a linear classifier that tells the language from the sentence vector",
        "share",
        noticeable=0.02,
    ),
    "probe_recall": Metric(
        "language-ID probe, recall", "share of the sentences of a language that the probe recognises", "share"
    ),
    "probe_within_script": Metric(
        "language-ID probe within scripts", "accuracy when only languages of the same script compete", "share"
    ),
    "probe_selectivity": Metric(
        "probe selectivity", "accuracy of the probe above its accuracy on random labels", "share"
    ),
    "probe_control_fit": Metric("probe on random labels, in training", "what the probe can memorise", "share"),
    "probe_majority": Metric("majority", "always the same language", "share"),
    "probe_script_only": Metric("script alone", "accuracy from the script of the text, without a model", "share"),
    "probe_confusion": Metric(
        "language-ID confusion",
        "share of the sentences of each language (rows) that the probe takes for another (columns)",
        "share",
    ),
    "peak_layer": Metric("layer of the highest precision@1", "chosen by the data", "layer"),
    "peak_layer_centred": Metric("layer of the highest centred precision@1", "chosen by the data", "layer"),
    "precision_at_1_token_overlap": Metric(
        "precision@1 of shared tokens", "cosine of bags of tokens, without a model's layers", "share"
    ),
    "precision_at_1_length": Metric("precision@1 of length", "number of characters alone", "share"),
    "bits_per_byte": Metric(
        "bits per byte",
        "negative log2 likelihood per UTF-8 byte; comparable between tokenizers",
        "bits",
        higher_is_better=False,
        noticeable=0.02,
        tolerated=0.02,
    ),
    "tokens_per_character": Metric("tokens per character", "a property of the tokenizer", "tokens"),
    "tokens_per_word": Metric("tokens per word", "words between spaces; a property of the tokenizer", "tokens"),
    "unknown_rate": Metric(
        "unknown bytes", "share of the bytes that the tokenizer's unknown token, or no token, stands for", "share"
    ),
    "bleu": Metric(
        "BLEU",
        "with the sacreBLEU tokenizer that the target language asks for",
        "points of 100",
        higher_is_better=True,
        decimals=1,
        difference_decimals=2,
        noticeable=1.0,
        tolerated=1.0,
        reference="Papineni et al. 2002; Post 2018 (sacreBLEU)",
        people="64 % of people agree with a difference of 1.0, 80 % with one of 2.34 (Kocmi et al. 2024, on systems "
        "better than small models)",
    ),
    "chrf++": Metric(
        "chrF++",
        "character 6-gram and word 2-gram F-score",
        "points of 100",
        higher_is_better=True,
        decimals=1,
        difference_decimals=2,
        noticeable=1.0,
        tolerated=1.0,
        reference="Popović 2017",
        people="of chrF: 70 % of people agree with a difference of 1.0, 80 % with one of 1.63 (Kocmi et al. 2024, on "
        "systems better than small models)",
    ),
    "off_target_rate": Metric(
        "off-target rate",
        "share of outputs that are empty or not in the language asked for",
        "share",
        higher_is_better=False,
        noticeable=0.05,
        tolerated=0.02,
    ),
    "over_length_rate": Metric(
        "over-length rate",
        "share of outputs that did not end by themselves and were cut",
        "share",
        higher_is_better=False,
    ),
    "empty_rate": Metric("empty rate", "share of outputs without text", "share", higher_is_better=False),
    "copied_rate": Metric("copied rate", "share of outputs that repeat the source", "share", higher_is_better=False),
    "off_target_coverage": Metric(
        "off-target coverage", "share of outputs with enough letters to tell their language", "share"
    ),
    "acc": Metric(
        "accuracy",
        "share of documents answered correctly",
        "share",
        higher_is_better=True,
        noticeable=0.05,
        tolerated=0.02,
    ),
    "acc_norm": Metric(
        "accuracy, length-normalised",
        "share of documents answered correctly, choices normalised by length",
        "share",
        higher_is_better=True,
        noticeable=0.05,
    ),
}
# Summaries of a curve over layers, and scores of what needs no model, have the card of their metric under another
# title.
SUFFIXES = {
    "_peak": ", highest",
    "_middle_gain": ", middle layers above layer 0",
    "_divergence": ", fall to the last state",
    "_floor_copy": " of the copied source",
    "_floor_empty": " of an empty output",
}
OF_A_TASK = Metric("", unit="share", noticeable=METRICS["acc"].noticeable, tolerated=METRICS["acc"].tolerated)


def metric_card(metric: str) -> Metric:
    """The card of a row's metric. Of a task ("family.metric") it is the card of the metric under the task's name; of a
    metric that nobody described, a card with its own name for a title."""
    if metric in METRICS:
        return METRICS[metric]
    family, dot, measure = metric.partition(".")
    if dot:
        card = METRICS.get(measure, replace(OF_A_TASK, title=measure.replace("_", " ")))
        return replace(card, title=f"{family}: {card.title}")
    for suffix, words in SUFFIXES.items():
        name = metric.removesuffix(suffix)
        if name != metric and name in METRICS:
            return replace(METRICS[name], title=METRICS[name].title + words, about="", noticeable=None, tolerated=None)
    return Metric(metric.replace("_", " "))


def better_direction(higher_is_better: bool | None) -> str:
    return {True: "↑ higher is better", False: "↓ lower is better", None: "no better direction"}[higher_is_better]


def check_suites(suites: Sequence[str]) -> tuple[str, ...]:
    """The suites in the order of measuring, each once. Raises InputError for an unknown name or none at all."""
    unknown = [suite for suite in suites if suite not in SUITES]
    if unknown:
        raise InputError(f"unknown suite {unknown[0]!r}; known: {', '.join(SUITES)}")
    if not suites:
        raise InputError(f"no suite given; known: {', '.join(SUITES)}")
    return tuple(suite for suite in SUITES if suite in suites)
