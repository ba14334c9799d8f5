"""The step's gradients, the loop's checkpoints, resume, and what is learnt."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from alignx_trainer.config import Recipe
from alignx_trainer.losses import LanguageMatcher
from alignx_trainer.optimizers import learning_rate
from alignx_trainer.order import Order
from alignx_trainer.records import Stream
from alignx_trainer.run_folder import TrainingError
from alignx_trainer.step import (
    MEANS,
    Forward,
    StepLosses,
    accumulate_gradients,
    alignment_loss,
    check_logits,
    resolve_align_layer,
    seed_micro_batch,
)
from alignx_trainer.tokenize import collate
from alignx_trainer.training import train
from helpers.models import tiny_model, tiny_tokenizer
from helpers.training import Stopped, corpus_folder, recipe_for  # noqa: F401

from alignx_eval.checkpoint import open_checkpoint
from alignx_eval.engine.batches import decoder_blocks
from alignx_eval.errors import InputError


def setup(folder: Path, recipe: Recipe, **model_changes):
    tokenizer = tiny_tokenizer()
    model = tiny_model(**model_changes).train()
    torch.manual_seed(3)
    matcher = LanguageMatcher(32, 8)
    samples = Order([Stream(source, "plain") for source in recipe.sources], recipe, tokenizer).batch(0)
    return Forward(model, 1), matcher, samples


def gradients(forward, matcher) -> list[torch.Tensor]:
    found = [
        parameter.grad.clone()
        for module in (forward, matcher)
        for parameter in module.parameters()
        if parameter.grad is not None
    ]
    for module in (forward, matcher):
        module.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("size", [1, 2, 4])
def test_gradient_caching_equals_one_batch(corpus_folder: Path, size: int):  # noqa: F811
    recipe = recipe_for(corpus_folder)
    forward, matcher, samples = setup(corpus_folder, recipe)
    whole = accumulate_gradients(forward, matcher, [collate(samples, 1)], recipe)
    expected = gradients(forward, matcher)
    pieces = accumulate_gradients(
        forward, matcher, [collate(samples[start : start + size], 1) for start in range(0, 8, size)], recipe
    )
    for ours, theirs in zip(gradients(forward, matcher), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    for name in ("lm", "lm_tokens", "pairs", *MEANS):
        assert getattr(pieces, name) == pytest.approx(getattr(whole, name), rel=1e-4), name


def test_gradient_caching_replays_dropout(corpus_folder: Path):  # noqa: F811
    """With dropout the two passes must see the same masks: equal to one graph over the micro-batches with the same
    random states."""
    recipe = recipe_for(corpus_folder)
    forward, matcher, samples = setup(corpus_folder, recipe, attention_dropout=0.3)
    micro_batches = [collate(samples[start : start + 4], 1) for start in (0, 4)]
    accumulate_gradients(forward, matcher, micro_batches, recipe, step=5)
    ours = gradients(forward, matcher)
    outputs = []
    for number, batch in enumerate(micro_batches):
        seed_micro_batch(recipe, 5, number)
        outputs.append(forward(batch, True, True))
    features, lm = zip(*outputs, strict=True)
    losses = StepLosses(0.0, 1)
    tokens = sum(int((batch.labels[:, 1:] != -100).sum()) for batch in micro_batches)
    (sum(lm) / tokens + alignment_loss(torch.cat(features), samples, matcher, recipe, losses)).backward()
    for mine, theirs in zip(ours, gradients(forward, matcher), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_micro_negatives_are_another_loss(corpus_folder: Path):  # noqa: F811
    recipe = recipe_for(corpus_folder)
    forward, matcher, samples = setup(corpus_folder, recipe)
    micro_batches = [collate(samples[start : start + 2], 1) for start in range(0, 8, 2)]
    batch = accumulate_gradients(forward, matcher, micro_batches, recipe)
    micro = accumulate_gradients(forward, matcher, micro_batches, dataclasses.replace(recipe, negatives="micro"))
    assert micro.contrastive < batch.contrastive  # one negative instead of seven
    assert micro.lm == pytest.approx(batch.lm, rel=1e-5)


def test_next_token_loss_is_the_models_own(corpus_folder: Path):  # noqa: F811
    recipe = recipe_for(corpus_folder, contrastive_weight=0.0, matching_weight=0.0)
    forward, matcher, samples = setup(corpus_folder, recipe)
    batch = collate(samples, 1)
    ours = accumulate_gradients(forward, matcher, [batch], recipe)
    expected = forward.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
    ).loss
    assert ours.lm == pytest.approx(float(expected.detach()), rel=1e-5)


def test_features_are_those_of_hidden_states(corpus_folder: Path):  # noqa: F811
    forward, _, samples = setup(corpus_folder, recipe_for(corpus_folder))
    batch = collate(samples, 1)
    features, _ = forward(batch, True, False)
    states = forward.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True, use_cache=False
    ).hidden_states
    for row, sample in enumerate(samples):
        (s0, s1), (t0, t1) = sample.source_span, sample.target_span
        # The last state is taken where it predicts the span: one position earlier.
        expected = [
            states[1][row, s0:s1],
            states[1][row, t0:t1],
            states[-1][row, s0 - 1 : s1 - 1],
            states[-1][row, t0 - 1 : t1 - 1],
        ]
        torch.testing.assert_close(
            features[row], torch.stack([state.mean(0) for state in expected]), atol=1e-5, rtol=1e-4
        )


def test_all_alignment_gradient_stays_below_the_align_layer(corpus_folder: Path):  # noqa: F811
    recipe = recipe_for(corpus_folder, matching_weight=0.0)
    forward, matcher, samples = setup(corpus_folder, recipe)
    features, _ = forward(collate(samples, 1), True, False)
    alignment_loss(features, samples, matcher, recipe, StepLosses(0.0, 1)).backward()
    blocks = decoder_blocks(forward.model.get_decoder(), 2)
    assert blocks[0].mlp.down_proj.weight.grad.abs().sum() > 0
    assert not blocks[1].mlp.down_proj.weight.grad.any()  # the last states are in the graph, with a gradient of 0


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "gpt_neox", "qwen3", "phi3"])
def test_other_families_have_blocks_and_plain_logits(family: str):
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": 0,
    }
    config = AutoConfig.for_model(family, **settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert len(decoder_blocks(model.get_decoder(), model.config.num_hidden_layers)) == model.config.num_hidden_layers
    check_logits(model)


def test_align_layer_resolves():
    assert [resolve_align_layer(layer, 6) for layer in (0.5, 3, 6, 0.01)] == [3, 3, 6, 1]
    with pytest.raises(ValueError, match="above the model's 6 layers"):
        resolve_align_layer(7, 6)


def test_learning_rate_schedule(corpus_folder: Path):  # noqa: F811
    recipe = recipe_for(corpus_folder, steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(step, 100, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[55] == pytest.approx(0.5) and rates[99] < 0.02
    cosine = dataclasses.replace(recipe, schedule="cosine", final_learning_rate=0.1)
    assert learning_rate(55, 100, cosine) == pytest.approx(0.55) and learning_rate(100, 100, cosine) == pytest.approx(
        0.1
    )


def test_a_run_leaves_a_checkpoint_a_log_and_provenance(corpus_folder: Path, tmp_path: Path):  # noqa: F811
    path = train(recipe_for(corpus_folder, steps=40), tmp_path / "run", device="cpu")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(1, 41))
    assert log[-1]["lm"] < log[0]["lm"] - 0.5
    checkpoint = open_checkpoint(str(path))
    assert (checkpoint.stage, checkpoint.step, checkpoint.align_layer, checkpoint.prompt_template) == (
        "stage1",
        40,
        1,
        "plain",
    )
    assert {name.removeprefix("language_matcher.") for name in checkpoint.heads} == {
        "gate.weight",
        "up.weight",
        "down.weight",
    }
    (stage,) = checkpoint.provenance["stages"]
    assert (
        stage["tokens"] == log[-1]["tokens"]
        and stage["flops"] > 0
        and stage["peak_memory_bytes"] > 1e6
        and stage["seconds"] > 0
    )
    assert stage["data"][0]["languages"] == ["deu_Latn", "eng_Latn"]
    assert not (tmp_path / "run" / "state.pt").exists()
    # The second stage carries the history on.
    second = train(
        recipe_for(corpus_folder, stage="stage2", init=str(path), contrastive_weight=0.0, matching_weight=0.0),
        tmp_path / "two",
        device="cpu",
    )
    following = open_checkpoint(str(second))
    assert [entry["stage"] for entry in following.provenance["stages"]] == ["stage1", "stage2"]
    assert following.align_layer == 1 and following.heads is None


@pytest.mark.parametrize("cut", [2, 3, 5])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_is_bit_exact(corpus_folder: Path, tmp_path: Path, cut: int, optimizer: str):  # noqa: F811
    recipe = recipe_for(corpus_folder, optimizer=optimizer, micro_batch_size=4)

    def stop(done, total, entry):
        if done == cut:
            raise Stopped

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = open_checkpoint(str(train(recipe, tmp_path / "whole", device="cpu")))
        with pytest.raises(Stopped):
            train(recipe, tmp_path / "cut", device="cpu", progress=stop)
        resumed = open_checkpoint(str(train(recipe, tmp_path / "cut", device="cpu")))
    finally:
        torch.set_num_threads(threads)
    for (name, ours), theirs in zip(resumed.model.state_dict().items(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    logs = [
        [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "cut")
    ]
    assert [entry["lm"] for entry in logs[0]] == [entry["lm"] for entry in logs[1]]
    assert [entry["step"] for entry in logs[1]] == [1, 2, 3, 4, 5, 6]


def test_a_folder_of_another_recipe_is_left_alone(corpus_folder: Path, tmp_path: Path):  # noqa: F811
    train(recipe_for(corpus_folder, steps=1), tmp_path / "run", device="cpu")
    with pytest.raises(InputError, match="another recipe"):
        train(recipe_for(corpus_folder, steps=2), tmp_path / "run", device="cpu")


def test_non_finite_loss_stops_with_the_samples(corpus_folder: Path, tmp_path: Path):  # noqa: F811
    with pytest.raises(TrainingError, match=r"not finite.*eng_Latn|not finite.*deu_Latn"):
        train(
            recipe_for(corpus_folder, steps=30, learning_rate=1e30, max_grad_norm=1e30, warmup_steps=0),
            tmp_path / "run",
            device="cpu",
        )
    assert not (tmp_path / "run" / "model.pt").exists()
