"""Which sample comes when: a pure function of seed and step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from alignx_trainer.config import Recipe
from alignx_trainer.records import Stream
from alignx_trainer.tokenize import Sample, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW = 16  # steps whose samples are sorted by length together, so that a batch holds little padding


def language_shares(counts: Sequence[int], temperature: float) -> np.ndarray:
    """Share of each language with so many records: proportional to count^(1 / temperature). float64, sums to 1."""
    powers = np.asarray(counts, dtype=float) ** (1 / temperature)
    shares: np.ndarray = powers / powers.sum()
    return shares


def apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that add up to `total`, by largest remainder."""
    exact = shares * total
    whole: np.ndarray = np.floor(exact).astype(int)
    for index in np.argsort(whole - exact)[: total - whole.sum()]:
        whole[index] += 1
    return whole


def tempered_pass(groups: Sequence[np.ndarray], temperature: float, key: list[int], number: int) -> np.ndarray:
    """Record indices of pass `number` over a source, as many as it has records, the languages' shares evened out by
    `temperature`.

    Every language is walked on its own in one fresh permutation after another: all its records come up before one comes
    up again, across passes too. A pure function of its arguments; `key` is seed and stream.
    """
    counts = [len(group) for group in groups]
    chosen = []
    for place, (group, size) in enumerate(
        zip(groups, apportion(language_shares(counts, temperature), sum(counts)), strict=True)
    ):
        first, last = number * int(size), (number + 1) * int(size)
        rounds = range(first // len(group), (last - 1) // len(group) + 1 if last > first else first // len(group))
        walks = [np.random.default_rng([*key, round_, 1 + place]).permutation(group) for round_ in rounds]
        if walks:
            begin = first - rounds.start * len(group)
            chosen.append(np.concatenate(walks)[begin : begin + int(size)])
    return np.random.default_rng([*key, number]).permutation(np.concatenate(chosen))


class Order:
    """Which record of which stream is where in training: a pure function of (seed, step), so there is no loader state
    to save.

    Each stream is walked in a new permutation on every pass (with a temperature, see `tempered_pass`). Within a window
    of steps samples are sorted by length and the batches shuffled.
    """

    def __init__(self, streams: Sequence[Stream], recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
        self.streams, self.recipe, self.tokenizer = streams, recipe, tokenizer
        weights = np.array([stream.source.weight for stream in streams])
        # Samples of each stream in one window.
        self.quota = apportion(weights / weights.sum(), WINDOW * recipe.batch_size)
        if recipe.steps is not None:
            self.steps = recipe.steps
        else:
            largest = max(range(len(streams)), key=lambda index: len(streams[index]))
            self.steps = max(1, round((recipe.epochs or 0) * len(streams[largest]) * WINDOW / self.quota[largest]))
        self._groups = lru_cache(maxsize=len(streams))(lambda stream: list(streams[stream].groups().values()))
        self._permutation = lru_cache(maxsize=2 * len(streams))(self._make_permutation)
        self._window = lru_cache(maxsize=1)(self._make_window)

    def _make_permutation(self, stream: int, epoch: int) -> np.ndarray:
        temperature = self.streams[stream].source.temperature
        if temperature == 1:
            return np.random.default_rng([self.recipe.seed, stream, epoch]).permutation(len(self.streams[stream]))
        return tempered_pass(self._groups(stream), temperature, [self.recipe.seed, stream], epoch)

    def _make_window(self, window: int) -> list[list[Sample]]:
        chosen = []
        for stream, quota in enumerate(self.quota):
            for position in range(window * quota, (window + 1) * quota):
                epoch, offset = divmod(position, len(self.streams[stream]))
                chosen.append(self.streams[stream][int(self._permutation(stream, epoch)[offset])])
        recipe = self.recipe
        samples = [
            tokenize(
                record,
                self.tokenizer,
                template=recipe.prompt_template,
                max_length=recipe.max_length,
                lm_on=recipe.lm_on,
            )
            for record in chosen
        ]
        generator = np.random.default_rng([recipe.seed, len(self.streams), window])
        # The random key mixes the streams among samples of one length.
        ties = generator.random(len(samples))
        ordered = [
            samples[index] for index in np.lexsort((ties, np.array([len(sample.input_ids) for sample in samples])))
        ]
        batches = [ordered[start : start + recipe.batch_size] for start in range(0, len(ordered), recipe.batch_size)]
        return [batches[index] for index in generator.permutation(len(batches))]

    def batch(self, step: int) -> list[Sample]:
        """The samples of step 0, 1, ..."""
        window, offset = divmod(step, WINDOW)
        return self._window(window)[offset]
