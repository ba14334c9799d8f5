"""The training loop, top to bottom: model, data, optimizer, steps, log, checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from alignx_eval.checkpoint import open_checkpoint, write_checkpoint
from alignx_eval.errors import AlignxError, InputError
from alignx_trainer.config import Recipe
from alignx_trainer.data import Order, Stream, collate, train_tokenizer
from alignx_trainer.losses import LanguageMatcher
from alignx_trainer.step import Forward, accumulate_gradients, check_logits, resolve_align_layer

Progress = Callable[[int, int, dict[str, Any]], None]


class TrainingError(AlignxError):
    """Training cannot go on: a loss or gradient is not finite, or the disk is full."""


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up, then linear or cosine decay to `final_learning_rate` of the peak at the last step."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    shape = 1 - done if recipe.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return recipe.learning_rate * (recipe.final_learning_rate + (1 - recipe.final_learning_rate) * shape)


def build_optimizers(model: Any, matcher: LanguageMatcher | None, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon (Jordan et al. 2024) for the matrices of the blocks and AdamW for the rest."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    matrices = [parameter for _, parameter in named if parameter.ndim == 2 and id(parameter) not in embeddings]
    others = [parameter for _, parameter in named if not any(parameter is matrix for matrix in matrices)]
    head = list(matcher.parameters()) if matcher is not None else []
    if recipe.optimizer == "muon":
        return [
            torch.optim.Muon(matrices, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others + head, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
    decayed, plain = matrices + head, others
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=recipe.learning_rate)]


def recipe_hash(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(recipe.as_dict(), sort_keys=True).encode()).hexdigest()


def _atomic_save(what: Any, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            torch.save(what, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise TrainingError(f"could not write {path}: {error}") from None


def _keep_log(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run will do again."""
    if path.is_file():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}") and json.loads(line)["step"] <= step]
        part = path.with_name(path.name + ".part")
        part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        os.replace(part, path)


