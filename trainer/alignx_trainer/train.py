"""The training loop, top to bottom: model, data, optimizer, steps, log, checkpoint."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from alignx_eval import processes
from alignx_eval.checkpoint import follow_umask, merge_adapter, open_checkpoint, write_checkpoint
from alignx_eval.encode import start_name
from alignx_eval.errors import AlignxError, InputError
from alignx_eval.run_directory import atomic_write, sole_writer
from alignx_trainer import run_folder, validation
from alignx_trainer.config import Recipe
from alignx_trainer.data import Order, Sample, Stream, collate, train_tokenizer
from alignx_trainer.losses import LanguageMatcher
from alignx_trainer.step import (
    Forward,
    StepLosses,
    accumulate_gradients,
    check_logits,
    checkpoint_activations,
    resolve_align_layer,
)

# What a kill leaves of files that were being written.
PARTS = (
    "state.pt.part",
    "within_limits.pt.part",
    ".model.pt.*.partial",
    *(f".{name}.*.tmp" for name in ("recipe.json", "log.jsonl", "report.html")),
)
GOES_ON = "when that is mended, the same command goes on from the last saved step"
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
    """AdamW for everything, or Muon (Jordan et al. 2024) for the matrices of the blocks and AdamW for the rest; the matcher's own AdamW
    comes last."""
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
        raise TrainingError(f"could not write {path}: {error}; {GOES_ON}") from None


def _open_log(path: Path) -> Any:
    try:
        return open(
            path, "ab", buffering=0
        )  # a line is on its way when it is written, and closing has nothing left to do
    except OSError as error:
        raise TrainingError(f"could not write {path}: {error.strerror}") from None


def open_model(recipe: Recipe, streams: list[Stream], offline: bool) -> tuple[Any, Any, dict[str, Any]]:
    """Model in float32 on the CPU, tokenizer, and the provenance so far: those of `init`, or new ones. Raises InputError."""
    provenance: dict[str, Any] = {"stages": []}
    if recipe.init is not None:
        start = open_checkpoint(recipe.init, device="cpu", dtype="float32", offline=offline)
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
        settings = dict(
            recipe.model,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        settings["pad_token_id"] = tokenizer.pad_token_id
        try:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"model: transformers cannot build it: {error}") from None
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-sequence token; the model could not learn to stop")
    try:
        check_logits(model)
    except ValueError as error:
        raise InputError(str(error)) from None
    return model, tokenizer, provenance


def add_adapters(model: Any, recipe: Recipe) -> Any:
    """`model` with low-rank adapters (Hu et al. 2021) on the linear layers of its blocks, all else frozen; a peft model around it."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise InputError("lora_rank needs peft: pip install 'alignx-eval[lora]'") from None
    settings = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, settings)
    # What the adapter's folder names as its base: a model opened from a .pt does not know its place, one of the hub only that in the cache.
    assert recipe.init is not None
    base, revision = Path(recipe.init).expanduser(), None
    name = str(base.resolve()) if base.exists() else recipe.init
    if not base.exists() and "@" in name:
        name, _, revision = name.partition("@")
    adapted.peft_config["default"].base_model_name_or_path = name
    adapted.peft_config["default"].revision = revision
    return adapted


