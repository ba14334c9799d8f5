"""A realistic comparison without a model: synthetic results of three checkpoints in all five suites, judged by the real
`compare`."""

from __future__ import annotations

from functools import cache

import numpy as np

from alignx_eval.comparison.compare import compare
from alignx_eval.comparison.rows import Comparison, ComparisonRow
from alignx_eval.languages import LANGUAGES
from alignx_eval.results import Items, LayerSimilarity, Row, SuiteResult

INTERFACE = (
    "eng_Latn",
    "deu_Latn",
    "spa_Latn",
    "por_Latn",
    "swe_Latn",
    "ces_Latn",
    "tur_Latn",
    "rus_Cyrl",
    "ell_Grek",
    "zho_Hans",
)
SENTENCES = {
    "eng_Latn": (
        "Choose the device that you want to set up.",
        "The connection to the server was lost; check your network settings.",
    ),
    "deu_Latn": (
        "Wählen Sie das Gerät aus, das Sie einrichten möchten.",
        "Die Verbindung zum Server wurde unterbrochen; prüfen Sie Ihre Netzwerkeinstellungen.",
    ),
    "spa_Latn": (
        "Elija el dispositivo que desea configurar.",
        "Se perdió la conexión con el servidor; revise la configuración de red.",
    ),
    "por_Latn": (
        "Escolha o dispositivo que deseja configurar.",
        "A ligação ao servidor foi perdida; verifique as definições de rede.",
    ),
    "swe_Latn": (
        "Välj enheten som du vill konfigurera.",
        "Anslutningen till servern bröts; kontrollera nätverksinställningarna.",
    ),
    "ces_Latn": (
        "Vyberte zařízení, které chcete nastavit.",
        "Spojení se serverem bylo přerušeno; zkontrolujte nastavení sítě.",
    ),
    "tur_Latn": ("Kurmak istediğiniz cihazı seçin.", "Sunucuyla bağlantı kesildi; ağ ayarlarınızı denetleyin."),
    "rus_Cyrl": (
        "Выберите устройство, которое хотите настроить.",
        "Соединение с сервером потеряно; проверьте настройки сети.",
    ),
    "ell_Grek": (
        "Επιλέξτε τη συσκευή που θέλετε να ρυθμίσετε.",
        "Η σύνδεση με τον διακομιστή χάθηκε· ελέγξτε τις ρυθμίσεις δικτύου.",
    ),
    "zho_Hans": ("选择您要设置的设备。", "与服务器的连接已断开；请检查网络设置。"),
    "arb_Arab": ("اختر الجهاز الذي تريد إعداده.", "انقطع الاتصال بالخادم (Server 2)؛ تحقق من إعدادات الشبكة."),
}
# Height of the retrieval curve at the align layer, and what translation gained, per checkpoint.
# damaged lost more than any tolerance of the default policy, drifted is within noise of the base.
STRENGTH = {
    "base": (0.37, 0.0),
    "tuned": (0.42, 1.6),
    "alignx": (0.61, 2.3),
    "damaged": (0.30, -5.0),
    "drifted": (0.37, -0.4),
}
STAGES = {
    "base": [
        {
            "stage": "pretrain",
            "tokens": 6_500_000,
            "seconds": 3300.0,
            "flops": 1.7e14,
            "peak_memory_bytes": 2_400_000_000,
            "device": "CPU, 2 threads",
        }
    ],
    "tuned": [
        {
            "stage": "control",
            "tokens": 410_000,
            "seconds": 171.0,
            "flops": 1.06e13,
            "peak_memory_bytes": 1_900_000_000,
            "device": "CPU, 2 threads",
        }
    ],
    "damaged": [],
    "drifted": [],
    "alignx": [
        {
            "stage": "align",
            "tokens": 190_000,
            "seconds": 118.0,
            "flops": 6.5e12,
            "peak_memory_bytes": 2_200_000_000,
            "device": "CPU, 2 threads",
        },
        {
            "stage": "tune",
            "tokens": 220_000,
            "seconds": 93.0,
            "flops": 5.7e12,
            "peak_memory_bytes": 1_900_000_000,
            "device": "CPU, 2 threads",
        },
    ],
}


