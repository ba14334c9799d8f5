"""What a run is of: the text and the options that decide its numbers, and its checkpoints. Another identity gets
another directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignx_eval.errors import InputError, NotComparableError
from alignx_eval.settings import Settings
from alignx_eval.sources import Source

if TYPE_CHECKING:
    from alignx_eval.corpora import ParallelCorpus
    from alignx_eval.run_directory import RunDirectory


def identity_of(
    sources: Sequence[Source], corpus: ParallelCorpus | None, settings: Settings, template: str
) -> dict[str, Any]:
    """What decides every number of a run besides its checkpoints: the text asked for and the options. Suites and tasks
    have no part in it, since they only add to a run."""
    if corpus is None:  # of results that are there
        return next(_without_checkpoints(source.run) for source in sources if source.run is not None)
    text = corpus if settings.languages is None else corpus.select(settings.languages)  # without a pivot that was added
    named = ("suites", "tasks", "corpus", "split", "languages", "template")
    return {
        "corpus": text.name,
        "split": text.split,
        "content": text.content_hash,
        "languages": sorted(text.languages),
        "lines": len(text),
        **{name: value for name, value in settings.measuring().items() if name not in named},
        "template": template,
    }


def identity_in_run(source: Source, own: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of a checkpoint of an earlier run; with the options it was measured with, where they are not those of
    this run."""
    assert source.run is not None
    recorded: list[dict[str, Any]] = source.run.manifest.get("identity", {}).get("checkpoints", [])
    entry: dict[str, Any] = next((entry for entry in recorded if entry["name"] == source.label_in_run), {})
    options = _without_checkpoints(source.run)
    return {name: entry.get(name) for name in ("content", "dtype", "device")} | (
        {"options": options} if options != own else {}
    )


def default_out(sources: Sequence[Source], identity: Mapping[str, Any]) -> Path:
    """`alignx-runs/NAMES-HASH`, the same for the same identity, so that a repeated command resumes and another one has
    its own."""
    names = [
        Path(source.label_in_run or source.reference.removeprefix("bundled:").rstrip("/")).stem for source in sources
    ]
    readable = "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in name) for name in names)[:80]
    return (
        Path("alignx-runs")
        / f"{readable}-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:6]}"
    )


def check_identity(directory: RunDirectory, identity: Mapping[str, Any], sources: Sequence[Source]) -> None:
    """Raise InputError where `directory` holds results of something else: they would be lost."""
    recorded = directory.manifest.get("identity")
    if recorded == identity or not directory.labels():
        return
    if recorded is None:
        differences = ["it was made by an older alignx-eval"]
    else:
        differences = [
            f"{name} is {_short(recorded.get(name))} there and {_short(identity.get(name))} here"
            for name in dict.fromkeys([*identity, *recorded])
            if name != "checkpoints" and recorded.get(name) != identity.get(name)
        ]
        there, here = recorded.get("checkpoints", []), identity["checkpoints"]
        names = [", ".join(entry["name"] for entry in entries) for entries in (there, here)]
        if names[0] != names[1]:
            differences.insert(0, f"its checkpoints are {names[0]}, here they are {names[1]}")
        else:
            differences += [
                f"{name} of {new['name']} is {_short(old.get(name))} there and {_short(new.get(name))} here"
                for old, new in zip(there, here, strict=True)
                for name in dict.fromkeys([*old, *new])
                if old.get(name) != new.get(name)
            ]
    raise InputError(
        f"{directory.path}: holds results of another run ({'; '.join(differences)}), which are not overwritten; "
        "choose another --out, or "
        f"leave it out for {default_out(sources, identity)}"
    )


def check_runs_compare(
    sources: Sequence[Source], own: Mapping[str, Any], settings: Settings, *, measures: bool
) -> None:
    """Raise NotComparableError where results that are inputs do not compare with each other, or are of another text
    than what would be measured beside them; before anything is measured."""
    from alignx_eval.comparison.comparable import check_comparable

    runs = [source for source in sources if source.run is not None]
    results = {
        f"{source.reference} ({number})": {
            suite: source.run.load(source.label_in_run, suite) for suite in settings.suites
        }
        for number, source in enumerate(runs, 1)
        if source.run is not None
    }
    if len(runs) > 1:
        check_comparable(results, list(results), settings.allow_mismatch)
    if not measures or settings.allow_mismatch or set(settings.suites) == {"tasks"}:
        return
    for source in runs:
        assert source.run is not None
        recorded = _without_checkpoints(source.run)
        text = [
            name
            for name in ("corpus", "split", "content", "languages", "lines")
            if recorded and recorded.get(name) != own[name]
        ]
        if text:
            told = "; ".join(
                f"{name} is {_short(recorded.get(name))} there and {_short(own[name])} here" for name in text
            )
            raise NotComparableError(
                f"{source.reference}: results of another text than what would be measured beside them ({told})"
            )


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return (
        str(value)[:12] if isinstance(value, str) and len(value) == 64 else "not given" if value is None else str(value)
    )


def _without_checkpoints(run: RunDirectory) -> dict[str, Any]:
    return {name: value for name, value in run.manifest.get("identity", {}).items() if name != "checkpoints"}
