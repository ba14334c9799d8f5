"""One optimisation step's losses and gradients, over one or several micro-batches."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alignx_eval.encode import decoder_blocks
from alignx_trainer.config import Recipe
from alignx_trainer.data import Batch, Sample
from alignx_trainer.losses import LanguageMatcher, contrastive_loss, matching_loss, mean_pool, summed_cross_entropy

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

    def __init__(self, model: Any, align_layer: int) -> None:
        super().__init__()
        self.model = model
        self.middle: Tensor | None = None
        self.softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        blocks = decoder_blocks(model.get_decoder(), model.config.get_text_config().num_hidden_layers)
        blocks[align_layer - 1].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.middle = output[0] if isinstance(output, tuple) else output

    def forward(self, batch: Batch, with_features: bool, with_lm: bool) -> tuple[Tensor | None, Tensor | None]:
        """Features [rows, 4, width] float32 (None unless asked), summed cross-entropy over the batch's labels (None unless asked)."""
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
            lm = summed_cross_entropy(last[:, :-1][kept], labels[kept], self.model.get_output_embeddings(), self.softcap)
        self.middle = None
        return features, lm


def check_logits(model: Any) -> None:
    """Final states through the output embeddings must be the model's own logits, or the next-token loss would be another one.

    Raises ValueError for models that change the logits in a way this trainer does not know.
    """
    with torch.no_grad():
        ids = torch.arange(4, device=next(model.parameters()).device)[None] % model.config.get_text_config().vocab_size
        expected = model(input_ids=ids, use_cache=False).logits
        logits = model.get_output_embeddings()(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
        softcap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
    if not torch.allclose(expected.float(), logits.float(), atol=1e-3, rtol=1e-3):
        raise ValueError(f"{type(model).__name__} changes its logits after the output embeddings; this trainer cannot train it")


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


def _equal(texts: list[str]) -> Tensor:
    numbers = {text: index for index, text in enumerate(texts)}
    labels = torch.tensor([numbers[text] for text in texts])
    return labels[:, None] == labels[None]


def alignment_loss(
    features: Tensor, samples: list[Sample], matcher: LanguageMatcher | None, recipe: Recipe, losses: StepLosses, share: float = 1.0
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
        loss, accuracy, same = matching_loss(matcher, vectors, language, drop_diagonal=recipe.contrastive != "official_code")
        total = total + recipe.matching_weight * loss
        losses.matching = (losses.matching or 0.0) + share * float(loss.detach())
        losses.matching_accuracy = (losses.matching_accuracy or 0.0) + share * float(accuracy)
        losses.same_language_share = (losses.same_language_share or 0.0) + share * float(same)
    return total * share


def accumulate_gradients(forward: Forward, matcher: LanguageMatcher | None, micro_batches: list[Batch], recipe: Recipe) -> StepLosses:
    """Run one step's forward and backward passes; gradients are left on the parameters.

    With `negatives: batch` and several micro-batches the contrast spans all of them by gradient caching (Gao et al. 2021, "Scaling Deep
    Contrastive
    Learning Batch Size under Memory Limited Setup"): features first without a graph, the loss's gradient with respect to them once, then
    each
    micro-batch again with that gradient as a linear surrogate. The random state is replayed, so that dropout agrees between the two passes.
    """
    device_type = next(forward.model.parameters()).device.type
    precision = torch.autocast(device_type, dtype=torch.bfloat16) if recipe.dtype == "bfloat16" else nullcontext()
    tokens = max(1, sum(int((batch.labels[:, 1:] != -100).sum()) for batch in micro_batches))
    losses = StepLosses(lm=0.0, lm_tokens=tokens)
    samples = [sample for batch in micro_batches for sample in batch.samples]
    cached, states = None, []
    if recipe.aligns and recipe.negatives == "batch" and len(micro_batches) > 1:
        pieces = []
        for batch in micro_batches:
            states.append((torch.get_rng_state(), torch.cuda.get_rng_state() if device_type == "cuda" else None))
            with torch.no_grad(), precision:
                pieces.append(forward(batch, with_features=True, with_lm=False)[0])
        features = torch.cat(pieces).requires_grad_()
        loss = alignment_loss(features, samples, matcher, recipe, losses)
        if loss is not None:
            loss.backward()
            cached = features.grad
    start = 0
    for index, batch in enumerate(micro_batches):
        if states:
            torch.set_rng_state(states[index][0])
            if (cuda_state := states[index][1]) is not None:
                torch.cuda.set_rng_state(cuda_state)
        with precision:
            features, lm = forward(batch, with_features=recipe.aligns, with_lm=True)
        total = lm / tokens
        losses.lm += float(lm.detach()) / tokens
        if cached is not None:
            total = total + (features * cached[start : start + len(batch.samples)]).sum()
        elif recipe.aligns and not states:
            extra = alignment_loss(features, batch.samples, matcher, recipe, losses, share=1 / len(micro_batches))
            total = total if extra is None else total + extra
        total.backward()
        start += len(batch.samples)
    return losses
