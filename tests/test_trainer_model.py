"""The step on real models: every family, precision, adapters, activation checkpointing, dropout, token weights, the
official formulas."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from alignx_trainer.config import Recipe, Source
from alignx_trainer.losses import LanguageMatcher, summed_cross_entropy
from alignx_trainer.model import add_adapters
from alignx_trainer.optimizers import build_optimizers
from alignx_trainer.order import Order
from alignx_trainer.records import Stream
from alignx_trainer.step import (
    Forward,
    StepLosses,
    accumulate_gradients,
    alignment_loss,
    check_logits,
    checkpoint_activations,
    seed_micro_batch,
)
from alignx_trainer.tokenize import Batch, collate
from alignx_trainer.training import train
from helpers import tiny_models
from helpers.models import tiny_model, tiny_tokenizer
from helpers.training import Stopped, recipe_for
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alignx_eval.checkpoint import open_checkpoint, write_checkpoint
from alignx_eval.engine.batches import decoder_blocks

FAMILIES = ("llama", "gemma2", "gemma3_text", "mistral", "qwen2", "qwen3", "phi3", "gpt_neox", "gpt2")


def family_model(family: str) -> Any:
    changes = {
        "gemma2": {"sliding_window": 8},
        "gemma3_text": {"sliding_window": 8},
        "mistral": {"sliding_window": 8},
    }.get(family, {})
    return tiny_models.model(family, vocabulary=320, **changes).train()


def matcher_of(width: int = 32, inner: int = 8) -> LanguageMatcher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return LanguageMatcher(width, inner)


def batches(recipe: Recipe, size: int | None = None, *, step: int = 0) -> list[Batch]:
    """The micro-batches of a step of `recipe`, of `size` samples, tokenized by the tiny tokenizer."""
    samples = Order([Stream(source, "plain") for source in recipe.sources], recipe, tiny_tokenizer()).batch(step)
    size = size or recipe.micro_batch_size
    return [collate(samples[start : start + size], 1) for start in range(0, len(samples), size)]


def named_gradients(*modules: nn.Module) -> dict[str, Tensor]:
    """Gradients by name, which are taken away from the modules."""
    found = {}
    for place, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                found[f"{place} {name}"] = parameter.grad.clone()
        module.zero_grad(set_to_none=True)
    return found


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Equal to `tolerance` of the largest gradient, or to `tolerance` where that is below 1."""
    assert ours.keys() == theirs.keys() and ours
    scale = max(1.0, *(float(gradient.abs().max()) for gradient in theirs.values()))
    for name, gradient in ours.items():
        torch.testing.assert_close(
            gradient, theirs[name], atol=tolerance * scale, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


# The formulas of the paper's public code, written out


def official_contrastive(source: Tensor, target: Tensor) -> Tensor:
    """Half the negative mean of LogSoftmax over the targets of cosine / 0.1, sample by sample."""
    terms = []
    for index in range(len(source)):
        similarity = torch.stack([F.cosine_similarity(source[index], candidate, dim=0) for candidate in target])
        terms.append(F.log_softmax(similarity / 0.1, dim=0)[index])
    return -torch.stack(terms).mean() / 2


def official_matching(matcher: LanguageMatcher, source: Tensor, target: Tensor, languages: list[str]) -> Tensor:
    """Cross entropy over all (2B)^2 ordered pairs, made by repeating and concatenating, a vector with itself among
    them."""
    vectors = torch.cat([source, target])
    count = len(vectors)
    pairs = torch.cat([vectors.repeat_interleave(count, dim=0), vectors.repeat(count, 1)], dim=-1)
    logits = (F.silu(pairs @ matcher.gate.weight.T) * (pairs @ matcher.up.weight.T)) @ matcher.down.weight.T
    same = torch.tensor([int(one == two) for one in languages for two in languages])
    return F.cross_entropy(logits, same)


def official_losses(model: Any, matcher: LanguageMatcher, batch: Batch, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Next-token, contrastive and matching loss of one batch, from the model's own loss and `output_hidden_states`,
    span by span."""
    outputs = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        labels=batch.labels,
        output_hidden_states=True,
        use_cache=False,
    )
    middle, last = outputs.hidden_states[layer], outputs.hidden_states[-1]
    pooled: list[list[Tensor]] = [[], [], [], []]
    for row, sample in enumerate(batch.samples):
        for place, (start, end) in enumerate((sample.source_span, sample.target_span)):
            pooled[place].append(middle[row, start:end].mean(0))
            pooled[2 + place].append(last[row, start - 1 : end - 1].mean(0))
    middle_source, middle_target, last_source, last_target = (torch.stack(vectors) for vectors in pooled)
    languages = [str(sample.source_language) for sample in batch.samples] + [
        str(sample.target_language) for sample in batch.samples
    ]
    return (
        outputs.loss,
        official_contrastive(middle_source, middle_target),
        official_matching(matcher, last_source, last_target, languages),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_one_graph_of_the_models_own(corpus_folder: Path, family: str):  # noqa: F811
    recipe = recipe_for(corpus_folder, contrastive="official_code")
    model, matcher = family_model(family), matcher_of()
    forward, (batch,) = Forward(model, 1), batches(recipe)
    losses = accumulate_gradients(forward, matcher, [batch], recipe)
    ours = named_gradients(model, matcher)
    seed_micro_batch(recipe, 0, 0)  # GPT-2 has dropout by default
    lm, contrastive, matching = official_losses(model, matcher, batch, 1)
    (lm + recipe.contrastive_weight * contrastive + recipe.matching_weight * matching).backward()
    assert losses.lm == pytest.approx(float(lm.detach()), rel=1e-5)
    assert losses.contrastive == pytest.approx(float(contrastive.detach()), rel=1e-5)
    assert losses.matching == pytest.approx(float(matching.detach()), rel=1e-5)
    assert_same_gradients(ours, named_gradients(model, matcher), 1e-5)
    assert set(ours) == {
        f"{place} {name}" for place, part in enumerate((model, matcher)) for name, _ in part.named_parameters()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_near_float32(corpus_folder: Path, family: str):  # noqa: F811
    recipe = recipe_for(corpus_folder)
    model, matcher = family_model(family), matcher_of()
    forward, micro_batches = Forward(model, 1), batches(recipe, 4)
    exact = accumulate_gradients(forward, matcher, micro_batches, recipe)
    expected = named_gradients(model, matcher)
    rough = accumulate_gradients(forward, matcher, micro_batches, dataclasses.replace(recipe, dtype="bfloat16"))
    ours = named_gradients(model, matcher)
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        assert gradient.dtype == torch.float32 and gradient.isfinite().all(), name
    for name in ("lm", "contrastive", "matching"):
        assert getattr(rough, name) == pytest.approx(getattr(exact, name), rel=0.05), name
    flat = [torch.cat([found[name].flatten() for name in expected]) for found in (ours, expected)]
    assert not torch.equal(*flat)
    assert float(F.cosine_similarity(*flat, dim=0)) > 0.98


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_no_change_of_the_logits(family: str):
    changes = {"attn_pdrop": 0.3, "embd_pdrop": 0.3} if family == "gpt2" else {"attention_dropout": 0.3}
    model = tiny_models.model(family, vocabulary=320, **changes).train()
    check_logits(model)
    assert model.training and all(module.training for module in model.modules())


# The official values


@pytest.mark.parametrize("size", [8, 2])
def test_official_code_reproduces_the_official_values(corpus_folder: Path, size: int):  # noqa: F811
    """One micro-batch of the batch, and several with negatives of their own, as the official code accumulates
    gradients."""
    recipe = recipe_for(corpus_folder, contrastive="official_code", negatives="micro")
    model, matcher = tiny_models.model(vocabulary=320), matcher_of()
    micro_batches = batches(recipe, size)
    losses = accumulate_gradients(Forward(model, 1), matcher, micro_batches, recipe)
    parts = [official_losses(model.double(), matcher.double(), batch, 1) for batch in micro_batches]
    _, contrastive, matching = (torch.stack(values).mean().item() for values in zip(*parts, strict=True))
    assert losses.contrastive == pytest.approx(contrastive, abs=1e-6)
    assert losses.matching == pytest.approx(matching, abs=1e-6)
    assert losses.pairs == 8


def test_official_code_with_gradient_caching_is_one_large_batch(corpus_folder: Path):  # noqa: F811
    recipe = recipe_for(corpus_folder, contrastive="official_code")
    model, matcher = tiny_models.model(vocabulary=320), matcher_of()
    losses = accumulate_gradients(Forward(model, 1), matcher, batches(recipe, 2), recipe)
    _, contrastive, matching = official_losses(model.double(), matcher.double(), batches(recipe, 8)[0], 1)
    assert losses.contrastive == pytest.approx(contrastive.item(), abs=1e-6)
    assert losses.matching == pytest.approx(matching.item(), abs=1e-6)


# Token weights


@pytest.fixture(scope="module")
def unequal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of 1 to 20 words."""
    folder = tmp_path_factory.mktemp("unequal")
    lines = [
        " ".join(f"w{number}" for number in range(start, start + length))
        for start, length in enumerate((1, 2, 3, 20) * 4)
    ]
    (folder / "eng_Latn.txt").write_text("\n".join(lines) + "\n")
    (folder / "deu_Latn.txt").write_text("\n".join(line.upper() for line in lines) + "\n")
    return folder


@pytest.mark.parametrize("aligned", [True, False])
def test_accumulation_weighs_tokens(unequal_folder: Path, aligned: bool):
    weights = {} if aligned else {"contrastive_weight": 0.0, "matching_weight": 0.0}
    recipe = recipe_for(unequal_folder, max_length=256, **weights)
    model, matcher = tiny_model(max_position_embeddings=256).train(), matcher_of()
    forward = Forward(model, 1)
    samples = sorted(
        (sample for step in range(4) for batch in batches(recipe, step=step) for sample in batch.samples),
        key=lambda sample: sum(sample.trained),
    )
    samples = [*samples[:4], *samples[-4:]]
    found = {}
    for size in (8, 1, 2, 4):
        micro_batches = [collate(samples[start : start + size], 1) for start in range(0, 8, size)]
        losses = accumulate_gradients(forward, matcher, micro_batches, recipe)
        found[size] = losses, named_gradients(model, matcher)
    losses, expected = found[8]
    for size in (1, 2, 4):
        assert found[size][0].lm == pytest.approx(losses.lm, rel=1e-5)
        assert found[size][0].lm_tokens == losses.lm_tokens == sum(sum(sample.trained) for sample in samples)
        assert_same_gradients(found[size][1], expected, 1e-6)
    alone = dataclasses.replace(recipe, contrastive_weight=0.0, matching_weight=0.0)
    means = [accumulate_gradients(forward, None, [collate([sample], 1)], alone) for sample in samples]
    means_gradients = {name: gradient / 8 for name, gradient in named_gradients(model).items()}
    assert abs(sum(loss.lm for loss in means) / 8 - losses.lm) > 1e-3  # so a mean of means would have been seen
    if not aligned:
        with pytest.raises(AssertionError):
            assert_same_gradients(means_gradients, expected, 1e-4)


# Dropout


@pytest.mark.parametrize("size", [1, 2, 8])
def test_gradient_caching_with_dropout_is_one_graph_with_the_random_state_replayed(corpus_folder: Path, size: int):  # noqa: F811
    recipe = recipe_for(corpus_folder)
    model, matcher = tiny_model(attention_dropout=0.3).train(), matcher_of()
    forward, micro_batches = Forward(model, 1), batches(recipe, size)
    losses = accumulate_gradients(forward, matcher, micro_batches, recipe, step=7)
    ours = named_gradients(model, matcher)

    def one_graph(step: int) -> tuple[dict[str, Tensor], StepLosses]:
        outputs, samples = [], []
        for number, batch in enumerate(micro_batches):
            seed_micro_batch(recipe, step, number)
            outputs.append(forward(batch, True, True))
            samples += batch.samples
        features, lm = zip(*outputs, strict=True)
        found = StepLosses(0.0, 1)
        tokens = sum(int((batch.labels[:, 1:] != -100).sum()) for batch in micro_batches)
        (sum(lm) / tokens + alignment_loss(torch.cat(features), samples, matcher, recipe, found)).backward()
        return named_gradients(model, matcher), found

    expected, found = one_graph(7)
    assert_same_gradients(ours, expected, 1e-6)
    assert losses.contrastive == pytest.approx(found.contrastive, rel=1e-5)
    other, _ = one_graph(8)  # the masks of another step
    assert max(float((other[name] - expected[name]).abs().max()) for name in expected) > 1e-4


# Activation checkpointing


def checkpointed(model: Any) -> Any:
    checkpoint_activations(model)
    return model.train()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [8, 2])
def test_activation_checkpointing_changes_no_gradient(corpus_folder: Path, family: str, size: int):  # noqa: F811
    recipe = recipe_for(corpus_folder)
    changes = {"attn_pdrop": 0.3, "resid_pdrop": 0.1} if family == "gpt2" else {"attention_dropout": 0.3}
    matcher, micro_batches, found = matcher_of(), batches(recipe, size), []
    for checkpointing in (False, True):
        model = tiny_models.model(family, vocabulary=320, **changes).train()
        if checkpointing:
            checkpointed(model)
        forward, runs = Forward(model, 1), [0]
        blocks = decoder_blocks(model.get_decoder(), 2)

        def count(*_: Any, runs: list[int] = runs) -> None:
            runs[0] += 1

        blocks[0].mlp.register_forward_pre_hook(count)
        losses = accumulate_gradients(forward, matcher, micro_batches, recipe, step=3)
        assert forward.middle is None  # no states are held after the step
        found.append((losses, named_gradients(model, matcher), runs[0]))
    (plain, expected, runs_plain), (ours, gradients, runs_again) = found
    assert runs_again == runs_plain + len(micro_batches)  # the blocks really ran again
    assert_same_gradients(gradients, expected, 1e-6)
    for name in ("lm", "contrastive", "matching"):
        assert getattr(ours, name) == pytest.approx(getattr(plain, name), rel=1e-6)


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_hook_sees_the_state_of_its_layer_under_activation_checkpointing(corpus_folder: Path, layer: int):  # noqa: F811
    recipe = recipe_for(corpus_folder)
    model = checkpointed(tiny_model(num_hidden_layers=3))
    (batch,) = batches(recipe)
    features, _ = Forward(model, layer)(batch, True, False)
    states = model.eval()(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True, use_cache=False
    ).hidden_states
    with torch.no_grad():
        # `output_hidden_states` gives the last state after the final norm; before it is what the aligned block says.
        middle = states[layer] if layer < 3 else None
    kept = {}
    decoder_blocks(model.get_decoder(), 3)[layer - 1].register_forward_hook(
        lambda module, arguments, output: kept.update(state=output)
    )
    model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    state = kept["state"][0] if isinstance(kept["state"], tuple) else kept["state"]
    if middle is not None:
        torch.testing.assert_close(state, middle)
    for row, sample in enumerate(batch.samples):
        expected = torch.stack([state[row, slice(*span)].mean(0) for span in (sample.source_span, sample.target_span)])
        torch.testing.assert_close(features[row, :2], expected, atol=1e-5, rtol=1e-4)


def test_a_run_with_activation_checkpointing_learns_the_same(corpus_folder: Path, tmp_path: Path):  # noqa: F811
    model = {**recipe_for(corpus_folder).model, "attention_dropout": 0.2}
    weights = []
    for name, checkpointing in (("plain", False), ("again", True)):
        recipe = recipe_for(
            corpus_folder, model=model, activation_checkpointing=checkpointing, micro_batch_size=4, steps=4
        )
        weights.append(open_checkpoint(str(train(recipe, tmp_path / name, device="cpu"))).model.state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-6, rtol=0)


# The fused cross-entropy


def plain_cross_entropy(hidden: Tensor, labels: Tensor, head: nn.Module, softcap: float | None) -> Tensor:
    logits = head(hidden)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def problem(
    tokens: int = 11, vocabulary: int = 50, width: int = 6, *, bias: bool = False
) -> tuple[Tensor, Tensor, nn.Linear]:
    torch.manual_seed(2)
    head = nn.Linear(width, vocabulary, bias=bias)
    return torch.randn(tokens, width, requires_grad=True), torch.randint(0, vocabulary, (tokens,)), head


@pytest.mark.parametrize("at_once", [1, 50, 149, 150, 10**6])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True])
def test_cross_entropy_equals_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, at_once: int, softcap: float | None, bias: bool
):
    monkeypatch.setattr("alignx_trainer.losses.LOGITS_AT_ONCE", at_once)
    hidden, labels, head = problem(bias=bias)
    inputs = [hidden, *head.parameters()]
    expected = plain_cross_entropy(hidden, labels, head, softcap)
    ours = summed_cross_entropy(hidden, labels, head, softcap)
    torch.testing.assert_close(ours, expected)
    # An upstream factor, as a mean over tokens has one.
    for mine, theirs in zip(
        torch.autograd.grad(ours / 7, inputs), torch.autograd.grad(expected / 7, inputs), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_cross_entropy_gradient_is_the_slope_in_float64():
    """By finite differences of the naive loss in double precision, not by the same derivation."""
    hidden, labels, head = problem(tokens=4, vocabulary=9, width=3)
    gradients = torch.autograd.grad(summed_cross_entropy(hidden, labels, head, 2.0), [hidden, head.weight])
    double_head = nn.Linear(3, 9, bias=False).double()
    with torch.no_grad():
        double_head.weight.copy_(head.weight)
    states = hidden.detach().double()

    def loss() -> float:
        logits = torch.tanh(double_head(states) / 2.0) * 2.0
        return float(F.cross_entropy(logits, labels, reduction="sum"))

    with torch.no_grad():
        for tensor, gradient in ((states, gradients[0]), (double_head.weight, gradients[1])):
            flat = tensor.view(-1)
            for index in range(flat.numel()):
                values = []
                for change in (1e-5, -1e-5):
                    flat[index] += change
                    values.append(loss())
                    flat[index] -= change
                assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient.view(-1)[index]), abs=1e-5)


