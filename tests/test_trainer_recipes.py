"""Every shipped recipe trains a step, the ablation's arms share their samples, and the command lists them all."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from alignx_trainer.ablation import ARMS, ablate, arm_recipe, table_of
from alignx_trainer.config import ACCELERATE, RECIPES, load_recipe
from alignx_trainer.order import Order
from alignx_trainer.records import Stream
from helpers.models import tiny_model, tiny_tokenizer
from helpers.training import recipe_for

from alignx_eval.checkpoint import open_checkpoint, write_checkpoint
from alignx_eval.errors import InputError

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "dry_run_recipes.py"
GOLDEN = Path(__file__).parent / "golden" / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.fixture(scope="module")
def script():
    if not SCRIPT.is_file():
        pytest.skip("needs the checkout")
    spec = importlib.util.spec_from_file_location("dry_run_recipes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_recipes_that_the_documentation_names_are_there():
    assert {
        "paper_stage1",
        "paper_stage2",
        "demo",
        "languages51",
        "ablation",
        "lora",
        "fsdp2",
        "alignx_stage1",
        "alignx_stage2",
    } <= set(NAMES)
    assert len(load_recipe("languages51").sources[0].languages) == 51


def test_the_resolved_recipes_are_what_they_were():
    """A default that changes, changes runs and their hashes: it has to be seen in a diff."""
    resolved = {
        f"{name}.yaml": yaml.safe_dump(load_recipe(name).as_dict(), sort_keys=False, allow_unicode=True)
        for name in NAMES
    }
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(parents=True, exist_ok=True)
        for path in GOLDEN.iterdir():
            path.unlink()
        for name, text in resolved.items():
            (GOLDEN / name).write_text(text, encoding="utf-8")
    written = {path.name: path.read_text(encoding="utf-8") for path in GOLDEN.iterdir()}
    assert resolved == written, (
        "if the change is meant: UPDATE_GOLDEN=1 python -m pytest tests/test_trainer_recipes.py -k resolved, and "
        "commit it"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_recipe_trains_a_step(script, tmp_path: Path, name: str):
    recipe = load_recipe(name)
    if recipe.lora_rank:
        pytest.importorskip("peft")
    said = script.dry_run(name, tmp_path / "run")
    assert said.startswith(f"{name}: one step")
    checkpoint = open_checkpoint(str(tmp_path / "run" / "model.pt"))
    assert checkpoint.step == 1 and checkpoint.stage == recipe.stage
    assert (checkpoint.heads is not None) == (recipe.matching_weight > 0)
    assert (tmp_path / "run" / "adapter").is_dir() == bool(recipe.lora_rank)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("path", sorted(ACCELERATE.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_for_launchers_are_accelerates_own(path: Path):
    from accelerate.commands.config.config_args import load_config_from_file

    settings = load_config_from_file(str(path))
    assert settings.mixed_precision == "no" and settings.num_processes >= 1
    assert yaml.safe_load(path.read_text()).get("fsdp_config", {}).get("fsdp_version", 2) == 2


def test_ls_and_path_name_every_recipe():
    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "alignx_trainer", *arguments], capture_output=True, text=True, check=True
        )

    listed = [line.split()[0] for line in run("ls").stdout.splitlines()]
    assert listed == [*NAMES, *(f"accelerate/{path.stem}" for path in sorted(ACCELERATE.glob("*.yaml")))]
    assert Path(run("path", "accelerate/fsdp2").stdout.strip()) == (ACCELERATE / "fsdp2.yaml").resolve()


def test_arms_differ_in_their_losses_alone(corpus_folder: Path):  # noqa: F811
    recipe = recipe_for(corpus_folder)
    arms = {arm: arm_recipe(recipe, arm, 3) for arm in ARMS}
    weights = {arm: (one.contrastive_weight > 0, one.matching_weight > 0) for arm, one in arms.items()}
    assert weights == {
        "next_token": (False, False),
        "contrastive": (True, False),
        "matching": (False, True),
        "both": (True, True),
    }
    orders = [
        Order([Stream(source, "plain") for source in one.sources], one, tiny_tokenizer()) for one in arms.values()
    ]
    for step in (0, 5):
        assert len({tuple(sample.identity for sample in order.batch(step)) for order in orders}) == 1


def test_ablation_is_one_command_with_one_table(corpus_folder: Path, tmp_path: Path):  # noqa: F811
    """Four arms, two seeds, from a real run: the table's numbers are those of the comparisons."""
    base = tmp_path / "base.pt"
    write_checkpoint(
        base,
        model=tiny_model(),
        tokenizer=tiny_tokenizer(),
        stage="pretrain",
        step=0,
        prompt_template="plain",
        heads=None,
        recipe={},
        provenance={},
    )
    recipe = recipe_for(corpus_folder, init=str(base), steps=3, learning_rate=5e-3)
    options = {"corpus": str(corpus_folder), "suites": ["layers", "language_modelling"], "limit": 40}
    path = ablate(recipe, tmp_path / "ablation", seeds=(0, 1), options=options)
    numbers = json.loads((tmp_path / "ablation" / "ablation.json").read_text())
    assert [entry["seed"] for entry in numbers] == [0, 1] and path.read_text() == table_of(numbers)
    tokens = {
        open_checkpoint(str(tmp_path / "ablation" / f"{arm}-seed0" / "model.pt")).provenance["stages"][-1]["tokens"]
        for arm in ARMS
    }
    assert len(tokens) == 1
    for seed, entry in enumerate(numbers):
        assert list(entry["measures"]) == ["precision@1, align layer", "precision@1, last layer", "bits per byte"]
        comparison = json.loads((tmp_path / "ablation" / f"comparison-seed{seed}" / "comparison.json").read_text())
        (row,) = [
            row
            for row in comparison["comparison_rows"]
            if (row["metric"], row["contrast"], row["candidate_name"], row["language"])
            == ("bits_per_byte", "candidate-control", f"both-seed{seed}", None)
        ]
        assert entry["measures"]["bits per byte"]["both"]["difference"] == row["difference"] != 0
        assert f"| bits per byte | {seed} | " in path.read_text()
    # The table stays when the command is given again, and nothing is trained anew.
    before = (tmp_path / "ablation" / "both-seed1" / "model.pt").stat().st_mtime_ns
    assert ablate(recipe, tmp_path / "ablation", seeds=(0, 1), options=options) == path
    assert (tmp_path / "ablation" / "both-seed1" / "model.pt").stat().st_mtime_ns == before


def test_an_ablation_needs_both_losses(corpus_folder: Path, tmp_path: Path):  # noqa: F811
    with pytest.raises(InputError, match="both losses"):
        ablate(
            recipe_for(corpus_folder, init="bundled:base", matching_weight=0.0),
            tmp_path,
            seeds=(0,),
            options={},
        )
    with pytest.raises(InputError, match="each seed once"):
        ablate(recipe_for(corpus_folder, init="bundled:base"), tmp_path, seeds=(1, 1), options={})


def test_the_public_names_are_loaded_when_they_are_asked_for():
    program = (
        "import sys, alignx_trainer; assert not {'torch', 'pydantic', 'yaml', 'numpy'} & set(sys.modules), 'heavy';"
        "import alignx_trainer.training; from alignx_trainer import Recipe, load_recipe, train;"
        "assert train is alignx_trainer.training.train is alignx_trainer.train and load_recipe('demo').steps == 60;"
        "assert set(alignx_trainer.__all__) <= set(dir(alignx_trainer)) and not hasattr(alignx_trainer, 'trane')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
