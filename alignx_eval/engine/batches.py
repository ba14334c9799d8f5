"""Batches of texts: start tokens, padding, context length, budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alignx_eval.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from alignx_eval.checkpoint import Checkpoint

START_RULE = (
    "BOS, else EOS, else none; not pooled; no other special token is added"  # of `start_token`, for fingerprints
)
TOKENS_PER_BATCH = {"cpu": 512}  # small batches pad less and stay in a CPU's caches
TOKENS_PER_BATCH_ACCELERATOR = 32768


def start_token(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, str]:
    """The token that every text starts with, and its role: BOS, else EOS (it ends the document before), else none."""
    if tokenizer.bos_token_id is not None:
        return tokenizer.bos_token_id, "bos"
    if tokenizer.eos_token_id is not None:
        return tokenizer.eos_token_id, "eos"
    return None, "none"


def start_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """Role and text of the start token, such as "BOS <s>", or "none": for the environment of results and the provenance
    of checkpoints."""
    start, role = start_token(tokenizer)
    return role if start is None else f"{role.upper()} {tokenizer.convert_ids_to_tokens(start)}"


def start_before(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What goes before `ids`, a text tokenized without special tokens: the start token, or nothing where the text (as a
    template may) begins with it, or where the tokenizer has none."""
    start, _ = start_token(tokenizer)
    return [] if start is None or (len(ids) > 0 and ids[0] == start) else [start]


def tokens_of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens, uncut."""
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    return [list(ids) for ids in tokenizer(list(texts), **options)["input_ids"]] if len(texts) else []


def sentence_token_ids(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> list[list[int]]:
    """Token ids of each sentence, start token first.

    What a tokenizer adds to a text by itself is not asked for, as every family adds something else: BOS would be
    doubled, and an end token has no part in a sentence's vector, since no token before it attends to it and it would
    not be pooled.
    """
    return [[*start_before(row, tokenizer), *row] for row in tokens_of(tokenizer, sentences)]


def padded(rows: Sequence[Sequence[int]], *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of token ids as one tensor, and which of it is a row's own: two int64 tensors [rows, longest].

    Padding stands on the right, or on the `left`. It is token 0, which exists in any vocabulary; the mask keeps it out.
    """
    import torch

    width = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, place] = torch.tensor(list(row), dtype=torch.long)
        mask[number, place] = 1
    return ids, mask


def content_token_mask(
    token_ids: np.ndarray, lengths: np.ndarray, special_ids: frozenset[int], first: int = 0
) -> np.ndarray:
    """True where a token is content: not padding, not special, and not before position `first`. token_ids [batch,
    tokens], lengths [batch] -> bool [batch, tokens].

    Padding is known from the lengths and never from the pad id, which may be 0, the end-of-sequence id, or missing. The
    start token is known from its position, since a tokenizer need not count it among its special tokens.
    """
    position = np.arange(token_ids.shape[1])[None, :]
    return (first <= position) & (position < lengths[:, None]) & ~np.isin(token_ids, list(special_ids))


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that pooling leaves out: the tokenizer's special tokens. An unknown token stands for text and stays, unless
    it has another role too."""
    roles = {"bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id"}
    taken = {getattr(tokenizer, role, None) for role in roles}
    unknown = getattr(tokenizer, "unk_token_id", None)
    return frozenset(identity for identity in tokenizer.all_special_ids if identity != unknown or identity in taken)


def context_length(model: PreTrainedModel) -> int | None:
    """Number of tokens the model was made for, None where its configuration does not say."""
    config = model.config.get_text_config()
    names = (
        "max_position_embeddings",
        "n_positions",
        "max_seq_len",
        "max_target_positions",
        "model_max_length",
        "n_ctx",
    )
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


def text_decoder(model: PreTrainedModel) -> Any:
    """The part of `model` that turns token ids into states: without the language-model head. Raises InputError where
    there is none."""
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
    raise InputError(
        f"cannot find the {layers} blocks of {type(decoder).__name__}; only decoders with one list of blocks are "
        "supported"
    )


def embeddings_of(model: PreTrainedModel) -> int:
    """Number of tokens that the model has an embedding for."""
    embeddings: Any = model.get_input_embeddings()
    return int(getattr(embeddings, "num_embeddings", None) or embeddings.weight.shape[0])


def check_token_ids(rows: Sequence[Sequence[int]], model: PreTrainedModel) -> None:
    """Raises InputError where a token has no embedding. (A tokenizer may well have more tokens than the model, as long
    as none is used.)"""
    known = embeddings_of(model)
    largest = max((max(row) for row in rows if len(row)), default=0)
    if largest >= known:
        raise InputError(
            f"the tokenizer gives token {largest}, and the model has {known} embeddings: the two do not belong "
            "together, "
            "or the embeddings were not resized after tokens were added"
        )


def encoding_environment(checkpoint: Checkpoint) -> dict[str, str]:
    """dtype, device and attention kernel of the forward pass: recorded beside results, as they move numbers
    slightly."""
    parameter = next(checkpoint.model.parameters())
    return {
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": parameter.device.type,
        "attention": str(getattr(checkpoint.model.config, "_attn_implementation", "unknown")),
    }
