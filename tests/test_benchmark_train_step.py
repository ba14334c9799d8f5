"""The official way that the benchmark times must be the same step as ours, or its ratios mean nothing."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from alignx_trainer.config import Source, load_recipe
from alignx_trainer.records import Stream
from helpers.models import tiny_model, tiny_tokenizer

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import train_step  # noqa: E402


@pytest.fixture
def setup() -> train_step.Setup:
    source = Source("translation", "interface", split="validation", languages=("eng_Latn", "deu_Latn", "rus_Cyrl"))
    recipe = dataclasses.replace(
        load_recipe("paper_stage1"),
        sources=(source,),
        prompt_template="plain",
        align_layer=1,
        batch_size=12,
        micro_batch_size=6,
        dtype="float32",
    )
    model = tiny_model(max_position_embeddings=512)
    return train_step.set_up(model, recipe, [Stream(source, "plain")], tiny_tokenizer(), model.config.vocab_size)


def test_both_ways_are_the_same_step(setup: train_step.Setup):
    setup.batches = setup.batches[:1]
    numbers = train_step.same_numbers(setup)
    assert numbers["largest_relative_difference_of_losses"] < 1e-5
    assert numbers["relative_difference_of_gradients"] < 1e-5
    assert all(value > 0.01 for pair in numbers["losses"].values() for value in pair)


def test_a_race_times_both_parts_and_changes_the_weights(setup: train_step.Setup):
    before = [parameter.detach().clone() for parameter in setup.parameters]
    times = train_step.race(setup, ["accumulation", "caching"], 2)
    assert {taken.shape for part in times.values() for taken in part.values()} == {(2, 2)}
    assert (times["step"]["caching"] > times["passes"]["caching"])[:, 0].all()
    assert any(not torch.equal(one, two) for one, two in zip(before, setup.parameters, strict=True))


def test_the_whole_embedding_is_touched(setup: train_step.Setup):
    ids = torch.cat([batch.input_ids.flatten() for batch in setup.batches])
    assert ids.max() > 0.9 * setup.model.config.vocab_size and ids.max() < setup.model.config.vocab_size
