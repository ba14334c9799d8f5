"""The HTML report: self-contained, well-formed, escaped, small, accessible, and alive in a real browser."""

from __future__ import annotations

import copy
import dataclasses
import html as html_text
import json
import re
import shutil
import subprocess
import warnings
from functools import cache
from html.parser import HTMLParser

import pytest
from helpers.comparisons import (
    INTERFACE,
    checkpoint_facts,
    corpus_facts,
    large_comparison,
    similarity,
    single_run,
    small_comparison,
    synthetic_results,
)
from helpers.reports import as_report, page_text

from alignx_eval import wording
from alignx_eval.comparison.compare import compare
from alignx_eval.comparison.rows import Comparison
from alignx_eval.judgement.diagnosis import RULES
from alignx_eval.judgement.gate import STATUSES, Verdict, judge
from alignx_eval.judgement.policy import default_policy
from alignx_eval.judgement.series import make_series
from alignx_eval.metrics import metric_card
from alignx_eval.render import figures, svg, view
from alignx_eval.render.html import pictures, samples
from alignx_eval.render.html import verdict as verdict_part
from alignx_eval.render.html.curves import COMPARED_WITH, QUANTUM, line_styles
from alignx_eval.render.html.tables import floor_of
from alignx_eval.render.html.verdict import RULE_TITLES
from alignx_eval.results import Row

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = "</script><script>document.title='owned'</script><!-- \x1b[31m\x00\x85\ud800 </dd> \u202e reversed"


class Walker(HTMLParser):
    """Collects tags and complains about anything that does not nest."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.data: dict[str, str] = {}

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data[str(self.tags[-1][1].get("id"))] = data
        elif not self.open or self.open[-1] != "style":
            self.text.append(data)


def walk(page: str) -> Walker:
    walker = Walker()
    walker.feed(page)
    walker.close()
    assert walker.open == []
    return walker


def judged(comparison: Comparison, **changes) -> Verdict:
    """The default policy's verdict, with fewer items asked for than the fixtures have."""
    return judge(comparison, default_policy().model_copy(update={"min_n": 10, **changes}))


@cache
def steps(count: int, languages: tuple[str, ...] = INTERFACE) -> Comparison:
    """A series whose third step, and the last, is damaged."""
    labels = [f"step-{100 * (place + 1)}" for place in range(count)]
    names = {label: "damaged" if place in (2, count - 1) else "drifted" for place, label in enumerate(labels)}
    results = {label: synthetic_results(name, languages, blocks=3) for label, name in {"base": "base", **names}.items()}
    facts = {
        label: {**checkpoint_facts("drifted"), "name": label, "stage": "stage1", "step": int(label[5:])}
        for label in labels
    }
    facts["base"] = checkpoint_facts("base")
    return compare(
        results, base="base", candidates=labels, checkpoints=facts, corpus=corpus_facts(languages), series=True
    )


@cache
def failing() -> Comparison:
    names = ("base", "damaged")
    return compare(
        {name: synthetic_results(name) for name in names}, base="base", candidates=["damaged"],
        checkpoints={name: checkpoint_facts(name) for name in names}, corpus=corpus_facts(),
    )  # fmt: skip


def section(page: str, identity: str) -> str:
    return re.search(rf'<section aria-labelledby="{identity}">.*?</section>', page, re.S).group()


def plain(markup: str) -> str:
    return " ".join(html_text.unescape(re.sub("<[^>]*>", " ", markup)).split())


@pytest.fixture(scope="module")
def page():
    return page_text(small_comparison(), judged(small_comparison()))


