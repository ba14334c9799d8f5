"""The training loop, top to bottom: what was there, model and data, steps, checkpoint."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from alignx_eval.checkpoint import merge_adapter, read_pt, write_checkpoint
from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine.batches import start_name
from alignx_eval.errors import InputError
from alignx_eval.files import sole_writer
from alignx_trainer import run_folder, validation
from alignx_trainer.config import Recipe
from alignx_trainer.losses import LanguageMatcher
from alignx_trainer.model import add_adapters, flops_per_token, open_model, whole_model
from alignx_trainer.optimizers import build_optimizers, learning_rate
from alignx_trainer.order import Order
from alignx_trainer.parallel import Parallel, peak_memory
from alignx_trainer.records import Stream
from alignx_trainer.run_folder import Counters, Log, State, TrainingError
from alignx_trainer.step import Forward, StepLosses, accumulate_gradients, checkpoint_activations, resolve_align_layer
from alignx_trainer.tokenize import Sample, collate

# Steps done, steps of the whole run, and the step's line of the log.
Progress = Callable[[int, int, dict[str, Any]], None]
Say = Callable[[str], None]

LOGGED = ("lm", "contrastive", "contrastive_accuracy", "matching", "matching_accuracy", "same_language_share", "pairs")


def train(
    recipe: Recipe,
    folder: Path,
    *,
    device: str | None = None,
    progress: Progress | None = None,
    say: Say = lambda line: None,
    command: str = "",
    offline: bool = True,
) -> Path:
    """Train by the recipe and return the path of the checkpoint, `folder`/model.pt.

    `folder` also gets `log.jsonl` (one line a step, every loss apart), `report.html`, with adapters `adapter/` (peft's format), and, while
    training, `state.pt`. A run that was interrupted goes on from `state.pt` if the recipe is the same, and ends on the CPU with the same
    bits. A finished run is not done again. `say` is told of both, a line each. Under a launcher every process calls this, and the main one
    alone says and shows.
    Raises InputError for wrong input and for damaged files of the run, TrainingError when a loss or gradient is not finite or a file
    cannot be written.
    """
    parallel = Parallel(recipe, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not parallel.main:
        progress, say = None, lambda line: None
    with sole_writer(folder) if parallel.main else contextlib.nullcontext():
        marked, finished = run_folder.is_marked(folder, recipe), folder / run_folder.MODEL
        if finished.is_file():
            parallel.wait()
            say(
                f"{_description(finished)}; nothing was trained. To train anew, remove {folder} or choose another output folder"
            )
        else:
            _train(recipe, folder, parallel, marked, progress, say, command, offline)
        _finish(folder, parallel)
    return finished


def _train(
    recipe: Recipe,
    folder: Path,
    parallel: Parallel,
    marked: bool,
    progress: Progress | None,
    say: Say,
    command: str,
    offline: bool,
) -> None:
    state, lines = _read_what_was_done(recipe, folder)
    parallel.wait()
    if parallel.main and not marked:
        run_folder.mark(folder, recipe)
    parts = prepare(recipe, parallel, offline)
    order, corpus = parts.order, parts.corpus
    counters, start = Counters(), None
    if state is not None:
        counters, start = state.counters, _restore(parts, parallel, state, folder / run_folder.STATE)
        say(f"going on from step {counters.steps} of {order.steps}")
        state = None  # as large as the model and its optimizer
    elif lines:
        say(f"no step of the run in {folder} was saved; beginning again at the first of {order.steps}")
    lines = _cut_log(folder / run_folder.LOG, lines, counters.steps, parallel.main, say)

    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = time.perf_counter() - counters.seconds - counters.validating
    entry = lines[-1] if lines else {}  # of a run that goes on after its last step
    stopped: str | None = None
    with Log(folder / run_folder.LOG if parallel.main else Path(os.devnull)) as log:
        if corpus is not None and start is None:
            start = _measure_first(parts, corpus, recipe, counters, log, say)
        while (
            counters.steps < order.steps
            and stopped is None
            and (recipe.max_tokens is None or counters.tokens < recipe.max_tokens)
        ):
            begun = time.perf_counter()
            samples = order.batch(counters.steps)
            micro_batches = [
                collate(samples[first : first + recipe.micro_batch_size], parts.padding)
                for first in range(0, len(samples), recipe.micro_batch_size)
            ]
            losses = accumulate_gradients(
                parts.forward,
                parts.matcher,
                micro_batches,
                recipe,
                step=counters.steps,
                accelerator=parallel.accelerator,
            )
            norm = parallel.clip(parts.trained_parameters, parts.matcher_parameters, recipe.max_grad_norm)
            _stop_if_not_finite(losses, norm, samples, counters.steps + 1, parallel)
            rate = learning_rate(counters.steps, order.steps, recipe)
            for optimizer in [*parts.optimizers, *parts.matcher_optimizers]:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            tokens = sum(batch.tokens for batch in micro_batches)
            counters.steps += 1
            counters.tokens += tokens
            counters.samples += len(samples)
            counters.truncated += sum(sample.truncated for sample in samples)
            counters.flops += float(parts.flops_a_token * tokens + parts.flops_a_scored_token * losses.lm_tokens)
            now = time.perf_counter()
            counters.seconds = now - clock - counters.validating
            entry = {"step": counters.steps} | {name: getattr(losses, name) for name in LOGGED}
            entry |= {"tokens": counters.tokens, "learning_rate": rate, "grad_norm": norm}
            entry |= {"tokens_per_second": tokens / (now - begun), "seconds": counters.seconds}
            if corpus is not None and start is not None and counters.steps % recipe.eval_every == 0:
                stopped = _measure(parts, corpus, recipe, parallel, counters, start, entry, folder)
            log.write(entry)
            if progress is not None:
                progress(counters.steps, order.steps, entry)
            if counters.steps % recipe.save_every == 0 and counters.steps < order.steps and stopped is None:
                counters.seconds = time.perf_counter() - clock - counters.validating
                _save(parts, recipe, parallel, counters, start, log, folder)
    if stopped is not None:
        _take_back(parts, counters, stopped, folder)
    counters.seconds = time.perf_counter() - clock - counters.validating
    stage = _stage(parts, recipe, parallel, counters, entry) | {
        "command": command,
        "started": started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if stopped is not None:
        stage |= {"stopped": stopped, "kept_step": counters.kept_step}
    _write_model(parts, recipe, parallel, stage, folder)


# Before the first step


def _description(finished: Path) -> str:
    """What a finished run's checkpoint is. Raises InputError where it is damaged."""
    content = read_pt(finished)
    stages = content["provenance"].get("stages") or [{}]
    return f"{finished} is there: {content['stage']}, step {content['step']}, finished {stages[-1].get('finished')}"


def _read_what_was_done(recipe: Recipe, folder: Path) -> tuple[State | None, list[dict[str, Any]]]:
    """The state that an interrupted run left, and its log."""
    path = folder / run_folder.STATE
    state = run_folder.read_state(path, recipe) if path.is_file() else None
    if state is not None and state.counters.kept_step:
        # It may be needed at the end, which is late to learn that it is damaged.
        run_folder.read_within_limits(folder / run_folder.WITHIN_LIMITS)
    return state, run_folder.read_log(folder / run_folder.LOG)


@dataclass(slots=True)
class Parts:
    """What takes part in a run."""

    streams: list[Stream]
    order: Order
    corpus: ParallelCorpus | None  # of the validation
    tokenizer: Any
    padding: int  # a token's id
    provenance: dict[str, Any]  # of the stages before
    align_layer: int  # with no alignment loss, where validation looks

    model: Any
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


def prepare(recipe: Recipe, parallel: Parallel, offline: bool) -> Parts:
    """Data, model, losses and optimizers of the recipe, on their device. The random numbers drawn here are those of its seed.

    Raises InputError and MissingAssetError for what the recipe names and is not there, or does not fit.
    """
    torch.manual_seed(recipe.seed)
    streams = [Stream(source, recipe.prompt_template) for source in recipe.sources]
    corpus = validation.load_validation(recipe) if recipe.eval_every else None
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


def _restore(parts: Parts, parallel: Parallel, state: State, path: Path) -> validation.Measured | None:
    """Put the state of `path` into model, matcher and optimizers; returns the measurement before the first step.

    Raises InputError where it does not fit them.
    """
    run_folder.check_tensors(path, state.model, parts.shapes)
    try:
        parallel.restore(parts.forward, parts.optimizers, state.model, state.optimizers)
        if parts.matcher is not None:
            parts.matcher.load_state_dict(state.matcher)  # type: ignore[arg-type]  # None is an error as any other
            parts.matcher_optimizers[0].load_state_dict(state.matcher_optimizer)  # type: ignore[arg-type]
        start = None
        if state.start is not None:
            arrays = [tensor.numpy() for tensor in state.start]
            start = validation.Measured(**dict(zip(run_folder.MEASURES, arrays, strict=True)))  # type: ignore[arg-type]
    except torch.OutOfMemoryError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        # Whatever load_state_dict makes of it.
        raise run_folder.damaged(path, error) from None
    for optimizer in [*parts.optimizers, *parts.matcher_optimizers]:
        run_folder.check_moments(path, optimizer.state)
    return start


def _cut_log(path: Path, lines: list[dict[str, Any]], steps: int, main: bool, say: Say) -> list[dict[str, Any]]:
    """The lines of the `steps` that are not done again; the log gets these alone."""
    kept = [entry for entry in lines if entry["step"] <= steps] if steps else []
    if (there := sum(entry["step"] > 0 for entry in kept)) < steps:
        say(f"{path} has the lines of {there} of these steps; the others are lost")
    if main and path.is_file():
        run_folder.rewrite_log(path, kept)
    return kept


# Between steps


def _stop_if_not_finite(losses: StepLosses, norm: float, samples: list[Sample], step: int, parallel: Parallel) -> None:
    """Raises TrainingError, in every process, with the samples of the micro-batches that are to blame, where that is known."""
    if all(math.isfinite(value) for value in (norm, losses.lm, losses.contrastive or 0.0, losses.matching or 0.0)):
        return
    named = losses.not_finite
    if parallel.count > 1:  # all processes know that something is wrong, one of them what
        from accelerate.utils import gather_object

        named = gather_object(named)
    identities = list(dict.fromkeys(named)) or [sample.identity for sample in samples]
    shown = ", ".join(identities[:16]) + (f" and {len(identities) - 16} more" if len(identities) > 16 else "")
    raise TrainingError(
        f"step {step}: the loss or its gradient is not finite; lower the learning rate, or look at these samples: {shown}. "
        "Nothing of this step was kept."
    )


def _measured_now(parts: Parts, corpus: ParallelCorpus, recipe: Recipe, counters: Counters) -> validation.Measured:
    begun = time.perf_counter()
    measured = validation.measure(parts.model, parts.tokenizer, corpus, parts.align_layer, recipe.seed)
    counters.validating += time.perf_counter() - begun
    return measured


def _measure_first(
    parts: Parts, corpus: ParallelCorpus, recipe: Recipe, counters: Counters, log: Log, say: Say
) -> validation.Measured:
    """The measurement before the first step, which has a line of its own in the log."""
    say(validation.announcement(corpus, recipe.eval_every))
    start = _measured_now(parts, corpus, recipe, counters)
    first = validation.summary(start, corpus, parts.align_layer)
    if note := validation.unknown_text(start, recipe):
        first["note"] = note
        say(note)
    log.write({"step": 0, "validation": first})
    return start


def _measure(
    parts: Parts,
    corpus: ParallelCorpus,
    recipe: Recipe,
    parallel: Parallel,
    counters: Counters,
    start: validation.Measured,
    entry: dict[str, Any],
    folder: Path,
) -> str | None:
    """A measurement, into the step's `entry`; the weights are kept where it is within the recipe's limits.

    Returns what was lost beyond the limits, None where nothing was.
    """
    measured = _measured_now(parts, corpus, recipe, counters)
    entry["validation"] = validation.summary(measured, corpus, parts.align_layer)
    stopped = validation.over_aligned(start, measured, corpus, recipe)
    if stopped is not None:
        entry["stopped"] = stopped
    elif recipe.stop_bits_per_byte is not None or recipe.stop_language_identity is not None:
        counters.kept_step = counters.steps
        if parallel.main:
            model = parallel.model_state(parts.forward, parts.shapes)
            kept = {"step": counters.steps, "model": model, "matcher": parts.heads}
            run_folder.save_atomically(kept, folder / run_folder.WITHIN_LIMITS)
    return stopped


def _save(
    parts: Parts,
    recipe: Recipe,
    parallel: Parallel,
    counters: Counters,
    start: validation.Measured | None,
    log: Log,
    folder: Path,
) -> None:
    """Write state.pt, after the lines of the log that it stands for. Every process takes part: a sharded model is gathered."""
    state = State(
        model=parallel.model_state(parts.forward, parts.shapes),
        optimizers=parallel.optimizer_states(parts.forward, parts.optimizers),
        matcher=parts.heads,
        matcher_optimizer=parts.matcher_optimizers[0].state_dict() if parts.matcher_optimizers else None,
        counters=counters,
        start=None if start is None else [torch.from_numpy(getattr(start, name)) for name in run_folder.MEASURES],
    )
    if parallel.main:
        log.sync()
        run_folder.save_state(folder / run_folder.STATE, recipe, state)


# After the last step


def _take_back(parts: Parts, counters: Counters, stopped: str, folder: Path) -> None:
    """Back to the last weights that were measured within the limits. Raises TrainingError where there are none."""
    if not counters.kept_step:
        raise TrainingError(
            f"over-alignment by the first measurement, at step {counters.steps}: {stopped}. Nothing was written; lower the learning rate "
            "or the weights of the alignment losses, or measure more often (eval_every)"
        )
    kept = run_folder.read_within_limits(folder / run_folder.WITHIN_LIMITS)
    counters.kept_step = kept["step"]
    parts.inner.load_state_dict(kept["model"], strict=False)
    if parts.matcher is not None:
        parts.matcher.load_state_dict(kept["matcher"])


def _stage(
    parts: Parts, recipe: Recipe, parallel: Parallel, counters: Counters, last: dict[str, Any]
) -> dict[str, Any]:
    """What the checkpoint says of how it was made: amounts, data, machine, versions. `last` is the last step's line of the log."""
    packages = ["torch", "transformers", "accelerate", "alignx-eval", *(["peft"] if recipe.lora_rank else [])]
    return {
        "stage": recipe.stage,
        "steps": counters.steps,
        "samples": counters.samples,
        "tokens": counters.tokens,
        "truncated_samples": counters.truncated,
        "seconds": round(counters.seconds, 1),
        "validation_seconds": round(counters.validating, 1),
        "flops": counters.flops,
        "peak_memory_bytes": peak_memory(parallel.device),
        "processes": parallel.count,
        "parallelism": "FSDP2" if parallel.sharded else "DDP" if parallel.count > 1 else None,
        "final": {
            name: last.get(name)
            for name in ("lm", "contrastive", "contrastive_accuracy", "matching", "matching_accuracy")
        },
        "data": [stream.description for stream in parts.streams],
        "align_layer": parts.align_layer if recipe.aligns else None,
        "seed": recipe.seed,
        "device": torch.cuda.get_device_name()
        if parallel.device.startswith("cuda")
        else f"CPU, {torch.get_num_threads()} threads",
        "parameters": parts.weights,
        "trained_parameters": sum(parameter.numel() for parameter in parts.trained_parameters),
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
    }


def _write_model(parts: Parts, recipe: Recipe, parallel: Parallel, stage: dict[str, Any], folder: Path) -> None:
    """Write the adapter, where there is one, and model.pt. Every process takes part: a sharded model is gathered."""
    path, model, matcher = folder / run_folder.MODEL, parts.model, parts.matcher
    provenance = dict(parts.provenance, stages=[*parts.provenance["stages"], stage])
    provenance["start_token"] = start_name(parts.tokenizer)
    if recipe.aligns:
        provenance["align_layer"] = parts.align_layer
    gathered = parallel.model_state(parts.forward, parts.shapes) if parallel.sharded else None
    if parallel.main:
        if parts.adapted is not None:
            run_folder.save_adapter(parts.adapted, folder / run_folder.ADAPTER)
            model, _ = merge_adapter(parts.adapted, parts.tokenizer, str(path))
        if gathered is not None:
            model = whole_model(model.config, gathered)
        model.eval()
        # A report that was written on the way tells of an unfinished run.
        (folder / run_folder.REPORT).unlink(missing_ok=True)
        write_checkpoint(
            path,
            model=model,
            tokenizer=parts.tokenizer,
            stage=recipe.stage,
            step=stage.get("kept_step", stage["steps"]),
            prompt_template=recipe.prompt_template,
            heads={f"language_matcher.{name}": tensor for name, tensor in matcher.state_dict().items()}
            if matcher is not None
            else None,
            recipe=recipe.as_dict(),
            provenance=provenance,
            dtype=getattr(torch, recipe.store_dtype),
        )
    parallel.wait()


def _finish(folder: Path, parallel: Parallel) -> None:
    """What comes after `model.pt`: the report, and away with what was for going on."""
    if parallel.main:
        from alignx_trainer.report import write_report

        if not (folder / run_folder.REPORT).is_file() and (folder / run_folder.LOG).is_file():
            write_report(folder)
        run_folder.discard_state(folder)
    parallel.wait()