def test_cross_entropy_makes_no_gradient_of_what_is_frozen():
    hidden, labels, head = problem(bias=True)
    expected = torch.autograd.grad(plain_cross_entropy(hidden, labels, head, None), [hidden, head.weight, head.bias])
    head.requires_grad_(False)
    summed_cross_entropy(hidden, labels, head, None).backward()
    assert head.weight.grad is None and head.bias.grad is None
    torch.testing.assert_close(hidden.grad, expected[0], atol=1e-6, rtol=1e-5)
    head.requires_grad_(True)
    summed_cross_entropy(hidden.detach(), labels, head, None).backward()
    torch.testing.assert_close(head.weight.grad, expected[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(head.bias.grad, expected[2], atol=1e-6, rtol=1e-5)
    head.requires_grad_(False)
    assert not summed_cross_entropy(hidden.detach(), labels, head, None).requires_grad


def test_cross_entropy_of_no_tokens_is_zero():
    hidden, labels, head = problem(tokens=0, bias=True)
    loss = summed_cross_entropy(hidden, labels, head, None)
    assert float(loss.detach()) == 0
    loss.backward()
    assert hidden.grad.shape == (0, 6) and not head.weight.grad.any() and not head.bias.grad.any()


def test_cross_entropy_without_a_graph():
    hidden, labels, head = problem()
    expected = float(plain_cross_entropy(hidden, labels, head, 3.0).detach())
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            loss = summed_cross_entropy(hidden, labels, head, 3.0)
        assert not loss.requires_grad and float(loss) == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_with_tied_embeddings():
    torch.manual_seed(4)
    table, head, ids = nn.Embedding(30, 5), nn.Linear(5, 30, bias=False), torch.randint(0, 30, (12,))
    head.weight = table.weight
    gradients = []
    for function in (plain_cross_entropy, summed_cross_entropy):
        table.zero_grad()
        function(torch.tanh(table(ids[:-1])), ids[1:], head, None).backward()
        gradients.append(table.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("half_states", [False, True])
def test_cross_entropy_under_autocast(monkeypatch: pytest.MonkeyPatch, softcap: float | None, half_states: bool):
    monkeypatch.setattr("alignx_trainer.losses.LOGITS_AT_ONCE", 150)
    hidden, labels, head = problem(tokens=40, bias=True)
    if half_states:
        hidden = hidden.detach().bfloat16().requires_grad_()
    inputs = [hidden, *head.parameters()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = plain_cross_entropy(hidden, labels, head, softcap)
        ours = summed_cross_entropy(hidden, labels, head, softcap)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-2, atol=0)
    for mine, theirs, tensor in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(expected, inputs), inputs, strict=True
    ):
        assert mine.dtype == tensor.dtype
        torch.testing.assert_close(mine.float(), theirs.float(), atol=0.03 * float(theirs.abs().max()), rtol=0)


def test_cross_entropy_is_differentiated_once():
    """The gradients are used up by the first pass back; a second one must say so, not give nothing."""
    hidden, labels, head = problem()
    loss = summed_cross_entropy(hidden, labels, head, None)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        self.elements = max(
            self.elements, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)), 0
        )
        return result


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_cross_entropy_never_holds_all_logits(monkeypatch: pytest.MonkeyPatch, softcap: float | None):
    tokens, vocabulary, width = 64, 500, 4
    hidden, labels, head = problem(tokens, vocabulary, width)
    with Largest() as plain:
        plain_cross_entropy(hidden, labels, head, softcap).backward()
    assert plain.elements == tokens * vocabulary  # so the spy sees them where they are
    monkeypatch.setattr("alignx_trainer.losses.LOGITS_AT_ONCE", 3 * vocabulary)
    with Largest() as ours:
        summed_cross_entropy(hidden, labels, head, softcap).backward()
    assert ours.elements == max(3 * vocabulary, vocabulary * width)