class Engine:
    """Where the work runs: this process alone, or several under `accelerate launch` (DDP, or FSDP2 by its YAML)."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self.accelerator: Any = None
        self.sharded = False
        if processes.launched():
            from accelerate import Accelerator
            from accelerate.utils import DistributedType

            self.accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
            self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
            device = str(self.accelerator.device)
            if self.sharded and not self.accelerator.is_fsdp2:
                raise InputError(
                    "FSDP of version 1 is not supported; set `fsdp_version: 2` in the accelerate configuration"
                )
            if self.sharded and (recipe.optimizer == "muon" or recipe.eval_every):
                raise InputError(
                    "muon and eval_every need whole matrices in each process; with FSDP use adamw and eval_every: 0"
                )
            if self.sharded and recipe.lora_rank:
                raise InputError("adapters are small enough for whole copies; train them with DDP, not FSDP")
        self.device = device
        self.main = processes.is_main()
        self.count = self.accelerator.num_processes if self.accelerator is not None else 1
        micro_batches = recipe.batch_size // recipe.micro_batch_size
        if micro_batches % self.count:
            raise InputError(
                f"batch_size / micro_batch_size gives {micro_batches} micro-batches, which {self.count} processes cannot share"
            )

    def prepare(self, forward: Forward, optimizers: list[torch.optim.Optimizer]) -> tuple[Any, list[Any]]:
        if self.accelerator is None:
            return forward, list(optimizers)
        prepared = self.accelerator.prepare(forward, *optimizers)
        return prepared[0], list(prepared[1:])

    def wait(self) -> None:
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def clip(self, model: list[torch.nn.Parameter], matcher: list[torch.nn.Parameter], largest: float) -> float:
        """Scale all gradients together to a norm of at most `largest`; returns the norm before."""
        gradients = [
            [parameter.grad for parameter in group if parameter.grad is not None] for group in (model, matcher)
        ]
        norms = [torch.nn.utils.get_total_norm(group) for group in gradients if group]
        # The gradients of a sharded model are sharded, those of the matcher are not, so each has its norm.
        total = math.sqrt(
            sum(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm) ** 2 for norm in norms)
        )
        if math.isfinite(total) and total > largest:
            for group in gradients:
                torch._foreach_mul_(group, largest / (total + 1e-6)) if group else None
        return total

    def model_state(self, forward: Any, names: set[str]) -> dict[str, Any]:
        """Tensors of the model by the name they have in one process, those of `names` alone. Sharded: whole in the main process only."""
        if not self.sharded:
            inner = self.accelerator.unwrap_model(forward) if self.accelerator is not None else forward
            return {name: tensor for name, tensor in inner.state_dict().items() if name in names}
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return {
            name: tensor for name, tensor in get_model_state_dict(forward, options=options).items() if name in names
        }

    def optimizer_states(self, forward: Any, optimizers: list[Any]) -> list[dict[str, Any]]:
        plain = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
        if not self.sharded:
            return [optimizer.state_dict() for optimizer in plain]
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return [get_optimizer_state_dict(forward, optimizer, options=options) for optimizer in plain]

    def restore(self, forward: Any, optimizers: list[Any], state: dict[str, Any]) -> None:
        plain = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
        if not self.sharded:
            inner = self.accelerator.unwrap_model(forward) if self.accelerator is not None else forward
            inner.load_state_dict(state["model"], strict=False)  # adapters alone where the rest is frozen
            for optimizer, saved in zip(plain, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            return
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        options = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True, strict=False)
        set_model_state_dict(forward, state["model"] if self.main else {}, options=options)
        for optimizer, saved in zip(plain, state["optimizers"], strict=True):
            set_optimizer_state_dict(forward, optimizer, saved if self.main else {}, options=options)


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


def flops_per_token(model: Any, recipe: Recipe) -> tuple[int, int]:
    """Floating-point operations a token, and more a token with a next-token loss.

    2 a weight forward, 2 for the gradients of the states, 2 for those of weights that are trained (Kaplan et al. 2020), 2 more each for
    the second forward pass of gradient caching and for activation checkpointing. The output embeddings work for the tokens with a
    next-token loss. Attention's own products and the embeddings' look-up are not counted.
    """
    table = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    weights = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in table)
    two_passes = recipe.aligns and recipe.negatives == "batch" and recipe.batch_size > recipe.micro_batch_size
    trained = 4 if recipe.lora_rank else 6
    adapters = (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) if recipe.lora_rank else 0
    )
    return (
        weights * (trained + 2 * two_passes + 2 * recipe.activation_checkpointing) + 2 * adapters,
        model.get_output_embeddings().weight.numel() * trained,
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


def _save_adapter(adapted: Any, folder: Path) -> None:
    """The adapter in peft's format, beside the checkpoint that holds it merged; whole under its name or not at all."""
    from safetensors import SafetensorError

    part = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        adapted.save_pretrained(part, save_embedding_layers=False)  # they are frozen; "auto" would ask the hub
        follow_umask(part)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        shutil.rmtree(part, ignore_errors=True)
        raise TrainingError(f"could not write {folder}: {error}; {GOES_ON}") from None


def _whole_model(config: Any, state: dict[str, Any]) -> Any:
    """A model of its own for the gathered tensors of a sharded one."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    return model


def peak_memory(device: str) -> int:
    """Bytes: of tensors on a GPU, else of this process."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
