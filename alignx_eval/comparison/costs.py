"""What training took: tokens, FLOPs, seconds, memory. Worked out once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignx_eval.comparison.rows import labels
from alignx_eval.wording import _number, join

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison


def costs_of(comparison: Comparison, candidate: str) -> tuple[dict[str, float], dict[str, float]]:
    """Own cost of a candidate and of the control, empty where nothing is recorded."""
    control = own_cost(own_stages(comparison, comparison.control)) if comparison.control is not None else {}
    return own_cost(own_stages(comparison, candidate)), control


def cost_ratios(own: dict[str, float], control: dict[str, float]) -> dict[str, float]:
    """Of each amount that both record, how often the candidate took the control's."""
    return {name: own[name] / control[name] for name in AMOUNTS if own.get(name) and control.get(name)}


AMOUNTS = {"seconds": "time", "tokens": "tokens", "flops": "FLOPs", "peak_memory_bytes": "peak memory"}


def stages(comparison: Comparison, label: str) -> list[dict[str, Any]]:
    """All training stages in a checkpoint's provenance, the base's included; empty where it has none."""
    recorded = (comparison.checkpoints.get(label, {}).get("provenance") or {}).get("stages") or []
    return [stage for stage in recorded if isinstance(stage, dict)]


def own_cost(stages_after_base: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Sums over training stages (memory: the largest), by the names of `AMOUNTS`; only what every stage recorded."""
    cost = {}
    for name in AMOUNTS:
        values = [float(stage[name]) for stage in stages_after_base if isinstance(stage.get(name), int | float)]
        if values and len(values) == len(stages_after_base) and all(0 <= value < math.inf for value in values):
            cost[name] = max(values) if name == "peak_memory_bytes" else sum(values)
    return cost


def own_stages(comparison: Comparison, label: str) -> list[dict[str, Any]]:
    """The training stages that came after the base's."""
    base = stages(comparison, comparison.base)
    return [stage for stage in stages(comparison, label) if stage not in base]


def amounts(cost: dict[str, float]) -> str:
    """ "7.5 min, 2.00 million tokens and ..." for what `cost` has."""
    return join([amount(name, cost[name]) for name in AMOUNTS if name in cost])


def amount(name: str, value: float) -> str:
    """One amount in its unit: "7.5 min"."""
    if name == "seconds":
        return f"{value / 60:.1f} min" if value >= 60 else f"{value:.1f} s"
    if name == "tokens":
        return f"{value / 1e6:.2f} million tokens" if value >= 1e5 else f"{value:.0f} tokens"
    return f"{value:.2e} FLOPs" if name == "flops" else f"{value / 2**30:.2f} GiB peak memory"


# --- price -----------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Cost:
    """What one training stage of one checkpoint cost; None where the checkpoint does not say."""

    checkpoint: str
    stage: str
    tokens: float | None
    seconds: float | None
    flops: float | None
    peak_memory_bytes: float | None
    device: str | None


def stage_costs(comparison: Comparison) -> list[Cost]:
    """Training stages of every checkpoint, from its provenance, in the order in which they happened."""
    found = []
    for label in labels(comparison):
        stages = (comparison.checkpoints.get(label, {}).get("provenance") or {}).get("stages") or []
        if isinstance(stages, Mapping):
            stages = [{"stage": name, **stage} for name, stage in stages.items()]
        for stage in stages:
            found.append(
                Cost(
                    label,
                    str(stage.get("stage") or stage.get("name") or "?"),
                    _number(stage.get("tokens")),
                    _number(stage.get("seconds")),
                    _number(stage.get("flops")),
                    _number(stage.get("peak_memory_bytes")),
                    stage.get("device"),
                )
            )
    return found


def own_costs(comparison: Comparison) -> list[Cost]:
    """`costs` without the stages that a checkpoint shares with the base; the base keeps its own."""
    found = stage_costs(comparison)
    shared = {(cost.stage, cost.tokens, cost.seconds) for cost in found if cost.checkpoint == comparison.base}
    return [
        cost
        for cost in found
        if cost.checkpoint == comparison.base or (cost.stage, cost.tokens, cost.seconds) not in shared
    ]
