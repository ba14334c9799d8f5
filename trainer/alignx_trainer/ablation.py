"""Which loss does what: the arms of one recipe at equal samples and seeds, compared with the arm that has the
next-token loss alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignx_eval.api import compare, judge
from alignx_eval.comparison.rows import Comparison
from alignx_eval.errors import InputError
from alignx_eval.files import atomic_write
from alignx_eval.pipeline import Remarks
from alignx_eval.render.save import save
from alignx_trainer.config import Recipe
from alignx_trainer.training import Progress, train

CONTROL = "next_token"
ARMS = (CONTROL, "contrastive", "matching", "both")
# What the table shows: metric, which layer ("align" is the recipe's, "last" that before the final norm), name.
SHOWN = (
    ("precision_at_1", "align", "precision@1, align layer"),
    ("precision_at_1", "last", "precision@1, last layer"),
    ("probe_balanced_accuracy", "last", "language probe, last layer"),
    ("bits_per_byte", None, "bits per byte"),
    ("bleu", None, "BLEU"),
    ("off_target_rate", None, "off-target rate"),
)


def arm_recipe(recipe: Recipe, arm: str, seed: int) -> Recipe:
    """The recipe of one arm: the same samples in the same order, only the losses differ."""
    contrastive = recipe.contrastive_weight if arm in ("contrastive", "both") else 0.0
    matching = recipe.matching_weight if arm in ("matching", "both") else 0.0
    return replace(
        recipe, stage=f"ablation: {arm}", contrastive_weight=contrastive, matching_weight=matching, seed=seed
    )


def ablate(
    recipe: Recipe,
    folder: Path,
    *,
    seeds: Sequence[int],
    options: Mapping[str, Any],
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
    command: str = "",
) -> Path:
    """Train every arm with every seed, compare the arms of each seed, and write `folder`/ablation.md; returns its path.

    `options`: those of `alignx_eval.compare`. What is done is not done again. `folder` gets ARM-seedN/ (a run each),
    comparison-seedN/ (reports) and ablation.json (the table's numbers). Raises InputError for a recipe without both
    losses or without `init`, and as `train`.
    """
    if recipe.contrastive_weight == 0 or recipe.matching_weight == 0 or recipe.init is None:
        raise InputError(
            "an ablation needs a recipe with `init` and both losses: contrastive_weight and matching_weight above 0"
        )
    if len(set(seeds)) != len(seeds) or not seeds:
        raise InputError("name each seed once")
    for seed in seeds:
        for arm in ARMS:
            say(f"{arm}, seed {seed}")
            train(
                arm_recipe(recipe, arm, seed), folder / f"{arm}-seed{seed}", progress=progress, say=say, command=command
            )
    numbers = []
    base = recipe.init
    for seed in seeds:
        paths = {arm: str(folder / f"{arm}-seed{seed}" / "model.pt") for arm in ARMS}
        out = folder / f"comparison-seed{seed}"
        comparison = compare(
            base,
            *(paths[arm] for arm in ARMS[1:]),
            control=paths[CONTROL],
            out=str(out),
            progress=Remarks(say),
            **options,
        )
        report = judge(comparison)
        for name in ("report.html", "summary.md", "comparison.json"):
            save(report, out / name)
        numbers.append(numbers_of(comparison, seed))
        if seed == seeds[0]:
            base = f"{out}#{comparison.base}"  # measured once
    atomic_write(folder / "ablation.json", json.dumps(numbers, indent=1) + "\n")
    atomic_write(folder / "ablation.md", table_of(numbers))
    return folder / "ablation.md"


def numbers_of(comparison: Comparison, seed: int) -> dict[str, Any]:
    """{"seed", "measures": {name: {"base", "next_token", ARM: {"value", "difference", "ci_low", "ci_high", "n"}}}} of
    one comparison."""
    found: dict[str, Any] = {"seed": seed, "measures": {}}
    rows = [row for row in comparison.rows if row.language is None and row.other_language is None]
    recorded = (facts.get("align_layer") for facts in comparison.checkpoints.values())
    align_layer = str(next(layer for layer in recorded if layer is not None))
    last = str(max((int(row.layer) for row in rows if row.layer is not None and row.layer.isdigit()), default=0))
    for arm in ARMS[1:]:
        label = f"{arm}-seed{seed}"
        for metric, layer, name in SHOWN:
            wanted = {"align": align_layer, "last": last}.get(layer or "", layer)
            for row in rows:
                if (row.metric, row.layer, row.candidate_name) != (metric, wanted, label):
                    continue
                entry = found["measures"].setdefault(name, {})
                if row.contrast == "candidate-base":
                    entry["base"] = row.base
                else:
                    entry[CONTROL] = row.base
                    entry[arm] = {
                        "value": row.candidate,
                        **{key: getattr(row, key) for key in ("difference", "ci_low", "ci_high", "n")},
                    }
    return found


def table_of(numbers: Sequence[dict[str, Any]]) -> str:
    """Markdown: for each measure one line a seed; differences are arm - next_token of the same seed, intervals over
    lines."""
    lines = [
        "Value of each arm; in brackets its difference to `next_token` of the same seed with the 95 % interval over "
        "lines of the text "
        "(one training each: the spread over seeds is what the lines of a measure show).",
        "",
        f"| measure | seed | base | {' | '.join(ARMS)} |",
        "|" + "---|" * (len(ARMS) + 3),
    ]
    for name in [name for _, _, name in SHOWN if any(name in entry["measures"] for entry in numbers)]:
        for entry in numbers:
            measure = entry["measures"].get(name)
            if measure is None:
                continue
            digits = 2 if name == "BLEU" else 3
            cells = [_number(measure.get("base"), digits), _number(measure.get(CONTROL), digits)]
            for arm in ARMS[1:]:
                cell = measure.get(arm)
                cells.append("" if cell is None else _difference(cell, digits))
            lines.append(f"| {name} | {entry['seed']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _difference(cell: dict[str, Any], digits: int) -> str:
    if cell["difference"] is None:
        return _number(cell["value"], digits)
    interval = (
        "no interval" if cell["ci_low"] is None else f"[{cell['ci_low']:+.{digits}f}, {cell['ci_high']:+.{digits}f}]"
    )
    return f"{_number(cell['value'], digits)} ({cell['difference']:+.{digits}f} {interval})"
