"""The report of a training run: one self-contained HTML file of its log, its recipe and, once it has finished, its
provenance."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

from alignx_eval import wording
from alignx_eval.assets import asset_folder
from alignx_eval.files import atomic_write
from alignx_eval.render import figures, view
from alignx_trainer.report_figures import (
    LEAST_FOR_MEDIAN,
    VALIDATION_FIGURES,
    Measure,
    contrastive_chance,
    evenly,
    interval_text,
    loss_figures,
    matching_chance,
    measure,
    measure_text,
    measure_title,
    median_window,
    run_figures,
    step_title,
    validation_figure,
)
from alignx_trainer.run_folder import MEASURES, Run, finite_number, read_run

MEASUREMENTS = 100  # of the validation, drawn and in the table


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html, as a whole or not at all, and return its path. Raises InputError as `render` does."""
    path = Path(folder) / "report.html"
    atomic_write(path, render(folder))
    return path


def render(folder: Path) -> str:
    """The report of the run in `folder`, finished or not, as HTML text that encodes to UTF-8.

    Raises InputError where `folder` is no folder of a training run, holds no step yet, or a file in it is damaged.
    """
    import jinja2
    from markupsafe import Markup

    run = read_run(Path(folder))
    place = asset_folder("reports")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(place),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(view=view, wording=wording, svg=Markup, figures=figures)
    page = environment.get_template("training.html.j2").render(
        run=run,
        css=Markup((place / "report.css").read_text(encoding="utf-8")),
        progress=progress_sentence(run),
        sentences=summary(run),
        losses=loss_table(run),
        parts=[
            ("losses", "Losses", loss_figures(run)),
            ("run", "Learning rate, gradient and speed", run_figures(run)),
        ],
        pairs=round(median(pairs)) if (pairs := [value for value in run.values("pairs") if value]) else None,
        window=median_window(len(run.lines)) if len(run.lines) >= LEAST_FOR_MEDIAN else None,
        validation=validation_part(run),
        no_validation=no_validation_sentence(run),
        recipe={name: plain_text(value) for name, value in run.recipe.items()},
        data=data_table(run),
        facts=run_facts(run),
    )
    for text in ("95 % ", "n = "):  # not to be broken between lines
        page = page.replace(text, text.replace(" ", "\u00a0"))
    return wording.clean(page)


def chosen_validations(run: Run) -> list[tuple[int, dict[str, Any]]]:
    """The measurements to show: all, or so many of them, evenly spread, and that of the kept step."""
    places = set(evenly(len(run.validations), MEASUREMENTS))
    places |= {place for place, (step, _) in enumerate(run.validations) if step == run.kept_step}
    return [run.validations[place] for place in sorted(places)]


def before_and_after(run: Run) -> tuple[tuple[int, dict[str, Any]], tuple[int, dict[str, Any]]] | None:
    """The first measurement and that of the kept weights, or the last one; None where there are not two."""
    if len(run.validations) < 2:
        return None
    kept = [each for each in run.validations[1:] if each[0] == run.kept_step]
    return run.validations[0], (kept or run.validations)[-1]


def no_validation_sentence(run: Run) -> str:
    every = run.recipe.get("eval_every") or 0
    return (
        f"No validation measured yet (eval_every is {every})." if every else "No validation measured (eval_every is 0)."
    )


def validation_part(run: Run) -> dict[str, Any] | None:
    """Figures and table of the validation; None where nothing was measured."""
    if not run.validations:
        return None
    shown, latest = chosen_validations(run), run.validations[-1][1]
    names = [name for name in MEASURES if any(measure(validation, name) for _, validation in shown)]
    sizes = [{found.n for _, validation in shown if (found := measure(validation, name))} for name in names]
    drawn = [validation_figure(run, shown, number) for number in range(len(VALIDATION_FIGURES))]
    return {
        "figures": [figure for figure in drawn if figure is not None],
        "about": f"{latest.get('lines') or '?'} held-out lines in {len(latest.get('languages') or [])} languages",
        "languages": ", ".join(map(str, latest.get("languages") or [])),
        "note": str(run.validations[0][1].get("note") or ""),
        "titles": [measure_title(name, latest) for name in names],
        "sizes": [f"n = {next(iter(size))}" if len(size) == 1 and size != {None} else "" for size in sizes],
        "lines": [
            {
                "step": step_title(step),
                "kept": step == run.kept_step != run.steps,
                "cells": [
                    _cell(measure(validation, name), len(size) > 1) for name, size in zip(names, sizes, strict=True)
                ],
            }
            for step, validation in shown
        ],
        "hidden": len(run.validations) - len(shown),
    }


