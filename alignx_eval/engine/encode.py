"""Sentences -> one vector per layer. The only forward pass that probing needs.

Each sentence is encoded alone, never inside a prompt: in a translation prompt the target has attended to the source,
which makes the two look aligned in any model. Only the decoder runs (no language-model head, no key-value cache), over
batches of similar length under a token budget; every layer is pooled inside the forward pass, so no hidden state
outlives its layer.

A start token stands before every sentence and is never pooled (see `start_token`). Without it the first token of the
sentence would take its part: models put a state of huge norm at the first position (Xiao et al. 2024, "Efficient
Streaming Language Models with Attention Sinks"; Sun et al. 2024, "Massive Activations in Large Language Models"), and
the mean would be that state and little else.

Layers: "0" is what enters the first block (embeddings, with position embeddings and scaling where the family has them),
"k" the residual state after block k, and the last state comes twice, "L" before the final norm and "L+norm" after it.
(The last entry of transformers' `output_hidden_states` is the normed one; that is why it is not used here.)
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from alignx_eval import processes
from alignx_eval.engine import vector_cache
from alignx_eval.engine.batches import (
    TOKENS_PER_BATCH,
    TOKENS_PER_BATCH_ACCELERATOR,
    check_token_ids,
    content_token_mask,
    context_length,
    decoder_blocks,
    encoding_environment,
    padded,
    plan_batches,
    sentence_token_ids,
    special_token_ids,
    start_token,
    text_decoder,
)
from alignx_eval.errors import InputError
from alignx_eval.measures.bits_per_byte import utf8_bytes

if TYPE_CHECKING:
    from alignx_eval.checkpoint import Checkpoint
    from alignx_eval.corpora import ParallelCorpus

Pooling = Literal["mean", "last", "weighted"]
POOLINGS = ("mean", "last", "weighted")
Progress = Callable[[int, int, str], None]
ENCODING_VERSION = 2  # part of the cache key; raise it when the vectors change


@dataclass(slots=True)
class Encoding:
    """Sentence vectors of one list of sentences, in its order.

    vectors: float32 [layers, sentences, width]; layer_names: "0" ... "L", "L+norm"; token_counts: int [sentences], the
    content tokens (all but start token and other special tokens);
    largest_token_share: float32 [layers, sentences], in 0 to 1: max_t |h_t|^2 / sum_t |h_t|^2 over the states h_t of
    the sentence's content tokens t, whatever the pooling; 0 where all states are 0. Near 1 the mean over the tokens is
    the state of one of them.
    """

    vectors: np.ndarray
    layer_names: tuple[str, ...]
    token_counts: np.ndarray
    largest_token_share: np.ndarray


def pooling_weights(mask: np.ndarray, pooling: Pooling) -> np.ndarray:
    """float32 weights [batch, tokens] that sum to 1 in each row, for a bool mask [batch, tokens] of the tokens to pool.

    "mean": equal. "last": all on the last kept token. "weighted": proportional to the position 1, 2, ... among the kept
    tokens, as in MEXA (Kargaran et al. 2025, after SGPT) except that special tokens do not take part.
    """
    position = mask.cumsum(axis=1) * mask
    if pooling == "mean":
        weights = mask.astype(np.float64)
    elif pooling == "weighted":
        weights = position.astype(np.float64)
    else:
        weights = (mask & (position == position.max(axis=1, keepdims=True))).astype(np.float64)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def encode(
    checkpoint: Checkpoint,
    sentences: Sequence[str],
    *,
    pooling: Pooling = "mean",
    max_tokens_per_batch: int | None = None,
    ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Encoding:
    """Encode each sentence alone with `checkpoint.model` and `checkpoint.tokenizer`; see `Encoding` and the module
    text.

    Pooling leaves the start token out by its position, and other special tokens that the text may hold by their id.
    Sentences are encoded whole. `ids` name the sentences in messages. Under `accelerate launch` whole batches of one
    global plan are dealt out to the processes and every process gets the whole result.
    Raises InputError for a sentence without any ordinary token, for one that is longer than the model's context (start
    token included), for non-finite states, and for an unknown pooling.
    """
    import torch

    if pooling not in POOLINGS:
        raise InputError(f"unknown pooling {pooling!r}; known: {', '.join(POOLINGS)}")
    if not len(sentences):
        raise InputError("there are no sentences to encode")
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    decoder = text_decoder(model)
    embeddings: Any = model.get_input_embeddings()
    device: torch.device = embeddings.weight.device
    if max_tokens_per_batch is None:
        max_tokens_per_batch = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH_ACCELERATOR)

    rows = sentence_token_ids(tokenizer, sentences)
    check_token_ids(rows, model)
    lengths = np.array([len(row) for row in rows])
    special = special_token_ids(tokenizer)
    first = 0 if start_token(tokenizer)[0] is None else 1  # of the positions that may be pooled
    token_counts = np.array([int((~np.isin(row[first:], list(special))).sum()) for row in rows])

    def refuse(wrong: np.ndarray, what: Callable[[int], str]) -> None:
        if wrong.any():
            number = int(wrong.argmax())
            name = ids[number] if ids is not None else str(number)
            raise InputError(
                f"sentence {name} {what(number)}; {int(wrong.sum())} of {len(sentences)} sentences are like this: "
                "take these lines out of "
                "the corpus"
            )

    refuse(
        token_counts == 0,
        lambda number: f"({sentences[number]!r}) has no token besides special ones, so it has no vector",
    )
    limit = context_length(model)
    if limit is not None:
        refuse(
            lengths > limit, lambda number: f"has {lengths[number]} tokens, more than the {limit} that the model takes"
        )

    config = model.config.get_text_config()
    blocks = decoder_blocks(decoder, config.num_hidden_layers)
    layer_names = (*(str(layer) for layer in range(len(blocks) + 1)), f"{len(blocks)}+norm")
    batches = plan_batches(lengths, max_tokens_per_batch)
    rank, world = processes.share()
    vectors = np.zeros((len(layer_names), len(sentences), config.hidden_size), dtype=np.float32)
    largest_token_share = np.zeros(vectors.shape[:2], dtype=np.float32)
    pooled: list[Any] = []  # of the batch in progress, one [rows, width] per layer, filled by the hooks in layer order
    shares: list[Any] = []  # likewise, [rows]
    weights: Any = None
    content: Any = None

    def pool(hidden: Any) -> None:
        if hidden.shape != (*weights.shape, config.hidden_size):
            raise InputError(
                f"the blocks of {type(decoder).__name__} do not hand on one vector of {config.hidden_size} numbers "
                "per token; "
                "this architecture is not supported"
            )
        states = hidden.float()
        pooled.append(torch.bmm(weights.to(states.device).unsqueeze(1), states).squeeze(1))
        squares = torch.linalg.vector_norm(states, dim=2).square() * content.to(states.device)
        shares.append(squares.amax(1) / squares.sum(1).clamp_min(torch.finfo(torch.float32).tiny))

    def before_first(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        pool(args[0] if args else kwargs["hidden_states"])

    def after_block(_module: Any, _args: Any, output: Any) -> None:
        pool(output if isinstance(output, torch.Tensor) else output[0])

    hooks = [blocks[0].register_forward_pre_hook(before_first, with_kwargs=True)]
    hooks += [block.register_forward_hook(after_block) for block in blocks]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            for step in range(math.ceil(len(batches) / world)):
                mine = step * world + rank
                # A process without a batch repeats one, because a sharded model needs every process in every forward
                # pass.
                batch = batches[min(mine, len(batches) - 1)]
                token_ids, attention = padded([rows[sentence] for sentence in batch])
                mask = content_token_mask(token_ids.numpy(), lengths[batch], special, first)
                weights, content = (
                    torch.from_numpy(each).to(device) for each in (pooling_weights(mask, pooling), mask)
                )
                pooled.clear()
                shares.clear()
                output = decoder(input_ids=token_ids.to(device), attention_mask=attention.to(device), use_cache=False)
                pool(output.last_hidden_state)
                del output
                if len(pooled) != len(layer_names):
                    raise InputError(
                        f"{type(decoder).__name__} ran {len(pooled) - 2} of {len(blocks)} blocks; this architecture "
                        "is not supported"
                    )
                if mine < len(batches):
                    vectors[:, batch] = torch.stack([layer.to(device) for layer in pooled]).cpu().numpy()
                    largest_token_share[:, batch] = torch.stack([layer.to(device) for layer in shares]).cpu().numpy()
                if progress is not None:
                    progress(min((step + 1) * world, len(batches)), len(batches), "encoding")
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    # Each sentence was computed by one process and is 0 in the others.
    vectors, largest_token_share = processes.sum_of(vectors), processes.sum_of(largest_token_share)
    for name, layer in zip(layer_names, vectors, strict=True):
        if not np.isfinite(layer).all():
            raise InputError(
                f"layer {name} has non-finite states; with 16-bit weights try --dtype float32, else the weights are "
                "damaged"
            )
    return Encoding(
        vectors=vectors, layer_names=layer_names, token_counts=token_counts, largest_token_share=largest_token_share
    )


def check_lengths(checkpoint: Checkpoint, corpus: ParallelCorpus) -> None:
    """Raises InputError where a sentence of `corpus` does not fit the model's context, naming the languages: before
    anything is encoded.

    Sentences are encoded whole or not at all. If each model cut them at its own context, two models would be compared
    on different text. Bits per byte has the same question and the same answer: a rule that no model moves says what is
    measured, and a checkpoint that it does not fit is refused, by language.
    """
    limit = context_length(checkpoint.model)
    if limit is None:
        return
    found = {}
    for language in corpus.languages:
        # A token takes a byte at least, except the start and a word mark (else `encode` tells); so most sentences need
        # no tokenizing here.
        suspects = [sentence for sentence in corpus.sentences[language] if utf8_bytes(sentence) + 2 > limit]
        if suspects:
            count = sum(len(row) > limit for row in sentence_token_ids(checkpoint.tokenizer, suspects))
            if count:
                found[language] = count
    if found:
        names = ", ".join(
            f"{language} ({count} of {len(corpus.sentences[language])})" for language, count in found.items()
        )
        raise InputError(
            f"{checkpoint.name} takes {limit} tokens, and these languages have longer sentences: {names}. They are "
            "not cut, as another "
            "model would then be measured on other text: leave these languages out, or take a corpus of shorter lines"
        )


@dataclass(slots=True)
class CorpusVectors:
    """Sentence vectors of a corpus, all languages, read one layer at a time (from memory, or from the cache without
    holding the rest).

    token_counts [lines] and largest_token_share [layers, lines] of each language are those of `Encoding`; `encoded`
    counts the languages that had to be encoded now; `cache_keys` has the cache's key of each language, where there is a
    cache.
    """

    languages: tuple[str, ...]
    layer_names: tuple[str, ...]
    token_counts: dict[str, np.ndarray]
    largest_token_share: dict[str, np.ndarray]
    encoded: int
    _sources: dict[str, Any] = field(repr=False)  # language -> Encoding, or an open file of the cache
    cache_keys: dict[str, str] = field(default_factory=dict)

    def layer(self, name: str) -> np.ndarray:
        """float32 [languages, lines, width] of the layer called `name`."""
        layers = []
        for language in self.languages:
            source = self._sources[language]
            if isinstance(source, Encoding):
                layers.append(source.vectors[source.layer_names.index(name)])
            else:
                layers.append(source.get_tensor(name))
        return np.stack(layers)


def encode_corpus(
    checkpoint: Checkpoint,
    corpus: ParallelCorpus,
    *,
    pooling: Pooling = "mean",
    max_tokens_per_batch: int | None = None,
    cache_dir: str | Path | None = None,
    cache_max_bytes: int = vector_cache.DEFAULT_MAX_BYTES,
    progress: Progress | None = None,
) -> CorpusVectors:
    """Vectors of every language of `corpus`, language by language, through the cache in `cache_dir` (None: in memory
    only).

    A language's vectors do not depend on which other languages are in the corpus, and what was encoded before an
    interruption is kept. Raises InputError as `encode` does.
    """
    environment = encoding_environment(checkpoint)
    sources: dict[str, Any] = {}
    token_counts, largest_token_share = {}, {}
    cache_keys: dict[str, str] = {}
    encoded = 0
    layer_names: tuple[str, ...] = ()
    for number, language in enumerate(corpus.languages):
        sentences = corpus.sentences[language]
        entry, key = None, ""
        if cache_dir is not None:
            key = vector_cache.cache_key(
                {
                    "version": ENCODING_VERSION,
                    "checkpoint": checkpoint.content_hash,
                    "sentences": hashlib.sha256(json.dumps(list(sentences)).encode()).hexdigest(),
                    "pooling": pooling,
                    **environment,
                }
            )
            entry = vector_cache.open_entry(cache_dir, key)
        if not processes.all_agree(
            entry is not None
        ):  # each process may have a cache of its own, and all encode together or not at all
            entry = None
            encoding = encode(
                checkpoint,
                sentences,
                pooling=pooling,
                max_tokens_per_batch=max_tokens_per_batch,
                ids=[f"{identity} of {language}" for identity in corpus.ids],
            )
            encoded += 1
            if cache_dir is not None:
                tensors = dict(zip(encoding.layer_names, encoding.vectors, strict=True))
                tensors |= {"token_counts": encoding.token_counts, "largest_token_share": encoding.largest_token_share}
                vector_cache.store(
                    cache_dir, key, tensors, {"layers": json.dumps(encoding.layer_names), "language": language}
                )
                entry = vector_cache.open_entry(cache_dir, key)
        if entry is None:
            sources[language], layer_names = encoding, encoding.layer_names
            token_counts[language], largest_token_share[language] = encoding.token_counts, encoding.largest_token_share
        else:
            sources[language], layer_names = entry, tuple(json.loads(entry.metadata()["layers"]))
            token_counts[language] = entry.get_tensor("token_counts")
            largest_token_share[language] = entry.get_tensor("largest_token_share")
            cache_keys[language] = key
        if progress is not None:
            progress(number + 1, len(corpus.languages), f"encoding {language}")
    if encoded and cache_dir is not None:
        vector_cache.prune(
            cache_dir, cache_max_bytes, keep={vector_cache.cache_path(cache_dir, key) for key in cache_keys.values()}
        )
    return CorpusVectors(corpus.languages, layer_names, token_counts, largest_token_share, encoded, sources, cache_keys)
