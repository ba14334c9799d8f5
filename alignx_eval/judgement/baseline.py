"""A baseline: the gated numbers of one checkpoint with their statistics per item, in one small JSON file to commit.

No weights, no text. What a gate needs of a checkpoint is its gated rows and, of each, the per-item sufficient
statistics (`results.Items`). A baseline holds them unrounded, so a candidate that is gated against it gets the very
numbers of a comparison of the two run directories. Documents and lines are there as codes and a digest. Rows are
readable and one a line; statistics are packed: columns of the smallest exact type, zlib, base64. A checksum over the
content shows edits and cuts. `make` and `compare_with` are pure; only the command `bless` calls `write`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from alignx_eval.comparison.compare import compare
from alignx_eval.comparison.means import align_layer
from alignx_eval.comparison.rows import Comparison, own_language, pivot_of
from alignx_eval.errors import InputError, NotComparableError
from alignx_eval.files import atomic_write
from alignx_eval.judgement.gate import Verdict, deciding_rule, describe_row, judge
from alignx_eval.judgement.policy import Policy
from alignx_eval.results import Items, Kind, Row, SuiteResult, relabel
from alignx_eval.statistics.pairing import cluster_codes
from alignx_eval.suites.table import MEASURING_VERSIONS

FORMAT: Literal["alignx-eval baseline"] = "alignx-eval baseline"
VERSION: Literal[1] = 1
DEFAULT_NAME = "alignx-baseline.json"
MAXIMUM_BYTES = 5_000_000
CHECKPOINT_FACTS = ("name", "reference", "content_hash", "stage", "step", "align_layer", "format", "parameters")
CORPUS_FACTS = ("name", "split", "content_hash", "licence", "attribution", "languages", "lines", "pivot")
# In place of the checkpoint's name, so that blessing another checkpoint changes only lines with other numbers.
OWNER = "baseline"
Results = Mapping[str, SuiteResult]
Dtype = Literal["uint8", "int16", "int32", "float32", "float64"]


class Packed(BaseModel):
    """An array: its columns one after the other as little-endian `dtype`, compressed by zlib, in base64."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: tuple[int, ...]
    dtype: Dtype
    data: str


class Statistics(BaseModel):
    """Per-item statistics of one row. `kind` and `point` as in a run directory; `clustering` is a number in the suite's
    `clusterings`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(description="suite/metric/layer/language/other_language, - where there is none")
    kind: Kind
    point: float | None
    clustering: int | None = Field(description="None: the suite's `default_clustering`")
    values: Packed


class Suite(BaseModel):
    """What must agree with a candidate's result, and the clusters: for each item the code of its cluster, by first
    appearance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str
    fingerprint: dict[str, Any]
    environment: dict[str, Any]
    items: str = Field(description="number and digest of the identities of the items")
    default_clustering: int | None
    clusterings: tuple[Packed, ...]


class Baseline(BaseModel):
    """The file that `bless` writes. `sha256` is that of the other fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["alignx-eval baseline"] = FORMAT
    version: Literal[1] = VERSION
    alignx_eval: str = Field(description="version of alignx-eval that measured the checkpoint")
    blessed: str = Field(description="date and time, UTC")
    checkpoint: dict[str, Any]
    corpus: dict[str, Any]
    software: dict[str, Any]
    policy: Policy
    suites: tuple[Suite, ...]
    rows: tuple[Row, ...] = Field(min_length=1)
    statistics: tuple[Statistics, ...]

    @property
    def label(self) -> str:
        """What the baseline is called in a comparison; no checkpoint's file can be called so."""
        return f"{self.checkpoint.get('name') or 'checkpoint'} (baseline)"


