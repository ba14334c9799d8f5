"""What a model charges for a text: bits of each sentence, in rolling windows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine.base import Progress
from alignx_eval.engine.batches import check_token_ids, padded, plan_batches, start_token
from alignx_eval.measures.bits_per_byte import bytes_not_in, token_bits, unknown_bytes, utf8_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Elements of the logits that exist at one time (float32: 64 MB); a vocabulary of 262,144 then takes 64 positions at a
# time.
LOGITS_AT_ONCE = 2**24
# Tokens that the model sees at a time. All bundled text and nearly all sentences fit, so this decides only how long
# texts are read.
WINDOW = 512


@dataclass(frozen=True, slots=True)
class SentenceCosts:
    """What each sentence costs the model. All arrays are [sentences]."""

    bits: np.ndarray  # float64; -log2 p of all its tokens
    bytes: np.ndarray  # int64; its UTF-8 bytes
    unknown_bytes: np.ndarray  # int64; of these, the ones that the unknown token or no token at all stands for
    tokens: np.ndarray  # int64; without special tokens

    def unknown_share(self) -> float:
        """Share of the bytes that are unknown to the tokenizer; above `MOST_UNKNOWN`, bits per byte must decide
        nothing."""
        return float(self.unknown_bytes.sum() / max(1, self.bytes.sum()))


def rolling_windows(tokens: int, window: int) -> list[tuple[int, int, int]]:
    """The windows over a line of `tokens` tokens, each as (first token seen, first token scored, end of both).

    A line of up to `window` tokens is one window. Of a longer one, the first window scores the first `window` tokens;
    every later window sees the window // 2 tokens before as context and scores the next window - window // 2 of them.
    So every token is scored once, and all but the first `window` are given at least window // 2 tokens of their line.
    The rule knows nothing of the model.
    """
    context = window // 2
    found = [(0, 0, min(tokens, window))] if tokens else []
    for scored in range(window, tokens, window - context):
        found.append((scored - context, scored, min(tokens, scored + window - context)))
    return found


def corpus_costs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: ParallelCorpus, **options: Any
) -> dict[str, SentenceCosts]:
    """The costs of the lines of each language; `options` as `sentence_costs`."""
    costs = sentence_costs(
        model, tokenizer, [line for code in corpus.languages for line in corpus.sentences[code]], **options
    )
    columns = [
        np.split(column, len(corpus.languages))
        for column in (costs.bits, costs.bytes, costs.unknown_bytes, costs.tokens)
    ]
    return {code: SentenceCosts(*own) for code, *own in zip(corpus.languages, *columns, strict=True)}


def sentence_costs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    *,
    window: int = WINDOW,
    max_tokens_per_batch: int = 8192,
    progress: Progress | None = None,
) -> SentenceCosts:
    """Bits, bytes and tokens of each sentence; batches by token budget over windows sorted by length, padded on the
    right.

    Raises InputError for tokens that the model does not have. A model with fewer positions than `window` must not see a
    longer line: see `check`.
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
            ids, mask = padded([each.inputs for each in rows])
            scored = torch.zeros_like(mask, dtype=torch.bool)
            for row, each in enumerate(rows):
                scored[row, len(each.inputs) - len(each.targets) : len(each.inputs)] = True
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
    """All windows of all sentences that have something to predict. Each begins with `start`; its last token does not go
    in."""
    before = [] if start is None else [start]
    return [
        _Window(sentence, [*before, *ids[seen : end - 1]], targets)
        for sentence, ids in enumerate(tokens)
        for seen, scored, end in rolling_windows(len(ids), window)
        if (targets := ids[scored if before else max(1, scored) : end])
    ]


def _tokenise(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
    """Tokens of each sentence without special ones, and how many of its UTF-8 bytes the tokenizer does not know: int64
    [sentences]."""
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
            found[index] = bytes_not_in(text, str(known))
    return tokens, found


def _unknown_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the unknown token: the tokenizer's, and the one that the model of a fast tokenizer writes, which need not
    be declared."""
    found = {tokenizer.unk_token_id}
    if tokenizer.is_fast:
        from tokenizers.models import Unigram

        model = tokenizer.backend_tokenizer.model
        if isinstance(model, Unigram):
            found.add(json.loads(model.__getstate__())["unk_id"])  # which it does not show otherwise
        else:
            found.add(tokenizer.backend_tokenizer.token_to_id(getattr(model, "unk_token", None) or ""))
    return found - {None}


def _logits_function(model: PreTrainedModel) -> Callable[[Any, Any, Any], Any]:
    """A generator of (slice of the scored positions, their logits) for (ids, mask, scored), which never holds all
    logits at once if it can.

    The head is applied to the decoder's states in pieces. Some families scale or cap their logits after the head, each
    in a way of its own; the known ones are applied, and the whole is compared with the model's own logits on a few
    tokens first. Where they differ, the model's own forward is used, at the price of its memory.
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
