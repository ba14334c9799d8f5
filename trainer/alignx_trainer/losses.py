"""The losses of AlignX as functions of sentence vectors; no model code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alignx_trainer.config import Contrastive


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Float32 mean of `states` [rows, positions, width] over the positions where `mask` [rows, positions] holds; zero
    where none does."""
    weights = mask.to(torch.float32)
    return (states.float() * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)


def contrastive_loss(
    source: Tensor,
    target: Tensor,
    *,
    temperature: float,
    form: Contrastive,
    same_source: Tensor | None = None,
    same_target: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """InfoNCE over cosine similarities of `source` [n, width] and `target` [n, width]; row i of one belongs to row i of
    the other.

    "paper_formula": -mean_i log softmax_j(cos(source_i, target_j) / temperature)_i, sources as anchors (arXiv
    2509.24338). "official_code": half of that, as the public implementation computes it.
    "symmetric": the mean of both directions.
    `same_source`, `same_target` [n, n] mark equal texts: off the diagonal they are no negatives.
    Returns the loss and the share of anchors (sources) whose own target is strictly the nearest.
    """
    similarity = F.normalize(source.float(), dim=-1) @ F.normalize(target.float(), dim=-1).T / temperature
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    for same in (same_source, same_target):
        if same is not None:
            similarity = similarity.masked_fill(same & ~own, float("-inf"))
    labels = torch.arange(len(similarity), device=similarity.device)
    forward = F.cross_entropy(similarity, labels)
    if form == "symmetric":
        loss = (forward + F.cross_entropy(similarity.T, labels)) / 2
    else:
        loss = forward / 2 if form == "official_code" else forward
    with torch.no_grad():
        others = similarity.masked_fill(own, float("-inf"))
        accuracy = (
            (similarity.diagonal() > others.max(dim=1).values).float().mean()
            if len(similarity) > 1
            else similarity.new_zeros(())
        )
    return loss, accuracy


# States of pairs of sentences exist in pieces of at most this many numbers (float32: 16 MB) and are made again for the
# backward pass: 256 samples have 262,144 pairs. One micro-batch of the paper's 16 is one piece, of which nothing is
# made twice.
PAIR_STATES_AT_ONCE = 2**22


class LanguageMatcher(nn.Module):
    """Gated two-layer classifier over pairs of sentence vectors: same language or not (the language-matching head of
    AlignX).

    A pair [a; b] of width 2d goes through silu(W_gate [a; b]) * (W_up [a; b]) and W_down to two logits, no biases.
    W [a; b] = W_a a + W_b b, so every vector is projected once and pairs only cost additions in the inner width.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, inner, bias=False)
        self.up = nn.Linear(2 * width, inner, bias=False)
        self.down = nn.Linear(inner, 2, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits [n, n, 2] of all ordered pairs of `vectors` [n, width]; index 1 means the same language."""
        width = vectors.shape[-1]
        first, second = (
            [F.linear(vectors, layer.weight[:, part]) for layer in (self.gate, self.up)]
            for part in (slice(width), slice(width, None))
        )
        rows = max(1, PAIR_STATES_AT_ONCE // max(1, second[0].numel()))
        if rows >= len(vectors):
            return self._pairs(*first, *second)
        pieces = [
            checkpoint(
                self._pairs,
                *(side[start : start + rows] for side in first),
                *second,
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for start in range(0, len(vectors), rows)
        ]
        return torch.cat(pieces)

    def _pairs(self, gate_first: Tensor, up_first: Tensor, gate_second: Tensor, up_second: Tensor) -> Tensor:
        inside = F.silu(gate_first[:, None] + gate_second[None]) * (up_first[:, None] + up_second[None])
        logits: Tensor = self.down(inside)
        return logits


def matching_loss(
    matcher: LanguageMatcher, vectors: Tensor, language: Tensor, *, drop_diagonal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of "same language" over all ordered pairs of `vectors` [n, width] with labels `language` [n].

    `drop_diagonal` leaves out the pairs of a vector with itself, which the official code keeps.
    Returns loss, accuracy and the share of pairs of the same language.
    """
    logits = matcher(vectors.float())
    same = (language[:, None] == language[None]).long()
    keep = torch.ones_like(same, dtype=torch.bool)
    if drop_diagonal:
        keep.fill_diagonal_(False)
    logits, same = logits[keep], same[keep]
    with torch.no_grad():
        accuracy = (logits.argmax(-1) == same).float().mean()
    return F.cross_entropy(logits, same), accuracy, same.float().mean()


# Logits exist in pieces of at most this many numbers (float32: 128 MB), so that a vocabulary of 262,144 fits.
LOGITS_AT_ONCE = 2**25


class _SummedCrossEntropy(torch.autograd.Function):
    """The gradients are made beside the loss, while a piece of the logits exists: no logits are kept, and none are
    computed twice.

    For logits z = states W^T the gradient of the loss is softmax(z) - one-hot, times 1 - (z / cap)^2 where the logits
    are capped.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        softcap: float | None,
        graph: bool,
    ) -> Tensor:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        states, matrix = hidden.to(dtype), weight.to(dtype)
        offsets = None if bias is None else bias.to(dtype)
        needs_hidden, needs_weight, needs_bias = (graph and needed for needed in ctx.needs_input_grad[:3])
        grad_hidden = torch.empty_like(states) if needs_hidden else None
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias) if needs_bias and bias is not None else None
        total = hidden.new_zeros((), dtype=torch.float32)
        rows = max(1, LOGITS_AT_ONCE // len(weight))
        # All pieces of logits in one place: on a CPU fresh pages would cost a tenth of the time of the product that
        # fills them.
        room = states.new_empty(min(rows, len(states)), len(weight))
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(states), rows):
                piece, wanted = slice(start, start + rows), labels[start : start + rows, None]
                logits = torch.mm(states[piece], matrix.T, out=room[: len(wanted)]).float()
                if offsets is not None:
                    logits.add_(offsets)
                if softcap is not None:
                    logits = logits.div_(softcap).tanh_()
                    slope = 1 - logits**2 if graph else None
                    logits = logits.mul_(softcap)
                own, largest = logits.gather(1, wanted), logits.amax(dim=-1, keepdim=True)
                softmax = logits.sub_(largest).exp_()
                sums = softmax.sum(dim=-1, keepdim=True)
                total += (largest + sums.log() - own).sum()
                if grad_hidden is None and grad_weight is None and grad_bias is None:
                    continue
                gradient = softmax.div_(sums)
                gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
                if softcap is not None and slope is not None:
                    gradient.mul_(slope)
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
                gradient = gradient.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[piece] = gradient @ matrix
                if grad_weight is not None and dtype == weight.dtype:
                    grad_weight.addmm_(gradient.T, states[piece])
                elif grad_weight is not None:
                    grad_weight += gradient.T @ states[piece]
        ctx.gradients = None if grad_hidden is None else grad_hidden.to(hidden.dtype), grad_weight, grad_bias
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("summed_cross_entropy can be differentiated once; its gradients are used up")
        return (*(None if gradient is None else gradient.mul_(upstream) for gradient in gradients), None, None, None)


def summed_cross_entropy(hidden: Tensor, labels: Tensor, head: nn.Module, softcap: float | None) -> Tensor:
    """Sum over tokens of -log p(labels) for final states `hidden` [tokens, width]; float32 []. The logits are `head`'s,
    with `softcap` as in Gemma 2: cap * tanh(logits / cap).

    The logits are made piece by piece (`LOGITS_AT_ONCE`) and their gradient at once, as in the fused kernels of Liger
    (Hsu et al. 2024): the memory does not grow with tokens x vocabulary. Can be differentiated once.
    """
    weight, bias = head.weight, getattr(head, "bias", None)
    assert isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    result = _SummedCrossEntropy.apply(hidden, weight, bias, labels, softcap, torch.is_grad_enabled())
    assert isinstance(result, Tensor)
    return result
