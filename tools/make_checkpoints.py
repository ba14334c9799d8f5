"""Make the bundled checkpoints again, from their recipes and the bundled text.

    python tools/make_checkpoints.py            # all: base (about two hours on two cores), then alignx and tuned
    python tools/make_checkpoints.py aligned    # alignx and tuned from the base that is there

An interrupted run goes on when it is started again. The files in the repository change only with the checkpoint format
or a recipe.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

RUNS = Path("runs")
TARGET = Path(__file__).parent.parent / "alignx_eval" / "bundled" / "checkpoints"
LARGEST = 10_000_000


def train(recipe: str, *overrides: str) -> Path:
    out = RUNS / recipe
    command = [str(Path(sys.executable).parent / "alignx-train"), recipe, *overrides, "--out", str(out)]
    print("$", " ".join(command), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, env=dict(os.environ, HF_HUB_OFFLINE="1"))
    return out / "model.pt"


def bundle(path: Path, name: str) -> None:
    size = path.stat().st_size
    if size > LARGEST:
        sys.exit(f"{path} has {size} bytes; a bundled checkpoint has at most {LARGEST}")
    TARGET.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, TARGET / f"{name}.pt")
    print(f"{name}: {size} bytes", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["all", "aligned"], default="all")
    if parser.parse_args().what == "all":
        text = train("base_text")
        bitext = train("base_bitext", f"init={text}")
        bundle(train("base_long", f"init={bitext}"), "base")
    stage1 = train("alignx_stage1")
    bundle(train("alignx_stage2", f"init={stage1}"), "alignx")
    bundle(train("tuned"), "tuned")


if __name__ == "__main__":
    main()
