"""Encoding against the bare forward pass and against a plain loop, alternated in one process: medians, spread, ratios.

    python benchmarks/encode.py model.gguf --corpus FOLDER --languages eng_Latn,deu_Latn,zho_Hans,swh_Latn --lines 58

ours         alignx_eval.encode: sorted batches under a token budget, decoder only, pooling inside the forward pass
bare         the decoder alone over the same batches, nothing kept: the floor
plain loop   batches of 16 in the order of the text, padded by hand, whole model, all hidden states kept, pooled afterwards
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from alignx_eval.checkpoint import open_checkpoint
from alignx_eval.corpora import load_corpus
from alignx_eval.encode import TOKENS_PER_BATCH, TOKENS_PER_BATCH_ACCELERATOR, encode, plan_batches, special_token_ids

PLAIN_BATCH = 16


def padded(rows: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids and attention mask, both [rows, longest]."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)


def bare_forward(model: torch.nn.Module, rows: list[list[int]], budget: int) -> None:
    decoder, device = model.get_decoder(), model.get_input_embeddings().weight.device
    with torch.inference_mode():
        for batch in plan_batches(np.array([len(row) for row in rows]), budget):
            ids, attention = padded([rows[line] for line in batch], device)
            decoder(input_ids=ids, attention_mask=attention, use_cache=False)
    synchronize(device)


def plain_loop(model: torch.nn.Module, rows: list[list[int]], special: frozenset[int]) -> np.ndarray:
    device = model.get_input_embeddings().weight.device
    special_ids = torch.tensor(sorted(special), device=device)
    kept = []
    with torch.inference_mode():
        for start in range(0, len(rows), PLAIN_BATCH):
            ids, attention = padded(rows[start : start + PLAIN_BATCH], device)
            hidden = model(input_ids=ids, attention_mask=attention, output_hidden_states=True).hidden_states
            mask = (attention.bool() & ~torch.isin(ids, special_ids)).unsqueeze(-1).float()
            kept.append(torch.stack([(states.float() * mask).sum(1) / mask.sum(1) for states in hidden]).cpu())
    synchronize(device)
    return torch.cat(kept, dim=1).numpy()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--corpus", default="interface")
    parser.add_argument("--languages", default="eng_Latn,deu_Latn,zho_Hans,rus_Cyrl")
    parser.add_argument("--lines", type=int, default=58)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--skip-plain-loop", action="store_true", help="it takes most of the time")
    options = parser.parse_args()

    checkpoint = open_checkpoint(options.checkpoint, device=options.device, dtype=options.dtype)
    corpus = load_corpus(options.corpus, languages=options.languages.split(","), limit=options.lines)
    sentences = [line for language in corpus.languages for line in corpus.sentences[language]]
    model = checkpoint.model
    rows = checkpoint.tokenizer(sentences)["input_ids"]
    special = special_token_ids(checkpoint.tokenizer)
    device = model.get_input_embeddings().weight.device
    budget = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH_ACCELERATOR)

    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: encode(checkpoint, sentences, max_tokens_per_batch=budget),
        "bare": lambda: bare_forward(model, rows, budget),
    }
    if not options.skip_plain_loop:
        contenders["plain loop"] = lambda: plain_loop(model, rows, special)
        # The same numbers, or the race means nothing. transformers' last state is the normed one.
        ours, plain = encode(checkpoint, sentences).vectors, plain_loop(model, rows, special)
        deviation = np.abs(np.delete(ours, -2, axis=0) - plain).max() / np.abs(plain).max()
        print(f"largest deviation from the plain loop, relative to the largest value: {deviation:.1e}")

    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(options.repeats + 1):
        order = list(contenders) if repeat % 2 else list(contenders)[::-1]
        for name in order:
            taken = seconds(contenders[name])
            if repeat:  # the first round warms up
                times[name].append(taken)

    tokens = sum(map(len, rows))
    print(f"{options.checkpoint}: {len(sentences)} sentences, {tokens} tokens, {torch.get_num_threads()} threads, {device}, {model.dtype}")
    for name, taken in times.items():
        middle = statistics.median(taken)
        against_bare = statistics.median(own / bare for own, bare in zip(taken, times["bare"], strict=True))
        print(
            f"{name:10}  median {middle:8.3f} s  [{min(taken):.3f}, {max(taken):.3f}]  {tokens / middle:8.0f} tokens/s  "
            f"{against_bare:.3f} times bare (median of pairs)"
        )


if __name__ == "__main__":
    main()
