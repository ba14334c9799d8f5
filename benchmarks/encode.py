"""Encoding against the bare forward pass and against a plain loop, in turns in one process; then the memory of the
first two.

    PYTHONPATH=. python benchmarks/encode.py model.gguf --corpus FOLDER --languages eng_Latn,deu_Latn,zho_Hans,swh_Latn
    --lines 58

corpus          alignx_eval.encode_corpus without a cache, language by language: what a user gets
bare corpus     the decoder alone over the same batches, nothing kept: its floor
encode          alignx_eval.engine.encode of the sentences of all languages at once
bare            the decoder alone over those batches
plain loop      batches of 16 in the order of the text, padded by hand, whole model, all hidden states kept, pooled
                afterwards

Memory on a CPU: the profiler of torch reports every allocation and release of its allocator, so the largest sum is the
peak of all live tensors, temporaries within operators too; arrays of numpy are counted by tracemalloc.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from turns import in_turns, show_ratio, show_times

from alignx_eval.checkpoint import open_checkpoint
from alignx_eval.corpora import load_corpus
from alignx_eval.engine.batches import (
    TOKENS_PER_BATCH,
    TOKENS_PER_BATCH_ACCELERATOR,
    plan_batches,
    sentence_token_ids,
    special_token_ids,
)
from alignx_eval.engine.encode import encode, encode_corpus

PLAIN_BATCH = 16
Rows = list[list[int]]


def padded(rows: Rows, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids and attention mask, both [rows, longest]."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)


def planned(rows: Rows, budget: int) -> list[Rows]:
    return [[rows[line] for line in batch] for batch in plan_batches(np.array(list(map(len, rows))), budget)]


def bare_forward(model: torch.nn.Module, batches: list[Rows]) -> None:
    decoder, device = model.get_decoder(), model.get_input_embeddings().weight.device
    with torch.inference_mode():
        for rows in batches:
            ids, attention = padded(rows, device)
            decoder(input_ids=ids, attention_mask=attention, use_cache=False)
    synchronize(device)


def plain_loop(model: torch.nn.Module, rows: Rows, special: frozenset[int]) -> np.ndarray:
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


def peak_tensor_bytes(work: Callable[[], object]) -> int:
    """Most bytes that torch had allocated at once during `work`, beyond those it had before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    with tempfile.TemporaryDirectory() as folder:
        profile.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return int(np.cumsum([size for _, size in changes]).max())


def peak_array_bytes(work: Callable[[], object]) -> int:
    """Most bytes that Python and numpy had allocated at once during `work`, beyond those they had before."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


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
    rows = sentence_token_ids(checkpoint.tokenizer, sentences)
    special = special_token_ids(checkpoint.tokenizer)
    device = model.get_input_embeddings().weight.device
    budget = TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH_ACCELERATOR)
    batches = planned(rows, budget)
    corpus_batches = [
        batch
        for start in range(0, len(rows), len(corpus))
        for batch in planned(rows[start : start + len(corpus)], budget)
    ]
    tokens = sum(map(len, rows))
    print(
        f"{options.checkpoint}: {len(sentences)} sentences, {tokens} tokens, {torch.get_num_threads()} threads, "
        f"{device}, {model.dtype}"
    )

    contenders: dict[str, Callable[[], object]] = {
        "corpus": lambda: encode_corpus(checkpoint, corpus),
        "bare corpus": lambda: bare_forward(model, corpus_batches),
        "encode": lambda: encode(checkpoint, sentences),
        "bare": lambda: bare_forward(model, batches),
    }
    if not options.skip_plain_loop:
        contenders["plain loop"] = lambda: plain_loop(model, rows, special)
        # The same numbers, or the race means nothing. transformers' last state is the normed one.
        ours, plain = encode(checkpoint, sentences).vectors, plain_loop(model, rows, special)
        deviation = np.abs(np.delete(ours, -2, axis=0) - plain).max() / np.abs(plain).max()
        print(f"largest deviation from the plain loop, relative to the largest value: {deviation:.1e}")

    if device.type == "cpu":
        vectors = encode(checkpoint, sentences).vectors
        layers, width = vectors.shape[0], vectors.shape[2]
        layer = max(len(batch) * max(map(len, batch)) for batch in batches) * width * 4
        peaks = {
            name: (peak_tensor_bytes(contenders[name]), peak_array_bytes(contenders[name]))
            for name in ("encode", "bare")
        }
        for name, (of_tensors, of_arrays) in peaks.items():
            print(f"{name}: peak of tensors {of_tensors / 1e6:.2f} MB, of arrays {of_arrays / 1e6:.2f} MB")
        print(f"encode beyond bare: {(sum(peaks['encode']) - sum(peaks['bare'])) / 1e6:.2f} MB")
        print(
            f"all pooled vectors {vectors.nbytes / 1e6:.2f} MB, one layer of the largest batch {layer / 1e6:.2f} MB, "
            f"{layers} layers of it "
            f"{layers * layer / 1e6:.2f} MB"
        )

    times = in_turns(contenders, options.repeats)
    show_times(times)
    show_ratio(times, "corpus", "bare corpus")
    show_ratio(times, "encode", "bare")
    show_ratio(times, "corpus", "encode")
    if not options.skip_plain_loop:
        show_ratio(times, "plain loop", "corpus")
        show_ratio(times, "plain loop", "encode")


if __name__ == "__main__":
    main()
