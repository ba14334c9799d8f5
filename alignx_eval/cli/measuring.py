"""What `compare`, `run` and `report` have in common: from references on the command line to results, and from a comparison to files."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from alignx_eval import processes
from alignx_eval.cli.display import Display
from alignx_eval.cli.options import Settings, default_cache_dir, prepare_environment
from alignx_eval.errors import InputError
from alignx_eval.evaluate import PIVOT, PIVOT_SUITES, SUITES, Options, evaluate, relabel, release_memory, unique_label
from alignx_eval.results import LayerSimilarity, SuiteResult
from alignx_eval.run_directory import RunDirectory, atomic_write

if TYPE_CHECKING:
    from alignx_eval.comparison import Comparison, Contrast
    from alignx_eval.corpora import ParallelCorpus
    from alignx_eval.encode import Pooling
    from alignx_eval.gate import Verdict
    from alignx_eval.policy import Policy


@dataclass(slots=True)
class Source:
    """One positional argument: a checkpoint to be measured, or a checkpoint of an earlier run."""

    reference: str
    run: RunDirectory | None = None
    label_in_run: str = ""


def read_reference(reference: str) -> Source:
    """A run directory (`DIR`, or `DIR#LABEL` where it holds several checkpoints) is opened; anything else is taken for a checkpoint."""
    folder, _, label = reference.partition("#")
    path = Path(folder).expanduser()
    if not ((path / "manifest.json").is_file() or path.name == "results.json"):
        return Source(reference)
    run = RunDirectory.read(path)
    labels = run.labels()
    if label and label not in labels:
        raise InputError(f"{folder}: holds no checkpoint {label!r}; there are: {', '.join(labels)}")
    if not label and len(labels) > 1:
        raise InputError(
            f"{folder}: holds {len(labels)} checkpoints; name one, as in {folder}#{labels[-1]} (there are: {', '.join(labels)})"
        )
    return Source(reference, run, label or labels[0])


def inherited_options(sources: Sequence[Source]) -> dict[str, Any]:
    """The options of the first run directory among the inputs, so that checkpoints beside it are measured in the same way."""
    for source in sources:
        if source.run is not None:
            options = source.run.manifest.get("options", {})
            return {name: options[name] for name in Settings().measuring() if options.get(name) is not None}
    return {}


def default_out(sources: Sequence[Source]) -> Path:
    """`alignx-runs/NAMES-HASH`, the same for the same inputs, so that a repeated command resumes."""
    names = [Path(source.label_in_run or source.reference.removeprefix("bundled:").rstrip("/")).stem for source in sources]
    identity = "\0".join(
        source.reference if source.reference.startswith("bundled:") else os.path.abspath(source.reference) for source in sources
    )
    readable = "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in name) for name in names)[:80]
    return Path("alignx-runs") / f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:6]}"


@dataclass(slots=True)
class Plan:
    """What is settled before anything is measured; `roles` says of each source whether it is "base", "candidate" or "control"."""

    sources: Sequence[Source]
    roles: Sequence[str]
    settings: Settings
    corpus: ParallelCorpus | None
    corpus_facts: dict[str, Any]
    template: str


def plan(sources: Sequence[Source], roles: Sequence[str], settings: Settings) -> Plan:
    """Find out everything that can be wrong with the inputs, as far as that is possible without opening a model. Writes nothing."""
    check_outputs(settings.output)
    prepare_environment(settings.offline)
    for source in sources:
        missing = [suite for suite in settings.suites if source.run is not None and suite not in source.run.suites(source.label_in_run)]
        if missing:
            raise InputError(f"{source.reference}: has no results of {', '.join(missing)}; measure them, or choose others with --suites")
    if all(source.run is not None for source in sources):
        return Plan(sources, roles, settings, None, _corpus_of_runs(sources), settings.template or "plain")
    from alignx_eval.encode import POOLINGS
    from alignx_eval.prompts import template_text

    if settings.pooling not in POOLINGS:
        raise InputError(f"unknown pooling {settings.pooling!r}; known: {', '.join(POOLINGS)}")
    if settings.template:
        template_text(settings.template)
    corpus = load_text(settings)
    template = _resolve_template(sources, settings)
    template_text(template)
    return Plan(sources, roles, settings, corpus, describe_corpus(corpus), template)


def load_text(settings: Settings) -> ParallelCorpus:
    """The corpus in the languages asked for, with the pivot where a suite needs it; that it was added is said.

    Raises what `load_corpus` raises, and InputError where the corpus has no text in the pivot language.
    """
    from alignx_eval.corpora import load_corpus
    from alignx_eval.languages import LANGUAGES

    def load(languages: tuple[str, ...] | None) -> ParallelCorpus:
        return load_corpus(settings.corpus, settings.split, languages, settings.limit)

    paired = [suite for suite in settings.suites if suite in PIVOT_SUITES]
    if settings.languages is None or PIVOT in settings.languages or not paired:
        corpus = load(settings.languages)
        why = f"; it has {', '.join(corpus.languages)}"
    else:
        try:
            corpus, why = load((*settings.languages, PIVOT)), ""
        except InputError as error:
            corpus, why = load(settings.languages), f" ({error})"  # what is wrong with the languages asked for is told as it is
    if not paired or PIVOT in corpus.languages:
        if paired and settings.languages is not None and PIVOT not in settings.languages and not settings.quiet and processes.is_main():
            print(f"{PIVOT} ({LANGUAGES[PIVOT].name}) is added: {' and '.join(paired)} pair every language with it", file=sys.stderr)
        return corpus
    others = [suite for suite in SUITES if suite not in PIVOT_SUITES]
    raise InputError(
        f"{' and '.join(paired)} pair every language with {PIVOT} ({LANGUAGES[PIVOT].name}), which corpus {settings.corpus} lacks{why}; "
        f"take another corpus, or --suites {','.join(others)}"
    )


def measure(
    plan: Plan, directory: RunDirectory, display: Display
) -> tuple[list[str], dict[str, dict[str, SuiteResult]], dict[str, dict[str, Any]]]:
    """Labels in the order of the plan's sources, results by label and suite, and what is known of each checkpoint by label.

    Models are in memory one after the other; results are in `directory` as soon as they are complete.
    """
    settings = plan.settings
    checkpoints: dict[str, dict[str, Any]] = {}
    results: dict[str, dict[str, SuiteResult]] = {}
    started = time.time()
    labels: list[str] = []
    command = shlex.join(["alignx-eval", *sys.argv[1:]])
    # What the same command found out before stays in the manifest until it is found out again, so that a run that is resumed and killed
    # can be reported on as before.
    before = directory.manifest if directory.manifest.get("command") == command else {}
    labels_before = [before.get("base"), *before.get("candidates", []), before.get("control")][: len(plan.sources)]

    def write_manifest(status: str) -> None:
        known = [*labels, *labels_before[len(labels) :]]
        by_role = {
            role: [label for label, its_role in zip(known, plan.roles) if its_role == role and label]
            for role in ("base", "candidate", "control")
        }
        directory.write_manifest(
            {
                "status": status,
                "command": command,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                "seconds": round(time.time() - started, 1),
                "base": by_role["base"][0] if by_role["base"] else None,
                "candidates": by_role["candidate"],
                "control": by_role["control"][0] if by_role["control"] else None,
                "options": {
                    **settings.measuring(),
                    "template": plan.template,
                    "allow_mismatch": list(settings.allow_mismatch),
                    "series": settings.series,
                },
                "corpus": plan.corpus_facts,
                "checkpoints": {
                    label: facts for label, facts in {**before.get("checkpoints", {}), **checkpoints}.items() if label in known
                },
                "software": software_versions(),
            }
        )

    write_manifest("running")
    for source in plan.sources:
        if source.run is not None:
            label = unique_label(source.label_in_run, labels)
            labels.append(label)
            checkpoints[label] = {**source.run.manifest.get("checkpoints", {}).get(source.label_in_run, {}), "name": label}
            results[label] = _take_over(source, label, settings, directory)
            display.say(f"{label}: taken from {source.run.path}")
            write_manifest("running")
            continue
        from alignx_eval.checkpoint import open_checkpoint

        opened = time.perf_counter()
        checkpoint = open_checkpoint(
            source.reference, device=_own_device(settings.device or _default_device()), dtype=settings.dtype, offline=settings.offline
        )
        checkpoint.name = unique_label(checkpoint.name, labels)
        labels.append(checkpoint.name)
        checkpoints[checkpoint.name] = describe_checkpoint(checkpoint)
        write_manifest("running")
        display.say(f"{checkpoint.name}: opened {source.reference} in {time.perf_counter() - opened:.1f} s")
        assert plan.corpus is not None
        if {"layers", "language_id"} & set(settings.suites):
            display.say(f"{checkpoint.name}: {_announce_vectors(checkpoint, plan.corpus, settings.cache_dir or default_cache_dir())}")
        results[checkpoint.name] = evaluate(
            checkpoint,
            plan.corpus,
            settings.suites,
            Options(
                languages=settings.languages,
                pooling=cast("Pooling", settings.pooling),
                seed=settings.seed,
                template=plan.template,
                tasks=settings.tasks,
                limit=settings.limit,
                cache_dir=settings.cache_dir or default_cache_dir(),
                samples=settings.samples,
            ),
            directory=directory,
            progress=display.bar(checkpoint.name),
            finished=display.finished(checkpoint.name),
        )
        del checkpoint
        release_memory()
    write_manifest("complete")
    return labels, results, checkpoints


def compare_layers(
    directory: RunDirectory,
    results: dict[str, dict[str, SuiteResult]],
    base: str,
    candidates: Sequence[str],
    control: str | None,
    settings: Settings,
    display: Display,
) -> list[LayerSimilarity]:
    """CKA of each candidate with the base, and with the control if there is one, stored in `directory` one by one.

    Left out, with a word to the user, where the vectors are no longer in the cache.
    """
    from alignx_eval.layer_similarity import compare_cached_layers

    layers = {label: suites["layers"] for label, suites in results.items() if "layers" in suites}
    known, found = directory.layer_similarity(), []
    contrasts: list[tuple[str, str, Contrast]] = [(base, candidate, "candidate-base") for candidate in candidates]
    if control is not None:
        contrasts += [(control, candidate, "candidate-control") for candidate in candidates]
    for reference, candidate, contrast in contrasts:
        if reference not in layers or candidate not in layers:
            continue
        try:
            similarity = compare_cached_layers(
                layers,
                reference,
                candidate,
                contrast,
                cache_dir=settings.cache_dir or default_cache_dir(),
                known=known,
                progress=display.bar(f"{candidate} against {reference}")("layers"),
            )
        except InputError as error:  # a damaged entry; everything else is there and must be shown
            display.say(str(error))
            similarity = None
        if similarity is None:
            display.say(
                f"no CKA between {reference} and {candidate}: their sentence vectors are not both in the cache; "
                "to have it, measure the checkpoints again into a new --out (the vectors of all of them have to fit the cache)"
            )
            continue
        found.append(similarity)
    if found != known:
        directory.write_layer_similarity(found)
    return found


def read_policy(settings: Settings, directory: RunDirectory | None = None) -> tuple[Policy, str]:
    """The policy of --policy, else the one that the comparison in `directory` was made with, else the default one; and its name.

    Raises InputError for anything that is not a policy.
    """
    from alignx_eval.policy import Policy, default_policy, load_policy

    if settings.policy:
        return load_policy(settings.policy), settings.policy
    recorded = directory.manifest.get("policy") if directory is not None else None
    if directory is None or recorded is None:
        return default_policy(), "default policy"
    try:
        return Policy.model_validate(recorded["content"]), str(recorded["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{directory.path / 'manifest.json'}: holds no valid policy; give one with --policy") from error


@dataclass(frozen=True, slots=True)
class Finished:
    """One checkpoint of a complete run directory, with the parts of the manifest that a baseline needs."""

    label: str
    results: dict[str, SuiteResult]
    checkpoint: dict[str, Any]
    corpus: dict[str, Any]
    software: dict[str, Any]
    version: str
    seed: int


def check_finished(directory: RunDirectory) -> None:
    """Raises InputError where the run is not complete, or a suite that was asked for is missing: half a result is no result."""
    manifest = directory.manifest
    if manifest.get("status") != "complete":
        raise InputError(f"{directory.path}: the run is not complete; give the same command again to finish it")
    wanted = manifest.get("options", {}).get("suites") or []
    for name in (manifest.get("base"), *(manifest.get("candidates") or []), manifest.get("control")):
        missing = [suite for suite in wanted if suite not in directory.suites(name)] if name is not None else []
        if missing:
            raise InputError(
                f"{directory.path}: {name} has no results of {', '.join(missing)}; give the same command again to measure them"
            )


def read_finished(directory: RunDirectory, label: str = "") -> Finished:
    """The checkpoint `label` of a run directory; left empty, its only one, or the candidate where there is just one.

    Raises InputError as `check_finished`, and where it is not clear which checkpoint is meant.
    """
    check_finished(directory)
    manifest = directory.manifest
    labels, candidates = directory.labels(), list(manifest.get("candidates") or [])
    there = f"there are: {', '.join(labels)}"
    if label and label not in labels:
        raise InputError(f"{directory.path}: holds no checkpoint {label!r}; {there}")
    chosen = label or (labels[0] if len(labels) == 1 else candidates[0] if len(candidates) == 1 else "")
    if chosen not in labels:
        raise InputError(f"{directory.path}: holds several checkpoints; name one, as in {directory.path}#{labels[-1]} ({there})")
    wanted = manifest.get("options", {}).get("suites") or []
    return Finished(
        label=chosen,
        results={suite: result for suite, result in directory.results(chosen).items() if suite in wanted or not wanted},
        checkpoint=dict(manifest.get("checkpoints", {}).get(chosen) or {"name": chosen}),
        corpus=dict(manifest.get("corpus") or {}),
        software=dict(manifest.get("software") or {}),
        version=str(manifest.get("version")),
        seed=int(manifest.get("options", {}).get("seed") or 0),
    )


def read_comparison(directory: RunDirectory, settings: Settings) -> Comparison:
    """The comparison of a run directory, computed again from its results without a model.

    Raises InputError where a checkpoint of the comparison has no results, NotComparableError as `comparison.compare`.
    """
    from alignx_eval.comparison import compare

    manifest = directory.manifest
    base, candidates, control = manifest.get("base"), list(manifest.get("candidates") or []), manifest.get("control")
    named = [label for label in (base, *candidates, control) if label is not None]
    missing = [label for label in named if label not in directory.labels()]
    if base is None or missing:
        raise InputError(
            f"{directory.path}: nothing is finished for {', '.join(missing) or 'its base'}; run the same command again to go on with it"
        )
    options = manifest.get("options", {})
    wanted = options.get("suites") or []
    results = {
        label: {suite: result for suite, result in directory.results(label).items() if suite in wanted or not wanted}
        for label in dict.fromkeys(named)
    }
    if not settings.samples:
        for result in (result for suites in results.values() for result in suites.values()):
            result.samples = []
    checkpoints = manifest.get("checkpoints", {})
    if options.get("series"):
        from alignx_eval.series import order_steps

        candidates = order_steps(candidates, checkpoints)
    return compare(
        results,
        base=base,
        candidates=candidates,
        control=control,
        checkpoints=checkpoints,
        corpus=manifest.get("corpus", {}),
        seed=int(options.get("seed", 0)),
        allow_mismatch={*settings.allow_mismatch, *options.get("allow_mismatch", ())},
        series=bool(options.get("series")),
        layer_similarity=_current(directory.layer_similarity(), results),
    )


def _current(similarities: Sequence[LayerSimilarity], results: dict[str, dict[str, SuiteResult]]) -> list[LayerSimilarity]:
    """Those that belong to the vectors of these results, and not to what was measured here before."""
    from alignx_eval.layer_similarity import similarity_key

    layers = {label: suites["layers"] for label, suites in results.items() if "layers" in suites}
    return [
        each
        for each in similarities
        if {each.reference, each.candidate} <= set(layers) and each.key == similarity_key(layers, each.reference, each.candidate)
    ]


def write_outputs(
    comparison: Comparison,
    verdict: Verdict | None,
    folder: Path | None,
    settings: Settings,
    display: Display,
    *,
    next_command: str | None = None,
) -> None:
    """report.html, summary.md and junit.xml into the run directory `folder` if there is one, the files of -o, the first screen to stdout.

    `verdict` is None for a checkpoint alone.
    """
    from alignx_eval.render import console

    if folder is not None:
        names = ("report.html", "summary.md", "junit.xml") if verdict is not None else ("report.html", "summary.md")
        for name in names:
            atomic_write(folder / name, _render(comparison, verdict, Path(name).suffix, settings))
    for output in settings.output:
        atomic_write(Path(output).expanduser(), _render(comparison, verdict, Path(output).suffix, settings))
        display.say(f"wrote {output}")
    width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80
    report = str(folder / "report.html") if folder is not None else next((name for name in settings.output if name.endswith(".html")), None)
    screen = console.render(
        comparison,
        verdict,
        report_path=report,
        next_command=next_command,
        width=min(max(width, 60), 110),
        colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR"),
    )
    sys.stdout.write(screen)
    if settings.annotations and verdict is not None:
        from alignx_eval.render import github

        sys.stdout.write(github.render(comparison, verdict, strict=settings.strict))
    sys.stdout.flush()


def check_outputs(outputs: Sequence[str]) -> None:
    """Find out before hours of measuring that a file of -o cannot be written."""
    for output in outputs:
        path = Path(output).expanduser()
        if path.is_dir():
            raise InputError(f"-o {output}: is a folder, a file name is needed")
        parent = path.absolute().parent
        if parent.exists() and not os.access(parent, os.W_OK):
            raise InputError(f"-o {output}: the folder {parent} cannot be written to")


def describe_checkpoint(checkpoint: Any) -> dict[str, Any]:
    """What renderers and the manifest say about a checkpoint, as plain JSON."""
    from alignx_eval.checkpoint import parameter_count

    names = (
        "name",
        "reference",
        "content_hash",
        "stage",
        "step",
        "align_layer",
        "prompt_template",
        "provenance",
        "recipe",
        "format",
        "notes",
    )
    return {**{name: getattr(checkpoint, name) for name in names}, "parameters": parameter_count(checkpoint)}


def describe_corpus(corpus: Any) -> dict[str, Any]:
    """What renderers and the manifest say about a corpus, as plain JSON."""
    facts = {name: getattr(corpus, name) for name in ("name", "split", "content_hash", "licence", "attribution", "note")}
    return {**facts, "languages": list(corpus.languages), "lines": len(corpus)}


def software_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "sacrebleu", "lm-eval"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _take_over(source: Source, label: str, settings: Settings, directory: RunDirectory) -> dict[str, SuiteResult]:
    """Results of an earlier run under `label`, copied into `directory` so that it is complete by itself."""
    assert source.run is not None
    taken = {}
    for suite, result in source.run.results(source.label_in_run).items():
        if suite in settings.suites:
            result = relabel(result, label)
            if not settings.samples:
                result.samples = []
            key, options = source.run.key_and_options(source.label_in_run, suite)
            if source.run.path.resolve() != directory.path.resolve() and directory.writable:
                directory.save(label, key, result, options=options, samples=settings.samples)
            taken[suite] = result
    if not taken:
        raise InputError(f"{source.reference}: holds none of the suites {', '.join(settings.suites)}")
    return taken


def _corpus_of_runs(sources: Sequence[Source]) -> dict[str, Any]:
    for source in sources:
        if source.run is not None:
            return dict(source.run.manifest.get("corpus") or {})
    return {}


def _resolve_template(sources: Sequence[Source], settings: Settings) -> str:
    """One template for all: --template, else the first that a checkpoint names, else plain. Tells early what is not there."""
    from alignx_eval.checkpoint import recorded_template

    recorded = [recorded_template(source.reference, offline=settings.offline) for source in sources if source.run is None]
    return settings.template or next((template for template in recorded if template), "plain")


def _announce_vectors(checkpoint: Any, corpus: ParallelCorpus, cache_dir: str) -> str:
    """How large the sentence vectors of one checkpoint are, before they are made."""
    from alignx_eval import vector_cache

    config = checkpoint.model.config.get_text_config()
    size = vector_cache.expected_bytes(
        languages=len(corpus.languages), lines=len(corpus), layers=config.num_hidden_layers + 2, width=config.hidden_size
    )
    cap = vector_cache.DEFAULT_MAX_BYTES
    text = f"sentence vectors take up to {_readable(size)} in {cache_dir}"
    return text + (f", more than the cap of {_readable(cap)}: they stay until another checkpoint is encoded" if size > cap else "")


def _readable(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{max(1, round(size / 2**20))} MiB"


def _default_device() -> str:
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return "cuda"


def _own_device(device: str) -> str:
    """Of several processes each has a GPU of its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and processes.launched() else device


def _render(comparison: Comparison, verdict: Verdict | None, suffix: str, settings: Settings) -> str:
    if suffix == ".html":
        from alignx_eval.render import html

        return html.render(comparison, verdict)
    if suffix == ".md":
        from alignx_eval.render import markdown

        return markdown.render(comparison, verdict)
    if suffix == ".xml":
        from alignx_eval.render import junit

        if verdict is None:
            raise InputError("JUnit needs a comparison: one checkpoint alone has no verdict")
        return junit.render(comparison, verdict, strict=settings.strict)
    from alignx_eval.render import tables

    return tables.render_json(comparison, verdict) if suffix == ".json" else tables.render_csv(comparison, verdict)
