"""What `compare`, `run` and `report` have in common: from references on the command line to results, and from a comparison to files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from alignx_eval import processes
from alignx_eval.cli.display import Display
from alignx_eval.cli.options import Settings, default_cache_dir, prepare_environment
from alignx_eval.errors import AlignxError, InputError, NotComparableError
from alignx_eval.evaluate import (
    MEASURING_VERSIONS,
    PIVOT,
    PIVOT_SUITES,
    SUITES,
    Options,
    check,
    evaluate,
    relabel,
    release_memory,
    unique_label,
)
from alignx_eval.results import LayerSimilarity, SuiteResult
from alignx_eval.run_directory import RunDirectory, atomic_write

if TYPE_CHECKING:
    from alignx_eval.checkpoint import Checkpoint
    from alignx_eval.comparison import Comparison, ContrastKind
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


def default_out(sources: Sequence[Source], identity: Mapping[str, Any]) -> Path:
    """`alignx-runs/NAMES-HASH`, the same for the same identity, so that a repeated command resumes and another one has its own."""
    names = [
        Path(source.label_in_run or source.reference.removeprefix("bundled:").rstrip("/")).stem for source in sources
    ]
    readable = "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in name) for name in names)[:80]
    return (
        Path("alignx-runs")
        / f"{readable}-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:6]}"
    )


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


def _without_checkpoints(run: RunDirectory) -> dict[str, Any]:
    return {name: value for name, value in run.manifest.get("identity", {}).items() if name != "checkpoints"}


def _identity_in_run(source: Source, own: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of a checkpoint of an earlier run; with the options it was measured with, where they are not those of this run."""
    assert source.run is not None
    recorded: list[dict[str, Any]] = source.run.manifest.get("identity", {}).get("checkpoints", [])
    entry: dict[str, Any] = next((entry for entry in recorded if entry["name"] == source.label_in_run), {})
    options = _without_checkpoints(source.run)
    return {name: entry.get(name) for name in ("content", "dtype", "device")} | (
        {"options": options} if options != own else {}
    )


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
    from alignx_eval.comparison import check_comparable

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


# What a run directory says of itself


def unfinished(directory: RunDirectory) -> str | None:
    """Why the run is not complete, for a message; None where it is."""
    status = directory.manifest.get("status")
    if status == "failed":
        return f"the run failed: {directory.manifest.get('reason')}"
    return None if status == "complete" else "the run is not complete"


def check_current(directory: RunDirectory, labels: Sequence[str], suites: Sequence[str]) -> None:
    """Raise NotComparableError for results of a suite whose numbers have changed their meaning since, with the command that makes them
    anew."""
    for label in labels:
        for suite in directory.suites(label):
            if suite in suites and not _is_current(directory, label, suite):
                command = shlex.split(str(directory.manifest.get("command") or "alignx-eval run CHECKPOINT"))
                if (
                    "identity" not in directory.manifest and "--out" in command
                ):  # the folder is not taken for this run again
                    del command[command.index("--out") : command.index("--out") + 2]
                raise NotComparableError(
                    f"{directory.path}: {suite} of {label} was measured by {_version(directory.fingerprint(label, suite))} of this suite, "
                    f"today it is version {MEASURING_VERSIONS[suite]} and its numbers are others; measure again: {shlex.join(command)}"
                )


def _is_current(directory: RunDirectory, label: str, suite: str) -> bool:
    return directory.fingerprint(label, suite).get("measuring_version") == MEASURING_VERSIONS.get(suite)


def _version(fingerprint: Mapping[str, Any]) -> str:
    return f"version {fingerprint['measuring_version']}" if "measuring_version" in fingerprint else "an older version"


