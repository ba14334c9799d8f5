"""What training took: tokens, FLOPs, seconds, memory, by stage and in sum. Worked out once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignx_eval.wording import AMOUNTS, finite_number

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison


@dataclass(frozen=True, slots=True)
class Cost:
    """What one training stage of one checkpoint took; None where the checkpoint does not say."""

    checkpoint: str
    stage: str
    tokens: float | None
    seconds: float | None
    flops: float | None
    peak_memory_bytes: float | None
    device: str | None


def stages(comparison: Comparison, label: str) -> list[dict[str, Any]]:
    """All training stages in a checkpoint's provenance, the base's included, in order; empty where it has none."""
    recorded = (comparison.checkpoints.get(label, {}).get("provenance") or {}).get("stages") or []
    if isinstance(recorded, Mapping):
        recorded = [{"stage": name, **stage} for name, stage in recorded.items() if isinstance(stage, Mapping)]
    return [dict(stage) for stage in recorded if isinstance(stage, Mapping)]


def own_costs(comparison: Comparison, label: str) -> list[Cost]:
    """The stages of a checkpoint that came after the base's; of the base, all."""
    base = stages(comparison, comparison.base) if label != comparison.base else []
    return [_cost(label, stage) for stage in stages(comparison, label) if stage not in base]


def total(costs: Iterable[Cost]) -> dict[str, float]:
    """Sums over stages (memory: the largest), by the names of `AMOUNTS`; only what every stage recorded."""
    costs = list(costs)
    cost = {}
    for name in AMOUNTS:
        values = [value for each in costs if (value := getattr(each, name)) is not None]
        if values and len(values) == len(costs):
            cost[name] = max(values) if name == "peak_memory_bytes" else sum(values)
    return cost


def costs_of(comparison: Comparison, candidate: str) -> tuple[dict[str, float], dict[str, float]]:
    """What a candidate's own training took in all, and the control's; empty where nothing is recorded."""
    control = total(own_costs(comparison, comparison.control)) if comparison.control is not None else {}
    return total(own_costs(comparison, candidate)), control


def cost_ratios(own: Mapping[str, float], control: Mapping[str, float]) -> dict[str, float]:
    """Of each amount that both record, how often the candidate took the control's."""
    return {name: own[name] / control[name] for name in AMOUNTS if name in own and control.get(name)}


def _cost(label: str, stage: Mapping[str, Any]) -> Cost:
    amounts = {name: value for name in AMOUNTS if (value := finite_number(stage.get(name))) is None or value >= 0}
    name = str(stage.get("stage") or stage.get("name") or "?")
    device = stage.get("device")
    return Cost(label, name, device=str(device) if device else None, **dict.fromkeys(AMOUNTS) | amounts)
