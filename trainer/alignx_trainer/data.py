"""Records to token ids, labels and spans; and the order of the samples, a pure function of seed and step."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignx_eval.corpora import BUNDLED, HUB_PREFIX, ParallelCorpus, load_corpus
from alignx_eval.encode import start_before
from alignx_eval.errors import InputError, MissingAssetError
from alignx_eval.languages import _SPELLINGS, resolve_language
from alignx_eval.prompts import split_at_input, text_without_input, translation_instruction
from alignx_trainer.config import Recipe, Source

OPUS_LICENCE = "OPUS-100: no licence stated by its makers, see its sources"
BACTRIAN_LICENCE = "CC BY-NC 4.0"
WINDOW = 16  # steps whose samples are sorted by length together, so that a batch holds little padding


@dataclass(frozen=True, slots=True)
class Record:
    """One sample before tokenization. Plain text has no instruction; `source` is then empty and `target` the text."""

    identity: str
    instruction: str | None
    source: str
    target: str
    source_language: str | None
    target_language: str | None


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids of one record, which of them the next-token loss is on, and the half-open token spans of source and target."""

    identity: str
    input_ids: list[int]
    trained: list[bool]
    source_span: tuple[int, int]
    target_span: tuple[int, int]
    source: str
    target: str
    source_language: str | None
    target_language: str | None
    truncated: bool


class Stream:
    """The records of one source, by index, without holding them all.

    `description` is their provenance, in plain JSON types; `dropped` in it says how many records were left out, and why. Raises InputError
    for a source that is wrong, MissingAssetError for a data set of the hub that is not at hand.
    """

    def __init__(self, source: Source, template: str) -> None:
        self.source, self.template = source, template
        self.records: ParallelRecords | PairRecords | InstructionRecords
        if source.kind == "instructions":
            self.records, self.description = open_instructions(source)
        elif source.kind == "translation" and _is_opus(source.path):
            self.records, self.description = open_pairs(source, template)
        else:
            self.records, self.description = open_parallel(source, template)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    def groups(self) -> dict[str, np.ndarray]:
        """Indices of the records of each language; for translation of each pair of languages, both directions together."""
        return self.records.groups()


class ParallelRecords:
    """The lines of a parallel corpus in each of `directions`; index = line * directions + direction. `template` None: plain text."""

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
    """A table of translations {"translation": {short code: text}} between two languages, and which of its rows are used."""

    languages: tuple[str, str]  # FLORES codes
    short: tuple[str, str]
    table: Any
    rows: np.ndarray


class PairRecords:
    """Translations that line up within a pair of languages only, in both directions; pair after pair, index = row * 2 + direction."""

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
    """`wanted` of a bundled corpus (whose name wins over a folder's) and of the hub; of a folder "test", which stands for its one split."""
    return "test" if path not in BUNDLED and Path(path).expanduser().is_dir() else wanted


def open_parallel(source: Source, template: str) -> tuple[ParallelRecords, dict[str, Any]]:
    """Records and provenance of line-aligned text: every line in every direction, or as plain text in every language."""
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


def _is_opus(path: str) -> bool:
    """Whether the path names OPUS-100 or a folder in its layout, with a subfolder `de-en` for each pair."""
    name = path.removeprefix(HUB_PREFIX)
    if Path(name).is_dir():
        return any(
            re.fullmatch("[a-z]{2,3}-[a-z]{2,3}", entry.name) for entry in Path(name).iterdir() if entry.is_dir()
        )
    return path.startswith(HUB_PREFIX) and name.partition("@")[0].lower().endswith("/opus-100")


def short_code(language: str) -> str:
    """The two-letter code (ISO 639-1) that data sets use for a FLORES code or whatever `resolve_language` takes.

    Bokmål is `nb` (OPUS-100 also has `no`, which does not say which Norwegian), Serbian `sr`, Chinese in simplified characters `zh`;
    traditional characters and other second scripts have none. Raises InputError where there is none.
    """
    code = resolve_language(language)
    for spelling, owner in _SPELLINGS.items():  # the first of several is the one in use: `he`, not the retired `iw`
        if owner == code and len(spelling) == 2:
            return spelling
    raise InputError(f"{code} has no two-letter code, so this data set cannot have it; leave it out of `languages`")


