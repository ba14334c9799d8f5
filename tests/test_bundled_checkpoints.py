"""The bundled checkpoints are what their cards say."""

from __future__ import annotations

import pytest
from alignx_trainer.config import Recipe, Source, load_recipe

from alignx_eval.checkpoint import BUNDLED_FOLDER, open_checkpoint
from alignx_eval.corpora import load_corpus

RECIPES = {"base": "base_long", "tuned": "tuned", "alignx": "alignx_stage2"}


@pytest.fixture(scope="module")
def checkpoints():
    return {name: open_checkpoint(f"bundled:{name}") for name in RECIPES}


def test_sizes():
    for name in RECIPES:
        assert (BUNDLED_FOLDER / f"{name}.pt").stat().st_size <= 10_000_000


def test_made_by_the_recipes_in_the_repository(checkpoints):
    for name, recipe in RECIPES.items():
        stored = checkpoints[name].recipe
        # Keys that came later have their defaults.
        rebuilt = Recipe(
            **dict(
                stored,
                sources=tuple(
                    Source(**dict(source, languages=tuple(source["languages"]))) for source in stored["sources"]
                ),
            )
        )
        assert dict(rebuilt.as_dict(), init=None) == dict(load_recipe(recipe).as_dict(), init=None), name


def stages(checkpoint) -> list[dict]:
    return checkpoint.provenance["stages"]


def test_history(checkpoints):
    base, tuned, alignx = (stages(checkpoints[name]) for name in ("base", "tuned", "alignx"))
    assert [stage["stage"] for stage in base] == ["pretrain"] * 3
    assert tuned[:3] == base and [stage["stage"] for stage in tuned[3:]] == ["tuned"]
    assert alignx[:3] == base and [stage["stage"] for stage in alignx[3:]] == ["stage1", "stage2"]
    assert [checkpoints[name].align_layer for name in RECIPES] == [None, None, 3]
    for name in ("tuned", "alignx"):
        assert checkpoints[name].provenance["init"]["content_hash"]
    assert checkpoints["tuned"].provenance["init"]["content_hash"] == checkpoints["base"].content_hash


def test_the_control_had_as_many_tokens(checkpoints):
    aligned = sum(stage["tokens"] for stage in stages(checkpoints["alignx"])[3:])
    control = sum(stage["tokens"] for stage in stages(checkpoints["tuned"])[3:])
    assert abs(aligned - control) <= 0.01 * aligned


def test_trained_on_training_text_alone(checkpoints):
    train = load_corpus("interface", "train")
    for checkpoint in checkpoints.values():
        for stage in stages(checkpoint):
            for source in stage["data"]:
                assert source["path"] in ("interface", "bundled")
                if source["path"] == "interface":
                    assert (source["split"], source["sha256"]) == ("train", train.content_hash)
    held_out = set(load_corpus("interface", "test").sentences["eng_Latn"]) | set(
        load_corpus("udhr").sentences["eng_Latn"]
    )
    assert not held_out & set(train.sentences["eng_Latn"])