@pytest.mark.parametrize(
    "build",
    [small_comparison, lambda: small_comparison(control=False), single_run, lambda: steps(6)],
    ids=["control", "no control", "single", "series"],
)
def test_well_formed_and_self_contained(build):
    page = page_text(build(), judged(build()) if build().candidates else None)
    walker = walk(page)
    for tag, attributes in walker.tags:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, value)
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\(|https?://|//cdn", page.replace("http://www.w3.org/2000/svg", ""))
    policy = next(
        attributes["content"]
        for tag, attributes in walker.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")


def test_identifiers_are_unique_and_anchors_resolve(page):
    tags = walk(page).tags
    identities = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    wanted = {attributes["href"][1:] for tag, attributes in tags if tag == "a"}
    for _, attributes in tags:
        wanted |= set((attributes.get("aria-labelledby") or "").split())
    assert wanted <= set(identities)


def test_order_of_the_sections(page):
    order = [
        "<h1>",
        'id="findings"',
        'aria-label="Headline numbers, alignx"',
        'id="curves"',
        'id="price"',
        'id="verdict"',
        'id="diagnosis"',
        'id="tables"',
        'id="translation"',
        'id="similarity"',
        'id="samples-title"',
        'id="pictures"',
        'id="comparability"',
        'id="method"',
    ]
    places = [page.index(each) for each in order]
    assert places == sorted(places)


def test_accessible_tables_and_figures(page):
    tags = walk(page).tags
    assert page.count("<table") == page.count("<caption")
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    for tag, attributes in tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or (
                attributes.get("role") == "img" and attributes.get("aria-labelledby")
            )
    verdicts = re.findall(
        r'<span class="verdict v-([\w-]+)" data-word="([^"]+)"><span aria-hidden="true">(.)</span>([^<]+)</span>', page
    )
    assert verdicts
    for verdict, word, mark, text in verdicts:  # a mark and a word, never colour alone
        assert word == text == view.WORDS[verdict] and mark == view.MARKS[verdict]


def test_align_layer_chance_and_baselines_are_marked(page):
    lead = re.search(r'<figure class="lead" data-metric="precision_at_1">.*?</figure>', page, re.S).group()
    assert "align layer 3" in lead and ">chance<" in lead
    probe = re.search(r'<figure class="lead" data-metric="probe_balanced_accuracy".*?</figure>', page, re.S).group()
    assert "script alone" in probe and "chance, majority" in probe
    drawn = section(page, "curves")
    assert drawn.count('class="line s0"') == drawn.count('class="line s1"') == drawn.count('class="line s2"') > 4


def test_worst_language_comes_first_in_its_table(page):
    table = re.search(r'aria-label="chrF\+\+, alignx − tuned \(control\)">.*?</table>', page, re.S).group()
    rows = [
        re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", table.partition("<tbody>")[2], re.S)
    ]
    assert [row[0] for row in rows[:3]].count("eng_Latn") <= 2 and rows[0][0] == "all"
    assert rows[3][:3] == ["eng_Latn", "→", "tur_Latn"]


def frame_of(page: str, metric: str, frame: str) -> str:
    figure = re.search(rf'<figure class="lead" data-metric="{metric}".*?</figure>', page, re.S).group()
    return re.search(rf'<div data-frame="{frame}".*?</div>', figure, re.S).group()


def test_means_are_drawn_and_pairs_are_data(page):
    data = json.loads(walk(page).data["curve-data"])
    metric = data["metrics"]["precision_at_1"]
    rows = {row.key: row for row in small_comparison().results["alignx"]["layers"].rows}
    mean = frame_of(page, "precision_at_1", "mean")
    low, high = (float(re.search(rf'data-{end}="([^"]+)"', mean).group(1)) for end in ("low", "high"))
    means = [rows[f"layers/precision_at_1/{layer}/-/-"] for layer in data["layers"]]
    assert f'data-line="2" d="{svg.line_path([row.value for row in means], low, high)}"' in mean
    band = svg.band_path([row.ci_low for row in means], [row.ci_high for row in means], low, high)
    assert f'data-band="2" d="{band}"' in mean
    assert len(metric["pairs"]) == 2 * (len(INTERFACE) - 1)
    pair = [rows[f"layers/precision_at_1/{layer}/deu_Latn/eng_Latn"] for layer in data["layers"]]
    assert metric["pairs"]["deu_Latn>eng_Latn"]["2"] == [
        [round(getattr(row, name) * QUANTUM) for row in pair] for name in ("value", "ci_low", "ci_high")
    ]


def test_the_frame_of_the_means_is_not_that_of_the_highest_pair():
    high = copy.deepcopy(small_comparison(lines=12))
    rows = high.results["base"]["layers"].rows
    place = next(
        i for i, row in enumerate(rows) if (row.metric, row.layer, row.language) == ("precision_at_1", "3", "deu_Latn")
    )
    rows[place] = dataclasses.replace(rows[place], value=0.99)
    page = page_text(high)
    tops = [
        float(re.search(r'data-high="([^"]+)"', frame_of(page, "precision_at_1", frame)).group(1))
        for frame in ("mean", "pair")
    ]
    assert tops[0] < 0.9 <= tops[1]
    # Nothing is drawn for a pair before it is chosen, and a metric of all languages together has no such frame.
    assert set(re.findall(r'data-(?:line|band)="\d" d="([^"]*)"', frame_of(page, "precision_at_1", "pair"))) == {""}
    assert (
        'data-frame="pair"' not in re.search(r'data-metric="probe_balanced_accuracy".*?</figure>', page, re.S).group()
    )


def test_bands_are_of_one_kind_and_broken_where_undefined():
    few = copy.deepcopy(small_comparison(control=False))
    for label, kept in (("base", ()), ("alignx", ("3",))):
        rows = few.results[label]["layers"].rows
        for place, row in enumerate(rows):
            if row.metric == "cka_debiased" and row.language is None and row.layer not in kept:
                rows[place] = dataclasses.replace(row, ci_low=None, ci_high=None, se=None)
    page = page_text(few)
    assert "band: middle half of the pairs" in plain(
        re.search(r'data-metric="cka_debiased".*?</figure>', page, re.S).group()
    )
    assert frame_of(page, "cka_debiased", "mean").count('class="band s') == 2
    assert svg.band_path([0.1, None, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2], 0, 1).count("M") == 2
    assert svg.band_path([None], [None], 0, 1) == ""


def test_S14_hostile_model_output_stays_text():
    page = page_text(small_comparison(lines=12, hostile=HOSTILE))
    page.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", page)
    walker = walk(page)
    assert sum(tag == "script" for tag, _ in walker.tags) == 3
    assert "<script>document" not in page and "</script><" not in walker.data["sample-data"]
    assert (
        "</script><script>document.title='owned'</script>"
        in json.loads(walker.data["sample-data"])["directions"][0]["items"][0]["o"][0]
    )


def test_hostile_labels_findings_mismatches_and_corpus():
    bad = copy.deepcopy(small_comparison())
    bad.warnings = [HOSTILE]
    bad.mismatches = [HOSTILE]
    bad.corpus["attribution"] = HOSTILE
    bad.checkpoints["alignx"]["reference"] = HOSTILE
    report = as_report(bad, judge(bad, default_policy(), policy_name=HOSTILE))
    hostile = [dataclasses.replace(report.diagnoses[0], sentence=HOSTILE)]
    page = page_text(dataclasses.replace(report, findings=[HOSTILE], diagnoses=hostile))
    assert page.count("&lt;script&gt;document") >= 5  # mismatches are shown twice
    assert sum(tag == "script" for tag, _ in walk(page).tags) == 3 and "<script>document" not in page


def test_right_to_left_samples():
    page = page_text(small_comparison(languages=("eng_Latn", "arb_Arab", "zho_Hans"), lines=12))
    data = json.loads(walk(page).data["sample-data"])
    arabic = next(direction for direction in data["directions"] if direction["title"] == "arb_Arab → eng_Latn")
    assert (
        arabic["source"] == {"code": "arb_Arab", "lang": "ar-Arab", "dir": "rtl"} and arabic["target"]["dir"] == "ltr"
    )
    assert re.search(r'<dd lang="ar-Arab" dir="rtl">[^<]*[\u0600-\u06ff]', page)
    assert view.language_tag("zho_Hans") == "zh-Hans"


def test_long_outputs_are_cut_with_a_note():
    long = copy.deepcopy(small_comparison(lines=12))
    for sample in long.results["base"]["translation"].samples:
        sample["output"] = "word " * 5000
    page = page_text(long)
    assert "more characters]" in page and len(page) < 3_000_000


def test_no_samples():
    page = page_text(small_comparison(), samples=False)
    assert "sample-data" not in page.partition("<script>")[0] and "samples-title" not in page


def test_hostile_labels_of_steps():
    names = ("base", "evil</svg><script>document.title='owned'</script>")
    results = {names[0]: synthetic_results("base", lines=20), names[1]: synthetic_results("damaged", lines=20)}
    alike = similarity(*names, "candidate-base", INTERFACE, blocks=6, lines=20)
    comparison = compare(
        results, base=names[0], candidates=[names[1]], corpus=corpus_facts(), series=True, layer_similarity=[alike]
    )
    page = page_text(comparison, judged(comparison))
    assert "evil&lt;/svg&gt;" in section(page, "similarity")
    assert "<script>document" not in page and sum(tag == "script" for tag, _ in walk(page).tags) == 3
    assert plain(section(page, "series")).startswith(
        f"Steps of the training The gate would first have failed at {names[1]}: "
    )


def test_size_budget_at_51_languages():
    comparison = large_comparison()
    page = page_text(comparison, judge(comparison, default_policy().model_copy(update={"min_n": 10})))
    size = len(page.encode("utf-8"))
    assert size < 3_000_000, f"{size:,} bytes"
    assert page.count("<tr") > 500


def test_sample_budget_shrinks_the_number_not_the_directions(monkeypatch):
    monkeypatch.setattr(samples, "SAMPLE_BYTES", 60_000)
    data = json.loads(walk(page_text(small_comparison())).data["sample-data"])
    assert len(data["directions"]) == 2 * (len(INTERFACE) - 1)
    assert len(json.dumps(data["directions"], ensure_ascii=False).encode()) < 70_000


# --- pictures and maps ----------------------------------------------------------------------------


def test_pictures_of_every_layer_by_both_methods(page):
    shown = section(page, "pictures")
    assert shown.count('class="plot scatter"') == 18 and shown.count('class="plot heat"') == 9
    for layer in ("0", "3", "6"):
        one = plain(shown.partition(f"<h3>Layer {layer}</h3>")[2].partition("<h3>")[0])
        assert [re.findall(rf"{method}, (\w+)", one)[:3] for method in ("PCA", "UMAP")] == [
            ["base", "tuned", "alignx"]
        ] * 2
        # Each is seen, and in a description.
        assert one.count("explains 33 % of the variance") == one.count("trustworthiness 0.91, 15 neighbours") == 6
    text = plain(shown)
    assert "no number and no verdict of this report depends on a picture" in text
    assert "400 points, 40 of 60 lines in each of 10 languages, seed 0" in text


def test_many_points_show_fewer_lines_of_every_language(monkeypatch):
    monkeypatch.setattr(pictures, "PICTURE_POINTS", 50)
    shown = section(page_text(small_comparison()), "pictures")
    assert "50 points, 5 of 60 lines in each of 10 languages" in plain(shown)
    drawn = re.search(r'<svg class="plot scatter".*?</svg>', shown, re.S).group()
    groups = dict(re.findall(r'data-group="\d+" d="([^"]+)"><title>(\w+)</title>', drawn))
    assert tuple(groups.values()) == INTERFACE and all(path.count("M") == 5 for path in groups)


def test_no_projections_no_pictures():
    bare = copy.deepcopy(small_comparison(lines=12))
    for results in bare.results.values():
        results["layers"].extras = {}
    page = page_text(bare)
    walk(page)
    assert 'id="pictures"' not in page and "#pictures" not in page


def test_sixty_four_languages_have_a_marker_of_their_own():
    assert len({figures.scatter_key(number) for number in range(64)}) == 64


def test_shades_are_those_of_the_legend():
    shades = (0.5, 0.9, 0.99)
    drawn = figures.heat_map(
        "x",
        title="t",
        description="d",
        values=[[-0.1, 0.499], [0.5, 0.95], [1.0, None], [0.99, 0.99]],
        rows=["a", "b", "c", "d"],
        columns=["e", "f"],
        shades=shades,
    )
    cells = {
        int(shade): (path, title)
        for shade, path, title in re.findall(r'class="h(\d)"[^>]*? d="([^"]+)"><title>([^<]+)', drawn)
    }
    assert {shade: title for shade, (_, title) in cells.items()} == {
        0: "below 0.5", 1: "0.5 to 0.9", 2: "0.9 to 0.99", 3: "0.99 and above"
    }  # fmt: skip
    # Neighbours of one shade are one stroke, as wide as both; the undefined cell is not drawn.
    width = int(re.search(r'stroke-width="(\d+)"', drawn).group(1))
    assert [path.count("M") for path, _ in cells.values()] == [1, 1, 1, 2]
    assert [int(part) for part in re.findall(r"h(\d+)", cells[3][0])] == [width, 2 * width] and cells[0][0].endswith(
        f"h{2 * width}"
    )
    key = figures.shade_key("k", shades)
    assert (
        re.findall(r">([\d.]+)</text>", key) == ["0.5", "0.9", "0.99"]
        and "below 0.5, 0.5 to 0.9, 0.9 to 0.99, 0.99 and above" in key
    )


def test_layer_against_layer_of_both_contrasts(page):
    shown = section(page, "similarity")
    titles = ["What training changed: alignx against base", "Effect of alignment: alignx against tuned"]
    assert re.findall(r"<h3>([^<]+)</h3>", shown) == titles
    assert plain(shown).count("debiased CKA 0.880 [0.870, 0.890] (mean of 10 languages, n = 60, 30 clusters)") == 2
    assert "Layer 3 is the one least like the same layer of base" in plain(shown) and "neither good nor bad" in plain(
        shown
    )
    assert f"0.25 to 0.5, {'0.5 to 0.7, 0.7 to 0.8'}" in shown and "not evenly spaced" in shown
    maps = re.findall(r'<svg class="plot heat".*?</svg>', shown, re.S)
    layers = [*map(str, range(7)), "+norm"]
    for drawn, reference in zip(maps, ("base", "tuned"), strict=True):
        assert re.findall(r'class="heat-label"[^>]*>([^<]+)<', drawn) == layers * 2  # rows, then columns
        assert re.findall(r'class="axis"[^>]*>([^<]+)<', drawn) == [f"layers of {reference}", "layers of alignx"]
    curves = re.findall(r'<svg class="plot" .*?</svg>', shown, re.S)
    assert len(curves) == 2
    for curve in curves:
        assert curve.count("<title>alignx, layer ") == 8 and 'class="band s2"' in curve and "align layer 3" in curve
        assert re.findall(r'class="tick y"[^>]*>([^<]+)<', curve) == ["0.85", "0.90", "0.95", "1.00"]


def test_layer_against_layer_only_where_it_was_measured():
    without = copy.copy(small_comparison())
    without.layer_similarity = []
    page = page_text(without)
    assert (
        'id="similarity"' not in page and "#similarity" not in page and 'id="similarity"' not in page_text(single_run())
    )


def test_layer_against_layer_of_unlike_models_and_of_a_model_with_itself():
    odd = copy.copy(small_comparison(control=False))
    one = odd.layer_similarity[0]
    deeper = dataclasses.replace(
        one, candidate_layers=("0", "1", "1+norm"), values=[[0.5, None, 0.4]] * 8, same_layer=[]
    )
    undefined = dataclasses.replace(one, same_layer=[{"layer": "0", "value": None, "ci_low": None, "ci_high": None}])
    same = dataclasses.replace(
        one, same_layer=[{"layer": layer, "value": 1.0, "ci_low": 1.0, "ci_high": 1.0} for layer in "012"]
    )
    odd.layer_similarity = [deeper, undefined, same]
    page = page_text(odd)
    walk(page)
    shown = section(page, "similarity")
    assert (
        shown.count('class="plot heat"') == 3 and shown.count('class="plot" ') == 1
    )  # no curve where there is no diagonal
    assert "The layers of alignx are not those of base" in shown and "No layer has a defined similarity" in shown
    assert "debiased CKA 1.000 [1.000, 1.000]" in shown and ">0.9900<" in shown


def test_layer_against_layer_of_a_long_series_follows_the_steps_shown():
    comparison = copy.copy(steps(12, INTERFACE[:2]))
    comparison.layer_similarity = [
        similarity("base", label, "candidate-base", INTERFACE[:2], blocks=3, lines=60)
        for label in comparison.candidates
    ]
    titles = re.findall(r"<h3>([^<]+)</h3>", section(page_text(comparison, judged(comparison)), "similarity"))
    assert titles == [f"What training changed: step-{step} against base" for step in (100, 200, 300, 1200)]


def test_curves_that_are_read_against_another_share_its_frame(page):
    data = json.loads(walk(page).data["curve-data"])["metrics"]
    for metric, other in COMPARED_WITH.items():
        assert data[metric]["compared"] == other and all(
            data[metric][end] == data[other][end] for end in ("low", "high")
        )
        figure, plainly = (frame_of(page, name, "mean") for name in (metric, other))
        assert re.findall(r'data-thin="(\d)" d="([^"]+)"', figure) == re.findall(
            r'data-line="(\d)" d="([^"]+)"', plainly
        )
        assert f"Thin lines: {metric_card(other).title}" in page and "data-thin" not in plainly
    options = re.findall(
        r'<option value="(\w+)">', re.search(r'<select id="curve-metric">.*?</select>', page, re.S).group()
    )
    assert options[:3] == ["precision_at_1", "precision_at_1_centred", "precision_at_1_without_largest"]
    alone = copy.deepcopy(small_comparison(lines=12))
    for results in alone.results.values():
        results["layers"].rows = [row for row in results["layers"].rows if row.metric != "cka_debiased"]
    figure = re.search(r'data-metric="cka_debiased_without_largest".*?</figure>', page_text(alone), re.S).group()
    assert "data-thin" not in figure and "Thin lines" not in figure


def test_notes_of_one_checkpoint_are_among_its_findings_and_of_several_say_whose_they_are():
    single = copy.deepcopy(single_run())
    single.results["alignx"]["layers"].notes = ["Recommended align layer: 3."]
    page = page_text(single)
    assert "Recommended align layer: 3." in section(page, "findings") and "Recommended" not in section(
        page, "comparability"
    )
    several = copy.deepcopy(small_comparison())
    several.results["base"]["layers"].notes = ["Recommended align layer: 3."]
    notes = re.findall(r"<li>([^<]+)</li>", section(page_text(several), "comparability"))
    assert (
        "base: Recommended align layer: 3." in notes
        and "An empty output scores 0 in BLEU and chrF++ and counts as off target." in notes
    )


def test_many_checkpoints_keep_their_own_line():
    many = copy.deepcopy(small_comparison(lines=12))
    for number in range(6):
        many.results[f"extra {number}"] = many.results["alignx"]
        many.checkpoints[f"extra {number}"] = many.checkpoints["alignx"]
    many.candidates += [f"extra {number}" for number in range(6)]
    walk(page_text(many))
    assert sorted(line_styles(many).values()) == list(range(9))


def test_empty_comparison_renders():
    empty = copy.deepcopy(small_comparison())
    empty.rows = []
    empty.results = {label: {} for label in empty.results}
    walk(page_text(empty))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 0.0), (-0.03, 0.2), (0.0, 37.0), (0.0, 1e-5)])
