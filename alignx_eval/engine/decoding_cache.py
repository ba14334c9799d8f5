"""How a model runs several texts at once, so that each gets what it would get alone.

Causal models keep what they have read in many ways: keys and values, windows of them, recurrent states, under several
names; some do not keep a state out of reach of padding, and some keep nothing. No list of names says which is which:
the ways are tried, fastest first, on a few tokens, and the first is taken whose logits are those of the plain forward
pass over each text alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from alignx_eval.engine.batches import embeddings_of, padded, plan_batches
from alignx_eval.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHE_NAMES = ("past_key_values", "cache_params", "state")
PROBE_LENGTHS = (9, 3, 6)
PROBE_STEPS = 6
# Root mean square difference of two sets of logits, in their standard deviations. Rounding was seen to move trained
# models by 5e-5 in float32 and 0.06 in bfloat16; padding in a state or a position off by its length moves random ones
# by 0.3 and more.
TOLERANCE = 1e-4
TOLERANCE_16_BIT = 0.2


@dataclass(frozen=True, slots=True)
class Way:
    """`padded`: texts of unequal length share a batch, padded on the left. `cached`: each step reads the new token
    alone, else the whole text again. `drops_rows`: finished texts leave the cache."""

    padded: bool
    cached: bool
    drops_rows: bool


WAYS = (Way(True, True, True), Way(True, True, False), Way(False, True, True), Way(False, True, False))
WITHOUT_CACHE = Way(False, False, True)


class Batch:
    """Texts that grow by a token at a time. Not padded, they must be of equal length."""

    def __init__(self, model: PreTrainedModel, way: Way, texts: Sequence[Sequence[int]]) -> None:

        self.model, self.way = model, way
        self.cache: Any = None
        self.cache_name = ""
        accepted = inspect.signature(model.forward).parameters
        self.accepted = set(accepted)
        self.options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        if "use_cache" in accepted or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in accepted.values()):
            self.options["use_cache"] = way.cached
        ids, mask = padded(texts, left=True)
        self.ids, self.mask = ids.to(model.device), mask.to(model.device)
        self.positions = (self.mask.cumsum(dim=-1) - 1).clamp(
            min=0
        )  # counted from the first real token, so neighbours change nothing

    def next_logits(self) -> Any:
        """Logits of the token after each text: [texts, vocabulary]."""
        arguments = dict(self.options)
        if self.way.padded:
            arguments |= {"attention_mask": self.mask} | (
                {"position_ids": self.positions} if "position_ids" in self.accepted else {}
            )
        if self.cache is not None:
            arguments[self.cache_name] = self.cache
        output = self.model(input_ids=self.ids, **arguments)
        if self.way.cached:
            self.cache_name = next(name for name in CACHE_NAMES if getattr(output, name, None) is not None)
            self.cache = output[self.cache_name]
        return output.logits[:, -1]

    def append(self, tokens: Any) -> None:
        """Add one token to each text: int [texts]."""
        import torch

        self.ids = tokens[:, None] if self.way.cached else torch.cat([self.ids, tokens[:, None]], dim=-1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=-1)
        self.positions = self.positions[:, -1:] + 1

    def keep(self, kept: np.ndarray) -> None:
        """Go on with the texts whose numbers are in `kept` alone; only where `way.drops_rows`. Call it after
        `append`."""
        import torch

        rows = torch.from_numpy(kept).to(self.ids.device)
        if self.cache is not None:
            self.cache.reorder_cache(
                rows
            )  # every class of cache has it for beam search; it does not mind that there are fewer rows
        self.ids, self.mask, self.positions = self.ids[rows], self.mask[rows], self.positions[rows]


def plan(way: Way, prompt_lengths: np.ndarray, lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Batches of row numbers for `Batch`: of similar total length, and of equal prompt length where nothing may be
    padded."""
    if way.padded:
        return plan_batches(lengths, max_tokens)
    batches = []
    for length in np.unique(prompt_lengths)[::-1]:
        group = np.flatnonzero(prompt_lengths == length)
        batches += [group[batch] for batch in plan_batches(lengths[group], max_tokens)]
    return batches


def find_way(model: PreTrainedModel) -> Way:
    """The fastest way in which `model` decodes several texts as it would decode each alone."""
    import torch

    for way in WAYS:
        try:
            if _same_as_alone(model, way):
                return way
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # whatever a model raises when it is used in a way that it does not know
            continue
    return WITHOUT_CACHE


def _same_as_alone(model: PreTrainedModel, way: Way) -> bool:
    """Whether a few steps with given tokens, one text leaving on the way, have the logits of the plain forward pass
    over each text."""
    import torch

    vocabulary = embeddings_of(model)
    lengths = PROBE_LENGTHS if way.padded else (max(PROBE_LENGTHS),) * len(PROBE_LENGTHS)
    texts = [
        [(17 + 7 * row + 13 * place) % vocabulary for place in range(length + PROBE_STEPS)]
        for row, length in enumerate(lengths)
    ]
    with torch.inference_mode():
        plain = [
            model(input_ids=torch.tensor([text], device=model.device)).logits[0, -PROBE_STEPS - 1 :].float()
            for text in texts
        ]
        batch = Batch(model, way, [text[:-PROBE_STEPS] for text in texts])
        for step in range(PROBE_STEPS):
            for logits, expected in zip(batch.next_logits().float(), plain, strict=True):
                if _differ(logits, expected[step], model.dtype):
                    return False
            batch.append(torch.tensor([text[step - PROBE_STEPS] for text in texts], device=model.device))
            if step == 1 and way.drops_rows:
                batch.keep(np.arange(1, len(texts)))
                texts, plain = texts[1:], plain[1:]
    return True


def check_padding(model: PreTrainedModel) -> None:
    """Raise InputError where padding on the right, masked as it is, changes the logits of the tokens before it."""
    import torch

    vocabulary = embeddings_of(model)
    texts = [
        [(17 + 7 * row + 13 * place) % vocabulary for place in range(length)]
        for row, length in enumerate(PROBE_LENGTHS)
    ]
    ids = torch.zeros(len(texts), max(PROBE_LENGTHS), dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    mask = torch.arange(ids.shape[1])[None] < torch.tensor(PROBE_LENGTHS)[:, None]
    options = (
        {"attention_mask": mask.long().to(model.device)}
        if "attention_mask" in inspect.signature(model.forward).parameters
        else {}
    )
    with torch.inference_mode():
        together = model(input_ids=ids.to(model.device), **options).logits
        for logits, text in zip(together, texts, strict=True):
            alone = model(input_ids=torch.tensor([text], device=model.device)).logits[0].float()
            if not alone.isfinite().all():  # damaged weights: the rows say so
                return
            if logits[: len(text)].shape != alone.shape or _differ(logits[: len(text)].float(), alone, model.dtype):
                raise InputError(
                    f"{type(model).__name__} gives a text other scores when padding follows it; this architecture is "
                    "not supported"
                )


def _differ(logits: Any, expected: Any, dtype: Any) -> bool:
    import torch

    tolerance = TOLERANCE if torch.finfo(dtype).bits > 16 else TOLERANCE_16_BIT
    return not (logits - expected).square().mean().sqrt() <= tolerance * expected.std()
