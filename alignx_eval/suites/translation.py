"""Translation between the pivot language and each other language: greedy, stopped, scored with BLEU, chrF++ and
off-target rate."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine.base import Engine, Progress
from alignx_eval.engine.generate import DECODING, LENGTH_ALLOWANCE, LENGTH_FACTOR, Output
from alignx_eval.errors import InputError
from alignx_eval.languages import DEFAULT_PIVOT
from alignx_eval.measures.bleu import TEXT_POLICY, bleu_signature, bleu_statistics, prepare
from alignx_eval.measures.chrf import chrf_signature, chrf_statistics
from alignx_eval.measures.off_target import expected_language, judge, off_target_items, off_target_signature
from alignx_eval.prompts import translation_prompt
from alignx_eval.results import Items, Kind, Row, SuiteResult
from alignx_eval.statistics.clustered import clustered_mean, clustered_ratio
from alignx_eval.statistics.corpus_metrics import bleu_from_statistics, chrf_from_statistics
from alignx_eval.statistics.jackknife import jackknife, leave_one_out
from alignx_eval.statistics.pairing import cluster_codes, cluster_sums
from alignx_eval.suites.shared import UNDEFINED, corpus_fingerprint, interval_fields

SUITE = "translation"
MAX_NEW_TOKENS = 256
JACKKNIFE_GROUPS = 100
# Share of the outputs behind a score; above it the score says how the model fails to answer, not how well it
# translates.
MOST_UNUSABLE = 0.5
UNUSABLE = ("empty", "copied", "off target", "cut")
_WHAT = f"{', '.join(UNUSABLE[:-1])} or {UNUSABLE[-1]}"
Pair = tuple[str, str]  # source and target language
# Per direction, a statistic and its values with one jackknife group left out; None where it could have been measured
# but is undefined.
LeftOut = dict[Pair, tuple[float, np.ndarray] | None]


@dataclass(frozen=True, slots=True)
class _Requests:
    """What the model is asked: per direction (in order) and line, the prompt and the most tokens that may follow."""

    prompts: dict[Pair, list[str]]
    caps: dict[Pair, list[int]]
    allowed: dict[str, float]  # most tokens for each token of the source


@dataclass(frozen=True, slots=True)
class _Direction:
    """One direction with its outputs; all lists are in the order of the corpus."""

    source_language: str
    target_language: str
    sources: tuple[str, ...]
    references: tuple[str, ...]
    outputs: list[Output]


def run(
    engine: Engine,
    corpus: ParallelCorpus,
    *,
    template: str,
    pivot: str = DEFAULT_PIVOT,
    max_new_tokens: int = MAX_NEW_TOKENS,
    limit: int | None = None,
    max_tokens_per_batch: int = 16384,
    progress: Progress | None = None,
) -> SuiteResult:
    """Translate `corpus` (its first `limit` lines) from the pivot into every other language and back, and score it.

    Decoding is greedy and written out here, so no sampling option of the checkpoint's generation config can change it.
    An output ends at EOS, at the first line break after visible text, or at its cap: `LENGTH_FACTOR` times the source's
    tokens times the ratio of the corpus's tokens in the two languages (by the checkpoint's own tokenizer), plus
    `LENGTH_ALLOWANCE`, at most `max_new_tokens`. Line breaks and spaces before the first visible text are skipped, and
    count towards the cap. What would follow a later line break is never scored.

    Rows, per direction (`language` the source, `other_language` the target; kind of items in brackets):
      bleu [bleu], chrf++ [chrf]     corpus scores; `null` is the score of the outputs against the references of other
                                     lines
      off_target_rate [ratio]        off-target and empty outputs over judged outputs; see `measures.off_target`. `null`
                                     is the rate of the references under the same rule: the identifier's own error
      over_length_rate [mean]        share of outputs that had to be cut
      empty_rate [mean]              share of outputs without text
      copied_rate [mean]             share of outputs that repeat the source where the reference does not
    floors beside them, without items: bleu_floor_copy, chrf++_floor_copy (the source as the output), bleu_floor_empty,
    chrf++_floor_empty (nothing as the output), off_target_rate_reference (the `null` of off_target_rate, with its
    interval), off_target_coverage (judged over all). Means of bleu, chrf++ and off_target_rate [jackknife] and of
    off_target_rate_reference over all directions (no language), out of the pivot (`language` the pivot) and into it
    (`other_language` the pivot); BLEU's tokenizers differ between targets, so its means are a footnote.

    bleu, chrf++ and off_target_rate are not to be judged where more than `MOST_UNUSABLE` of the outputs behind them are
    empty, copied, off target or cut; their means neither where this is so over all directions. A warning then says so.

    Raises what `check` raises, before any decoding.
    """
    started = time.perf_counter()
    if limit is not None:
        corpus = corpus.select(limit=limit)
    requests = _checked_requests(engine, corpus, template, pivot, max_new_tokens)
    others = [code for code in corpus.languages if code != pivot]
    signatures = {"chrf++": chrf_signature()} | {
        f"bleu {target}": bleu_signature(target) for target in [*others, pivot]
    }
    signatures = {metric: f"{signature}|norm:{TEXT_POLICY}" for metric, signature in signatures.items()}

    directions = _translate(engine, corpus, requests, max_tokens_per_batch, progress)
    result = SuiteResult(
        suite=SUITE,
        rows=[],
        default_clusters=corpus.groups,
        item_ids=corpus.ids,
        fingerprint=corpus_fingerprint(corpus)
        | {
            "pivot": pivot,
            "template": template,
            "prompt": translation_prompt(template, pivot, others[0], "{text}"),
            "decoding": DECODING,
            "max_new_tokens": max_new_tokens,
            "text": TEXT_POLICY,
            "signatures": signatures,
            "language_identification": off_target_signature(),
        },
        environment=engine.environment() | {"start_token": engine.start, "end_tokens": engine.end_names},
    )
    groups = _jackknife_groups(corpus.groups)
    left_out: dict[str, LeftOut] = {"bleu": {}, "chrf++": {}, "off_target_rate": {}, "off_target_rate_reference": {}}
    identified: dict[str, dict[str, int]] = {}
    unusable: dict[Pair, np.ndarray] = {}
    for direction in directions:
        pair = (direction.source_language, direction.target_language)
        unusable[pair] = _score(engine.name, corpus, direction, groups, signatures, result, left_out, identified)
    for metric in left_out:
        result.rows += _mean_rows(engine.name, metric, left_out, pivot, np.bincount(groups[0]), result.items)
    _withhold_verdicts(result, unusable)
    result.extras = {"identified": identified, "tokens_allowed_per_source_token": requests.allowed}
    result.notes.append("An empty output scores 0 in BLEU and chrF++ and counts as off target.")
    result.notes.append("Means over directions mix BLEU tokenizers; read the rows of the directions.")
    result.seconds = time.perf_counter() - started
    return result


def check(
    engine: Engine,
    corpus: ParallelCorpus,
    *,
    template: str,
    pivot: str = DEFAULT_PIVOT,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> None:
    """Raise what `run` would raise, without decoding: InputError where the pivot is missing or alone, for an unknown
    template, and where prompt and output do not fit the model's context; MissingAssetError where a target's BLEU
    tokenizer is not installed."""
    _checked_requests(engine, corpus, template, pivot, max_new_tokens)


def shuffled(texts: Sequence[str]) -> list[str]:
    """`texts` moved on by half their number, so that no line keeps its own (unless there is only one)."""
    step = max(1, len(texts) // 2)
    return [texts[(index + step) % len(texts)] for index in range(len(texts))]


def _checked_requests(
    engine: Engine, corpus: ParallelCorpus, template: str, pivot: str, max_new_tokens: int
) -> _Requests:
    if pivot not in corpus.languages:
        raise InputError(
            f"translation needs the pivot language {pivot}; corpus {corpus.name} has {', '.join(corpus.languages)}"
        )
    if len(corpus.languages) < 2:
        raise InputError(f"translation needs a language besides the pivot {pivot}")
    for code in corpus.languages:
        bleu_signature(code)
    others = [code for code in corpus.languages if code != pivot]
    pairs = [(pivot, code) for code in others] + [(code, pivot) for code in others]
    requests = _requests(engine, corpus, pairs, template, max_new_tokens)
    _refuse_long(engine, requests, others)
    return requests


def _requests(
    engine: Engine, corpus: ParallelCorpus, pairs: list[Pair], template: str, max_new_tokens: int
) -> _Requests:
    token_counts = {
        code: np.array([len(ids) for ids in engine.tokenize(lines)]) for code, lines in corpus.sentences.items()
    }
    requests = _Requests({}, {}, {})
    for source, target in pairs:
        expansion = token_counts[target].sum() / max(1, token_counts[source].sum())
        requests.allowed[f"{source}-{target}"] = round(LENGTH_FACTOR * float(expansion), 3)
        requests.caps[source, target] = [
            min(max_new_tokens, LENGTH_ALLOWANCE + math.ceil(LENGTH_FACTOR * expansion * count))
            for count in token_counts[source]
        ]
        requests.prompts[source, target] = [
            translation_prompt(template, source, target, line) for line in corpus.sentences[source]
        ]
    return requests


def _refuse_long(engine: Engine, requests: _Requests, others: list[str]) -> None:
    """Raise InputError where prompt and cap need more positions than the model has.

    The cap is never lowered to what the context leaves: of two models, the one with the shorter context would then be
    measured on other terms.
    """
    limit = engine.context
    if limit is None:
        return
    too_long: dict[str, set[int]] = {code: set() for code in others}
    for pair, prompts in requests.prompts.items():
        (other,) = [code for code in pair if code in too_long]
        too_long[other] |= {
            index
            for index, (length, cap) in enumerate(zip(engine.prompt_lengths(prompts), requests.caps[pair], strict=True))
            if length + cap > limit
        }
    named = ", ".join(
        f"{code} ({len(lines)} {'line' if len(lines) == 1 else 'lines'})" for code, lines in too_long.items() if lines
    )
    if named:
        raise InputError(
            f"{engine.name} has a context of {limit} tokens, and prompt and output of a translation need more in "
            f"{named}: leave these "
            "languages out with --languages, take a corpus of shorter lines, or leave out the suite translation"
        )


def _translate(
    engine: Engine, corpus: ParallelCorpus, requests: _Requests, max_tokens_per_batch: int, progress: Progress | None
) -> list[_Direction]:
    """All directions decoded together."""
    outputs = engine.generate(
        [prompt for prompts in requests.prompts.values() for prompt in prompts],
        [cap for caps in requests.caps.values() for cap in caps],
        max_tokens_per_batch=max_tokens_per_batch,
        progress=progress,
    )
    lines = len(corpus)
    directions = []
    for number, (source, target) in enumerate(requests.prompts):
        own = outputs[number * lines : (number + 1) * lines]
        directions.append(_Direction(source, target, corpus.sentences[source], corpus.sentences[target], own))
    return directions


def _jackknife_groups(groups: tuple[str, ...]) -> tuple[np.ndarray, int]:
    """Group of each line, whole clusters dealt out in turn to at most `JACKKNIFE_GROUPS` groups."""
    codes, count = cluster_codes(groups, len(groups))
    return codes % JACKKNIFE_GROUPS, min(count, JACKKNIFE_GROUPS)


def _score(
    name: str,
    corpus: ParallelCorpus,
    direction: _Direction,
    groups: tuple[np.ndarray, int],
    signatures: dict[str, str],
    result: SuiteResult,
    left_out: dict[str, LeftOut],
    identified: dict[str, dict[str, int]],
) -> np.ndarray:
    """Rows, items and samples of one direction, added to `result`; leave-one-out values for the means, added to
    `left_out`.

    Returns which outputs cannot be used and why: bool [len(UNUSABLE), lines].
    """
    source_language, target_language = direction.source_language, direction.target_language
    pair = (source_language, target_language)
    sources, references = (
        [prepare(text) for text in direction.sources],
        [prepare(text) for text in direction.references],
    )
    outputs = [prepare(output.text) for output in direction.outputs]
    common: dict[str, Any] = {
        "suite": SUITE,
        "checkpoint": name,
        "language": source_language,
        "other_language": target_language,
        "n": len(corpus),
    }

    sentence_chrf = np.zeros(len(outputs))
    scores: tuple[tuple[str, Kind, str, Callable[..., Any], Callable[..., np.ndarray]], ...] = (
        (
            "bleu",
            "bleu",
            signatures[f"bleu {target_language}"],
            bleu_from_statistics,
            partial(bleu_statistics, language=target_language),
        ),
        ("chrf++", "chrf", signatures["chrf++"], chrf_from_statistics, chrf_statistics),
    )
    for metric, kind, signature, statistic, extract in scores:
        statistics = extract(outputs, references)
        if metric == "chrf++":
            sentence_chrf = np.asarray(chrf_from_statistics(statistics))
        point, values = leave_one_out(cluster_sums(statistics, *groups), statistic)
        left_out[metric][pair] = (point, values)
        fields = interval_fields(jackknife(point, values, sizes=np.bincount(groups[0]), n=len(corpus)))
        fields["method"] = f"{signature}; {fields['method']}"
        row = Row(
            metric=metric, null=float(statistic(extract(outputs, shuffled(references)).sum(axis=0))), **fields, **common
        )
        result.items[row.key] = Items(kind, statistics)
        result.rows.append(row)
        for floor, texts in (("copy", sources), ("empty", [""] * len(references))):
            value = float(statistic(extract(texts, references).sum(axis=0)))
            result.rows.append(
                Row(metric=f"{metric}_floor_{floor}", value=value, method=signature, higher_is_better=None, **common)
            )

    judgements, labels = _off_target_rows(direction, sources, references, outputs, common, groups, result, left_out)
    if labels:
        identified[f"{source_language}-{target_language}"] = labels
    empty = [not text for text in outputs]
    copied = [text == source != reference for text, source, reference in zip(outputs, sources, references, strict=True)]
    cut = [output.stopped_by == "length" for output in direction.outputs]
    for metric, flags in (("over_length_rate", cut), ("empty_rate", empty), ("copied_rate", copied)):
        values = np.array(flags, dtype=np.float64)
        row = Row(
            metric=metric, higher_is_better=False, **interval_fields(clustered_mean(values, corpus.groups)), **common
        )
        result.items[row.key] = Items("mean", values)
        result.rows.append(row)
    for index, output in enumerate(direction.outputs):
        result.samples.append(
            {
                "id": corpus.ids[index],
                "language": source_language,
                "other_language": target_language,
                "source": direction.sources[index],
                "reference": direction.references[index],
                "output": output.text,
                "chrf++": round(float(sentence_chrf[index]), 2),
                "target_language": judgements[index],
                "stopped_by": output.stopped_by,
            }
        )
    return np.array([empty, copied, [judgement == "off" for judgement in judgements], cut])


def _off_target_rows(
    direction: _Direction,
    sources: list[str],
    references: list[str],
    outputs: list[str],
    common: dict[str, Any],
    groups: tuple[np.ndarray, int],
    result: SuiteResult,
    left_out: dict[str, LeftOut],
) -> tuple[list[str | None], dict[str, int]]:
    """The off-target rows of one direction; returns each output's judgement and how often each label was found."""
    pair = (direction.source_language, direction.target_language)
    expected, reason = expected_language(*pair)
    if expected is None:
        for metric, better in (
            ("off_target_rate", False),
            ("off_target_rate_reference", None),
            ("off_target_coverage", None),
        ):
            result.rows.append(Row(metric=metric, higher_is_better=better, reason=reason, **UNDEFINED, **common))
        return [None] * len(outputs), {}
    judged = [
        judge(text, source, expected, reference)
        for text, source, reference in zip(outputs, sources, references, strict=True)
    ]
    items = np.array(off_target_items([judgement for judgement, _ in judged]), dtype=np.int64)
    # The rule without its look at the reference: what it takes for off target although nothing is wrong.
    of_references = np.array(
        off_target_items([judge(text, source, expected)[0] for text, source in zip(references, sources, strict=True)]),
        dtype=np.int64,
    )
    reference_row = _ratio_row("off_target_rate_reference", "reference", of_references, None, common, result)
    row = replace(_ratio_row("off_target_rate", "output", items, False, common, result), null=reference_row.value)
    coverage = interval_fields(clustered_mean(items[:, 1].astype(float), result.default_clusters))
    result.rows += [row, reference_row, Row(metric="off_target_coverage", higher_is_better=None, **coverage, **common)]
    if row.value is not None:
        result.items[row.key] = Items("ratio", items)
    for metric, values in (("off_target_rate", items), ("off_target_rate_reference", of_references)):
        sums = cluster_sums(values, *groups)
        rest = sums.sum(axis=0) - sums
        left_out[metric][pair] = (
            (float(sums[:, 0].sum() / sums[:, 1].sum()), rest[:, 0] / rest[:, 1]) if (rest[:, 1] > 0).all() else None
        )
    return [judgement for judgement, _ in judged], dict(
        Counter(label for _, label in judged if label is not None).most_common()
    )