def test_ticks_are_round_and_cover_the_range(low, high):
    ticks = svg.nice_ticks(low, high)
    assert (
        ticks == sorted(set(ticks)) and ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12 and 2 <= len(ticks) <= 11
    )
    labels = [svg.tick_text(tick, ticks) for tick in ticks]
    assert len(set(labels)) == len(labels)


# --- verdict, diagnosis, series -------------------------------------------------------------------


def rows_of(markup: str) -> list[list[str]]:
    """Cells of all body rows, as text."""
    body = markup.partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [plain(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)]
        for row in re.findall(r"<tr.*?</tr>", body, re.S)
    ]


def test_the_verdict_is_below_the_findings_and_at_the_top_where_it_is_enforced():
    verdict = judged(failing())
    assert verdict.outcome == "fail" and not verdict.enforced
    said = f"✕ FAIL {verdict.sentence.removeprefix('FAIL: ')}"
    page = page_text(failing(), verdict)
    shown = plain(section(page, "verdict"))
    assert shown.startswith(f"Gate (default policy, not enforced) {said} {verdict.rule} Policy: default policy.")
    assert page.count('class="banner') == 1 and page.index('id="curves"') < page.index('class="banner')
    assert "<title>damaged against base" in page
    rules = rows_of(re.search(r'aria-label="Rules of the policy">.*?</table>', page, re.S).group())
    assert len(rules) == len(default_policy().rules) and rules[0][:2] == ["language_modelling", "bits_per_byte"]
    enforced = page_text(failing(), dataclasses.replace(verdict, enforced=True))
    assert said in plain(enforced.partition('id="findings"')[0]) and "<title>FAIL: damaged against base" in enforced
    assert plain(section(enforced, "verdict")).startswith(f"Gate (default policy) {verdict.rule}")


