"""Inputs that are damaged, foreign or meant to harm: one line on stderr, exit code 2 (wrong input) or 6 (not at hand),
nothing run, and nothing written; also where the checkpoint before it was in order and could have been measured."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alignx_trainer.cli
import pytest
import torch
from helpers.checkpoints import write_gguf
from helpers.commands import LINES, environment, write_corpus
from helpers.models import tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file

import alignx_eval.cli
from alignx_eval.checkpoint import export_folder, write_checkpoint

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(range(256)) * 8
CODES = list(LINES)


class Payload:
    """What a pickle of it would do when loaded: make the file `it-ran`."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("it-ran",))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint in order, good.pt, the same as the Hugging Face folder `exported`, and the corpus
    `text`."""
    folder = tmp_path_factory.mktemp("good")
    write_checkpoint(
        folder / "good.pt",
        model=tiny_model(),
        tokenizer=tiny_tokenizer(),
        stage="pretrain",
        step=1,
        prompt_template="plain",
        heads=None,
        recipe={},
        provenance={},
    )
    export_folder(folder / "good.pt", folder / "exported")
    write_corpus(folder / "text", LINES)
    return folder


@pytest.fixture
def place(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own copy of `good`, and the working directory; nothing is in the cache of the hub."""
    folder = tmp_path / "place"
    shutil.copytree(good, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("ALIGNX_EVAL_CACHE", str(tmp_path / "vectors"))
    return folder


# Checkpoints: each makes `bad...` in the working directory and returns what to type.


def bare_pickle() -> str:
    Path("bad.pt").write_bytes(pickle.dumps(Payload()))
    return "bad.pt"


def pickle_in_a_torch_file() -> str:
    torch.save({"format": "alignx", "payload": Payload()}, "bad.pt")
    return "bad.pt"


def half_a_pt() -> str:
    content = Path("good.pt").read_bytes()
    Path("bad.pt").write_bytes(content[: len(content) // 2])
    return "bad.pt"


def empty_file() -> str:
    Path("bad.pt").touch()
    return "bad.pt"


def name_of_two_lines() -> str:
    Path("bad\nname.pt").touch()
    return "bad\nname.pt"


def picture_named_pt() -> str:
    Path("bad.pt").write_bytes(JPEG)
    return "bad.pt"


def safetensors_named_pt() -> str:
    save_file({"weight": torch.zeros(3)}, "bad.pt")
    return "bad.pt"


def zip_that_torch_did_not_write() -> str:
    with zipfile.ZipFile("bad.pt", "w") as archive:
        archive.writestr("weights.txt", "none")
    return "bad.pt"


def foreign_torch_file() -> str:
    torch.save({"weight": torch.zeros(3)}, "bad.pt")
    return "bad.pt"


def jpeg_named_gguf() -> str:
    Path("bad.gguf").write_bytes(JPEG)
    return "bad.gguf"


def half_a_gguf() -> str:
    pytest.importorskip("gguf")
    write_gguf(Path("bad.gguf"), tiny_model(intermediate_size=64), tiny_tokenizer(), "F32")
    content = Path("bad.gguf").read_bytes()
    Path("bad.gguf").write_bytes(content[: len(content) // 2])
    return "bad.gguf"


def pt_with_nan() -> str:
    content = torch.load("good.pt", weights_only=True)
    content["state_dict"]["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    torch.save(content, "bad.pt")
    return "bad.pt"


def pt_without_a_tensor() -> str:
    content = torch.load("good.pt", weights_only=True)
    del content["state_dict"]["model.layers.1.mlp.up_proj.weight"]
    torch.save(content, "bad.pt")
    return "bad.pt"


def changed_folder(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[], str]:
    def make() -> str:
        Path("exported").rename("bad-folder")
        tensors = load_file("bad-folder/model.safetensors")
        change(tensors)
        save_file(tensors, "bad-folder/model.safetensors", metadata={"format": "pt"})
        return "bad-folder"

    return make


def empty_folder() -> str:
    Path("bad-folder").mkdir()
    return "bad-folder"


def config_alone() -> str:
    Path("bad-folder").mkdir()
    shutil.copy("exported/config.json", "bad-folder")
    return "bad-folder"


def folder_with_half_its_weights() -> str:
    Path("exported").rename("bad-folder")
    path = Path("bad-folder/model.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return "bad-folder"


def folder_without_tokenizer() -> str:
    Path("exported").rename("bad-folder")
    for path in Path("bad-folder").glob("*token*"):
        path.unlink()
    return "bad-folder"


UP = "model.layers.1.mlp.up_proj.weight"
CHECKPOINTS: dict[str, tuple[Callable[[], str], int, list[str]]] = {
    "a bare pickle": (bare_pickle, 2, ["bad.pt", "pickle"]),
    "a pickle in a torch file": (pickle_in_a_torch_file, 2, ["bad.pt", "refused"]),
    "half a .pt": (half_a_pt, 2, ["bad.pt", "cut off or damaged"]),
    "an empty file": (empty_file, 2, ["bad.pt", "empty"]),
    "a name of two lines": (name_of_two_lines, 2, ["bad name.pt", "empty"]),
    "a picture named .pt": (picture_named_pt, 2, ["bad.pt"]),
    "safetensors named .pt": (safetensors_named_pt, 2, ["bad.pt", "safetensors"]),
    "a zip that torch did not write": (zip_that_torch_did_not_write, 2, ["bad.pt", "zip"]),
    "a state_dict": (foreign_torch_file, 2, ["bad.pt", "state_dict"]),
    "a JPEG named .gguf": (jpeg_named_gguf, 2, ["bad.gguf"]),
    "half a .gguf": (half_a_gguf, 2, ["bad.gguf"]),
    "NaN in a .pt": (pt_with_nan, 2, ["bad.pt", UP, "not finite"]),
    "a .pt without a tensor": (pt_without_a_tensor, 2, ["bad.pt", UP]),
    "NaN in a folder": (
        changed_folder(lambda tensors: tensors[UP].view(-1)[7:8].fill_(float("nan"))),
        2,
        ["bad-folder", UP, "finite"],
    ),
    "a folder without a tensor": (changed_folder(lambda tensors: tensors.pop(UP)), 2, ["bad-folder", UP]),
    "a folder with half its weights": (folder_with_half_its_weights, 2, ["bad-folder"]),
    "a folder without tokenizer": (folder_without_tokenizer, 2, ["bad-folder", "tokenizer"]),
    "an empty folder": (empty_folder, 2, ["bad-folder"]),
    "a folder with config.json alone": (config_alone, 2, ["bad-folder"]),
    "a file that is not there": (lambda: "bad.pt", 2, ["bad.pt"]),
    "a mistyped bundled name": (lambda: "bundled:bad", 2, ["bundled:base"]),
    "a mistyped hub id": (lambda: "nobody/bad", 6, ["nobody/bad"]),
}


# Everything else: makes what is wrong and returns the options.


def empty_corpus() -> list[str]:
    Path("bad-text").mkdir()
    return ["--corpus", "bad-text"]


def corpus_of_empty_files() -> list[str]:
    write_corpus(Path("bad-text"), {code: [] for code in LINES})
    return ["--corpus", "bad-text"]


def uneven_corpus() -> list[str]:
    write_corpus(Path("bad-text"), {**LINES, "deu_Latn": LINES["deu_Latn"][:-1]})
    return ["--corpus", "bad-text"]


def binary_corpus() -> list[str]:
    write_corpus(Path("bad-text"), LINES)
    Path("bad-text/deu_Latn.txt").write_bytes(JPEG)
    return ["--corpus", "bad-text"]


def corpus_of_unknown_languages() -> list[str]:
    write_corpus(Path("bad-text"), dict(zip(("klingon", "readme"), LINES.values())))
    return ["--corpus", "bad-text"]


def corpus_that_is_a_file() -> list[str]:
    Path("bad-text").write_text("The door is open.\n")
    return ["--corpus", "bad-text"]


def policy_that_is_no_yaml() -> list[str]:
    Path("bad.yaml").write_text("rules: [\n")
    return ["--policy", "bad.yaml"]


def policy_that_is_a_picture() -> list[str]:
    Path("bad.yaml").write_bytes(JPEG)
    return ["--policy", "bad.yaml"]


def config_with_an_unknown_option() -> list[str]:
    Path("bad.yaml").write_text("suits: [layers]\n")
    return ["--config", "bad.yaml"]


def run_directory_that_is_none() -> list[str]:
    Path("bad.json").write_text("{}")
    Path("bad").mkdir()
    Path("bad/results.json").write_text("[]")
    return ["--out", "bad"]


OPTIONS: dict[str, tuple[Callable[[], list[str]], list[str]]] = {
    "an empty corpus folder": (empty_corpus, ["bad-text"]),
    "a corpus of empty files": (corpus_of_empty_files, ["bad-text", "empty"]),
    "uneven lines": (uneven_corpus, ["bad-text", "deu_Latn", "11", "12"]),
    "a binary file in a corpus": (binary_corpus, ["bad-text", "deu_Latn"]),
    "unknown languages in a corpus": (corpus_of_unknown_languages, ["bad-text"]),
    "a corpus that is a file": (corpus_that_is_a_file, ["bad-text"]),
    "an unknown corpus": (lambda: ["--corpus", "bad-text"], ["bad-text", "interface", "udhr"]),
    "an unknown language": (lambda: ["--languages", "eng_Latn,klingon"], ["klingon"]),
    "a language that the corpus lacks": (lambda: ["--languages", "eng_Latn,swh_Latn"], ["swh_Latn"]),
    "an unknown suite": (lambda: ["--suites", "layer"], ["layer", "language_id"]),
    "an unknown task": (
        lambda: ["--suites", "language_modelling,tasks", "--tasks", "interface_choise"],
        ["interface_choise"],
    ),
    "an unknown pooling": (lambda: ["--suites", "layers", "--pooling", "max"], ["max", "mean"]),
    "an unknown template": (lambda: ["--suites", "translation", "--template", "chatml"], ["chatml", "plain"]),
    "no lines": (lambda: ["--limit", "0"], ["--limit"]),
    "a limit that is text": (lambda: ["--limit", "many"], ["--limit"]),
    "a policy that is no YAML": (policy_that_is_no_yaml, ["bad.yaml"]),
    "a policy that is a picture": (policy_that_is_a_picture, ["bad.yaml"]),
    "a policy that is not there": (lambda: ["--policy", "bad.yaml"], ["bad.yaml"]),
    "an unknown option in --config": (config_with_an_unknown_option, ["suits", "suites"]),
    "an --out that is a file": (lambda: ["--out", "good.pt"], ["good.pt"]),
    "an --out that is another folder": (lambda: ["--out", "text"], ["text"]),
    "an --out with a foreign results.json": (run_directory_that_is_none, ["bad"]),
    "an unknown format": (lambda: ["-o", "bad.pdf"], ["bad.pdf", ".html"]),
    "an -o in a folder that is a file": (lambda: ["-o", "good.pt/bad.html"], ["good.pt"]),
}


def tree() -> dict[str, bytes]:
    """All files below the working directory and what they hold."""
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def call(main: Callable[[], None], monkeypatch: Any, capsys: Any, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    level, threads = logging.getLogger().level, torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit) as stopped:
        main()
    logging.getLogger().setLevel(level)
    torch.set_num_threads(threads)
    captured = capsys.readouterr()
    return int(stopped.value.code or 0), captured.out, captured.err


def assert_refused(result: tuple[int, str, str], code: int, parts: list[str], before: dict[str, bytes]) -> None:
    status, out, err = result
    lines = err.splitlines()
    assert status == code, err
    assert out == "" and len(lines) == 1 and lines[0].startswith("error: "), err
    assert all(part in lines[0] for part in parts), lines[0]
    assert len(lines[0]) < 600, lines[0]
    assert not Path("it-ran").exists(), "what the file names was run"
    after = tree()
    assert sorted(after) == sorted(before), "files were left behind or removed"
    assert [name for name in before if after[name] != before[name]] == []


COMMON = [
    "--corpus",
    "text",
    "--suites",
    "language_modelling",
    "--languages",
    "eng_Latn,deu_Latn",
    "--limit",
    "4",
    "--quiet",
]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_hostile_candidate_is_refused_before_the_base_is_measured(place: Path, monkeypatch, capsys, name: str):
    make, code, parts = CHECKPOINTS[name]
    bad = make()
    before = tree()
    result = call(alignx_eval.cli.main, monkeypatch, capsys, "compare", "good.pt", bad, *COMMON)
    assert_refused(result, code, parts, before)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_hostile_option_is_refused_before_anything_is_measured(place: Path, monkeypatch, capsys, name: str):
    make, parts = OPTIONS[name]
    options = make()
    before = tree()
    result = call(alignx_eval.cli.main, monkeypatch, capsys, "compare", "good.pt", "good.pt", *COMMON, *options)
    assert_refused(result, 2, parts, before)


@pytest.mark.parametrize("name", ["a bare pickle", "NaN in a .pt", "a mistyped hub id"])
def test_the_command_itself_ends_so(place: Path, name: str):
    make, code, parts = CHECKPOINTS[name]
    bad = make()
    before = tree()
    command = [sys.executable, "-m", "alignx_eval", "compare", "good.pt", bad, *COMMON]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env=environment(HF_HUB_OFFLINE="1")
    )
    assert_refused((done.returncode, done.stdout, done.stderr), code, parts, before)


# alignx-train

RECIPE = {
    "stage": "stage1",
    "init": "good.pt",
    "sources": [{"kind": "translation", "path": "text"}],
    "align_layer": 1,
    "steps": 2,
    "warmup_steps": 0,
    "batch_size": 2,
    "micro_batch_size": 2,
}


def recipe(**changes: Any) -> list[str]:
    Path("recipe.yaml").write_text(json.dumps(RECIPE | changes))
    return ["recipe.yaml"]


def recipe_that_is(content: bytes) -> Callable[[], list[str]]:
    def make() -> list[str]:
        Path("recipe.yaml").write_bytes(content)
        return ["recipe.yaml"]

    return make


def source(**changes: Any) -> Callable[[], list[str]]:
    return lambda: recipe(sources=[RECIPE["sources"][0] | changes])  # type: ignore[index, operator]


def one_language() -> list[str]:
    write_corpus(Path("bad-text"), {"eng_Latn": LINES["eng_Latn"]})
    return source(path="bad-text")()


RECIPES: dict[str, tuple[Callable[[], list[str]], int, list[str]]] = {
    "no YAML": (recipe_that_is(b"stage: [\n"), 2, ["recipe.yaml", "YAML"]),
    "a picture": (recipe_that_is(JPEG), 2, ["recipe.yaml", "YAML"]),
    "a list": (recipe_that_is(b"- stage1\n"), 2, ["recipe.yaml", "mapping"]),
    "an empty file": (recipe_that_is(b""), 2, ["recipe.yaml", "mapping"]),
    "a recipe that is not there": (lambda: ["bad.yaml"], 2, ["bad.yaml", "demo"]),
    "an unknown key": (lambda: recipe(step=3), 2, ["recipe.yaml", "'step'", "steps"]),
    "a wrong type": (lambda: recipe(steps="many"), 2, ["recipe.yaml", "steps", "many"]),
    "two alternatives": (lambda: recipe(epochs=1), 2, ["recipe.yaml", "epochs", "steps"]),
    "a source without kind": (lambda: recipe(sources=[{"path": "text"}]), 2, ["recipe.yaml", "kind"]),
    "a source that is not there": (source(path="bad-text"), 2, ["bad-text"]),
    "a source with one language": (one_language, 2, ["bad-text"]),
    "an init that is not there": (lambda: recipe(init="bad.pt"), 2, ["bad.pt"]),
    "an init of the hub": (lambda: recipe(init="nobody/bad"), 6, ["nobody/bad"]),
    "half an init": (lambda: recipe(init=half_a_pt()), 2, ["bad.pt", "cut off or damaged"]),
    "an init with NaN": (lambda: recipe(init=pt_with_nan()), 2, ["bad.pt", UP, "not finite"]),
    "an --out that is a file": (lambda: [*recipe(), "--out", "good.pt"], 2, ["good.pt"]),
    "an unknown device": (lambda: [*recipe(), "--device", "tpu"], 2, ["tpu"]),
    "threads that are none": (lambda: [*recipe(), "--threads", "0"], 2, ["--threads"]),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_hostile_recipe_is_refused_before_a_step(place: Path, monkeypatch, capsys, name: str):
    make, code, parts = RECIPES[name]
    arguments = make()
    before = tree()
    status, out, err = call(alignx_trainer.cli.main, monkeypatch, capsys, *arguments, "--quiet")
    if Path("runs/recipe").is_dir():  # claimed, and nothing trained; the mended recipe can take it
        assert {path.name for path in Path("runs/recipe").iterdir()} <= {".lock", "recipe.json"}
        shutil.rmtree("runs")
    assert_refused((status, out, err), code, parts, before)


def test_the_recipe_that_is_spoiled_here_is_in_order(place: Path, monkeypatch, capsys):
    assert call(alignx_trainer.cli.main, monkeypatch, capsys, *recipe(), "--quiet")[0] == 0
    assert Path("runs/recipe/model.pt").is_file()
