"""One stage-1 step against the same step done the official way, and gradient caching against plain accumulation, in
turns in one process; the peak memory of each in a process of its own.

    PYTHONPATH=.:trainer python benchmarks/train_step.py --corpus FOLDER --languages eng_Latn,deu_Latn --threads 1 --out
    train_step.json

Step: Gemma 3 270M (18 layers of width 640, vocabulary 262,144, tied embeddings) with random weights, one micro-batch of
16 translation instructions, the losses and weights of `paper_stage1`, float32; forward and backward pass, clipping,
AdamW.
ours      what the trainer runs: `accumulate_gradients`, `Parallel.clip`, AdamW of `build_optimizers`
official  all hidden states kept, logits of all positions in float32 and their shifted copy, cosines over tensors
          expanded to n x n x width, all (2n)^2 ordered pairs of sentences as [a; b] through the gated classifier;
          clipping and AdamW of torch
Both get the same batch, as our trainer makes it (samples of about one length, hence little padding), and the same
attention.

Caching: 256 samples in micro-batches of 16, `negatives: batch` (gradient caching) against `negatives: micro` (plain
accumulation).

Memory: of tensors, the peak of all that are alive, as in encode.py. Of a child process, which also holds what the
allocator of the C library keeps: `extra` is the peak resident size during forward and backward pass beyond that just
before it, when weights and optimizer state are there and gradients are not; `whole` is the peak resident size of a
whole step, libraries, weights, gradients and optimizer included.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from alignx_trainer.config import Recipe, Source, load_recipe
from alignx_trainer.losses import LanguageMatcher
from alignx_trainer.optimizers import build_optimizers
from alignx_trainer.order import Order
from alignx_trainer.parallel import Parallel
from alignx_trainer.records import Stream
from alignx_trainer.step import Forward, accumulate_gradients, resolve_align_layer
from alignx_trainer.tokenize import Batch, collate
from encode import peak_tensor_bytes
from torch import Tensor, nn
from torch.nn import functional as F
from turns import in_turns, show_ratio, show_times

from alignx_eval.checkpoint import open_checkpoint
from alignx_eval.files import atomic_write

SPREAD = 31  # ids times this, so that rows of the whole embedding are touched and not the first few thousand
GEMMA_270M = {
    "model_type": "gemma3_text",
    "vocab_size": 262144,
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "tie_word_embeddings": True,
}
SMOLLM2_135M = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
SHAPES: dict[str, dict[str, Any]] = {"gemma3-270m": GEMMA_270M, "smollm2-135m": SMOLLM2_135M}


def official_losses(
    model: Any, matcher: LanguageMatcher, batch: Batch, recipe: Recipe, align_layer: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Next-token, contrastive and matching loss of `contrastive: official_code` and `lm_on: all`, as their formulas are
    written down."""
    outputs = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        labels=None,
        use_cache=False,
        output_hidden_states=True,
    )
    logits = outputs.logits.float()
    shifted, labels = logits[..., :-1, :].contiguous(), batch.labels[..., 1:].contiguous()
    lm = F.cross_entropy(shifted.view(-1, shifted.shape[-1]), labels.view(-1), ignore_index=-100)

    def pooled(states: Tensor, mask: Tensor) -> Tensor:
        return (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)

    middle, last = outputs.hidden_states[align_layer], outputs.hidden_states[-1][:, :-1]
    source, target = pooled(middle, batch.source_mask), pooled(middle, batch.target_mask)
    n, width = source.shape
    cosine = F.cosine_similarity(
        source.unsqueeze(1).expand(n, n, width), target.unsqueeze(0).expand(n, n, width), dim=-1
    )
    contrastive = F.cross_entropy(cosine / recipe.temperature, torch.arange(n)) / 2

    vectors = torch.cat([pooled(last, batch.source_mask[:, 1:]), pooled(last, batch.target_mask[:, 1:])])
    names = [sample.source_language for sample in batch.samples] + [sample.target_language for sample in batch.samples]
    same = torch.tensor([one == two for one in names for two in names]).long()
    pairs = torch.cat([vectors.repeat_interleave(2 * n, dim=0), vectors.repeat(2 * n, 1)], dim=-1)
    matching = F.cross_entropy(matcher.down(F.silu(matcher.gate(pairs)) * matcher.up(pairs)), same)
    return lm, contrastive, matching


