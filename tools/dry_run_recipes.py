"""Dry-run every shipped recipe: one step of a few samples from the bundled base on the bundled text, for models and
data of the hub too.

    python tools/dry_run_recipes.py            # of the installation that this Python finds
    python tools/dry_run_recipes.py paper_stage1 lora

Only what cannot be here is replaced: the model to start from, text of the hub, the sizes of batches and runs. Prints
one line a recipe and exits with 1 if one of them fails.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"


def overrides_for(recipe) -> list[str]:
    """The least that must change for a step to run here."""
    changes = ["batch_size=4", "micro_batch_size=2", "epochs=null", "steps=1", "warmup_steps=1"]
    if recipe.init is not None:
        changes.append("init=bundled:base")
        if recipe.align_layer > 6:
            changes.append("align_layer=3")
    if recipe.eval_every:
        changes += ["eval_every=1", "eval_lines=10"]
    for number, source in enumerate(recipe.sources):
        if source.kind == "instructions":
            continue
        if source.path.startswith("hub:"):
            # The Declaration of Human Rights has most of the languages of such a recipe, and no `languages` need be
            # named.
            changes += [f"sources.{number}.path=udhr", f"sources.{number}.languages=[]", f"sources.{number}.split=test"]
        elif source.path == "interface" and not recipe.eval_every:
            changes.append(f"sources.{number}.split=validation")  # a few lines are enough
    return changes


def dry_run(name: str, folder: Path) -> str:
    """Train one step of the recipe into `folder` and read the checkpoint again. Returns what to print."""
    from alignx_trainer.config import load_recipe
    from alignx_trainer.training import train

    from alignx_eval.checkpoint import open_checkpoint

    shipped = load_recipe(name)
    changes = overrides_for(shipped)
    checkpoint = open_checkpoint(str(train(load_recipe(name, changes), folder, device="cpu")))
    stage = checkpoint.provenance["stages"][-1]
    return (
        f"{name}: one step, {stage['tokens']} tokens, next-token loss {stage['final']['lm']:.2f}; changed: "
        f"{' '.join(changes)}"
    )


def main() -> int:
    from alignx_trainer.config import RECIPES

    names = sys.argv[1:] or sorted(path.stem for path in RECIPES.glob("*.yaml"))
    failed = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(dry_run(name, Path(folder) / "run"), flush=True)
            except Exception as error:
                failed += 1
                print(f"{name}: FAILED: {type(error).__name__}: {error}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