def _ratio_row(
    metric: str,
    what: str,
    values: np.ndarray,
    higher_is_better: bool | None,
    common: dict[str, Any],
    result: SuiteResult,
) -> Row:
    if values[:, 1].sum() == 0:
        reason = f"no {what} has enough letters to judge"
        return Row(metric=metric, higher_is_better=higher_is_better, reason=reason, **UNDEFINED, **common)
    fields = interval_fields(clustered_ratio(values, result.default_clusters))
    fields["method"] = f"{off_target_signature()}; {fields['method']}"
    return Row(metric=metric, higher_is_better=higher_is_better, **fields, **common)


def _mean_rows(
    name: str, metric: str, left_out: dict[str, LeftOut], pivot: str, sizes: np.ndarray, items: dict[str, Items]
) -> list[Row]:
    """Means over all directions, out of the pivot and into it. A line is left out of all directions at once, as they
    share their lines."""
    rows = []
    better = {"off_target_rate": False, "off_target_rate_reference": None}.get(metric, True)
    for group in ((None, None), (pivot, None), (None, pivot)):
        common: dict[str, Any] = {
            "suite": SUITE, "metric": metric, "checkpoint": name, "language": group[0], "other_language": group[1],
            "n": int(sizes.sum()), "higher_is_better": better,
        }  # fmt: skip
        chosen = [value for pair, value in left_out[metric].items() if _belongs(pair, group)]
        defined = [each for each in chosen if each is not None]
        if not defined or len(defined) < len(
            chosen
        ):  # a mean over fewer directions would be another number under the same name
            reason = "undefined in at least one direction" if defined else "undefined in every direction"
            rows.append(Row(reason=reason, **UNDEFINED, **common))
            continue
        point = float(np.mean([each for each, _ in defined]))
        values = np.mean([each for _, each in defined], axis=0)
        fields = interval_fields(jackknife(point, values, sizes=sizes, n=int(sizes.sum())))
        fields["method"] = f"mean of {len(defined)} directions; norm:{TEXT_POLICY}; {fields['method']}"
        row = Row(**fields, **common)
        if better is not None:
            items[row.key] = Items("jackknife", values, point=point)
        rows.append(row)
        if metric == "off_target_rate":
            references = [
                value for pair, value in left_out["off_target_rate_reference"].items() if _belongs(pair, group)
            ]
            known = [each[0] for each in references if each is not None]
            rows[-1] = replace(row, null=float(np.mean(known)) if len(known) == len(references) else None)
    return rows


