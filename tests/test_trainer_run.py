"""Whole training runs: kills at every write, resume at every step, a full disk, losses that are not finite, validation,
early stopping, provenance."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import io
import json
import math
import os
import pickle
import re
import resource
import shutil
import signal
import string
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignx_trainer.cli import main
from alignx_trainer.config import Recipe, Source
from alignx_trainer.model import open_model
from alignx_trainer.order import Order
from alignx_trainer.records import Stream
from alignx_trainer.report import write_report
from alignx_trainer.run_folder import TrainingError
from alignx_trainer.tokenize import Sample, collate
from alignx_trainer.training import train
from alignx_trainer.validation import Measured, over_aligned
from helpers.encoding import WORDS as WORDS_OF_TOKENIZER
from helpers.engines import language_id, language_modelling, layers
from helpers.kills import Operations, forked
from helpers.models import tiny_model, tiny_tokenizer
from helpers.training import WORDS, Stopped

import alignx_eval
from alignx_eval.checkpoint import open_checkpoint, write_checkpoint
from alignx_eval.corpora import load_corpus
from alignx_eval.errors import AlignxError, InputError

pytestmark = pytest.mark.slow

TIMES = ("seconds", "tokens_per_second")  # in the log
TIMES_OF_STAGE = ("seconds", "validation_seconds", "started", "finished", "peak_memory_bytes")
MODEL = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MEASURES = ("precision_at_1", "precision_at_1_last", "language_identity", "bits_per_byte")


def write_text(folder: Path, lines: list[str]) -> Path:
    """A toy pair of languages: the second is the first in capital letters, word order reversed."""
    folder.mkdir(parents=True)
    (folder / "eng_Latn.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    reversed_lines = [" ".join(reversed(line.upper().split())) for line in lines]
    (folder / "deu_Latn.txt").write_text("\n".join(reversed_lines) + "\n", encoding="utf-8")
    return folder


def write_texts(place: Path) -> None:
    """`text` of 20 lines (with both directions 40 samples) and `held_out` of 12."""
    lines = [f"the {one} and the {two}" for one in WORDS for two in WORDS if one != two]
    write_text(place / "text", lines[:20])
    write_text(place / "held_out", lines[100:112])


def recipe_in(place: Path, **changes: Any) -> Recipe:
    fields = {
        "stage": "stage1",
        "sources": (Source("translation", str(place / "text")),),
        "model": MODEL,
        "vocabulary_size": 300,
        "align_layer": 1.0,
        "contrastive_weight": 0.3,
        "matching_weight": 0.4,
        "matching_width": 4,
        "batch_size": 4,
        "micro_batch_size": 2,
        "steps": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "save_every": 1,
    }
    return Recipe(**(fields | changes))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_texts(folder)
    return folder


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Sums are in the same order then, and bits can be compared; the runs of fixtures of this module too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def read_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def without(entry: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in names}


def weights_of(run: Path) -> dict[str, bytes]:
    payload = torch.load(run / "model.pt", weights_only=True)
    tensors = payload["state_dict"] | {f"head {name}": tensor for name, tensor in (payload["heads"] or {}).items()}
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def contents(run: Path) -> dict[str, Any]:
    """What a finished run left, without times."""
    payload = torch.load(run / "model.pt", weights_only=True)
    (stage,) = payload["provenance"]["stages"]
    return {
        "weights": weights_of(run),
        "stage": without(stage, TIMES_OF_STAGE),
        "step": payload["step"],
        "log": [without(entry, TIMES) for entry in read_log(run)],
        "files": sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.name != ".lock"),
    }


def check_files(run: Path) -> None:
    """What is under a final name is whole."""
    if (run / "recipe.json").exists():
        assert set(json.loads((run / "recipe.json").read_text(encoding="utf-8"))) == {"sha256", "recipe"}
    for name in ("state.pt", "within_limits.pt"):
        if (run / name).exists():
            assert "model" in torch.load(run / name, weights_only=True)
    if (run / "model.pt").exists():
        open_checkpoint(str(run / "model.pt"))
    if (run / "report.html").exists():
        assert (run / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    if (run / "log.jsonl").exists():  # the one file that grows under its name
        for line in (run / "log.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
            json.loads(line)


def stop_at(cut: int) -> Callable[[int, int, dict[str, Any]], None]:
    def stop(done: int, total: int, entry: dict[str, Any]) -> None:
        if done == cut:
            raise Stopped

    return stop


# Kills


class RunOperations(Operations):
    """torch.save hands a file to its C++ writer, which writes hundreds of small pieces; here they are one write, of two
    halves."""

    def __init__(self, kill_at: int | None):
        super().__init__(kill_at)
        save = torch.save

        def save_at_once(what: Any, file: Any, **options: Any) -> None:
            buffer = io.BytesIO()
            save(what, buffer, **options)
            file.write(buffer.getvalue())

        torch.save = save_at_once


def killed_recipe(place: Path) -> Recipe:
    held_out = {"eval_path": str(place / "held_out"), "eval_every": 2, "eval_lines": 10}
    return recipe_in(place, micro_batch_size=4, stop_bits_per_byte=5.0, **held_out)


def train_in(folder: Path) -> None:
    train(killed_recipe(folder.parent), folder, device="cpu")


def train_killed_at(kill_at: int, folder: Path) -> None:
    """Train, killed before file operation `kill_at`. Undisturbed, every file but the log got its name in a counted
    way."""
    operations = RunOperations(kill_at)
    train_in(folder)
    for path in folder.iterdir():
        assert path.name in ("log.jsonl", ".lock") or str(path) in operations.named, (
            f"{path} was written in a way that is not counted"
        )


def train_counted_by_pieces(folder: Path) -> None:
    """Every single piece that torch writes is counted: a file that was not would end the process with 97."""
    operations = Operations(None)
    train_in(folder)
    assert {"model.pt", "recipe.json", "report.html", "state.pt", "within_limits.pt"} <= {
        Path(name).name for name in operations.named
    }
    assert operations.count > 1000


def enumerate_kills_of_a_run(place: Path) -> int:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tempfile.tempdir = str(place)  # killed processes leave files there
    write_texts(place)
    # All that is imported late, once for all children. No gradient: a process that has made one can have no children
    # that make any.
    with torch.no_grad():
        import alignx_trainer.report  # noqa: F401

        recipe = killed_recipe(place)
        model, tokenizer, _ = open_model(recipe, [Stream(source, "plain") for source in recipe.sources], True)
        language_id.run(
            write_and_open(place / "warm.pt", model, tokenizer),
            load_corpus(str(place / "held_out"), split="test", limit=10),
            seed=0,
        )
    gc.freeze()
    undisturbed = place / "undisturbed"
    assert forked(train_in, undisturbed) == 0
    expected = contents(undisturbed)
    assert expected["files"] == ["log.jsonl", "model.pt", "recipe.json", "report.html"]
    assert [entry["step"] for entry in expected["log"]] == [0, 1, 2, 3, 4]
    assert forked(train_counted_by_pieces, place / "pieces") == 0
    assert contents(place / "pieces") == expected
    kill_at = 0
    while True:
        folder = place / f"killed-{kill_at}"
        code = forked(train_killed_at, kill_at, folder)
        assert code in (0, -signal.SIGKILL), f"operation {kill_at}: exit code {code}"
        check_files(folder)
        if code == 0:
            assert contents(folder) == expected
            return kill_at
        assert forked(train_in, folder) == 0, f"operation {kill_at}: it does not go on"
        check_files(folder)
        assert contents(folder) == expected, f"operation {kill_at}"
        shutil.rmtree(folder)
        kill_at += 1


def write_and_open(path: Path, model: Any, tokenizer: Any) -> Any:
    write_checkpoint(
        path,
        model=model,
        tokenizer=tokenizer,
        stage="pretrain",
        step=0,
        prompt_template="plain",
        heads=None,
        recipe={},
        provenance={},
    )
    return open_checkpoint(str(path))


def test_a_run_survives_a_kill_at_every_operation(fresh, memory):  # noqa: F811
    place = memory / "run"
    place.mkdir()
    assert fresh(enumerate_kills_of_a_run, place) > 60


# Resume


@pytest.mark.parametrize(
    "size,steps,cuts",
    [
        pytest.param(8, 7, range(1, 8), id="every-step-across-an-epoch"),  # of 5 steps
        pytest.param(2, 18, (15, 16, 17, 18), id="across-a-window"),  # of 16 steps, whose samples are sorted together
    ],
)
def test_resume_is_bit_exact(place: Path, tmp_path: Path, size: int, steps: int, cuts: Sequence[int]):
    recipe = recipe_in(
        place, batch_size=size, micro_batch_size=size // 2, steps=steps, model={**MODEL, "attention_dropout": 0.3}
    )
    expected = contents(train(recipe, tmp_path / "whole", device="cpu").parent)
    assert len(expected["log"]) == steps
    for cut in cuts:
        run = tmp_path / f"cut-{cut}"
        with pytest.raises(Stopped):
            train(recipe, run, device="cpu", progress=stop_at(cut))
        if cut > 1:
            assert torch.load(run / "state.pt", weights_only=True)["counts"][0] == cut - 1
        assert contents(train(recipe, run, device="cpu").parent) == expected, cut
    plain = train(dataclasses.replace(recipe, model=MODEL), tmp_path / "plain", device="cpu").parent
    assert contents(plain)["log"] != expected["log"]  # dropout was at work


def test_a_run_cut_at_every_step_in_turn_is_bit_exact(place: Path, tmp_path: Path):
    """One run that never does more than two steps at a time, of which the second is lost."""
    recipe = recipe_in(place, steps=6, model={**MODEL, "attention_dropout": 0.3})
    expected = contents(train(recipe, tmp_path / "whole", device="cpu").parent)
    for cut in range(2, 7):
        with pytest.raises(Stopped):
            train(recipe, tmp_path / "cut", device="cpu", progress=stop_at(cut))
    assert contents(train(recipe, tmp_path / "cut", device="cpu").parent) == expected


def test_resume_up_to_a_number_of_tokens(place: Path, tmp_path: Path):
    """The state after the last step is there when the run ends by its tokens."""
    recipe = recipe_in(place, steps=50, max_tokens=800)
    expected = contents(train(recipe, tmp_path / "whole", device="cpu").parent)
    steps = len(expected["log"])
    assert 3 < steps < 50 and expected["log"][-1]["tokens"] >= 800 > expected["log"][-2]["tokens"]
    run = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole", run)
    for name in ("model.pt", "report.html"):
        (run / name).unlink()
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "state", device="cpu", progress=stop_at(steps))
    shutil.copy(tmp_path / "state" / "state.pt", run / "state.pt")
    assert contents(train(recipe, run, device="cpu").parent) == expected


def test_the_report_of_an_unfinished_run_does_not_stay(place: Path, tmp_path: Path):
    recipe = recipe_in(place)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", device="cpu", progress=stop_at(2))
    unfinished = write_report(tmp_path / "run").read_text(encoding="utf-8")
    train(recipe, tmp_path / "run", device="cpu")
    finished = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert finished != unfinished
    assert finished == write_report(tmp_path / "run").read_text(encoding="utf-8")


# Full disks and folders that cannot be written


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: a write stops short, the next one fails, as on a full
    disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def one_line(error: AlignxError) -> str:
    text = str(error)
    assert "\n" not in text and len(text) < 400
    return text


def sizes_of_files(place: Path, recipe: Recipe, folder: Path) -> dict[str, int]:
    """Sizes of the files of an undisturbed run, of state.pt too."""
    with pytest.raises(Stopped):
        train(dataclasses.replace(recipe, save_every=1), folder / "state", device="cpu", progress=stop_at(2))
    train(recipe, folder / "whole", device="cpu")
    found = {path.name: path.stat().st_size for path in (folder / "whole").iterdir()}
    return found | {"state.pt": (folder / "state" / "state.pt").stat().st_size}


@pytest.mark.parametrize("name", ["state.pt", "log.jsonl", "model.pt", "within_limits.pt", "recipe.json"])
def test_a_file_without_room_is_one_line_and_the_run_goes_on(place: Path, tmp_path: Path, name: str):
    changes: dict[str, Any] = {"steps": 12, "save_every": 2 if name == "state.pt" else 100}
    if name == "within_limits.pt":
        changes |= {"eval_path": str(place / "held_out"), "eval_every": 4, "eval_lines": 10, "stop_bits_per_byte": 5.0}
    recipe = recipe_in(place, **changes)
    sizes = sizes_of_files(place, recipe, tmp_path)
    limit = sizes.get(name, sizes["model.pt"]) // 2 if name != "log.jsonl" else sizes[name] - 200
    assert limit > sizes["recipe.json"] or name == "recipe.json"
    run = tmp_path / "run"
    with pytest.raises((TrainingError, InputError)) as raised, largest_file(limit):
        train(recipe, run, device="cpu")
    message = one_line(raised.value)
    assert str(run / name) in message and re.search("too large|fail", message)
    check_files(run)
    assert not (run / name).exists() or name == "log.jsonl"
    assert contents(train(recipe, run, device="cpu").parent) == contents(tmp_path / "whole")


def test_a_state_without_room_leaves_the_state_before(place: Path, tmp_path: Path):
    recipe = recipe_in(place, steps=6)
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(recipe, run, device="cpu", progress=stop_at(3))
    before = (run / "state.pt").read_bytes()
    with pytest.raises(TrainingError, match="the same command goes on"), largest_file(len(before) // 2):
        train(recipe, run, device="cpu")
    assert (run / "state.pt").read_bytes() == before and not (run / "state.pt.part").exists()
    whole = train(recipe, tmp_path / "whole", device="cpu").parent
    assert contents(train(recipe, run, device="cpu").parent) == contents(whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`small_disk(pages)` is a file system in memory of so many pages of 4096 bytes; called again it is resized."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def resize(pages: int) -> Path:
        nonlocal mounted
        options = f"size={pages * 4096}" + (",remount" if mounted else "")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("file systems can be mounted by root only")
        mounted = True
        return folder

    yield resize
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def pages(size: int) -> int:
    return math.ceil(size / 4096)


@pytest.mark.skipif(
    shutil.which("mount") is None or os.geteuid() != 0, reason="file systems can be mounted by root only"
)
@pytest.mark.parametrize("name", ["state.pt", "log.jsonl", "model.pt"])
def test_a_full_disk_is_one_line_and_the_run_goes_on(place: Path, tmp_path: Path, small_disk, name: str):
    changes = {
        "state.pt": {"steps": 4},
        "model.pt": {"steps": 3, "save_every": 2},
        "log.jsonl": {"steps": 40, "save_every": 100},
    }[name]
    recipe = recipe_in(place, **changes)
    sizes = sizes_of_files(place, recipe, tmp_path)
    space = {
        "state.pt": pages(sizes["state.pt"]) // 2,
        "model.pt": pages(sizes["state.pt"]) + 6 + pages(sizes["model.pt"]) // 2,
        "log.jsonl": 1 + 2,
    }[name]
    run = small_disk(space + 1) / "run"
    with pytest.raises((TrainingError, InputError)) as raised:
        train(recipe, run, device="cpu")
    message = one_line(raised.value)
    assert str(run / name) in message and re.search("No space left|fail", message)
    check_files(run)
    assert (run / "state.pt").exists() == (name == "model.pt")
    assert name == "log.jsonl" or {path.name for path in run.iterdir()} <= {
        ".lock",
        "log.jsonl",
        "recipe.json",
        "state.pt",
    }
    small_disk(10_000)
    assert contents(train(recipe, run, device="cpu").parent) == contents(tmp_path / "whole")


def test_an_adapter_without_room_is_one_line(place: Path, tmp_path: Path):
    pytest.importorskip("peft")
    base = write_and_open(tmp_path / "base.pt", tiny_model(max_position_embeddings=256), tiny_tokenizer()).reference
    recipe = recipe_in(place, init=base, model={}, lora_rank=8, save_every=100)
    whole = train(recipe, tmp_path / "whole", device="cpu").parent
    size = (whole / "adapter" / "adapter_model.safetensors").stat().st_size
    with pytest.raises(TrainingError) as raised, largest_file(size // 2):
        train(recipe, tmp_path / "run", device="cpu")
    assert str(tmp_path / "run" / "adapter") in one_line(raised.value)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "log.jsonl", "recipe.json"]
    assert contents(train(recipe, tmp_path / "run", device="cpu").parent) == contents(whole)


def recipe_file(path: Path, recipe: Recipe) -> str:
    import yaml

    path.write_text(yaml.safe_dump(recipe.as_dict()), encoding="utf-8")
    return str(path)


def command(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines on stderr of `alignx-train ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["alignx-train", *arguments])
    code = 0
    try:
        main()
    except SystemExit as left:
        code = int(left.code or 0)
    return code, capsys.readouterr().err.splitlines()


def test_a_folder_that_cannot_be_written_is_one_line(place: Path, tmp_path: Path, monkeypatch, capsys):
    recipe = recipe_in(place)
    name = recipe_file(tmp_path / "recipe.yaml", recipe)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.json").write_text("[]")
    # /proc cannot be written, not even by root.
    for folder in (
        tmp_path / "file",
        tmp_path / "file" / "below",
        Path("/proc/a_run"),
        Path("/proc/self"),
        tmp_path / "other",
    ):
        with pytest.raises(InputError) as raised:
            train(recipe, folder, device="cpu")
        assert str(folder) in one_line(raised.value)
        code, lines = command(monkeypatch, capsys, name, "--out", str(folder), "--device", "cpu", "--quiet")
        assert code == 2 and lines == [f"error: {raised.value}"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_recipe_that_ended_before_its_first_step_can_be_mended(place: Path, tmp_path: Path):
    recipe = recipe_in(place)
    with pytest.raises(InputError, match="no corpus or folder"):
        train(
            dataclasses.replace(recipe, sources=(Source("translation", str(place / "texd")),)),
            tmp_path / "run",
            device="cpu",
        )
    train(recipe, tmp_path / "run", device="cpu")
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"] == recipe.as_dict()
    with pytest.raises(InputError, match="another recipe"):
        train(dataclasses.replace(recipe, steps=5), tmp_path / "run", device="cpu")


def test_the_command_itself_says_it_in_one_line(place: Path, tmp_path: Path):
    name = recipe_file(tmp_path / "recipe.yaml", recipe_in(place))
    (tmp_path / "file").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "alignx_trainer", name, "--out", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and str(tmp_path / "file") in line


def test_a_log_that_cannot_be_opened_is_one_line(place: Path, tmp_path: Path):
    (tmp_path / "run" / "log.jsonl").mkdir(parents=True)
    with pytest.raises(TrainingError, match="log.jsonl"):
        train(recipe_in(place), tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    "part", ['{"step": 3, "validation": {"lines": 10, "bits_per_byte": {"value": 1.5}', '{"step": 3}', '{"st']
)
def test_a_torn_line_of_the_log_is_dropped(place: Path, tmp_path: Path, part: str):
    recipe = recipe_in(place)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", device="cpu", progress=stop_at(3))
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write(part)
    whole = train(recipe, tmp_path / "whole", device="cpu").parent
    assert contents(train(recipe, tmp_path / "run", device="cpu").parent) == contents(whole)


# Files of a run that were changed since they were written


@pytest.fixture(scope="module")
def interrupted(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with validation and limits of `damaged_recipe`, interrupted in step 4 of 5: its state is of step 3."""
    run = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(Stopped):
        train(damaged_recipe(place), run, device="cpu", progress=stop_at(4))
    return run


