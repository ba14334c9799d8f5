"""What `compare`, `run` and `report` have in common: from references on the command line to results, and from a comparison to files."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from alignx_eval import processes
from alignx_eval.checkpoint import release_memory
from alignx_eval.cli.display import Display
from alignx_eval.cli.output import _check_folder, check_outputs
from alignx_eval.environment import (
    _default_device,
    _own_device,
    default_cache_dir,
    prepare_environment,
    software_versions,
)
from alignx_eval.errors import AlignxError, InputError, NotComparableError
from alignx_eval.evaluate import check, evaluate
from alignx_eval.metrics import SUITES
from alignx_eval.results import LayerSimilarity, SuiteResult, relabel, unique_label
from alignx_eval.run_directory import RunDirectory
from alignx_eval.settings import Settings
from alignx_eval.sources import (
    Source,
    _corpus_of_runs,
    _identity_in_run,
    _readable,
    _resolve_template,
    _suites_of_run,
    _without_checkpoints,
    check_current,
    default_out,
    unfinished,
)
from alignx_eval.suites.table import PIVOT, PIVOT_SUITES, Options

if TYPE_CHECKING:
    from alignx_eval.checkpoint import Checkpoint
    from alignx_eval.comparison.rows import ContrastKind
    from alignx_eval.corpora import ParallelCorpus
    from alignx_eval.engine.encode import Pooling


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
    out = settings.out or "alignx-runs"
    _check_folder(f"--out {out}" if settings.out else "the run directory", Path(out).expanduser().absolute())
    prepare_environment(settings.offline)
    for source in sources:
        if source.run is None:
            continue
        missing = [suite for suite in settings.suites if suite not in source.run.suites(source.label_in_run)]
        if missing:
            why = f" ({reason})" if (reason := unfinished(source.run)) else ""
            what = f"{source.reference}: has no results of {', '.join(missing)}{why}"
            raise InputError(f"{what}; measure them, or choose others with --suites")
        check_current(source.run, [source.label_in_run], settings.suites)
    if all(source.run is not None for source in sources):
        return Plan(sources, roles, settings, None, _corpus_of_runs(sources), settings.template or "plain")
    from alignx_eval.engine.encode import POOLINGS
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
            corpus, why = (
                load(settings.languages),
                f" ({error})",
            )  # what is wrong with the languages asked for is told as it is
    if not paired or PIVOT in corpus.languages:
        if (
            paired
            and settings.languages is not None
            and PIVOT not in settings.languages
            and not settings.quiet
            and processes.is_main()
        ):
            print(
                f"{PIVOT} ({LANGUAGES[PIVOT].name}) is added: {' and '.join(paired)} pair every language with it",
                file=sys.stderr,
            )
        return corpus
    others = [suite for suite in SUITES if suite not in PIVOT_SUITES]
    raise InputError(
        f"{' and '.join(paired)} pair every language with {PIVOT} ({LANGUAGES[PIVOT].name}), which corpus {settings.corpus} lacks{why}; "
        f"take another corpus, or --suites {','.join(others)}"
    )


@dataclass(slots=True)
class Ready:
    """Inputs that have passed every check: labels in the order of the plan's sources, what is known of each checkpoint by label, those
    checkpoints that stay open, and the identity of the run (see `_identity_of_options`)."""

    labels: list[str]
    checkpoints: dict[str, dict[str, Any]]
    opened: dict[str, Checkpoint]
    identity: dict[str, Any]


@contextlib.contextmanager
def run_directory(plan: Plan, display: Display) -> Iterator[tuple[RunDirectory, Ready]]:
    """The locked run directory of a plan whose inputs have all been checked, and those inputs.

    Nothing is written before that. Raises what `prepare` raises, and InputError where the directory that --out names belongs to another
    run, or another process writes there.
    """
    out, writable = plan.settings.out, processes.is_main()
    directory = RunDirectory(Path(out).expanduser(), writable=writable) if out else None
    with contextlib.ExitStack() as stack:
        # That another process is at work there is told before models are opened; a directory that was never locked stays as it is.
        if directory is not None and (directory.path / ".lock").exists():
            stack.enter_context(directory.lock())
            ready = prepare(plan, display)
        else:
            ready = prepare(plan, display)
            directory = directory or RunDirectory(default_out(plan.sources, ready.identity), writable=writable)
            stack.enter_context(directory.lock())
        _check_identity(directory, ready.identity, plan)
        display.say(f"run directory: {directory.path}")
        yield directory, ready


def prepare(plan: Plan, display: Display) -> Ready:
    """One pass over all inputs that finds what can be known before measuring; each checkpoint is opened and asked whether every suite can
    measure it.

    Checkpoints that fit into memory together stay open. Raises what opening and the suites' checks raise, and NotComparableError where
    results that are there already do not compare with each other or with what would be measured. Writes nothing.
    """
    from alignx_eval.checkpoint import check_checkpoint

    settings = plan.settings
    own = _identity_of_options(plan)
    _check_runs_compare(plan, own)
    to_measure = [source for source in plan.sources if source.run is None]
    # Headers, tokenizer and weights of those that come later, before the first model is built; opening it does the same for the first.
    for reference in dict.fromkeys(source.reference for source in to_measure[1:]):
        check_checkpoint(reference, offline=settings.offline)
    ready = Ready([], {}, {}, {})
    entries: list[dict[str, Any]] = []
    room: float | None = None  # bytes that further models may take
    for source, role in zip(plan.sources, plan.roles):
        if source.run is not None:
            label = unique_label(source.label_in_run, ready.labels)
            ready.checkpoints[label] = {
                **source.run.manifest.get("checkpoints", {}).get(source.label_in_run, {}),
                "name": label,
            }
            entries.append({"role": role, "name": label, **_identity_in_run(source, own)})
        else:
            checkpoint = _open(source, settings, display)
            label = checkpoint.name = unique_label(checkpoint.name, ready.labels)
            assert plan.corpus is not None
            check(checkpoint, plan.corpus, settings.suites, _options(plan))
            if {"layers", "language_id"} & set(settings.suites):
                _check_cache(checkpoint, plan.corpus, settings.cache_dir or default_cache_dir())
            ready.checkpoints[label] = describe_checkpoint(checkpoint)
            weight = next(checkpoint.model.parameters())
            facts = {
                "content": checkpoint.content_hash,
                "dtype": str(weight.dtype).removeprefix("torch."),
                "device": weight.device.type,
            }
            entries.append({"role": role, "name": label, **facts})
            size = sum(parameter.numel() * parameter.element_size() for parameter in checkpoint.model.parameters())
            room = _room(settings) if room is None else room - size
            ready.opened[label] = checkpoint
            if room < 0:  # then one at a time
                ready.opened.clear()
            del checkpoint, weight
            release_memory()
        ready.labels.append(label)
    ready.identity = {"checkpoints": entries, **own}
    return ready


def measure(
    plan: Plan, ready: Ready, directory: RunDirectory, display: Display, facts: Mapping[str, Any] | None = None
) -> dict[str, dict[str, SuiteResult]]:
    """Results by label and suite. They are in `directory` as soon as they are complete, and so is the manifest, with `facts` added.

    Where measuring fails, the manifest says `failed` and why, and what is finished stays.
    """
    settings = plan.settings
    results: dict[str, dict[str, SuiteResult]] = {}
    began = time.time()
    # What earlier sessions of this run left. A directory whose manifest is of something else has no results.
    before = directory.manifest if directory.manifest.get("identity") == ready.identity else {}
    sessions = [moment for moment in (before.get("started"), *before.get("resumed", []), _utc(began)) if moment]
    earlier = before.get("options", {})

    def write_manifest(status: str, reason: str | None = None) -> None:
        suites = _suites_of_run(directory, ready.labels, settings.suites)
        by_role = {
            role: [label for label, its_role in zip(ready.labels, plan.roles) if its_role == role]
            for role in set(plan.roles)
        }
        directory.write_manifest(
            {
                "status": status,
                **({"reason": reason} if reason else {}),
                "command": shlex.join(["alignx-eval", *sys.argv[1:]]),
                "identity": ready.identity,
                "started": sessions[0],
                "resumed": sessions[1:],
                "seconds": round(before.get("seconds", 0.0) + time.time() - began, 1),
                "base": by_role["base"][0],
                "candidates": by_role.get("candidate", []),
                "control": by_role["control"][0] if "control" in by_role else None,
                "options": {
                    **settings.measuring(),
                    "suites": suites,
                    "tasks": _joined(earlier.get("tasks"), settings.tasks),
                    "template": plan.template,
                    "allow_mismatch": _joined(earlier.get("allow_mismatch"), settings.allow_mismatch) or [],
                    "series": settings.series,
                },
                "corpus": plan.corpus_facts,
                "checkpoints": ready.checkpoints,
                "software": software_versions(),
                **(facts or {}),
            }
        )

    write_manifest("running")
    try:
        for source, label in zip(plan.sources, ready.labels):
            if source.run is not None:
                results[label] = _take_over(source, label, settings, directory)
                display.say(f"{label}: taken from {source.run.path}")
            else:
                results[label] = _measure_checkpoint(source, label, plan, ready, directory, display)
                release_memory()
    except Exception as error:
        with contextlib.suppress(InputError):  # a full disk, perhaps; the first error is the one to tell
            write_manifest(
                "failed",
                " ".join(f"{'' if isinstance(error, AlignxError) else type(error).__name__ + ': '}{error}".split()),
            )
        raise
    write_manifest("complete")
    return results


def _measure_checkpoint(
    source: Source, label: str, plan: Plan, ready: Ready, directory: RunDirectory, display: Display
) -> dict[str, SuiteResult]:
    """All suites of one checkpoint; it is no longer open afterwards."""
    settings = plan.settings
    checkpoint = ready.opened.pop(label, None) or _open(source, settings, display)
    checkpoint.name = label
    if checkpoint.content_hash != ready.checkpoints[label]["content_hash"]:
        raise InputError(f"{source.reference}: was changed while this command ran; give the command again")
    assert plan.corpus is not None
    if {"layers", "language_id"} & set(settings.suites):
        display.say(f"{label}: {_announce_vectors(checkpoint, plan.corpus, settings.cache_dir or default_cache_dir())}")
    return evaluate(
        checkpoint,
        plan.corpus,
        settings.suites,
        _options(plan),
        directory=directory,
        progress=display.bar(label),
        finished=display.finished(label),
    )


def _options(plan: Plan) -> Options:
    settings = plan.settings
    return Options(
        languages=settings.languages,
        pooling=cast("Pooling", settings.pooling),
        seed=settings.seed,
        window=settings.window,
        template=plan.template,
        tasks=settings.tasks,
        limit=settings.limit,
        cache_dir=settings.cache_dir or default_cache_dir(),
        samples=settings.samples,
    )


def _open(source: Source, settings: Settings, display: Display) -> Checkpoint:
    from alignx_eval.checkpoint import open_checkpoint

    started = time.perf_counter()
    device = _own_device(settings.device or _default_device())
    checkpoint = open_checkpoint(source.reference, device=device, dtype=settings.dtype, offline=settings.offline)
    display.say(f"{checkpoint.name}: opened {source.reference} in {time.perf_counter() - started:.1f} s")
    return checkpoint


def _room(settings: Settings) -> float:
    """Bytes that the parameters of further open models may take: a quarter of what is free, as measuring takes memory too; 0 where that is
    not known."""
    device = _own_device(settings.device or _default_device())
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0] / 4
    return _free_memory() / 4


def _free_memory() -> float:
    """Bytes that this process may still take, an equal share where a launcher started several here; 0 where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip() if (group / "memory.max").exists() else "max"
        if limit != "max":  # of a container
            free = min(free, int(limit) - int((group / "memory.current").read_text(encoding="ascii")))
    except (OSError, ValueError, StopIteration):
        return 0.0
    return free / int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _joined(earlier: Sequence[str] | None, now: Sequence[str] | None) -> list[str] | None:
    """What was asked for in any session of a run; None where nothing ever was."""
    return list(dict.fromkeys([*(earlier or ()), *(now or ())])) or None