def _cell(found: Measure | None, with_size: bool) -> dict[str, str]:
    if found is None:
        return {"value": "–", "interval": "", "n": ""}
    size = f"n = {found.n}" if with_size and found.n is not None else ""
    return {"value": wording.number(found.value), "interval": interval_text(found), "n": size}


# --- words and tables -----------------------------------------------------------------------------
def planned(run: Run) -> str:
    """Where the recipe ends, in words."""
    ends = []
    if run.recipe.get("steps"):
        ends.append(f"{run.recipe['steps']:,} steps")
    elif run.recipe.get("epochs"):
        ends.append(f"{run.recipe['epochs']:g} epochs")
    if run.recipe.get("max_tokens"):
        ends.append(f"{run.recipe['max_tokens']:,} tokens")
    return " or ".join(ends)


def progress_sentence(run: Run) -> str:
    """How far the run is, or how it ended."""
    steps = run.recipe.get("steps")
    far = f"{run.steps:,} of {steps:,} steps" if steps else f"{run.steps:,} steps"
    kept = f"; the weights kept are those of step {run.kept_step:,}" if run.kept_step != run.steps else ""
    if run.stopped:
        return (
            f"Stopped early after {far} ({run.stopped}){kept if run.stage is not None else '; there is no model.pt'}."
        )
    if run.stage is None:
        return (
            f"Step {run.steps:,} of {steps:,}, not finished."
            if steps
            else f"Step {run.steps:,}, not finished; the end: {planned(run)}."
        )
    ended = f"; the recipe's end: {planned(run)}" if steps and run.steps < steps or not steps and planned(run) else ""
    return f"Finished after {far}{ended}{kept}."


def summary(run: Run) -> list[str]:
    """The run in sentences."""
    last = run.lines[-1]
    tokens, seconds = (
        run.fact("tokens") or last.get("tokens"),
        run.fact("seconds") or finite_number(last.get("seconds")),
    )
    samples, truncated = run.fact("samples"), run.fact("truncated_samples")
    work = f"{tokens:,} tokens" if tokens is not None else "–"
    if samples is not None:
        work += f" in {samples:,} samples{f' ({truncated:,} of them cut to max_length)' if truncated else ''}"
    speeds = [speed for speed in run.values("tokens_per_second") if speed is not None]
    speed = f"; median {median(speeds):,.0f} tokens/s" if speeds else ""
    validating = run.fact("validation_seconds")
    besides = f"; validation took {wording.duration(validating)} more" if validating else ""
    sentences = [f"{work}, {wording.duration(seconds)}{speed}{besides}."]
    if run.stage is not None:
        peak, flops = wording.quantity(run.fact("peak_memory_bytes"), "B"), wording.quantity(run.fact("flops"), "FLOP")
        sentences.append(f"Peak memory {peak}; {flops}.")
    else:
        sentences.append("Peak memory, FLOP, data and versions are recorded when the run finishes.")
    sentences.append(f"{step_title(run.steps).capitalize()}: {last_losses(run)}.")
    return sentences + validation_sentences(run)


def last_losses(run: Run) -> str:
    """The losses of the last step; those that are off are left out."""
    last = run.lines[-1]
    parts = [f"next-token loss {wording.number(finite_number(last.get('lm')))}"]
    for name, chance in (("contrastive", contrastive_chance(run)[-1]), ("matching", matching_chance(run)[-1])):
        loss, accuracy = finite_number(last.get(name)), finite_number(last.get(f"{name}_accuracy"))
        if loss is not None:
            compared = (
                f" (accuracy {wording.number(accuracy)}, chance {wording.number(chance)})"
                if accuracy is not None
                else ""
            )
            parts.append(f"{name} loss {wording.number(loss)}{compared}")
    return ", ".join(parts)


