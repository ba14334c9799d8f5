"""What a run has become so far, on text it does not train on: retrieval, language identity and bits per byte, each
sentence alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alignx_eval.checkpoint import Checkpoint
from alignx_eval.corpora import BUNDLED, ParallelCorpus, load_corpus
from alignx_eval.engine.encode import check_lengths, encode_corpus
from alignx_eval.engine.score import corpus_costs
from alignx_eval.errors import InputError
from alignx_eval.languages import LANGUAGES
from alignx_eval.measures import cosine, probe, retrieval
from alignx_eval.measures.cka import number_groups
from alignx_eval.statistics.clustered import clustered_mean, clustered_mean_difference, lower_bound
from alignx_eval.suites.language_modelling import unknown_languages
from alignx_trainer.config import Recipe
from alignx_trainer.records import default_split
from alignx_trainer.run_folder import MEASURES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PIVOT = "eng_Latn"
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Measured:
    """Per-line values [lines] of each measure, means over languages: a line is one observation, its document the
    cluster.

    precision_at_1: nearest neighbour by cosine is the translation, both ways with the pivot, at the align layer;
    precision_at_1_last: the same in the last layer before the final norm; language_identity: a linear probe names the
    language there, over folds of lines; bits_per_byte: a line's bits over the mean bytes of its language, so that the
    mean is sum of bits / sum of bytes; over the languages that the tokenizer knows, NaN where it knows none. `unknown`
    names the others.
    """

    precision_at_1: np.ndarray
    precision_at_1_last: np.ndarray
    language_identity: np.ndarray
    bits_per_byte: np.ndarray
    unknown: tuple[str, ...] = ()


def load_validation(recipe: Recipe) -> ParallelCorpus:
    """The recipe's validation text. Raises InputError where it is not there, has one language, or is text of a source
    of the recipe."""
    split = recipe.eval_split or default_split(recipe.eval_path, "validation")
    corpus = load_corpus(
        recipe.eval_path, split=split, languages=list(recipe.eval_languages) or None, limit=recipe.eval_lines
    )
    if len(corpus.languages) < 2 or len(set(corpus.groups)) < 2:
        raise InputError(
            f"eval_path {recipe.eval_path!r}: validation needs at least two languages and two lines that are no copies"
        )
    for source in recipe.sources:
        if _same_path(source.path, recipe.eval_path) and (source.split or default_split(source.path, "train")) == split:
            raise InputError(
                f"eval_path {recipe.eval_path!r} is text that the recipe trains on; name another corpus or split"
            )
    return corpus


def announcement(corpus: ParallelCorpus, every: int) -> str:
    """What validation measures, said before it begins: in all languages of a large folder it takes longer than the
    training."""
    languages = f"{len(corpus.languages)} languages" if len(corpus.languages) > 5 else ", ".join(corpus.languages)
    return (
        f"validation before the first step and every {every} steps: {len(corpus)} lines of {corpus.name} in "
        f"{languages}; "
        "`eval_languages` and `eval_lines` make it shorter"
    )


def _same_path(one: str, two: str) -> bool:
    """Whether two paths of corpora, however they are written, are one."""
    places = [Path(path).expanduser() for path in (one, two) if path not in BUNDLED]
    return one == two or (
        len(places) == 2 and all(place.exists() for place in places) and places[0].samefile(places[1])
    )


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: ParallelCorpus, align_layer: int, seed: int
) -> Measured:
    """Measure `model`, which is left as it was. Under a launcher all processes must call it.

    Raises InputError for text with sentences that are longer than the model's context.
    """
    training = model.training
    model.eval()
    try:
        checkpoint = Checkpoint(
            "the model", "the model", model, tokenizer, None, None, None, None, align_layer, {}, {}, "", "pt"
        )
        check_lengths(checkpoint, corpus)
        vectors = encode_corpus(checkpoint, corpus)
        costs = corpus_costs(model, tokenizer, corpus)
    finally:
        model.train(training)
    last = vectors.layer_names[-2]
    shape = (len(corpus.languages), len(corpus))
    unknown = unknown_languages(costs)
    ratios = [own.bits / own.bytes.mean() for language, own in costs.items() if language not in unknown]
    folds_stream, labels_stream = np.random.default_rng(seed).spawn(2)
    folds = probe.grouped_folds(number_groups(corpus.groups), FOLDS, folds_stream)
    scripts = [LANGUAGES[language].script for language in corpus.languages]
    found = probe.language_probe(vectors.layer(last), folds, probe.control_labels(*shape, labels_stream), scripts)
    return Measured(
        precision_at_1=_precision(vectors.layer(str(align_layer)), corpus),
        precision_at_1_last=_precision(vectors.layer(last), corpus),
        language_identity=found.correct.mean(axis=0),
        bits_per_byte=np.mean(ratios, axis=0) if ratios else np.full(len(corpus), np.nan),
        unknown=tuple(unknown.values()),
    )


def _precision(stack: np.ndarray, corpus: ParallelCorpus) -> np.ndarray:
    """Mean over languages and both directions of "the nearest neighbour is the translation" [lines]; `stack`
    [languages, lines, width]."""
    pivot = corpus.languages.index(PIVOT) if PIVOT in corpus.languages else 0
    pivot_texts = corpus.sentences[corpus.languages[pivot]]
    unit = cosine.unit(stack)
    hits = []
    for index, language in enumerate(corpus.languages):
        if index != pivot:
            accepted = retrieval.accepted_pairs(corpus.sentences[language], pivot_texts)
            found = retrieval.hits(unit[index] @ unit[pivot].T, accepted)
            hits += [found.forward, found.backward]
    share: np.ndarray = np.mean(hits, axis=0)
    return share


def summary(measured: Measured, corpus: ParallelCorpus, align_layer: int) -> dict[str, Any]:
    """Plain values for the log: of each measure its mean, 95 % interval and number of lines; nothing of one that is
    undefined."""
    entry: dict[str, Any] = {"lines": len(corpus), "languages": list(corpus.languages), "align_layer": align_layer}
    for name in MEASURES:
        values = getattr(measured, name)
        if not np.isnan(values).all():
            estimate = clustered_mean(values, corpus.groups)
            entry[name] = {
                "value": estimate.value,
                "ci_low": estimate.ci_low,
                "ci_high": estimate.ci_high,
                "n": len(corpus),
            }
    return entry


def unknown_text(start: Measured, recipe: Recipe) -> str | None:
    """What to say, once, of text that the tokenizer does not know. Raises InputError where a limit of the recipe has no
    other text."""
    if not start.unknown:
        return None
    named = ", ".join(start.unknown)
    if recipe.stop_bits_per_byte is not None and np.isnan(start.bits_per_byte).any():
        raise InputError(
            f"stop_bits_per_byte: the tokenizer does not know the validation text, {named}; leave the limit out"
        )
    return (
        f"Validation: the tokenizer does not know the text of {named}, so bits per byte and its limit leave these "
        "languages out"
    )


def over_aligned(start: Measured, now: Measured, corpus: ParallelCorpus, recipe: Recipe) -> str | None:
    """What was lost since `start` beyond the recipe's limits, with 95 % confidence by the paired lines; None where
    nothing was."""
    for name, limit, sign in (
        ("bits_per_byte", recipe.stop_bits_per_byte, 1),
        ("language_identity", recipe.stop_language_identity, -1),
    ):
        if limit is None:
            continue
        sides = [getattr(side, name) for side in ((start, now) if sign > 0 else (now, start))]
        loss = clustered_mean_difference(sides[0], sides[1], corpus.groups)
        if loss.se is None or loss.degrees_of_freedom is None:
            continue
        bound = lower_bound(loss.value, loss.se, loss.degrees_of_freedom, loss.skewness)
        if bound > limit:
            word = "rose" if sign > 0 else "fell"
            return (
                f"{name.replace('_', ' ')} {word} by {loss.value:.3f} [{loss.ci_low:.3f}, {loss.ci_high:.3f}], more "
                f"than {limit:g}"
            )
    return None
