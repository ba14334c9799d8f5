"""One optimisation step's losses and gradients, over one or several micro-batches."""

from __future__ import annotations

import hashlib
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from alignx_eval.engine.batches import decoder_blocks
from alignx_trainer.config import Recipe
from alignx_trainer.losses import LanguageMatcher, contrastive_loss, matching_loss, mean_pool, summed_cross_entropy
from alignx_trainer.tokenize import Batch, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Rows of the feature tensor of a batch [rows, 4, width].
MIDDLE_SOURCE, MIDDLE_TARGET, LAST_SOURCE, LAST_TARGET = range(4)


def resolve_align_layer(align_layer: float, depth: int) -> int:
    """Number of blocks below the aligned state. Raises ValueError outside 1 to `depth`."""
    layer = max(1, round(align_layer * depth)) if align_layer < 1 else int(align_layer)
    if layer > depth:
        raise ValueError(f"align_layer {layer} is above the model's {depth} layers")
    return layer


class Forward(nn.Module):
    """Model and pooling as one module: a batch to its sentence features and its summed next-token loss."""

    def __init__(self, model: PreTrainedModel, align_layer: int) -> None:
        super().__init__()
        self.model = model
        self._no_split_modules = getattr(model, "_no_split_modules", None)  # where FSDP may cut
        self.middle: Tensor | None = None
        self.softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        blocks = decoder_blocks(model.get_decoder(), model.config.get_text_config().num_hidden_layers)
        blocks[align_layer - 1].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.middle = output[0] if isinstance(output, tuple) else output

    def forward(self, batch: Batch, with_features: bool, with_lm: bool) -> tuple[Tensor | None, Tensor | None]:
        """Features [rows, 4, width] float32 (None unless asked), summed cross-entropy over the batch's labels (None
        unless asked)."""
        device = next(self.model.parameters()).device
        outputs = self.model.get_decoder()(
            input_ids=batch.input_ids.to(device), attention_mask=batch.attention_mask.to(device), use_cache=False
        )
        last = outputs.last_hidden_state
        features = lm = None
        if with_features:
            assert self.middle is not None
            source, target = batch.source_mask.to(device), batch.target_mask.to(device)
            # Language matching pools the states that predict a span's tokens: the span moved one to the left.
            features = torch.stack(
                [
                    mean_pool(self.middle, source),
                    mean_pool(self.middle, target),
                    mean_pool(last[:, :-1], source[:, 1:]),
                    mean_pool(last[:, :-1], target[:, 1:]),
                ],
                dim=1,
            )
        if with_lm:
            labels = batch.labels[:, 1:].to(device)
            kept = labels != -100
            lm = summed_cross_entropy(
                last[:, :-1][kept], labels[kept], self.model.get_output_embeddings(), self.softcap
            )
        self.middle = None
        return features, lm


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep the states between the blocks of `model` alone, and make the rest again in the backward pass."""
    settings = {"use_reentrant": False}
    if hasattr(model, "activation_checkpointing_enable"):  # the other's new name
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def check_logits(model: PreTrainedModel) -> None:
    """Final states through the output embeddings must be the model's own logits, or the next-token loss would be
    another one.

    Raises ValueError for models that change the logits in a way this trainer does not know.
    """
    training = model.training
    model.eval()  # no dropout: the two passes are to give the same
    with torch.no_grad():
        ids = torch.arange(4, device=next(model.parameters()).device)[None] % model.config.get_text_config().vocab_size
        expected = model(input_ids=ids, use_cache=False).logits
        logits = model.get_output_embeddings()(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
        softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
    model.train(training)
    if not torch.allclose(expected.float(), logits.float(), atol=1e-3, rtol=1e-3):
        raise ValueError(
            f"{type(model).__name__} changes its logits after the output embeddings; this trainer cannot train it"
        )


@dataclass(slots=True)
class StepLosses:
    """Means over the step's global batch; None where a loss is off or had nothing to work on."""

    lm: float
    lm_tokens: int
    contrastive: float | None = None
    contrastive_accuracy: float | None = None
    matching: float | None = None
    matching_accuracy: float | None = None
    same_language_share: float | None = None
    pairs: int = 0
    # Samples of this process's micro-batches with a loss or features that are not finite.
    not_finite: list[str] = field(default_factory=list)


