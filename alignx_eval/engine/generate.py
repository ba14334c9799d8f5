"""Greedy decoding in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alignx_eval.engine import decoding_cache
from alignx_eval.engine.base import Progress
from alignx_eval.engine.batches import sentence_token_ids
from alignx_eval.measures.bleu import prepare

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from alignx_eval.checkpoint import Checkpoint

# An output may take twice the tokens that its source is expected to take in the target language, and a little more for
# short sources.
LENGTH_FACTOR = 2.0
LENGTH_ALLOWANCE = 16
DECODING = (
    "greedy; the prompt starts with BOS, else EOS, else none; white space before visible text is skipped; ends at an "
    "end token, at the "
    f"first line break after visible text, or after {LENGTH_FACTOR:g} x expected length + {LENGTH_ALLOWANCE} tokens"
)


@dataclass(frozen=True, slots=True)
class Output:
    """One decoded text, and whether it was ended by the model ("eos", "line") or by us ("length")."""

    text: str
    stopped_by: str


def greedy_decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    caps: Sequence[int],
    *,
    end_tokens: frozenset[int],
    breaks_line: Callable[[Sequence[int]], bool],
    max_tokens_per_batch: int = 16384,
    progress: Progress | None = None,
) -> list[tuple[list[int], str]]:
    """The most probable token after each prompt, again and again: per prompt the new tokens (without the end token) and
    what ended them.

    prompts: token ids; caps: most new tokens of each; breaks_line: whether the new tokens so far end with the end of
    their line. Batches hold sequences of similar length, and neighbours change nothing: how the model is run, with
    padding and a cache where it can be, is found out first (see `decoding_cache`). Rows that have ended leave the
    batch.
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
                    if breaks_line(written[index]):
                        ended[index] = "line"
                        alive[row] = False
                    elif len(written[index]) >= caps[index]:
                        alive[row] = False
                if not alive.any():
                    break
                texts.append(chosen)
                if way.drops_rows and alive.sum() <= 0.75 * len(
                    alive
                ):  # dropping rows copies the cache, so not for every single one
                    texts.keep(np.flatnonzero(alive))
                    rows, alive = rows[alive], alive[alive]
            done += len(batch)
            if progress is not None:
                progress(done, len(prompts), "translating")
    return [(tokens, end) for tokens, end in zip(written, ended, strict=True)]


def generate_lines(
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    caps: Sequence[int],
    *,
    max_tokens_per_batch: int,
    progress: Progress | None,
) -> list[Output]:
    """The first line with visible text after each prompt, of at most `caps` new tokens (leading white space counts);
    all prompts are decoded together, so that batches are full and of even length."""
    tokenizer = checkpoint.tokenizer
    line_breaks: dict[int, bool] = {}

    def text_of(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))

    def breaks_line(tokens: Sequence[int]) -> bool:
        last = tokens[-1]
        if last not in line_breaks:
            line_breaks[last] = _has_line_break(str(tokenizer.decode([last])))
        return line_breaks[last] and _first_line(text_of(tokens))[1]

    decoded = greedy_decode(
        checkpoint.model,
        sentence_token_ids(tokenizer, prompts),
        caps,
        end_tokens=end_tokens(checkpoint),
        breaks_line=breaks_line,
        max_tokens_per_batch=max_tokens_per_batch,
        progress=progress,
    )
    return [Output(_first_line(text_of(tokens))[0], end) for tokens, end in decoded]


def end_tokens(checkpoint: Checkpoint) -> frozenset[int]:
    """Tokens that end an output: the tokenizer's EOS and those of the checkpoint's generation config (chat models have
    several)."""
    ends = {checkpoint.tokenizer.eos_token_id}
    configured = getattr(getattr(checkpoint.model, "generation_config", None), "eos_token_id", None)
    ends |= set(configured) if isinstance(configured, list | tuple) else {configured}
    return frozenset(int(token) for token in ends if token is not None)


def end_names(checkpoint: Checkpoint) -> list[str]:
    return [str(checkpoint.tokenizer.convert_ids_to_tokens(token)) for token in sorted(end_tokens(checkpoint))]


def _has_line_break(text: str) -> bool:
    return "\n" in text or "\r" in text


def _first_line(text: str) -> tuple[str, bool]:
    """The first line of `text` with anything that the metrics see, and whether a line break ends it."""
    *complete, last = text.replace("\r", "\n").split("\n")
    for line in complete:
        if prepare(line):
            return line.strip(), True
    return last.strip(), False
