"""What `alignx-train inspect` says, on a tiny model."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from alignx_trainer.cli import main
from alignx_trainer.config import Recipe, Source
from alignx_trainer.inspect import OFF, SOURCE, TARGET, inspect, marked, memory_parts
from alignx_trainer.losses import LanguageMatcher
from alignx_trainer.optimizers import build_optimizers
from alignx_trainer.records import Stream
from alignx_trainer.tokenize import collate, tokenize
from helpers.models import tiny_model, tiny_tokenizer

from alignx_eval.errors import InputError

LINES = {
    "eng_Latn": ["The house stands by the river.", "Open.", "Open."],
    "deu_Latn": ["Das Haus steht am Fluss.", "Auf.", "Auf."],
    "zho_Hans": ["房子在河边。", "开。", "开。"],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for code, lines in LINES.items():
        (tmp_path / f"{code}.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "more").mkdir()
    entries = [
        {"instruction": "Name a river.", "output": "Rhein"},
        {"instruction": "Repeat:", "input": "Open. " * 90, "output": "Open. " * 90, "language": "en"},
        {"instruction": "Nothing", "input": "a", "output": ""},
    ]
    (tmp_path / "more" / "instructions.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return tmp_path


def recipe_for(data: Path, checkpoint: Path, **changes) -> Recipe:
    fields = {
        "stage": "stage1",
        "sources": (
            Source("translation", str(data), weight=3.0, temperature=2.0),
            Source("instructions", str(data / "more" / "instructions.jsonl")),
        ),
        "init": str(checkpoint),
        "contrastive_weight": 0.3,
        "matching_weight": 0.4,
        "batch_size": 8,
        "micro_batch_size": 4,
        "steps": 20,
        "max_length": 100,
    }
    return Recipe(**(fields | changes))


def test_every_line(data: Path, tiny_checkpoint: Path):
    text = "\n".join(inspect(recipe_for(data, tiny_checkpoint), samples=3, colour=False))
    assert re.findall("^# .*", text, re.M) == [
        "# recipe, with its defaults",
        "# data",
        "# samples: «source», ‹target›",
        "# memory, computed",
        f"# time and memory, measured here (CPU, {torch.get_num_threads()} "
        f"thread{'s' * (torch.get_num_threads() > 1)})",
    ]
    assert "12 records; 75% of the samples, 10.00 passes" in text
    pairs = [f"{pair} 50.0% (6 records, 10.00 passes)" for pair in ("deu_Latn-eng_Latn", "eng_Latn-zho_Hans")]
    assert f"shares: {', '.join(pairs)}, at temperature 2" in text
    assert "shares: no language 50.0%, eng_Latn 50.0%\n" in text
    assert (
        "of all 12 records: 0 truncated to 100 tokens, 0 without a source, 0 without a target, 4 repeat another" in text
    )
    assert "dropped when read: 1 (empty output)" in text
    assert (
        "of all 2 records: 1 truncated to 100 tokens, 1 without an input, 0 without a target, 0 repeat another" in text
    )
    assert re.search(r"all: 20 steps of 8 samples, about 0\.\d\d million tokens, \d+% of them", text)
    assert text.count("\n-- ") == 3
    assert "\nstart token of every sample: BOS <s>\n" in text
    assert re.search(
        r"typical micro-batch, 4 samples of up to \d+ tokens: \d+\.\d\d s forward and backward, [\d,]+ tokens/s", text
    )
    assert re.search(r"the whole recipe on one such device: about \d+ seconds, computed from the measured speed$", text)


def test_a_part_of_the_records(data: Path, tiny_checkpoint: Path):
    lines = list(
        inspect(recipe_for(data, tiny_checkpoint, max_tokens=100), samples=0, colour=False, checked=5, measure=False)
    )
    assert any(line.strip().startswith("of 5 records drawn at random: 0 truncated") for line in lines)
    assert any("`max_tokens` ends it earlier" in line for line in lines)
    assert lines[-1] == "not measured" and not any(line.startswith("-- ") for line in lines)


def test_too_little_memory_is_not_tried(data: Path, tiny_checkpoint: Path, monkeypatch):
    monkeypatch.setattr("alignx_trainer.inspect._memory_of_machine", lambda device: 100_000)
    lines = list(inspect(recipe_for(data, tiny_checkpoint), samples=0, colour=False))
    assert lines[-1] == "not measured: this machine has 0.1 MB"


def test_a_layer_too_high(data: Path, tiny_checkpoint: Path):
    with pytest.raises(InputError, match="align_layer 16 is above the model's 2 layers"):
        list(inspect(recipe_for(data, tiny_checkpoint, align_layer=16), samples=0, colour=False))


def test_colours_are_the_spans(data: Path):
    tokenizer = tiny_tokenizer()
    stream = Stream(Source("translation", str(data)), "plain")
    sample = tokenize(stream[0], tokenizer, template="plain", max_length=100, lm_on="target")
    text = marked(sample, tokenizer, colour=True)
    assert text.count(OFF) == 2
    source, target = (re.search(re.escape(paint) + "(.*?)" + re.escape(OFF), text, re.S) for paint in (SOURCE, TARGET))
    assert source is not None and source[1] == f"«{sample.source}»"
    assert target is not None and target[1] == f"‹{sample.target}›"
    assert marked(sample, tokenizer, colour=False) == text.replace(SOURCE, "").replace(TARGET, "").replace(OFF, "")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_memory_parts_are_what_the_tensors_take(data: Path, tiny_checkpoint: Path, optimizer: str):
    recipe = recipe_for(data, tiny_checkpoint, optimizer=optimizer)
    model, matcher, tokenizer = tiny_model(), LanguageMatcher(32, 128), tiny_tokenizer()
    optimizers = build_optimizers(model, matcher, recipe)
    stream = Stream(recipe.sources[0], "plain")
    samples = [
        tokenize(stream[index], tokenizer, template="plain", max_length=100, lm_on="target") for index in range(4)
    ]
    batch = collate(samples, 1)
    parts = memory_parts(model, matcher, optimizers, recipe, batch)
    for parameter in [*model.parameters(), *matcher.parameters()]:
        parameter.grad = torch.zeros_like(parameter)
    for one in optimizers:
        one.step()
    parameters = [*model.parameters(), *matcher.parameters()]
    moments = [value for one in optimizers for state in one.state.values() for value in state.values()]
    large = [value for value in moments if isinstance(value, torch.Tensor) and value.ndim > 0]
    assert parts["weights"] == sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    assert parts["gradients"] == sum(parameter.grad.numel() * parameter.grad.element_size() for parameter in parameters)
    assert parts["optimizer state"] == sum(value.numel() * value.element_size() for value in large)
    assert parts["logits"] == sum(sum(sample.trained) for sample in samples) * 320 * 4


def test_command_line(data: Path, tiny_checkpoint: Path, monkeypatch, capsys):
    import datasets
    import huggingface_hub

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")  # so that what the command sets is taken back
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    common = [
        "alignx-train",
        "inspect",
        "paper_stage1",
        f"init={tiny_checkpoint}",
        "align_layer=1",
        "prompt_template=plain",
    ]
    monkeypatch.setattr(
        sys, "argv", [*common, f"sources.0.path={data}", "--no-measure", "--samples", "1", "--check", "3"]
    )
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "of 3 records drawn at random" in out and out.rstrip().endswith("not measured") and "\x1b" not in out
    monkeypatch.setattr(
        sys, "argv", [*common, "sources.0.path=hub:Helsinki-NLP/opus-100@0123456", "sources.0.languages=[deu_Latn]"]
    )
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 6
    error = capsys.readouterr().err
    assert (
        error.startswith("error: hub:Helsinki-NLP/opus-100@0123456, de-en: not in the cache") and error.count("\n") == 1
    )