MEANS = ("contrastive", "contrastive_accuracy", "matching", "matching_accuracy", "same_language_share")


def _equal(texts: list[str]) -> Tensor:
    numbers = {text: index for index, text in enumerate(texts)}
    labels = torch.tensor([numbers[text] for text in texts])
    return labels[:, None] == labels[None]


def alignment_loss(
    features: Tensor,
    samples: list[Sample],
    matcher: LanguageMatcher | None,
    recipe: Recipe,
    losses: StepLosses,
    share: float = 1.0,
) -> Tensor | None:
    """Weighted contrastive and matching loss of `features` [rows, 4, width]; rows without both spans take no part.

    Adds its parts, times `share`, to `losses`. None when fewer than two rows take part.
    """
    rows = [
        index
        for index, sample in enumerate(samples)
        if sample.source_span[1] > sample.source_span[0]
        and sample.target_span[1] > sample.target_span[0]
        and sample.source_language != sample.target_language
    ]
    if len(rows) < 2:
        return None
    chosen, features = [samples[row] for row in rows], features[rows]
    total = features.new_zeros(())
    losses.pairs += len(rows)
    if recipe.contrastive_weight > 0:
        official = recipe.contrastive == "official_code"  # which has no handling of duplicates
        loss, accuracy = contrastive_loss(
            features[:, MIDDLE_SOURCE],
            features[:, MIDDLE_TARGET],
            temperature=recipe.temperature,
            form=recipe.contrastive,
            same_source=None if official else _equal([sample.source for sample in chosen]).to(features.device),
            same_target=None if official else _equal([sample.target for sample in chosen]).to(features.device),
        )
        total = total + recipe.contrastive_weight * loss
        losses.contrastive = (losses.contrastive or 0.0) + share * float(loss.detach())
        losses.contrastive_accuracy = (losses.contrastive_accuracy or 0.0) + share * float(accuracy)
    if recipe.matching_weight > 0 and matcher is not None:
        names = [str(sample.source_language) for sample in chosen] + [str(sample.target_language) for sample in chosen]
        codes = {name: index for index, name in enumerate(sorted(set(names)))}
        language = torch.tensor([codes[name] for name in names], device=features.device)
        vectors = torch.cat([features[:, LAST_SOURCE], features[:, LAST_TARGET]])
        loss, accuracy, same = matching_loss(
            matcher, vectors, language, drop_diagonal=recipe.contrastive != "official_code"
        )
        total = total + recipe.matching_weight * loss
        losses.matching = (losses.matching or 0.0) + share * float(loss.detach())
        losses.matching_accuracy = (losses.matching_accuracy or 0.0) + share * float(accuracy)
        losses.same_language_share = (losses.same_language_share or 0.0) + share * float(same)
    return total * share


def seed_micro_batch(recipe: Recipe, step: int, number: int) -> None:
    """Set the random state that dropout draws from as a function of seed, step and the micro-batch's number in the
    step.

    So it is replayed by setting it again, no random state needs saving, and the number of processes does not matter.
    """
    digest = hashlib.sha256(f"{recipe.seed} {step} {number}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little"))


