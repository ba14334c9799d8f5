"""Sentences -> one vector per layer. The only forward pass that probing needs.

Each sentence is encoded alone, never inside a prompt: in a translation prompt the target has attended to the source, which makes the two
look aligned in any model. Only the decoder runs (no language-model head, no key-value cache), over batches of similar length under a token
budget; every layer is pooled inside the forward pass, so no hidden state outlives its layer.

Layers: "0" is what enters the first block (embeddings, with position embeddings and scaling where the family has them), "k" the residual
state after block k, and the last state comes twice, "L" before the final norm and "L+norm" after it. (The last entry of transformers'
`output_hidden_states` is the normed one; that is why it is not used here.)
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alignx_eval import processes, vector_cache
from alignx_eval.errors import InputError

Pooling = Literal["mean", "last", "weighted"]
POOLINGS = ("mean", "last", "weighted")
Progress = Callable[[int, int, str], None]

ENCODING_VERSION = 1  # part of the cache key and of fingerprints; raise it when the vectors change
TOKENS_PER_BATCH = {"cpu": 512}  # small batches pad less and stay in a CPU's caches
TOKENS_PER_BATCH_ACCELERATOR = 32768
MOST_TRUNCATED = 0.2  # share of the sentences of a language


@dataclass(slots=True)
class Encoding:
    """Sentence vectors of one list of sentences, in its order.

    vectors: float32 [layers, sentences, width]; layer_names: "0" ... "L", "L+norm"; token_counts: int [sentences], the tokens that were
    pooled;
    truncated: bool [sentences], whether the sentence was cut at the maximum length.
    """

    vectors: np.ndarray
    layer_names: tuple[str, ...]
    token_counts: np.ndarray
    truncated: np.ndarray


def content_token_mask(token_ids: np.ndarray, lengths: np.ndarray, special_ids: frozenset[int]) -> np.ndarray:
    """True where a token is neither padding nor special. token_ids [batch, tokens], lengths [batch] -> bool [batch, tokens].

    Padding is known from the lengths and never from the pad id, which may be 0, the end-of-sequence id, or missing.
    """
    inside = np.arange(token_ids.shape[1])[None, :] < lengths[:, None]
    return inside & ~np.isin(token_ids, list(special_ids))


def pooling_weights(mask: np.ndarray, pooling: Pooling) -> np.ndarray:
    """float32 weights [batch, tokens] that sum to 1 in each row, for a bool mask [batch, tokens] of the tokens to pool.

    "mean": equal. "last": all on the last kept token. "weighted": proportional to the position 1, 2, ... among the kept tokens, as in MEXA
    (Kargaran et al. 2025, after SGPT) except that special tokens do not take part.
    """
    position = mask.cumsum(axis=1) * mask
    if pooling == "mean":
        weights = mask.astype(np.float64)
    elif pooling == "weighted":
        weights = position.astype(np.float64)
    else:
        weights = (mask & (position == position.max(axis=1, keepdims=True))).astype(np.float64)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def special_token_ids(tokenizer: Any) -> frozenset[int]:
    """Ids that pooling leaves out: the tokenizer's special tokens. An unknown token stands for text and stays, unless it has another role
    too."""
    roles = {"bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id"}
    taken = {getattr(tokenizer, role, None) for role in roles}
    unknown = getattr(tokenizer, "unk_token_id", None)
    return frozenset(identity for identity in tokenizer.all_special_ids if identity != unknown or identity in taken)


def context_length(model: Any) -> int | None:
    """Number of tokens the model was made for, None where its configuration does not say."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions", "model_max_length", "n_ctx")
    return next((length for name in names if (length := getattr(config, name, None))), None)