def synthetic_results(
    name: str,
    languages: tuple[str, ...] = INTERFACE,
    *,
    blocks: int = 6,
    lines: int = 60,
    with_items: bool = True,
    hostile: str = "",
) -> dict[str, SuiteResult]:
    """All five suites of one checkpoint, in the shape that the suites give them. `hostile` is put into every model
    output."""
    noise = np.random.default_rng(7)  # the same for every checkpoint: their items are paired
    own = np.random.default_rng(sum(map(ord, name)))
    height, gain = STRENGTH[name]
    pivot, *others = languages
    groups = tuple(f"document {index // 2}" for index in range(lines))
    layers = [str(layer) for layer in range(blocks + 1)] + [f"{blocks}+norm"]
    peak = blocks // 2
    suites = {}

    def suite(title: str) -> SuiteResult:
        suites[title] = SuiteResult(
            title,
            [],
            default_clusters=groups,
            item_ids=tuple(f"line-{index}" for index in range(lines)),
            fingerprint={"corpus": "interface", "split": "test", "lines": lines, "languages": sorted(languages)},
            environment={"dtype": "float32", "attention": "sdpa", "device": "cpu"},
            seconds=12.5,
        )
        return suites[title]

    def add(result: SuiteResult, metric: str, mean: float, spread: float, **fields) -> None:
        values = mean + spread * (noise.standard_normal(lines) + 0.6 * own.standard_normal(lines))
        values = np.maximum(values, 0.0)
        row = Row(
            suite=result.suite,
            metric=metric,
            checkpoint=name,
            value=float(values.mean()),
            n=lines,
            method="clustered t interval",
            **fields,
        )
        half = 1.96 * spread / np.sqrt(lines)
        row = Row(
            **{
                **{field: getattr(row, field) for field in Row.__slots__},
                "se": half / 1.96,
                "ci_low": row.value - half,
                "ci_high": row.value + half,
            }
        )
        result.rows.append(row)
        if with_items:
            result.items[row.key] = Items("mean", values)

    result = suite("layers")
    for index, layer in enumerate(layers):
        shape = np.exp(-(((index - peak) / (0.45 * blocks)) ** 2))
        for number, code in enumerate(others):
            level = max(0.004, height * shape * (1 - 0.05 * number))
            for pair in ((code, pivot), (pivot, code)):
                both = {"layer": layer, "language": pair[0], "other_language": pair[1], "chance": 1 / lines}
                add(result, "precision_at_1", level, 0.2, **both)
                add(result, "precision_at_1_centred", min(0.95, 1.3 * level), 0.2, **both)
                add(result, "precision_at_1_without_largest", 0.9 * level, 0.2, higher_is_better=None, **both)
                add(result, "ratio_margin", 1.1 * level, 0.2, **both)
            for metric, value in (
                ("cosine", 0.7 + 0.2 * shape),
                ("cosine_centred", 0.7 * level + 0.1),
                ("cka_debiased", 0.5 * level + 0.05),
                ("mutual_nearest_neighbour", 0.8 * level),
                ("cosine_z", 4 * level),
            ):
                add(result, metric, value, 0.1, layer=layer, language=code, other_language=pivot)
            for metric, value in (("cka_debiased_without_largest", 0.4 * level), ("cka_biased", 0.9)):
                add(result, metric, value, 0.1, layer=layer, language=code, other_language=pivot, higher_is_better=None)
        toward = None if index >= blocks else True
        add(
            result,
            "precision_at_1",
            max(0.004, height * shape * 0.8),
            0.2,
            layer=layer,
            chance=1 / lines,
            higher_is_better=toward,
        )
        add(result, "cka_debiased", 0.4 * height * shape + 0.05, 0.1, layer=layer, higher_is_better=toward)
    add(result, "precision_at_1_peak", height * 0.8, 0.2)
    add(result, "precision_at_1_divergence", height * 0.6, 0.2, layer=f"{blocks}+norm", higher_is_better=None)
    result.rows.append(
        Row(suite="layers", metric="peak_layer", checkpoint=name, value=float(peak), n=lines, higher_is_better=None)
    )
    shown = ("0", str(peak), str(blocks))
    spread = dict(zip(shown, (1.0, 1.2 - height, 0.8), strict=True))
    centres = noise.standard_normal((len(languages), 2))
    for layer in shown:
        cloud = noise.standard_normal((40, 2))
        common = {
            "layer": layer,
            "languages": [code for code in languages for _ in range(40)],
            "lines": [f"line-{line}" for _ in languages for line in range(40)],
            "points": [
                [round(float(x), 3), round(float(y), 3)]
                for centre in centres
                for x, y in 0.4 * cloud + spread[layer] * centre
            ],
            "seed": 0,
            "n": lines,
        }
        result.extras.setdefault("projections", []).extend(
            [
                {**common, "method": "pca", "explained_variance": [0.21, 0.12]},
                {**common, "method": "umap", "trustworthiness": 0.913, "neighbours": 15},
            ]
        )
        values = (
            np.clip(height + 0.1 * noise.standard_normal((len(languages), len(languages))), -0.01, 1).round(3).tolist()
        )
        result.extras.setdefault("maps", []).append(
            {"metric": "cka_debiased", "layer": layer, "languages": list(languages), "values": values}
        )
    result = suite("language_id")
    for index, layer in enumerate(layers):
        add(
            result,
            "probe_balanced_accuracy",
            0.97 - 0.25 * gain / 2.3 * np.exp(-((index - peak) ** 2) / 4),
            0.05,
            layer=layer,
            chance=1 / len(languages),
            higher_is_better=None,
        )
    result.rows += [
        Row(suite="language_id", metric=f"probe_{kind}", checkpoint=name, value=value, n=lines, higher_is_better=None)
        for kind, value in (("majority", 1 / len(languages)), ("script_only", 0.4))
    ]
    result = suite("language_modelling")
    for number, code in enumerate(languages):
        add(result, "bits_per_byte", 2.1 + 0.05 * number - 0.03 * gain, 0.3, language=code, higher_is_better=False)
        result.rows.append(
            Row(
                suite="language_modelling",
                metric="tokens_per_character",
                checkpoint=name,
                value=0.31,
                n=lines,
                language=code,
                higher_is_better=None,
            )
        )
    result = suite("translation")
    result.fingerprint |= {
        "template": "plain",
        "signatures": {"chrf++": "nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:2.6.0"},
    }
    for source, target in [(pivot, code) for code in others] + [(code, pivot) for code in others]:
        weak = -1.2 if target == "tur_Latn" and name == "alignx" else 0.0
        common = {"language": source, "other_language": target}
        add(result, "bleu", 6.4 + gain + weak, 5.0, null=0.4, **common)
        add(result, "chrf++", 24.1 + gain + 3 * weak, 8.0, null=9.3, **common)
        add(result, "off_target_rate", 0.08 - 0.01 * gain, 0.1, higher_is_better=False, **common)
        result.rows += [
            Row(
                suite="translation",
                metric=f"{metric}_floor_{kind}",
                checkpoint=name,
                value=value,
                n=lines,
                higher_is_better=None,
                **common,
            )
            for metric, kind, value in (
                ("bleu", "copy", 1.1),
                ("bleu", "empty", 0.0),
                ("chrf++", "copy", 12.9),
                ("chrf++", "empty", 0.0),
            )
        ]
        for index in range(lines):
            score = float(np.clip(24 + gain + 10 * noise.standard_normal() + 6 * own.standard_normal(), 0, 100))
            source_text, reference = (
                SENTENCES.get(code, SENTENCES["eng_Latn"])[index % 2] for code in (source, target)
            )
            words = reference.split()
            output = " ".join(words[: max(1, int(len(words) * own.uniform(0.4, 1.0)))]) + hostile
            judged = "off" if own.uniform() < 0.08 else "on"
            result.samples.append(
                {
                    "id": f"line-{index}",
                    **common,
                    "source": source_text,
                    "reference": reference,
                    "output": output,
                    "chrf++": round(score, 2),
                    "target_language": judged,
                    "stopped_by": "eos",
                }
            )
    for pair in ((None, None), (pivot, None), (None, pivot)):
        add(result, "chrf++", 24.1 + gain, 6.0, language=pair[0], other_language=pair[1])
    result.notes.append("An empty output scores 0 in BLEU and chrF++ and counts as off target.")
    result = suite("tasks")
    for code in languages:
        add(result, "next_sentence.acc", 0.41 + 0.01 * gain, 0.4, language=code, chance=0.25)
    return suites


