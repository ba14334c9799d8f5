"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.checkpoints import tiny_folder  # noqa: F401
from helpers.kills import fresh, memory  # noqa: F401
from helpers.models import tiny_model, tiny_tokenizer
from helpers.training import corpus_folder  # noqa: F401


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Path:
    """Path of a `.pt` that holds `tiny_model()` and `tiny_tokenizer()`."""
    import torch

    from alignx_eval.checkpoint import write_checkpoint

    path = tmp_path / "tiny.pt"
    write_checkpoint(
        path,
        model=tiny_model(),
        tokenizer=tiny_tokenizer(),
        stage="alignment",
        step=7,
        prompt_template="plain",
        heads={"matching.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3)},
        recipe={"seed": 1},
        provenance={"align_layer": 1, "tokens": 1000},
    )
    return path
