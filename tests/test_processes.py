"""Several processes of one run: the work is dealt out, one of them writes, and the numbers are those of one process."""

from __future__ import annotations

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers.encoding import SENTENCES, corpus_of, make_checkpoint, module_calls
from helpers.engines import language_id, layers
from helpers.models import tiny_model, tiny_tokenizer
from helpers.vectors import make_corpus

from alignx_eval import processes
from alignx_eval.checkpoint import write_checkpoint
from alignx_eval.engine import vector_cache
from alignx_eval.engine.encode import encode, encode_corpus
from alignx_eval.errors import InputError
from alignx_eval.suites import layer_pictures

pytestmark = pytest.mark.slow


def test_a_process_alone_needs_nobody():
    array = np.ones((2, 3), np.float32)
    assert processes.share() == (0, 1) and processes.is_main() and not processes.launched()
    assert processes.all_agree(True) and not processes.all_agree(False) and processes.sum_of(array) is array


def test_compare_under_a_launcher_equals_compare_alone(tiny_checkpoint, tmp_path):
    other = tmp_path / "other.pt"
    write_checkpoint(
        other,
        model=tiny_model(seed=1),
        tokenizer=tiny_tokenizer(),
        stage="base",
        step=0,
        prompt_template=None,
        heads=None,
        recipe={},
        provenance={},
    )
    (tmp_path / "text").mkdir()
    for language, word in (("eng_Latn", "house"), ("deu_Latn", "Haus")):
        lines = "".join(f"{number} {word} {'und ' * (number % 7)}\n" for number in range(12))
        (tmp_path / "text" / f"{language}.txt").write_text(lines, encoding="utf-8")

    def compare(out, *launcher):
        command = [
            *launcher,
            "alignx_eval",
            "compare",
            str(other),
            str(tiny_checkpoint),
            "--suites",
            "layers,language_id",
            "--device",
            "cpu",
        ]
        command += [
            "--corpus",
            str(tmp_path / "text"),
            "--cache-dir",
            str(tmp_path / f"cache-{out}"),
            "--out",
            str(tmp_path / out),
        ]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", *command, "-o", str(tmp_path / f"{out}.csv")],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Report  ") == 1  # only one process talks
        with open(tmp_path / f"{out}.csv", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    alone = compare("alone")
    together = compare("together", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    assert len(alone) == len(together) > 100
    for one, two in zip(alone, together, strict=True):
        assert one["metric"] == two["metric"]
        for name in ("base", "candidate", "difference"):
            assert (one[name] == "") == (two[name] == "")
            if one[name]:
                assert float(one[name]) == pytest.approx(float(two[name]), abs=2e-5)


def test_pictures_leave_the_number_of_threads_alone():
    """numba sets it anew; with another number of threads the next checkpoint would be encoded with other last bits."""
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        vectors = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
        layer_pictures.neighbour_map(vectors, 0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_damage_inside_a_cached_tensor_is_noticed(tmp_path):
    checkpoint, corpus = make_checkpoint(), corpus_of({"eng_Latn": ["one two", "three four five"] * 30})
    held = encode_corpus(checkpoint, corpus, cache_dir=tmp_path)
    path = vector_cache.cache_path(tmp_path, held.cache_keys["eng_Latn"])
    data = bytearray(path.read_bytes())
    data[-4000:-2000] = bytes(2000)  # of a layer's vectors; behind them lie the shares of tokens, 1200 bytes
    path.write_bytes(data)
    again = encode_corpus(checkpoint, corpus, cache_dir=tmp_path)
    with pytest.raises(InputError, match="was damaged after it was written"):
        for layer in again.layer_names:
            again.layer(layer)
    assert encode_corpus(checkpoint, corpus, cache_dir=tmp_path).encoded == 1  # it was removed and is made again


def test_a_token_without_an_embedding_is_named():
    checkpoint = make_checkpoint()
    checkpoint.model.resize_token_embeddings(5)
    with module_calls() as calls, pytest.raises(InputError, match="has 5 embeddings: the two do not belong together"):
        encode(checkpoint, SENTENCES)
    assert not calls


def test_a_model_of_one_block_has_no_middle():
    from helpers.encoding import COMMON
    from transformers import AutoModelForCausalLM, LlamaConfig

    checkpoint = make_checkpoint()
    checkpoint.model = AutoModelForCausalLM.from_config(LlamaConfig(**COMMON | {"num_hidden_layers": 1})).eval()
    corpus = make_corpus(lines=12)
    gains = [row for row in layers.run(checkpoint, corpus).rows if row.metric.endswith("_middle_gain")]
    assert gains and all(row.value is None and "one block" in row.reason for row in gains)
    metrics = {row.metric for row in language_id.run(checkpoint, corpus).rows}
    assert "probe_balanced_accuracy" in metrics and "probe_divergence" not in metrics
