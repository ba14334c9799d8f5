"""Write the score tables of docs/checkpoints.md from a comparison of the bundled checkpoints.

alignx-eval compare bundled:base bundled:alignx --control bundled:tuned --out runs/cards -o runs/cards.json
python tools/write_cards.py runs/cards.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean

CARDS = Path(__file__).parent.parent / "docs" / "checkpoints.md"
LABELS = ("base", "tuned", "alignx")


def score_table(rows: list[dict]) -> str:
    """BLEU / chrF++ by direction, one column a checkpoint."""
    values = {
        (row["checkpoint"], row["language"], row["other_language"], row["metric"]): row["value"]
        for row in rows
        if row["suite"] == "translation"
        and row["metric"] in ("bleu", "chrf++")
        and row["language"]
        and row["other_language"]
    }
    floors = {(row["language"], row["other_language"]): row for row in rows if row["metric"] == "bleu_floor_copy"}
    directions = list(dict.fromkeys((source, target) for _, source, target, _ in values))
    lines = ["| direction | base | tuned | alignx | copied source |", "|---|---|---|---|---|"]
    for source, target in directions:
        cells = [
            f"{values[label, source, target, 'bleu']:.1f} / {values[label, source, target, 'chrf++']:.1f}"
            for label in LABELS
        ]
        floor = floors.get((source, target))
        copied = "" if floor is None else f"{floor['value']:.1f}"
        lines.append(f"| {source} to {target} | {' | '.join(cells)} | {copied} |")
    means = [
        " / ".join(
            f"{fmean(each for (name, *_, kind), each in values.items() if (name, kind) == (label, metric)):.1f}"
            for metric in ("bleu", "chrf++")
        )
        for label in LABELS
    ]
    lines.append(f"| **mean of {len(directions)}** | {' | '.join(means)} | |")
    return "\n".join(lines)


def main() -> None:
    content = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    page = CARDS.read_text(encoding="utf-8")
    for name, text in (
        ("scores", score_table(content["rows"])),
        ("findings", "\n".join(f"* {line}" for line in content["findings"])),
    ):
        opening, closing = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, _, rest = page.partition(opening)
        page = before + opening + text + closing + rest.partition(closing)[2]
    CARDS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