def validation_sentences(run: Run) -> list[str]:
    ends = before_and_after(run)
    if ends is None:
        if not run.validations:
            return [no_validation_sentence(run)]
        step, only = run.validations[0]
        found = [
            f"{measure_title(name, only)} {measure_text(each)}" for name in MEASURES if (each := measure(only, name))
        ]
        return [f"Validation {'' if step == 0 else 'at '}{step_title(step)}: {'; '.join(found)}."]
    (first, before), (last, after) = ends
    sentences = []
    for name in MEASURES:
        one, two = measure(before, name), measure(after, name)
        if one is not None and two is not None:
            sizes = {found.n for found in (one, two) if found.n is not None}
            about = "; ".join(["95 % intervals", *([f"n = {' and '.join(map(str, sorted(sizes)))}"] if sizes else [])])
            start, end = (
                f"{_brief(one)} {'' if first == 0 else 'at '}{step_title(first)}",
                f"{_brief(two)} at {step_title(last)}",
            )
            sentences.append(f"Validation, {measure_title(name, after)}: {start} → {end} ({about}).")
    return sentences


def _brief(found: Measure) -> str:
    return f"{wording.number(found.value)} {interval_text(found)}".rstrip()


def loss_table(run: Run) -> dict[str, Any]:
    """First step, last step and median of the last tenth of the steps (of five, if that is more), of every loss that
    was on."""
    tail = min(len(run.lines), max(5, len(run.lines) // 10))
    names = {
        "lm": "next-token loss",
        "contrastive": "contrastive loss",
        "contrastive_accuracy": "contrastive accuracy",
        "matching": "matching loss",
        "matching_accuracy": "matching accuracy",
    }
    chances = {"contrastive_accuracy": contrastive_chance(run), "matching_accuracy": matching_chance(run)}
    lines = []
    for name, title in names.items():
        values = run.values(name)
        if any(value is not None for value in values):
            known = [value for value in values[-tail:] if value is not None]
            chance = [value for value in chances.get(name, [])[-tail:] if value is not None]
            lines.append(
                {
                    "title": title,
                    "first": wording.number(values[0]),
                    "last": wording.number(values[-1]),
                    "tail": wording.number(median(known)) if known else "–",
                    "chance": wording.number(median(chance)) if chance else "–",
                }
            )
    return {"lines": lines, "tail": tail, "first": run.lines[0]["step"], "last": run.steps}


def plain_text(value: Any) -> str:
    """A value of a recipe as text; nothing given is a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return json.dumps(wording.finite(value), ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) else str(value)


def data_table(run: Run) -> list[dict[str, str]]:
    """A line a source: what the recipe asks for and, of a finished run, what was read."""
    sources = [source for source in run.recipe.get("sources") or [] if isinstance(source, dict)]
    described = run.fact("data") or []
    table = []
    for index, source in enumerate(sources):
        read = described[index] if index < len(described) and isinstance(described[index], dict) else {}
        lines = read.get("lines", read.get("records"))
        languages = read.get("languages") or source.get("languages") or []
        table.append(
            {
                "path": plain_text(read.get("path") or source.get("path")),
                "kind": plain_text(source.get("kind")),
                "weight": plain_text(source.get("weight")),
                "split": plain_text(read.get("split") or source.get("split")),
                "languages": ", ".join(map(str, languages)) or "all",
                "lines": f"{lines:,}" if isinstance(lines, int) else "–",
                "sha256": plain_text(read.get("sha256")),
                "licence": plain_text(read.get("licence")),
            }
        )
    return table


def run_facts(run: Run) -> dict[str, str]:
    """Where, when and with what the run was made."""
    facts = {
        "recipe, sha256": run.recipe_hash,
        "started from": run.recipe.get("init") or "new weights",
        "its content": (run.init or {}).get("content_hash"),
        "device": run.fact("device"),
        "seed": run.recipe.get("seed"),
        "align layer": run.fact("align_layer"),
        **(run.fact("versions") or {}),
        "command": run.fact("command"),
        "started": run.fact("started"),
        "finished": run.fact("finished"),
    }
    return {name: plain_text(value) for name, value in facts.items() if value not in (None, "")}
