"""What a recipe would train on, and what that would take: before any training."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import yaml

from alignx_eval.engine.batches import start_name
from alignx_eval.errors import InputError
from alignx_trainer.config import Recipe
from alignx_trainer.losses import LOGITS_AT_ONCE, LanguageMatcher
from alignx_trainer.model import add_adapters, open_model
from alignx_trainer.optimizers import build_optimizers
from alignx_trainer.order import WINDOW, Order, language_shares
from alignx_trainer.parallel import peak_memory
from alignx_trainer.records import Stream
from alignx_trainer.step import Forward, accumulate_gradients, checkpoint_activations, resolve_align_layer
from alignx_trainer.tokenize import Batch, Sample, collate, tokenize

SOURCE, TARGET, OFF = "\x1b[32m", "\x1b[36m", "\x1b[0m"
CHECKED = 5000  # records of a source that are tokenized to count what is truncated


def marked(sample: Sample, tokenizer: Any, colour: bool) -> str:
    """The sample's text with its source in «...» and its target in ‹...›, in colour on a terminal."""
    (source_start, source_end), (target_start, target_end) = sample.source_span, sample.target_span
    ids, parts = sample.input_ids, []
    pieces = (
        (0, source_start, ""),
        (source_start, source_end, SOURCE),
        (source_end, target_start, ""),
        (target_start, target_end, TARGET),
    )
    for start, end, paint in (*pieces, (target_end, len(ids), "")):
        text = tokenizer.decode(ids[start:end])
        if paint and end > start:
            text = f"«{text}»" if paint == SOURCE else f"‹{text}›"
            text = f"{paint}{text}{OFF}" if colour else text
        parts.append(text)
    return "".join(parts)