def accumulate_gradients(
    forward: Any,
    matcher: LanguageMatcher | None,
    micro_batches: list[Batch],
    recipe: Recipe,
    *,
    step: int = 0,
    accelerator: Any = None,
) -> StepLosses:
    """Run one step's forward and backward passes; gradients are left on the parameters.

    `micro_batches` are those of all processes, of equal size; each process works on its own run of them and leaves the
    same gradients as one process working on all. `forward` is a `Forward`, or that as `accelerator` has wrapped it.

    The next-token loss is a mean over the tokens of the step, whichever micro-batch they are in. With `negatives:
    batch` and several micro-batches the contrast spans all of them, and all processes, by gradient caching (Gao et al.
    2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"): features first without a graph,
    the loss's gradient with respect to them once, then each micro-batch again with that gradient as a linear surrogate.
    The random state is replayed, so that dropout agrees between the two passes.
    """
    number, processes = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    count = len(micro_batches) // processes
    assert count * processes == len(micro_batches), "every process takes as many micro-batches"
    own = range(number * count, (number + 1) * count)
    device = next(forward.parameters()).device
    precision = torch.autocast(device.type, dtype=torch.bfloat16) if recipe.dtype == "bfloat16" else nullcontext()
    tokens = max(1, sum(int((batch.labels[:, 1:] != -100).sum()) for batch in micro_batches))
    losses = StepLosses(lm=0.0, lm_tokens=tokens)
    cached = None
    two_passes = recipe.aligns and recipe.negatives == "batch" and len(micro_batches) > 1
    if two_passes:
        pieces = []
        for index in own:
            seed_micro_batch(recipe, step, index)
            with torch.no_grad(), precision:
                pieces.append(forward(micro_batches[index], with_features=True, with_lm=False)[0])
        for index, finite in zip(own, torch.stack([piece.isfinite().all() for piece in pieces]).tolist(), strict=True):
            if not finite:
                losses.not_finite += [sample.identity for sample in micro_batches[index].samples]
        mine = torch.cat(pieces)
        features = (accelerator.gather(mine) if processes > 1 else mine).requires_grad_()
        samples = [sample for batch in micro_batches for sample in batch.samples]
        loss = alignment_loss(features, samples, matcher, recipe, losses)
        if loss is not None:
            loss.backward()
            assert features.grad is not None
            cached = features.grad[number * len(mine) : (number + 1) * len(mine)]
        del pieces, mine, features, loss  # all but `cached`, before the micro-batches need the memory
    start = 0
    for index in own:
        batch = micro_batches[index]
        seed_micro_batch(recipe, step, index)
        # Gradients are exchanged once, with the last micro-batch. They are averaged then, hence `processes` times the
        # loss.
        waits = accelerator.no_sync(forward) if processes > 1 and index != own[-1] else nullcontext()
        with waits:
            with precision:
                features, lm = forward(batch, with_features=recipe.aligns, with_lm=True)
            total = lm / tokens
            summed = float(lm.detach())
            losses.lm += summed / tokens
            finite = math.isfinite(summed)
            if cached is not None:
                total = total + (features * cached[start : start + len(batch.samples)]).sum()
            elif recipe.aligns and not two_passes:
                extra = alignment_loss(features, batch.samples, matcher, recipe, losses, share=1 / len(micro_batches))
                total = total if extra is None else total + extra
                finite = finite and (extra is None or math.isfinite(float(extra.detach())))
            if not finite:
                losses.not_finite += [sample.identity for sample in batch.samples]
            (total * processes).backward()
        start += len(batch.samples)
    if processes > 1:
        _share(losses, matcher, accelerator, same_everywhere=two_passes)
    return losses


def _share(losses: StepLosses, matcher: LanguageMatcher | None, accelerator: Any, *, same_everywhere: bool) -> None:
    """Sum over processes what each knows of its own micro-batches only; average the gradients of the matcher, which
    nothing wraps."""
    names = ["lm"] if same_everywhere else ["lm", *MEANS, "pairs"]
    values = [getattr(losses, name) for name in names]
    own = torch.tensor([[float(value or 0), float(value is not None)] for value in values], device=accelerator.device)
    for name, (total, known) in zip(names, accelerator.reduce(own, reduction="sum").tolist(), strict=True):
        setattr(losses, name, int(total) if name == "pairs" else total if known else None)
    if matcher is not None:
        for parameter in matcher.parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = accelerator.reduce(gradient, reduction="mean")
