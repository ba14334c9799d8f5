"""The report: one self-contained HTML file that loads nothing, reads without JavaScript, and fits a phone, a dark room
and a printer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from alignx_eval import wording
from alignx_eval.assets import asset_folder
from alignx_eval.comparison.contrasts import Contrast, contrasts_of
from alignx_eval.comparison.costs import own_costs
from alignx_eval.comparison.rows import labels
from alignx_eval.judgement.findings import uses_corpus
from alignx_eval.judgement.gate import WORDS as OUTCOME_WORDS
from alignx_eval.render import figures, view
from alignx_eval.render.html.curves import curves_section, line_styles
from alignx_eval.render.html.facts import cost_totals, facts, notes
from alignx_eval.render.html.pictures import SIMILARITY_SHADES, maps, projections, similarity_section
from alignx_eval.render.html.samples import sample_browser
from alignx_eval.render.html.tables import tables_section
from alignx_eval.render.html.verdict import SERIES_DETAIL, diagnoses, series_section, verdict_section
from alignx_eval.render.svg import swatch

if TYPE_CHECKING:
    from alignx_eval.comparison.rows import Comparison
    from alignx_eval.judgement.findings import Headline
    from alignx_eval.judgement.report import Report


def render(report: Report, *, samples: bool = True) -> str:
    """The whole report as HTML text that encodes to UTF-8. `samples=False` leaves the sentences out.

    Without a verdict, as for a single checkpoint, the page has neither the gate's answer nor the trajectories of a
    series.
    """
    import jinja2

    folder = asset_folder("reports")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(
        view=view, wording=wording, svg=_safe, figures=figures, swatch=swatch, OUTCOME_WORDS=OUTCOME_WORDS
    )
    comparison, verdict, series = report.comparison, report.verdict, report.series
    shown = _detail(report)
    detail = shown.comparison
    browser = sample_browser(detail) if samples else None
    curves = curves_section(detail)
    page = environment.get_template("report.html.j2").render(
        comparison=comparison,
        subject=_subject(comparison),
        corpus=comparison.corpus if uses_corpus(comparison) else {},
        detail=detail,
        verdict=verdict_section(verdict, detail.candidates) if verdict is not None else None,
        series=series_section(comparison, series) if series is not None else None,
        diagnoses=diagnoses(shown),
        css=_safe((folder / "report.css").read_text(encoding="utf-8")),
        javascript=_safe((folder / "report.js").read_text(encoding="utf-8")),
        headlines=[_headlines(shown, candidate) for candidate in detail.candidates],
        headline_rule=view.HEADLINE_RULE,
        sentence=report.sentence,
        others=view.other_findings(shown),
        measured=view.measured(detail) if not detail.candidates else [],
        opened=view.opening_notes(comparison),
        no_control=view.no_control_sentence(comparison),
        styles=line_styles(detail),
        labels=labels(comparison),
        curves=curves,
        curve_data=_script_data(curves["data"]) if curves else None,
        similarity_shades=SIMILARITY_SHADES,
        similarities=[similarity_section(detail, each, number) for number, each in enumerate(detail.layer_similarity)],
        tables=tables_section(detail),
        browser=browser,
        sample_data=_script_data(browser["data"]) if browser else None,
        costs=[cost for label in labels(comparison) for cost in own_costs(comparison, label)],
        totals=cost_totals(comparison),
        projections=projections(detail),
        maps=maps(detail),
        facts=facts(comparison),
        notes=notes(comparison),
    )
    return wording.clean(page)


def _safe(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _script_data(data: Any) -> Any:
    """JSON for a script element: `<`, `>` and `&` are escaped, so that no text in it can end the element."""
    text = json.dumps(wording.finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _safe(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _subject(comparison: Comparison) -> str:
    """What the title names; of many candidates not all."""
    names = comparison.candidates
    if len(names) <= SERIES_DETAIL:
        return ", ".join(names) or comparison.base
    return (
        f"{len(names)} checkpoints, {names[0]} to {names[-1]},"
        if comparison.series
        else f"{', '.join(names[:3])} and {len(names) - 3} more"
    )


def _detail(report: Report) -> Report:
    """What curves, tables and samples show: of a long series, the steps around the first failure, the first and the
    last."""
    steps, series = report.comparison.candidates, report.series
    if series is None or len(steps) <= SERIES_DETAIL:
        return report
    wanted = [steps[-1], steps[0]]
    if series.first_failure is not None:
        place = steps.index(series.first_failure.label)
        wanted = [steps[place], steps[-1], *steps[max(0, place - 1) : place], steps[0]]
    return report.of(list(dict.fromkeys(wanted))[:SERIES_DETAIL])


def _headlines(report: Report, candidate: str) -> dict[str, Any]:
    """The headline numbers of a candidate as a table: its contrasts, the effect of alignment first, then the values."""
    headlines = [headline for headline in report.headlines if headline.candidate == candidate]
    contrasts = contrasts_of(report.comparison, candidate)
    kinds = {contrast.other: contrast.kind for contrast in reversed(contrasts)} | {
        candidate: ""
    }  # base, control, candidate
    lines = [
        {
            "title": view.headline_title(headline),
            "note": view.headline_note(headline),
            "long": headline.title,
            "changes": [_change(headline, contrast) for contrast in contrasts],
            "values": [view.headline_value(headline, kind) for kind in kinds.values()],
        }
        for headline in headlines
    ]
    return {
        "candidate": candidate,
        "contrasts": contrasts,
        "names": list(kinds),
        "lines": lines,
        "size": view.headline_sizes(headlines),
    }


def _change(headline: Headline, contrast: Contrast) -> dict[str, str]:
    change = next((each for each in headline.changes if each.contrast == contrast.kind), None)
    if change is None:
        return {"verdict": "insufficient-data", "mark": "", "word": "not measured", "numbers": "", "reason": ""}
    return {
        "verdict": change.word,
        "mark": view.MARKS[change.word],
        "word": view.WORDS[change.word],
        "numbers": view.change_numbers(headline, change),
        "reason": change.reason,
    }