def inspect(
    recipe: Recipe, *, samples: int, colour: bool, checked: int = CHECKED, measure: bool = True, offline: bool = True
) -> Iterator[str]:
    """Line by line: the resolved recipe, its data source by source, `samples` samples of the first steps, memory and
    time.

    Of each source up to `checked` records (0: all) are tokenized to count what is truncated. Raises InputError and
    MissingAssetError as training would.
    """
    streams = [Stream(source, recipe.prompt_template) for source in recipe.sources]
    model, tokenizer, _ = open_model(recipe, streams, offline)
    try:
        align_layer = resolve_align_layer(recipe.align_layer, model.config.get_text_config().num_hidden_layers)
    except ValueError as error:
        raise InputError(str(error)) from None
    order = Order(streams, recipe, tokenizer)
    steps = [order.batch(step) for step in range(WINDOW)]
    window = [sample for batch in steps for sample in batch]
    yield "# recipe, with its defaults"
    yield yaml.safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True).rstrip()

    yield "\n# data"
    for stream, quota in zip(streams, order.quota, strict=True):
        share, passes = quota / (WINDOW * recipe.batch_size), quota / WINDOW * order.steps / len(stream)
        source = f"{stream.source.kind} from {stream.source.path}"
        yield f"{source}: {len(stream):,} records; {share:.0%} of the samples, {passes:.2f} passes"
        yield f"  dropped when read: {_dropped(stream)}"
        yield f"  shares: {_shares(stream, passes)}"
        yield f"  {_checked_records(stream, tokenizer, recipe, checked)}"
    tokens = round(sum(len(sample.input_ids) for sample in window) / WINDOW * order.steps)
    trained = sum(sum(sample.trained) for sample in window) / sum(len(sample.input_ids) for sample in window)
    yield (
        f"all: {order.steps:,} steps of {recipe.batch_size} samples, about {tokens / 1e6:.2f} million tokens, "
        f"{trained:.0%} of them with a "
        f"next-token loss (computed from the first {WINDOW} steps)"
    )
    if recipe.max_tokens is not None and recipe.max_tokens < tokens:
        yield f"  `max_tokens` ends it earlier, at {recipe.max_tokens / 1e6:.2f} million tokens"

    yield f"start token of every sample: {start_name(tokenizer)}"

    yield "\n# samples: «source», ‹target›"
    for sample in window[:: max(1, len(window) // max(1, samples))][:samples]:
        cut = ", truncated" if sample.truncated else ""
        yield f"-- {sample.identity}: {len(sample.input_ids)} tokens, {sum(sample.trained)} with a next-token loss{cut}"
        yield marked(sample, tokenizer, colour)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    size = recipe.micro_batch_size
    micro_batches = [
        collate(batch[start : start + size], padding) for batch in steps for start in range(0, len(batch), size)
    ]
    micro_batches.sort(key=lambda batch: batch.input_ids.numel())
    longest, typical = micro_batches[-1], micro_batches[len(micro_batches) // 2]
    if recipe.lora_rank:
        add_adapters(model, recipe)
    width = model.config.get_text_config().hidden_size
    matcher = LanguageMatcher(width, recipe.matching_width) if recipe.matching_weight > 0 else None
    optimizers = build_optimizers(model, matcher, recipe)
    yield "\n# memory, computed"
    parts = memory_parts(model, matcher, optimizers, recipe, longest)
    for name, amount in parts.items():
        yield f"{name}: {_size(amount)}"
    yield f"all: {_size(sum(parts.values()))}, and the activations of a micro-batch, which are not computed"

    yield f"\n# time and memory, measured here ({_machine(device)})"
    if not measure:
        yield "not measured"
    elif (room := _memory_of_machine(device)) < sum(parts.values()):
        yield f"not measured: this machine has {_size(room)}"
    else:
        yield from _measure(
            model, matcher, optimizers, recipe, align_layer, device, longest, typical, order.steps, tokens
        )


def _dropped(stream: Stream) -> str:
    found = [f"{count:,} ({why})" for why, count in stream.description["dropped"].items() if count]
    return ", ".join(found) or "none"


def _shares(stream: Stream, passes: float) -> str:
    """Each language's share of the source's samples; with a temperature also how often it is repeated."""
    groups = {name: len(indices) for name, indices in stream.groups().items()}
    temperature = stream.source.temperature
    shares = language_shares(list(groups.values()), temperature)
    if temperature == 1:
        return ", ".join(f"{name} {share:.1%}" for name, share in zip(groups, shares, strict=True))
    named = [
        f"{name} {share:.1%} ({count:,} records, {passes * len(stream) * share / count:.2f} passes)"
        for (name, count), share in zip(groups.items(), shares, strict=True)
    ]
    return f"{', '.join(named)}, at temperature {temperature:g}"


def _checked_records(stream: Stream, tokenizer: Any, recipe: Recipe, limit: int) -> str:
    """How many of the records, or of a random part of them, are truncated, have no tokens in source or target, or are
    there twice."""
    everything = limit == 0 or len(stream) <= limit
    chosen = (
        range(len(stream))
        if everything
        else np.random.default_rng(recipe.seed).choice(len(stream), limit, replace=False)
    )
    truncated, without_source, without_target, seen = 0, 0, 0, set()
    for index in chosen:
        record = stream[int(index)]
        sample = tokenize(
            record, tokenizer, template=recipe.prompt_template, max_length=recipe.max_length, lm_on=recipe.lm_on
        )
        truncated += sample.truncated
        without_source += record.instruction is not None and sample.source_span[0] == sample.source_span[1]
        without_target += sample.target_span[0] == sample.target_span[1]
        seen.add((record.instruction, record.source, record.target))
    whole = f"all {len(chosen):,} records" if everything else f"{len(chosen):,} records drawn at random"
    counts = [f"{truncated:,} truncated to {recipe.max_length} tokens"]
    if stream.source.kind != "monolingual":
        counts.append(
            f"{without_source:,} without {'an input' if stream.source.kind == 'instructions' else 'a source'}"
        )
    counts += [f"{without_target:,} without a target", f"{len(chosen) - len(seen):,} repeat another"]
    return f"of {whole}: {', '.join(counts)}"


def memory_parts(
    model: Any, matcher: LanguageMatcher | None, optimizers: list[torch.optim.Optimizer], recipe: Recipe, batch: Batch
) -> dict[str, int]:
    """Bytes that one process needs beside activations, by part.

    weights: 4 a parameter (float32), and for dtype bfloat16 2 more a weight of a matrix, for the copy that autocast
    keeps for a micro-batch gradients: 4 a trained parameter
    optimizer: 8 a parameter of AdamW (two moments), 4 of Muon (one)
    logits: rows x vocabulary x 4 (and 2 more for bfloat16), rows being what `LOGITS_AT_ONCE` allows of the batch's
    tokens with a loss
    """
    modules = [model] if matcher is None else [model, matcher]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    low = recipe.dtype == "bfloat16"
    vocabulary = model.get_output_embeddings().weight.shape[0]
    rows = min(int((batch.labels[:, 1:] != -100).sum()), max(1, LOGITS_AT_ONCE // vocabulary))
    states = sum(
        parameter.numel() * (4 if isinstance(optimizer, torch.optim.Muon) else 8)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    parts = {"weights": 4 * sum(parameter.numel() for parameter in parameters)}
    if low:
        parts["bfloat16 copies of the matrices"] = 2 * sum(
            parameter.numel() for parameter in parameters if parameter.ndim == 2
        )
    parts["gradients"] = 4 * sum(parameter.numel() for parameter in trained)
    parts["optimizer state"] = states
    parts["logits"] = rows * vocabulary * (6 if low else 4)
    return parts


def _measure(
    model: Any,
    matcher: LanguageMatcher | None,
    optimizers: list[torch.optim.Optimizer],
    recipe: Recipe,
    align_layer: int,
    device: str,
    longest: Batch,
    typical: Batch,
    steps: int,
    tokens: int,
) -> Iterator[str]:
    """Forward and backward pass of two micro-batches and one step of the optimizer, as in training; the model is spoilt
    by it."""
    if device == "cpu":
        model.set_attn_implementation("eager")  # as in training
    if recipe.activation_checkpointing:
        checkpoint_activations(model)
    model.to(device).train()
    if matcher is not None:
        matcher.to(device)
    forward = Forward(model, align_layer)
    # Gradient caching runs only where there are several micro-batches.
    copies = 2 if recipe.aligns and recipe.negatives == "batch" and recipe.batch_size > recipe.micro_batch_size else 1

    def seconds_of(batch: Batch) -> float:
        start = time.perf_counter()
        accumulate_gradients(forward, matcher, [batch] * copies, recipe)
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / copies

    slow = seconds_of(longest)
    yield f"longest micro-batch, {_shape(longest)}: {slow:.2f} s forward and backward, warming up"
    start = time.perf_counter()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if device == "cuda":
        torch.cuda.synchronize()
    optimizing = time.perf_counter() - start
    usual = seconds_of(typical)
    speed = typical.tokens / usual
    yield f"typical micro-batch, {_shape(typical)}: {usual:.2f} s forward and backward, {speed:,.0f} tokens/s"
    yield f"optimizer: {optimizing:.2f} s a step"
    yield f"peak memory: {_size(peak_memory(device))}" + (
        "" if device == "cuda" else " of this process, with libraries and data"
    )
    if recipe.max_tokens is not None and recipe.max_tokens < tokens:
        steps, tokens = max(1, round(steps * recipe.max_tokens / tokens)), recipe.max_tokens
    whole = tokens / speed + steps * optimizing
    more = "; validation comes on top" if recipe.eval_every else ""
    yield f"the whole recipe on one such device: about {_duration(whole)}, computed from the measured speed{more}"


def _shape(batch: Batch) -> str:
    rows, positions = batch.input_ids.shape
    return f"{rows} samples of up to {positions} tokens"


def _size(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB" if amount >= 1e9 else f"{amount / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _machine(device: str) -> str:
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def _memory_of_machine(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