def train(recipe: Recipe, folder: Path, *, device: str | None = None, progress: Progress | None = None, command: str = "") -> Path:
    """Train by the recipe and return the path of the checkpoint, `folder`/model.pt.

    `folder` also gets `log.jsonl` (one line a step, every loss apart) and, while training, `state.pt`. A run that was interrupted goes on
    from
    `state.pt` if the recipe is the same, and ends on the CPU with the same bits. A finished run is not done again.
    Raises InputError for wrong input, TrainingError when a loss or gradient is not finite.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the output folder {folder}: {error.strerror}") from None
    finished, state_path, log_path = folder / "model.pt", folder / "state.pt", folder / "log.jsonl"
    mark = folder / "recipe.json"
    identity = recipe_hash(recipe)
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")).get("sha256") != identity:
        raise InputError(f"{folder} holds a run of another recipe; choose another output folder or remove it")
    if finished.is_file() and not mark.is_file():
        raise InputError(f"{folder} holds a model.pt that this recipe did not make; choose another output folder")
    if finished.is_file():
        return finished
    part = mark.with_name("recipe.json.part")
    part.write_text(json.dumps({"sha256": identity, "recipe": recipe.as_dict()}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, mark)

    torch.manual_seed(recipe.seed)
    streams = [Stream(source, recipe.prompt_template) for source in recipe.sources]
    provenance: dict[str, Any] = {"stages": []}
    if recipe.init is not None:
        start = open_checkpoint(recipe.init, device="cpu", dtype="float32")
        model, tokenizer = start.model, start.tokenizer
        provenance = {
            "stages": list(start.provenance.get("stages", [])),
            "init": {"reference": recipe.init, "content_hash": start.content_hash},
        }
        if start.align_layer is not None:
            provenance["align_layer"] = start.align_layer
    else:
        from transformers import AutoConfig, AutoModelForCausalLM

        tokenizer = train_tokenizer(streams, recipe.vocabulary_size)
        settings = dict(recipe.model, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
        settings["pad_token_id"] = tokenizer.pad_token_id
        try:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"model: transformers cannot build it: {error}") from None
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-sequence token; the model could not learn to stop")
    check_logits(model)
    if device == "cpu":
        model.set_attn_implementation("eager")  # short sentences: 1.2 times the tokens per second of the fused kernel
    model.to(device).train()
    align_layer = resolve_align_layer(recipe.align_layer, model.config.get_text_config().num_hidden_layers)
    width = model.config.get_text_config().hidden_size
    matcher = LanguageMatcher(width, recipe.matching_width).to(device) if recipe.matching_weight > 0 else None
    forward = Forward(model, align_layer)
    optimizers = build_optimizers(model, matcher, recipe)
    trainable = [parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]]
    order = Order(streams, recipe, tokenizer)
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    parameters = sum(parameter.numel() for parameter in model.parameters())

    done, tokens, samples_seen, truncated, seconds, flops = 0, 0, 0, 0, 0.0, 0.0
    last: dict[str, Any] = {}
    if state_path.is_file():
        state = torch.load(state_path, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        if matcher is not None:
            matcher.load_state_dict(state["matcher"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        torch.set_rng_state(state["rng"].cpu())
        if device == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu())
        done, tokens, samples_seen, truncated, seconds, flops = state["counts"]
    _keep_log(log_path, done)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = time.perf_counter()

    def save_state() -> None:
        counts = [done, tokens, samples_seen, truncated, seconds + time.perf_counter() - clock, flops]
        _atomic_save(
            {
                "model": model.state_dict(),
                "matcher": matcher.state_dict() if matcher is not None else None,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state() if device == "cuda" else None,
                "counts": counts,
            },
            state_path,
        )

    with open(log_path, "a", encoding="utf-8") as log:
        while done < order.steps and (recipe.max_tokens is None or tokens < recipe.max_tokens):
            step_clock = time.perf_counter()
            samples = order.batch(done)
            size = recipe.micro_batch_size
            micro_batches = [collate(samples[begin : begin + size], padding) for begin in range(0, len(samples), size)]
            losses = accumulate_gradients(forward, matcher, micro_batches, recipe)
            norm = float(torch.nn.utils.clip_grad_norm_(trainable, recipe.max_grad_norm))
            if not math.isfinite(norm) or not math.isfinite(losses.lm):
                names = ", ".join(sample.identity for sample in samples[:8])
                raise TrainingError(
                    f"step {done + 1}: the loss or its gradient is not finite; "
                    f"lower the learning rate, or look at these samples: {names} ..."
                )
            rate = learning_rate(done, order.steps, recipe)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            done += 1
            step_tokens = sum(batch.tokens for batch in micro_batches)
            tokens += step_tokens
            samples_seen += len(samples)
            truncated += sum(sample.truncated for sample in samples)
            two_pass = recipe.aligns and recipe.negatives == "batch" and len(micro_batches) > 1
            flops += (8 if two_pass else 6) * parameters * step_tokens  # 2 a parameter and token forward, 4 backward (Kaplan et al. 2020)
            now = time.perf_counter()
            last = {
                "step": done,
                "lm": losses.lm,
                "contrastive": losses.contrastive,
                "contrastive_accuracy": losses.contrastive_accuracy,
                "matching": losses.matching,
                "matching_accuracy": losses.matching_accuracy,
                "same_language_share": losses.same_language_share,
                "pairs": losses.pairs,
                "tokens": tokens,
                "learning_rate": rate,
                "grad_norm": norm,
                "tokens_per_second": step_tokens / (now - step_clock),
                "seconds": seconds + now - clock,
            }
            log.write(json.dumps(last) + "\n")
            log.flush()
            if progress is not None:
                progress(done, order.steps, last)
            if done % recipe.save_every == 0 and done < order.steps:
                save_state()

    if not last:
        last = json.loads(log_path.read_text(encoding="utf-8").splitlines()[-1])
    provenance["stages"].append(
        {
            "stage": recipe.stage,
            "steps": done,
            "samples": samples_seen,
            "tokens": tokens,
            "truncated_samples": truncated,
            "seconds": round(seconds + time.perf_counter() - clock, 1),
            "flops": flops,
            "peak_memory_bytes": _peak_memory(device),
            "final": {key: last.get(key) for key in ("lm", "contrastive", "contrastive_accuracy", "matching", "matching_accuracy")},
            "data": [stream.description for stream in streams],
            "align_layer": align_layer if recipe.aligns else None,
            "seed": recipe.seed,
            "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "transformers": _version("transformers")},
            "command": command,
            "started": started,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    if recipe.aligns:
        provenance["align_layer"] = align_layer
    model.eval()
    write_checkpoint(
        finished,
        model=model,
        tokenizer=tokenizer,
        stage=recipe.stage,
        step=done,
        prompt_template=recipe.prompt_template,
        heads={f"language_matcher.{name}": tensor for name, tensor in matcher.state_dict().items()} if matcher is not None else None,
        recipe=recipe.as_dict(),
        provenance=provenance,
        dtype=getattr(torch, recipe.store_dtype),
    )
    with contextlib.suppress(FileNotFoundError):
        state_path.unlink()
    return finished


def _peak_memory(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
