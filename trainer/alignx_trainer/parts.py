"""What takes part in a training run: data, model, losses and optimizers of a recipe, and their state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.errors import InputError
from alignx_trainer import run_folder
from alignx_trainer.config import Recipe
from alignx_trainer.losses import LanguageMatcher
from alignx_trainer.model import add_adapters, flops_per_token, open_model
from alignx_trainer.optimizers import build_optimizers
from alignx_trainer.order import Order
from alignx_trainer.parallel import Parallel
from alignx_trainer.records import Stream
from alignx_trainer.run_folder import Counters, State
from alignx_trainer.step import Forward, checkpoint_activations, resolve_align_layer
from alignx_trainer.validation import Measured, load_validation

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(slots=True)
class Parts:
    """What takes part in a run."""

    recipe: Recipe
    parallel: Parallel
    streams: list[Stream]
    order: Order
    corpus: ParallelCorpus | None  # of the validation
    tokenizer: PreTrainedTokenizerBase
    padding: int  # a token's id
    provenance: dict[str, Any]  # of the stages before
    align_layer: int  # with no alignment loss, where validation looks

    model: PreTrainedModel
    adapted: Any  # peft's model around `model`; None without adapters
    inner: Forward
    forward: Any  # `inner` as accelerate has wrapped it
    optimizers: list[Any]  # of the model
    matcher: LanguageMatcher | None
    matcher_optimizers: list[torch.optim.Optimizer]  # one or none: every process holds the matcher whole

    shapes: dict[str, torch.Size]  # of the tensors of `inner` that are trained, by name
    weights: int  # parameters of the model
    flops_a_token: int
    flops_a_scored_token: int

    @property
    def trained_parameters(self) -> list[torch.nn.Parameter]:
        """Of the model; where it is sharded, this process's part of them."""
        return [parameter for parameter in self.forward.parameters() if parameter.requires_grad]

    @property
    def matcher_parameters(self) -> list[torch.nn.Parameter]:
        return [] if self.matcher is None else list(self.matcher.parameters())

    @property
    def heads(self) -> dict[str, torch.Tensor] | None:
        return None if self.matcher is None else self.matcher.state_dict()

    def restore(self, state: State, path: Path) -> Measured | None:
        """Put the state of `path` into model, matcher and optimizers; returns the measurement before the first step.

        Raises InputError where it does not fit them.
        """
        run_folder.check_tensors(path, state.model, self.shapes)
        try:
            self.parallel.restore(self.forward, self.optimizers, state.model, state.optimizers)
            if self.matcher is not None:
                # None is an error as any other.
                self.matcher.load_state_dict(state.matcher)  # type: ignore[arg-type]
                self.matcher_optimizers[0].load_state_dict(state.matcher_optimizer)  # type: ignore[arg-type]
            start = None
            if state.start is not None:
                arrays = [tensor.numpy() for tensor in state.start]
                start = Measured(**dict(zip(run_folder.MEASURES, arrays, strict=True)))  # type: ignore[arg-type]
        except torch.OutOfMemoryError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            # Whatever load_state_dict makes of it.
            raise run_folder.damaged(path, error) from None
        for optimizer in [*self.optimizers, *self.matcher_optimizers]:
            run_folder.check_moments(path, optimizer.state)
        return start

    def state(self, counters: Counters, start: Measured | None) -> State:
        """What `restore` takes. Every process has to ask: a sharded model is gathered."""
        return State(
            model=self.parallel.model_state(self.forward, self.shapes),
            optimizers=self.parallel.optimizer_states(self.forward, self.optimizers),
            matcher=self.heads,
            matcher_optimizer=self.matcher_optimizers[0].state_dict() if self.matcher_optimizers else None,
            counters=counters,
            start=None if start is None else [torch.from_numpy(getattr(start, name)) for name in run_folder.MEASURES],
        )


def prepare(recipe: Recipe, parallel: Parallel, offline: bool) -> Parts:
    """Data, model, losses and optimizers of the recipe, on their device. The random numbers drawn here are those of its
    seed.

    Raises InputError and MissingAssetError for what the recipe names and is not there, or does not fit.
    """
    torch.manual_seed(recipe.seed)
    streams = [Stream(source, recipe.prompt_template) for source in recipe.sources]
    corpus = load_validation(recipe) if recipe.eval_every else None
    model, tokenizer, provenance = open_model(recipe, streams, offline)
    config = model.config.get_text_config()
    try:
        align_layer = resolve_align_layer(recipe.align_layer, config.num_hidden_layers)
    except ValueError as error:
        raise InputError(str(error)) from None
    if not recipe.aligns:
        align_layer = provenance.get("align_layer", align_layer)  # the layer that an earlier stage aligned
    if parallel.device == "cpu":
        model.set_attn_implementation("eager")  # short sentences: 1.2 times the tokens per second of the fused kernel
    if recipe.activation_checkpointing:
        checkpoint_activations(model)
    adapted = add_adapters(model, recipe) if recipe.lora_rank else None
    model.to(parallel.device).train()
    matcher = None
    if recipe.matching_weight > 0:
        matcher = LanguageMatcher(config.hidden_size, recipe.matching_width).to(parallel.device)
    inner = Forward(model, align_layer)
    trained = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
    optimizers = build_optimizers(model, matcher, recipe)
    of_model, of_matcher = (optimizers, []) if matcher is None else (optimizers[:-1], optimizers[-1:])
    flops_a_token, flops_a_scored_token = flops_per_token(model, recipe)
    shapes = {
        name: tensor.shape
        for name, tensor in inner.state_dict().items()
        if name in trained or not recipe.lora_rank  # tied weights have a second name
    }
    weights = sum(parameter.numel() for parameter in model.parameters())
    forward, of_model = parallel.prepare(inner, of_model)
    return Parts(
        recipe=recipe,
        parallel=parallel,
        streams=streams,
        order=Order(streams, recipe, tokenizer),
        corpus=corpus,
        tokenizer=tokenizer,
        padding=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        provenance=provenance,
        align_layer=align_layer,
        model=model,
        adapted=adapted,
        inner=inner,
        forward=forward,
        optimizers=of_model,
        matcher=matcher,
        matcher_optimizers=of_matcher,
        shapes=shapes,
        weights=weights,
        flops_a_token=flops_a_token,
        flops_a_scored_token=flops_a_scored_token,
    )