def test_headline_numbers_are_a_table_with_the_effect_of_alignment_first(page):
    table = re.search(r'<table class="headlines">.*?</table>', page, re.S).group()
    head = [plain(cell) for cell in re.findall(r"<th scope=\"col\".*?</th>", table)]
    assert head == [
        "Mean",
        "Effect of alignment: alignx − tuned (control)",
        "What training changed: alignx − base",
        "base",
        "tuned",
        "alignx",
    ]
    lines = rows_of(table)
    headlines = as_report(small_comparison()).headlines
    assert [headline.metric for headline in headlines] == [
        "precision_at_1", "bleu", "chrf++", "off_target_rate", "bits_per_byte", "next_sentence.acc"
    ]  # fmt: skip
    for headline, cells in zip(headlines, lines, strict=True):
        assert cells[0].startswith(view.headline_title(headline)) and headline.scope in cells[0]
        assert [change.contrast for change in headline.changes] == ["candidate-control", "candidate-base"]
        for change, cell in zip(headline.changes, cells[1:3], strict=True):
            assert (
                cell == f"{view.MARKS[change.word]} {view.WORDS[change.word]} {view.change_numbers(headline, change)}"
            )
        control, base = (change.mean.base for change in headline.changes)
        assert cells[3:] == [wording.number(value, headline.metric) for value in (base, control, headline.value)]
        assert headline.sentence not in plain(page)  # a number is shown once


