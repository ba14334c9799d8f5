"""Records to token ids, labels and spans; samples to padded batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignx_eval.engine.batches import start_before
from alignx_eval.errors import InputError
from alignx_eval.prompts import split_at_input, text_without_input
from alignx_trainer.records import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids of one record, which of them the next-token loss is on, and the half-open token spans of source and
    target."""

    identity: str
    input_ids: list[int]
    trained: list[bool]
    source_span: tuple[int, int]
    target_span: tuple[int, int]
    source: str
    target: str
    source_language: str | None
    target_language: str | None
    truncated: bool


def tokenize(
    record: Record, tokenizer: PreTrainedTokenizerBase, *, template: str, max_length: int, lm_on: str
) -> Sample:
    """Ids, labels and spans of one record, at most `max_length` tokens.

    Every sample begins with the start token that the evaluator puts before a text
    (`alignx_eval.engine.batches.start_token`). The prompt is tokenized once, as for generation, and the source located
    in it by character offsets: its span is the shortest run of tokens that covers the source without its surrounding
    blanks. A token that also holds what follows (".\\n\\n" in the pre-tokenizers of Llama 3 and Qwen) belongs to the
    span. The target is tokenized alone and appended with the end token, so its span is exact and the same as in
    generation. A record with an empty source has the template's form without input, and an empty source span.

    Source and target are truncated, each on its own; so is an instruction within one language that leaves its answer
    less than half of the room. The template and the instruction to translate never are. Raises InputError if they alone
    leave no room, or if the tokenizer gives no offsets.
    """
    end = [tokenizer.eos_token_id]
    target = tokenizer(record.target, add_special_tokens=False)["input_ids"]
    if record.instruction is None:
        start = start_before(target, tokenizer)
        room = max_length - len(start) - 1
        ids = start + target[:room] + end
        trained = [False] * len(start) + [True] * (len(ids) - len(start))
        return Sample(
            record.identity,
            ids,
            trained,
            (0, 0),
            (len(start), len(ids) - 1),
            "",
            record.target,
            record.source_language,
            record.target_language,
            len(target) > room,
        )
    source, truncated = record.source if record.source.strip() else "", False
    before, after = split_at_input(template) if source else (text_without_input(template), "")
    instruction = record.instruction
    prompt, span, cut = _prompt(before.replace("{instruction}", instruction), source, after, tokenizer)
    room = max_length - (len(prompt) - (span[1] - span[0])) - 1  # for source and target
    if record.source_language == record.target_language and room < len(target):
        head, tail = before.split("{instruction}")
        bare = max_length - len(_prompt(head, "", tail + after, tokenizer)[0]) - 1
        needed = max(2, min(len(target), bare // 2))
        while room < needed and instruction:
            *_, shorter = _prompt(head, instruction, tail + source + after, tokenizer)
            instruction = shorter(needed - room)
            prompt, span, cut = _prompt(before.replace("{instruction}", instruction), source, after, tokenizer)
            room = max_length - (len(prompt) - (span[1] - span[0])) - 1
            truncated = True
    if room < 2:
        raise InputError(
            f"max_length {max_length} leaves no room for a source and a target beside the template's "
            f"{max_length - room - 1} tokens"
        )
    target_room = max(room // 2, room - (span[1] - span[0])) if source else room
    if len(target) > target_room:
        target, truncated = target[:target_room], True
    while len(prompt) + len(target) + 1 > max_length and source:
        # Tokens are cut by cutting characters; merges at the cut can change the count, hence the loop.
        source = cut(len(prompt) + len(target) + 1 - max_length)
        prompt, span, cut = _prompt(before.replace("{instruction}", instruction), source, after, tokenizer)
        truncated = True
    ids = prompt + target + end
    trained = [lm_on == "all" and position > 0 for position in range(len(prompt))] + [True] * (len(target) + 1)
    return Sample(
        record.identity,
        ids,
        trained,
        span,
        (len(prompt), len(prompt) + len(target)),
        record.source,
        record.target,
        record.source_language,
        record.target_language,
        truncated,
    )


def _prompt(
    before: str, text: str, after: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], tuple[int, int], Callable[[int], str]]:
    """Ids of the whole with its start token, the span of `text` in them, and a function that shortens `text` by about
    so many tokens (at least a character)."""
    try:
        encoded = tokenizer(before + text + after, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError:
        raise InputError(
            f"{type(tokenizer).__name__} gives no character offsets; the trainer needs a fast tokenizer"
        ) from None
    prefix = start_before(encoded["input_ids"], tokenizer)
    offsets = [(0, 0)] * len(prefix) + encoded["offset_mapping"]
    first = len(before) + len(text) - len(text.lstrip())
    last = len(before) + len(text.rstrip())
    inside = [index for index, (start, end) in enumerate(offsets) if start < last and end > first and end > start]

    def shorter(tokens: int) -> str:
        # A cut falls between characters, never inside one that takes several tokens.
        length = offsets[inside[-tokens]][0] - len(before) if 0 < tokens < len(inside) else 0
        return text[: max(0, min(length, len(text) - 1))].rstrip()

    return prefix + encoded["input_ids"], (inside[0], inside[-1] + 1) if inside else (0, 0), shorter


@dataclass(slots=True)
class Batch:
    """Right-padded tensors [rows, positions] of some samples. `labels` is -100 where there is no next-token loss."""

    samples: list[Sample]
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    source_mask: Tensor
    target_mask: Tensor

    @property
    def tokens(self) -> int:
        """Of the inputs, without padding."""
        return int(self.attention_mask.sum())


def collate(samples: list[Sample], padding_id: int) -> Batch:
    """The samples as one batch, as wide as the longest."""
    width = max(len(sample.input_ids) for sample in samples)
    shape = (len(samples), width)
    input_ids, labels = torch.full(shape, padding_id), torch.full(shape, -100)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    source_mask, target_mask = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for row, sample in enumerate(samples):
        length = len(sample.input_ids)
        ids = torch.tensor(sample.input_ids)
        input_ids[row, :length] = ids
        attention_mask[row, :length] = 1
        labels[row, :length] = torch.where(torch.tensor(sample.trained), ids, -100)
        source_mask[row, slice(*sample.source_span)] = True
        target_mask[row, slice(*sample.target_span)] = True
    return Batch(samples, input_ids, attention_mask, labels, source_mask, target_mask)