def baseline_schema() -> dict[str, Any]:
    """JSON schema of a baseline file."""
    schema = Baseline.model_json_schema()
    schema["properties"]["sha256"] = {
        "type": "string",
        "description": "SHA-256 of the other fields as compact JSON with sorted keys.",
    }
    schema["required"] = sorted({*schema["required"], "format", "version", "sha256"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def make(
    results: Results,
    *,
    policy: Policy,
    checkpoint: Mapping[str, Any],
    corpus: Mapping[str, Any],
    software: Mapping[str, Any],
    version: str,
    blessed: str,
) -> tuple[Baseline, Verdict]:
    """The baseline of one checkpoint's results by suite, and the gate's verdict on that checkpoint against itself.

    checkpoint, corpus, software, version: as in the manifest of the run. The verdict tells which rows are gated and
    which of them have too little data. Raises InputError where the policy gates no row, asks for something that was not
    measured, finds too little data to judge any row, or gates against a control.
    """
    if policy.against == "control":
        raise InputError(
            "the policy gates against the control; a baseline takes the place of the base, so `against: base` is needed"
        )
    facts = {name: checkpoint.get(name) for name in CHECKPOINT_FACTS}
    # A candidate's own training is what comes after these stages.
    facts["provenance"] = {"stages": list((checkpoint.get("provenance") or {}).get("stages") or [])}
    corpus = {name: corpus[name] for name in CORPUS_FACTS if name in corpus}
    rows = [row for result in results.values() for row in result.rows]
    layer = str(facts["align_layer"]) if facts["align_layer"] is not None else None
    # Without a recorded align layer (a base), any layer may become that of a candidate.
    layers = sorted({row.layer for row in rows if row.layer is not None})
    keys = _gated_keys(rows, policy, pivot_of({"": results}), [layer] if layer in layers else [None, *layers])
    if not keys:
        measured = ", ".join(results) or "nothing"
        raise InputError(
            f"the policy gates none of the rows that were measured ({measured}); measure more suites or change the "
            "policy"
        )
    kept = {suite: reduce(result, keys) for suite, result in results.items()}
    kept = {suite: relabel(result, OWNER) for suite, result in kept.items() if result.rows}
    suites, statistics = [], []
    for result in kept.values():
        entry, packed = _pack_suite(result)
        suites.append(entry)
        statistics += packed
    baseline = Baseline(
        alignx_eval=version,
        blessed=blessed,
        checkpoint=facts,
        corpus=corpus,
        software=dict(software),
        policy=policy,
        suites=tuple(suites),
        rows=tuple(row for result in kept.values() for row in result.rows),
        statistics=tuple(statistics),
    )
    verdict = judge(compare_with(baseline, results, label="itself", checkpoint=facts, corpus=corpus), policy)
    if verdict.outcome == "incomplete":
        raise InputError(f"no candidate could pass against this baseline: {verdict.sentence.split(': ', 2)[-1]}")
    return baseline, verdict


def reduce(result: SuiteResult, keys: Collection[str]) -> SuiteResult:
    """The rows `keys` of a result and all that a paired test of them needs; names of items and clusters become a digest
    and codes.

    Both sides of a gate against a baseline have gone through this.
    """
    return SuiteResult(
        suite=result.suite,
        rows=[row for row in result.rows if row.key in keys],
        items={key: items for key, items in result.items.items() if key in keys},
        clusters={key: _codes(clusters) for key, clusters in result.clusters.items() if key in keys},
        default_clusters=_codes(result.default_clusters),
        item_ids=(_digest_of_items(result.item_ids),),
        fingerprint=dict(result.fingerprint),
        environment=result.environment,
    )


def compare_with(
    baseline: Baseline,
    results: Results,
    *,
    label: str,
    checkpoint: Mapping[str, Any],
    corpus: Mapping[str, Any],
    policy: Policy | None = None,
    allow_mismatch: Collection[str] = (),
    seed: int = 0,
) -> Comparison:
    """The comparison of a candidate's results with the baseline, over the rows that `policy` (default: the baseline's)
    gates.

    `label` is the candidate's name. Raises NotComparableError as `comparison.compare`.
    """
    policy = policy or baseline.policy
    rows = [row for result in results.values() for row in result.rows]
    # The layer is the candidate's; where none was measured, the baseline's, whose rows are then missing.
    layer = align_layer(checkpoint, rows)[0] or align_layer(baseline.checkpoint, baseline.rows)[0]
    keys = _gated_keys([*baseline.rows, *rows], policy, pivot_of({label: results}), [layer])
    sides = {
        baseline.label: {
            suite: replace(result, rows=[row for row in result.rows if row.key in keys])
            for suite, result in _unpack(baseline).items()
        },
        label: {suite: reduce(result, keys) for suite, result in results.items()},
    }
    comparison = compare(
        {name: {suite: result for suite, result in side.items() if result.rows} for name, side in sides.items()},
        base=baseline.label,
        candidates=[label],
        checkpoints={
            baseline.label: {**baseline.checkpoint, "name": baseline.label},
            label: {**checkpoint, "name": label} | ({"middle_layer": layer} if layer is not None else {}),
        },
        corpus=corpus,
        allow_mismatch=allow_mismatch,
        seed=seed,
    )
    hints = {
        f"not measured for {baseline.label}": "not measured for the baseline; to gate it, bless again",
        f"not measured for {label}": f"not measured for {label}; measure it, or bless again without it",
    }
    comparison.rows = [replace(row, reason=hints.get(row.reason or "", row.reason)) for row in comparison.rows]
    return comparison


def changes(before: Baseline, after: Baseline, results: Results) -> list[str]:
    """What differs between two baselines, in lines of text: checkpoint, policy, rows added, removed and changed (worst
    first).

    results: those that `after` was made of. Changed rows come with loss, n and p where the two compare; else the table
    says why not.
    """
    told = []
    for title, one, other in (
        ("checkpoint", _name_checkpoint(before), _name_checkpoint(after)),
        ("alignx-eval version", before.alignx_eval, after.alignx_eval),
        ("corpus", _name_corpus(before), _name_corpus(after)),
    ):
        if one != other:
            told.append(f"{title}: {one} -> {other}")
    if before.policy != after.policy:
        told.append("policy: changed")
    old, new = ({row.key: row for row in baseline.rows} for baseline in (before, after))
    for title, keys in (
        ("added", [key for key in new if key not in old]),
        ("removed", [key for key in old if key not in new]),
    ):
        if keys:
            told.append(f"rows {title}: {len(keys)}: {', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''}")
    try:
        comparison = compare_with(
            before,
            results,
            label=f"{after.label} now",  # `before` may have the same label
            checkpoint=after.checkpoint,
            corpus=after.corpus,
            policy=after.policy,
        )
    except NotComparableError as error:
        return [
            *told,
            "measured differently, so values were not compared: "
            f"{str(error).partition(chr(10))[2].rpartition(chr(10))[0]}",
        ]
    gated = judge(comparison, after.policy).candidates[0].rows
    changed = [row for row in gated if row.row is not None and row.row.difference]
    if changed:
        told.append(f"rows changed: {len(changed)} of {len(old.keys() & new.keys())}, worst first:")
        told += [f"  {describe_row(row)}" for row in changed[:SHOWN]]
        told += [f"  and {len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
    return told


def write(baseline: Baseline, path: str | Path) -> int:
    """Write a baseline, as a whole or not at all; returns its size in bytes. Raises InputError above MAXIMUM_BYTES."""
    text = dump(baseline)
    size = len(text.encode())
    if size > MAXIMUM_BYTES:
        shares: dict[str, int] = {}
        for statistics in baseline.statistics:
            name = "/".join(statistics.key.split("/")[:2])
            shares[name] = shares.get(name, 0) + len(statistics.values.data)
        largest, share = max(shares.items(), key=lambda item: item[1])
        raise InputError(
            f"{path}: the baseline would take {size / 1e6:.1f} MB, more than {MAXIMUM_BYTES / 1e6:.0f} MB, "
            f"{share / 1e6:.1f} MB of it for "
            f"{largest}; gate fewer metrics or languages in the policy (--policy), or measure fewer lines (--limit)"
        )
    atomic_write(Path(path).expanduser(), text)
    return size


def dump(baseline: Baseline) -> str:
    """The text of the file: small things first, then one row a line, then one row's statistics a line."""
    content = _content(baseline)
    parts = []
    for name, value in {**content, "sha256": _checksum(content)}.items():
        if name in ("suites", "rows", "statistics"):
            lines = ",\n".join(json.dumps(each, ensure_ascii=False, allow_nan=False) for each in value)
            parts.append(f'"{name}": [\n{lines}\n]')
        else:
            parts.append(f'"{name}": {json.dumps(value, ensure_ascii=False, allow_nan=False)}')
    return "{" + ",\n".join(parts) + "}\n"


def looks_like_baseline(path: str | Path) -> bool:
    """Whether a file begins as one that `write` wrote, whatever became of the rest."""
    try:
        with Path(path).expanduser().open("rb") as file:
            return FORMAT.encode() in file.read(200)
    except OSError:
        return False


def load(path: str | Path) -> Baseline:
    """Read a baseline.

    Raises InputError for what is no baseline, or was cut short or edited, and NotComparableError for a baseline of
    another version, or of a suite whose numbers have changed their meaning since.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON, cut short or damaged ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path}: not a baseline (no format {FORMAT!r} in it); `alignx-eval bless` writes one")
    if document.get("version") != VERSION:
        raise NotComparableError(
            f"{path}: a baseline of version {document.get('version')!r}, this alignx-eval reads version {VERSION}; "
            "bless again"
        )
    if document.pop("sha256", None) != _checksum(document):
        raise InputError(
            f"{path}: was edited or damaged (its content does not have the recorded checksum); restore it, or bless "
            "again"
        )
    try:
        baseline = Baseline.model_validate(document)
        _unpack(baseline)
    except (ValidationError, ValueError, KeyError, IndexError, zlib.error) as error:
        raise InputError(f"{path}: not a baseline of this format ({' '.join(str(error).split())[:200]})") from error
    for suite in baseline.suites:
        found, known = suite.fingerprint.get("measuring_version"), MEASURING_VERSIONS.get(suite.suite)
        if found != known:
            again = shlex.join(["alignx-eval", "run", str(baseline.checkpoint.get("reference")), "--out", "DIR"])
            raise NotComparableError(
                f"{path}: {suite.suite} was measured by {f'version {found}' if found else 'an older version'} of this "
                "suite, today it is "
                f"version {known} and its numbers are others; measure and bless again: {again} && "
                + shlex.join(["alignx-eval", "bless", "DIR", "--to", str(path)])
            )
    return baseline


SHOWN = 20  # rows that `changes` names


def _content(baseline: Baseline) -> dict[str, Any]:
    content = baseline.model_dump(mode="json")
    defaults = {field.name: field.default for field in fields(Row)}
    content["rows"] = [
        {name: value for name, value in row.items() if value != defaults[name]} for row in content["rows"]
    ]
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _gated_keys(rows: Iterable[Row], policy: Policy, pivot: str, layers: Iterable[str | None]) -> set[str]:
    """Keys of the rows that the policy gates where any of `layers` is the align layer."""
    return {
        row.key
        for row in rows
        for layer in layers or [None]
        if deciding_rule(policy, row, language=own_language(row, pivot), layer=layer) is not None
    }


def _name_checkpoint(baseline: Baseline) -> str:
    facts = baseline.checkpoint
    return f"{facts.get('name')} (content {str(facts.get('content_hash'))[:12]})"


def _name_corpus(baseline: Baseline) -> str:
    facts = baseline.corpus
    name = (
        f"{facts.get('name')}/{facts.get('split')}, {facts.get('lines')} lines, {len(facts.get('languages') or [])} "
        "languages"
    )
    return f"{name} (content {str(facts.get('content_hash'))[:12]})"


def _digest_of_items(names: Sequence[str]) -> str:
    return f"{len(names)} items, sha256 {hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()}"


def _codes(clusters: Sequence[str]) -> tuple[str, ...]:
    """For each item the number of its cluster, by first appearance: the partition without the names."""
    return tuple(map(str, cluster_codes(clusters, len(clusters))[0])) if clusters else ()


def _pack_suite(result: SuiteResult) -> tuple[Suite, list[Statistics]]:
    """A reduced result as it goes into the file."""
    partitions: dict[tuple[str, ...], int] = {}

    def number(clusters: tuple[str, ...]) -> int:
        return partitions.setdefault(clusters, len(partitions))

    default = number(result.default_clusters) if result.default_clusters else None
    statistics = [
        Statistics(
            key=key,
            kind=items.kind,
            point=items.point,
            clustering=number(result.clusters[key]) if key in result.clusters else None,
            values=_pack(items.values),
        )
        for key, items in result.items.items()
    ]
    suite = Suite(
        suite=result.suite,
        fingerprint=result.fingerprint,
        environment=result.environment,
        items=result.item_ids[0],
        default_clustering=default,
        clusterings=tuple(_pack(np.array(partition, dtype=np.int64)) for partition in partitions),
    )
    return suite, statistics


def _unpack(baseline: Baseline) -> dict[str, SuiteResult]:
    """The reduced results by suite, under the baseline's label. Raises various errors for damaged content."""
    results = {}
    for suite in baseline.suites:
        partitions = [tuple(map(str, _unpack_array(packed).astype(np.int64))) for packed in suite.clusterings]
        own = [each for each in baseline.statistics if each.key.split("/")[0] == suite.suite]
        results[suite.suite] = SuiteResult(
            suite=suite.suite,
            rows=[replace(row, checkpoint=baseline.label) for row in baseline.rows if row.suite == suite.suite],
            items={each.key: Items(each.kind, _unpack_array(each.values), each.point) for each in own},
            clusters={each.key: partitions[each.clustering] for each in own if each.clustering is not None},
            default_clusters=partitions[suite.default_clustering] if suite.default_clustering is not None else (),
            item_ids=(suite.items,),
            fingerprint=suite.fingerprint,
            environment=suite.environment,
        )
    return results


def _pack(values: np.ndarray) -> Packed:
    for dtype in get_args(Dtype):
        packed = values.astype(dtype)
        if np.array_equal(packed.astype(np.float64), values.astype(np.float64)):
            break
    data = np.ascontiguousarray(packed.T).astype(packed.dtype.newbyteorder("<")).tobytes()
    return Packed(shape=values.shape, dtype=dtype, data=base64.b64encode(zlib.compress(data, 9)).decode())


def _unpack_array(packed: Packed) -> np.ndarray:
    data = zlib.decompress(base64.b64decode(packed.data, validate=True))
    values = np.frombuffer(data, dtype=np.dtype(packed.dtype).newbyteorder("<"))
    # in the order of memory of the original, since sums depend on it in their last digits
    return np.ascontiguousarray(values.reshape(packed.shape[::-1]).T, dtype=np.float64)
