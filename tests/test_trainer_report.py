"""The report of a training run: the numbers of the log, runs that are not finished, hostile text, size, and the
command."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from alignx_trainer import cli, report, report_figures
from alignx_trainer.report import render, write_report
from alignx_trainer.report_figures import evenly, highest_in_frame, measure, running_median, scale_of, thin_out
from alignx_trainer.run_folder import logged_steps

from alignx_eval.errors import InputError

HOSTILE = "</style><script>alert('owned')</script><b onclick=x>\x00"
VOID = {"meta", "br"}
MEASURES = ("precision_at_1", "precision_at_1_last", "language_identity", "bits_per_byte")


class Page(HTMLParser):
    """Text, tags and attributes; everything must nest."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

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
        if "style" not in self.open:
            self.words.append(data)

    def figures(self) -> list[str | None]:
        return [
            attributes.get("data-figure")
            for tag, attributes in self.tags
            if tag == "svg" and "data-figure" in attributes
        ]


def validation(value: float, lines: int = 100) -> dict[str, Any]:
    entry: dict[str, Any] = {"lines": lines, "languages": ["eng_Latn", "deu_Latn"], "align_layer": 3}
    for place, name in enumerate(MEASURES):
        entry[name] = {
            "value": value + place,
            "ci_low": value + place - 0.04,
            "ci_high": value + place + 0.05,
            "n": lines,
        }
    return entry


def log(steps: int, every: int = 0, **changes: Any) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [{"step": 0, "validation": validation(0.211)}] if every else []
    for step in range(1, steps + 1):
        noise = math.sin(step * 12.9898) * 0.2
        entries.append(
            {
                "step": step,
                "lm": 1.5 + 1 / step + noise,
                "contrastive": 2.0 + 1 / step + noise,
                "contrastive_accuracy": 0.5 + noise,
                "matching": 0.6 + noise / 10,
                "matching_accuracy": 0.7 + noise / 10,
                "same_language_share": 0.27,
                "pairs": 16,
                "tokens": step * 1000,
                "learning_rate": 2e-6 * step / steps,
                "grad_norm": 1.0 + noise,
                "tokens_per_second": 3000.0 + 100 * noise,
                "seconds": step / 3,
            }
            | changes
        )
        if every and step % every == 0:
            entries[-1]["validation"] = validation(0.3 + step / 1000)
    return entries


def stage(steps: int, **changes: Any) -> dict[str, Any]:
    return {
        "stage": "stage1",
        "steps": steps,
        "samples": 16 * steps,
        "tokens": steps * 1000,
        "truncated_samples": 3,
        "seconds": 75.0,
        "flops": 4.37e11,
        "peak_memory_bytes": 978_993_152,
        "data": [
            {
                "path": "interface",
                "split": "train",
                "languages": ["deu_Latn", "eng_Latn"],
                "lines": 10_993,
                "sha256": "7bf01c4d2e5f",
                "licence": "Apache-2.0",
            }
        ],
        "align_layer": 3,
        "device": "CPU, 2 threads",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "command": "alignx-train train --threads 2 recipes/my_stage.yaml steps=5 --out x",
    } | changes


