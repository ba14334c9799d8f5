"""What a recipe would train on: counts, and samples with their spans, before any training."""

from __future__ import annotations

from typing import Any

import yaml

from alignx_eval.checkpoint import open_checkpoint
from alignx_trainer.config import Recipe
from alignx_trainer.data import WINDOW, Order, Sample, Stream, train_tokenizer

SOURCE, TARGET, OFF = "\x1b[32m", "\x1b[36m", "\x1b[0m"


def marked(sample: Sample, tokenizer: Any, colour: bool) -> str:
    """The sample's text with its source in «...» and its target in ‹...›, in colour on a terminal."""
    (source_start, source_end), (target_start, target_end) = sample.source_span, sample.target_span
    ids, parts = sample.input_ids, []
    pieces = ((0, source_start, ""), (source_start, source_end, SOURCE), (source_end, target_start, ""), (target_start, target_end, TARGET))
    for start, end, paint in (*pieces, (target_end, len(ids), "")):
        text = tokenizer.decode(ids[start:end])
        if paint and end > start:
            text = f"«{text}»" if paint == SOURCE else f"‹{text}›"
            text = f"{paint}{text}{OFF}" if colour else text
        parts.append(text)
    return "".join(parts)


def inspect(recipe: Recipe, *, samples: int, colour: bool) -> str:
    """The resolved recipe, the size of the work, and `samples` samples of the first steps. Raises InputError as training would."""
    streams = [Stream(source, recipe.prompt_template) for source in recipe.sources]
    tokenizer = open_checkpoint(recipe.init).tokenizer if recipe.init is not None else train_tokenizer(streams, recipe.vocabulary_size)
    order = Order(streams, recipe, tokenizer)
    window = [sample for step in range(WINDOW) for sample in order.batch(step)]
    tokens = sum(len(sample.input_ids) for sample in window)
    lines = ["# resolved recipe", yaml.safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True).rstrip(), "", "# work"]
    for stream, quota in zip(streams, order.quota, strict=True):
        share = quota / (WINDOW * recipe.batch_size)
        passes = quota / WINDOW * order.steps / len(stream)
        lines.append(f"{stream.source.kind} {stream.source.path}: {len(stream)} records, {share:.0%} of the samples, {passes:.2f} passes")
    lines.append(f"{order.steps} steps of {recipe.batch_size} samples, about {tokens / WINDOW * order.steps / 1e6:.2f} million tokens")
    truncated = sum(sample.truncated for sample in window)
    pairs = sum(sample.source_span[1] > sample.source_span[0] for sample in window)
    lines.append(f"of the first {len(window)} samples {truncated} are truncated to {recipe.max_length} tokens, {pairs} have a source")
    lines += ["", "# samples: «source», ‹target›"]
    step = max(1, len(window) // max(1, samples))
    for sample in window[::step][:samples]:
        lines += [
            f"-- {sample.identity}, {len(sample.input_ids)} tokens, {sum(sample.trained)} trained on",
            marked(sample, tokenizer, colour),
        ]
    return "\n".join(lines)