def plan_batches(lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Batches of row numbers, longest rows first; rows x longest row <= max_tokens, and at least one row each."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, max_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


def text_decoder(model: Any) -> Any:
    """The part of `model` that turns token ids into states: without the language-model head. Raises InputError where there is none."""
    embeddings = model.get_input_embeddings()
    for part in (model.get_decoder(), model.base_model, *model.children()):
        if part is not model and any(module is embeddings for module in part.modules()):
            return part
    raise InputError(f"cannot find the decoder of {type(model).__name__}; this architecture is not supported")


def decoder_blocks(decoder: Any, layers: int) -> Any:
    """The module list that holds the decoder's `layers` blocks. Raises InputError for an architecture without one."""
    import torch

    for module in decoder.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == layers:
            return module
    lists = [module for module in decoder.children() if isinstance(module, torch.nn.ModuleList)]
    if len(lists) == 1:  # a block of several attention layers counts more than once in some configurations
        return lists[0]
    raise InputError(f"cannot find the {layers} blocks of {type(decoder).__name__}; only decoders with one list of blocks are supported")


def encode(
    checkpoint: Any,
    sentences: Sequence[str],
    *,
    pooling: Pooling = "mean",
    max_tokens_per_batch: int | None = None,
    max_length: int | None = None,
    ids: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Encoding:
    """Encode each sentence alone with `checkpoint.model` and `checkpoint.tokenizer`; see `Encoding` and the module text.

    The tokenizer adds what it adds to any text (such as BOS); pooling leaves special tokens out by their id. `max_length` (tokens) is the
    model's context length unless given; longer sentences lose their end and are marked. `ids` name the sentences in messages. Under
    `accelerate launch` whole batches of one global plan are dealt out to the processes and every process gets the whole result.
    Raises InputError for a sentence without any ordinary token, for non-finite states, and for an unknown pooling.
    """
    import torch

    if pooling not in POOLINGS:
        raise InputError(f"unknown pooling {pooling!r}; known: {', '.join(POOLINGS)}")
    if not len(sentences):
        raise InputError("there are no sentences to encode")
    if max_length is not None and max_length < 1:
        raise InputError(f"a maximum length of {max_length} tokens leaves nothing to encode")
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    decoder = text_decoder(model)
    device = model.get_input_embeddings().weight.device
    if max_tokens_per_batch is None:
        max_tokens_per_batch = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH_ACCELERATOR)

    rows = tokenizer(list(sentences), add_special_tokens=True, padding=False, truncation=False, return_attention_mask=False, verbose=False)
    check_token_ids(rows["input_ids"], model)
    limit = context_length(model) if max_length is None else max_length
    truncated = np.array([limit is not None and len(row) > limit for row in rows["input_ids"]])
    rows = [np.asarray(row[:limit], dtype=np.int64) for row in rows["input_ids"]]
    lengths = np.array([len(row) for row in rows])
    special = special_token_ids(tokenizer)
    token_counts = np.array([int((~np.isin(row, list(special))).sum()) for row in rows])
    if not token_counts.all():
        first = int(np.flatnonzero(token_counts == 0)[0])
        name = ids[first] if ids is not None else str(first)
        why = "was cut to" if truncated[first] else "has"
        raise InputError(
            f"sentence {name} ({sentences[first]!r}) {why} no token besides special ones, so it has no vector; "
            f"{int((token_counts == 0).sum())} of {len(sentences)} sentences are like this: take these lines out of the corpus"
        )

    config = model.config.get_text_config()
    blocks = decoder_blocks(decoder, config.num_hidden_layers)
    layer_names = (*(str(layer) for layer in range(len(blocks) + 1)), f"{len(blocks)}+norm")
    batches = plan_batches(lengths, max_tokens_per_batch)
    rank, world = processes.share()
    vectors = np.zeros((len(layer_names), len(sentences), config.hidden_size), dtype=np.float32)
    pooled: list[Any] = []  # of the batch in progress, one [rows, width] per layer, filled by the hooks in layer order
    weights: Any = None

    def pool(hidden: Any) -> None:
        if hidden.shape != (*weights.shape, config.hidden_size):
            raise InputError(
                f"the blocks of {type(decoder).__name__} do not hand on one vector of {config.hidden_size} numbers per token; "
                "this architecture is not supported"
            )
        pooled.append(torch.bmm(weights.to(hidden.device).unsqueeze(1), hidden.float()).squeeze(1))

    def before_first(_module: Any, args: tuple, kwargs: dict) -> None:
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
                # A process without a batch repeats one, because a sharded model needs every process in every forward pass.
                batch = batches[min(mine, len(batches) - 1)]
                longest = int(lengths[batch].max())
                token_ids = np.zeros((len(batch), longest), dtype=np.int64)  # id 0 exists in any vocabulary; the masks keep it out
                for row, sentence in enumerate(batch):
                    token_ids[row, : lengths[sentence]] = rows[sentence]
                attention = torch.from_numpy(np.arange(longest)[None, :] < lengths[batch][:, None]).long().to(device)
                weights = torch.from_numpy(pooling_weights(content_token_mask(token_ids, lengths[batch], special), pooling)).to(device)
                pooled.clear()
                output = decoder(input_ids=torch.from_numpy(token_ids).to(device), attention_mask=attention, use_cache=False)
                pool(output.last_hidden_state)
                del output
                if len(pooled) != len(layer_names):
                    raise InputError(
                        f"{type(decoder).__name__} ran {len(pooled) - 2} of {len(blocks)} blocks; this architecture is not supported"
                    )
                if mine < len(batches):
                    vectors[:, batch] = torch.stack([layer.to(device) for layer in pooled]).cpu().numpy()
                if progress is not None:
                    progress(min((step + 1) * world, len(batches)), len(batches), "encoding")
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    vectors = processes.sum_of(vectors)  # each row was computed by one process and is 0 in the others
    for name, layer in zip(layer_names, vectors, strict=True):
        if not np.isfinite(layer).all():
            raise InputError(f"layer {name} has non-finite states; with 16-bit weights try --dtype float32, else the weights are damaged")
    return Encoding(vectors=vectors, layer_names=layer_names, token_counts=token_counts, truncated=truncated)


def check_token_ids(rows: Sequence[Sequence[int]], model: Any) -> None:
    """Raises InputError where a token has no embedding. (A tokenizer may well have more tokens than the model, as long as none is used.)"""
    known = model.get_input_embeddings().num_embeddings
    largest = max((max(row) for row in rows if len(row)), default=0)
    if largest >= known:
        raise InputError(
            f"the tokenizer gives token {largest}, and the model has {known} embeddings: the two do not belong together, "
            "or the embeddings were not resized after tokens were added"
        )


@dataclass(slots=True)
class CorpusVectors:
    """Sentence vectors of a corpus, all languages, read one layer at a time (from memory, or from the cache without holding the rest).

    token_counts and truncated hold an array [lines] per language; `encoded` counts the languages that had to be encoded now;
    `cache_keys` has the cache's key of each language, where there is a cache.
    """

    languages: tuple[str, ...]
    layer_names: tuple[str, ...]
    token_counts: dict[str, np.ndarray]
    truncated: dict[str, np.ndarray]
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


def encoding_environment(checkpoint: Any) -> dict[str, str]:
    """dtype, device and attention kernel of the forward pass: recorded beside results, as they move numbers slightly."""
    parameter = next(checkpoint.model.parameters())
    return {
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": parameter.device.type,
        "attention": str(getattr(checkpoint.model.config, "_attn_implementation", "unknown")),
    }


def encode_corpus(
    checkpoint: Any,
    corpus: Any,
    *,
    pooling: Pooling = "mean",
    max_length: int | None = None,
    max_tokens_per_batch: int | None = None,
    cache_dir: str | Path | None = None,
    cache_max_bytes: int = vector_cache.DEFAULT_MAX_BYTES,
    progress: Progress | None = None,
) -> CorpusVectors:
    """Vectors of every language of `corpus`, language by language, through the cache in `cache_dir` (None: in memory only).

    A language's vectors do not depend on which other languages are in the corpus, and what was encoded before an interruption is kept.
    Raises InputError as `encode` does, and where more than `MOST_TRUNCATED` of the sentences of a language would be cut.
    """
    environment = encoding_environment(checkpoint)
    sources: dict[str, Any] = {}
    token_counts, truncated = {}, {}
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
                    "max_length": max_length,
                    **environment,
                }
            )
            entry = vector_cache.open_entry(cache_dir, key)
        if not processes.all_agree(entry is not None):  # each process may have a cache of its own, and all encode together or not at all
            entry = None
            encoding = encode(
                checkpoint,
                sentences,
                pooling=pooling,
                max_tokens_per_batch=max_tokens_per_batch,
                max_length=max_length,
                ids=[f"{identity} of {language}" for identity in corpus.ids],
            )
            encoded += 1
            _refuse_truncated(language, encoding.truncated)
            if cache_dir is not None:
                tensors = dict(zip(encoding.layer_names, encoding.vectors, strict=True))
                tensors |= {"token_counts": encoding.token_counts, "truncated": encoding.truncated}
                vector_cache.store(cache_dir, key, tensors, {"layers": json.dumps(encoding.layer_names), "language": language})
                entry = vector_cache.open_entry(cache_dir, key)
        if entry is None:
            sources[language], layer_names = encoding, encoding.layer_names
            token_counts[language], truncated[language] = encoding.token_counts, encoding.truncated
        else:
            sources[language], layer_names = entry, tuple(json.loads(entry.metadata()["layers"]))
            token_counts[language], truncated[language] = entry.get_tensor("token_counts"), entry.get_tensor("truncated")
            cache_keys[language] = key
        if progress is not None:
            progress(number + 1, len(corpus.languages), f"encoding {language}")
    if encoded and cache_dir is not None:
        vector_cache.prune(cache_dir, cache_max_bytes, keep={vector_cache.cache_path(cache_dir, key) for key in cache_keys.values()})
    return CorpusVectors(corpus.languages, layer_names, token_counts, truncated, encoded, sources, cache_keys)


def _refuse_truncated(language: str, truncated: np.ndarray) -> None:
    share = float(truncated.mean())
    if share > MOST_TRUNCATED:
        raise InputError(
            f"{language}: {int(truncated.sum())} of {len(truncated)} sentences are longer than the model's context and would be cut; above "
            f"{MOST_TRUNCATED:.0%} the vectors of languages do not compare: leave the language out, or take a corpus of shorter lines"
        )
