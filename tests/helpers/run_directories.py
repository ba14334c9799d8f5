"""Results as a run directory holds them."""

from __future__ import annotations

import numpy as np

from alignx_eval.results import Items, Row, SuiteResult


def example_result(
    label: str = "base", suite: str = "layers", *, seed: int = 0, samples: int = 3, pairs: bool = True
) -> SuiteResult:
    generator = np.random.default_rng(seed)
    rows, items, clusters = [], {}, {}
    for layer in ("0", "1", "1+norm"):
        for number, language in enumerate(("deu_Latn", "zho_Hans")):
            row = Row(
                suite=suite,
                metric="precision_at_1",
                checkpoint=label,
                layer=layer,
                language=language,
                other_language="eng_Latn",
                value=float(generator.random()),
                se=0.1,
                ci_low=-1 / 3,
                ci_high=1e-300,
                n=5,
                chance=0.2,
                method="cluster-robust",
            )
            rows.append(row)
            items[row.key] = Items(kind="mean", values=generator.random(5))
            if number:
                clusters[row.key] = ("a", "a", "b", "c", "c")
    rows.append(
        Row(suite=suite, metric="bleu", checkpoint=label, value=None, n=0, reason="no output", higher_is_better=None)
    )
    items["bleu"] = Items(kind="bleu", values=generator.integers(0, 40, (5, 10)))
    items["cka"] = Items(
        kind="jackknife", values=np.asfortranarray(generator.random((3, 4)).astype(np.float32)).T, point=0.5
    )
    extras: dict = {"projection": [[0.5, -1.0], [2.0, 1e-9]]}
    if pairs:
        extras["pairs"] = {"language": ["deu_Latn", "zho_Hans"], "layer": ["0", "1"], "value": [0.25, None]}
    return SuiteResult(
        suite=suite,
        rows=rows,
        items=items,
        clusters=clusters,
        default_clusters=("x", "y", "z", "z", "z"),
        item_ids=("1", "2", "3", "4", "5"),
        samples=[
            {"id": str(i), "output": "née \u2028 漢字 \x07 \ud800", "scores": {"chrf": 0.5 * i}} for i in range(samples)
        ],
        fingerprint={"corpus": "tiny", "lines": 5, "languages": ["deu_Latn", "zho_Hans"]},
        environment={"dtype": "float32", "device": None},
        notes=["one", "two"],
        extras=extras,
        seconds=1.25,
    )


def assert_equal(left: SuiteResult, right: SuiteResult) -> None:
    """Field by field; arrays must agree in value, type and shape."""
    for name in SuiteResult.__dataclass_fields__:
        if name == "items":
            continue
        assert getattr(left, name) == getattr(right, name), name
    assert left.items.keys() == right.items.keys()
    for name, items in left.items.items():
        other = right.items[name]
        assert (items.kind, items.point) == (other.kind, other.point)
        assert items.values.dtype == other.values.dtype
        np.testing.assert_array_equal(items.values, other.values)