def test_rows_are_not_counted_over_suites(page):
    assert "Verdicts by suite" not in page and 'class="tile' not in page


def test_gated_rows_worst_first_the_rest_folded():
    rows = judged(failing()).candidates[0].rows
    page = page_text(failing(), judged(failing()))
    opened, folded = re.findall(r'<table class="sortable gate">.*?</table>', page, re.S)
    beyond = [row for row in rows if row.status in ("red", "missing", "amber")]
    lines = rows_of(opened)
    assert len(lines) == len(beyond) > 3 and len(rows_of(folded)) == len(rows) - len(beyond)
    assert page.rindex("<details", 0, page.index(folded)) > page.rindex("</details>", 0, page.index(folded))
    for gated, cells in zip(beyond, lines, strict=True):
        row = gated.row
        assert cells[0].startswith(f"{view.row_title(row)} {view.pair_title(row)}")
        assert (
            cells[1].split(" ", 1)[0] == view.STATUS_MARKS[gated.status] and view.STATUS_WORDS[gated.status] in cells[1]
        )
        # The loss and its interval, with the same sign whatever is good: a loss is positive.
        ends = [wording.difference(sign * end, row.metric) for sign, end in zip(*signed_interval(row), strict=True)]
        assert cells[2] == f"{view.gate_loss(gated)} [{ends[0]}, {ends[1]}]"
        assert cells[4:8] == [
            view.gate_tolerance(gated),
            view.gate_bound(gated),
            wording.probability(gated.p_adjusted),
            f"{row.n} ({row.clusters})",
        ]
        assert cells[8] == (gated.reason or "")
    marks = [re.search(r"g-(\w+)", each).group(1) for each in re.findall(r'class="forest g-\w+"', opened)]
    assert marks == [gated.status for gated in beyond]