def official_gradients(
    model: Any, matcher: LanguageMatcher, batch: Batch, recipe: Recipe, align_layer: int
) -> tuple[float, float, float]:
    """The losses; their weighted sum's gradients are left on the parameters."""
    lm, contrastive, matching = official_losses(model, matcher, batch, recipe, align_layer)
    (lm + recipe.contrastive_weight * contrastive + recipe.matching_weight * matching).backward()
    return float(lm.detach()), float(contrastive.detach()), float(matching.detach())


@dataclasses.dataclass
class Setup:
    """Model, classifier, optimizers and micro-batches of one measurement."""

    recipe: Recipe
    model: Any
    matcher: LanguageMatcher
    forward: Forward
    optimizers: list[torch.optim.Optimizer]
    batches: list[Batch]
    align_layer: int

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.matcher.parameters()]

    @property
    def tokens(self) -> int:
        return sum(batch.tokens for batch in self.batches)

    def clear(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def ours(
        self, count: int | None = None, negatives: Literal["batch", "micro"] = "micro"
    ) -> tuple[float, float, float]:
        """Forward and backward pass of the first `count` micro-batches; the three losses."""
        recipe = dataclasses.replace(self.recipe, negatives=negatives)
        losses = accumulate_gradients(self.forward, self.matcher, self.batches[:count], recipe)
        assert losses.contrastive is not None and losses.matching is not None
        return losses.lm, losses.contrastive, losses.matching

    def official(self) -> tuple[float, float, float]:
        return official_gradients(self.model, self.matcher, self.batches[0], self.recipe, self.align_layer)

    def finish_ours(self) -> None:
        parallel = Parallel(self.recipe, "cpu")
        parallel.clip(list(self.model.parameters()), list(self.matcher.parameters()), self.recipe.max_grad_norm)
        self.update()

    def finish_official(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe.max_grad_norm)
        self.update()

    def update(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def set_up(model: Any, recipe: Recipe, streams: list[Stream], tokenizer: Any, vocabulary: int) -> Setup:
    """`model` as the trainer prepares it, with the micro-batches of the recipe's first step."""
    model.set_attn_implementation("eager")
    model.train()
    layer = resolve_align_layer(recipe.align_layer, model.config.num_hidden_layers)
    torch.manual_seed(recipe.seed)
    matcher = LanguageMatcher(model.config.hidden_size, recipe.matching_width)
    samples = [
        dataclasses.replace(sample, input_ids=[token * SPREAD % vocabulary for token in sample.input_ids])
        for sample in Order(streams, recipe, tokenizer).batch(0)
    ]
    size = recipe.micro_batch_size
    batches = [collate(samples[start : start + size], 0) for start in range(0, len(samples), size)]
    return Setup(
        recipe, model, matcher, Forward(model, layer), build_optimizers(model, matcher, recipe), batches, layer
    )


def build(name: str) -> Any:
    """A model of one of `SHAPES` with random weights, or a checkpoint's."""
    if name not in SHAPES:
        return open_checkpoint(name, dtype="float32").model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**SHAPES[name]))


def open_setup(options: argparse.Namespace, name: str, batch_size: int) -> Setup:
    source = Source("translation", options.corpus, languages=tuple(options.languages.split(",")))
    recipe = dataclasses.replace(
        load_recipe("paper_stage1"),
        sources=(source,),
        prompt_template=options.template,
        align_layer=0.5,
        batch_size=batch_size,
        micro_batch_size=options.micro_batch,
        dtype="float32",
    )
    tokenizer = open_checkpoint(options.tokenizer).tokenizer
    model = build(name)
    return set_up(model, recipe, [Stream(source, options.template)], tokenizer, model.config.vocab_size)


def contender(setup: Setup, name: str) -> tuple[Callable[[], Any], Callable[[], None]]:
    """Forward and backward pass, and what follows it in a step."""
    if name == "official":
        return setup.official, setup.finish_official
    passes: dict[str, Callable[[], Any]] = {
        "ours": setup.ours,
        "one micro-batch": lambda: setup.ours(1),
        "accumulation": setup.ours,
        "caching": lambda: setup.ours(negatives="batch"),
    }
    return passes[name], setup.finish_ours