def damaged_recipe(place: Path) -> Recipe:
    return validated(place, steps=5, stop_bits_per_byte=5.0)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def flip_a_bit_of_a_weight(path: Path) -> None:
    """In the middle of the largest tensor, where torch.load sees nothing."""
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda one: one.file_size)
    flip_a_bit(path, entry.header_offset + 200 + entry.file_size // 2)
    torch.load(path, weights_only=True)


def flip_a_bit_of_the_pickle(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        (entry,) = (one for one in archive.infolist() if one.filename.endswith("/data.pkl"))
    flip_a_bit(path, entry.header_offset + 200 + entry.file_size // 2)


def zipped_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.txt", "mine")


def foreign(content: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(content, path)


def changed(**changes: Any) -> Callable[[Path], None]:
    """The part is taken out where the change is `...`, else it is what the change makes of it."""

    def damage(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for name, change in changes.items():
            if change is ...:
                del state[name]
            else:
                state[name] = change(state[name])
        torch.save(state, path)

    return damage


def without_a_moment(optimizers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    del optimizers[0]["state"][1]["exp_avg"]
    return optimizers


def with_a_transposed_moment(optimizers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    moments = next(moments for moments in optimizers[0]["state"].values() if len(set(moments["exp_avg"].shape)) == 2)
    moments["exp_avg"] = moments["exp_avg"].T.contiguous()
    return optimizers


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("it-ran"),))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "a bit of a weight": flip_a_bit_of_a_weight,
    "a bit of the pickle": flip_a_bit_of_the_pickle,
    "text": lambda path: path.write_text("mine"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Payload())),
    "a pickle by torch": foreign(Payload()),
    "a zip": zipped_text,
    "a foreign tensor": foreign(torch.zeros(3)),
    "a foreign state_dict": foreign({"weight": torch.zeros(3)}),
    "no version": changed(version=...),
    "no model": changed(model=...),
    "no optimizers": changed(optimizers=...),
    "no counts": changed(counts=...),
    "too few counts": changed(counts=lambda counts: counts[:3]),
    "counts that are text": changed(counts=lambda counts: [str(count) for count in counts]),
    "a model without tensors": changed(model=lambda model: dict.fromkeys(model, 1.0)),
    "a model that lacks a tensor": changed(model=lambda model: dict(list(model.items())[1:])),
    "a model of another shape": changed(model=lambda model: {name: tensor[:1] for name, tensor in model.items()}),
    "fewer optimizers": changed(optimizers=lambda optimizers: optimizers[:-1]),
    "optimizers that are none": changed(optimizers=lambda optimizers: [1 for _ in optimizers]),
    "an optimizer without a moment": changed(optimizers=without_a_moment),
    "a moment of another shape": changed(optimizers=with_a_transposed_moment),
    "no matcher": changed(matcher=lambda matcher: None),
    "a matcher without a tensor": changed(matcher=lambda matcher: dict(list(matcher.items())[1:])),
    "no first measurement": changed(start=lambda start: None),
    "a first measurement of numbers": changed(start=lambda start: [1.0 for _ in start]),
    "a short first measurement": changed(start=lambda start: start[:2]),
}


def files_of(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_state_is_one_line_and_nothing_is_lost(
    place: Path, interrupted: Path, tmp_path: Path, monkeypatch, capsys, damage
):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(interrupted, tmp_path / "run")
    damage(run / "state.pt")
    before = files_of(run)
    name = recipe_file(tmp_path / "recipe.yaml", damaged_recipe(place))
    code, lines = command(monkeypatch, capsys, name, "--out", str(run), "--device", "cpu", "--quiet")
    assert code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {run / 'state.pt'}: is damaged ("), lines
    assert "delete it to begin the run again" in lines[0] and "weights_only" not in lines[0]
    assert files_of(run) == before and not (tmp_path / "it-ran").exists()


def test_a_run_begins_again_without_its_damaged_state(place: Path, interrupted: Path, tmp_path: Path):
    run = shutil.copytree(interrupted, tmp_path / "run")
    (run / "state.pt").unlink()
    said: list[str] = []
    train(damaged_recipe(place), run, device="cpu", say=said.append)
    assert "beginning again at the first of 5" in said[0] and said[1].startswith("validation before the first step"), (
        said
    )
    assert len(said) == 2
    whole = train(damaged_recipe(place), tmp_path / "whole", device="cpu").parent
    assert contents(run) == contents(whole)


def test_damaged_weights_within_the_limits_are_told_before_a_step(place: Path, interrupted: Path, tmp_path: Path):
    run = shutil.copytree(interrupted, tmp_path / "run")
    cut(run / "within_limits.pt")
    before = files_of(run)
    with pytest.raises(InputError, match="within_limits.pt: is damaged .* delete .*state.pt to begin the run again"):
        train(damaged_recipe(place), run, device="cpu")
    assert files_of(run) == before


def test_a_state_of_another_recipe_or_version_is_refused(place: Path, interrupted: Path, tmp_path: Path):
    run = shutil.copytree(interrupted, tmp_path / "run")
    (run / "recipe.json").unlink()
    with pytest.raises(InputError, match="state.pt is of a run of another recipe"):
        train(dataclasses.replace(damaged_recipe(place), seed=1), run, device="cpu")
    assert not (run / "recipe.json").exists()
    changed(version=lambda version: version - 1, recipe=...)(run / "state.pt")
    with pytest.raises(InputError, match="state.pt is of another version"):
        train(damaged_recipe(place), run, device="cpu")


def test_the_layout_of_a_state_is_that_of_its_version(interrupted: Path):
    """Runs go on with the next version of the trainer: another layout needs another version, and a reader of this
    one."""
    state = torch.load(interrupted / "state.pt", weights_only=True)
    parts = ("version", "recipe", "model", "optimizers", "matcher", "matcher_optimizer", "counts", "start")
    assert state["version"] == 3 and set(state) == set(parts)
    steps, tokens, samples, truncated, seconds, validating, flops, kept_step = state["counts"]
    last = read_log(interrupted)[3]
    assert (steps, tokens, samples, truncated, kept_step) == (3, last["tokens"], 12, 0, 2)
    assert seconds >= last["seconds"] > 0 and validating > 0 and flops > 6 * tokens
    assert [array.shape for array in state["start"]] == [(12,)] * 4


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"lm": 1.0}', '{"step": "2"}', ""])
def test_a_damaged_log_is_one_line_and_nothing_is_lost(place: Path, interrupted: Path, tmp_path: Path, line: str):
    run = shutil.copytree(interrupted, tmp_path / "run")
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    (run / "log.jsonl").write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n", encoding="utf-8")
    before = files_of(run)
    with pytest.raises(
        InputError, match="log.jsonl: line 3 is damaged; put back a copy of the file, or move it away"
    ) as raised:
        train(damaged_recipe(place), run, device="cpu")
    one_line(raised.value)
    assert files_of(run) == before
    # What the line advises works.
    (run / "log.jsonl").rename(tmp_path / "log.jsonl")
    said: list[str] = []
    path = train(damaged_recipe(place), run, device="cpu", say=said.append)
    assert [entry["step"] for entry in read_log(run)] == [4, 5] and path.is_file()
    assert said == [
        "going on from step 3 of 5",
        f"{run / 'log.jsonl'} has the lines of 0 of these steps; the others are lost",
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"recipe": {}}', "\x00"])
def test_a_damaged_recipe_of_a_run_is_one_line_and_nothing_is_lost(
    place: Path, interrupted: Path, tmp_path: Path, text: str
):
    run = shutil.copytree(interrupted, tmp_path / "run")
    (run / "recipe.json").write_text(text)
    before = files_of(run)
    with pytest.raises(InputError, match="recipe.json: is damaged") as raised:
        train(damaged_recipe(place), run, device="cpu")
    one_line(raised.value)
    assert files_of(run) == before
    (run / "recipe.json").unlink()
    train(damaged_recipe(place), run, device="cpu")
    whole = train(damaged_recipe(place), tmp_path / "whole", device="cpu").parent
    assert contents(run) == contents(whole)


def test_a_log_of_someone_else_is_not_overwritten(place: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(InputError, match="log.jsonl that this recipe did not make"):
        train(recipe_in(place), tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "log.jsonl").read_text() == '{"step": 1}\n'


# What a run says


def test_a_second_run_of_a_finished_recipe_says_what_is_there(place: Path, tmp_path: Path, monkeypatch, capsys):
    run = tmp_path / "run"
    arguments = (recipe_file(tmp_path / "recipe.yaml", recipe_in(place)), "--out", str(run), "--device", "cpu")
    assert command(monkeypatch, capsys, *arguments, "--quiet") == (0, [])
    before = files_of(run)
    code, lines = command(monkeypatch, capsys, *arguments)
    assert code == 0 and len(lines) == 1
    assert lines[0].startswith(f"{run / 'model.pt'} is there: stage1, step 4, finished 2")
    assert lines[0].endswith(f"nothing was trained. To train anew, remove {run} or choose another output folder")
    assert command(monkeypatch, capsys, *arguments, "--quiet") == (0, [])
    assert files_of(run) == before
    cut(run / "model.pt")
    code, lines = command(monkeypatch, capsys, *arguments)
    assert code == 2 and len(lines) == 1 and lines[0].startswith(f"error: {run / 'model.pt'} is cut off or damaged")


def test_a_run_that_goes_on_says_from_where(place: Path, tmp_path: Path, monkeypatch, capsys):
    with pytest.raises(Stopped):
        train(recipe_in(place), tmp_path / "run", device="cpu", progress=stop_at(3))
    name = recipe_file(tmp_path / "recipe.yaml", recipe_in(place))
    code, lines = command(monkeypatch, capsys, name, "--out", str(tmp_path / "run"), "--device", "cpu")
    assert code == 0 and lines[0] == "going on from step 2 of 4"
    assert lines[1].startswith("step 3/4") and lines[2].startswith("step 4/4") and len(lines) == 3


def test_an_override_that_replaces_a_key_is_one_line(place: Path, tmp_path: Path, monkeypatch, capsys):
    name = recipe_file(tmp_path / "recipe.yaml", recipe_in(place, steps=None, epochs=2.0))
    code, lines = command(monkeypatch, capsys, name, "steps=1", "--out", str(tmp_path / "run"), "--device", "cpu")
    assert code == 0 and lines[0] == "steps=1 replaces `epochs: 2.0` of the recipe" and len(lines) == 2
    assert len(read_log(tmp_path / "run")) == 1


@pytest.mark.parametrize("subcommand", ["train", "inspect", "ablate", "ls", "path", "export", "report", None])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help_with_examples(monkeypatch, capsys, subcommand: str | None, option: str):
    monkeypatch.setattr(sys, "argv", ["alignx-train", *([subcommand] if subcommand else []), option])
    with pytest.raises(SystemExit) as left:
        main()
    examples = capsys.readouterr().out.partition("Examples:\n")[2]
    assert left.value.code == 0 and examples.lstrip().startswith("alignx-train ")


def test_the_version_is_the_packages(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["alignx-train", "--version"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0 and capsys.readouterr().out.strip() == alignx_eval.__version__


def test_debug_shows_where_an_error_came_from(monkeypatch, capsys):
    code, lines = command(monkeypatch, capsys, "nosuchrecipe", "--debug")
    assert code == 2 and lines[0].startswith("Traceback") and lines[-1].startswith("error: no recipe 'nosuchrecipe'")


# Shared file systems


def test_files_of_a_run_follow_the_umask(place: Path, tmp_path: Path):
    pytest.importorskip("peft")
    base = write_and_open(tmp_path / "base.pt", tiny_model(max_position_embeddings=256), tiny_tokenizer()).reference
    before = os.umask(0o027)
    try:
        recipe = recipe_in(place, init=base, model={}, lora_rank=2)
        with pytest.raises(Stopped):
            train(recipe, tmp_path / "run", device="cpu", progress=stop_at(3))
        half = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir()}
        train(recipe, tmp_path / "run", device="cpu")
    finally:
        os.umask(before)
    assert {"state.pt", "log.jsonl", "recipe.json"} <= set(half) and set(half.values()) == {0o640}
    modes = {
        str(path.relative_to(tmp_path / "run")): path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*.*")
    }
    assert {"model.pt", "report.html", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"} <= set(modes)
    assert set(modes.values()) == {0o640}, modes


def test_a_file_system_without_locks_can_be_trained_on(place: Path, tmp_path: Path, monkeypatch):
    import fcntl

    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert train(recipe_in(place, steps=1), tmp_path / "run", device="cpu").is_file()


# Losses that are not finite

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&*+/<=>?@^_|~"


@pytest.fixture(scope="module")
def lettered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines with a character each of their own, six times in a row: a token that the tiny tokenizer never merges."""
    folder = tmp_path_factory.mktemp("lettered") / "text"
    folder.mkdir()
    lines = [" ".join(["the house"] * (1 + place % 3) + [letter * 6]) for place, letter in enumerate(LETTERS)]
    (folder / "eng_Latn.txt").write_text("\n".join(lines) + "\n")
    (folder / "deu_Latn.txt").write_text("\n".join(line.replace("the house", "das haus") for line in lines) + "\n")
    return folder


def spoiled(
    folder: Path, recipe: Recipe, path: Path, family: str, value: float
) -> tuple[Recipe, int, list[Sample], list[list[Sample]]]:
    """The recipe from a model in `path` with `value` in the embedding of one line's character that does not come before
    step 3.

    Also the step, counted from 1, where it comes, that step's samples, and the micro-batches with it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    order = Order([Stream(source, "plain") for source in recipe.sources], recipe, tokenizer)
    for letter in LETTERS:
        (token,) = set(tokenizer(letter * 6, add_special_tokens=False)["input_ids"])
        steps = [step for step in range(8) if any(token in sample.input_ids for sample in order.batch(step))]
        if steps and steps[0] >= 2:
            break
    else:
        pytest.fail("no such character")
    samples, size = order.batch(steps[0]), recipe.micro_batch_size
    pieces = [samples[start : start + size] for start in range(0, len(samples), size)]
    settings = {
        **MODEL,
        "model_type": family,
        "vocab_size": 320,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings, head_dim=4, tie_word_embeddings=False))
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = value
    write_and_open(path, model, tokenizer)
    bad = [piece for piece in pieces if any(token in sample.input_ids for sample in piece)]
    return dataclasses.replace(recipe, init=str(path), model={}), steps[0] + 1, samples, bad


def named_samples(message: str) -> list[str]:
    found = re.search("look at these samples: (.*?). Nothing of this step", message)
    assert found is not None and " more" not in found[1]
    return found[1].split(", ")


# Gemma multiplies embeddings by the root of the width, which makes them infinite here. In Llama they stay finite, and
# the norms make nothing of them, so the next-token loss is finite; but the sum over a source is not.
@pytest.mark.parametrize("family,value", [("gemma2", 3e38), ("llama", 1e38)], ids=["next-token", "contrastive"])
@pytest.mark.parametrize("negatives", ["batch", "micro"])
@pytest.mark.parametrize("size", [2, 8])
def test_what_is_not_finite_names_its_micro_batch(
    lettered: Path, tmp_path: Path, family: str, value: float, negatives: str, size: int
):
    plain = recipe_in(
        lettered.parent,
        batch_size=8,
        micro_batch_size=size,
        negatives=negatives,
        steps=8,
        matching_weight=0.0,
        learning_rate=1e-4,
    )
    recipe, step, samples, bad = spoiled(lettered, plain, tmp_path / "spoiled.pt", family, value)
    run = tmp_path / "run"
    with pytest.raises(TrainingError, match=f"^step {step}: the loss or its gradient is not finite") as raised:
        train(recipe, run, device="cpu")
    named = named_samples(one_line_of_samples(raised.value))
    assert sorted(named) == sorted({sample.identity for piece in bad for sample in piece})
    assert size == 8 or len(named) < len(samples)
    assert not (run / "model.pt").exists()
    log = read_log(run)
    assert len(log) == step - 1 and all(
        math.isfinite(entry["lm"]) and math.isfinite(entry["contrastive"]) for entry in log
    )
    state = torch.load(run / "state.pt", weights_only=True)
    assert state["counts"][0] == step - 1
    for name, tensor in state["model"].items():
        assert tensor.isfinite().all(), name


def one_line_of_samples(error: AlignxError) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_the_command_ends_with_1_where_a_loss_is_not_finite(lettered: Path, tmp_path: Path, monkeypatch, capsys):
    plain = recipe_in(lettered.parent, steps=8, matching_weight=0.0)
    recipe, step, _, bad = spoiled(lettered, plain, tmp_path / "spoiled.pt", "gemma2", 3e38)
    name = recipe_file(tmp_path / "recipe.yaml", recipe)
    code, lines = command(monkeypatch, capsys, name, "--out", str(tmp_path / "run"), "--device", "cpu", "--quiet")
    assert code == 1 and len(lines) == 1 and lines[0].startswith(f"error: step {step}: ")
    assert sorted(named_samples(lines[0])) == sorted({sample.identity for piece in bad for sample in piece})
    # The next try ends in the same place, from the saved state.
    again, more = command(monkeypatch, capsys, name, "--out", str(tmp_path / "run"), "--device", "cpu", "--quiet")
    assert (again, more) == (code, lines)


# Validation


def validated(place: Path, **changes: Any) -> Recipe:
    return recipe_in(
        place,
        **({"eval_path": str(place / "held_out"), "eval_every": 2, "eval_lines": 12, "learning_rate": 1e-2} | changes),
    )


def test_the_log_has_the_evaluators_own_numbers(place: Path, tmp_path: Path):
    # Two languages that are hard to tell apart, so that no measure is at its end.
    similar = tmp_path / "similar"
    similar.mkdir()
    words = [(one, two) for one in WORDS[:6] for two in WORDS[8:13]]
    (similar / "eng_Latn.txt").write_text("".join(f"the {one} and the {two}\n" for one, two in words))
    (similar / "deu_Latn.txt").write_text("".join(f"the {two} and the {one}\n" for one, two in words))
    recipe = validated(place, steps=6, seed=5, eval_path=str(similar), eval_lines=30)
    path = train(recipe, tmp_path / "run", device="cpu")
    log = read_log(tmp_path / "run")
    assert [entry["step"] for entry in log if "validation" in entry] == [0, 2, 4, 6]
    assert [entry["step"] for entry in log] == list(range(7))
    for entry in log:
        for name in MEASURES if "validation" in entry else ():
            measured = entry["validation"][name]
            assert set(measured) == {"value", "ci_low", "ci_high", "n"} and measured["n"] == 30
            assert measured["ci_low"] <= measured["value"] <= measured["ci_high"]
        if "validation" in entry:
            assert entry["validation"]["align_layer"] == 1 and entry["validation"]["lines"] == 30
            assert sorted(entry["validation"]["languages"]) == ["deu_Latn", "eng_Latn"]
    checkpoint = open_checkpoint(str(path))
    checkpoint.model.set_attn_implementation("eager")  # as in training
    corpus = load_corpus(str(similar), split="test")
    found = log[-1]["validation"]

    def the_row(result: Any, metric: str, layer: str | None) -> Any:
        (row,) = [row for row in result.rows if (row.metric, row.layer, row.language) == (metric, layer, None)]
        return row

    of_layers = layers.run(checkpoint, corpus)
    of_probe = language_id.run(checkpoint, corpus, seed=5)
    of_modelling = language_modelling.run(checkpoint, corpus)
    for name, row in (
        ("precision_at_1", the_row(of_layers, "precision_at_1", "1")),
        ("precision_at_1_last", the_row(of_layers, "precision_at_1", "2")),
        ("language_identity", the_row(of_probe, "probe_balanced_accuracy", "2")),
        ("bits_per_byte", the_row(of_modelling, "bits_per_byte", None)),
    ):
        assert found[name]["value"] == pytest.approx(row.value, abs=1e-5), name
        if name != "bits_per_byte":  # whose interval the evaluator also gives the spread of the bytes
            assert (found[name]["ci_low"], found[name]["ci_high"]) == pytest.approx(
                (row.ci_low, row.ci_high), abs=1e-5
            ), name
    assert all(0.05 < found[name]["value"] < 0.95 for name in MEASURES[:3]), found
    assert log[0]["validation"]["bits_per_byte"]["value"] > found["bits_per_byte"]["value"] + 0.1


def test_the_start_token_of_training_is_recorded_and_validation_measures_with_it(place: Path, tmp_path: Path):
    """A tokenizer that has no BOS and adds nothing by itself: EOS stands before every text, in training, validation and
    evaluation."""
    from tokenizers import processors

    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    write_and_open(tmp_path / "init.pt", tiny_model(bos_token_id=None, eos_token_id=tokenizer.eos_token_id), tokenizer)
    lines = [" ".join(WORDS_OF_TOKENIZER[start : start + 4]) for start in range(12)]
    write_text(tmp_path / "words", lines)
    changes = {"eval_path": str(tmp_path / "words"), "steps": 2, "model": None, "vocabulary_size": 0}
    path = train(validated(place, init=str(tmp_path / "init.pt"), **changes), tmp_path / "run", device="cpu")
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.provenance["start_token"] == "EOS </s>" and checkpoint.notes == []
    checkpoint.model.set_attn_implementation("eager")  # as in training
    result = layers.run(checkpoint, load_corpus(str(tmp_path / "words"), split="test"))
    assert result.environment["start_token"] == checkpoint.provenance["start_token"]
    (row,) = [row for row in result.rows if (row.metric, row.layer, row.language) == ("precision_at_1", "1", None)]
    assert read_log(tmp_path / "run")[-1]["validation"]["precision_at_1"]["value"] == pytest.approx(row.value, abs=1e-6)


def test_the_languages_of_validation_are_said_before_it_begins(place: Path, tmp_path: Path):
    """Without `eval_languages` it is all of the folder's, and those of FLORES take hours in which nothing else is
    written."""
    said: list[str] = []
    recipe = validated(place, model={**MODEL, "max_position_embeddings": 8})
    with pytest.raises(InputError, match="the model takes 8 tokens"):
        train(recipe, tmp_path / "run", device="cpu", say=said.append)
    assert said[0].startswith("validation before the first step and every "), said
    assert " 12 lines of " in said[0] and " in deu_Latn, eng_Latn; " in said[0] and "`eval_languages`" in said[0]


def test_validation_text_that_does_not_fit_the_context_is_refused_before_the_first_step(place: Path, tmp_path: Path):
    recipe = validated(place, model={**MODEL, "max_position_embeddings": 8})
    with pytest.raises(InputError, match=r"the model takes 8 tokens.*deu_Latn \(12 of 12\)"):
        train(recipe, tmp_path / "run", device="cpu")
    assert not read_log(tmp_path / "run") and not (tmp_path / "run" / "model.pt").exists()


@pytest.mark.parametrize("changes", [{}, {"activation_checkpointing": True}])
def test_measuring_changes_nothing(place: Path, tmp_path: Path, changes: dict[str, Any]):
    recipe = validated(place, steps=6, model={**MODEL, "attention_dropout": 0.3}, **changes)
    runs = []
    for name, every in (("measured", 1), ("plain", 0)):
        runs.append(
            contents(train(dataclasses.replace(recipe, eval_every=every), tmp_path / name, device="cpu").parent)
        )
    measured, plain = runs
    assert measured["weights"] == plain["weights"]
    assert [without(entry, ("validation",)) for entry in measured["log"] if entry["step"]] == plain["log"]


def test_a_run_with_validation_resumes_bit_exact(place: Path, tmp_path: Path):
    recipe = validated(place, steps=5, stop_bits_per_byte=5.0)
    expected = contents(train(recipe, tmp_path / "whole", device="cpu").parent)
    for cut in range(1, 6):
        run = tmp_path / f"cut-{cut}"
        with pytest.raises(Stopped):
            train(recipe, run, device="cpu", progress=stop_at(cut))
        assert contents(train(recipe, run, device="cpu").parent) == expected, cut


def test_text_of_a_source_is_no_validation(place: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    (tmp_path / "link").symlink_to(place / "text")
    monkeypatch.chdir(place)
    for path in (str(place / "text"), "text", "~/text", f"{place}/../{place.name}/text", str(tmp_path / "link")):
        with pytest.raises(InputError, match="trains on"):
            train(validated(place, eval_path=path), tmp_path / "run", device="cpu")
    with pytest.raises(InputError, match="trains on"):
        sources = (Source("translation", str(place / "text")), Source("monolingual", "interface"))
        train(
            validated(place, sources=sources, eval_path="interface", eval_split="train"), tmp_path / "two", device="cpu"
        )


# Early stopping


@pytest.fixture(scope="module")
def taught(place: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that has learnt a little language, which can be lost again."""
    recipe = recipe_in(
        place,
        contrastive_weight=0.0,
        matching_weight=0.0,
        steps=60,
        learning_rate=1e-2,
        save_every=100,
        batch_size=8,
        micro_batch_size=8,
    )
    return str(train(recipe, tmp_path_factory.mktemp("taught") / "run", device="cpu"))


def over_aligning(place: Path, taught: str, **changes: Any) -> Recipe:
    """The rate rises slowly, so the first measurements are harmless."""
    fields = {
        "init": taught,
        "model": {},
        "contrastive_weight": 1e4,
        "learning_rate": 0.01,
        "warmup_steps": 16,
        "steps": 20,
        "eval_every": 2,
        "stop_bits_per_byte": 0.5,
        "save_every": 3,
    }
    return validated(place, **(fields | changes))


def test_over_alignment_stops_the_run_and_keeps_what_was_before(place: Path, taught: str, tmp_path: Path):
    recipe = over_aligning(place, taught)
    run = train(recipe, tmp_path / "run", device="cpu").parent
    log = read_log(run)
    start, last = log[0]["validation"], log[-1]
    assert 4 <= last["step"] < 20 and last["step"] % 2 == 0
    assert "bits per byte rose" in last["stopped"] and not any("stopped" in entry for entry in log[:-1])
    kept = last["step"] - 2
    assert last["validation"]["bits_per_byte"]["value"] > start["bits_per_byte"]["value"] + 0.5
    checkpoint = open_checkpoint(str(run / "model.pt"))
    stage = checkpoint.provenance["stages"][-1]
    assert (checkpoint.step, stage["kept_step"], stage["steps"], stage["stopped"]) == (
        kept,
        kept,
        last["step"],
        last["stopped"],
    )
    assert not (run / "within_limits.pt").exists() and not (run / "state.pt").exists()
    # The same recipe up to that step only, by its tokens.
    up_to = dataclasses.replace(recipe, max_tokens=log[kept]["tokens"])
    only = train(up_to, tmp_path / "only", device="cpu").parent
    assert read_log(only)[-1]["step"] == kept
    assert weights_of(only) == weights_of(run)
    bits = language_modelling.run(checkpoint, load_corpus(str(place / "held_out"), split="test")).rows[-1].value
    assert bits == pytest.approx(log[kept]["validation"]["bits_per_byte"]["value"], abs=1e-4)
    # And by way of an interruption at every step.
    expected = contents_of_last_stage(run)
    for cut in range(1, last["step"] + 1):
        interrupted = tmp_path / f"cut-{cut}"
        with pytest.raises(Stopped):
            train(recipe, interrupted, device="cpu", progress=stop_at(cut))
        assert contents_of_last_stage(train(recipe, interrupted, device="cpu").parent) == expected, cut


def contents_of_last_stage(run: Path) -> dict[str, Any]:
    payload = torch.load(run / "model.pt", weights_only=True)
    stage = without(payload["provenance"]["stages"][-1], TIMES_OF_STAGE)
    return {"weights": weights_of(run), "stage": stage, "log": [without(entry, TIMES) for entry in read_log(run)]}


def test_what_counts_as_over_alignment(place: Path):
    """Only a loss that is above the limit with 95 % confidence, by the differences of the same lines."""
    recipe = validated(place, stop_bits_per_byte=0.2, stop_language_identity=0.2)
    corpus = load_corpus(str(place / "held_out"), split="test")
    noise = np.linspace(-1, 1, 12)
    start = Measured(noise, noise, np.full(12, 0.9), 3 + noise)

    def stopped(**changes: np.ndarray) -> str | None:
        return over_aligned(start, dataclasses.replace(start, **changes), corpus, recipe)

    assert stopped() is None
    assert stopped(precision_at_1=noise - 5, precision_at_1_last=noise - 5) is None  # retrieval is no limit
    assert "bits per byte rose by 0.300" in str(stopped(bits_per_byte=start.bits_per_byte + 0.3 + 0.01 * noise))
    assert stopped(bits_per_byte=start.bits_per_byte + 0.3 + 2 * noise[::-1]) is None  # not sure
    assert stopped(bits_per_byte=start.bits_per_byte + 0.19) is None
    assert stopped(bits_per_byte=start.bits_per_byte - 3) is None
    assert "language identity fell by 0.400" in str(stopped(language_identity=np.full(12, 0.5) + 0.01 * noise))
    assert stopped(language_identity=np.ones(12)) is None
    free = dataclasses.replace(recipe, stop_bits_per_byte=None, stop_language_identity=None)
    assert over_aligned(start, dataclasses.replace(start, bits_per_byte=noise + 99), corpus, free) is None


@pytest.fixture(scope="module")
def latin(place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Fields of a recipe that starts from a model whose tokenizer has letters only, and is measured on text in other
    scripts too."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    names = ["<s>", "</s>", "<pad>", "<unk>", "▁", *string.printable.strip()]
    tokens = Tokenizer(
        models.BPE({name: place for place, name in enumerate(names)}, [], unk_token="<unk>", fuse_unk=True)
    )
    tokens.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**MODEL, vocab_size=len(names), max_position_embeddings=64)
    )
    folder = tmp_path_factory.mktemp("latin")
    write_and_open(folder / "model.pt", model, tokenizer)
    held_out = folder / "held_out"
    shutil.copytree(place / "held_out", held_out)
    (held_out / "zho_Hans.txt").write_text(
        "".join(f"中文{chr(0x4E00 + line)}\n" for line in range(12)), encoding="utf-8"
    )
    (held_out / "rus_Cyrl.txt").write_text(
        "".join(f"ещё {chr(0x0430 + line)}\n" for line in range(12)), encoding="utf-8"
    )
    return {"init": str(folder / "model.pt"), "model": {}, "eval_path": str(held_out), "steps": 4}


def test_text_that_the_tokenizer_does_not_know_has_no_part_in_bits_per_byte_and_its_limit(
    place: Path, latin: dict[str, Any], tmp_path: Path
):
    recipe = validated(place, **latin, stop_bits_per_byte=9.0)
    said: list[str] = []
    run = train(recipe, tmp_path / "run", device="cpu", say=said.append).parent
    first, *others = [entry["validation"] for entry in read_log(run) if "validation" in entry]
    for entry in (first, *others):
        assert set(entry["languages"]) == {"eng_Latn", "deu_Latn", "rus_Cyrl", "zho_Hans"}
    assert re.search(
        r"does not know the text of rus_Cyrl \([\d.]+ % of the bytes\), zho_Hans \(100 % of the bytes\)", first["note"]
    )
    assert said.count(first["note"]) == 1 and not any("note" in entry for entry in others)
    assert first["note"] in (run / "report.html").read_text(encoding="utf-8")
    checkpoint = open_checkpoint(str(run / "model.pt"))
    checkpoint.model.set_attn_implementation("eager")
    rows = language_modelling.run(checkpoint, load_corpus(latin["eval_path"], split="test"), window=64).rows
    known = [row.value for row in rows if row.metric == "bits_per_byte" and row.language and row.unjudged is None]
    assert len(known) == 2 and others[-1]["bits_per_byte"]["value"] == pytest.approx(np.mean(known), abs=1e-5)


def test_bits_per_byte_of_text_that_is_all_unknown_are_no_number_and_no_limit(
    place: Path, latin: dict[str, Any], tmp_path: Path
):
    recipe = validated(place, **latin, eval_languages=("rus_Cyrl", "zho_Hans"))
    run = train(recipe, tmp_path / "run", device="cpu").parent
    found = [entry["validation"] for entry in read_log(run) if "validation" in entry]
    assert len(found) == 3 and all("bits_per_byte" not in entry and "precision_at_1" in entry for entry in found)
    with pytest.raises(InputError, match=r"stop_bits_per_byte: .*does not know .*rus_Cyrl.*zho_Hans"):
        train(dataclasses.replace(recipe, stop_bits_per_byte=0.1), tmp_path / "limited", device="cpu")


def test_over_alignment_by_the_first_measurement_writes_nothing(
    place: Path, taught: str, tmp_path: Path, monkeypatch, capsys
):
    recipe = over_aligning(place, taught, warmup_steps=0, learning_rate=0.03, eval_every=10)
    with pytest.raises(TrainingError, match="over-alignment by the first measurement, at step 10"):
        train(recipe, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "model.pt").exists() and not (tmp_path / "run" / "report.html").exists()
    name = recipe_file(tmp_path / "recipe.yaml", recipe)
    code, lines = command(monkeypatch, capsys, name, "--out", str(tmp_path / "run"), "--device", "cpu", "--quiet")
    assert code == 1 and len(lines) == 1 and "over-alignment" in lines[0], lines


def test_a_run_within_its_limits_is_not_stopped(place: Path, tmp_path: Path):
    recipe = validated(place, steps=6, stop_bits_per_byte=0.0, stop_language_identity=1.0)
    run = train(recipe, tmp_path / "run", device="cpu").parent
    log = read_log(run)
    assert log[-1]["step"] == 6 and not any("stopped" in entry for entry in log)
    (stage,) = open_checkpoint(str(run / "model.pt")).provenance["stages"]
    assert "stopped" not in stage and "kept_step" not in stage and stage["steps"] == 6
    free = dataclasses.replace(recipe, stop_bits_per_byte=None, stop_language_identity=None)
    assert weights_of(train(free, tmp_path / "free", device="cpu").parent) == weights_of(run)


# Provenance

BLOCK = 16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24 + 2 * 16  # query, key and value, output, feed-forward, norms
WEIGHTS = 2 * BLOCK + 16  # and the final norm


def stage_and_counts(recipe: Recipe, folder: Path) -> tuple[dict[str, Any], int, int, int]:
    """The stage, its input tokens and scored tokens counted again, and the size of the vocabulary."""
    checkpoint = open_checkpoint(str(train(recipe, folder, device="cpu")))
    order = Order([Stream(source, "plain") for source in recipe.sources], recipe, checkpoint.tokenizer)
    tokens = scored = 0
    for step in range(recipe.steps or 0):
        samples = order.batch(step)
        for start in range(0, len(samples), recipe.micro_batch_size):
            batch = collate(samples[start : start + recipe.micro_batch_size], 2)
            tokens += int(batch.attention_mask.sum())
            scored += int((batch.labels[:, 1:] != -100).sum())
    assert tokens == sum(len(sample.input_ids) for step in range(recipe.steps or 0) for sample in order.batch(step))
    return checkpoint.provenance["stages"][-1], tokens, scored, len(checkpoint.tokenizer)


@pytest.mark.parametrize(
    "changes,per_weight",
    [
        ({"micro_batch_size": 4}, 6),
        ({"micro_batch_size": 2}, 8),
        ({"micro_batch_size": 2, "negatives": "micro"}, 6),
        ({"micro_batch_size": 4, "activation_checkpointing": True}, 8),
        ({"micro_batch_size": 2, "activation_checkpointing": True}, 10),
        ({"micro_batch_size": 2, "contrastive_weight": 0.0, "matching_weight": 0.0}, 6),
    ],
)
def test_tokens_and_operations_by_hand(place: Path, tmp_path: Path, changes: dict[str, Any], per_weight: int):
    stage, tokens, scored, vocabulary = stage_and_counts(recipe_in(place, save_every=100, **changes), tmp_path / "run")
    assert stage["tokens"] == tokens
    assert stage["samples"] == 16 and stage["steps"] == 4
    assert stage["flops"] == per_weight * WEIGHTS * tokens + 6 * vocabulary * 16 * scored
    assert stage["parameters"] == stage["trained_parameters"] == WEIGHTS + 2 * vocabulary * 16


def test_operations_with_adapters_by_hand(place: Path, tmp_path: Path):
    pytest.importorskip("peft")
    base = str(train(recipe_in(place, save_every=100), tmp_path / "base", device="cpu"))
    recipe = recipe_in(place, init=base, model={}, lora_rank=2, save_every=100)
    stage, tokens, scored, vocabulary = stage_and_counts(recipe, tmp_path / "run")
    adapters = 2 * 2 * ((16 + 16) + 2 * (16 + 8) + (16 + 16) + 3 * (16 + 24))
    assert stage["trained_parameters"] == adapters
    # Forward and the gradients of states for all weights, gradients of weights for the adapters; the forward pass
    # twice.
    expected = (6 * WEIGHTS + 8 * adapters) * tokens + 4 * vocabulary * 16 * scored
    assert stage["flops"] == expected
    whole, *_ = stage_and_counts(dataclasses.replace(recipe, lora_rank=0), tmp_path / "whole")
    assert whole["tokens"] == tokens and stage["flops"] < whole["flops"]


def test_flops_go_on_after_an_interruption(place: Path, tmp_path: Path):
    recipe = recipe_in(place)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", device="cpu", progress=stop_at(3))
    stage, tokens, scored, vocabulary = stage_and_counts(recipe, tmp_path / "run")
    assert np.isclose(stage["flops"], 8 * WEIGHTS * tokens + 6 * vocabulary * 16 * scored) and stage["tokens"] == tokens
