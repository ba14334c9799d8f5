"""Language modelling: bits per byte of each language, and what its tokenizer does to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.decoding_cache import check_padding
from alignx_eval.encode import (
    check_token_ids,
    context_length,
    encoding_environment,
    plan_batches,
    start_name,
    start_token,
)
from alignx_eval.errors import InputError
from alignx_eval.languages import LANGUAGES
from alignx_eval.measures.bits_per_byte import bytes_not_in, token_bits, unknown_bytes, utf8_bytes
from alignx_eval.results import Items, Row, SuiteResult
from alignx_eval.statistics.clustered import clustered_mean, clustered_ratio, ratio_influence
from alignx_eval.suites.shared import UNDEFINED, corpus_fingerprint, interval_fields

SUITE = "language_modelling"
# Elements of the logits that exist at one time (float32: 64 MB); a vocabulary of 262,144 then takes 64 positions at a time.
LOGITS_AT_ONCE = 2**24
# Tokens that the model sees at a time. All bundled text and nearly all sentences fit, so this decides only how long texts are read.
WINDOW = 512
# Share of a language's bytes that the tokenizer may not know. They are paid for by few tokens or none, so bits per byte is too low by about
# this share of itself: 0.001 to 0.004 at 1 to 4 bits per byte, a fraction of the 0.02 that the default policy tolerates.
MOST_UNKNOWN = 0.001
NO_TEXT = "the lines hold no text"
SCRIPTS_WITHOUT_SPACES = frozenset({"Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class SentenceCosts:
    """What each sentence costs the model. All arrays are [sentences]."""

    bits: np.ndarray  # float64; -log2 p of all its tokens
    bytes: np.ndarray  # int64; its UTF-8 bytes
    unknown_bytes: np.ndarray  # int64; of these, the ones that the unknown token or no token at all stands for
    tokens: np.ndarray  # int64; without special tokens

    def unknown_share(self) -> float:
        """Share of the bytes that are unknown to the tokenizer; above `MOST_UNKNOWN`, bits per byte must decide nothing."""
        return float(self.unknown_bytes.sum() / max(1, self.bytes.sum()))


def run(
    checkpoint: Any,
    corpus: ParallelCorpus,
    *,
    window: int = WINDOW,
    max_tokens_per_batch: int = 8192,
    progress: Progress | None = None,
) -> SuiteResult:
    """Bits per byte of every language of `corpus`, with what its tokenizer makes of it.

    Every line stands alone: -log2 p of all its tokens, over all its UTF-8 bytes, in the windows of `rolling_windows`. Each window begins
    with the BOS token. Where the tokenizer has none, the EOS token stands in its place (it ends the document before); where it has neither,
    nothing does, and the first token of a line costs log2(vocabulary). The end of the sentence is not scored.

    Rows, per language (kind of items in brackets):
      bits_per_byte         sum of bits / sum of bytes over the lines [ratio]; lower is better. Not judged where more than `MOST_UNKNOWN` of
                            the bytes are unknown, as it is then a lower bound; undefined where the lines have no token
      tokens_per_character  tokens / characters (Unicode code points, spaces included), without special tokens; a fact about the tokenizer
      tokens_per_word       tokens / words between spaces; undefined in scripts that write without spaces
      unknown_rate          share of the bytes that the unknown token, or no token, stands for
    and over all languages:
      bits_per_byte         mean of the languages' values, all languages alike [mean of linearised values: see `_mean_of_ratios`]; judged
                            only where all of them are
    Intervals treat a cluster of lines as one observation. Raises InputError as `check`, and for tokens that the model does not have.
    """
    started = time.perf_counter()
    check(checkpoint, corpus, window=window)
    role = start_token(checkpoint.tokenizer)[1]
    costs = corpus_costs(
        checkpoint.model,
        checkpoint.tokenizer,
        corpus,
        window=window,
        max_tokens_per_batch=max_tokens_per_batch,
        progress=progress,
    )
    result = SuiteResult(
        suite=SUITE,
        rows=[],
        default_clusters=corpus.groups,
        item_ids=corpus.ids,
        fingerprint=corpus_fingerprint(corpus)
        | {"unit": "bits per UTF-8 byte", "context": "each line alone", "window": window},
        environment=encoding_environment(checkpoint)
        | {"start_token": start_name(checkpoint.tokenizer), "vocabulary": len(checkpoint.tokenizer)},
    )
    if role != "bos":
        first = (
            "is conditioned on EOS"
            if role == "eos"
            else "is charged log2 of the vocabulary, as there is no EOS token either"
        )
        result.notes.append(f"The tokenizer of {checkpoint.name} has no BOS token: the first token of a line {first}.")
    for code in corpus.languages:
        result.rows += _language_rows(checkpoint.name, code, corpus, costs[code], result.items)
    result.rows.append(_summary_row(checkpoint.name, corpus, costs, result.items))
    if named := unknown_languages({code: own for code, own in costs.items() if not _nothing_to_score(own)}):
        result.warnings.append(
            "the tokenizer does not know all of the text, and an unknown token costs once whatever it stands for: bits per byte is a lower "
            f"bound, and not judged, in {', '.join(named.values())}."
        )
    result.seconds = time.perf_counter() - started
    return result


def check(checkpoint: Any, corpus: ParallelCorpus, *, window: int = WINDOW) -> None:
    """Raise InputError for what `run` could not measure, without measuring: lines that need more positions than the model has, and a model
    that padding on the right disturbs."""
    check_padding(checkpoint.model)
    if window < 2:
        raise InputError(f"a window of {window} tokens has no context; at least 2 are needed")
    limit = context_length(checkpoint.model)
    if limit is None or limit >= window:
        return
    tokenizer = checkpoint.tokenizer
    unseen = int(
        start_token(tokenizer)[0] is None
    )  # the last token of a window is not put in; the start token takes its place, if any
    too_long = {}
    for code in corpus.languages:
        encoded = tokenizer(list(corpus.sentences[code]), add_special_tokens=False, verbose=False)["input_ids"]
        too_long[code] = sum(min(len(ids), window) - unseen > limit for ids in encoded)
    named = ", ".join(
        f"{code} ({count} {'line' if count == 1 else 'lines'})" for code, count in too_long.items() if count
    )
    if named:
        raise InputError(
            f"{checkpoint.name} has a context of {limit} tokens, and bits per byte in windows of {window} needs more in {named}: "
            f"leave these languages out with --languages, or measure every checkpoint with --window {limit} or less"
        )


def rolling_windows(tokens: int, window: int) -> list[tuple[int, int, int]]:
    """The windows over a line of `tokens` tokens, each as (first token seen, first token scored, end of both).

    A line of up to `window` tokens is one window. Of a longer one, the first window scores the first `window` tokens; every later window
    sees the window // 2 tokens before as context and scores the next window - window // 2 of them. So every token is scored once, and all
    but the first `window` are given at least window // 2 tokens of their line. The rule knows nothing of the model.
    """
    context = window // 2
    found = [(0, 0, min(tokens, window))] if tokens else []
    for scored in range(window, tokens, window - context):
        found.append((scored - context, scored, min(tokens, scored + window - context)))
    return found


def corpus_costs(model: Any, tokenizer: Any, corpus: ParallelCorpus, **options: Any) -> dict[str, SentenceCosts]:
    """The costs of the lines of each language; `options` as `sentence_costs`."""
    costs = sentence_costs(
        model, tokenizer, [line for code in corpus.languages for line in corpus.sentences[code]], **options
    )
    columns = [
        np.split(column, len(corpus.languages))
        for column in (costs.bits, costs.bytes, costs.unknown_bytes, costs.tokens)
    ]
    return {code: SentenceCosts(*own) for code, *own in zip(corpus.languages, *columns, strict=True)}


def unknown_languages(costs: Mapping[str, SentenceCosts]) -> dict[str, str]:
    """Those whose text the tokenizer does not know, so that their bits per byte must decide nothing, each with its share of unknown bytes
    in words."""
    shares = {code: own.unknown_share() for code, own in costs.items()}
    return {code: f"{code} ({_percent(share)} of the bytes)" for code, share in shares.items() if share > MOST_UNKNOWN}


def sentence_costs(
    model: Any,
    tokenizer: Any,
    sentences: Sequence[str],
    *,
    window: int = WINDOW,
    max_tokens_per_batch: int = 8192,
    progress: Progress | None = None,
) -> SentenceCosts:
    """Bits, bytes and tokens of each sentence; batches by token budget over windows sorted by length, padded on the right.

    Raises InputError for tokens that the model does not have. A model with fewer positions than `window` must not see a longer line: see
    `check`.
    """
    import torch

    start, _ = start_token(tokenizer)
    tokens, unknown = _tokenise(tokenizer, sentences)
    check_token_ids(tokens, model)
    counts = np.array([len(ids) for ids in tokens], dtype=np.int64)
    sizes = np.array([utf8_bytes(text) for text in sentences], dtype=np.int64)
    bits = np.zeros(len(tokens), dtype=np.float64)
    if start is None:
        vocabulary = model.get_output_embeddings().weight.shape[0]
        bits += np.log2(vocabulary) * (counts > 0)
    windows = _windows(tokens, start, window)
    head = None
    done = 0
    with torch.inference_mode():
        for batch in plan_batches(np.array([len(each.inputs) for each in windows]), max_tokens_per_batch):
            rows = [windows[number] for number in batch]
            width = len(rows[0].inputs)
            ids = torch.zeros(len(rows), width, dtype=torch.long)
            mask = torch.zeros(len(rows), width, dtype=torch.long)
            scored = torch.zeros(len(rows), width, dtype=torch.bool)
            for row, each in enumerate(rows):
                length = len(each.inputs)
                ids[row, :length] = torch.tensor(each.inputs)
                mask[row, :length] = 1
                scored[row, length - len(each.targets) : length] = True
            ids, mask, scored = ids.to(model.device), mask.to(model.device), scored.to(model.device)
            if head is None:
                head = _logits_function(model)
            owner = scored.nonzero()[:, 0]
            wanted = torch.tensor([token for each in rows for token in each.targets], device=model.device)
            per_row = torch.zeros(len(rows), dtype=torch.float64)
            for positions, logits in head(ids, mask, scored):
                cost = token_bits(logits, wanted[positions].to(logits.device))
                per_row.index_add_(0, owner[positions].cpu(), cost.double().cpu())
            np.add.at(bits, [each.sentence for each in rows], per_row.numpy())
            done += len(rows)
            if progress is not None:
                progress(done, len(windows), "bits per byte")
    return SentenceCosts(bits=bits, bytes=sizes, unknown_bytes=unknown, tokens=counts)


class _Window(NamedTuple):
    """One window: the tokens that go in, and the ones that its last positions predict."""

    sentence: int
    inputs: list[int]
    targets: list[int]


def _windows(tokens: Sequence[list[int]], start: int | None, window: int) -> list[_Window]:
    """All windows of all sentences that have something to predict. Each begins with `start`; its last token does not go in."""
    before = [] if start is None else [start]
    return [
        _Window(sentence, [*before, *ids[seen : end - 1]], targets)
        for sentence, ids in enumerate(tokens)
        for seen, scored, end in rolling_windows(len(ids), window)
        if (targets := ids[scored if before else max(1, scored) : end])
    ]


def _tokenise(tokenizer: Any, sentences: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
    """Tokens of each sentence without special ones, and how many of its UTF-8 bytes the tokenizer does not know: int64 [sentences]."""
    if not sentences:
        return [], np.zeros(0, dtype=np.int64)
    encoded = tokenizer(
        list(sentences), add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False
    )
    tokens = [list(ids) for ids in encoded["input_ids"]]
    unknown_ids = _unknown_ids(tokenizer)
    found = np.zeros(len(tokens), dtype=np.int64)
    for index, (text, ids) in enumerate(zip(sentences, tokens, strict=True)):
        unknown = [token in unknown_ids for token in ids]
        if not ids:
            found[index] = utf8_bytes(text)
        elif tokenizer.is_fast:
            found[index] = unknown_bytes(text, encoded["offset_mapping"][index], unknown)
        elif any(unknown):
            known = tokenizer.decode([token for token, lost in zip(ids, unknown, strict=True) if not lost])
            found[index] = bytes_not_in(text, known)
    return tokens, found


def _unknown_ids(tokenizer: Any) -> set[int]:
    """Ids of the unknown token: the tokenizer's, and the one that the model of a fast tokenizer writes, which need not be declared."""
    found = {tokenizer.unk_token_id}
    if tokenizer.is_fast:
        from tokenizers.models import Unigram

        model = tokenizer.backend_tokenizer.model
        if isinstance(model, Unigram):
            found.add(json.loads(model.__getstate__())["unk_id"])  # which it does not show otherwise
        else:
            found.add(tokenizer.backend_tokenizer.token_to_id(getattr(model, "unk_token", None) or ""))
    return found - {None}


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
        same = pieces.shape == own.shape and torch.allclose(
            pieces.to(own.device).float(), own.float(), rtol=1e-3, atol=1e-3
        )
    except (AttributeError, TypeError, RuntimeError):
        same = False
    return in_pieces if same else whole