def _belongs(pair: Pair, group: tuple[str | None, str | None]) -> bool:
    """Whether a direction is behind the row with these languages; None stands for any language."""
    return group[0] in (None, pair[0]) and group[1] in (None, pair[1])


def _withhold_verdicts(result: SuiteResult, unusable: dict[Pair, np.ndarray]) -> None:
    """Mark the scores that stand on outputs which are mostly no translation, and warn of them; unusable: see
    `_score`."""

    def share(group: tuple[str | None, str | None]) -> float:
        return float(np.mean([flags.any(axis=0) for pair, flags in unusable.items() if _belongs(pair, group)]))

    overall = share((None, None))
    for index, row in enumerate(result.rows):
        if row.metric not in ("bleu", "chrf++", "off_target_rate") or row.value is None:
            continue
        own = share((row.language, row.other_language))
        if None in (row.language, row.other_language):
            own = max(own, overall)
        if own > MOST_UNUSABLE:
            result.rows[index] = replace(row, unjudged=f"{own:.0%} of the outputs are {_WHAT}")
    shares = {pair: share(pair) for pair in unusable}
    concerned = [pair for pair in unusable if shares[pair] > MOST_UNUSABLE]
    if not concerned:
        return
    worst = max(concerned, key=lambda pair: shares[pair])
    kinds = np.mean([unusable[pair].mean(axis=1) for pair in concerned], axis=0)
    parts = ", ".join(f"{kind} {part:.0%}" for kind, part in zip(UNUSABLE, kinds, strict=True) if part)
    result.warnings.append(
        f"{overall:.0%} of the translations are {_WHAT}; over half of them in {len(concerned)} of {len(unusable)} "
        f"directions ({parts}), "
        f"most of all {worst[0]} to {worst[1]} ({shares[worst]:.0%}). BLEU, chrF++ and off-target rate are shown "
        "there without a verdict: "
        "look at the samples, and whether the prompt suits the model (--template)."
    )
