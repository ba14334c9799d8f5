"""Language modelling: bits per byte of each language, and what its tokenizer does to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.decoding_cache import check_padding
from alignx_eval.encode import context_length, encoding_environment, plan_batches
from alignx_eval.languages import LANGUAGES
from alignx_eval.measures.bits_per_byte import token_bits, utf8_bytes
from alignx_eval.results import Items, Row, SuiteResult
from alignx_eval.statistics.clustered import clustered_mean, clustered_ratio, ratio_influence
from alignx_eval.suites.shared import UNDEFINED, corpus_fingerprint, interval_fields, start_token

SUITE = "language_modelling"
# Elements of the logits that exist at one time (float32: 64 MB); a vocabulary of 262,144 then takes 64 positions at a time.
LOGITS_AT_ONCE = 2**24
SCRIPTS_WITHOUT_SPACES = frozenset({"Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class SentenceCosts:
    """What each sentence costs the model. All arrays are [sentences]."""

    bits: np.ndarray  # float64; -log2 p of the scored tokens
    scored_bytes: np.ndarray  # int64; UTF-8 bytes of the text those tokens stand for: all of it unless truncated
    tokens: np.ndarray  # int64; of the whole sentence, without special tokens
    truncated: np.ndarray  # bool


def run(checkpoint: Any, corpus: ParallelCorpus, *, max_tokens_per_batch: int = 8192, progress: Progress | None = None) -> SuiteResult:
    """Bits per byte of every language of `corpus`, with fertility and truncation.

    Every line stands alone: -log2 p of all its tokens given the BOS token and the tokens before, over its UTF-8 bytes. Where the tokenizer
    has no BOS token, the EOS token stands in its place (it ends the document before); where it has neither, the first token costs
    log2(vocabulary). The end of the sentence is not scored. A line longer than the model's positions is scored as far as it goes, over the
    bytes scored.

    Rows, per language (kind of items in brackets):
      bits_per_byte         sum of bits / sum of bytes over the lines [ratio]; lower is better
      tokens_per_character  tokens / characters (Unicode code points, spaces included), without special tokens; a fact about the tokenizer
      tokens_per_word       tokens / words between spaces; undefined in scripts that write without spaces
      truncated_rate        share of lines longer than the model's positions
    and over all languages:
      bits_per_byte         mean of the languages' values, all languages alike [mean of linearised values: see `_mean_of_ratios`]
    Intervals treat a cluster of lines as one observation.
    """
    started = time.perf_counter()
    check(checkpoint, corpus)
    languages = corpus.languages
    sentences = [line for code in languages for line in corpus.sentences[code]]
    role = start_token(checkpoint.tokenizer)[1]
    costs = sentence_costs(
        checkpoint.model,
        checkpoint.tokenizer,
        sentences,
        max_tokens_per_batch=max_tokens_per_batch,
        progress=progress,
    )
    result = SuiteResult(
        suite=SUITE,
        rows=[],
        default_clusters=corpus.groups,
        item_ids=corpus.ids,
        fingerprint=corpus_fingerprint(corpus) | {"unit": "bits per UTF-8 byte", "context": "each line alone"},
        environment=encoding_environment(checkpoint) | {"start_token": role, "vocabulary": len(checkpoint.tokenizer)},
    )
    if role != "bos":
        first = "is conditioned on EOS" if role == "eos" else "is charged log2 of the vocabulary, as there is no EOS token either"
        result.notes.append(f"The tokenizer of {checkpoint.name} has no BOS token: the first token of a line {first}.")
    ratios: list[np.ndarray] = []
    for number, code in enumerate(languages):
        lines = slice(number * len(corpus), (number + 1) * len(corpus))
        ratios.append(np.column_stack([costs.bits[lines], costs.scored_bytes[lines]]))
        result.rows += _language_rows(checkpoint.name, code, corpus, ratios[-1], costs.tokens[lines], costs.truncated[lines], result.items)
    summary = _summary_row(checkpoint.name, corpus, ratios, result.items)
    result.rows.append(summary)
    if costs.truncated.any():
        result.notes.append(
            f"{int(costs.truncated.sum())} of {len(sentences)} lines are longer than the {context_length(checkpoint.model)} positions of "
            f"{checkpoint.name} and scored only as far as they go."
        )
    result.seconds = time.perf_counter() - started
    return result


def check(checkpoint: Any, corpus: ParallelCorpus) -> None:
    """Raise InputError for what `run` could not measure, without measuring."""
    check_padding(checkpoint.model)


def sentence_costs(
    model: Any, tokenizer: Any, sentences: Sequence[str], *, max_tokens_per_batch: int = 8192, progress: Progress | None = None
) -> SentenceCosts:
    """Bits, bytes and tokens of each sentence; batches by token budget over sentences sorted by length, padded on the right."""
    import torch

    start, _ = start_token(tokenizer)
    limit = context_length(model)
    encoded: Any = {"input_ids": []}
    if sentences:
        encoded = tokenizer(list(sentences), add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast)
    tokens = [list(ids) for ids in encoded["input_ids"]]
    counts = np.array([len(ids) for ids in tokens], dtype=np.int64)
    sizes = np.array([utf8_bytes(text) for text in sentences], dtype=np.int64)
    truncated = np.zeros(len(tokens), dtype=bool)
    if limit is not None:
        truncated = counts > limit
        for index in np.flatnonzero(truncated).tolist():
            tokens[index] = tokens[index][:limit]
            if tokenizer.is_fast:
                kept = sentences[index][: encoded["offset_mapping"][index][limit - 1][1]]
            else:
                kept = tokenizer.decode(tokens[index])
            sizes[index] = utf8_bytes(kept)

    bits = np.zeros(len(tokens), dtype=np.float64)
    if start is None:
        vocabulary = model.get_output_embeddings().weight.shape[0]
        bits += np.log2(vocabulary) * (counts > 0)
    # What goes in is the start token and all tokens but the last; what is scored are the tokens themselves.
    inputs = [ids[:-1] if start is None else [start, *ids[:-1]] for ids in tokens]
    targets = [ids[1:] if start is None else ids for ids in tokens]
    work = [index for index in range(len(tokens)) if targets[index]]
    head = None
    done = 0
    with torch.inference_mode():
        for batch in plan_batches(np.array([len(inputs[index]) for index in work]), max_tokens_per_batch):
            rows = [work[position] for position in batch]
            width = len(inputs[rows[0]])
            ids = torch.zeros(len(rows), width, dtype=torch.long)
            mask = torch.zeros(len(rows), width, dtype=torch.long)
            for row, index in enumerate(rows):
                ids[row, : len(inputs[index])] = torch.tensor(inputs[index])
                mask[row, : len(inputs[index])] = 1
            ids, mask = ids.to(model.device), mask.to(model.device)
            if head is None:
                head = _logits_function(model)
            scored = mask.bool()
            owner = scored.nonzero()[:, 0]
            wanted = torch.tensor([token for index in rows for token in targets[index]], device=model.device)
            per_row = torch.zeros(len(rows), dtype=torch.float64)
            for positions, logits in head(ids, mask, scored):
                cost = token_bits(logits, wanted[positions].to(logits.device))
                per_row.index_add_(0, owner[positions].cpu(), cost.double().cpu())
            bits[rows] += per_row.numpy()
            done += len(rows)
            if progress is not None:
                progress(done, len(work), "bits per byte")
    return SentenceCosts(bits=bits, scored_bytes=sizes, tokens=counts, truncated=truncated)


def _logits_function(model: Any) -> Callable[[Any, Any, Any], Any]:
    """A generator of (slice of the scored positions, their logits) for (ids, mask, scored), which never holds all logits at once if it can.

    The head is applied to the decoder's states in pieces. Some families scale or cap their logits after the head, each in a way of its own;
    the known ones are applied, and the whole is compared with the model's own logits on a few tokens first. Where they differ, the model's
    own forward is used, at the price of its memory.
    """
    import torch

    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    embeddings = model.get_output_embeddings()

    def project(states: Any) -> Any:
        logits = embeddings(states.to(embeddings.weight.device)) * scale
        return torch.tanh(logits / cap) * cap if cap else logits

    def in_pieces(ids: Any, mask: Any, scored: Any) -> Any:
        states = model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[scored]
        piece = max(1, LOGITS_AT_ONCE // embeddings.weight.shape[0])
        for start in range(0, len(states), piece):
            yield slice(start, start + piece), project(states[start : start + piece])

    def whole(ids: Any, mask: Any, scored: Any) -> Any:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        start = 0
        for row, kept in zip(logits, scored, strict=True):
            yield slice(start, start + int(kept.sum())), row[kept]
            start += int(kept.sum())

    probe = torch.arange(1, 5, device=model.device)[None] % config.vocab_size
    ones = torch.ones_like(probe)
    try:
        pieces = torch.cat([logits for _, logits in in_pieces(probe, ones, ones.bool())])
        own = model(input_ids=probe, attention_mask=ones, use_cache=False).logits[0]
        same = pieces.shape == own.shape and torch.allclose(pieces.to(own.device).float(), own.float(), rtol=1e-3, atol=1e-3)
    except (AttributeError, TypeError, RuntimeError):
        same = False
    return in_pieces if same else whole


def _language_rows(
    name: str, code: str, corpus: ParallelCorpus, ratio: np.ndarray, tokens: np.ndarray, truncated: np.ndarray, items: dict[str, Items]
) -> list[Row]:
    """The rows of one language. ratio: [lines, 2] bits and bytes; tokens and truncated: [lines]."""
    lines = corpus.sentences[code]
    common: dict[str, Any] = {"suite": SUITE, "checkpoint": name, "language": code, "n": len(lines)}
    if not np.isfinite(ratio).all():
        cost = Row(metric="bits_per_byte", higher_is_better=False, reason="the model's probabilities are not finite", **UNDEFINED, **common)
    elif ratio[:, 1].sum() == 0:
        cost = Row(metric="bits_per_byte", higher_is_better=False, reason="the lines hold no text", **UNDEFINED, **common)
    else:
        cost = Row(metric="bits_per_byte", higher_is_better=False, **interval_fields(clustered_ratio(ratio, corpus.groups)), **common)
        items[cost.key] = Items("ratio", ratio)
    rows = [cost]
    for metric, sizes, missing in (
        ("tokens_per_character", [len(line) for line in lines], None),
        (
            "tokens_per_word",
            [len(line.split()) for line in lines],
            f"{LANGUAGES[code].name} is written without spaces" if LANGUAGES[code].script in SCRIPTS_WITHOUT_SPACES else None,
        ),
    ):
        if missing is None and sum(sizes) == 0:
            missing = "the lines hold no text"
        values = UNDEFINED if missing else interval_fields(clustered_ratio(np.column_stack([tokens, sizes]), corpus.groups))
        rows.append(Row(metric=metric, higher_is_better=None, reason=missing, **values, **common))
    share = interval_fields(clustered_mean(truncated.astype(float), corpus.groups))
    rows.append(Row(metric="truncated_rate", higher_is_better=None, **share, **common))
    return rows


def _summary_row(name: str, corpus: ParallelCorpus, ratios: list[np.ndarray], items: dict[str, Items]) -> Row:
    """Mean over the languages of their bits per byte."""
    common: dict[str, Any] = {"suite": SUITE, "metric": "bits_per_byte", "checkpoint": name, "n": len(corpus), "higher_is_better": False}
    if not all(np.isfinite(ratio).all() and ratio[:, 1].sum() > 0 for ratio in ratios):
        return Row(reason="undefined for at least one language", **UNDEFINED, **common)
    values = _mean_of_ratios(ratios)
    fields = interval_fields(clustered_mean(values, corpus.groups))
    fields["method"] = f"mean of {len(ratios)} languages' ratios, linearised; {fields['method']}"
    row = Row(**fields, **common)
    items[row.key] = Items("mean", values)
    return row


def _mean_of_ratios(ratios: list[np.ndarray]) -> np.ndarray:
    """Linearised values [lines] of the mean of several languages' ratios (each [lines, 2], the same parallel lines).

    The pooled ratio, all bits over all bytes, would weigh a language by the bytes its script takes. The mean over languages is no ratio of
    sums, but to first order it is a mean over lines: with r_l the ratio of language l and D_l its bytes, line i counts
    mean_l [r_l + n (bits_il - r_l bytes_il) / D_l]. Their mean is exactly the mean of the r_l, and their clustered standard error is that
    of Taylor linearisation (Cochran 1977, 6.3) with all languages of a line taken together. So they pair across checkpoints as any mean
    does.
    """
    values = np.zeros(len(ratios[0]))
    for ratio in ratios:
        point, influence = ratio_influence(ratio)
        values += point + len(ratio) * influence
    return values / len(ratios)
