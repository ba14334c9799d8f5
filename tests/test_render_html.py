"""The HTML report: self-contained, well-formed, escaped, small, accessible, and alive in a real browser."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser

import pytest
from render_fixture import INTERFACE, large_comparison, single_run, small_comparison

from alignx_eval.render import figures, html, view

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


@pytest.fixture(scope="module")
def page():
    return html.render(small_comparison())


@pytest.mark.parametrize(
    "build", [small_comparison, lambda: small_comparison(control=False), single_run], ids=["control", "no control", "single"]
)
def test_well_formed_and_self_contained(build):
    page = html.render(build())
    walker = walk(page)
    for tag, attributes in walker.tags:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, value)
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\(|https?://|//cdn", page.replace("http://www.w3.org/2000/svg", ""))
    policy = next(attributes["content"] for tag, attributes in walker.tags if attributes.get("http-equiv") == "Content-Security-Policy")
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
        'id="curves"',
        'id="tables"',
        'id="translation"',
        'id="samples-title"',
        'id="pictures"',
        'id="price"',
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
            assert attributes.get("aria-hidden") == "true" or (attributes.get("role") == "img" and attributes.get("aria-labelledby"))
    verdicts = re.findall(r'<span class="verdict v-([\w-]+)" data-word="([^"]+)"><span aria-hidden="true">(.)</span>([^<]+)</span>', page)
    assert verdicts
    for verdict, word, mark, text in verdicts:  # a mark and a word, never colour alone
        assert word == text == view.WORDS[verdict] and mark == view.MARKS[verdict]


def test_align_layer_chance_and_baselines_are_marked(page):
    lead = re.search(r'<figure class="lead" data-metric="precision_at_1">.*?</figure>', page, re.S).group()
    assert "align layer 3" in lead and ">chance<" in lead
    probe = re.search(r'<figure class="lead" data-metric="probe_balanced_accuracy".*?</figure>', page, re.S).group()
    assert "script alone" in probe and "chance, majority" in probe
    assert page.count('class="line s0"') == page.count('class="line s1"') == page.count('class="line s2"') > 4


def test_worst_language_comes_first_in_its_table(page):
    table = re.search(r'aria-label="chrF\+\+, alignx − tuned \(control\)">.*?</table>', page, re.S).group()
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in re.findall(r"<tr.*?</tr>", table.partition("<tbody>")[2], re.S)]
    assert [row[0] for row in rows[:3]].count("eng_Latn") <= 2 and rows[0][0] == "all"
    assert rows[3][:3] == ["eng_Latn", "→", "tur_Latn"]


def test_curve_data_equal_the_drawn_lines(page):
    data = json.loads(walk(page).data["curve-data"])
    metric = data["metrics"]["precision_at_1"]
    for style, lines in metric["pairs"][""].items():
        values = [value / html.QUANTUM for value in lines[0]]
        drawn = re.search(rf'<path class="line s{style}" data-line="{style}" d="([^"]+)"', page).group(1)
        recomputed = figures.line_path(values, metric["low"], metric["high"])
        numbers = [[float(number) for number in re.findall(r"-?[\d.]+", path)] for path in (drawn, recomputed)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.11)
    assert len(metric["pairs"]) == 1 + 2 * (len(INTERFACE) - 1)


def test_S14_hostile_model_output_stays_text():
    page = html.render(small_comparison(lines=12, hostile=HOSTILE))
    page.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", page)
    walker = walk(page)
    assert sum(tag == "script" for tag, _ in walker.tags) == 3
    assert "<script>document" not in page and "</script><" not in walker.data["sample-data"]
    assert "</script><script>document.title='owned'</script>" in json.loads(walker.data["sample-data"])["directions"][0]["items"][0]["o"][0]


def test_hostile_labels_findings_and_corpus():
    bad = copy.deepcopy(small_comparison())
    bad.findings = [HOSTILE]
    bad.warnings = [HOSTILE]
    bad.corpus["attribution"] = HOSTILE
    bad.checkpoints["alignx"]["reference"] = HOSTILE
    page = html.render(bad)
    assert sum(tag == "script" for tag, _ in walk(page).tags) == 3 and "<script>document" not in page


def test_right_to_left_samples():
    page = html.render(small_comparison(languages=("eng_Latn", "arb_Arab", "zho_Hans"), lines=12))
    data = json.loads(walk(page).data["sample-data"])
    arabic = next(direction for direction in data["directions"] if direction["title"] == "arb_Arab → eng_Latn")
    assert arabic["source"] == {"code": "arb_Arab", "lang": "ar-Arab", "dir": "rtl"} and arabic["target"]["dir"] == "ltr"
    assert re.search(r'<dd lang="ar-Arab" dir="rtl">[^<]*[\u0600-\u06ff]', page)
    assert view.language_tag("zho_Hans") == "zh-Hans"


def test_long_outputs_are_cut_with_a_note():
    long = copy.deepcopy(small_comparison(lines=12))
    for sample in long.results["base"]["translation"].samples:
        sample["output"] = "word " * 5000
    page = html.render(long)
    assert "more characters]" in page and len(page) < 3_000_000


def test_no_samples():
    page = html.render(small_comparison(), samples=False)
    assert "sample-data" not in page.partition("<script>")[0] and "samples-title" not in page


def test_size_budget_at_51_languages():
    page = html.render(large_comparison())
    size = len(page.encode("utf-8"))
    assert size < 3_000_000, f"{size:,} bytes"
    assert page.count("<tr") > 500


def test_sample_budget_shrinks_the_number_not_the_directions(monkeypatch):
    monkeypatch.setattr(html, "SAMPLE_BYTES", 60_000)
    data = json.loads(walk(html.render(small_comparison())).data["sample-data"])
    assert len(data["directions"]) == 2 * (len(INTERFACE) - 1)
    assert len(json.dumps(data["directions"], ensure_ascii=False).encode()) < 70_000


def test_pictures_of_every_layer(page):
    assert page.count('class="plot scatter"') == 9 and page.count('class="plot heat"') == 9


def test_many_checkpoints_keep_their_own_line():
    many = copy.deepcopy(small_comparison(lines=12))
    for number in range(6):
        many.results[f"extra {number}"] = many.results["alignx"]
        many.checkpoints[f"extra {number}"] = many.checkpoints["alignx"]
    many.candidates += [f"extra {number}" for number in range(6)]
    walk(html.render(many))
    assert sorted(html._styles(many).values()) == list(range(9))


def test_empty_comparison_renders():
    empty = copy.deepcopy(small_comparison())
    empty.rows, empty.findings = [], []
    empty.results = {label: {} for label in empty.results}
    walk(html.render(empty))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 0.0), (-0.03, 0.2), (0.0, 37.0), (0.0, 1e-5)])
def test_ticks_are_round_and_cover_the_range(low, high):
    ticks = figures.nice_ticks(low, high)
    assert ticks == sorted(set(ticks)) and ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12 and 2 <= len(ticks) <= 11
    labels = [figures._tick(tick, ticks) for tick in ticks]
    assert len(set(labels)) == len(labels)


# --- in a browser --------------------------------------------------------------------------------------------------------------


def browser() -> str:
    found = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")) if path), None)
    if found is None:
        warnings.warn("NO BROWSER: the report was not tried in one; install chromium to run this test", stacklevel=2)
        pytest.skip("no chromium: the report was not tried in a browser")
    return found


PROBE = """
<script>
addEventListener("load", () => {
  const result = {title: document.title, errors: window.failures || [], overflow: document.documentElement.scrollWidth - innerWidth};
  const select = (id, value) => { const node = document.getElementById(id); node.value = value; node.dispatchEvent(new Event("change")); };
  const line = () => document.querySelector("figure.lead:not([hidden]) [data-line='2']").getAttribute("d");
  const before = line();
  select("curve-pair", "deu_Latn>eng_Latn"); result.pair = line() !== before;
  select("curve-pair", ""); result.back = line().length === before.length;
  select("curve-metric", "cka_debiased"); result.shown = document.querySelector("figure.lead:not([hidden])").dataset.metric;
  const table = [...document.querySelectorAll("table.sortable")].find((each) => each.caption.textContent.startsWith("chrF++"));
  const head = [...table.tHead.rows[0].cells].find((cell) => cell.textContent.trim() === "difference");
  const column = head.cellIndex;
  head.querySelector("button").click(); head.querySelector("button").click();
  result.sorted = head.getAttribute("aria-sort");
  const parse = (node) => parseFloat(node.textContent.replace("\\u2212", "-"));
  result.differences = [...table.tBodies[0].rows].filter((row) => !row.classList.contains("all")).map((row) => parse(row.cells[column]));
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
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=4000", *arguments, "--dump-dom", f"file://{path}",
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, timeout=110, check=True).stdout.decode()


def test_in_a_browser(tmp_path):
    page = html.render(small_comparison(hostile="</script><script>document.title='owned'</script>", lines=24))
    page = page.replace("<head>", "<head><script>window.failures=[];addEventListener('error',(e)=>failures.push(e.message))</script>", 1)
    (tmp_path / "report.html").write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    # A frame of the width of a small phone; the window itself cannot be that narrow.
    (tmp_path / "phone.html").write_text(
        "<iframe src='report.html' style='width:360px;height:900px;border:0'></iframe><pre id=out></pre>"
        "<script>onload=()=>{out.textContent=document.querySelector('iframe').contentDocument.getElementById('result').textContent}</script>",
        encoding="utf-8",
    )
    dom = dump(tmp_path / "phone.html", ["--allow-file-access-from-files", "--window-size=800,1000"], tmp_path)
    result = json.loads(walk_text(re.search(r'<pre id="out">(.*?)</pre>', dom, re.S).group(1)))
    assert result["title"].startswith("alignx against tuned") and result["errors"] == []
    assert result["overflow"] <= 0, "the page scrolls sideways at 360 px"
    assert result["pair"] and result["back"] and result["shown"] == "cka_debiased"
    assert result["sorted"] == "descending" and result["differences"] == sorted(result["differences"], reverse=True)
    assert result["gains"] == sorted(result["gains"], reverse=True) and result["gains"][0] > 0
    assert result["samples"] == 15


def walk_text(markup: str) -> str:
    walker = Walker()
    walker.feed(markup)
    return "".join(walker.text)