def test_a_step_never_holds_all_logits(corpus_folder: Path, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    recipe = recipe_for(corpus_folder, contrastive_weight=0.0, matching_weight=0.0)
    (batch,) = batches(recipe)
    model = tiny_model(vocab_size=3000).train()
    monkeypatch.setattr("alignx_trainer.losses.LOGITS_AT_ONCE", 30_000)
    with Largest() as ours:
        losses = accumulate_gradients(Forward(model, 1), None, [batch], recipe)
    assert ours.elements == 3000 * 32 < losses.lm_tokens * 3000  # the table of the embeddings and its gradient


# Adapters


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.pt"
    write_checkpoint(
        path,
        model=tiny_model(max_position_embeddings=256),
        tokenizer=tiny_tokenizer(),
        stage="pretrain",
        step=1,
        prompt_template="plain",
        heads=None,
        recipe={},
        provenance={},
    )
    return path


def adapter_recipe(folder: Path, base: Path, **changes: Any) -> Recipe:
    pytest.importorskip("peft")
    fields = {
        "init": str(base),
        "model": {},
        "lora_rank": 2,
        "lora_alpha": 8,
        "learning_rate": 1e-2,
        "micro_batch_size": 4,
    }
    return recipe_for(folder, **(fields | changes))


def logits_of(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 60)[None], use_cache=False).logits