# What a run directory is of
def _identity_of_options(plan: Plan) -> dict[str, Any]:
    """What decides every number of a run besides its checkpoints: the text asked for and the options. Suites and tasks have no part in it,
    since they only add to a run."""
    if plan.corpus is None:  # of results that are there
        return next(_without_checkpoints(source.run) for source in plan.sources if source.run is not None)
    settings, corpus = plan.settings, plan.corpus
    text = corpus if settings.languages is None else corpus.select(settings.languages)  # without a pivot that was added
    named = ("suites", "tasks", "corpus", "split", "languages", "template")
    return {
        "corpus": text.name,
        "split": text.split,
        "content": text.content_hash,
        "languages": sorted(text.languages),
        "lines": len(text),
        **{name: value for name, value in settings.measuring().items() if name not in named},
        "template": plan.template,
    }


def _check_identity(directory: RunDirectory, identity: Mapping[str, Any], plan: Plan) -> None:
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
        f"{directory.path}: holds results of another run ({'; '.join(differences)}), which are not overwritten; choose another --out, or "
        f"leave it out for {default_out(plan.sources, identity)}"
    )


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return (
        str(value)[:12] if isinstance(value, str) and len(value) == 64 else "not given" if value is None else str(value)
    )


def _check_runs_compare(plan: Plan, own: Mapping[str, Any]) -> None:
    """Raise NotComparableError where results that are inputs do not compare with each other, or are of another text than what would be
    measured beside them; before anything is measured."""
    from alignx_eval.comparison.comparable import check_comparable

    settings = plan.settings
    runs = [source for source in plan.sources if source.run is not None]
    results = {
        f"{source.reference} ({number})": {
            suite: source.run.load(source.label_in_run, suite) for suite in settings.suites
        }
        for number, source in enumerate(runs, 1)
        if source.run is not None
    }
    if len(runs) > 1:
        check_comparable(results, list(results), settings.allow_mismatch)
    if plan.corpus is None or settings.allow_mismatch or set(settings.suites) == {"tasks"}:
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
    from alignx_eval.comparison.layer_similarity import compare_cached_layers

    layers = {label: suites["layers"] for label, suites in results.items() if "layers" in suites}
    known, found = directory.layer_similarity(), []
    contrasts: list[tuple[str, str, ContrastKind]] = [(base, candidate, "candidate-base") for candidate in candidates]
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
    if layers and found != known:
        directory.write_layer_similarity(found)
    return found


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
    facts = {
        name: getattr(corpus, name) for name in ("name", "split", "content_hash", "licence", "attribution", "note")
    }
    return {**facts, "languages": list(corpus.languages), "lines": len(corpus)}


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