def _language_rows(
    name: str, code: str, corpus: ParallelCorpus, costs: SentenceCosts, items: dict[str, Items]
) -> list[Row]:
    """The rows of one language from the costs of its lines."""
    lines = corpus.sentences[code]
    common: dict[str, Any] = {"suite": SUITE, "checkpoint": name, "language": code, "n": len(lines)}
    ratio = np.column_stack([costs.bits, costs.bytes])
    nothing = _nothing_to_score(costs)
    if reason := nothing or _not_finite(costs):
        rows = [Row(metric="bits_per_byte", higher_is_better=False, reason=reason, **UNDEFINED, **common)]
    else:
        fields = interval_fields(clustered_ratio(ratio, corpus.groups))
        share = costs.unknown_share()
        bound = (
            f"a lower bound, as the tokenizer does not know {_percent(share)} of the bytes"
            if share > MOST_UNKNOWN
            else None
        )
        rows = [Row(metric="bits_per_byte", higher_is_better=False, unjudged=bound, **fields, **common)]
        items[rows[0].key] = Items("ratio", ratio)
    without_spaces = LANGUAGES[code].script in SCRIPTS_WITHOUT_SPACES
    for metric, numerator, denominator, missing in (
        ("tokens_per_character", costs.tokens, [len(line) for line in lines], nothing),
        (
            "tokens_per_word",
            costs.tokens,
            [len(line.split()) for line in lines],
            f"{LANGUAGES[code].name} is written without spaces" if without_spaces else nothing,
        ),
        ("unknown_rate", costs.unknown_bytes, costs.bytes, None),
    ):
        if missing is None and sum(denominator) == 0:
            missing = NO_TEXT
        values = (
            UNDEFINED
            if missing
            else interval_fields(clustered_ratio(np.column_stack([numerator, denominator]), corpus.groups))
        )
        rows.append(Row(metric=metric, higher_is_better=None, reason=missing, **values, **common))
    return rows


