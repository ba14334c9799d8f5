"""The run directory: what was measured, on disk, so that it can be read, compared and resumed.

    manifest.json     what was asked for and with what: options, corpus, checkpoints and their roles, versions;
                      `identity` (what all of it is of: another one belongs into another directory), `status` (running,
                      complete, failed), `started` (first session), `resumed` (later ones), `seconds` (sum over the
                      sessions)
    results.json      every number (`rows`) and what is needed to compare it (`suites`), with a schema version
    items/            per-item statistics of each suite (safetensors), the material of paired comparisons
    pairs.parquet     all language pairs, where a suite gives them (without intervals)
    samples.jsonl     what models wrote, one JSON object per line
    layer_similarity.json   CKA between checkpoints, layer against layer
    report.html, summary.md   made from the above, and can be made again from it without a model

A suite of a checkpoint is complete when `results.json` names it; everything it refers to is written before, under a
name that no other content has, and every file is replaced as a whole, so a killed process leaves either the old state
or the new one. What it leaves besides goes when the directory is locked again. A suite is measured again when its key
changes: the label and content of the checkpoint, and the options that the suite depends on, its measuring version among
them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from alignx_eval import __version__
from alignx_eval.errors import InputError
from alignx_eval.files import atomic_write, dump_json, read_text, refuse_constant, sole_writer
from alignx_eval.results import SCHEMA_VERSION, Items, LayerSimilarity, Row, SuiteResult

FORMAT = "alignx-eval run"
ROW_FIELDS = tuple(field.name for field in fields(Row))
# Of each line of samples.jsonl and pairs.parquet: the measurement it belongs to. Its key is the entry's `stored_as`.
OWNER_FIELDS = ("checkpoint", "suite", "key")
Owner = tuple[str, str, str]


def suite_key(*, label: str, content_hash: str, suite: str, options: dict[str, Any]) -> str:
    """Identity of a measurement: 16 hex digits over everything that decides its result."""
    identity = [SCHEMA_VERSION, label, content_hash, suite, options]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


class RunDirectory:
    """A run directory on disk. `RunDirectory(path)` opens or starts an empty one; `RunDirectory.read(path)` insists
    that one is there.

    Of several processes of one run only the main one has a `writable` directory; the others read, and what they save
    stays in memory.
    """

    def __init__(self, path: str | Path, *, writable: bool = True):
        """Raises InputError where `path` is a file, or holds something that is not a run directory of this schema
        version."""
        self.path = Path(path)
        self.writable = writable
        self.manifest: dict[str, Any] = {}
        self._suites: dict[tuple[str, str], dict[str, Any]] = {}  # (checkpoint label, suite) -> entry of results.json
        self._rows: dict[tuple[str, str], list[Row]] = {}
        self._load()

    @classmethod
    def read(cls, path: str | Path) -> RunDirectory:
        """Open an existing run directory. Raises InputError where there is none, or nothing complete in it."""
        path = Path(path)
        if path.name in ("results.json", "manifest.json"):
            path = path.parent
        if not path.exists():
            raise InputError(f"{path}: does not exist")
        directory = cls(path)
        if not directory._suites:
            raise InputError(f"{path}: holds no finished results; finish the run that was started there first")
        return directory

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing here. The lock goes with the process, whatever ends it.

        The directory is read again, since its last owner may have written after it was opened here, and what killed
        processes left is removed. Raises InputError where the lock is taken or the directory cannot be written. Nothing
        happens where it is not writable.
        """
        if not self.writable:
            yield
            return
        with sole_writer(self.path):
            self._load()
            for left_over in [*self.path.glob(".*.tmp"), *self.path.glob("items/.*.tmp")]:
                left_over.unlink(missing_ok=True)
            self._drop_unreferenced()
            yield

    def labels(self) -> list[str]:
        """Labels of the checkpoints that have at least one complete suite."""
        return list(dict.fromkeys(label for label, _ in self._suites))

    def suites(self, label: str) -> list[str]:
        """Suites that are complete for a checkpoint."""
        return [suite for owner, suite in self._suites if owner == label]

    def is_done(self, label: str, suite: str, key: str, *, samples: bool = True) -> bool:
        """Whether this very measurement is complete; without its samples that counts only if none are wanted."""
        entry = self._suites.get((label, suite))
        return entry is not None and entry["key"] == key and (entry["samples_kept"] or not samples)

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest; `format` and `schema_version` are added."""
        self.manifest = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "version": __version__, **manifest}
        if self.writable:
            atomic_write(self.path / "manifest.json", dump_json(self.manifest, "manifest.json", indent=1))

    def save(
        self, label: str, key: str, result: SuiteResult, *, options: dict[str, Any] | None = None, samples: bool = True
    ) -> None:
        """Store one suite of one checkpoint; what the directory held for them before is replaced. A directory without a
        manifest gets one.

        `samples=False` leaves the samples out. Raises ValueError for NaN, infinity and anything that is not plain JSON:
        such a result is a defect of the suite, not of the input.
        """
        place = (label, result.suite)
        for row in result.rows:
            if (row.checkpoint, row.suite) != place:
                raise ValueError(
                    f"row {row.key} belongs to {row.checkpoint!r}/{row.suite!r}, not to {label!r}/{result.suite!r}"
                )
        _require_finite(result)
        extras = dict(result.extras)
        pairs = extras.pop("pairs", None)
        lines = (
            [dump_json(sample, f"a sample of {label}/{result.suite}") for sample in result.samples] if samples else []
        )
        data = b""
        if result.items:
            from safetensors.numpy import save

            data = save({name: np.ascontiguousarray(items.values) for name, items in result.items.items()})
        # The key alone will not do: the same measurement made again may differ in its last digits, or come with its
        # samples.
        parts = hashlib.sha256(data)
        parts.update("\n".join([*lines, dump_json(pairs, f"{label}/{result.suite}: pairs")]).encode())
        stored_as = f"{key}-{parts.hexdigest()[:8]}"
        entry: dict[str, Any] = {
            "checkpoint": label,
            "suite": result.suite,
            "key": key,
            "stored_as": stored_as,
            "options": options or {},
            "seconds": round(result.seconds, 3),
            "fingerprint": result.fingerprint,
            "environment": result.environment,
            "notes": result.notes,
            "warnings": result.warnings,
            "samples_kept": samples,
            "samples": len(lines),
            "pairs": None if pairs is None else list(pairs),
            "items": {name: {"kind": items.kind, "point": items.point} for name, items in result.items.items()},
            "items_file": f"items/{_file_name(label)}.{result.suite}.{stored_as}.safetensors" if data else None,
            "items_sha256": hashlib.sha256(data).hexdigest() if data else None,
            "item_ids": list(result.item_ids),
            "default_clusters": list(result.default_clusters),
            **_pack_clusters(result.clusters),
            "extras": extras,
        }
        dump_json(entry, f"{label}/{result.suite}")  # refuse before anything is written
        if not self.manifest:
            self.write_manifest({})
        if entry["items_file"]:
            atomic_write(self.path / entry["items_file"], data)
        if lines:
            self._write_samples(_owner(entry), lines)
        if pairs is not None:
            self._write_pairs(_owner(entry), pairs)
        replaced = place in self._suites
        self._suites[place] = entry
        self._rows[place] = list(result.rows)
        self._write_results()
        if replaced:  # what it left behind may go only now that nothing refers to it
            self._drop_unreferenced()

    def load(self, label: str, suite: str) -> SuiteResult:
        """Read one suite of one checkpoint back; equal to what was saved (lists for tuples inside plain JSON).

        Raises InputError where it is not there, or a file is missing, cut short or changed since.
        """
        entry = self._suites.get((label, suite))
        if entry is None:
            raise InputError(f"{self.path}: holds no results of suite {suite!r} for checkpoint {label!r}")
        extras = dict(entry["extras"])
        if entry["pairs"]:
            extras["pairs"] = self._read_pairs(entry)
        return SuiteResult(
            suite=suite,
            rows=list(self._rows[label, suite]),
            items=self._read_items(entry),
            clusters=_unpack_clusters(entry),
            default_clusters=tuple(entry["default_clusters"]),
            item_ids=tuple(entry["item_ids"]),
            samples=self._read_samples(entry),
            fingerprint=entry["fingerprint"],
            environment=entry["environment"],
            notes=list(entry["notes"]),
            warnings=list(entry.get("warnings", [])),
            extras=extras,
            seconds=entry["seconds"],
        )

    def results(self, label: str) -> dict[str, SuiteResult]:
        """Everything that is complete for a checkpoint: suite -> result."""
        return {suite: self.load(label, suite) for owner, suite in self._suites if owner == label}

    def key_and_options(self, label: str, suite: str) -> tuple[str, dict[str, Any]]:
        """Identity of a stored measurement, and the options it was made with."""
        entry = self._suites[label, suite]
        return entry["key"], entry["options"]

    def fingerprint(self, label: str, suite: str) -> dict[str, Any]:
        """What must agree for a stored result to compare with another one."""
        return self._suites[label, suite]["fingerprint"]

    def layer_similarity(self) -> list[LayerSimilarity]:
        """What `write_layer_similarity` stored, empty where nothing was. Raises InputError for a file that is not of
        this kind."""
        path = self.path / "layer_similarity.json"
        if not path.exists():
            return []
        try:
            return [_similarity(record) for record in _read_json(path)["similarities"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: not written by alignx-eval (unexpected content: {error})") from error

    def write_layer_similarity(self, similarities: Sequence[LayerSimilarity]) -> None:
        """Replace `layer_similarity.json`."""
        document = {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "similarities": [asdict(each) for each in similarities],
        }
        if self.writable:
            atomic_write(self.path / "layer_similarity.json", dump_json(document, "layer_similarity.json") + "\n")

    # Writing

    def _write_results(self) -> None:
        """`results.json`: rows one per line, so that the file can be searched and compared line by line."""
        rows = [
            dump_json({name: getattr(row, name) for name in ROW_FIELDS}, row.key)
            for place in self._suites
            for row in self._rows[place]
        ]
        suites = [dump_json(entry, f"{entry['checkpoint']}/{entry['suite']}") for entry in self._suites.values()]
        text = (
            f'{{"format": "{FORMAT}",\n"schema_version": {SCHEMA_VERSION},\n"rows": [\n' + ",\n".join(rows)
            + '\n],\n"suites": [\n' + ",\n".join(suites) + "\n]}\n"
        )  # fmt: skip
        atomic_write(self.path / "results.json", text)

    def _write_samples(self, owner: Owner | None, samples: list[str]) -> None:
        """`samples.jsonl` with the samples of `owner` (each as JSON) added; lines that no complete suite refers to are
        dropped."""
        current = self._owners() - {owner}
        lines = [line for line, its_owner, _ in self._sample_lines() if its_owner in current]
        if owner is not None:
            start = dump_json(dict(zip(OWNER_FIELDS, owner)), "samples.jsonl")[:-1]
            lines += [f'{start}, "sample": {sample}}}' for sample in samples]
        atomic_write(self.path / "samples.jsonl", "".join(line + "\n" for line in lines))

    def _write_pairs(self, owner: Owner | None, pairs: dict[str, list[Any]] | None) -> None:
        """`pairs.parquet` in the same way; `pairs` holds columns of equal length."""
        import io

        import pyarrow
        import pyarrow.parquet

        path = self.path / "pairs.parquet"
        tables = []
        if path.exists():
            table, owners = _read_pairs_file(path)
            current = self._owners() - {owner}
            tables.append(table.filter(pyarrow.array([found in current for found in owners], pyarrow.bool_())))
        if owner is not None and pairs is not None:
            count = len(next(iter(pairs.values()), []))
            tables.append(
                pyarrow.table({**{name: [value] * count for name, value in zip(OWNER_FIELDS, owner)}, **pairs})
            )
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(
            pyarrow.concat_tables(tables, promote_options="permissive"), buffer, compression="zstd"
        )
        atomic_write(path, buffer.getvalue())

    def _drop_unreferenced(self) -> None:
        """Remove items, samples and pairs that `results.json` does not refer to: of replaced measurements, and of one
        that was killed."""
        referred = {entry["items_file"] for entry in self._suites.values()}
        for path in self.path.glob("items/*.safetensors"):
            if f"items/{path.name}" not in referred:
                path.unlink(missing_ok=True)
        owners = self._owners()
        if any(owner not in owners for _, owner, _ in self._sample_lines()):
            self._write_samples(None, [])
        pairs = self.path / "pairs.parquet"
        if pairs.exists() and not owners.issuperset(_read_pairs_file(pairs)[1]):
            self._write_pairs(None, None)

    def _owners(self) -> set[Owner | None]:
        return {_owner(entry) for entry in self._suites.values()}

    # Reading

    def _load(self) -> None:
        self.manifest, self._suites, self._rows = {}, {}, {}
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file, a run directory is needed")
        if not self.path.is_dir() or all(entry.name.startswith(".") for entry in self.path.iterdir()):
            return
        if not (self.path / "manifest.json").is_file():
            raise InputError(f"{self.path}: not a run directory (no manifest.json in it); name an empty or new folder")
        self.manifest = _read_json(self.path / "manifest.json")
        if not (self.path / "results.json").exists():
            return  # killed before the first suite was complete
        document = _read_json(self.path / "results.json")
        try:
            for entry in document["suites"]:
                place = (entry["checkpoint"], entry["suite"])
                self._suites[place] = entry
                self._rows[place] = []
                for name in (
                    "key",
                    "items",
                    "items_file",
                    "samples",
                    "samples_kept",
                    "pairs",
                    "extras",
                    "fingerprint",
                    "default_clusters",
                ):
                    entry[name]  # noqa: B018  every field that reading relies on is there
            for record in document["rows"]:
                self._rows[record["checkpoint"], record["suite"]].append(Row(**record))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path / 'results.json'}: not a results file of alignx-eval (unexpected content: {error})"
            ) from error

    def _read_items(self, entry: dict[str, Any]) -> dict[str, Items]:
        if not entry["items_file"]:
            return {}
        from safetensors.numpy import load

        path = self.path / entry["items_file"]
        if not path.is_file():
            raise InputError(f"{path}: is missing, results.json refers to it; measure again into another folder")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != entry["items_sha256"]:
            raise InputError(
                f"{path}: is cut short or was changed (its checksum is not the recorded one); measure again into "
                "another folder"
            )
        arrays = load(data)
        return {
            name: Items(kind=meta["kind"], values=arrays[name], point=meta["point"])
            for name, meta in entry["items"].items()
        }

    def _sample_lines(self) -> Iterator[tuple[str, Owner, dict[str, Any]]]:
        """Each line of `samples.jsonl`, the measurement it belongs to, and the sample."""
        path = self.path / "samples.jsonl"
        if not path.exists():
            return
        for number, line in enumerate(read_text(path).split("\n"), 1):
            if line:
                try:
                    record = json.loads(line)
                    found = line, (record["checkpoint"], record["suite"], record["key"]), record["sample"]
                except (ValueError, TypeError, KeyError) as error:
                    raise InputError(f"{path}: line {number} is not a sample (cut short or changed)") from error
                yield found

    def _read_samples(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        if not entry["samples"]:
            return []
        owner = _owner(entry)
        samples = [sample for _, its_owner, sample in self._sample_lines() if its_owner == owner]
        if len(samples) != entry["samples"]:
            raise InputError(
                f"{self.path / 'samples.jsonl'}: {len(samples)} samples of {owner[0]}/{owner[1]} found, "
                f"{entry['samples']} expected "
                "(cut short or changed)"
            )
        return samples

    def _read_pairs(self, entry: dict[str, Any]) -> dict[str, list[Any]]:
        import pyarrow

        path = self.path / "pairs.parquet"
        if not path.exists():
            raise InputError(f"{path}: is missing, results.json refers to it")
        table, owners = _read_pairs_file(path)
        table = table.filter(pyarrow.array([found == _owner(entry) for found in owners], pyarrow.bool_()))
        return {name: table.column(name).to_pylist() for name in entry["pairs"]}


def _similarity(record: dict[str, Any]) -> LayerSimilarity:
    """A record of `layer_similarity.json`: what JSON made a list of is a tuple again."""
    return LayerSimilarity(
        **record | {name: tuple(record[name]) for name in ("languages", "layers", "candidate_layers")}
    )


def _require_finite(result: SuiteResult) -> None:
    for row in result.rows:
        for name in ("value", "se", "ci_low", "ci_high", "null", "chance"):
            number = getattr(row, name)
            if number is not None and not np.isfinite(number):
                raise ValueError(f"{row.key}: {name} is {number}; an undefined quantity is None with a reason")
        if row.value is None and not row.reason:
            raise ValueError(f"{row.key}: no value and no reason")
    for name, items in result.items.items():
        if not np.all(np.isfinite(items.values)):
            raise ValueError(f"{name}: NaN or infinity in the per-item statistics")


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON file that this module wrote. Raises InputError for anything else."""
    try:
        document = json.loads(read_text(path), parse_constant=refuse_constant)
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON, cut short or damaged ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path}: not written by alignx-eval (no format {FORMAT!r} in it)")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: has schema version {document.get('schema_version')}, this alignx-eval reads version "
            f"{SCHEMA_VERSION}; "
            "measure again or use the version that wrote it"
        )
    return document


def _read_pairs_file(path: Path) -> tuple[Any, list[Owner]]:
    """The table, and the measurement that each of its rows belongs to."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, partitioning=None)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"{path}: not a parquet file, cut short or damaged") from error
    if not set(OWNER_FIELDS) <= set(table.column_names):
        raise InputError(f"{path}: not written by alignx-eval (columns {', '.join(OWNER_FIELDS)} expected)")
    return table, list(zip(*(table.column(name).to_pylist() for name in OWNER_FIELDS)))


def _owner(entry: dict[str, Any]) -> Owner:
    return entry["checkpoint"], entry["suite"], entry.get("stored_as", entry["key"])


def _pack_clusters(clusters: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Many rows share one tuple of clusters; each distinct tuple is stored once."""
    distinct = {values: number for number, values in enumerate(dict.fromkeys(clusters.values()))}
    return {
        "cluster_sets": [list(values) for values in distinct],
        "clusters": {name: distinct[values] for name, values in clusters.items()},
    }


def _unpack_clusters(entry: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    sets = [tuple(values) for values in entry["cluster_sets"]]
    return {name: sets[number] for name, number in entry["clusters"].items()}


def _file_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.") or "checkpoint"
