"""Records to token ids, labels and spans; and the order of the samples, a pure function of seed and step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignx_eval.corpora import load_corpus
from alignx_eval.errors import InputError
from alignx_eval.prompts import split_at_input, translation_instruction
from alignx_trainer.config import Recipe, Source

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
    """The records of one source, by index, without holding them all."""

    def __init__(self, source: Source, template: str) -> None:
        self.source, self.template = source, template
        self.instructions: list[dict[str, str]] = []
        if source.kind == "instructions":
            self.instructions = read_instructions(source.path, source.languages)
            self.description = {"path": source.path, "records": len(self.instructions), "sha256": _digest(self.instructions)}
            return
        split = source.split or ("train" if not Path(source.path).is_dir() else "test")  # "test" takes the one split of a plain folder
        self.corpus = load_corpus(source.path, split=split, languages=list(source.languages) or None)
        languages = list(self.corpus.languages)
        self.description = {
            "path": source.path,
            "split": self.corpus.split,
            "languages": languages,
            "lines": len(self.corpus),
            "sha256": self.corpus.content_hash,
            "licence": self.corpus.licence,
        }
        if source.kind == "translation" and source.pivot is not None:
            if source.pivot not in languages:
                raise InputError(f"source {source.path!r} has no pivot language {source.pivot}; it has {', '.join(languages)}")
            others = [language for language in languages if language != source.pivot]
            self.directions = [pair for other in others for pair in ((source.pivot, other), (other, source.pivot))]
        elif source.kind == "translation":
            self.directions = [(one, two) for one in languages for two in languages if one != two]
        else:
            self.directions = [(language, language) for language in languages]
        if not self.directions:
            raise InputError(f"source {source.path!r}: translation needs at least two languages, found {', '.join(languages)}")

    def __len__(self) -> int:
        return len(self.instructions) if self.instructions else len(self.corpus) * len(self.directions)

    def __getitem__(self, index: int) -> Record:
        if self.instructions:
            entry = self.instructions[index]
            return Record(
                identity=f"{self.source.path}:{index}",
                instruction=entry["instruction"],
                source=entry["input"],
                target=entry["output"],
                source_language=entry.get("language"),
                target_language=entry.get("language"),
            )
        line, direction = divmod(index, len(self.directions))
        one, two = self.directions[direction]
        identity = f"{self.corpus.ids[line]}:{one}-{two}"
        if self.source.kind == "monolingual":
            return Record(identity, None, "", self.corpus.sentences[one][line], one, one)
        instruction = translation_instruction(self.template, one, two)
        return Record(identity, instruction, self.corpus.sentences[one][line], self.corpus.sentences[two][line], one, two)


def read_instructions(path: str, languages: Sequence[str] = ()) -> list[dict[str, str]]:
    """Records of a JSONL file with `instruction`, `input`, `output` and optionally `language`; `bundled` names the shipped one."""
    if path == "bundled":
        text = (resources.files("alignx_eval") / "bundled" / "text" / "instructions" / "train.jsonl").read_text(encoding="utf-8")
    elif Path(path).is_file():
        text = Path(path).read_text(encoding="utf-8")
    else:
        raise InputError(f"no instructions at {path!r}: give a JSONL file, or `bundled`")
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: no valid JSON ({error.msg})") from None
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("instruction", "input", "output")):
            raise InputError(f"{path}, line {number}: `instruction`, `input` and `output` must be texts")
        if not languages or entry.get("language") in languages:
            records.append(entry)
    if not records:
        raise InputError(f"{path}: no instructions" + (f" in {', '.join(languages)}" if languages else ""))
    return records


def _digest(records: list[dict[str, str]]) -> str:
    return hashlib.sha256(json.dumps(records, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


class Order:
    """Which record of which stream is where in training: a pure function of (seed, step), so there is no loader state to save.

    Each stream is walked in a new permutation on every pass. Within a window of steps samples are sorted by length and the batches
    shuffled.
    """

    def __init__(self, streams: Sequence[Stream], recipe: Recipe, tokenizer: Any) -> None:
        self.streams, self.recipe, self.tokenizer = streams, recipe, tokenizer
        weights = np.array([stream.source.weight for stream in streams])
        # The number of samples of each stream in one window, by largest remainder.
        exact = weights / weights.sum() * WINDOW * recipe.batch_size
        self.quota = np.floor(exact).astype(int)
        for index in np.argsort(self.quota - exact)[: WINDOW * recipe.batch_size - self.quota.sum()]:
            self.quota[index] += 1
        if recipe.steps is not None:
            self.steps = recipe.steps
        else:
            largest = max(range(len(streams)), key=lambda index: len(streams[index]))
            self.steps = max(1, round((recipe.epochs or 0) * len(streams[largest]) * WINDOW / self.quota[largest]))
        self._permutation = lru_cache(maxsize=2 * len(streams))(self._make_permutation)
        self._window = lru_cache(maxsize=1)(self._make_window)

    def _make_permutation(self, stream: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.recipe.seed, stream, epoch]).permutation(len(self.streams[stream]))

    def _make_window(self, window: int) -> list[list[Sample]]:
        chosen = []
        for stream, quota in enumerate(self.quota):
            for position in range(window * quota, (window + 1) * quota):
                epoch, offset = divmod(position, len(self.streams[stream]))
                chosen.append(self.streams[stream][int(self._permutation(stream, epoch)[offset])])
        recipe = self.recipe
        samples = [
            tokenize(record, self.tokenizer, template=recipe.prompt_template, max_length=recipe.max_length, lm_on=recipe.lm_on)
            for record in chosen
        ]
        generator = np.random.default_rng([recipe.seed, len(self.streams), window])
        # The random key mixes the streams among samples of one length.
        ties = generator.random(len(samples))
        ordered = [samples[index] for index in np.lexsort((ties, np.array([len(sample.input_ids) for sample in samples])))]
        batches = [ordered[start : start + recipe.batch_size] for start in range(0, len(ordered), recipe.batch_size)]
        return [batches[index] for index in generator.permutation(len(batches))]

    def batch(self, step: int) -> list[Sample]:
        """The samples of step 0, 1, ..."""
        window, offset = divmod(step, WINDOW)
        return self._window(window)[offset]


def tokenize(record: Record, tokenizer: Any, *, template: str, max_length: int, lm_on: str) -> Sample:
    """Ids, labels and spans of one record.

    The prompt is tokenized once and the source located by character offsets; the target is tokenized alone and appended with the end
    token, so its
    span is exact and the same as in generation. Source and target are truncated, each on its own; the template never is.
    Raises InputError if the template alone leaves no room.
    """
    end = [tokenizer.eos_token_id]
    target = tokenizer(record.target, add_special_tokens=False)["input_ids"]
    if record.instruction is None:
        start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
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
    before, after = split_at_input(template)
    before = before.replace("{instruction}", record.instruction)
    source, truncated = record.source, False
    prompt, span = _prompt(before, source, after, tokenizer)
    template_length = len(prompt) - (span[1] - span[0])
    room = max_length - template_length - 1
    if room < 2:
        raise InputError(f"max_length {max_length} leaves no room for a source and a target beside the template's {template_length} tokens")
    target_room = max(room // 2, room - (span[1] - span[0]))
    if len(target) > target_room:
        target, truncated = target[:target_room], True
    while len(prompt) + len(target) + 1 > max_length and source:
        # Tokens are cut by cutting characters; merges at the cut can change the count, hence the loop.
        excess = len(prompt) + len(target) + 1 - max_length
        source = source[: -max(1, excess)] if len(source) > excess else source[: len(source) // 2]
        prompt, span = _prompt(before, source, after, tokenizer)
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


def _prompt(before: str, source: str, after: str, tokenizer: Any) -> tuple[list[int], tuple[int, int]]:
    encoded = tokenizer(before + source + after, return_offsets_mapping=True)
    first, last = len(before), len(before) + len(source)
    inside = [index for index, (start, end) in enumerate(encoded["offset_mapping"]) if start < last and end > first and end > start]
    return list(encoded["input_ids"]), (inside[0], inside[-1] + 1) if inside else (0, 0)


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
            if stream.source.kind == "monolingual":
                for lines in stream.corpus.sentences.values():
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
