"""Optimizers and learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from alignx_trainer.config import Recipe
from alignx_trainer.losses import LanguageMatcher

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up, then linear or cosine decay to `final_learning_rate` of the peak at the last step."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    shape = 1 - done if recipe.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return recipe.learning_rate * (recipe.final_learning_rate + (1 - recipe.final_learning_rate) * shape)


def build_optimizers(
    model: PreTrainedModel, matcher: LanguageMatcher | None, recipe: Recipe
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon (Jordan et al. 2024) for the matrices of the blocks and AdamW for the rest; the
    matcher's own AdamW comes last."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    matrices = [parameter for _, parameter in named if parameter.ndim == 2 and id(parameter) not in embeddings]
    others = [parameter for _, parameter in named if not any(parameter is matrix for matrix in matrices)]
    optimizers: list[torch.optim.Optimizer] = []
    betas = (0.9, 0.95) if recipe.optimizer == "muon" else (0.9, 0.999)
    if recipe.optimizer == "muon":
        optimizers.append(
            torch.optim.Muon(
                matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        )
        optimizers.append(torch.optim.AdamW(others, lr=recipe.learning_rate, betas=betas, weight_decay=0.0))
    else:
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizers.append(
            torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.learning_rate, betas=betas)
        )
    if matcher is not None:
        decay = 0.0 if recipe.optimizer == "muon" else recipe.weight_decay
        optimizers.append(
            torch.optim.AdamW(matcher.parameters(), lr=recipe.learning_rate, betas=betas, weight_decay=decay)
        )
    return optimizers
