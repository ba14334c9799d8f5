"""Two processes leave the gradients, the checkpoint and the log of one: DDP and FSDP2 by accelerate, over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from alignx_trainer.config import ACCELERATE, load_recipe
from alignx_trainer.model import train_tokenizer
from alignx_trainer.order import Order
from alignx_trainer.records import Stream
from alignx_trainer.training import train
from helpers.training import recipe_for
from transformers import AutoConfig, AutoModelForCausalLM

from alignx_eval.checkpoint import open_checkpoint, write_checkpoint

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def launch(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "alignx_trainer")


def write_recipe(folder: Path, corpus: Path, **changes) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_for(corpus, **changes).as_dict(), sort_keys=False))
    return path


def train_both(tmp_path: Path, corpus: Path, *launcher: str, **changes):
    """(checkpoints, logs) of one process and of two."""
    recipe = write_recipe(tmp_path, corpus, **changes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(load_recipe(str(recipe)), tmp_path / "one", device="cpu")
    torch.set_num_threads(threads)
    said = launch(
        *launcher, str(recipe), "--out", str(tmp_path / "two"), "--quiet", "--threads", "1", "--device", "cpu"
    )
    assert said.split() == [str(tmp_path / "two" / "model.pt")]  # one process talks
    checkpoints = [open_checkpoint(str(tmp_path / name / "model.pt")) for name in ("one", "two")]
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    return checkpoints, logs


def assert_the_same(checkpoints, logs, tolerance: float = 1e-5):
    one, two = checkpoints
    for (name, ours), theirs in zip(two.model.state_dict().items(), one.model.state_dict().values(), strict=True):
        torch.testing.assert_close(
            ours, theirs, atol=tolerance, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    for name, ours in (two.heads or {}).items():
        torch.testing.assert_close(ours, one.heads[name], atol=tolerance, rtol=1e-4)
    assert len(logs[0]) == len(logs[1])
    for ours, theirs in zip(logs[1], logs[0], strict=True):
        for name, value in theirs.items():
            if name not in ("seconds", "tokens_per_second", "validation"):
                assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert two.provenance["stages"][-1]["processes"] == 2


@pytest.mark.parametrize("negatives", ["batch", "micro"])
def test_two_processes_equal_one(corpus_folder: Path, tmp_path: Path, negatives: str):  # noqa: F811
    assert_the_same(
        *train_both(tmp_path, corpus_folder, *TORCHRUN, micro_batch_size=2, negatives=negatives, eval_every=0)
    )


def test_fsdp2_equals_one_process_also_after_a_kill(corpus_folder: Path, tmp_path: Path, monkeypatch):  # noqa: F811
    """The shipped configuration, with two processes on the CPU in the place of GPUs, killed once on the way."""
    settings = yaml.safe_load((ACCELERATE / "fsdp2.yaml").read_text())["fsdp_config"]
    for name, value in settings.items():
        monkeypatch.setitem(ENVIRONMENT, name.upper(), str(value))
    monkeypatch.setitem(ENVIRONMENT, "ACCELERATE_USE_FSDP", "true")
    launcher = (*TORCHRUN[:-2], str(Path(__file__).parent / "fsdp_on_cpu.py"))
    changes = {"micro_batch_size": 2, "steps": 30}
    recipe = write_recipe(tmp_path, corpus_folder, **changes)
    command = [
        sys.executable,
        "-m",
        *launcher,
        str(recipe),
        "--out",
        str(tmp_path / "two"),
        "--quiet",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    with open(tmp_path / "said", "w") as said:
        started = subprocess.Popen(command, env=ENVIRONMENT, stdout=said, stderr=said, start_new_session=True)
    while not (tmp_path / "two" / "state.pt").exists():
        assert started.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert not (tmp_path / "two" / "model.pt").exists()
    checkpoints, logs = train_both(tmp_path, corpus_folder, *launcher, **changes)
    assert_the_same(checkpoints, logs, tolerance=1e-4)
    assert checkpoints[1].provenance["stages"][-1]["parallelism"] == "FSDP2"
    assert not (tmp_path / "two" / "state.pt").exists()


def test_micro_batches_must_fit_the_processes(corpus_folder: Path, tmp_path: Path):  # noqa: F811
    recipe = write_recipe(tmp_path, corpus_folder)
    done = subprocess.run(
        [sys.executable, "-m", *TORCHRUN, str(recipe), "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode != 0 and not (tmp_path / "two").exists()
    assert (
        done.stderr.count("error: batch_size / micro_batch_size gives 1 micro-batches, which 2 processes cannot share")
        == 1
    )


def test_a_loss_that_is_not_finite_names_the_samples_of_any_process(corpus_folder: Path, tmp_path: Path):  # noqa: F811
    """The second process has the sample that is to blame, the first one talks."""
    for seed in range(50):  # until the second half of the first batch has a token that the first half has not
        changes = {"micro_batch_size": 2, "steps": 3, "contrastive_weight": 0.0, "matching_weight": 0.0, "seed": seed}
        recipe = write_recipe(tmp_path, corpus_folder, **changes)
        settings = load_recipe(str(recipe))
        streams = [Stream(source, settings.prompt_template) for source in settings.sources]
        tokenizer = train_tokenizer(streams, settings.vocabulary_size)
        samples = Order(streams, settings, tokenizer).batch(0)
        early, late = ({token for sample in half for token in sample.input_ids} for half in (samples[:4], samples[4:]))
        only_late = late - early
        if only_late:
            break
    torch.manual_seed(0)
    settings_of_model = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", **settings_of_model))
    model.get_input_embeddings().weight.data[only_late.pop()] = 3e38  # which Gemma multiplies by the root of the width
    write_checkpoint(
        tmp_path / "base.pt",
        model=model,
        tokenizer=tokenizer,
        stage="pretrain",
        step=0,
        prompt_template="plain",
        heads=None,
        recipe={},
        provenance={},
    )
    recipe.write_text(yaml.safe_dump(dict(settings.as_dict(), init=str(tmp_path / "base.pt"), model={})))
    done = subprocess.run(
        [sys.executable, "-m", *TORCHRUN, str(recipe), "--out", str(tmp_path / "two"), "--device", "cpu"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode != 0
    named = set(line.partition("look at these samples: ")[2].partition(". ")[0].split(", "))
    assert named and named <= {sample.identity for sample in samples[4:]} - {sample.identity for sample in samples[:4]}