# Time


def race(setup: Setup, names: list[str], turns: int) -> dict[str, dict[str, np.ndarray]]:
    """Seconds [turns, 2] of each contender for `passes` (forward and backward) and `step` (those, clipping and
    AdamW)."""
    passes: dict[str, list[tuple[float, float]]] = {name: [] for name in names}

    def one(name: str) -> Callable[[], None]:
        work, finish = contender(setup, name)

        def step() -> None:
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            passes[name].append((time.perf_counter() - wall, time.process_time() - cpu))
            finish()
            setup.clear()

        return step

    steps = in_turns({name: one(name) for name in names}, turns)
    return {"passes": {name: np.array(taken[1:]) for name, taken in passes.items()}, "step": steps}


def summary(times: dict[str, dict[str, np.ndarray]], slow: str, fast: str) -> dict[str, Any]:
    """Medians and ranges of the times and of `slow` / `fast`, each ratio of one turn."""
    found: dict[str, Any] = {}
    for part, taken in times.items():
        print(f"{part}:")
        show_times(taken)
        show_ratio(taken, slow, fast)
        ratios = taken[slow] / taken[fast]
        found[part] = {
            "seconds": {name: spread(seconds[:, 0]) for name, seconds in taken.items()},
            "ratio": spread(ratios[:, 0]),
            "ratio_cpu": spread(ratios[:, 1]),
        }
    return found


def spread(values: np.ndarray) -> dict[str, float]:
    return {"median": float(np.median(values)), "low": float(values.min()), "high": float(values.max())}


# Memory


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def forget_peak() -> None:
    """Linux: the peak resident size starts again from the present one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_memory(setup: Setup, name: str) -> dict[str, int]:
    """Of one contender, in this process, in its second step: the optimizer's state is there, gradients are not."""
    work, finish = contender(setup, name)
    for parameter in setup.parameters:
        parameter.grad = torch.zeros_like(parameter)
    setup.update()
    setup.clear()
    gc.collect()
    forget_peak()
    before = resident()
    work()
    extra = peak() - before
    finish()
    return {"before": before, "extra": extra, "whole": peak()}


def peak_of_tensors(setup: Setup, name: str) -> int:
    """Peak of all live tensors during forward and backward pass, as the profiler of torch sees allocations; beyond
    those before it."""
    whole = setup.batches
    setup.batches = sorted(whole, key=lambda batch: batch.input_ids.numel(), reverse=True)
    amount = peak_tensor_bytes(contender(setup, name)[0])
    setup.batches = whole
    setup.clear()
    return amount