def _bytes_of_vectors(checkpoint: Any, corpus: ParallelCorpus) -> int:
    from alignx_eval.engine import vector_cache

    config = checkpoint.model.config.get_text_config()
    return vector_cache.expected_bytes(
        languages=len(corpus.languages),
        lines=len(corpus),
        layers=config.num_hidden_layers + 2,
        width=config.hidden_size,
    )


def _check_cache(checkpoint: Any, corpus: ParallelCorpus, cache_dir: str) -> None:
    """Raise InputError where the cache cannot be written and the vectors do not fit into memory either. Where they do, it is said when
    they are made."""
    from alignx_eval.engine import vector_cache

    error, size = vector_cache.why_unwritable(cache_dir), _bytes_of_vectors(checkpoint, corpus)
    if error is not None and size > _free_memory() / 2:
        raise InputError(
            f"{cache_dir}: the vector cache cannot be written ({error.strerror}), and {_readable(size)} of sentence vectors are too much "
            "for the memory; name another --cache-dir"
        )


def _announce_vectors(checkpoint: Any, corpus: ParallelCorpus, cache_dir: str) -> str:
    """How large the sentence vectors of one checkpoint are, before they are made."""
    from alignx_eval.engine import vector_cache

    size = _bytes_of_vectors(checkpoint, corpus)
    cap = vector_cache.DEFAULT_MAX_BYTES
    place = cache_dir if vector_cache.why_unwritable(cache_dir) is None else "memory"
    text = f"sentence vectors take up to {_readable(size)} in {place}"
    return text + (
        f", more than the cap of {_readable(cap)}: they stay until another checkpoint is encoded" if size > cap else ""
    )
