"""Maps and projections in the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alignx_eval.comparison.contrasts import CONTRAST_TITLES
from alignx_eval.comparison.means import layer_order
from alignx_eval.comparison.rows import labels
from alignx_eval.metrics import metric_card
from alignx_eval.render import figures, svg, view
from alignx_eval.render.html.curves import identifier, line_styles, marked_layers

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison
    from alignx_eval.results import LayerSimilarity


PICTURE_POINTS = 1000  # of one projection; more hide each other
# Shades of CKA between checkpoints, finer towards 1, where it mostly is; the same in every report, so that maps
# compare.
SIMILARITY_SHADES = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)


def similarity_section(comparison: Comparison, similarity: LayerSimilarity, number: int) -> dict[str, Any]:
    """CKA of two checkpoints, layer against layer: a map, and its diagonal as a curve."""
    words = CONTRAST_TITLES[similarity.contrast]
    pair = f"{similarity.reference} and {similarity.candidate}"
    heat = figures.heat_map(
        f"similarity-{number}",
        title=f"Debiased CKA of {pair}, layer against layer",
        description=(
            f"Rows are layers of {similarity.reference}, columns layers of "
            f"{similarity.candidate}; darker is more alike."
        ),
        values=similarity.values,
        rows=[_layer_label(layer) for layer in similarity.layers],
        columns=[_layer_label(layer) for layer in similarity.candidate_layers],
        shades=SIMILARITY_SHADES,
        axes=(f"layers of {_short_label(similarity.reference)}", f"layers of {_short_label(similarity.candidate)}"),
    )
    layers = [str(entry["layer"]) for entry in similarity.same_layer]
    values, low, high = ([entry[name] for entry in similarity.same_layer] for name in ("value", "ci_low", "ci_high"))
    numbers = [value for line in (values, low) for value in line if value is not None]
    # From 1 down, and never so close that rounding looks like a change.
    ticks = svg.nice_ticks(min([0.99, *numbers]), 1.0)
    style = line_styles(comparison)[similarity.candidate]
    curve = figures.line_figure(
        f"same-layer-{number}",
        title=f"Debiased CKA of {pair}, each layer with the same layer",
        description="1: training left the geometry as it was. The axis does not start at 0.",
        layers=layers,
        series={similarity.candidate: values},
        bands={similarity.candidate: (low, high)},
        styles={similarity.candidate: style},
        low=ticks[0],
        high=ticks[-1],
        ticks=ticks,
        marked=marked_layers(comparison),
    )
    return {
        "title": f"{words}: {similarity.candidate} against {similarity.reference}",
        "sentence": view.similarity_sentence(similarity),
        "reference": similarity.reference,
        "candidate": similarity.candidate,
        "heat": heat,
        "curve": curve if numbers else "",
    }


def _short_label(label: str) -> str:
    return label if len(label) <= 24 else f"{label[:23]}…"


def _layer_label(layer: str) -> str:
    return "+norm" if "+" in layer else layer


def projections(comparison: Comparison) -> dict[str, Any] | None:
    """Projections from the suites' extras: per layer and method one picture of each checkpoint."""
    found = [
        (label, entry)
        for label in labels(comparison)
        for result in comparison.results.get(label, {}).values()
        for entry in result.extras.get("projections") or []
        if entry.get("points") and len(entry["points"]) == len(entry.get("languages") or [])
    ]
    if not found:
        return None
    codes = {
        code: number
        for number, code in enumerate(dict.fromkeys(code for _, entry in found for code in entry["languages"]))
    }
    checkpoints = len({label for label, _ in found})
    shown = min(len(found[0][1]["points"]), PICTURE_POINTS) // len(codes)
    layers: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for number, (label, entry) in enumerate(found):
        # The first lines of each language: the same ones in all.
        lines: Counter[str] = Counter()
        points = []
        for code, (x, y) in zip(entry["languages"], entry["points"], strict=True):
            lines[code] += 1
            if lines[code] <= shown:
                points.append((code, float(x), float(y)))
        method, layer = str(entry["method"]).upper(), str(entry["layer"])
        quality = _projection_quality(entry)
        figure = figures.scatter_figure(
            f"projection-{number}",
            title=f"{method} of sentence vectors, {label}, layer {layer}",
            description=f"Each point is a sentence, coloured by language; {quality}.",
            points=points,
            styles=codes,
        )
        layers.setdefault(layer, {}).setdefault(method, []).append(
            {"label": label, "figure": figure, "quality": quality}
        )
    return {
        "layers": [(layer, sorted(layers[layer].items())) for layer in sorted(layers, key=layer_order)],
        "keys": [
            {"code": code, "name": view.language_name(code), "key": figures.scatter_key(number)}
            for code, number in codes.items()
        ],
        # A row holds one picture of each checkpoint, or those of both methods.
        "columns": min(4, checkpoints * (1 if checkpoints > 2 else 2)),
        "points": shown * len(codes),
        "lines": shown,
        "n": found[0][1]["n"],
        "seed": found[0][1]["seed"],
    }


def _projection_quality(entry: Mapping[str, Any]) -> str:
    """How much of the neighbourhoods or of the variance a projection keeps."""
    if entry["method"] == "umap":
        return f"trustworthiness {entry['trustworthiness']:.2f}, {entry['neighbours']} neighbours"
    return f"explains {100 * sum(entry['explained_variance']):.0f} % of the variance"


def maps(comparison: Comparison) -> list[dict[str, Any]]:
    """All-pairs maps from the suites' extras: per metric and layer one map of each checkpoint."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for label in labels(comparison):
        for result in comparison.results.get(label, {}).values():
            for entry in result.extras.get("maps") or []:
                metric, layer, names = (
                    str(entry.get("metric")),
                    str(entry.get("layer")),
                    [str(code) for code in entry.get("languages") or []],
                )
                figure = figures.heat_map(
                    f"map-{identifier(label)}-{identifier(metric)}-{identifier(layer)}",
                    title=f"{metric_card(metric).title} of all language pairs, {label}, layer {layer}",
                    description="Rows and columns are languages; darker is higher.",
                    values=entry.get("values") or [],
                    rows=names,
                    columns=names,
                    shades=figures.EVEN_SHADES,
                )
                found.setdefault((metric, layer), []).append({"label": label, "figure": figure})
    return [
        {
            "title": metric_card(metric).title,
            "note": metric_card(metric).about,
            "layer": layer,
            "pictures": found[metric, layer],
        }
        for metric, layer in sorted(found, key=lambda key: (key[0], layer_order(key[1])))
    ]