def _suites_of_run(directory: RunDirectory, labels: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The suites asked for, and those that an earlier session of this run finished for every checkpoint."""

    def there(suite: str) -> bool:
        return all(suite in directory.suites(label) and _is_current(directory, label, suite) for label in labels)

    return [suite for suite in SUITES if suite in asked or there(suite)]


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
        raise InputError(
            f"{directory.path / 'manifest.json'}: holds no valid policy; give one with --policy"
        ) from error


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
    if why := unfinished(directory):
        raise InputError(f"{directory.path}: {why}; give the same command again to finish it")
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
        raise InputError(
            f"{directory.path}: holds several checkpoints; name one, as in {directory.path}#{labels[-1]} ({there})"
        )
    wanted = manifest.get("options", {}).get("suites") or []
    check_current(directory, [chosen], wanted or list(SUITES))
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
    check_current(directory, list(dict.fromkeys(named)), wanted or list(SUITES))
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


def _current(
    similarities: Sequence[LayerSimilarity], results: dict[str, dict[str, SuiteResult]]
) -> list[LayerSimilarity]:
    """Those that belong to the vectors of these results, and not to what was measured here before."""
    from alignx_eval.layer_similarity import similarity_key

    layers = {label: suites["layers"] for label, suites in results.items() if "layers" in suites}
    return [
        each
        for each in similarities
        if {each.reference, each.candidate} <= set(layers)
        and each.key == similarity_key(layers, each.reference, each.candidate)
    ]


def write_reports(comparison: Comparison, verdict: Verdict | None, folder: Path, settings: Settings) -> None:
    """report.html, summary.md and, where there is a `verdict`, junit.xml into the run directory `folder`."""
    for name in ("report.html", "summary.md", *(["junit.xml"] if verdict is not None else [])):
        atomic_write(folder / name, _render(comparison, verdict, Path(name).suffix, settings))


def write_outputs(
    comparison: Comparison,
    verdict: Verdict | None,
    settings: Settings,
    display: Display,
    *,
    report: Path | None = None,
    next_command: str | None = None,
) -> None:
    """The files of -o, and the first screen to stdout, which names the page `report`, else the first one of -o.

    `verdict` is None for a checkpoint alone.
    """
    from alignx_eval.render import console

    for output in settings.output:
        atomic_write(Path(output).expanduser(), _render(comparison, verdict, Path(output).suffix, settings))
        display.say(f"wrote {output}")
    width = shutil.get_terminal_size((80, 24)).columns if sys.stdout.isatty() else 80
    screen = console.render(
        comparison,
        verdict,
        report_path=str(report)
        if report is not None
        else next((name for name in settings.output if name.endswith(".html")), None),
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
        _check_folder(f"-o {output}", path.absolute().parent)


def _check_folder(what: str, folder: Path) -> None:
    """Raise InputError where `folder` is not there and cannot be made, or cannot be written to."""
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{what}: {folder} is a file, a folder is needed")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{what}: the folder {folder} cannot be written to")


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

    recorded = [
        recorded_template(source.reference, offline=settings.offline) for source in sources if source.run is None
    ]
    return settings.template or next((template for template in recorded if template), "plain")


def _bytes_of_vectors(checkpoint: Any, corpus: ParallelCorpus) -> int:
    from alignx_eval import vector_cache

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
    from alignx_eval import vector_cache

    error, size = vector_cache.why_unwritable(cache_dir), _bytes_of_vectors(checkpoint, corpus)
    if error is not None and size > _free_memory() / 2:
        raise InputError(
            f"{cache_dir}: the vector cache cannot be written ({error.strerror}), and {_readable(size)} of sentence vectors are too much "
            "for the memory; name another --cache-dir"
        )


def _announce_vectors(checkpoint: Any, corpus: ParallelCorpus, cache_dir: str) -> str:
    """How large the sentence vectors of one checkpoint are, before they are made."""
    from alignx_eval import vector_cache

    size = _bytes_of_vectors(checkpoint, corpus)
    cap = vector_cache.DEFAULT_MAX_BYTES
    place = cache_dir if vector_cache.why_unwritable(cache_dir) is None else "memory"
    text = f"sentence vectors take up to {_readable(size)} in {place}"
    return text + (
        f", more than the cap of {_readable(cap)}: they stay until another checkpoint is encoded" if size > cap else ""
    )


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
