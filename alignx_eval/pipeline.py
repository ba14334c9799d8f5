"""From references to results in a run directory, and to their comparison: plan, check everything, measure, compare."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from alignx_eval import processes
from alignx_eval.checkpoint import release_memory
from alignx_eval.engine.transformers_engine import TransformersEngine
from alignx_eval.environment import (
    default_cache_dir,
    default_device,
    own_device,
    prepare_environment,
    software_versions,
)
from alignx_eval.errors import AlignxError, InputError
from alignx_eval.evaluate import check, evaluate
from alignx_eval.files import check_file, check_folder
from alignx_eval.identity import check_identity, check_runs_compare, default_out, identity_in_run, identity_of
from alignx_eval.metrics import SUITES
from alignx_eval.results import LayerSimilarity, SuiteResult, relabel, unique_label
from alignx_eval.run_directory import RunDirectory
from alignx_eval.settings import Settings
from alignx_eval.sources import Source, check_current, corpus_of_runs, resolve_template, suites_of_run, unfinished
from alignx_eval.suites.table import PIVOT_SUITES, Options
from alignx_eval.wording import file_size

if TYPE_CHECKING:
    from alignx_eval.checkpoint import Checkpoint
    from alignx_eval.comparison.rows import Comparison, ContrastKind
    from alignx_eval.corpora import ParallelCorpus
    from alignx_eval.engine.encode import Pooling


class Progress(Protocol):
    """Who is told how the work goes on."""

    def say(self, text: str) -> None:
        """A remark, one line."""

    def bar(self, label: str) -> Callable[[str], Callable[[int, int, str], None] | None]:
        """For the work on `label`: suite -> what is called with (done, total, what), or None."""

    def finished(self, label: str) -> Callable[[str, SuiteResult, bool], None]:
        """For the work on `label`: what is called with (suite, result, whether it was there already)."""


@dataclass(frozen=True, slots=True)
class Remarks:
    """Tells in lines what is done, without bars; by default nobody is told."""

    tell: Callable[[str], None] = lambda text: None

    def say(self, text: str) -> None:
        self.tell(text)

    def bar(self, label: str) -> Callable[[str], None]:
        return lambda suite: None

    def finished(self, label: str) -> Callable[[str, SuiteResult, bool], None]:
        return lambda suite, result, reused: self.tell(suite_line(label, suite, result, reused))


def suite_line(label: str, suite: str, result: SuiteResult, reused: bool) -> str:
    """ "base: layers 3.1 s"."""
    return f"{label}: {suite} " + ("was done before" if reused else f"{result.seconds:.1f} s")


@dataclass(slots=True)
class Plan:
    """What is settled before anything is measured; `roles` says of each source whether it is "base", "candidate" or
    "control"."""

    sources: Sequence[Source]
    roles: Sequence[str]
    settings: Settings
    corpus: ParallelCorpus | None
    corpus_facts: dict[str, Any]
    template: str


def plan(
    sources: Sequence[Source],
    roles: Sequence[str],
    settings: Settings,
    progress: Progress,
    corpus: ParallelCorpus | None = None,
) -> Plan:
    """Find out everything that can be wrong with the inputs, as far as that is possible without opening a model. Writes
    nothing.

    `corpus`: the text itself, where it does not come from what `settings` name.
    """
    for output in settings.output:
        check_file(f"-o {output}", Path(output).expanduser())
    out = settings.out or "alignx-runs"
    check_folder(f"--out {out}" if settings.out else "the run directory", Path(out).expanduser().absolute())
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
        return Plan(sources, roles, settings, None, corpus_of_runs(sources), settings.template or "plain")
    from alignx_eval.engine.encode import POOLINGS
    from alignx_eval.prompts import template_text

    if settings.pooling not in POOLINGS:
        raise InputError(f"unknown pooling {settings.pooling!r}; known: {', '.join(POOLINGS)}")
    if settings.template:
        template_text(settings.template)
    corpus = corpus or load_text(settings, progress)
    template = resolve_template(sources, settings)
    template_text(template)
    return Plan(sources, roles, settings, corpus, describe_corpus(corpus), template)


def load_text(settings: Settings, progress: Progress) -> ParallelCorpus:
    """The corpus in the languages asked for, with the pivot where a suite needs it; that it was added is said.

    Raises what `load_corpus` raises, and InputError where the corpus has no text in the pivot language.
    """
    from alignx_eval.corpora import load_corpus
    from alignx_eval.languages import LANGUAGES

    def load(languages: tuple[str, ...] | None) -> ParallelCorpus:
        return load_corpus(settings.corpus, settings.split, languages, settings.limit)

    pivot, asked = settings.pivot, settings.languages
    title = f"{pivot} ({LANGUAGES[pivot].name})"
    paired = [suite for suite in settings.suites if suite in PIVOT_SUITES]
    if asked is None or pivot in asked or not paired:
        corpus = load(asked)
        why = f"; it has {', '.join(corpus.languages)}"
    else:
        try:
            corpus, why = load((*asked, pivot)), ""
        except InputError as error:  # what is wrong with the languages asked for is told as it is
            corpus, why = load(asked), f" ({error})"
    if paired and pivot not in corpus.languages:
        others = [suite for suite in SUITES if suite not in PIVOT_SUITES]
        raise InputError(
            f"{' and '.join(paired)} pair every language with {title}, which corpus {settings.corpus} lacks{why}; "
            "take another "
            f"--pivot, another corpus, or --suites {','.join(others)}"
        )
    if paired and asked is not None and pivot not in asked:
        progress.say(f"{title} is added: {' and '.join(paired)} pair every language with it")
    return corpus


@dataclass(slots=True)
class Ready:
    """Inputs that have passed every check: labels in the order of the plan's sources, what is known of each checkpoint
    by label, those checkpoints that stay open, and the identity of the run (see `identity.identity_of`)."""

    labels: list[str]
    checkpoints: dict[str, dict[str, Any]]
    opened: dict[str, Checkpoint]
    identity: dict[str, Any]


@contextlib.contextmanager
def run_directory(plan: Plan, progress: Progress) -> Iterator[tuple[RunDirectory, Ready]]:
    """The locked run directory of a plan whose inputs have all been checked, and those inputs.

    Nothing is written before that. Raises what `prepare` raises, and InputError where the directory that --out names
    belongs to another run, or another process writes there.
    """
    out, writable = plan.settings.out, processes.is_main()
    directory = RunDirectory(Path(out).expanduser(), writable=writable) if out else None
    with contextlib.ExitStack() as stack:
        # That another process is at work there is told before models are opened; a directory that was never locked
        # stays as it is.
        if directory is not None and (directory.path / ".lock").exists():
            stack.enter_context(directory.lock())
            ready = prepare(plan, progress)
        else:
            ready = prepare(plan, progress)
            directory = directory or RunDirectory(default_out(plan.sources, ready.identity), writable=writable)
            stack.enter_context(directory.lock())
        check_identity(directory, ready.identity, plan.sources)
        progress.say(f"run directory: {directory.path}")
        yield directory, ready


def prepare(plan: Plan, progress: Progress) -> Ready:
    """One pass over all inputs that finds what can be known before measuring; each checkpoint is opened and asked
    whether every suite can measure it.

    Checkpoints that fit into memory together stay open. Raises what opening and the suites' checks raise, and
    NotComparableError where results that are there already do not compare with each other or with what would be
    measured. Writes nothing.
    """
    from alignx_eval.checkpoint import check_checkpoint

    settings = plan.settings
    own = identity_of(plan.sources, plan.corpus, plan.settings, plan.template)
    check_runs_compare(plan.sources, own, settings, measures=plan.corpus is not None)
    to_measure = [source for source in plan.sources if source.run is None]
    # Headers, tokenizer and weights of those that come later, before the first model is built; opening it does the same
    # for the first.
    for reference in dict.fromkeys(source.reference for source in to_measure[1:] if source.checkpoint is None):
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
            entries.append({"role": role, "name": label, **identity_in_run(source, own)})
        else:
            checkpoint = _open(source, settings, progress)
            label = checkpoint.name = unique_label(checkpoint.name, ready.labels)
            assert plan.corpus is not None
            check(TransformersEngine(checkpoint), plan.corpus, settings.suites, _options(plan))
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
    plan: Plan, ready: Ready, directory: RunDirectory, progress: Progress, facts: Mapping[str, Any] | None = None
) -> dict[str, dict[str, SuiteResult]]:
    """Results by label and suite. They are in `directory` as soon as they are complete, and so is the manifest, with
    `facts` added.

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
        suites = suites_of_run(directory, ready.labels, settings.suites)
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
                progress.say(f"{label}: taken from {source.run.path}")
            else:
                results[label] = _measure_checkpoint(source, label, plan, ready, directory, progress)
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
    source: Source, label: str, plan: Plan, ready: Ready, directory: RunDirectory, progress: Progress
) -> dict[str, SuiteResult]:
    """All suites of one checkpoint; it is no longer open afterwards."""
    settings = plan.settings
    checkpoint = ready.opened.pop(label, None) or _open(source, settings, progress)
    checkpoint.name = label
    if checkpoint.content_hash != ready.checkpoints[label]["content_hash"]:
        raise InputError(f"{source.reference}: was changed while this command ran; give the command again")
    assert plan.corpus is not None
    if {"layers", "language_id"} & set(settings.suites):
        progress.say(
            f"{label}: {_announce_vectors(checkpoint, plan.corpus, settings.cache_dir or default_cache_dir())}"
        )
    return evaluate(
        TransformersEngine(checkpoint),
        plan.corpus,
        settings.suites,
        _options(plan),
        directory=directory,
        progress=progress.bar(label),
        finished=progress.finished(label),
    )