def signed_interval(row):
    return ((-1, -1), (row.ci_high, row.ci_low)) if row.higher_is_better else ((1, 1), (row.ci_low, row.ci_high))


def test_S10_what_is_missing_is_in_the_open_table():
    comparison = copy.copy(small_comparison(control=False))
    comparison.rows = [row for row in comparison.rows if row.suite != "tasks"]
    page = page_text(comparison, judged(comparison, require_all=True))
    lines = rows_of(re.search(r'<table class="sortable gate">.*?</table>', page, re.S).group())
    missing = [cells for cells in lines if "missing" in cells[1]]
    assert missing and missing[0][0] == "tasks/*.acc of *" and "no row matches" in missing[0][-1]


def test_more_gated_rows_than_fit_are_counted(monkeypatch):
    monkeypatch.setattr(verdict_part, "OPEN_ROWS", 2)
    monkeypatch.setattr(verdict_part, "FOLDED_ROWS", 3)
    rows = judged(failing()).candidates[0].rows
    beyond = sum(row.status in ("red", "missing", "amber") for row in rows)
    page = page_text(failing(), judged(failing()))
    assert (
        f"{beyond - 2} more, less severe, are in" in page
        and f"{len(rows) - beyond - 3} more, less severe, are in" in page
    )


def test_pass_says_that_nothing_is_open():
    generous = tuple(rule.model_copy(update={"tolerance": 99.0}) for rule in default_policy().rules)
    page = page_text(small_comparison(), judged(small_comparison(), rules=generous))
    shown = plain(section(page, "verdict"))
    assert "✓ PASS" in shown and "No row is beyond its tolerance, not settled or missing." in shown


def test_a_single_checkpoint_has_no_verdict_section():
    page = page_text(single_run())
    assert 'id="verdict"' not in page and 'id="diagnosis"' not in page and 'id="series"' not in page


def test_diagnosis_says_status_sentence_evidence_and_rule(page):
    found = as_report(small_comparison()).diagnoses
    articles = re.findall(r'<article class="diagnosis">.*?</article>', page, re.S)
    assert len(articles) == len(found) > 4 and {each.status for each in found} > {"found"}
    for each, article in zip(found, articles, strict=True):
        head, folded = article.split("<details", 1)
        title = f"{view.DIAGNOSIS_MARKS[each.status]} {view.DIAGNOSIS_WORDS[each.status]} {RULE_TITLES[each.rule]}"
        assert plain(head) == " ".join(f"{title} Against {each.reference}: {view.brief(each)}.".split())
        assert " ".join(each.sentence.split()) in plain(folded)
        for evidence in each.evidence:
            assert " ".join(evidence.text.split()) in plain(folded)
        assert RULES[each.rule] in plain(folded)
        assert (f"and {each.more} more" in folded) == bool(each.more)
    assert set(RULE_TITLES) == set(RULES)


def test_mismatches_are_at_the_top():
    spoilt = copy.copy(small_comparison())
    spoilt.mismatches = ["pooling is mean in base and last in alignx (layers)"]
    page = page_text(spoilt, judged(spoilt))
    place = page.index("Compared in spite of 1 difference")
    assert place < page.index('id="findings"') and page.index(spoilt.mismatches[0]) < page.index("<nav")
    assert "No warnings." not in page
    assert "Compared in spite of" not in page_text(small_comparison())