def memory_of(name: str, part: str) -> dict[str, int]:
    """`measure_memory` in a new process with this one's arguments."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", f"{part}:{name}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()[-1]
    )


def child(options: argparse.Namespace) -> None:
    part, _, name = options.child.partition(":")
    if part == "step":
        setup = open_setup(options, options.model, options.micro_batch)
    else:
        setup = open_setup(options, options.cache_model, options.cache_batch)
        # The longest first, so that "one micro-batch" is the one that takes most.
        setup.batches.sort(key=lambda batch: batch.input_ids.numel(), reverse=True)
    print(json.dumps(measure_memory(setup, name)))


def megabytes(amount: float) -> str:
    return f"{amount / 1e6:,.1f} MB"


# The two measurements


def same_numbers(setup: Setup) -> dict[str, Any]:
    """Losses of both ways, and by how much their gradients differ: the norm of the difference over the norm."""
    ours = setup.ours()
    kept = [parameter.grad for parameter in setup.parameters]
    setup.clear()
    theirs = setup.official()
    squares = [
        (float((mine - parameter.grad).square().sum()), float(parameter.grad.square().sum()))
        for mine, parameter in zip(kept, setup.parameters, strict=True)
        if mine is not None and parameter.grad is not None
    ]
    setup.clear()
    wrong, right = np.array(squares).sum(0)
    names = ("lm", "contrastive", "matching")
    return {
        "losses": {name: [one, two] for name, one, two in zip(names, ours, theirs, strict=True)},
        "largest_relative_difference_of_losses": max(
            abs(one - two) / abs(two) for one, two in zip(ours, theirs, strict=True)
        ),
        "relative_difference_of_gradients": float(np.sqrt(wrong / right)),
    }


def measure_step(options: argparse.Namespace) -> dict[str, Any]:
    memory = {name: memory_of(name, "step") for name in ("ours", "official")} if options.memory else {}
    for name, taken in memory.items():
        print(f"{name}: extra {megabytes(taken['extra'])}, whole {megabytes(taken['whole'])}", flush=True)
    setup = open_setup(options, options.model, options.micro_batch)
    (batch,) = setup.batches
    rows, positions = batch.input_ids.shape
    shape = {
        "rows": rows,
        "positions": positions,
        "tokens": batch.tokens,
        "distinct_ids": len(batch.input_ids.unique()),
    }
    print(
        f"{options.model}: {rows} samples of up to {positions} tokens, {batch.tokens} without padding, "
        f"{shape['distinct_ids']} distinct"
    )
    numbers = same_numbers(setup)
    print(json.dumps(numbers), flush=True)
    assert (
        numbers["largest_relative_difference_of_losses"] < 1e-5 and numbers["relative_difference_of_gradients"] < 1e-3
    )
    found = {"model": options.model, "batch": shape, "agreement": numbers, "memory": memory}
    if memory:
        found["memory_ratio"] = {key: memory["ours"][key] / memory["official"][key] for key in ("extra", "whole")}
    found |= summary(race(setup, ["ours", "official"], options.turns), "official", "ours")
    for part in ("passes", "step"):
        found[part]["tokens_per_second"] = {
            name: batch.tokens / taken["median"] for name, taken in found[part]["seconds"].items()
        }
    return found


def measure_caching(options: argparse.Namespace) -> dict[str, Any]:
    memory = (
        {name: memory_of(name, "caching") for name in ("one micro-batch", "accumulation", "caching")}
        if options.memory
        else {}
    )
    for name, taken in memory.items():
        print(f"{name}: extra {megabytes(taken['extra'])}, whole {megabytes(taken['whole'])}", flush=True)
    setup = open_setup(options, options.cache_model, options.cache_batch)
    features = options.cache_batch * 4 * setup.model.config.hidden_size * 4
    print(
        f"{options.cache_model}: {options.cache_batch} samples, {setup.tokens} tokens, features {megabytes(features)}",
        flush=True,
    )
    found: dict[str, Any] = {
        "model": options.cache_model,
        "batch": options.cache_batch,
        "tokens": setup.tokens,
        "memory": memory,
        "features_bytes": features,
    }
    if memory:
        found["peak_of_tensors"] = tensors = {name: peak_of_tensors(setup, name) for name in memory}
        for name, amount in tensors.items():
            print(f"{name}: peak of live tensors {megabytes(amount)}", flush=True)
    return found | summary(race(setup, ["accumulation", "caching"], options.turns), "caching", "accumulation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="interface")
    parser.add_argument("--languages", default="eng_Latn,deu_Latn,spa_Latn,rus_Cyrl")
    parser.add_argument("--tokenizer", default="bundled:base")
    parser.add_argument("--template", default="plain")
    parser.add_argument("--model", default="gemma3-270m", help=f"of the step: {', '.join(SHAPES)} or a checkpoint")
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--cache-model", default="bundled:base", help="of gradient caching")
    parser.add_argument("--cache-batch", type=int, default=256)
    parser.add_argument("--only", choices=("step", "caching"))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--out", type=Path, help="JSON; what the file has of the other measurement stays")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.child:
        child(options)
        return
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out and options.out.is_file() else {}
    for name, measure in (("step", measure_step), ("caching", measure_caching)):
        if options.only not in (None, name):
            continue
        circumstances = {
            "threads": torch.get_num_threads(),
            "turns": options.turns,
            "languages": options.languages,
            "template": options.template,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "load_before": os.getloadavg()[0],
        }
        found[name] = circumstances | measure(options) | {"load_after": os.getloadavg()[0]}
        if options.out:
            atomic_write(options.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