def _options(plan: Plan) -> Options:
    settings = plan.settings
    return Options(
        languages=settings.languages,
        pivot=settings.pivot,
        pooling=cast("Pooling", settings.pooling),
        seed=settings.seed,
        window=settings.window,
        template=plan.template,
        tasks=settings.tasks,
        limit=settings.limit,
        cache_dir=settings.cache_dir or default_cache_dir(),
        samples=settings.samples,
    )


def _open(source: Source, settings: Settings, progress: Progress) -> Checkpoint:
    from alignx_eval.checkpoint import open_checkpoint

    if source.checkpoint is not None:
        return source.checkpoint
    started = time.perf_counter()
    device = own_device(settings.device or default_device())
    checkpoint = open_checkpoint(source.reference, device=device, dtype=settings.dtype, offline=settings.offline)
    progress.say(f"{checkpoint.name}: opened {source.reference} in {time.perf_counter() - started:.1f} s")
    return checkpoint


def _room(settings: Settings) -> float:
    """Bytes that the parameters of further open models may take: a quarter of what is free, as measuring takes memory
    too; 0 where that is not known."""
    device = own_device(settings.device or default_device())
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0] / 4
    return _free_memory() / 4


def _free_memory() -> float:
    """Bytes that this process may still take, an equal share where a launcher started several here; 0 where that is not
    known."""
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