def test_series_has_trajectories_and_names_the_first_failure():
    comparison = steps(6)
    verdict = judged(comparison)
    series = make_series(comparison, verdict)
    assert series.first_failure.label == "step-300"
    page = page_text(comparison, verdict)
    shown = section(page, "series")
    assert series.sentence in plain(shown) and "first at step-300" not in shown
    drawings = re.findall(r"<figure>.*?</figure>", shown, re.S)
    assert len(drawings) == len(series.trajectories) > 4
    for trajectory, drawing in zip(series.trajectories, drawings, strict=True):
        assert (
            trajectory.title in plain(drawing)
            and trajectory.note in plain(drawing)
            and "n = 60, 30 clusters" in plain(drawing)
        )
        assert ">first failure: 300</text>" in drawing
        # One marker a step, its shape by the outcome; the vertical line is at the failing one.
        markers = re.findall(r'<path class="o-([\w-]+)" d="([^"]+)"><title>([^<]+)</title>', drawing)
        assert [name for name, _, _ in markers] == ["base", *(step.outcome for step in series.steps[1:])]
        assert re.search(r'class="mark" d="M([\d.]+) ', drawing).group(1) == f"{svg.x_position(3, 7):.1f}"
        assert "gate: FAIL" in markers[3][2] and "against the base" in markers[3][2]
        assert (
            drawing.count("V", drawing.index('class="bars"'), drawing.index('class="line')) == 6
        )  # an interval for each step
    table = rows_of(re.search(r'<table class="steps">.*?</table>', shown, re.S).group())
    assert [cells[0].split()[0] for cells in table] == ["base", *comparison.candidates]
    assert table[3][1] == "✕ FAIL first" and table[6][1] == "✕ FAIL"
    assert {"base", "fail"} < set(re.findall(r'class="key outcomes".*?class="o-(\w+)"', shown))


def test_no_series_without_being_asked():
    comparison = copy.copy(steps(6))
    comparison.series = False
    page = page_text(comparison, judged(comparison))
    assert 'id="series"' not in page and "trajectory-0" not in page


def test_a_long_series_shows_few_steps_in_detail_and_says_so():
    comparison = steps(12, INTERFACE[:2])
    page = page_text(comparison, judged(comparison))
    shown = section(page, "series")
    assert len(rows_of(re.search(r'<table class="steps">.*?</table>', shown, re.S).group())) == 13
    detail = [
        "step-100",
        "step-200",
        "step-300",
        "step-1200",
    ]  # the first, the first failure with the one before it, the last
    assert f"4 of 12 steps: {', '.join(detail)}." in plain(shown)
    assert plain(re.search(r'<ul class="legend">.*?</ul>', section(page, "curves"), re.S).group()).split() == [
        "base",
        *detail,
    ]
    for label in comparison.candidates:
        assert (f'aria-label="chrF++, {label} − base"' in page) == (label in detail)
    # What is left out of the detail is not left out of the record.
    assert comparison.candidates == [f"step-{100 * (place + 1)}" for place in range(12)]
    assert all(f'<th scope="row">{label}</th>' in section(page, "comparability") for label in comparison.candidates)
    walk(page)


def test_labels_of_thirty_steps_are_thinned_out():
    names = ["base", *(str(100 * place) for place in range(1, 31))]
    drawn = figures.trajectory_figure(
        "x",
        title="t",
        description="d",
        axis="a",
        steps=names,
        values=[float(place) for place in range(31)],
        intervals=[None] * 31,
        outcomes=[None, *["pass"] * 30],
        tips=names,
        failure=None,
    )
    labels = re.findall(r'class="tick x" x="([\d.]+)"[^>]*>([^<]+)<', drawn)
    assert labels[0][1] == "base" and 4 < len(labels) < 11 and drawn.count("<title>") == 31
    gaps = [float(after[0]) - float(before[0]) for before, after in zip(labels, labels[1:], strict=False)]
    assert min(gaps) > 10 * 4  # as wide as four digits on a phone


def test_trajectory_with_a_gap_and_one_step():
    drawn = figures.trajectory_figure(
        "x",
        title="t",
        description="d",
        axis="a",
        steps=["base", "1", "2", "3"],
        values=[1.0, 1.2, None, 1.1],
        intervals=[None, (1.1, 1.3), None, None],
        outcomes=[None, "pass", "incomplete", "fail"],
        tips=["a", "b", "c", "d"],
        failure=(3, "f"),
    )
    assert re.search(r'class="line s2" d="M[\d. ]+L[\d. ]+M[\d. ]+"', drawn) and drawn.count("<title>") == 3
    alone = figures.trajectory_figure(
        "x", title="t", description="d", axis="a", steps=["base", "a very long label of a step"], values=[1.0, 1.0],
        intervals=[None, (1.0, 1.0)], outcomes=[None, "pass"], tips=["a", "b"], failure=None,
    )  # fmt: skip
    assert "NaN" not in alone and "…" in alone and 'class="mark"' not in alone


# --- in a browser ---------------------------------------------------------------------------------