def open_pairs(source: Source, template: str) -> tuple[PairRecords, dict[str, Any]]:
    """Records and provenance of OPUS-100: one table a pair of languages, named by the two-letter codes in alphabetical order.

    Rows with an empty side are dropped. Every side is stripped of surrounding blanks.
    """
    name, revision = _pinned(source)
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
        table = _open_pair(source.path, name, revision, configuration, split)
        if "translation" not in table.column_names or not set(shorts) <= set(table.features["translation"]):
            raise InputError(
                f"{source.path}, {configuration}: no column `translation` with {' and '.join(shorts)} in it"
            )
        kept = []
        for number, texts in enumerate(_column(table, "translation")):
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
    """Records and provenance of a JSONL file, of Bactrian-X, or of a folder in its layout with `data/de.json.gz` for each language.

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
    name, revision = _pinned(source)
    parts, total, content = [], 0, hashlib.sha256()
    for language in dict.fromkeys(resolve_language(language) for language in source.languages):
        short = short_code(language)
        table = _open_language(source.path, name, revision, short)
        missing = {"instruction", "output"} - set(table.column_names)
        if missing:
            raise InputError(
                f"{source.path}, {short}: no column `{sorted(missing)[0]}`; its columns: {', '.join(table.column_names)}"
            )
        inputs = _column(table, "input") if "input" in table.column_names else [None] * len(table)
        kept = []
        for number, row in enumerate(zip(_column(table, "instruction"), inputs, _column(table, "output"), strict=True)):
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


def _column(table: Any, name: str) -> Iterator[Any]:
    """The values of one column, a few thousand in memory at a time."""
    for batch in table.select_columns([name]).iter(batch_size=4096):
        yield from batch[name]


def _pinned(source: Source) -> tuple[str, str | None]:
    """Name and revision of a data set of the hub, or a local folder and None. Raises InputError without revision or languages."""
    name, _, revision = source.path.removeprefix(HUB_PREFIX).partition("@")
    if not source.languages:
        raise InputError(
            f"source {source.path!r}: name the languages that it should have, as in `languages: [deu_Latn, eng_Latn]`"
        )
    if Path(name).is_dir():
        return name, None
    if not name or not revision:
        raise InputError(
            f"source {source.path!r}: give the revision too, as in {HUB_PREFIX}owner/name@COMMIT, or the text may change"
        )
    return name, revision


def _open_pair(path: str, name: str, revision: str | None, configuration: str, split: str) -> Any:
    import datasets

    if revision is not None:
        return _ask(
            f"{path}, {configuration}", datasets.load_dataset, name, configuration, split=split, revision=revision
        )
    files = sorted(str(file) for file in Path(name, configuration).glob(f"{split}-*.parquet"))
    if not files:
        raise InputError(f"{path} has no {configuration}/{split}-*.parquet; change `languages` or `split`")
    return _ask(f"{path}, {configuration}", datasets.load_dataset, "parquet", data_files=files, split="train")


def _open_language(path: str, name: str, revision: str | None, short: str) -> Any:
    """One file of Bactrian-X, by its name: the repository holds a loading script, which `datasets` refuses to run or to pass by."""
    import datasets
    from huggingface_hub import hf_hub_download

    where = f"data/{short}.json.gz"
    if revision is not None:
        file = _ask(f"{path}, {where}", hf_hub_download, name, where, repo_type="dataset", revision=revision)
    else:
        file = str(Path(name, where))
        if not Path(file).is_file():
            raise InputError(f"{path} has no {where}; change `languages`")
    return _ask(f"{path}, {where}", datasets.load_dataset, "json", data_files=file, split="train")


def _ask(reference: str, question: Any, *arguments: Any, **options: Any) -> Any:
    """The answer of `datasets` or the hub, its errors told apart: what can be fetched later, and what is wrong."""
    import datasets
    from huggingface_hub import constants, errors

    try:
        return question(*arguments, **options)
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        raise _not_at_hand(reference) from error
    except (
        datasets.exceptions.DatasetNotFoundError,
        errors.RepositoryNotFoundError,
        errors.HFValidationError,
    ) as error:
        if constants.HF_HUB_OFFLINE:
            raise _not_at_hand(reference) from error
        raise InputError(
            f"{reference}: no such data set on the hub, or no access to it ({_first_line(error)})"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{reference}: the data set has no such revision") from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"{reference}: the data set has no such part; change `languages`") from error
    except (errors.HfHubHTTPError, datasets.exceptions.DatasetsError, ValueError, RuntimeError, OSError) as error:
        line = _first_line(error)
        if line.startswith(
            "Couldn't find cache"
        ):  # `datasets` off the network, with another part of the data set in the cache
            raise _not_at_hand(reference) from error
        if line.startswith("BuilderConfig"):  # would go on with the names of all the others
            raise InputError(f"{reference}: the data set has no such part; change `languages`") from error
        raise InputError(f"{reference}: cannot be read ({line})") from error


def _not_at_hand(reference: str) -> MissingAssetError:
    from huggingface_hub import constants

    why = "the network is off; --online lets it be fetched" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
    return MissingAssetError(f"{reference}: not in the cache, and {why}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def read_instructions(path: str, languages: Sequence[str] = ()) -> tuple[list[dict[str, Any]], int]:
    """Records of a JSONL file in the shape of Alpaca and Bactrian-X, and how many were dropped because their output is empty.

    Keys: `instruction`, `output`, optionally `input` (missing, null and empty are the same) and `language`, which is read by
    `resolve_language` and becomes a FLORES code; others are ignored. With `languages`, only theirs; a dropped record of another language is
    not counted. `bundled` names the shipped file. Raises InputError with the line's number.
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


