"""`make demo`: train AlignX stages 1 and 2 from the bundled base, compare with the base and the control, and check what
the README promises.

Exits with 1 if the promise is not kept: retrieval of held-out translations at the align layer above base and control by
at least three half-widths of the interval of the difference, and a mean BLEU whose interval against the base does not
lie below 0.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

HALF_WIDTHS = 3.0
OUT = Path("demo")


def run(*command: str) -> None:
    print(f"\n$ {' '.join(command)}", flush=True)
    subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]],
        check=True,
        env=dict(os.environ, HF_HUB_OFFLINE="1"),
    )


def find(rows: list[dict], metric: str, contrast: str, layer: str | None = None) -> dict:
    """The summary row, over all languages, of one metric."""
    (row,) = [
        row
        for row in rows
        if (row["metric"], row["contrast"], row["layer"]) == (metric, contrast, layer)
        and row["language"] is None
        and row["other_language"] is None
    ]
    return row


def main() -> int:
    started = time.perf_counter()
    # Each step goes on where it was interrupted, and is skipped where it is done.
    run("alignx-train", "alignx_stage1", "--out", str(OUT / "stage1"))
    run("alignx-train", "alignx_stage2", f"init={OUT / 'stage1' / 'model.pt'}", "--out", str(OUT / "aligned"))
    table = OUT / "comparison.json"
    run(
        "alignx-eval", "compare", "bundled:base", str(OUT / "aligned" / "model.pt"), "--control", "bundled:tuned",
        "--out", str(OUT / "comparison"), "-o", str(table),
    )  # fmt: skip
    content = json.loads(table.read_text(encoding="utf-8"))
    rows = content["comparison_rows"]
    layer = str(content["checkpoints"]["aligned"]["align_layer"])
    print("\nWhat the README promises, on the held-out test split:")
    kept = True
    for contrast, reference in (("candidate-base", "base"), ("candidate-control", "control")):
        row = find(rows, "precision_at_1", contrast, layer)
        half_width = (row["ci_high"] - row["ci_low"]) / 2
        good = row["difference"] >= HALF_WIDTHS * half_width
        kept &= good
        print(
            f"  {'kept  ' if good else 'BROKEN'}  retrieval at layer {layer}: {row['candidate']:.3f} against the "
            f"{reference}'s "
            f"{row['base']:.3f}, {row['difference']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}], "
            f"{row['difference'] / half_width:.1f} half-widths, n = {row['n']}"
        )
    row = find(rows, "bleu", "candidate-base")
    good = row["ci_high"] >= 0
    kept &= good
    print(
        f"  {'kept  ' if good else 'BROKEN'}  mean BLEU: {row['candidate']:.2f} against the base's {row['base']:.2f}, "
        f"{row['difference']:+.2f} [{row['ci_low']:+.2f}, {row['ci_high']:+.2f}]"
    )
    print(f"\nReport: {(OUT / 'comparison' / 'report.html').resolve().as_uri()}")
    print(f"Time: {(time.perf_counter() - started) / 60:.1f} minutes")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