def checkpoint_facts(name: str) -> dict:
    return {
        "name": name,
        "reference": f"bundled:{name}",
        "content_hash": "3f9ac0d1" * 8,
        "stage": (STAGES[name] or STAGES["base"])[-1]["stage"],
        "step": 2300,
        "align_layer": 3 if name == "alignx" else None,
        "format": "pt",
        "parameters": 4_300_000,
        "provenance": {"stages": STAGES["base"] + (STAGES[name] if name != "base" else [])},
    }


def corpus_facts(languages: tuple[str, ...] = INTERFACE, lines: int = 60) -> dict:
    return {
        "name": "interface", "split": "test", "lines": lines, "languages": list(languages),
        "licence": "Apache-2.0", "content_hash": "ab12" * 16,
        "attribution": "Home Assistant, the Open Home Foundation and its translators", "note": "",
    }  # fmt: skip


def similarity(
    reference: str, candidate: str, contrast: str, languages: tuple[str, ...], *, blocks: int, lines: int
) -> LayerSimilarity:
    """Layers that are alike where they are near each other, least of all in the middle."""
    layers = (*map(str, range(blocks + 1)), f"{blocks}+norm")
    diagonal = [
        1 - 0.12 * float(np.exp(-(((index - blocks // 2) / (0.3 * blocks)) ** 2))) for index in range(len(layers))
    ]
    return LayerSimilarity(
        reference=reference,
        candidate=candidate,
        contrast=contrast,
        languages=languages,
        n=lines,
        clusters=lines // 2,
        layers=layers,
        candidate_layers=layers,
        values=[
            [diagonal[i] * float(np.exp(-abs(i - j) / blocks)) for j in range(len(layers))] for i in range(len(layers))
        ],
        same_layer=[
            {"layer": layer, "value": value, "ci_low": value - 0.01, "ci_high": min(1.0, value + 0.01)}
            for layer, value in zip(layers, diagonal, strict=True)
        ],
    )


@cache
def small_comparison(
    *, control: bool = True, languages: tuple[str, ...] = INTERFACE, lines: int = 60, hostile: str = ""
) -> Comparison:
    """base, alignx and (by default) the control tuned, judged by the real `compare`; read-only, tests that change it
    copy it."""
    names = ["base", "alignx"] + (["tuned"] if control else [])
    return compare(
        {name: synthetic_results(name, languages, lines=lines, hostile=hostile) for name in names},
        base="base",
        candidates=["alignx"],
        control="tuned" if control else None,
        layer_similarity=[
            similarity(reference, "alignx", contrast, languages, blocks=6, lines=lines)
            for reference, contrast in [("base", "candidate-base")] + [("tuned", "candidate-control")] * control
        ],
        checkpoints={name: checkpoint_facts(name) for name in names},
        corpus=corpus_facts(languages, lines),
    )


@cache
def single_run() -> Comparison:
    return compare(
        {"alignx": synthetic_results("alignx")},
        base="alignx",
        candidates=[],
        checkpoints={"alignx": checkpoint_facts("alignx")},
        corpus=corpus_facts(),
    )


@cache
def large_comparison(languages: int = 51, blocks: int = 24, lines: int = 40) -> Comparison:
    """51 languages, 2 checkpoints, a real number of layers. Verdicts by plain z: here size counts, not statistics."""
    codes = ("eng_Latn", *[code for code in LANGUAGES if code != "eng_Latn"][: languages - 1])
    results = {
        name: synthetic_results(name, codes, blocks=blocks, lines=lines, with_items=False)
        for name in ("base", "alignx")
    }
    rows = []
    for suite, result in results["base"].items():
        partners = {row.key: row for row in results["alignx"][suite].rows}
        for row in result.rows:
            other = partners[row.key]
            difference, se = other.value - row.value, row.se
            verdict = (
                "no-direction" if row.higher_is_better is None else "insufficient-data" if se is None else "no-evidence"
            )
            if verdict == "no-evidence" and abs(difference) > 3 * se:
                verdict = "better" if (difference > 0) == row.higher_is_better else "worse"
            ends = (None, None) if se is None else (difference - 1.96 * se, difference + 1.96 * se)
            rows.append(
                ComparisonRow(
                    **{
                        name: getattr(row, name)
                        for name in ("suite", "metric", "layer", "language", "other_language", "n", "method")
                    },
                    **{
                        "contrast": "candidate-base",
                        "base_name": "base",
                        "candidate_name": "alignx",
                        "p": 0.02,
                        "p_adjusted": 0.04,
                    },
                    base=row.value,
                    candidate=other.value,
                    difference=difference,
                    se=se,
                    ci_low=ends[0],
                    ci_high=ends[1],
                    minimum_detectable_effect=None if se is None else 2.8 * se,
                    clusters=row.n // 2,
                    degrees_of_freedom=None if se is None else row.n // 2 - 1,
                    higher_is_better=row.higher_is_better,
                    verdict=verdict,
                )
            )
    return Comparison(
        base="base", candidates=["alignx"], control=None, rows=rows, results=results, corpus=corpus_facts(codes, lines),
        checkpoints={name: checkpoint_facts(name) for name in results},
        layer_similarity=[similarity("base", "alignx", "candidate-base", codes, blocks=blocks, lines=lines)],
    )  # fmt: skip