def test_only_adapters_learn(corpus_folder: Path, base: Path):  # noqa: F811
    recipe = adapter_recipe(corpus_folder, base, lora_dropout=0.1)
    model = open_checkpoint(str(base)).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_adapters(model, recipe)
    model.train()
    forward, matcher = Forward(model, 1), matcher_of()
    start = {name: tensor.clone() for name, tensor in model.named_parameters() if "lora_" in name}
    optimizers = build_optimizers(model, matcher, recipe)
    held = {
        id(parameter) for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]
    }
    assert held == {id(p) for n, p in model.named_parameters() if "lora_" in n} | {id(p) for p in matcher.parameters()}
    for step in range(3):
        accumulate_gradients(forward, matcher, batches(recipe, 4, step=step), recipe, step=step)
        assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == set(start)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    after = {
        name.replace(".base_layer", ""): tensor for name, tensor in model.state_dict().items() if "lora_" not in name
    }
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    now = dict(model.named_parameters())
    for name, tensor in start.items():
        assert not torch.equal(now[name], tensor), name


def test_the_checkpoint_holds_the_merged_adapter(corpus_folder: Path, base: Path, tmp_path: Path, monkeypatch):  # noqa: F811
    peft = pytest.importorskip("peft")

    monkeypatch.chdir(tmp_path)
    reference = Path(os.path.relpath(base, tmp_path))  # the adapter must find its base from elsewhere too
    path = train(adapter_recipe(corpus_folder, reference, lora_dropout=0.1), tmp_path / "run", device="cpu")
    ours = logits_of(open_checkpoint(str(path)).model)
    loaded = peft.PeftModel.from_pretrained(open_checkpoint(str(base)).model, str(tmp_path / "run" / "adapter")).eval()
    torch.testing.assert_close(ours, logits_of(loaded), atol=1e-5, rtol=0)
    assert not torch.allclose(ours, logits_of(open_checkpoint(str(base)).model), atol=1e-3)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    opened = open_checkpoint(str(tmp_path / "run" / "adapter"))
    assert (
        opened.format == "adapter" and opened.provenance["base_content_hash"] == open_checkpoint(str(base)).content_hash
    )
    torch.testing.assert_close(ours, logits_of(opened.model), atol=1e-5, rtol=0)
    stage = open_checkpoint(str(path)).provenance["stages"][-1]
    adapter_size = sum(parameter.numel() for name, parameter in loaded.named_parameters() if "lora_" in name)
    modes = {file.stat().st_mode & 0o777 for file in (path, *(tmp_path / "run" / "adapter").iterdir())}
    assert len(modes) == 1  # the umask's, for others to read as far as it lets them
    assert stage["trained_parameters"] == adapter_size and "peft" in stage["versions"]


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_resume_with_adapters_is_bit_exact(corpus_folder: Path, base: Path, tmp_path: Path, cut: int):  # noqa: F811
    recipe = adapter_recipe(corpus_folder, base, lora_dropout=0.2)

    def stop(done: int, total: int, entry: dict[str, Any]) -> None:
        if done == cut:
            raise Stopped

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = open_checkpoint(str(train(recipe, tmp_path / "whole", device="cpu")))
        with pytest.raises(Stopped):
            train(recipe, tmp_path / "cut", device="cpu", progress=stop)
        assert (tmp_path / "cut" / "state.pt").is_file() == (cut > 2)
        resumed = open_checkpoint(str(train(recipe, tmp_path / "cut", device="cpu")))
        other = train(dataclasses.replace(recipe, lora_dropout=0.0), tmp_path / "other", device="cpu")
    finally:
        torch.set_num_threads(threads)
    for (name, ours), theirs in zip(resumed.model.state_dict().items(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    for name, tensor in whole.heads.items():
        assert torch.equal(resumed.heads[name], tensor), name
    logs = [
        [json.loads(line) for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "cut", "other")
    ]
    assert [entry["lm"] for entry in logs[0]] == [entry["lm"] for entry in logs[1]]
    assert [entry["lm"] for entry in logs[0]] != [entry["lm"] for entry in logs[2]]  # dropout was at work
    assert not torch.equal(logits_of(open_checkpoint(str(other)).model), logits_of(whole.model))


def test_the_state_of_a_run_with_adapters_holds_adapters_only(corpus_folder: Path, base: Path, tmp_path: Path):  # noqa: F811
    def stop(done: int, total: int, entry: dict[str, Any]) -> None:
        if done == 3:
            raise Stopped

    sizes = []
    for name, recipe in (
        ("adapters", adapter_recipe(corpus_folder, base, sources=(Source("translation", str(corpus_folder)),))),
        ("whole", adapter_recipe(corpus_folder, base, lora_rank=0)),
    ):
        with pytest.raises(Stopped):
            train(recipe, tmp_path / name, device="cpu", progress=stop)
        sizes.append((tmp_path / name / "state.pt").stat().st_size)
    state = torch.load(tmp_path / "adapters" / "state.pt", weights_only=True)
    assert state["model"] and all("lora_" in name for name in state["model"])
    moments = [values for optimizer in state["optimizers"] for values in optimizer["state"].values()]
    assert sum(values["exp_avg"].numel() for values in moments) == sum(
        tensor.numel() for tensor in state["model"].values()
    )
    assert sizes[0] < sizes[1] / 2
