"""The library: what the commands do, as functions. `import alignx_eval as ax` has these names. Provisional until
release 0.2.0."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.errors import InputError
from alignx_eval.judgement.policy import Policy, load_policy
from alignx_eval.judgement.report import Report, make_report
from alignx_eval.pipeline import Progress, Remarks, comparing, plan
from alignx_eval.run_directory import RunDirectory
from alignx_eval.settings import Settings, check_effective, settings_from
from alignx_eval.sources import (
    Source,
    check_finished,
    inherited_options,
    policy_facts,
    read_comparison,
    read_policy,
    read_reference,
)

if TYPE_CHECKING:
    from alignx_eval.checkpoint import Checkpoint
    from alignx_eval.comparison.rows import Comparison
    from alignx_eval.results import SuiteResult


def compare(
    base: str | Path | Checkpoint,
    *candidates: str | Path | Checkpoint,
    control: str | Path | Checkpoint | None = None,
    corpus: str | ParallelCorpus | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Measure what is not measured yet, and compare each candidate with the base, and with the control if there is one.

    A checkpoint is an open one, or what the command takes: a path, a hub id, bundled:NAME, or a run directory
    (DIR#LABEL). `options` are those of `alignx-eval compare` that decide what is measured, by their long names (suites,
    languages, limit, out, series, ...), with the same defaults; a run directory among the inputs gives its own. What is
    complete in the run directory is not measured again. Raises InputError for wrong input, NotComparableError where
    results do not compare, MissingAssetError where something is missing and the network is off.
    """
    if not candidates:
        raise InputError("a comparison needs a base and at least one candidate")
    named = [_reference(each) for each in (base, *candidates, *([control] if control is not None else []))]
    roles = ["base", *["candidate"] * len(candidates), *["control"] * (control is not None)]
    told = {**options, "control": named[-1] if control is not None else None}
    return _compare(
        "compare", [base, *candidates, *([control] if control is not None else [])], roles, corpus, told, progress
    )


def measure(
    checkpoint: str | Path | Checkpoint,
    corpus: str | ParallelCorpus | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, SuiteResult]:
    """Results of one checkpoint by suite: rows, items, fingerprint. `options` are those of `alignx-eval run`, by their
    long names.

    What is complete in the run directory (`out`) is not measured again. Raises as `compare`.
    """
    found = _compare("run", [checkpoint], ["base"], corpus, options, progress)
    return found.results[found.base]


def judge(
    comparison: Comparison,
    policy: str | Path | Policy | None = None,
    *,
    enforced: bool = False,
) -> Report:
    """The report on a comparison: verdict by `policy` (a file, or one made here; default: the shipped one), findings,
    diagnoses, series.

    `enforced`: that the verdict decides something, as with `compare --gate`; reports then begin with it. Raises
    InputError for a policy that is none, or that gates against a control where there is none.
    """
    if policy is None or isinstance(policy, Policy):
        name = "default policy" if policy is None else "policy of this program"
        return make_report(comparison, policy, policy_name=name, enforced=enforced)
    return make_report(comparison, load_policy(policy), policy_name=str(policy), enforced=enforced)


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory that is complete."""

    directory: RunDirectory

    def results(self) -> dict[str, dict[str, SuiteResult]]:
        """Results by label and suite."""
        return {label: self.directory.results(label) for label in self.directory.labels()}

    def comparison(self) -> Comparison:
        """The comparison, or one checkpoint alone, computed again without a model. Raises NotComparableError where the
        results are of an older measuring version, with the command that makes them anew."""
        return read_comparison(self.directory, Settings())

    def report(self) -> Report:
        """The report by the policy that the run was made with."""
        policy, name = read_policy(Settings(), self.directory)
        recorded: Mapping[str, Any] = self.directory.manifest.get("policy") or {}
        return make_report(self.comparison(), policy, policy_name=name, enforced=bool(recorded.get("enforced")))


def read_run(path: str | Path) -> Run:
    """Open a run directory. Raises InputError where there is none, or where it is not complete."""
    directory = RunDirectory.read(Path(path).expanduser())
    check_finished(directory)
    return Run(directory)


def _compare(
    verb: str,
    named: Sequence[str | Path | Checkpoint],
    roles: Sequence[str],
    corpus: str | ParallelCorpus | None,
    options: Mapping[str, Any],
    progress: Progress | None,
) -> Comparison:
    text = corpus if isinstance(corpus, ParallelCorpus) else None
    given = {**options, "corpus": corpus if text is None else text.name}
    if idle := [
        name for name in ("gate", "policy", "strict", "annotations", "output", "quiet") if given.get(name) is not None
    ]:
        raise InputError(f"option {idle[0]}: belongs to the command; a verdict is made by `judge`, files by `save`")
    given["quiet"] = progress is None
    settings_from(given)  # a wrong option is told before anything is opened
    sources = [
        read_reference(str(each)) if isinstance(each, str | Path) else Source(each.reference, checkpoint=each)
        for each in named
    ]
    settings = settings_from(given, None, inherited_options(sources))
    measures = any(source.run is None for source in sources)
    check_effective({name: value for name, value in given.items() if value is not None}, settings, measures=measures)
    progress = progress or Remarks()
    planned = plan(sources, roles, settings, progress, text)
    facts: dict[str, Any] = {"command": _command(verb, named, given)}
    if len(sources) > 1:
        facts |= policy_facts(*read_policy(settings), False)
    with comparing(planned, progress, facts) as (_, comparison):
        if comparison is None:
            raise SystemExit(0)  # of several processes the main one goes on
        return comparison


def _reference(checkpoint: str | Path | Checkpoint) -> str:
    return str(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint.reference


def _command(verb: str, named: Sequence[str | Path | Checkpoint], given: Mapping[str, Any]) -> str:
    """The command that does the same."""
    parts = ["alignx-eval", verb, *(_reference(each) for each in named)]
    if given.get("control"):
        del parts[-1]
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "quiet" or value is None or value is False:
            continue
        if value is True:
            parts.append(flag)
        else:
            parts += [flag, ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]
    return shlex.join(parts)
