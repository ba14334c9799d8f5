"""The training loop, top to bottom: model, data, optimizer, steps, log, checkpoint."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from alignx_eval.checkpoint import merge_adapter, write_checkpoint
from alignx_eval.engine.batches import start_name
from alignx_eval.errors import InputError
from alignx_eval.files import atomic_write, sole_writer
from alignx_trainer import run_folder, validation
from alignx_trainer.config import Recipe
from alignx_trainer.losses import LanguageMatcher
from alignx_trainer.model import _whole_model, add_adapters, flops_per_token, open_model
from alignx_trainer.optimizers import build_optimizers, learning_rate
from alignx_trainer.order import Order
from alignx_trainer.parallel import Engine, peak_memory
from alignx_trainer.records import Stream
from alignx_trainer.run_folder import GOES_ON, PARTS, TrainingError, _atomic_save, _open_log, _save_adapter, _version
from alignx_trainer.step import Forward, StepLosses, accumulate_gradients, checkpoint_activations, resolve_align_layer
from alignx_trainer.tokenize import Sample, collate

Progress = Callable[[int, int, dict[str, Any]], None]


def _entry(step: int, losses: StepLosses, **more: Any) -> dict[str, Any]:
    names = (
        "lm",
        "contrastive",
        "contrastive_accuracy",
        "matching",
        "matching_accuracy",
        "same_language_share",
        "pairs",
    )
    return {"step": step} | {name: getattr(losses, name) for name in names} | more


def _stop_if_not_finite(losses: StepLosses, norm: float, samples: list[Sample], step: int, engine: Engine) -> None:
    if all(math.isfinite(value) for value in (norm, losses.lm, losses.contrastive or 0.0, losses.matching or 0.0)):
        return
    named = losses.not_finite
    if engine.count > 1:  # all processes know that something is wrong, one of them what
        from accelerate.utils import gather_object

        named = gather_object(named)
    identities = list(dict.fromkeys(named)) or [sample.identity for sample in samples]
    shown = ", ".join(identities[:16]) + (f" and {len(identities) - 16} more" if len(identities) > 16 else "")
    raise TrainingError(
        f"step {step}: the loss or its gradient is not finite; lower the learning rate, or look at these samples: {shown}. "
        "Nothing of this step was kept."
    )


def train(
    recipe: Recipe,
    folder: Path,
    *,
    device: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
    command: str = "",
    offline: bool = True,
) -> Path:
    """Train by the recipe and return the path of the checkpoint, `folder`/model.pt.

    `folder` also gets `log.jsonl` (one line a step, every loss apart), `report.html`, with adapters `adapter/` (peft's format), and, while
    training, `state.pt`. A run that was interrupted goes on from `state.pt` if the recipe is the same, and ends on the CPU with the same
    bits. A finished run is not done again. `say` is told of both, a line each. Under a launcher every process calls this.
    Raises InputError for wrong input and for damaged files of the run, TrainingError when a loss or gradient is not finite or a file
    cannot be written.
    """
    engine = Engine(recipe, device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with sole_writer(folder) if engine.main else contextlib.nullcontext():
        return _train(recipe, folder, engine, progress, say, command, offline)


def _train(
    recipe: Recipe,
    folder: Path,
    engine: Engine,
    progress: Progress | None,
    say: Callable[[str], None],
    command: str,
    offline: bool,
) -> Path:
    device = engine.device
    finished, state_path, log_path, good_path = (
        folder / name for name in ("model.pt", "state.pt", "log.jsonl", "within_limits.pt")
    )
    marked = run_folder.is_marked(folder, recipe)
    if finished.is_file():
        engine.wait()
        say(
            f"{_description(finished)}; nothing was trained. To train anew, remove {folder} or choose another output folder"
        )
        _finish(folder, engine)
        return finished
    state = run_folder.read_state(state_path, recipe) if state_path.is_file() else None
    if state is not None and state["counts"][-1]:
        run_folder.read_within_limits(
            good_path
        )  # it may be needed at the end, which is late to learn that it is damaged
    log_before = run_folder.read_log(log_path)
    engine.wait()
    if engine.main and not marked:
        run_folder.mark(folder, recipe)

    torch.manual_seed(recipe.seed)
    streams = [Stream(source, recipe.prompt_template) for source in recipe.sources]
    corpus = validation.load_validation(recipe) if recipe.eval_every else None
    model, tokenizer, provenance = open_model(recipe, streams, offline)
    try:
        align_layer = resolve_align_layer(recipe.align_layer, model.config.get_text_config().num_hidden_layers)
    except ValueError as error:
        raise InputError(str(error)) from None
    if not recipe.aligns:
        align_layer = provenance.get(
            "align_layer", align_layer
        )  # where validation looks: the layer that an earlier stage aligned
    if device == "cpu":
        model.set_attn_implementation("eager")  # short sentences: 1.2 times the tokens per second of the fused kernel
    if recipe.activation_checkpointing:
        checkpoint_activations(model)
    adapted = add_adapters(model, recipe) if recipe.lora_rank else None
    model.to(device).train()
    matcher = None
    if recipe.matching_weight > 0:
        matcher = LanguageMatcher(model.config.get_text_config().hidden_size, recipe.matching_width).to(device)
    parameters_of_matcher = list(matcher.parameters()) if matcher is not None else []
    inner = Forward(model, align_layer)
    trained = {name for name, parameter in inner.named_parameters() if parameter.requires_grad}
    trained |= {name for name in inner.state_dict() if not recipe.lora_rank}  # tied weights have a second name
    shapes = {name: tensor.shape for name, tensor in inner.state_dict().items() if name in trained}
    optimizers = build_optimizers(model, matcher, recipe)
    own = optimizers[-1:] if matcher is not None else []  # of the matcher, which every process holds whole
    flops_a_token, flops_a_scored_token = flops_per_token(model, recipe)
    weights = sum(parameter.numel() for parameter in model.parameters())
    forward, of_model = engine.prepare(inner, optimizers[: len(optimizers) - len(own)])
    trainable = [parameter for parameter in forward.parameters() if parameter.requires_grad]
    order = Order(streams, recipe, tokenizer)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    done, tokens, samples_seen, truncated, seconds, validating, flops = 0, 0, 0, 0, 0.0, 0.0, 0.0
    kept_step, stopped = 0, None
    start: validation.Measured | None = None
    last: dict[str, Any] = {}
    if state is not None:
        done, tokens, samples_seen, truncated, seconds, validating, flops, kept_step = state["counts"]
        run_folder.check_tensors(state_path, state["model"], shapes)
        try:
            engine.restore(forward, of_model, state)
            if matcher is not None:
                matcher.load_state_dict(state["matcher"])
                own[0].load_state_dict(state["matcher_optimizer"])
            if state["start"] is not None:
                start = validation.Measured(*(tensor.numpy() for tensor in state["start"]))
        except torch.OutOfMemoryError:
            raise
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RuntimeError,
        ) as error:  # whatever load_state_dict makes of it
            raise run_folder.damaged(state_path, error) from None
        for optimizer in [*of_model, *own]:
            run_folder.check_moments(state_path, optimizer.state)
        say(f"going on from step {done} of {order.steps}")
        state = None  # as large as the model and its optimizer
    elif log_before:
        say(f"no step of the run in {folder} was saved; beginning again at the first of {order.steps}")
    log_before = [entry for entry in log_before if entry["step"] <= done] if done else []
    if (kept := sum(entry["step"] > 0 for entry in log_before)) < done:
        say(f"{log_path} has the lines of {kept} of these steps; the others are lost")
    if engine.main and log_path.is_file():
        atomic_write(log_path, "".join(json.dumps(entry) + "\n" for entry in log_before))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = time.perf_counter() - seconds - validating

    def save_state() -> None:
        state = {
            "version": run_folder.STATE_VERSION,
            "recipe": run_folder.recipe_hash(recipe),
            "model": engine.model_state(forward, trained),
            "optimizers": engine.optimizer_states(forward, of_model),
            "matcher": matcher.state_dict() if matcher is not None else None,
            "matcher_optimizer": own[0].state_dict() if own else None,
            "counts": [
                done,
                tokens,
                samples_seen,
                truncated,
                time.perf_counter() - clock - validating,
                validating,
                flops,
                kept_step,
            ],
            "start": None
            if start is None
            else [torch.from_numpy(getattr(start, name)) for name in validation.MEASURES],
        }
        if engine.main:
            try:
                os.fsync(log.fileno())
            except OSError as error:
                raise TrainingError(f"could not write {log_path}: {error.strerror}; {GOES_ON}") from None
            _atomic_save(state, state_path)

    def validate() -> validation.Measured:
        nonlocal validating
        assert corpus is not None
        begun = time.perf_counter()
        measured = validation.measure(model, tokenizer, corpus, align_layer, recipe.seed)
        validating += time.perf_counter() - begun
        return measured

    with _open_log(log_path if engine.main else Path(os.devnull)) as log:

        def write(entry: dict[str, Any]) -> None:
            line = json.dumps(entry).encode() + b"\n"
            try:
                while line:  # on a disk that gets full a write may stop short; the next one fails
                    line = line[log.write(line) :]
            except OSError as error:
                raise TrainingError(f"could not write {log_path}: {error.strerror}; {GOES_ON}") from None

        if corpus is not None and start is None:
            if engine.main:
                say(validation.announcement(corpus, recipe.eval_every))
            start = validate()
            measured_first = validation.summary(start, corpus, align_layer)
            if note := validation.unknown_text(start, recipe):
                measured_first["note"] = note
                if engine.main:
                    say(note)
            write({"step": 0, "validation": measured_first})
        while done < order.steps and stopped is None and (recipe.max_tokens is None or tokens < recipe.max_tokens):
            step_clock = time.perf_counter()
            samples = order.batch(done)
            size = recipe.micro_batch_size
            micro_batches = [collate(samples[begin : begin + size], padding) for begin in range(0, len(samples), size)]
            losses = accumulate_gradients(
                forward, matcher, micro_batches, recipe, step=done, accelerator=engine.accelerator
            )
            norm = engine.clip(trainable, parameters_of_matcher, recipe.max_grad_norm)
            _stop_if_not_finite(losses, norm, samples, done + 1, engine)
            rate = learning_rate(done, order.steps, recipe)
            for optimizer in [*of_model, *own]:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            done += 1
            step_tokens = sum(batch.tokens for batch in micro_batches)
            tokens += step_tokens
            samples_seen += len(samples)
            truncated += sum(sample.truncated for sample in samples)
            flops += float(flops_a_token * step_tokens + flops_a_scored_token * losses.lm_tokens)
            now = time.perf_counter()
            last = _entry(
                done,
                losses,
                tokens=tokens,
                learning_rate=rate,
                grad_norm=norm,
                tokens_per_second=step_tokens / (now - step_clock),
                seconds=now - clock - validating,
            )
            if corpus is not None and start is not None and done % recipe.eval_every == 0:
                measured = validate()
                last["validation"] = validation.summary(measured, corpus, align_layer)
                stopped = validation.over_aligned(start, measured, corpus, recipe)
                limited = recipe.stop_bits_per_byte is not None or recipe.stop_language_identity is not None
                if stopped is not None:
                    last["stopped"] = stopped
                elif limited:
                    kept_step = done
                    if engine.main:
                        heads = matcher.state_dict() if matcher is not None else None
                        _atomic_save(
                            {"step": done, "model": engine.model_state(forward, trained), "matcher": heads}, good_path
                        )
            write(last)
            if progress is not None and engine.main:
                progress(done, order.steps, last)
            if done % recipe.save_every == 0 and done < order.steps and stopped is None:
                save_state()
    if stopped is not None and not kept_step:
        raise TrainingError(
            f"over-alignment by the first measurement, at step {done}: {stopped}. Nothing was written; lower the learning rate or the "
            "weights of the alignment losses, or measure more often (eval_every)"
        )
    if stopped is not None:
        good = run_folder.read_within_limits(good_path)
        kept_step = good["step"]
        inner.load_state_dict(good["model"], strict=False)
        if matcher is not None:
            matcher.load_state_dict(good["matcher"])

    if not last and log_before:  # resumed after its last step
        last = log_before[-1]
    stage = {
        "stage": recipe.stage,
        "steps": done,
        "samples": samples_seen,
        "tokens": tokens,
        "truncated_samples": truncated,
        "seconds": round(time.perf_counter() - clock - validating, 1),
        "validation_seconds": round(validating, 1),
        "flops": flops,
        "peak_memory_bytes": peak_memory(device),
        "processes": engine.count,
        "parallelism": "FSDP2" if engine.sharded else "DDP" if engine.count > 1 else None,
        "final": {
            key: last.get(key) for key in ("lm", "contrastive", "contrastive_accuracy", "matching", "matching_accuracy")
        },
        "data": [stream.description for stream in streams],
        "align_layer": align_layer if recipe.aligns else None,
        "seed": recipe.seed,
        "device": torch.cuda.get_device_name()
        if device.startswith("cuda")
        else f"CPU, {torch.get_num_threads()} threads",
        "parameters": weights,
        "trained_parameters": sum(parameter.numel() for parameter in trainable),
        "versions": {name: _version(name) for name in ("torch", "transformers", "accelerate", "alignx-eval")}
        | {"python": platform.python_version()}
        | ({"peft": _version("peft")} if recipe.lora_rank else {}),
        "command": command,
        "started": started,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if stopped is not None:
        stage |= {"stopped": stopped, "kept_step": kept_step}
    provenance["stages"].append(stage)
    provenance["start_token"] = start_name(tokenizer)
    if recipe.aligns:
        provenance["align_layer"] = align_layer
    state = engine.model_state(forward, set(inner.state_dict())) if engine.sharded else None
    if engine.main:
        if adapted is not None:
            _save_adapter(adapted, folder / "adapter")
            model, _ = merge_adapter(adapted, tokenizer, str(finished))
        if state is not None:
            model = _whole_model(model.config, state)
        model.eval()
        (folder / "report.html").unlink(missing_ok=True)  # one that was written on the way tells of an unfinished run
        write_checkpoint(
            finished,
            model=model,
            tokenizer=tokenizer,
            stage=recipe.stage,
            step=kept_step if stopped is not None else done,
            prompt_template=recipe.prompt_template,
            heads={f"language_matcher.{name}": tensor for name, tensor in matcher.state_dict().items()}
            if matcher is not None
            else None,
            recipe=recipe.as_dict(),
            provenance=provenance,
            dtype=getattr(torch, recipe.store_dtype),
        )
    engine.wait()
    _finish(folder, engine)
    return finished


def _description(finished: Path) -> str:
    """What a finished run's checkpoint is. Raises InputError where it is damaged."""
    from alignx_eval.checkpoint import _read_pt

    content = _read_pt(finished)
    stages = content["provenance"].get("stages") or [{}]
    return f"{finished} is there: {content['stage']}, step {content['step']}, finished {stages[-1].get('finished')}"


def _finish(folder: Path, engine: Engine) -> None:
    """What comes after `model.pt`: the report, and away with what was for going on."""
    if engine.main:
        from alignx_trainer.report import write_report

        if not (folder / "report.html").is_file() and (folder / "log.jsonl").is_file():
            write_report(folder)
        for path in (
            folder / "state.pt",
            folder / "within_limits.pt",
            *(part for pattern in PARTS for part in folder.glob(pattern)),
        ):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    engine.wait()
