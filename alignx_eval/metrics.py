"""What is known of each suite and metric: title, explanation, scale, decimals, direction, what is noticeable. One place."""

from __future__ import annotations

from collections.abc import Sequence

from alignx_eval.errors import InputError

# The smallest difference that matters, in the metric's unit: conventions of this tool, not of the literature.
NOTICEABLE = {
    "precision_at_1": 0.02,
    "probe_balanced_accuracy": 0.02,
    "off_target_rate": 0.05,
    "bits_per_byte": 0.02,
    "bleu": 1.0,
    "chrf++": 1.0,
}


NOTICEABLE_IN_TASKS = 0.05


TITLES = {
    "precision_at_1": "precision@1",
    "bleu": "BLEU",
    "chrf++": "chrF++",
    "off_target_rate": "off-target rate",
    "bits_per_byte": "bits per byte",
}


def _decimals(metric: str) -> int:
    return 2 if metric in ("bleu", "chrf++") else 3


SUITE_TITLES = {
    "layers": "Alignment by layer",
    "language_id": "Language identity by layer",
    "language_modelling": "Language modelling",
    "translation": "Translation",
    "tasks": "Tasks",
}


# Title and one line of explanation. A metric that is not listed is shown under its own name.
METRICS = {
    "precision_at_1": (
        "precision@1",
        "share of sentences whose nearest neighbour in the other language is their own translation",
    ),
    "mutual_nearest_neighbour": (
        "mutual nearest neighbour",
        "share of pairs in which each sentence is the other's nearest neighbour (MEXA)",
    ),
    "cosine_centred": ("centred cosine", "cosine of translations after the mean of each language is taken away"),
    "cka_debiased": (
        "debiased CKA",
        "linear centred kernel alignment between the two languages, corrected for the number of sentences",
    ),
    "precision_at_1_centred": (
        "precision@1, centred",
        "share of sentences whose nearest neighbour is their translation, after the mean of each language is taken away",
    ),
    "cosine_z": ("cosine against wrong pairs", "raw cosine of translations, in standard deviations of wrong pairs"),
    "cosine": (
        "raw cosine",
        "cosine of translations; all vectors share one direction, so a high value alone says little",
    ),
    "precision_at_1_without_largest": (
        "precision@1 without the 3 largest dimensions",
        "a check of sensitivity: a big fall or rise means that a few dimensions decide",
    ),
    "cka_debiased_without_largest": (
        "debiased CKA without the 3 largest dimensions",
        "a check of sensitivity: a big fall or rise means that a few dimensions decide",
    ),
    "cka_biased": (
        "biased CKA",
        "for comparison with papers; near 1 for noise too where vectors have more dimensions than there are lines",
    ),
    "largest_token_share": (
        "largest share of one token",
        "of the squared norm of a sentence's states; near 1 the sentence vector is that of one token",
    ),
    "ratio_margin": ("ratio margin accuracy", "retrieval with the cosine divided by that of the neighbourhood (xsim)"),
    "probe_balanced_accuracy": (
        "language-ID probe",
        "balanced accuracy of a linear classifier that tells the language from the sentence vector",
    ),
    "probe_recall": ("language-ID probe, recall", "share of the sentences of a language that the probe recognises"),
    "probe_within_script": (
        "language-ID probe within scripts",
        "accuracy when only languages of the same script compete",
    ),
    "probe_selectivity": ("probe selectivity", "accuracy of the probe above its accuracy on random labels"),
    "probe_control_fit": ("probe on random labels, in training", "what the probe can memorise"),
    "probe_majority": ("majority", "always the same language"),
    "probe_script_only": ("script alone", "accuracy from the script of the text, without a model"),
    "probe_confusion": (
        "language-ID confusion",
        "share of the sentences of each language (rows) that the probe takes for another (columns)",
    ),
    "peak_layer": ("layer of the highest precision@1", "chosen by the data"),
    "peak_layer_centred": ("layer of the highest centred precision@1", "chosen by the data"),
    "precision_at_1_token_overlap": (
        "precision@1 of shared tokens",
        "cosine of bags of tokens, without a model's layers",
    ),
    "precision_at_1_length": ("precision@1 of length", "number of characters alone"),
    "bits_per_byte": ("bits per byte", "negative log2 likelihood per UTF-8 byte; comparable between tokenizers"),
    "tokens_per_character": ("tokens per character", "a property of the tokenizer"),
    "tokens_per_word": ("tokens per word", "words between spaces; a property of the tokenizer"),
    "unknown_rate": ("unknown bytes", "share of the bytes that the tokenizer's unknown token, or no token, stands for"),
    "bleu": ("BLEU", "with the sacreBLEU tokenizer that the target language asks for"),
    "chrf++": ("chrF++", "character 6-gram and word 2-gram F-score"),
    "off_target_rate": ("off-target rate", "share of outputs that are empty or not in the language asked for"),
    "over_length_rate": ("over-length rate", "share of outputs that did not end by themselves and were cut"),
    "empty_rate": ("empty rate", "share of outputs without text"),
    "copied_rate": ("copied rate", "share of outputs that repeat the source"),
    "off_target_coverage": ("off-target coverage", "share of outputs with enough letters to tell their language"),
    "acc": ("accuracy", "share of documents answered correctly"),
    "acc_norm": ("accuracy, length-normalised", "share of documents answered correctly, choices normalised by length"),
}


# Summaries of a curve over layers.
SUFFIXES = {
    "_peak": ", highest",
    "_middle_gain": ", middle layers above layer 0",
    "_divergence": ", fall to the last state",
}


PERCENT_SCALE = ("bleu", "chrf", "spbleu", "ter", "comet")


# --- wording and numbers ---------------------------------------------------------------------------------------------------------
def metric_title(metric: str) -> str:
    if "." in metric and metric not in METRICS:  # a task: "family.metric"
        family, _, measure = metric.partition(".")
        return f"{family}: {metric_title(measure)}"
    if metric not in METRICS:
        for suffix, words in SUFFIXES.items():
            if metric.endswith(suffix):
                return metric_title(metric.removesuffix(suffix)) + words
    return METRICS.get(metric, (metric.replace("_", " "), ""))[0]


def metric_note(metric: str) -> str:
    return METRICS.get(metric if metric in METRICS else metric.partition(".")[2], ("", ""))[1]


def better_direction(higher_is_better: bool | None) -> str:
    return {True: "↑ higher is better", False: "↓ lower is better", None: "no better direction"}[higher_is_better]


# In the order of measuring: what is cheap and tells most comes first.
SUITES = {
    "layers": "alignment of languages layer by layer: cosine, CKA, retrieval",
    "language_id": "how well a linear probe reads the language off each layer",
    "language_modelling": "bits per byte per language",
    "translation": "BLEU, chrF++ and off-target rate, from and to the pivot language",
    "tasks": "tasks of the LM evaluation harness",
}


def check_suites(suites: Sequence[str]) -> tuple[str, ...]:
    """The suites in the order of measuring, each once. Raises InputError for an unknown name or none at all."""
    unknown = [suite for suite in suites if suite not in SUITES]
    if unknown:
        raise InputError(f"unknown suite {unknown[0]!r}; known: {', '.join(SUITES)}")
    if not suites:
        raise InputError(f"no suite given; known: {', '.join(SUITES)}")
    return tuple(suite for suite in SUITES if suite in suites)