@contextlib.contextmanager
def comparing(
    plan: Plan, progress: Progress, facts: Mapping[str, Any] | None = None
) -> Iterator[tuple[RunDirectory, Comparison | None]]:
    """Measure what is not measured yet, and compare; the directory stays locked meanwhile. Without candidates, one
    checkpoint alone.

    The comparison is None in the processes of a launcher that are not the main one. `facts` go into the manifest.
    """
    with run_directory(plan, progress) as (directory, ready):
        results = measure(plan, ready, directory, progress, facts)
        if not processes.is_main():
            yield directory, None
            return
        from alignx_eval.comparison.compare import compare
        from alignx_eval.judgement.series import order_steps

        settings, checkpoints = plan.settings, ready.checkpoints
        by_role = {
            role: [label for label, its_role in zip(ready.labels, plan.roles) if its_role == role]
            for role in ("base", "candidate", "control")
        }
        base, candidates, control = by_role["base"][0], by_role["candidate"], next(iter(by_role["control"]), None)
        comparison = compare(
            results,
            base=base,
            candidates=order_steps(candidates, checkpoints) if settings.series else candidates,
            control=control,
            checkpoints=checkpoints,
            corpus=plan.corpus_facts,
            seed=settings.seed,
            allow_mismatch=settings.allow_mismatch,
            series=settings.series,
        )
        if candidates:  # after the check that the results compare at all
            comparison.layer_similarity = compare_layers(
                directory, results, base, candidates, control, settings, progress
            )
            directory.write_manifest({**directory.manifest, "mismatches": comparison.mismatches})
        yield directory, comparison


def compare_layers(
    directory: RunDirectory,
    results: dict[str, dict[str, SuiteResult]],
    base: str,
    candidates: Sequence[str],
    control: str | None,
    settings: Settings,
    progress: Progress,
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
                progress=progress.bar(f"{candidate} against {reference}")("layers"),
            )
        except InputError as error:  # a damaged entry; everything else is there and must be shown
            progress.say(str(error))
            similarity = None
        if similarity is None:
            progress.say(
                f"no CKA between {reference} and {candidate}: their sentence vectors are not both in the cache; "
                "to have it, measure the checkpoints again into a new --out (the vectors of all of them have to fit "
                "the cache)"
            )
            continue
        found.append(similarity)
    if layers and found != known:
        directory.write_layer_similarity(found)
    return found


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
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


def describe_corpus(corpus: ParallelCorpus) -> dict[str, Any]:
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


def _bytes_of_vectors(checkpoint: Checkpoint, corpus: ParallelCorpus) -> int:
    from alignx_eval.engine import vector_cache

    config = checkpoint.model.config.get_text_config()
    return vector_cache.expected_bytes(
        languages=len(corpus.languages),
        lines=len(corpus),
        layers=config.num_hidden_layers + 2,
        width=config.hidden_size,
    )


def _check_cache(checkpoint: Checkpoint, corpus: ParallelCorpus, cache_dir: str) -> None:
    """Raise InputError where the cache cannot be written and the vectors do not fit into memory either. Where they do,
    it is said when they are made."""
    from alignx_eval.engine import vector_cache

    error, size = vector_cache.why_unwritable(cache_dir), _bytes_of_vectors(checkpoint, corpus)
    if error is not None and size > _free_memory() / 2:
        raise InputError(
            f"{cache_dir}: the vector cache cannot be written ({error.strerror}), and {file_size(size)} of sentence "
            "vectors are too much "
            "for the memory; name another --cache-dir"
        )


def _announce_vectors(checkpoint: Checkpoint, corpus: ParallelCorpus, cache_dir: str) -> str:
    """How large the sentence vectors of one checkpoint are, before they are made."""
    from alignx_eval.engine import vector_cache

    size = _bytes_of_vectors(checkpoint, corpus)
    cap = vector_cache.DEFAULT_MAX_BYTES
    place = cache_dir if vector_cache.why_unwritable(cache_dir) is None else "memory"
    text = f"sentence vectors take up to {file_size(size)} in {place}"
    return text + (
        f", more than the cap of {file_size(cap)}: they stay until another checkpoint is encoded" if size > cap else ""
    )
