"""The training loop, top to bottom: what was there, model and data, steps, checkpoint."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from alignx_eval.checkpoint import merge_adapter, read_pt, write_checkpoint
from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine.batches import start_name
from alignx_eval.files import sole_writer
from alignx_trainer import run_folder, validation
from alignx_trainer.config import Recipe
from alignx_trainer.model import whole_model
from alignx_trainer.optimizers import learning_rate
from alignx_trainer.parallel import Parallel, peak_memory
from alignx_trainer.parts import Parts, prepare
from alignx_trainer.run_folder import Counters, Log, TrainingError
from alignx_trainer.step import StepLosses, accumulate_gradients
from alignx_trainer.tokenize import Sample, collate
from alignx_trainer.validation import Measured

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

    `folder` also gets `log.jsonl` (one line a step, every loss apart), `report.html`, with adapters `adapter/` (peft's
    format), and, while training, `state.pt`. A run that was interrupted goes on from `state.pt` if the recipe is the
    same, and ends on the CPU with the same bits. A finished run is not done again. `say` is told of both, a line each.
    Under a launcher every process calls this, and the main one alone says and shows.
    Raises InputError for wrong input and for damaged files of the run, TrainingError when a loss or gradient is not
    finite or a file cannot be written.
    """
    parallel = Parallel(recipe, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not parallel.main:
        progress, say = None, lambda line: None
    with sole_writer(folder) if parallel.main else contextlib.nullcontext():
        marked, finished = run_folder.is_marked(folder, recipe), folder / run_folder.MODEL
        if finished.is_file():
            parallel.wait()
            say(
                f"{_description(finished)}; nothing was trained. To train anew, remove {folder} or choose another "
                "output folder"
            )
        else:
            parts, counters, start, lines = _begin(recipe, folder, parallel, marked, say, offline)
            stage = _train(parts, folder, counters, start, lines, progress, say)
            _write_model(parts, folder, stage | {"command": command})
        _finish(folder, parallel)
    return finished


def _train(
    parts: Parts,
    folder: Path,
    counters: Counters,
    start: Measured | None,
    lines: list[dict[str, Any]],
    progress: Progress | None,
    say: Say,
) -> dict[str, Any]:
    """From what was done before, `counters` and the `lines` of its log, to the last step; returns the provenance of
    this stage."""
    recipe, parallel, order = parts.recipe, parts.parallel, parts.order
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = time.perf_counter() - counters.seconds - counters.validating
    entry = lines[-1] if lines else {}  # of a run that goes on after its last step
    stopped: str | None = None
    with Log(folder / run_folder.LOG if parallel.main else Path(os.devnull)) as log:
        if parts.corpus is not None and start is None:
            start = _measure_first(parts, parts.corpus, counters, log, say)
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
            if parts.corpus is not None and start is not None and counters.steps % recipe.eval_every == 0:
                stopped = _measure(parts, parts.corpus, counters, start, entry, folder)
            log.write(entry)
            if progress is not None:
                progress(counters.steps, order.steps, entry)
            if counters.steps % recipe.save_every == 0 and counters.steps < order.steps and stopped is None:
                counters.seconds = time.perf_counter() - clock - counters.validating
                state = parts.state(counters, start)
                if parallel.main:
                    log.sync()
                    run_folder.save_state(folder / run_folder.STATE, recipe, state)
                del state
    if stopped is not None:
        _take_back(parts, counters, stopped, folder)
    counters.seconds = time.perf_counter() - clock - counters.validating
    return _stage(parts, counters, entry, stopped, started)


# Before the first step


def _description(finished: Path) -> str:
    """What a finished run's checkpoint is. Raises InputError where it is damaged."""
    content = read_pt(finished)
    stages = content["provenance"].get("stages") or [{}]
    return f"{finished} is there: {content['stage']}, step {content['step']}, finished {stages[-1].get('finished')}"


def _begin(
    recipe: Recipe, folder: Path, parallel: Parallel, marked: bool, say: Say, offline: bool
) -> tuple[Parts, Counters, Measured | None, list[dict[str, Any]]]:
    """All that takes part, as the steps that were done before left it: with what was done, the first measurement, and
    the log so far.

    What is in the folder is read, and refused where it is damaged, before anything there is changed.
    """
    path, kept_path, log_path = (folder / name for name in (run_folder.STATE, run_folder.WITHIN_LIMITS, run_folder.LOG))
    state = run_folder.read_state(path, recipe) if path.is_file() else None
    if state is not None and state.counters.kept_step:
        run_folder.read_within_limits(kept_path)  # needed at the end, which is late to learn that it is damaged
    lines = run_folder.read_log(log_path)
    parallel.wait()
    if parallel.main and not marked:
        run_folder.mark(folder, recipe)
    parts = prepare(recipe, parallel, offline)
    counters, start = Counters(), None
    if state is not None:
        counters, start = state.counters, parts.restore(state, path)
        say(f"going on from step {counters.steps} of {parts.order.steps}")
    elif lines:
        say(f"no step of the run in {folder} was saved; beginning again at the first of {parts.order.steps}")
    return parts, counters, start, _cut_log(log_path, lines, counters.steps, parallel.main, say)


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
    """Raises TrainingError, in every process, with the samples of the micro-batches that are to blame, where that is
    known."""
    if all(math.isfinite(value) for value in (norm, losses.lm, losses.contrastive or 0.0, losses.matching or 0.0)):
        return
    named = losses.not_finite
    if parallel.count > 1:  # all processes know that something is wrong, one of them what
        from accelerate.utils import gather_object

        named = gather_object(named)
    identities = list(dict.fromkeys(named)) or [sample.identity for sample in samples]
    shown = ", ".join(identities[:16]) + (f" and {len(identities) - 16} more" if len(identities) > 16 else "")
    raise TrainingError(
        f"step {step}: the loss or its gradient is not finite; lower the learning rate, or look at these samples: "
        f"{shown}. "
        "Nothing of this step was kept."
    )


def _measured_now(parts: Parts, corpus: ParallelCorpus, counters: Counters) -> Measured:
    begun = time.perf_counter()
    measured = validation.measure(parts.model, parts.tokenizer, corpus, parts.align_layer, parts.recipe.seed)
    counters.validating += time.perf_counter() - begun
    return measured


def _measure_first(parts: Parts, corpus: ParallelCorpus, counters: Counters, log: Log, say: Say) -> Measured:
    """The measurement before the first step, which has a line of its own in the log."""
    say(validation.announcement(corpus, parts.recipe.eval_every))
    start = _measured_now(parts, corpus, counters)
    first = validation.summary(start, corpus, parts.align_layer)
    if note := validation.unknown_text(start, parts.recipe):
        first["note"] = note
        say(note)
    log.write({"step": 0, "validation": first})
    return start


def _measure(
    parts: Parts, corpus: ParallelCorpus, counters: Counters, start: Measured, entry: dict[str, Any], folder: Path
) -> str | None:
    """A measurement, into the step's `entry`; the weights are kept where it is within the recipe's limits.

    Returns what was lost beyond the limits, None where nothing was.
    """
    recipe = parts.recipe
    measured = _measured_now(parts, corpus, counters)
    entry["validation"] = validation.summary(measured, corpus, parts.align_layer)
    stopped = validation.over_aligned(start, measured, corpus, recipe)
    if stopped is not None:
        entry["stopped"] = stopped
    elif recipe.stop_bits_per_byte is not None or recipe.stop_language_identity is not None:
        counters.kept_step = counters.steps
        if parts.parallel.main:
            model = parts.parallel.model_state(parts.forward, parts.shapes)
            kept = {"step": counters.steps, "model": model, "matcher": parts.heads}
            run_folder.save_atomically(kept, folder / run_folder.WITHIN_LIMITS)
    return stopped


# After the last step


def _take_back(parts: Parts, counters: Counters, stopped: str, folder: Path) -> None:
    """Back to the last weights that were measured within the limits. Raises TrainingError where there are none."""
    if not counters.kept_step:
        raise TrainingError(
            f"over-alignment by the first measurement, at step {counters.steps}: {stopped}. Nothing was written; "
            "lower the learning rate "
            "or the weights of the alignment losses, or measure more often (eval_every)"
        )
    kept = run_folder.read_within_limits(folder / run_folder.WITHIN_LIMITS)
    counters.kept_step = kept["step"]
    parts.inner.load_state_dict(kept["model"], strict=False)
    if parts.matcher is not None:
        parts.matcher.load_state_dict(kept["matcher"])


def _stage(parts: Parts, counters: Counters, last: dict[str, Any], stopped: str | None, started: str) -> dict[str, Any]:
    """What the checkpoint says of how it was made: amounts, data, machine, versions. `last` is the last step's line of
    the log."""
    recipe, parallel = parts.recipe, parts.parallel
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
        "started": started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **({} if stopped is None else {"stopped": stopped, "kept_step": counters.kept_step}),
    }


def _write_model(parts: Parts, folder: Path, stage: dict[str, Any]) -> None:
    """Write the adapter, where there is one, and model.pt. Every process takes part: a sharded model is gathered."""
    recipe, parallel, path, model = parts.recipe, parts.parallel, folder / run_folder.MODEL, parts.model
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
            heads=None
            if parts.heads is None
            else {f"language_matcher.{name}": tensor for name, tensor in parts.heads.items()},
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