def run_folder(place: Path, entries: list[dict[str, Any]], made: dict[str, Any] | None = None, **recipe: Any) -> Path:
    """A run's folder; with `made`, one that has finished."""
    place.mkdir(parents=True, exist_ok=True)
    source = {"kind": "translation", "path": "interface", "split": None, "languages": [], "weight": 1.0}
    given = {
        "stage": "stage1",
        "sources": [source],
        "init": "bundled:base",
        "batch_size": 16,
        "micro_batch_size": 16,
        "steps": 40,
    } | recipe
    (place / "recipe.json").write_text(json.dumps({"sha256": "abc123", "recipe": given}))
    (place / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    if made is not None:
        from helpers.models import tiny_model, tiny_tokenizer

        from alignx_eval.checkpoint import write_checkpoint

        provenance = {
            "stages": [{"stage": "base", "tokens": 1}, made],
            "init": {"reference": "bundled:base", "content_hash": "374c5a15"},
        }
        write_checkpoint(
            place / "model.pt",
            model=tiny_model(),
            tokenizer=tiny_tokenizer(),
            stage=made["stage"],
            step=made["steps"],
            prompt_template="plain",
            heads=None,
            recipe=given,
            provenance=provenance,
        )
    return place


# --- content --------------------------------------------------------------------------------------


def test_a_finished_run(tmp_path: Path):
    entries = log(40, every=10)
    page = Page(render(run_folder(tmp_path, entries, stage(40), eval_every=10)))
    first, last = entries[1], entries[-1]
    assert "Training of stage1 by the recipe my_stage" in page.text and "Finished after 40 of 40 steps." in page.text
    assert "40,000 tokens in 640 samples (3 of them cut to max_length), 1 min 15 s; median 3,0" in page.text
    assert "Peak memory 979 MB; 437 GFLOP" in page.text
    assert f"Step 40: next-token loss {last['lm']:.3f}, contrastive loss {last['contrastive']:.3f} " in page.text
    assert f"(accuracy {last['contrastive_accuracy']:.3f}, chance 0.062)" in page.text
    assert f"(accuracy {last['matching_accuracy']:.3f}, chance 0.730)" in page.text
    for title, name in (("next-token loss", "lm"), ("matching accuracy", "matching_accuracy")):
        tail = sorted(entry[name] for entry in entries[-5:])[2]
        assert re.search(rf"{title} {first[name]:.3f} {last[name]:.3f} {tail:.3f}", page.text)
    assert "partly trivial" in page.text and "encodes each sentence alone" in page.text
    for fact in (
        "10,993",
        "7bf01c4d2e5f",
        "Apache-2.0",
        "deu_Latn, eng_Latn",
        "2.13.0",
        "CPU, 2 threads",
        "374c5a15",
        "abc123",
    ):
        assert fact in page.text
    losses = ["lm", "contrastive", "contrastive_accuracy", "matching", "matching_accuracy"]
    names = [*losses, "learning_rate", "grad_norm", "tokens_per_second"]
    assert page.figures() == ["validation-0", "validation-1", "validation-2", *(f"curve-{name}" for name in names)]


def test_validation_before_and_after(tmp_path: Path):
    page = Page(render(run_folder(tmp_path, log(40, every=10), eval_every=10)))
    change = "0.211 [0.171, 0.261] before training → 0.340 [0.300, 0.390] at step 40 (95 % intervals; n = 100)"
    assert f"retrieval at the align layer (3): {change}" in page.text
    assert "100 held-out lines in 2 languages: eng_Latn, deu_Latn" in page.text and "chance 0.010" in page.text
    for step in (10, 20, 30, 40):
        value = 0.3 + step / 1000
        cells = " ".join(f"{value + k:.3f} [{value + k - 0.04:.3f}, {value + k + 0.05:.3f}]" for k in range(4))
        assert f"step {step} {cells}" in page.text
    assert "retrieval at the last layer, step 40: 1.340 (95 % interval [1.300, 1.390], n = 100)" in page.text


def test_a_run_in_progress_with_a_cut_line(tmp_path: Path):
    folder = run_folder(tmp_path / "my_run", log(12), steps=300)
    with open(folder / "log.jsonl", "a") as file:
        file.write('{"step": 13, "lm": 0.')
    page = Page(render(folder))
    assert "Step 12 of 300, not finished." in page.text and "by the recipe my_run" in page.text
    assert "recorded when the run finishes" in page.text and "Peak memory –" not in page.text
    assert "No validation measured (eval_every is 0)." in page.text
    assert "interface translation" in page.text  # what the recipe names
    assert not any(name and name.startswith("validation") for name in page.figures())


def test_a_run_of_unknown_length_and_validation_to_come(tmp_path: Path):
    page = Page(render(run_folder(tmp_path, log(3), steps=None, epochs=2.0, max_tokens=9000, eval_every=50)))
    assert "Step 3, not finished; the end: 2 epochs or 9,000 tokens." in page.text
    assert "No validation measured yet (eval_every is 50)." in page.text
    assert not re.search(r"running median of \d", page.text)


def test_one_validation_is_no_change(tmp_path: Path):
    page = Page(render(run_folder(tmp_path, log(4, every=10), eval_every=10)))
    assert (
        "Validation before training: retrieval at the align layer (3) 0.211 (95 % interval [0.171, 0.261], n = 100);"
        in page.text
    )
    assert "→" not in page.text


def test_a_run_that_stopped_early(tmp_path: Path):
    entries = log(20, every=5)
    entries[-1]["stopped"] = "bits per byte rose"
    made = stage(20, stopped="bits per byte rose", kept_step=15)
    page = Page(render(run_folder(tmp_path / "finished", entries, made, eval_every=5)))
    assert (
        "Stopped early after 20 of 40 steps (bits per byte rose); the weights kept are those of step 15." in page.text
    )
    assert "at step 15 (95 % intervals" in page.text and "step 15 kept" in page.text and "kept: step 15" in page.text
    assert "there is no model.pt" in Page(render(run_folder(tmp_path / "lost", entries))).text


def test_losses_that_are_off(tmp_path: Path):
    off = dict.fromkeys(("contrastive", "contrastive_accuracy", "matching", "matching_accuracy", "same_language_share"))
    page = Page(render(run_folder(tmp_path, log(30, **off, pairs=0))))
    assert page.figures() == ["curve-lm", "curve-learning_rate", "curve-grad_norm", "curve-tokens_per_second"]
    assert (
        "contrastive loss" not in page.text
        and "matching loss" not in page.text
        and "pairs of sentences in a step" not in page.text
    )


def test_losses_of_a_few_steps_are_gaps(tmp_path: Path):
    entries = log(6)
    entries[2] |= {"contrastive": None, "contrastive_accuracy": float("nan")}
    page = render(run_folder(tmp_path, entries))
    figure = page.partition('data-figure="curve-contrastive"')[2].partition("</svg>")[0]
    (line,) = re.findall(r'class="line s2" d="([^"]+)"', figure)
    assert line.count("M") == 2 and "nan" not in page.lower().partition("<body>")[2]


def test_a_learning_rate_at_its_peak_is_in_the_frame(tmp_path: Path):
    assert "above the frame" not in render(run_folder(tmp_path, log(20, learning_rate=2e-4)))


def test_micro_batches_contrast_among_themselves(tmp_path: Path):
    given = {"negatives": "micro", "batch_size": 16, "micro_batch_size": 4}
    assert "chance 0.250" in Page(render(run_folder(tmp_path, log(4), **given))).text


# --- self-contained, escaped, small ---------------------------------------------------------------


def test_hostile_text_is_escaped(tmp_path: Path):
    source = {"kind": HOSTILE, "path": HOSTILE, "languages": [HOSTILE]}
    entries = log(5, every=5)
    entries[-1]["validation"] |= {"languages": [HOSTILE], "align_layer": HOSTILE, "lines": HOSTILE}
    entries[-1]["validation"]["precision_at_1"]["n"] = HOSTILE
    entries[-1]["stopped"] = HOSTILE
    made = stage(
        5,
        command=f"alignx-train '{HOSTILE[:20]}' x",
        device=HOSTILE,
        versions={HOSTILE: HOSTILE},
        data=[{"path": HOSTILE}],
    )
    page = render(
        run_folder(tmp_path, entries, made, stage=HOSTILE, init=HOSTILE, sources=[source], **{HOSTILE: HOSTILE})
    )
    parsed = Page(page)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert not any("onclick" in attributes for _, attributes in parsed.tags)
    assert "<script" not in page and "\x00" not in page and "&lt;script&gt;" in page


def test_nothing_is_loaded(tmp_path: Path):
    page = render(run_folder(tmp_path, log(20, every=5)))
    assert "default-src 'none'" in page and not re.search(r"https?://|url\(|@import|<link|<img|<script", page)
    for tag, attributes in Page(page).tags:
        assert "src" not in attributes and (tag != "a" or str(attributes["href"]).startswith("#"))


def test_twenty_thousand_steps_stay_small(tmp_path: Path):
    entries = log(20_000, every=10)
    entries[9_000]["grad_norm"] = 512.5
    page = render(run_folder(tmp_path, entries, steps=20_000, eval_every=10))
    assert len(page.encode()) < 500_000
    for data in re.findall(r' d="([^"]+)"', page):
        assert data.count("L") <= report_figures.DRAWN_POINTS
    assert "1 step is above the frame, the highest 512.5" in page
    assert f"{2001 - report.MEASUREMENTS:d} more measurements are in log.jsonl" in page


def test_drawing_keeps_the_extremes():
    values: list[float | None] = [math.sin(place) for place in range(5000)]
    values[1234], values[4321], values[77] = 9.0, -9.0, None
    places = thin_out(values, 600)
    assert places == sorted(set(places)) and len(places) <= 600
    assert {0, 1234, 4321, 4999} <= set(places) and 77 not in places
    assert thin_out([None] * 1000, 100)[0] == 0
    assert thin_out(values[:600], 600) == list(range(600))
    assert evenly(1000, 5) == [0, 250, 500, 749, 999] and evenly(3, 5) == [0, 1, 2]


def test_small_helpers():
    assert running_median([1.0, None, 5.0, 100.0, 2.0], [0, 2, 4], 3) == [1.0, 52.5, 51.0]
    assert running_median([None, None], [0], 5) == [None]
    assert scale_of([2e-6]) == (pytest.approx(1e-6), "in 10⁻⁶") and scale_of([25_000.0])[1] == "in 10³"
    assert scale_of([0.5, 3.0]) == (1.0, "") and scale_of([0.0]) == (1.0, "")
    steady = [1.0 + 0.01 * (place % 10) for place in range(200)]
    assert highest_in_frame(steady) == max(steady) and highest_in_frame([*steady, 50.0]) < 2
    assert highest_in_frame([1.0] * 50) == 1.0 and highest_in_frame([1.0, 50.0]) == 50.0
    assert measure({"bits_per_byte": None}, "bits_per_byte") is None and measure({}, "bits_per_byte") is None


# --- files and the command ------------------------------------------------------------------------


def test_the_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = run_folder(tmp_path, log(5))
    path = write_report(folder)
    assert path == folder / "report.html" and path.read_text(encoding="utf-8") == render(folder)
    before = path.read_bytes()
    run_folder(tmp_path, log(6))

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_report(folder)
    assert path.read_bytes() == before
    assert sorted(each.name for each in folder.iterdir()) == ["log.jsonl", "recipe.json", "report.html"]


@pytest.mark.parametrize(
    "break_it, complaint",
    [
        (lambda folder: (folder / "log.jsonl").unlink(), "log.jsonl: does not exist"),
        (lambda folder: (folder / "log.jsonl").write_text(""), "log.jsonl: is empty"),
        (lambda folder: (folder / "log.jsonl").write_text('{"step": 1, "l'), "log.jsonl: is empty"),
        (lambda folder: (folder / "log.jsonl").write_text('{"step": 0, "validation": {}}\n'), "holds no step yet"),
        (lambda folder: (folder / "log.jsonl").write_text('{"lm": 1}\n{"step": 2}\n'), "line 1 is no step"),
        (lambda folder: (folder / "recipe.json").unlink(), "recipe.json: does not exist"),
        (lambda folder: (folder / "recipe.json").write_text("{"), "recipe.json: is no JSON"),
        (lambda folder: (folder / "recipe.json").write_text("[]"), "recipe.json: holds no recipe"),
        (lambda folder: (folder / "model.pt").write_text("x"), "is no checkpoint"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path: Path, break_it: Any, complaint: str):
    folder = run_folder(tmp_path, log(3))
    break_it(folder)
    with pytest.raises(InputError) as raised:
        write_report(folder)
    assert complaint in str(raised.value) and "\n" not in str(raised.value)
    assert not (folder / "report.html").exists()


def test_the_log_is_read_in_order_and_the_last_line_of_a_step_counts(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 2, "lm": 1}\n{"step": 1, "lm": 3}\n\n{"step": 2, "lm": NaN}\n')
    assert logged_steps(path) == [{"step": 1, "lm": 3}, {"step": 2, "lm": None}]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    folder = run_folder(tmp_path / "run", log(4))

    def command(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["alignx-train", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as leave:
            return int(leave.code or 0)
        return 0

    assert command("report", folder) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert command("report", tmp_path / "nothing") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nothing: does not exist" in error
    assert command("report") == 2 and command("report", folder / "log.jsonl") == 2


def test_no_torch_until_there_is_a_checkpoint(tmp_path: Path):
    folder = run_folder(tmp_path, log(4))
    program = "import sys; from pathlib import Path; from alignx_trainer.report import write_report; "
    program += f"write_report(Path({str(folder)!r})); assert 'torch' not in sys.modules"
    path = [str(Path(report.__file__).parent.parent), str(Path(report.__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {program}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