def _nothing_to_score(costs: SentenceCosts) -> str | None:
    """Why the lines of a language have no bits per byte, whatever the model."""
    if costs.bytes.sum() == 0:
        return NO_TEXT
    return "the tokenizer gives no token for these lines" if costs.tokens.sum() == 0 else None


def _not_finite(costs: SentenceCosts) -> str | None:
    return None if np.isfinite(costs.bits).all() else "the model's probabilities are not finite"


def _summary_row(name: str, corpus: ParallelCorpus, costs: dict[str, SentenceCosts], items: dict[str, Items]) -> Row:
    """Mean over the languages of their bits per byte."""
    common: dict[str, Any] = {
        "suite": SUITE,
        "metric": "bits_per_byte",
        "checkpoint": name,
        "n": len(corpus),
        "higher_is_better": False,
    }
    if undefined := [code for code, own in costs.items() if _nothing_to_score(own) or _not_finite(own)]:
        return Row(reason=f"undefined for {', '.join(undefined)}", **UNDEFINED, **common)
    values = _mean_of_ratios([np.column_stack([own.bits, own.bytes]) for own in costs.values()])
    fields = interval_fields(clustered_mean(values, corpus.groups))
    fields["method"] = f"mean of {len(costs)} languages' ratios, linearised; {fields['method']}"
    unknown = unknown_languages(costs)
    unjudged = f"a lower bound, as the tokenizer does not know the text of {', '.join(unknown)}" if unknown else None
    row = Row(unjudged=unjudged, **fields, **common)
    items[row.key] = Items("mean", values)
    return row


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


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
