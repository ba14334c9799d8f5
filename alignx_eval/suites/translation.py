"""Translation between the pivot language and each other language: greedy, stopped, scored with BLEU, chrF++ and off-target rate."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from alignx_eval import decoding_cache
from alignx_eval.corpora import ParallelCorpus
from alignx_eval.encode import context_length, encoding_environment
from alignx_eval.errors import InputError
from alignx_eval.measures.bleu import TEXT_POLICY, bleu_signature, bleu_statistics, prepare
from alignx_eval.measures.chrf import chrf_signature, chrf_statistics
from alignx_eval.measures.off_target import accepted_labels, judge, off_target_items
from alignx_eval.prompts import translation_prompt
from alignx_eval.results import Items, Kind, Row, SuiteResult
from alignx_eval.statistics.clustered import clustered_mean, clustered_ratio
from alignx_eval.statistics.corpus_metrics import bleu_from_statistics, chrf_from_statistics
from alignx_eval.statistics.jackknife import jackknife, leave_one_out
from alignx_eval.statistics.pairing import cluster_codes, cluster_sums
from alignx_eval.suites.shared import UNDEFINED, corpus_fingerprint, interval_fields, start_token

SUITE = "translation"
# An output may take twice the tokens that its source is expected to take in the target language, and a little more for short sources.
LENGTH_FACTOR = 2.0
LENGTH_ALLOWANCE = 16
JACKKNIFE_GROUPS = 100
DECODING = f"greedy; stops at EOS, a line break or {LENGTH_FACTOR:g} x expected length + {LENGTH_ALLOWANCE} tokens; prompt starts with BOS"

Progress = Callable[[int, int, str], None]
# Per direction, a statistic and its values with one jackknife group left out; None where it could have been measured but is undefined.
LeftOut = dict[tuple[str, str], tuple[float, np.ndarray] | None]


@dataclass(frozen=True, slots=True)
class Output:
    """One decoded text, and whether it was ended by the model ("eos", "line") or by us ("length")."""

    text: str
    stopped_by: str


@dataclass(frozen=True, slots=True)
class _Direction:
    """One direction with its outputs; all lists are in the order of the corpus."""

    source_language: str
    target_language: str
    sources: tuple[str, ...]
    references: tuple[str, ...]
    outputs: list[Output]


def run(
    checkpoint: Any,
    corpus: ParallelCorpus,
    *,
    template: str,
    pivot: str = "eng_Latn",
    max_new_tokens: int = 256,
    limit: int | None = None,
    max_tokens_per_batch: int = 16384,
    progress: Progress | None = None,
) -> SuiteResult:
    """Translate `corpus` (its first `limit` lines) from the pivot into every other language and back, and score it.

    Decoding is greedy and written out here, so no sampling option of the checkpoint's generation config can change it. An output ends at
    EOS, at the first line break, or at its cap: `LENGTH_FACTOR` times the source's tokens times the ratio of the corpus's tokens in the two
    languages (by the checkpoint's own tokenizer), plus `LENGTH_ALLOWANCE`, at most `max_new_tokens`. What would follow a line break is
    never scored.

    Rows, per direction (`language` the source, `other_language` the target; kind of items in brackets):
      bleu [bleu], chrf++ [chrf]     corpus scores; `null` is the score of the outputs against the references of other lines
      off_target_rate [ratio]        off-target and empty outputs over judged outputs; see `measures.off_target`
      over_length_rate [mean]        share of outputs that had to be cut
      empty_rate [mean]              share of outputs without text
    floors beside them, without items: bleu_floor_copy, chrf++_floor_copy (the source as the output), bleu_floor_empty, chrf++_floor_empty
    (nothing as the output), off_target_rate_reference (the rule applied to the references: the identifier's own error), off_target_coverage
    (judged over all). Means of bleu, chrf++ and off_target_rate [jackknife] over all directions (no language), out of the pivot (`language`
    the pivot) and into it (`other_language` the pivot); BLEU's tokenizers differ between targets, so its means are a footnote.

    Raises InputError when the pivot is missing or alone, MissingAssetError when a target's BLEU tokenizer is not installed (before any
    decoding).
    """
    started = time.perf_counter()
    if limit is not None:
        corpus = corpus.select(limit=limit)
    check(checkpoint, corpus, template=template, pivot=pivot)
    others = [code for code in corpus.languages if code != pivot]
    pairs = [(pivot, code) for code in others] + [(code, pivot) for code in others]
    signatures = {"chrf++": chrf_signature()} | {f"bleu {target}": bleu_signature(target) for target in [*others, pivot]}

    directions, caps = _translate(checkpoint, corpus, pairs, template, max_new_tokens, max_tokens_per_batch, progress)
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
            "language_identification": _identifier_signature(),
        },
        environment=encoding_environment(checkpoint)
        | {"start_token": start_token(checkpoint.tokenizer)[1], "end_tokens": _end_names(checkpoint)},
    )
    groups = _jackknife_groups(corpus.groups)
    left_out: dict[str, LeftOut] = {"bleu": {}, "chrf++": {}, "off_target_rate": {}}
    identified: dict[str, dict[str, int]] = {}
    for direction in directions:
        _score(checkpoint.name, corpus, direction, groups, signatures, result, left_out, identified)
    for metric, values in left_out.items():
        result.rows += _mean_rows(checkpoint.name, metric, values, pivot, np.bincount(groups[0]), result.items)
    result.extras = {"identified": identified, "tokens_allowed_per_source_token": caps}
    result.notes.append("An empty output scores 0 in BLEU and chrF++ and counts as off target.")
    result.notes.append("Means over directions mix BLEU tokenizers; read the rows of the directions.")
    result.seconds = time.perf_counter() - started
    return result


def check(checkpoint: Any, corpus: ParallelCorpus, *, template: str, pivot: str = "eng_Latn") -> None:
    """Raise InputError for what `run` could not measure, and MissingAssetError for a tokenizer of BLEU that is missing."""
    if pivot not in corpus.languages:
        raise InputError(f"translation needs the pivot language {pivot}; corpus {corpus.name} has {', '.join(corpus.languages)}")
    if len(corpus.languages) < 2:
        raise InputError(f"translation needs a language besides the pivot {pivot}")
    for code in corpus.languages:
        bleu_signature(code)


def greedy_decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    caps: Sequence[int],
    *,
    end_tokens: frozenset[int],
    breaks_line: Callable[[int], bool],
    max_tokens_per_batch: int = 16384,
    progress: Progress | None = None,
) -> list[tuple[list[int], str]]:
    """The most probable token after each prompt, again and again: per prompt the new tokens (without the end token) and what ended them.

    prompts: token ids; caps: most new tokens of each. Batches hold sequences of similar length, and neighbours change nothing: how the
    model is run, with padding and a cache where it can be, is found out first (see `decoding_cache`). Rows that have ended leave the batch.
    """
    import torch

    written: list[list[int]] = [[] for _ in prompts]
    ended = ["length"] * len(prompts)
    done = 0
    with torch.inference_mode():
        work = np.array([index for index in range(len(prompts)) if caps[index] > 0], dtype=np.int64)
        way = decoding_cache.find_way(model) if len(work) else decoding_cache.WITHOUT_CACHE
        starts = np.array([len(prompts[index]) for index in work], dtype=np.int64)
        lengths = np.array([len(prompts[index]) + caps[index] for index in work], dtype=np.int64)
        for batch in decoding_cache.plan(way, starts, lengths, max_tokens_per_batch):
            rows = work[batch]
            texts = decoding_cache.Batch(model, way, [prompts[index] for index in rows])
            alive = np.ones(len(rows), dtype=bool)
            while True:
                chosen = texts.next_logits().argmax(dim=-1)
                for row, token in enumerate(chosen.tolist()):
                    if not alive[row]:
                        continue
                    index = rows[row]
                    if token in end_tokens:
                        ended[index] = "eos"
                        alive[row] = False
                        continue
                    written[index].append(token)
                    if breaks_line(token):
                        ended[index] = "line"
                        alive[row] = False
                    elif len(written[index]) >= caps[index]:
                        alive[row] = False
                if not alive.any():
                    break
                texts.append(chosen)
                if way.drops_rows and alive.sum() <= 0.75 * len(alive):  # dropping rows copies the cache, so not for every single one
                    texts.keep(np.flatnonzero(alive))
                    rows, alive = rows[alive], alive[alive]
            done += len(batch)
            if progress is not None:
                progress(done, len(prompts), "translating")
    return [(tokens, end) for tokens, end in zip(written, ended, strict=True)]


def shuffled(texts: Sequence[str]) -> list[str]:
    """`texts` moved on by half their number, so that no line keeps its own (unless there is only one)."""
    step = max(1, len(texts) // 2)
    return [texts[(index + step) % len(texts)] for index in range(len(texts))]


def _translate(
    checkpoint: Any,
    corpus: ParallelCorpus,
    pairs: list[tuple[str, str]],
    template: str,
    max_new_tokens: int,
    max_tokens_per_batch: int,
    progress: Progress | None,
) -> tuple[list[_Direction], dict[str, float]]:
    """All directions decoded together, so that batches are full and of even length."""
    tokenizer, model = checkpoint.tokenizer, checkpoint.model
    token_counts = {
        code: np.array([len(ids) for ids in tokenizer(list(lines), add_special_tokens=False)["input_ids"]])
        for code, lines in corpus.sentences.items()
    }
    start, role = start_token(tokenizer)
    prefix = [start] if start is not None and role == "bos" else []
    limit = context_length(model)
    prompts: list[list[int]] = []
    caps: list[int] = []
    allowed: dict[str, float] = {}
    for source, target in pairs:
        expansion = token_counts[target].sum() / max(1, token_counts[source].sum())
        allowed[f"{source}-{target}"] = round(LENGTH_FACTOR * float(expansion), 3)
        texts = [translation_prompt(template, source, target, line) for line in corpus.sentences[source]]
        for ids, count in zip(tokenizer(texts, add_special_tokens=False)["input_ids"], token_counts[source], strict=True):
            cap = min(max_new_tokens, LENGTH_ALLOWANCE + math.ceil(LENGTH_FACTOR * expansion * count))
            prompts.append([*prefix, *ids])
            # A prompt that leaves no room in the model's context is not translated: its output is empty, and counted as such.
            caps.append(cap if limit is None else max(0, min(cap, limit - len(prompts[-1]))))

    line_breaks: dict[int, bool] = {}

    def breaks_line(token: int) -> bool:
        if token not in line_breaks:
            line_breaks[token] = _has_line_break(tokenizer.decode([token]))
        return line_breaks[token]

    decoded = greedy_decode(
        model,
        prompts,
        caps,
        end_tokens=end_tokens(checkpoint),
        breaks_line=breaks_line,
        max_tokens_per_batch=max_tokens_per_batch,
        progress=progress,
    )
    lines = len(corpus)
    directions = []
    for number, (source, target) in enumerate(pairs):
        own = decoded[number * lines : (number + 1) * lines]
        outputs = [Output(_first_line(tokenizer.decode(tokens, skip_special_tokens=True)), end) for tokens, end in own]
        directions.append(_Direction(source, target, corpus.sentences[source], corpus.sentences[target], outputs))
    return directions, allowed


def end_tokens(checkpoint: Any) -> frozenset[int]:
    """Tokens that end an output: the tokenizer's EOS and those of the checkpoint's generation config (chat models have several)."""
    ends = {checkpoint.tokenizer.eos_token_id}
    configured = getattr(getattr(checkpoint.model, "generation_config", None), "eos_token_id", None)
    ends |= set(configured) if isinstance(configured, list | tuple) else {configured}
    return frozenset(int(token) for token in ends if token is not None)


def _end_names(checkpoint: Any) -> list[str]:
    return [str(checkpoint.tokenizer.convert_ids_to_tokens(token)) for token in sorted(end_tokens(checkpoint))]


def _has_line_break(text: str) -> bool:
    return "\n" in text or "\r" in text


def _first_line(text: str) -> str:
    return text.replace("\r", "\n").partition("\n")[0].strip()


def _identifier_signature() -> str:
    from importlib.metadata import version

    from alignx_eval.measures.off_target import MINIMUM_LETTERS, WIDE_LETTERS

    return f"py3langid {version('py3langid')}|labels:languages.py|letters:{MINIMUM_LETTERS}|wide:{WIDE_LETTERS}"


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
) -> None:
    """Rows, items and samples of one direction, added to `result`; leave-one-out values for the means, added to `left_out`."""
    source_language, target_language = direction.source_language, direction.target_language
    pair = (source_language, target_language)
    sources, references = [prepare(text) for text in direction.sources], [prepare(text) for text in direction.references]
    outputs = [prepare(output.text) for output in direction.outputs]
    common: dict[str, Any] = {
        "suite": SUITE, "checkpoint": name, "language": source_language, "other_language": target_language, "n": len(corpus)
    }  # fmt: skip

    sentence_chrf = np.zeros(len(outputs))
    scores: tuple[tuple[str, Kind, str, Callable[..., Any], Callable[..., np.ndarray]], ...] = (
        ("bleu", "bleu", signatures[f"bleu {target_language}"], bleu_from_statistics, partial(bleu_statistics, language=target_language)),
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
        row = Row(metric=metric, null=float(statistic(extract(outputs, shuffled(references)).sum(axis=0))), **fields, **common)
        result.items[row.key] = Items(kind, statistics)
        result.rows.append(row)
        for floor, texts in (("copy", sources), ("empty", [""] * len(references))):
            value = float(statistic(extract(texts, references).sum(axis=0)))
            result.rows.append(Row(metric=f"{metric}_floor_{floor}", value=value, method=signature, higher_is_better=None, **common))

    judgements, labels = _off_target_rows(direction, sources, references, outputs, common, groups, result, left_out["off_target_rate"])
    if labels:
        identified[f"{source_language}-{target_language}"] = labels
    for metric, flags in (
        ("over_length_rate", [output.stopped_by == "length" for output in direction.outputs]),
        ("empty_rate", [not text for text in outputs]),
    ):
        values = np.array(flags, dtype=np.float64)
        row = Row(metric=metric, higher_is_better=False, **interval_fields(clustered_mean(values, corpus.groups)), **common)
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


def _off_target_rows(
    direction: _Direction,
    sources: list[str],
    references: list[str],
    outputs: list[str],
    common: dict[str, Any],
    groups: tuple[np.ndarray, int],
    result: SuiteResult,
    left_out: LeftOut,
) -> tuple[list[str | None], dict[str, int]]:
    """The off-target rows of one direction; returns each output's judgement and how often each label was found."""
    accepted, reason = accepted_labels(direction.source_language, direction.target_language)
    names = ("off_target_rate", "off_target_rate_reference", "off_target_coverage")
    if reason is not None:
        for name in names:
            result.rows.append(Row(metric=name, higher_is_better=False if name == names[0] else None, reason=reason, **UNDEFINED, **common))
        return [None] * len(outputs), {}
    judged = [judge(output, source, accepted) for output, source in zip(outputs, sources, strict=True)]
    items = np.array(off_target_items([judgement for judgement, _ in judged]), dtype=np.int64)
    left_out[direction.source_language, direction.target_language] = None
    of_references = np.array(
        off_target_items([judge(text, source, accepted)[0] for text, source in zip(references, sources, strict=True)]), dtype=np.int64
    )
    for name, values in zip(names, (items, of_references, None), strict=True):
        if values is None:
            coverage = interval_fields(clustered_mean(items[:, 1].astype(float), result.default_clusters))
            result.rows.append(Row(metric=name, higher_is_better=None, **coverage, **common))
        elif values[:, 1].sum() == 0:
            why = "no output has enough letters to judge" if name == names[0] else "no reference has enough letters to judge"
            result.rows.append(Row(metric=name, higher_is_better=False if name == names[0] else None, reason=why, **UNDEFINED, **common))
        else:
            fields = interval_fields(clustered_ratio(values, result.default_clusters))
            row = Row(metric=name, higher_is_better=False if name == names[0] else None, **fields, **common)
            result.rows.append(row)
            if name == names[0]:
                result.items[row.key] = Items("ratio", values)
                sums = cluster_sums(values, *groups)
                rest = sums.sum(axis=0) - sums
                if (rest[:, 1] > 0).all():
                    left_out[direction.source_language, direction.target_language] = (
                        float(sums[:, 0].sum() / sums[:, 1].sum()),
                        rest[:, 0] / rest[:, 1],
                    )
    return [judgement for judgement, _ in judged], dict(Counter(label for _, label in judged if label is not None).most_common())


def _mean_rows(name: str, metric: str, values: LeftOut, pivot: str, sizes: np.ndarray, items: dict[str, Items]) -> list[Row]:
    """Means over all directions, out of the pivot and into it. A line is left out of all directions at once, as they share their lines."""
    rows = []
    for language, other_language in ((None, None), (pivot, None), (None, pivot)):
        chosen = [value for (source, target), value in values.items() if language in (None, source) and other_language in (None, target)]
        common: dict[str, Any] = {
            "suite": SUITE, "metric": metric, "checkpoint": name, "language": language, "other_language": other_language,
            "n": int(sizes.sum()), "higher_is_better": metric != "off_target_rate",
        }  # fmt: skip
        defined = [each for each in chosen if each is not None]
        if not defined or len(defined) < len(chosen):  # a mean over fewer directions would be another number under the same name
            reason = "undefined in at least one direction" if defined else "undefined in every direction"
            rows.append(Row(reason=reason, **UNDEFINED, **common))
            continue
        point = float(np.mean([each for each, _ in defined]))
        left_out = np.mean([each for _, each in defined], axis=0)
        fields = interval_fields(jackknife(point, left_out, sizes=sizes, n=int(sizes.sum())))
        fields["method"] = f"mean of {len(defined)} directions; {fields['method']}"
        row = Row(**fields, **common)
        items[row.key] = Items("jackknife", left_out, point=point)
        rows.append(row)
    return rows
