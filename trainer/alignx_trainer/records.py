"""What recipes name, opened as records: parallel text, pairs, instructions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from alignx_eval.corpora import BUNDLED, HUB_PREFIX, ParallelCorpus, load_corpus
from alignx_eval.errors import InputError
from alignx_eval.languages import resolve_language
from alignx_eval.prompts import translation_instruction
from alignx_trainer.config import Source
from alignx_trainer.hub_data import (
    BACTRIAN_LICENCE,
    OPUS_LICENCE,
    column_values,
    is_opus,
    open_language,
    open_pair,
    pinned,
    short_code,
)


@dataclass(frozen=True, slots=True)
class Record:
    """One sample before tokenization. Plain text has no instruction; `source` is then empty and `target` the text."""

    identity: str
    instruction: str | None
    source: str
    target: str
    source_language: str | None
    target_language: str | None


class Stream:
    """The records of one source, by index, without holding them all.

    `description` is their provenance, in plain JSON types; `dropped` in it says how many records were left out, and
    why. Raises InputError for a source that is wrong, MissingAssetError for a data set of the hub that is not at hand.
    """

    def __init__(self, source: Source, template: str) -> None:
        self.source, self.template = source, template
        self.records: ParallelRecords | PairRecords | InstructionRecords
        if source.kind == "instructions":
            self.records, self.description = open_instructions(source)
        elif source.kind == "translation" and is_opus(source.path):
            self.records, self.description = open_pairs(source, template)
        else:
            self.records, self.description = open_parallel(source, template)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    def groups(self) -> dict[str, np.ndarray]:
        """Indices of the records of each language; for translation of each pair of languages, both directions
        together."""
        return self.records.groups()


class ParallelRecords:
    """The lines of a parallel corpus in each of `directions`; index = line * directions + direction. `template` None:
    plain text."""

    def __init__(self, corpus: ParallelCorpus, directions: Sequence[tuple[str, str]], template: str | None) -> None:
        self.corpus, self.directions, self.template = corpus, list(directions), template

    def __len__(self) -> int:
        return len(self.corpus) * len(self.directions)

    def __getitem__(self, index: int) -> Record:
        line, direction = divmod(index, len(self.directions))
        one, two = self.directions[direction]
        identity = f"{self.corpus.ids[line]}:{one}-{two}"
        if self.template is None:
            return Record(identity, None, "", self.corpus.sentences[one][line], one, one)
        instruction = translation_instruction(self.template, one, two)
        return Record(
            identity, instruction, self.corpus.sentences[one][line], self.corpus.sentences[two][line], one, two
        )

    def groups(self) -> dict[str, np.ndarray]:
        places: dict[str, list[int]] = {}
        for place, (one, two) in enumerate(self.directions):
            places.setdefault(_pair_name(one, two), []).append(place)
        lines = np.arange(len(self.corpus))[:, None] * len(self.directions)
        return {name: (lines + np.array(columns)).ravel() for name, columns in places.items()}


@dataclass(frozen=True, slots=True)
class Pair:
    """A table of translations {"translation": {short code: text}} between two languages, and which of its rows are
    used."""

    languages: tuple[str, str]  # FLORES codes
    short: tuple[str, str]
    table: Any
    rows: np.ndarray


class PairRecords:
    """Translations that line up within a pair of languages only, in both directions; pair after pair, index = row * 2 +
    direction."""

    def __init__(self, pairs: Sequence[Pair], template: str) -> None:
        self.pairs, self.template = list(pairs), template
        self.ends = np.cumsum([2 * len(pair.rows) for pair in pairs])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Record:
        place = int(np.searchsorted(self.ends, index, side="right"))
        pair = self.pairs[place]
        line, backwards = divmod(index - (int(self.ends[place - 1]) if place else 0), 2)
        row = int(pair.rows[line])
        texts = pair.table[row]["translation"]
        (one, source), (two, target) = (
            (code, texts[short].strip()) for code, short in zip(pair.languages, pair.short, strict=True)
        )
        if backwards:
            one, source, two, target = two, target, one, source
        return Record(
            f"{'-'.join(pair.short)}:{row}:{one}-{two}",
            translation_instruction(self.template, one, two),
            source,
            target,
            one,
            two,
        )

    def groups(self) -> dict[str, np.ndarray]:
        starts = [0, *self.ends[:-1]]
        return {
            _pair_name(*pair.languages): np.arange(start, end)
            for pair, start, end in zip(self.pairs, starts, self.ends, strict=True)
        }


class InstructionRecords:
    """Instructions with their answers from one or several tables of `instruction`, `input`, `output`, `language`.

    Each part is (name, language of all its rows or None where each row says, table, rows that are used).
    """

    def __init__(self, parts: Sequence[tuple[str, str | None, Any, np.ndarray]]) -> None:
        self.parts = list(parts)
        self.ends = np.cumsum([len(rows) for *_, rows in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Record:
        place = int(np.searchsorted(self.ends, index, side="right"))
        name, language, table, rows = self.parts[place]
        row = int(rows[index - (int(self.ends[place - 1]) if place else 0)])
        entry = table[row]
        language = language or entry.get("language")
        return Record(
            f"{name}:{row}", entry["instruction"], entry.get("input") or "", entry["output"], language, language
        )

    def groups(self) -> dict[str, np.ndarray]:
        found: dict[str, list[int]] = {}
        start = 0
        for _, language, table, rows in self.parts:
            for offset, row in enumerate(rows):
                found.setdefault(language or table[int(row)].get("language") or "no language", []).append(
                    start + offset
                )
            start += len(rows)
        return {name: np.array(indices) for name, indices in found.items()}


def _pair_name(one: str, two: str) -> str:
    return one if one == two else "-".join(sorted((one, two)))


def default_split(path: str, wanted: str) -> str:
    """`wanted` of a bundled corpus (whose name wins over a folder's) and of the hub; of a folder "test", which stands
    for its one split."""
    return "test" if path not in BUNDLED and Path(path).expanduser().is_dir() else wanted


def open_parallel(source: Source, template: str) -> tuple[ParallelRecords, dict[str, Any]]:
    """Records and provenance of line-aligned text: every line in every direction, or as plain text in every
    language."""
    split = source.split or default_split(source.path, "train")
    corpus = load_corpus(source.path, split=split, languages=list(source.languages) or None)
    languages = list(corpus.languages)
    if source.kind == "monolingual":
        directions = [(language, language) for language in languages]
    elif source.pivot is not None:
        if source.pivot not in languages:
            raise InputError(
                f"source {source.path!r} has no pivot language {source.pivot}; it has {', '.join(languages)}"
            )
        others = [language for language in languages if language != source.pivot]
        directions = [pair for other in others for pair in ((source.pivot, other), (other, source.pivot))]
    else:
        directions = [(one, two) for one in languages for two in languages if one != two]
    if not directions:
        raise InputError(
            f"source {source.path!r}: translation needs at least two languages, found {', '.join(languages)}"
        )
    description = {
        "path": source.path,
        "split": corpus.split,
        "languages": languages,
        "lines": len(corpus),
        "dropped": {},  # a parallel corpus with an empty line is refused
        "sha256": corpus.content_hash,
        "licence": corpus.licence,
    }
    return ParallelRecords(corpus, directions, None if source.kind == "monolingual" else template), description


def open_pairs(source: Source, template: str) -> tuple[PairRecords, dict[str, Any]]:
    """Records and provenance of OPUS-100: one table a pair of languages, named by the two-letter codes in alphabetical
    order.

    Rows with an empty side are dropped. Every side is stripped of surrounding blanks.
    """
    name, revision = pinned(source)
    codes = [resolve_language(language) for language in source.languages]
    if source.pivot is not None:
        pivot = resolve_language(source.pivot)
        wanted = [(pivot, code) for code in codes if code != pivot]
    else:
        wanted = [(one, two) for place, one in enumerate(codes) for two in codes[place + 1 :]]
    if not wanted:
        raise InputError(f"source {source.path!r}: `languages` must name at least two languages")
    split, digest, dropped, pairs = source.split or "train", hashlib.sha256(), 0, []
    for one, two in wanted:
        shorts = (short_code(one), short_code(two))
        configuration = "-".join(sorted(shorts))
        table = open_pair(source.path, name, revision, configuration, split)
        if "translation" not in table.column_names or not set(shorts) <= set(table.features["translation"]):
            raise InputError(
                f"{source.path}, {configuration}: no column `translation` with {' and '.join(shorts)} in it"
            )
        kept = []
        for number, texts in enumerate(column_values(table, "translation")):
            if all((texts[short] or "").strip() for short in shorts):
                kept.append(number)
            digest.update(json.dumps([texts[short] for short in shorts]).encode())
        if not kept:
            raise InputError(f"{source.path}, {configuration}: no row with text on both sides")
        dropped += len(table) - len(kept)
        pairs.append(Pair((one, two), shorts, table, np.array(kept)))
    description = {
        "path": name,
        "revision": revision,
        "split": split,
        "languages": {_pair_name(*pair.languages): len(pair.rows) for pair in pairs},
        "dropped": {"empty side": dropped},
        "sha256": digest.hexdigest(),
        "licence": OPUS_LICENCE if name.lower().endswith("/opus-100") else "not stated",
    }
    return PairRecords(pairs, template), description


def open_instructions(source: Source) -> tuple[InstructionRecords, dict[str, Any]]:
    """Records and provenance of a JSONL file, of Bactrian-X, or of a folder in its layout with `data/de.json.gz` for
    each language.

    Rows without an output are dropped.
    """
    if not (source.path.startswith(HUB_PREFIX) or Path(source.path).is_dir()):
        entries, dropped = read_instructions(source.path, source.languages)
        digest = hashlib.sha256(json.dumps(entries, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
        description: dict[str, Any] = {
            "path": source.path,
            "records": len(entries),
            "dropped": {"empty output": dropped},
            "sha256": digest,
        }
        return InstructionRecords([(source.path, None, entries, np.arange(len(entries)))]), description
    name, revision = pinned(source)
    parts, total, content = [], 0, hashlib.sha256()
    for language in dict.fromkeys(resolve_language(language) for language in source.languages):
        short = short_code(language)
        table = open_language(source.path, name, revision, short)
        missing = {"instruction", "output"} - set(table.column_names)
        if missing:
            raise InputError(
                f"{source.path}, {short}: no column `{sorted(missing)[0]}`; its columns: "
                f"{', '.join(table.column_names)}"
            )
        inputs = column_values(table, "input") if "input" in table.column_names else [None] * len(table)
        kept = []
        for number, row in enumerate(
            zip(column_values(table, "instruction"), inputs, column_values(table, "output"), strict=True)
        ):
            if (row[0] or "").strip() and (row[2] or "").strip():
                kept.append(number)
            content.update(json.dumps(row).encode())
        if not kept:
            raise InputError(f"{source.path}, {short}: no row with an instruction and an output")
        total += len(table)
        parts.append((f"{Path(name).name}/{short}", language, table, np.array(kept)))
    description = {
        "path": name,
        "revision": revision,
        "languages": {language: len(rows) for _, language, _, rows in parts},
        "dropped": {"empty output": total - sum(len(rows) for *_, rows in parts)},
        "sha256": content.hexdigest(),
        "licence": BACTRIAN_LICENCE if name.lower().endswith("/bactrian-x") else "not stated",
    }
    return InstructionRecords(parts), description


def read_instructions(path: str, languages: Sequence[str] = ()) -> tuple[list[dict[str, Any]], int]:
    """Records of a JSONL file in the shape of Alpaca and Bactrian-X, and how many were dropped because their output is
    empty.

    Keys: `instruction`, `output`, optionally `input` (missing, null and empty are the same) and `language`, which is
    read by `resolve_language` and becomes a FLORES code; others are ignored. With `languages`, only theirs; a dropped
    record of another language is not counted. `bundled` names the shipped file. Raises InputError with the line's
    number.
    """
    if path == "bundled":
        text = (resources.files("alignx_eval") / "bundled" / "text" / "instructions" / "train.jsonl").read_text(
            encoding="utf-8"
        )
    elif Path(path).is_file():
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None
    else:
        raise InputError(
            f"no instructions at {path!r}: give a JSONL file, `bundled`, or {HUB_PREFIX}MBZUAI/Bactrian-X@COMMIT"
        )
    wanted = {resolve_language(language) for language in languages}
    records, dropped = [], 0
    # Not splitlines(), which also splits at U+2028 and the like inside a text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: no valid JSON ({error.msg})") from None
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("instruction", "output")):
            raise InputError(f"{path}, line {number}: `instruction` and `output` must be texts")
        if not entry["instruction"].strip():
            raise InputError(f"{path}, line {number}: the instruction is empty")
        if not isinstance(entry.get("input"), str | None):
            raise InputError(f"{path}, line {number}: `input` must be a text, null or missing")
        if entry.get("language") is not None:
            try:
                entry["language"] = resolve_language(str(entry["language"]))
            except InputError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
        if wanted and entry.get("language") not in wanted:
            continue
        if entry["output"].strip():
            records.append(entry)
        else:
            dropped += 1
    if not records:
        raise InputError(f"{path}: no instructions" + (f" in {', '.join(languages)}" if languages else ""))
    return records, dropped