def language_shares(counts: Sequence[int], temperature: float) -> np.ndarray:
    """Share of each language with so many records: proportional to count^(1 / temperature). float64, sums to 1."""
    powers = np.asarray(counts, dtype=float) ** (1 / temperature)
    return powers / powers.sum()


def apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that add up to `total`, by largest remainder."""
    exact = shares * total
    whole = np.floor(exact).astype(int)
    for index in np.argsort(whole - exact)[: total - whole.sum()]:
        whole[index] += 1
    return whole


def tempered_pass(groups: Sequence[np.ndarray], temperature: float, key: list[int], number: int) -> np.ndarray:
    """Record indices of pass `number` over a source, as many as it has records, the languages' shares evened out by `temperature`.

    Every language is walked on its own in one fresh permutation after another: all its records come up before one comes up again, across
    passes too. A pure function of its arguments; `key` is seed and stream.
    """
    counts = [len(group) for group in groups]
    chosen = []
    for place, (group, size) in enumerate(
        zip(groups, apportion(language_shares(counts, temperature), sum(counts)), strict=True)
    ):
        first, last = number * int(size), (number + 1) * int(size)
        rounds = range(first // len(group), (last - 1) // len(group) + 1 if last > first else first // len(group))
        walks = [np.random.default_rng([*key, round_, 1 + place]).permutation(group) for round_ in rounds]
        if walks:
            begin = first - rounds.start * len(group)
            chosen.append(np.concatenate(walks)[begin : begin + int(size)])
    return np.random.default_rng([*key, number]).permutation(np.concatenate(chosen))


class Order:
    """Which record of which stream is where in training: a pure function of (seed, step), so there is no loader state to save.

    Each stream is walked in a new permutation on every pass (with a temperature, see `tempered_pass`). Within a window of steps samples are
    sorted by length and the batches shuffled.
    """

    def __init__(self, streams: Sequence[Stream], recipe: Recipe, tokenizer: Any) -> None:
        self.streams, self.recipe, self.tokenizer = streams, recipe, tokenizer
        weights = np.array([stream.source.weight for stream in streams])
        self.quota = apportion(
            weights / weights.sum(), WINDOW * recipe.batch_size
        )  # samples of each stream in one window
        if recipe.steps is not None:
            self.steps = recipe.steps
        else:
            largest = max(range(len(streams)), key=lambda index: len(streams[index]))
            self.steps = max(1, round((recipe.epochs or 0) * len(streams[largest]) * WINDOW / self.quota[largest]))
        self._groups = lru_cache(maxsize=len(streams))(lambda stream: list(streams[stream].groups().values()))
        self._permutation = lru_cache(maxsize=2 * len(streams))(self._make_permutation)
        self._window = lru_cache(maxsize=1)(self._make_window)

    def _make_permutation(self, stream: int, epoch: int) -> np.ndarray:
        temperature = self.streams[stream].source.temperature
        if temperature == 1:
            return np.random.default_rng([self.recipe.seed, stream, epoch]).permutation(len(self.streams[stream]))
        return tempered_pass(self._groups(stream), temperature, [self.recipe.seed, stream], epoch)

    def _make_window(self, window: int) -> list[list[Sample]]:
        chosen = []
        for stream, quota in enumerate(self.quota):
            for position in range(window * quota, (window + 1) * quota):
                epoch, offset = divmod(position, len(self.streams[stream]))
                chosen.append(self.streams[stream][int(self._permutation(stream, epoch)[offset])])
        recipe = self.recipe
        samples = [
            tokenize(
                record,
                self.tokenizer,
                template=recipe.prompt_template,
                max_length=recipe.max_length,
                lm_on=recipe.lm_on,
            )
            for record in chosen
        ]
        generator = np.random.default_rng([recipe.seed, len(self.streams), window])
        # The random key mixes the streams among samples of one length.
        ties = generator.random(len(samples))
        ordered = [
            samples[index] for index in np.lexsort((ties, np.array([len(sample.input_ids) for sample in samples])))
        ]
        batches = [ordered[start : start + recipe.batch_size] for start in range(0, len(ordered), recipe.batch_size)]
        return [batches[index] for index in generator.permutation(len(batches))]

    def batch(self, step: int) -> list[Sample]:
        """The samples of step 0, 1, ..."""
        window, offset = divmod(step, WINDOW)
        return self._window(window)[offset]


def tokenize(record: Record, tokenizer: Any, *, template: str, max_length: int, lm_on: str) -> Sample:
    """Ids, labels and spans of one record, at most `max_length` tokens.

    Every sample begins with the start token that the evaluator puts before a text (`alignx_eval.encode.start_token`).
    The prompt is tokenized once, as for generation, and the source located in it by character offsets: its span is the shortest run of
    tokens that covers the source without its surrounding blanks. A token that also holds what follows (".\\n\\n" in the pre-tokenizers of
    Llama 3 and Qwen) belongs to the span. The target is tokenized alone and appended with the end token, so its span is exact and the same
    as in generation. A record with an empty source has the template's form without input, and an empty source span.

    Source and target are truncated, each on its own; so is an instruction within one language that leaves its answer less than half of the
    room. The template and the instruction to translate never are. Raises InputError if they alone leave no room, or if the tokenizer gives
    no offsets.
    """
    end = [tokenizer.eos_token_id]
    target = tokenizer(record.target, add_special_tokens=False)["input_ids"]
    if record.instruction is None:
        start = start_before(target, tokenizer)
        room = max_length - len(start) - 1
        ids = start + target[:room] + end
        trained = [False] * len(start) + [True] * (len(ids) - len(start))
        return Sample(
            record.identity,
            ids,
            trained,
            (0, 0),
            (len(start), len(ids) - 1),
            "",
            record.target,
            record.source_language,
            record.target_language,
            len(target) > room,
        )
    source, truncated = record.source if record.source.strip() else "", False
    before, after = split_at_input(template) if source else (text_without_input(template), "")
    instruction = record.instruction
    prompt, span, cut = _prompt(before.replace("{instruction}", instruction), source, after, tokenizer)
    room = max_length - (len(prompt) - (span[1] - span[0])) - 1  # for source and target
    if record.source_language == record.target_language and room < len(target):
        head, tail = before.split("{instruction}")
        bare = max_length - len(_prompt(head, "", tail + after, tokenizer)[0]) - 1
        needed = max(2, min(len(target), bare // 2))
        while room < needed and instruction:
            *_, shorter = _prompt(head, instruction, tail + source + after, tokenizer)
            instruction = shorter(needed - room)
            prompt, span, cut = _prompt(before.replace("{instruction}", instruction), source, after, tokenizer)
            room = max_length - (len(prompt) - (span[1] - span[0])) - 1
            truncated = True
    if room < 2:
        raise InputError(
            f"max_length {max_length} leaves no room for a source and a target beside the template's {max_length - room - 1} tokens"
        )
    target_room = max(room // 2, room - (span[1] - span[0])) if source else room
    if len(target) > target_room:
        target, truncated = target[:target_room], True
    while len(prompt) + len(target) + 1 > max_length and source:
        # Tokens are cut by cutting characters; merges at the cut can change the count, hence the loop.
        source = cut(len(prompt) + len(target) + 1 - max_length)
        prompt, span, cut = _prompt(before.replace("{instruction}", instruction), source, after, tokenizer)
        truncated = True
    ids = prompt + target + end
    trained = [lm_on == "all" and position > 0 for position in range(len(prompt))] + [True] * (len(target) + 1)
    return Sample(
        record.identity,
        ids,
        trained,
        span,
        (len(prompt), len(prompt) + len(target)),
        record.source,
        record.target,
        record.source_language,
        record.target_language,
        truncated,
    )


def _prompt(
    before: str, text: str, after: str, tokenizer: Any
) -> tuple[list[int], tuple[int, int], Callable[[int], str]]:
    """Ids of the whole with its start token, the span of `text` in them, and a function that shortens `text` by about so many tokens (at
    least a character)."""
    try:
        encoded = tokenizer(before + text + after, add_special_tokens=False, return_offsets_mapping=True)
    except NotImplementedError:
        raise InputError(
            f"{type(tokenizer).__name__} gives no character offsets; the trainer needs a fast tokenizer"
        ) from None
    prefix = start_before(encoded["input_ids"], tokenizer)
    offsets = [(0, 0)] * len(prefix) + encoded["offset_mapping"]
    first = len(before) + len(text) - len(text.lstrip())
    last = len(before) + len(text.rstrip())
    inside = [index for index, (start, end) in enumerate(offsets) if start < last and end > first and end > start]

    def shorter(tokens: int) -> str:
        # A cut falls between characters, never inside one that takes several tokens.
        length = offsets[inside[-tokens]][0] - len(before) if 0 < tokens < len(inside) else 0
        return text[: max(0, min(length, len(text) - 1))].rstrip()

    return prefix + encoded["input_ids"], (inside[0], inside[-1] + 1) if inside else (0, 0), shorter


@dataclass(slots=True)
class Batch:
    """Right-padded tensors [rows, positions] of some samples. `labels` is -100 where there is no next-token loss."""

    samples: list[Sample]
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    source_mask: Tensor
    target_mask: Tensor

    @property
    def tokens(self) -> int:
        return int(self.attention_mask.sum())


def collate(samples: list[Sample], padding_id: int) -> Batch:
    width = max(len(sample.input_ids) for sample in samples)
    shape = (len(samples), width)
    input_ids, labels = torch.full(shape, padding_id), torch.full(shape, -100)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    source_mask, target_mask = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for row, sample in enumerate(samples):
        length = len(sample.input_ids)
        ids = torch.tensor(sample.input_ids)
        input_ids[row, :length] = ids
        attention_mask[row, :length] = 1
        labels[row, :length] = torch.where(torch.tensor(sample.trained), ids, -100)
        source_mask[row, slice(*sample.source_span)] = True
        target_mask[row, slice(*sample.target_span)] = True
    return Batch(samples, input_ids, attention_mask, labels, source_mask, target_mask)


def train_tokenizer(streams: Sequence[Stream], vocabulary_size: int) -> Any:
    """A byte-level BPE tokenizer with `<s>`, `</s>` and `<pad>` from all monolingual text and a sample of the prompts of the streams.

    Deterministic: it depends on the texts and the size alone.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def texts():
        for stream in streams:
            if isinstance(stream.records, ParallelRecords) and stream.source.kind == "monolingual":
                for lines in stream.records.corpus.sentences.values():
                    yield from lines
            else:
                before, after = split_at_input(stream.template)
                for index in range(0, len(stream), max(1, len(stream) // 4000)):
                    record = stream[index]
                    yield before.replace("{instruction}", record.instruction or "") + after

    tokenizer = Tokenizer(models.BPE())
    # Digits apart: numbers are copied, not learnt by heart. Chinese and other unspaced text has no blanks, so merges grow into words by
    # themselves.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