def browser() -> str:
    found = next(
        (path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")) if path), None
    )
    if found is None:
        warnings.warn("NO BROWSER: the report was not tried in one; install chromium to run this test", stacklevel=2)
        pytest.skip("no chromium: the report was not tried in a browser")
    return found


PROBE = """
<script>
addEventListener("load", () => {
  const result = {title: document.title, errors: window.failures || [], overflow: document.documentElement.scrollWidth - innerWidth};
  const select = (id, value) => { const node = document.getElementById(id); node.value = value; node.dispatchEvent(new Event("change")); };
  const frame = "figure.lead:not([hidden]) [data-frame]:not([hidden])";
  const shown = (part) => document.querySelector(`${frame} [data-${part}='2']`).getAttribute("d");
  const line = () => shown("line");
  const before = line();
  select("curve-pair", "deu_Latn>eng_Latn"); result.pair = [line(), shown("band")];
  select("curve-metric", "precision_at_1_without_largest"); result.thin = shown("thin");
  select("curve-pair", ""); select("curve-metric", "precision_at_1"); result.back = line() === before;
  const faded = () => document.querySelectorAll(".scatter path.faded").length;
  select("picture-language", "1"); result.faded = faded();
  select("picture-language", ""); result.faded -= 1000 * faded();
  select("curve-metric", "cka_debiased"); result.shown = document.querySelector("figure.lead:not([hidden])").dataset.metric;
  const table = [...document.querySelectorAll("table.sortable")].find((each) => each.caption.textContent.startsWith("chrF++"));
  const head = [...table.tHead.rows[0].cells].find((cell) => cell.textContent.trim() === "difference");
  const column = head.cellIndex;
  head.querySelector("button").click(); head.querySelector("button").click();
  result.sorted = head.getAttribute("aria-sort");
  const parse = (node) => parseFloat(node.textContent.replace("\\u2212", "-"));
  result.differences = [...table.tBodies[0].rows].filter((row) => !row.classList.contains("all")).map((row) => parse(row.cells[column]));
  const gate = [...document.querySelectorAll("table.gate")].pop();
  gate.tHead.rows[0].cells[1].querySelector("button").click();
  result.statuses = [...gate.querySelectorAll(".verdict")].map((node) => node.dataset.word);
  gate.tHead.rows[0].cells[2].querySelector("button").click();
  result.losses = [...gate.tBodies[0].rows].map((row) => parse(row.cells[2]));
  select("sample-sort", "gain");
  result.gains = [...document.querySelectorAll(".sample header b")].map(parse);
  document.getElementById("sample-more").click();
  result.samples = document.querySelectorAll(".sample").length;
  document.body.replaceChildren(Object.assign(document.createElement("pre"), {id: "result", textContent: JSON.stringify(result)}));
});
</script>
"""


def dump(path, arguments, tmp_path) -> str:
    command = [
        browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=4000",
        *arguments,
        "--dump-dom",
        f"file://{path}",
    ]
    return subprocess.run(command, capture_output=True, timeout=110, check=True).stdout.decode()


def assert_same_path(drawn: str, expected: str) -> None:
    assert re.sub(r"[\d.]+", "", drawn) == re.sub(r"[\d.]+", "", expected)
    numbers = [[float(number) for number in re.findall(r"[\d.]+", path)] for path in (drawn, expected)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.11)


def test_in_a_browser(tmp_path):
    comparison = copy.deepcopy(small_comparison(hostile="</script><script>document.title='owned'</script>", lines=24))
    rows = comparison.results["alignx"]["layers"].rows
    own = [i for i, row in enumerate(rows) if (row.metric, row.language) == ("precision_at_1", "deu_Latn")]
    rows[own[2]] = dataclasses.replace(rows[own[2]], ci_low=None, ci_high=None)  # a gap in the band
    comparison.series, comparison.mismatches = True, ["a_field_with_a_long_name_" * 5]
    page = page_text(comparison, judged(comparison))
    page = page.replace(
        "<head>", "<head><script>window.failures=[];addEventListener('error',(e)=>failures.push(e.message))</script>", 1
    )
    (tmp_path / "report.html").write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    # A frame of the width of a small phone; the window itself cannot be that narrow.
    (tmp_path / "phone.html").write_text(
        "<iframe src='report.html' style='width:360px;height:900px;border:0'></iframe><pre id=out></pre>"
        "<script>onload=()=>{out.textContent=document.querySelector('iframe').contentDocument.getElementById('result').textContent}</script>",
        encoding="utf-8",
    )
    dom = dump(tmp_path / "phone.html", ["--allow-file-access-from-files", "--window-size=800,1000"], tmp_path)
    result = json.loads(walk_text(re.search(r'<pre id="out">(.*?)</pre>', dom, re.S).group(1)))
    assert "alignx against tuned" in result["title"] and result["errors"] == []
    assert result["overflow"] <= 0, "the page scrolls sideways at 360 px"
    assert result["back"] and result["shown"] == "cka_debiased"
    # The script draws the same paths as figures.py.
    metric = json.loads(walk(page).data["curve-data"])["metrics"]["precision_at_1"]
    values, low, high = (
        [None if v is None else v / QUANTUM for v in line] for line in metric["pairs"]["deu_Latn>eng_Latn"]["2"]
    )
    frame = metric["low"], metric["high"]
    assert_same_path(result["pair"][0], svg.line_path(values, *frame))
    assert_same_path(result["pair"][1], svg.band_path(low, high, *frame))
    assert_same_path(result["thin"], svg.line_path(values, *frame))
    assert result["pair"][1].count("M") == 2
    assert result["sorted"] == "descending" and result["differences"] == sorted(result["differences"], reverse=True)
    assert result["faded"] == 18 * (len(INTERFACE) - 1)
    assert result["gains"] == sorted(result["gains"], reverse=True) and result["gains"][0] > 0
    assert result["samples"] == 15
    order = [view.STATUS_WORDS[status] for status in STATUSES]
    assert result["statuses"] == sorted(result["statuses"], key=order.index) and len(result["losses"]) > 9
    assert result["losses"] == sorted(result["losses"])


def walk_text(markup: str) -> str:
    walker = Walker()
    walker.feed(markup)
    return "".join(walker.text)


def test_the_references_own_rate_stands_beside_an_off_target_rate_under_its_name():
    own = Row(
        suite="translation",
        metric="off_target_rate",
        checkpoint="a",
        value=0.05,
        n=9,
        null=0.03,
        higher_is_better=False,
    )
    assert floor_of(own, own, "a", {}) == (0.03, "the references themselves 0.030")
