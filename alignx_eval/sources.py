"""What a user names: a checkpoint, or a checkpoint of an earlier run; and what was measured, read back."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignx_eval.errors import InputError, NotComparableError
from alignx_eval.metrics import SUITES
from alignx_eval.results import LayerSimilarity, SuiteResult
from alignx_eval.run_directory import RunDirectory
from alignx_eval.settings import Settings
from alignx_eval.suites.table import MEASURING_VERSIONS

if TYPE_CHECKING:
    from alignx_eval.checkpoint import Checkpoint
    from alignx_eval.comparison.rows import Comparison
    from alignx_eval.judgement.policy import Policy


@dataclass(slots=True)
class Source:
    """One positional argument: a checkpoint to be measured, or a checkpoint of an earlier run."""

    reference: str
    run: RunDirectory | None = None
    label_in_run: str = ""
    checkpoint: Checkpoint | None = None  # where it is open already


def read_reference(reference: str) -> Source:
    """A run directory (`DIR`, or `DIR#LABEL` where it holds several checkpoints) is opened; anything else is taken for
    a checkpoint."""
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
            f"{folder}: holds {len(labels)} checkpoints; name one, as in {folder}#{labels[-1]} (there are: "
            f"{', '.join(labels)})"
        )
    return Source(reference, run, label or labels[0])


def sources_of(
    base: str, candidates: Sequence[str], control: str | None
) -> tuple[list[Source], list[str], dict[str, Any]]:
    """The inputs of a comparison, the role of each, and the options of the first run directory among them (see
    `inherited_options`)."""
    sources = [read_reference(reference) for reference in (base, *candidates, *([control] if control else []))]
    roles = ["base", *["candidate"] * len(candidates), *["control"] * bool(control)]
    return sources, roles, inherited_options(sources)


def inherited_options(sources: Sequence[Source]) -> dict[str, Any]:
    """The options of the first run directory among the inputs, so that checkpoints beside it are measured in the same
    way."""
    for source in sources:
        if source.run is not None:
            options = source.run.manifest.get("options", {})
            return {name: options[name] for name in (*Settings().measuring(), "pivot") if options.get(name) is not None}
    return {}


# What a run directory says of itself
def unfinished(directory: RunDirectory) -> str | None:
    """Why the run is not complete, for a message; None where it is."""
    status = directory.manifest.get("status")
    if status == "failed":
        return f"the run failed: {directory.manifest.get('reason')}"
    return None if status == "complete" else "the run is not complete"


def check_current(directory: RunDirectory, labels: Sequence[str], suites: Sequence[str]) -> None:
    """Raise NotComparableError for results of a suite whose numbers have changed their meaning since, with the command
    that makes them anew."""
    for label in labels:
        for suite in directory.suites(label):
            if suite in suites and not _is_current(directory, label, suite):
                command = shlex.split(str(directory.manifest.get("command") or "alignx-eval run CHECKPOINT"))
                if (
                    "identity" not in directory.manifest and "--out" in command
                ):  # the folder is not taken for this run again
                    del command[command.index("--out") : command.index("--out") + 2]
                raise NotComparableError(
                    f"{directory.path}: {suite} of {label} was measured by "
                    f"{_version(directory.fingerprint(label, suite))} of this suite, "
                    f"today it is version {MEASURING_VERSIONS[suite]} and its numbers are others; measure again: "
                    f"{shlex.join(command)}"
                )


def _is_current(directory: RunDirectory, label: str, suite: str) -> bool:
    return directory.fingerprint(label, suite).get("measuring_version") == MEASURING_VERSIONS.get(suite)


def _version(fingerprint: Mapping[str, Any]) -> str:
    return f"version {fingerprint['measuring_version']}" if "measuring_version" in fingerprint else "an older version"


def suites_of_run(directory: RunDirectory, labels: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The suites asked for, and those that an earlier session of this run finished for every checkpoint."""

    def there(suite: str) -> bool:
        return all(suite in directory.suites(label) and _is_current(directory, label, suite) for label in labels)

    return [suite for suite in SUITES if suite in asked or there(suite)]


def read_policy(settings: Settings, directory: RunDirectory | None = None) -> tuple[Policy, str]:
    """The policy of --policy, else the one that the comparison in `directory` was made with, else the default one; and
    its name.

    Raises InputError for anything that is not a policy.
    """
    from alignx_eval.judgement.policy import Policy, default_policy, load_policy

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


def policy_facts(policy: Policy, name: str, enforced: bool) -> dict[str, Any]:
    """What the manifest says of the policy of a comparison; `read_policy` reads it back."""
    return {"policy": {"name": name, "content": policy.model_dump(mode="json"), "enforced": enforced}}


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
    """Raises InputError where the run is not complete, or a suite that was asked for is missing: half a result is no
    result."""
    manifest = directory.manifest
    if why := unfinished(directory):
        raise InputError(f"{directory.path}: {why}; give the same command again to finish it")
    wanted = manifest.get("options", {}).get("suites") or []
    for name in (manifest.get("base"), *(manifest.get("candidates") or []), manifest.get("control")):
        missing = [suite for suite in wanted if suite not in directory.suites(name)] if name is not None else []
        if missing:
            raise InputError(
                f"{directory.path}: {name} has no results of {', '.join(missing)}; give the same command again to "
                "measure them"
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
    from alignx_eval.comparison.compare import compare

    manifest = directory.manifest
    base, candidates, control = manifest.get("base"), list(manifest.get("candidates") or []), manifest.get("control")
    named = [label for label in (base, *candidates, control) if label is not None]
    missing = [label for label in named if label not in directory.labels()]
    if base is None or missing:
        raise InputError(
            f"{directory.path}: nothing is finished for {', '.join(missing) or 'its base'}; run the same command "
            "again to go on with it"
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
        from alignx_eval.judgement.series import order_steps

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
    from alignx_eval.comparison.layer_similarity import similarity_key

    layers = {label: suites["layers"] for label, suites in results.items() if "layers" in suites}
    return [
        each
        for each in similarities
        if {each.reference, each.candidate} <= set(layers)
        and each.key == similarity_key(layers, each.reference, each.candidate)
    ]


def corpus_of_runs(sources: Sequence[Source]) -> dict[str, Any]:
    for source in sources:
        if source.run is not None:
            return dict(source.run.manifest.get("corpus") or {})
    return {}


def resolve_template(sources: Sequence[Source], settings: Settings) -> str:
    """One template for all: --template, else the first that a checkpoint names, else plain. Tells early what is not
    there."""
    from alignx_eval.checkpoint import recorded_template

    recorded = [
        source.checkpoint.prompt_template
        if source.checkpoint is not None
        else recorded_template(source.reference, offline=settings.offline)
        for source in sources
        if source.run is None
    ]
    return settings.template or next((template for template in recorded if template), "plain")
