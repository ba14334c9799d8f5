"""Recipes and text for short trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
from alignx_trainer.config import Recipe, Source

WORDS = (
    "house river garden window table letter water mountain bridge school winter summer market doctor music flower"
).split()


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy pair of languages: the second is the first in capital letters, word order reversed."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [f"the {one} and the {two}" for one in WORDS for two in WORDS if one != two]
    (folder / "eng_Latn.txt").write_text("\n".join(lines) + "\n")
    (folder / "deu_Latn.txt").write_text("\n".join(" ".join(reversed(line.upper().split())) for line in lines) + "\n")
    return folder


def recipe_for(folder: Path, **changes) -> Recipe:
    fields = {
        "stage": "stage1",
        "sources": (Source("translation", str(folder)),),
        "model": {
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        "vocabulary_size": 350,
        "align_layer": 1,
        "contrastive_weight": 0.3,
        "matching_weight": 0.4,
        "matching_width": 8,
        "batch_size": 8,
        "micro_batch_size": 8,
        "steps": 6,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "save_every": 2,
    }
    if changes.get("init"):
        del fields["model"]
    return Recipe(**(fields | changes))


class Stopped(Exception):
    pass
