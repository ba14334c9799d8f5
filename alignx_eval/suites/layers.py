"""Suite `layers`: how close translations are in every layer, and how much of it is real."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine.base import Engine
from alignx_eval.engine.batches import START_RULE
from alignx_eval.engine.encode import CorpusVectors, Pooling, Progress
from alignx_eval.errors import InputError
from alignx_eval.languages import DEFAULT_PIVOT
from alignx_eval.measures import cka, cosine, retrieval
from alignx_eval.results import Items, Row, SuiteResult
from alignx_eval.statistics.clustered import clustered_mean
from alignx_eval.statistics.jackknife import jackknife
from alignx_eval.statistics.peak import peak_interval
from alignx_eval.suites.layer_pictures import maps, pairs, projections, shown_layers
from alignx_eval.suites.shared import UNDEFINED, corpus_fingerprint, interval_fields, start_notes

SUITE = "layers"
LARGEST_DIMENSIONS = 3
SUMMARISED = ("precision_at_1", "precision_at_1_centred", "cka_debiased")
# The place of the peak, and the curve it is that of.
PEAK_LAYERS = {"peak_layer": "precision_at_1", "peak_layer_centred": "precision_at_1_centred"}
PEAKS_AGREE = 0.2  # share of the depth that the two peaks may be apart for an align layer to be recommended
FEWEST_TOKENS = 8  # of a sentence that says whether one token outweighs the others
LARGEST_TOKEN_SHARE = 0.5  # above, one token is more than all others together
# Debiased CKA of unrelated representations has mean 0 and a known spread over permutations, but a skewed distribution
# whose worst case (one shared dimension) is a chi-square with one degree of freedom. Beyond 4 spreads p is below 0.01
# in that case too; nearer to 0 no interval is valid.
CKA_SPREADS = 4
BOUNDED = ("cka_debiased", "cka_debiased_without_largest", "cka_debiased_peak")
NEAR_INDEPENDENCE = "too close to independence, where the statistic is degenerate"


@dataclass(slots=True)
class _Measured:
    """One metric of one language at one layer: what becomes a row, and what summaries average. Undefined: `items` None
    and a `reason`."""

    metric: str
    language: str | None
    other_language: str | None
    items: Items | None
    null: float | None = None
    chance: float | None = None
    higher_is_better: bool | None = True
    interval: bool = True
    reason: str | None = None
    point: float | None = None  # a value without per-item statistics


def run(
    engine: Engine,
    corpus: ParallelCorpus,
    *,
    pivot: str = DEFAULT_PIVOT,
    pooling: Pooling = "mean",
    seed: int = 0,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> SuiteResult:
    """Similarity of each language of `corpus` to `pivot`, at every layer of a checkpoint.

    Rows per layer and pair (kind of items in brackets); `language` is the query and `other_language` the pool where a
    direction matters:
      cosine                      mean cosine of translations [mean]; null: mean cosine of all wrong pairs
      cosine_centred              the same after taking each language's mean vector away [mean]
      cosine_z                    the same, raw, in standard deviations of wrong pairs [jackknife]
      cka_debiased                debiased linear CKA [jackknife]; null 0 is exact; an interval only away from
                                  independence
      precision_at_1              nearest neighbour by raw cosine is the translation, both directions [mean]
      precision_at_1_centred      the same with centred vectors, both directions [mean]
      ratio_margin                the same by the ratio margin of xsim, k = 4, raw cosine, both directions [mean]
      mutual_nearest_neighbour    MEXA: both directions at once, raw cosine [mean]
    Rows without a direction of good, to read the others by:
      cka_biased                  CKA with the biased HSIC that papers print; no interval; null: its mean over all
                                  pairings
      largest_token_share         per layer, language None: max_t |h_t|^2 / sum_t |h_t|^2 over the states h_t of a
                                  sentence's content tokens t, mean over the sentences of all languages with at least 8
                                  of them; a warning above 0.5
      precision_at_1_without_largest, cka_debiased_without_largest   without the 3 largest dimensions of the layer
      [mean, jackknife]: a
                                  number that falls or rises much is one of a few dimensions
    Rows per layer, over languages (language None): the plain mean of the rows of a metric, with the interval of that
    mean (lines stay together).
    Summaries of precision_at_1, precision_at_1_centred and cka_debiased, of those means:
      {metric}_peak               largest value over layers 0 to L [mean, jackknife]: its layer is `peak_layer`, which
                                  counts as fixed in the interval
      {metric}_middle_gain        mean over the middle half of the layers - layer 0
      {metric}_divergence         peak - last state, at layer "L" and at "L+norm"; divergence is real where both show it
      peak_layer, peak_layer_centred   number of the layer where precision_at_1 (centred) peaks [peak]; bootstrap
                                       interval
    Baselines without a model's layers: precision_at_1_token_overlap (cosine of bags of tokens) and
    precision_at_1_length (number of characters).
    The last states and these baselines have no direction (`higher_is_better` None): AlignX wants languages to part
    again at the end.

    extras: `pairs` (columns; debiased CKA of all pairs of languages), `projections` (PCA, UMAP), `maps`,
    `largest_dimension_share`, `recommended_align_layer` (only where one is, see `_recommendation`), `vectors` (where
    the cache keeps the vectors of each language). Raises InputError for a pivot that the corpus lacks, for fewer than
    two languages or lines, for sentences that are longer than the model's context, and as `engine.encode`.
    """
    started = time.perf_counter()
    check(engine, corpus, pivot=pivot)
    languages = [language for language in corpus.languages if language != pivot]
    vectors = engine.encode(corpus, pooling=pooling, cache_dir=cache_dir, progress=progress)
    groups = cka.number_groups(corpus.groups)
    accepted = {
        language: retrieval.accepted_pairs(corpus.sentences[language], corpus.sentences[pivot])
        for language in languages
    }
    last_states = vectors.layer_names[-2:]

    result = SuiteResult(suite=SUITE, rows=[], item_ids=corpus.ids, default_clusters=corpus.groups)
    curves: dict[str, dict[str, _Measured]] = {}  # metric -> layer -> the mean over languages
    shares: dict[str, float] = {}  # layer -> share of the squared length in the largest dimensions, mean over languages
    all_pairs: dict[str, np.ndarray] = {}  # layer -> debiased CKA of all languages [languages, languages]

    def add(layer: str | None, measured: _Measured) -> None:
        row = _row(engine.name, layer, measured, corpus)
        result.rows.append(row)
        if measured.items is not None:
            result.items[row.key] = measured.items

    for number, layer in enumerate(vectors.layer_names):
        stack = vectors.layer(layer)
        of_layer, all_pairs[layer] = measure_layer(stack, corpus.languages, pivot, groups, accepted)
        for measured in of_layer:
            if layer in last_states:
                measured.higher_is_better = None
            add(layer, measured)
        for summary in _means_over_languages(of_layer):
            add(layer, summary)
            if summary.items is not None:
                curves.setdefault(summary.metric, {})[layer] = summary
        shares[layer] = round(
            float(np.mean([cosine.largest_dimension_share(language, LARGEST_DIMENSIONS) for language in stack])), 3
        )
        if progress is not None:
            progress(number + 1, len(vectors.layer_names), f"measuring layer {layer}")

    for metric in SUMMARISED:
        for layer_of_row, measured in _summarise_curve(metric, curves.get(metric, {}), vectors.layer_names):
            add(layer_of_row, measured)
    peaks: dict[str, Row] = {}
    for metric, curve_of in PEAK_LAYERS.items():
        curve = curves.get(curve_of, {})
        if all(name in curve for name in vectors.layer_names):
            items = Items("peak", np.stack([_items(curve[name]).values for name in vectors.layer_names[:-1]], axis=1))
            add(None, _Measured(metric, None, None, items, higher_is_better=None))
            peaks[metric] = result.rows[-1]
    recommended, reasons = _recommendation(peaks, result.rows, len(vectors.layer_names) - 2)
    if recommended is not None:
        result.extras["recommended_align_layer"] = recommended
    if engine.align_layer is None:
        result.notes.append(reasons)
    token_shares = _largest_token_shares(engine.name, vectors, len(corpus))
    result.rows += token_shares
    if pooling != "last":  # which takes one token of each sentence anyway
        result.warnings += _dominant_token(token_shares)
    for measured in _baselines(engine, corpus, pivot, languages, accepted):
        add(None, measured)

    shown = shown_layers(vectors, engine.align_layer)
    result.extras |= {
        "projections": projections(vectors, corpus, shown, seed, result.notes),
        "maps": maps(all_pairs, corpus, shown),
    }
    result.extras["pairs"] = pairs(all_pairs, corpus)
    result.extras["largest_dimension_share"] = shares
    if vectors.cache_keys:
        result.extras["vectors"] = {"layers": list(vectors.layer_names), "keys": vectors.cache_keys}
    result.notes += start_notes(engine)
    result.fingerprint = corpus_fingerprint(corpus) | {
        "pivot": pivot,
        "pooling": pooling,
        "start": START_RULE,
        "retrieval_pool": len(corpus),
        "seed": seed,
    }
    result.environment = engine.environment() | {"start_token": engine.start}
    result.seconds = time.perf_counter() - started
    return result


def check(engine: Engine, corpus: ParallelCorpus, *, pivot: str = DEFAULT_PIVOT) -> None:
    """Raise InputError for what `run` could not measure, without measuring."""
    if pivot not in corpus.languages:
        raise InputError(
            f"suite {SUITE}: the corpus has no pivot language {pivot}; it has {', '.join(corpus.languages)}"
        )
    if len(corpus.languages) < 2 or len(corpus) < 2:
        raise InputError(
            f"suite {SUITE}: needs at least two languages and two lines, got {len(corpus.languages)} and {len(corpus)}"
        )
    engine.check_encode(corpus)


@dataclass(frozen=True, slots=True)
class _Side:
    """What the measures need of one language at one layer; the vectors are [lines, width]."""

    vectors: np.ndarray
    unit: np.ndarray
    centred_unit: np.ndarray | None  # None where a sentence has no direction of its own
    gram: tuple[cka.CentredGram | None, str | None]  # or the reason why there is none
    unit_without: np.ndarray  # without the largest dimensions
    gram_without: tuple[cka.CentredGram | None, str | None]


def _side(vectors: np.ndarray, largest: np.ndarray, groups: np.ndarray) -> _Side:
    centred = cosine.centre(vectors)
    without = np.delete(vectors, largest, axis=1)
    return _Side(
        vectors,
        cosine.unit(vectors),
        cosine.unit(centred) if cosine.has_direction(centred, vectors) else None,
        _gram(vectors, groups),
        cosine.unit(without),
        _gram(without, groups),
    )


def measure_layer(
    stack: np.ndarray, languages: Sequence[str], pivot: str, groups: np.ndarray, accepted: dict[str, retrieval.Accepted]
) -> tuple[list[_Measured], np.ndarray]:
    """All pivot metrics of one layer, and debiased CKA of all pairs [languages, languages] (nan where undefined).

    stack [languages, lines, width], groups int [lines] numbered from 0. Each U-centred Gram matrix is formed once, and
    only the packed halves of those of all languages are held.
    """
    lines = stack.shape[1]
    packed = np.full((len(stack), lines * (lines - 1) // 2), np.nan, dtype=np.float32)
    largest = cosine.largest_dimensions(*stack, count=LARGEST_DIMENSIONS)
    position = list(languages).index(pivot)
    of_pivot = _side(stack[position], largest, groups)
    found: list[_Measured] = []
    for index, language in enumerate(languages):
        side = of_pivot if index == position else _side(stack[index], largest, groups)
        if side.gram[0] is not None:
            packed[index] = cka.pack(side.gram[0].matrix)
        if index == position:
            continue
        found += _raw_metrics(side.unit @ of_pivot.unit.T, language, pivot, groups, accepted[language])
        if side.centred_unit is not None and of_pivot.centred_unit is not None:
            found += _centred_metrics(side.centred_unit @ of_pivot.centred_unit.T, language, pivot, accepted[language])
        else:
            reason = "a sentence does not differ from the mean of its language, so it has no centred direction"
            found.append(_Measured("cosine_centred", language, pivot, None, reason=reason))
            found += [
                _Measured("precision_at_1_centred", *pair, None, reason=reason)
                for pair in ((language, pivot), (pivot, language))
            ]
        found.append(_cka("cka_debiased", side.gram, of_pivot.gram, language, pivot))
        found += _sensitivity(side.unit_without @ of_pivot.unit_without.T, language, pivot, accepted[language])
        found.append(
            _cka("cka_debiased_without_largest", side.gram_without, of_pivot.gram_without, language, pivot, None)
        )
        found.append(_biased(side.vectors, of_pivot.vectors, language, pivot))
    return found, cka.debiased_cka_of_packed(packed)


def _raw_metrics(
    similarity: np.ndarray, language: str, pivot: str, groups: np.ndarray, accepted: retrieval.Accepted
) -> list[_Measured]:
    lines = len(similarity)
    # The raw cosine has no direction: a narrower cone of vectors raises it without any alignment.
    null = cosine.wrong_pair_mean(similarity)
    found = [
        _Measured("cosine", language, pivot, _mean_items(np.diagonal(similarity)), null=null, higher_is_better=None)
    ]
    try:
        point, values = cosine.standardised(similarity, groups)
        found.append(_Measured("cosine_z", language, pivot, Items("jackknife", values, point), null=0.0))
    except ValueError as error:
        found.append(_Measured("cosine_z", language, pivot, None, reason=str(error)))
    hits = retrieval.hits(similarity, accepted)
    margin = (
        retrieval.margin_hits(similarity, accepted),
        retrieval.margin_hits(similarity.T, (accepted[1], accepted[0])),
    )
    chance = retrieval.chance_precision(lines, accepted)
    for pair, axis, nearest, by_margin in (
        ((language, pivot), 1, hits.forward, margin[0]),
        ((pivot, language), 0, hits.backward, margin[1]),
    ):
        null = retrieval.permuted_precision(similarity, accepted, axis=axis)
        found.append(_Measured("precision_at_1", *pair, _mean_items(nearest), null=null, chance=chance))
        found.append(_Measured("ratio_margin", *pair, _mean_items(by_margin), chance=chance))
    found.append(
        _Measured(
            "mutual_nearest_neighbour", language, pivot, _mean_items(hits.mutual), chance=retrieval.chance_mutual(lines)
        )
    )
    return found


def _centred_metrics(
    similarity: np.ndarray, language: str, pivot: str, accepted: retrieval.Accepted
) -> list[_Measured]:
    hits = retrieval.hits(similarity, accepted)
    chance = retrieval.chance_precision(len(similarity), accepted)
    return [
        _Measured(
            "cosine_centred",
            language,
            pivot,
            _mean_items(np.diagonal(similarity)),
            null=cosine.wrong_pair_mean(similarity),
        ),
        _Measured("precision_at_1_centred", language, pivot, _mean_items(hits.forward), chance=chance),
        _Measured("precision_at_1_centred", pivot, language, _mean_items(hits.backward), chance=chance),
    ]


def _gram(vectors: np.ndarray, groups: np.ndarray) -> tuple[cka.CentredGram | None, str | None]:
    if vectors.shape[1] == 0:
        return None, "the layer has no other dimensions"
    try:
        return cka.centred_gram(vectors, groups), None
    except ValueError as error:
        return None, str(error)


def _cka(
    metric: str,
    side: tuple[cka.CentredGram | None, str | None],
    of_pivot: tuple[cka.CentredGram | None, str | None],
    language: str,
    pivot: str,
    higher_is_better: bool | None = True,
) -> _Measured:
    gram, pivot_gram = side[0], of_pivot[0]
    measured = _Measured(metric, language, pivot, None, higher_is_better=higher_is_better)
    if gram is None or pivot_gram is None:
        measured.reason = side[1] or of_pivot[1]
        return measured
    measured.null = 0.0
    try:
        point, values = cka.debiased_cka_leave_out(gram, pivot_gram)
    except ValueError:
        measured.point = float(np.einsum("ij,ij->", gram.matrix, pivot_gram.matrix, dtype=np.float64))
        return measured
    measured.items = Items("jackknife", values, point)
    measured.interval = point > CKA_SPREADS * cka.null_standard_deviation(len(gram.matrix))
    return measured


def _biased(vectors: np.ndarray, pivot_vectors: np.ndarray, language: str, pivot: str) -> _Measured:
    measured = _Measured("cka_biased", language, pivot, None, higher_is_better=None, interval=False)
    try:
        measured.point, measured.null = cka.biased_cka_with_null(vectors, pivot_vectors)
    except ValueError as error:
        measured.reason = str(error)
    return measured


def _sensitivity(similarity: np.ndarray, language: str, pivot: str, accepted: retrieval.Accepted) -> list[_Measured]:
    """Retrieval without the largest dimensions. `similarity` is all zero where nothing else is there, and ties are no
    hits."""
    hits = retrieval.hits(similarity, accepted)
    chance = retrieval.chance_precision(len(similarity), accepted)
    return [
        _Measured("precision_at_1_without_largest", *pair, _mean_items(nearest), chance=chance, higher_is_better=None)
        for pair, nearest in (((language, pivot), hits.forward), ((pivot, language), hits.backward))
    ]


def _mean_items(values: np.ndarray) -> Items:
    return Items("mean", np.ascontiguousarray(values, dtype=np.float32))


def _point(items: Items) -> float:
    return float(items.values.mean(dtype=np.float64)) if items.point is None else items.point


def _combine(parts: Sequence[tuple[float, Items]]) -> Items:
    """Items of a weighted sum of statistics; exact for means, and for leave-group-out values of any statistic."""
    values = np.sum([weight * items.values.astype(np.float64) for weight, items in parts], axis=0)
    if parts[0][1].kind == "mean":
        return Items("mean", values)
    return Items("jackknife", values, float(sum(weight * _point(items) for weight, items in parts)))


def _row(checkpoint: str, layer: str | None, measured: _Measured, corpus: ParallelCorpus) -> Row:
    fields: dict[str, Any] = {"value": measured.point, "reason": measured.reason}
    items = measured.items
    if items is not None and items.kind == "mean":
        fields |= interval_fields(clustered_mean(items.values, corpus.groups))
    elif items is not None and items.kind == "peak":
        fields |= interval_fields(peak_interval(items.values, corpus.groups))
    elif items is not None:
        fields |= interval_fields(jackknife(_point(items), items.values, n=len(corpus)))
    if measured.metric in BOUNDED and fields.get("ci_high") is not None:
        fields["ci_high"] = min(1.0, fields["ci_high"])  # few lines make it longer than the range
    if not measured.interval:
        why = "the biased estimate has no valid one" if measured.metric == "cka_biased" else NEAR_INDEPENDENCE
        fields |= {"se": None, "ci_low": None, "ci_high": None, "method": f"no interval: {why}"}
    return Row(
        suite=SUITE,
        metric=measured.metric,
        checkpoint=checkpoint,
        layer=layer,
        language=measured.language,
        other_language=measured.other_language,
        n=len(corpus),
        null=measured.null,
        chance=measured.chance,
        higher_is_better=measured.higher_is_better,
        **fields,
    )


def _means_over_languages(measured: Sequence[_Measured]) -> list[_Measured]:
    """Per metric the mean over all its rows of a layer (both directions where there are two); undefined rows are left
    out."""
    summaries = []
    for metric in dict.fromkeys(each.metric for each in measured):
        rows = [each for each in measured if each.metric == metric]
        defined = [each for each in rows if each.items is not None]
        if metric == "cka_biased":
            known = [(each.point, each.null) for each in rows if each.point is not None and each.null is not None]
            if known:
                point, null = np.mean(known, axis=0)
                summaries.append(
                    replace(
                        rows[0], language=None, other_language=None, point=float(point), null=float(null), reason=None
                    )
                )
                continue
        if not defined:
            summaries.append(_Measured(metric, None, None, None, reason=rows[0].reason or "not enough lines"))
            continue
        nulls, chances = [each.null for each in defined], [each.chance for each in defined]
        null = None if None in nulls else float(np.mean(nulls))  # type: ignore[arg-type]
        chance = None if None in chances else float(np.mean(chances))  # type: ignore[arg-type]
        items = _combine([(1 / len(defined), each.items) for each in defined if each.items is not None])
        interval = all(each.interval for each in defined)
        summaries.append(_Measured(metric, None, None, items, null, chance, rows[0].higher_is_better, interval))
    return summaries


def _items(measured: _Measured) -> Items:
    assert measured.items is not None
    return measured.items


def _summarise_curve(
    metric: str, curve: dict[str, _Measured], names: Sequence[str]
) -> list[tuple[str | None, _Measured]]:
    """(layer of the row, measured) of peak, middle gain and divergence; nothing where a layer is undefined."""
    if any(name not in curve for name in names):
        return []
    blocks = len(names) - 2
    peak = max(names[:-1], key=lambda name: _point(_items(curve[name])))

    def sure(
        *layers: str,
    ) -> bool:  # what is made of degenerate numbers alone is no better; beside another they have no weight
        return any(curve[layer].interval for layer in layers)

    middle = [name for name in names[:-1] if blocks / 4 <= int(name) <= 3 * blocks / 4]
    gain = _Measured(f"{metric}_middle_gain", None, None, None, reason="a model of one block has no middle layers")
    if middle:
        above = [(1 / len(middle), _items(curve[name])) for name in middle] + [(-1.0, _items(curve[names[0]]))]
        gain = _Measured(f"{metric}_middle_gain", None, None, _combine(above), interval=sure(names[0], *middle))
    highest = _Measured(f"{metric}_peak", None, None, _items(curve[peak]), interval=sure(peak))
    found: list[tuple[str | None, _Measured]] = [(None, highest), (None, gain)]
    for last in names[-2:]:
        difference = _combine([(1.0, _items(curve[peak])), (-1.0, _items(curve[last]))])
        fall = _Measured(
            f"{metric}_divergence", None, None, difference, higher_is_better=None, interval=sure(peak, last)
        )
        found.append((last, fall))
    return found


def _baselines(
    engine: Engine,
    corpus: ParallelCorpus,
    pivot: str,
    languages: Sequence[str],
    accepted: dict[str, retrieval.Accepted],
) -> list[_Measured]:
    """Retrieval by shared tokens and by length: what a model can reach without understanding."""
    bags = {language: _token_bags(engine, corpus.sentences[language]) for language in (*languages, pivot)}
    lengths = {
        language: np.log([max(1, len(text)) for text in corpus.sentences[language]]) for language in (*languages, pivot)
    }
    found = []
    for language in languages:
        overlap = np.asarray((bags[language] @ bags[pivot].T).todense())
        distance = -np.abs(lengths[language][:, None] - lengths[pivot][None, :])
        for name, similarity in (("token_overlap", overlap), ("length", distance)):
            forward = retrieval.hits(similarity, accepted[language]).forward
            chance = retrieval.chance_precision(len(corpus), accepted[language])
            found.append(
                _Measured(
                    f"precision_at_1_{name}",
                    language,
                    pivot,
                    _mean_items(forward),
                    chance=chance,
                    higher_is_better=None,
                )
            )
    return found


def _token_bags(engine: Engine, sentences: Sequence[str]) -> Any:
    """Rows of token counts at length 1, as a sparse matrix [sentences, vocabulary]."""
    from scipy.sparse import csr_array

    rows = engine.tokenize(sentences)
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    tokens = np.array([token for row in rows for token in row], dtype=np.int64)
    bags = csr_array((np.ones(len(tokens)), tokens, starts), shape=(len(rows), engine.vocabulary))
    bags.sum_duplicates()
    lengths = np.sqrt(np.asarray(bags.multiply(bags).sum(axis=1)).reshape(-1))
    return csr_array(bags.multiply(1 / np.where(lengths > 0, lengths, 1)[:, None]))


def _recommendation(peaks: dict[str, Row], rows: Sequence[Row], depth: int) -> tuple[int | None, str]:
    """(layer to align at or None, why) from the rows `peak_layer` and `peak_layer_centred`; to be read by whoever
    trains next.

    No rule has been validated, so the peaks of raw and centred precision@1 must agree: both in layers 1 to `depth` - 1
    (states that are neither the embeddings nor the last ones), and no further apart than `PEAKS_AGREE` of the depth.
    Then it is the centred one: a mean vector of its own hides the content of each language from the raw cosine.
    """
    found: dict[str, int] = {}
    named = []
    for metric, curve in PEAK_LAYERS.items():
        name = "centred precision@1" if metric.endswith("_centred") else "raw precision@1"
        peak = peaks.get(metric)
        if peak is None or peak.value is None:
            named.append(f"{name} is undefined in some layer")
            continue
        found[metric] = int(peak.value)
        height = next(
            row for row in rows if row.metric == curve and row.layer == str(found[metric]) and row.language is None
        )
        named.append(
            f"{name} is highest in layer {found[metric]}{_interval(peak, 0)}, with "
            f"{height.value:.3f}{_interval(height, 3)}"
        )
    reasons = f"{'; '.join(named)} (means over pairs, 95 % intervals, n = {rows[0].n})."
    reasons = reasons[0].upper() + reasons[1:]
    if len(found) < len(PEAK_LAYERS):
        return None, f"No align layer is recommended: both curves must have a peak. {reasons}"
    if any(not 0 < layer < depth for layer in found.values()):
        return (
            None,
            "No align layer is recommended: layer 0 and the last layer are no candidates, and a peak is there. "
            f"{reasons}",
        )
    if abs(found["peak_layer"] - found["peak_layer_centred"]) > PEAKS_AGREE * depth:
        return (
            None,
            f"No align layer is recommended: the two peaks are more than a fifth of the {depth} layers apart. "
            f"{reasons}",
        )
    return found["peak_layer_centred"], f"Recommended align layer: {found['peak_layer_centred']}. {reasons}"


def _interval(row: Row, decimals: int) -> str:
    return (
        "" if row.ci_low is None or row.ci_high is None else f" [{row.ci_low:.{decimals}f}, {row.ci_high:.{decimals}f}]"
    )


def _largest_token_shares(checkpoint: str, vectors: CorpusVectors, lines: int) -> list[Row]:
    """One row a layer, of the sentences with at least `FEWEST_TOKENS` content tokens."""
    long = np.stack(
        [vectors.token_counts[language] >= FEWEST_TOKENS for language in vectors.languages]
    )  # [languages, lines]
    shares = np.stack([vectors.largest_token_share[language] for language in vectors.languages], axis=1)[
        :, long
    ]  # [layers, sentences]
    common: dict[str, Any] = {
        "suite": SUITE,
        "metric": "largest_token_share",
        "checkpoint": checkpoint,
        "higher_is_better": None,
    }
    if not long.any():
        common |= UNDEFINED | {"n": lines, "reason": f"no sentence has {FEWEST_TOKENS} tokens or more"}
        return [Row(layer=layer, **common) for layer in vectors.layer_names]
    method = f"mean over {long.sum()} sentences of at least {FEWEST_TOKENS} tokens, no interval"
    common |= {"n": int(long.any(axis=0).sum()), "method": method}
    values = shares.mean(axis=1, dtype=np.float64)
    return [
        Row(layer=layer, value=float(value), **common) for layer, value in zip(vectors.layer_names, values, strict=True)
    ]


def _dominant_token(rows: Sequence[Row]) -> list[str]:
    """The warning about layers where one token outweighs all others of its sentence; `rows` are those of
    `largest_token_share`."""
    shares = [0.0 if row.value is None else row.value for row in rows]
    dominated = [index for index, share in enumerate(shares) if share > LARGEST_TOKEN_SHARE]
    if not dominated:
        return []
    runs: list[list[str]] = []
    for index in dominated:
        if index - 1 not in dominated:
            runs.append([])
        runs[-1].append(str(rows[index].layer))
    places = ", ".join(run[0] if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
    return [
        f"In layer{'s' if len(dominated) > 1 else ''} {places} one token holds on average "
        f"{'up to ' if len(dominated) > 1 else ''}"
        f"{max(shares):.1%} of a sentence's squared norm: what is measured there is that token more than the sentence."
    ]
