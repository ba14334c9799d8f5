"""Spans, labels, truncation, order, recipes."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from alignx_trainer.config import RECIPES, Recipe, Source, load_recipe
from alignx_trainer.hub_data import short_code
from alignx_trainer.model import train_tokenizer
from alignx_trainer.order import Order, language_shares, tempered_pass
from alignx_trainer.records import Record, Stream, read_instructions
from alignx_trainer.tokenize import collate, tokenize
from helpers.encoding import STARTS, make_tokenizer
from helpers.models import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from alignx_eval.engine.batches import sentence_token_ids
from alignx_eval.errors import InputError, MissingAssetError
from alignx_eval.prompts import TEMPLATES, split_at_input, text_without_input, translation_instruction

SENTENCES = {
    "eng_Latn": "The house stands by the river.",
    "zho_Hans": "房子在河边。",
    "tha_Thai": "บ้านอยู่ริมแม่น้ำ",
    "arb_Arab": "البيت بجانب النهر.",
    "deu_Latn": "Ja",
}


def unigram_tokenizer():
    """SentencePiece-like: a word mark in front of every word, no byte alphabet."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    texts = list(SENTENCES.values()) * 5 + list("\n:#.abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,")
    texts += list(TEMPLATES.values()) + [translation_instruction("alpaca", "eng_Latn", code) for code in SENTENCES]
    tokenizer.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def merging_tokenizer():
    """Pre-tokenized as in Llama 3 and Qwen: punctuation and the newlines after it are one piece; trained until they are
    one token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    pieces = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| "
        r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["End.\n\n", "Ende。\n\n", "End.\n", *SENTENCES.values()] * 50, trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


@pytest.fixture(
    scope="module",
    params=[tiny_tokenizer, unigram_tokenizer, merging_tokenizer],
    ids=["byte_level", "unigram", "merging"],
)
def tokenizer(request):
    return request.param()


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("source", SENTENCES)
@pytest.mark.parametrize("target", SENTENCES)
def test_spans_decode_to_the_sentences(tokenizer, template: str, source: str, target: str):
    record = Record(
        "1", translation_instruction(template, source, target), SENTENCES[source], SENTENCES[target], source, target
    )
    sample = tokenize(record, tokenizer, template=template, max_length=1000, lm_on="target")
    decode = lambda span: tokenizer.decode(sample.input_ids[slice(*span)]).strip()  # noqa: E731
    assert decode(sample.source_span) == SENTENCES[source]
    assert decode(sample.target_span) == SENTENCES[target]
    assert sample.input_ids[-1] == tokenizer.eos_token_id
    assert not sample.truncated
    # What the loss is on: exactly the target and the end.
    assert [position for position, trained in enumerate(sample.trained) if trained] == list(
        range(sample.target_span[0], len(sample.input_ids))
    )


def test_a_token_of_full_stop_and_newlines_belongs_to_the_source():
    tokenizer = merging_tokenizer()
    record = Record("1", "Translate.", SENTENCES["eng_Latn"], "Ja", "eng_Latn", "deu_Latn")
    sample = tokenize(record, tokenizer, template="alpaca", max_length=1000, lm_on="target")
    last = tokenizer.decode(sample.input_ids[sample.source_span[1] - 1 : sample.source_span[1]])
    assert last == ".\n\n"
    # And without such a token, the span ends with the full stop.
    sample = tokenize(record, tiny_tokenizer(), template="alpaca", max_length=1000, lm_on="target")
    assert tiny_tokenizer().decode(sample.input_ids[slice(*sample.source_span)]) == SENTENCES["eng_Latn"]


def test_blanks_around_the_source_are_not_in_its_span():
    tokenizer = merging_tokenizer()
    record = Record("1", "Translate.", "\n\n  Open.\n ", "Ja", "eng_Latn", "deu_Latn")
    sample = tokenize(record, tokenizer, template="alpaca", max_length=1000, lm_on="target")
    assert tokenizer.decode(sample.input_ids[slice(*sample.source_span)]).strip() == "Open."


def test_one_token_target():
    tokenizer = tiny_tokenizer()
    record = Record("1", "English to German:", "Open.", "J", "eng_Latn", "deu_Latn")
    sample = tokenize(record, tokenizer, template="plain", max_length=40, lm_on="target")
    start, end = sample.target_span
    assert end - start == 1 and tokenizer.decode(sample.input_ids[start:end]) == "J"
    assert sample.trained == [False] * start + [True, True]


SCRIPTS = "abc XYZ ,.!?'\n\tกขคแม่น้ำ房子在河边。البيت؟ñé🙂👍🏽०१½"
texts = st.text(alphabet=SCRIPTS, min_size=1, max_size=60).filter(str.strip)


@cache
def byte_tokenizer(name: str):
    return {"byte_level": tiny_tokenizer, "merging": merging_tokenizer}[name]()


@settings(max_examples=60, deadline=None)
@given(
    source=texts,
    target=texts,
    template=st.sampled_from(sorted(TEMPLATES)),
    name=st.sampled_from(["byte_level", "merging"]),
)
def test_ids_are_prompt_target_end_and_the_spans_decode(source: str, target: str, template: str, name: str):
    tokenizer = byte_tokenizer(name)
    record = Record("1", "Thai to Chinese:", source, target, "tha_Thai", "zho_Hans")
    sample = tokenize(record, tokenizer, template=template, max_length=10_000, lm_on="target")
    before, after = split_at_input(template)
    prompt = tokenizer(before.replace("{instruction}", "Thai to Chinese:") + source + after)["input_ids"]
    answer = tokenizer(target, add_special_tokens=False)["input_ids"]
    assert sample.input_ids == prompt + answer + [tokenizer.eos_token_id] and not sample.truncated
    assert sample.target_span == (len(prompt), len(prompt) + len(answer))
    assert tokenizer.decode(sample.input_ids[slice(*sample.source_span)]).strip() == source.strip()


@settings(max_examples=60, deadline=None)
@given(source=texts, target=texts, room=st.integers(2, 60), name=st.sampled_from(["byte_level", "merging"]))
def test_truncation_keeps_the_template_and_whole_characters(source: str, target: str, room: int, name: str):
    tokenizer = byte_tokenizer(name)
    record = Record("1", "Thai to Chinese:", source, target, "tha_Thai", "zho_Hans")
    before, after = "Thai to Chinese:\n", "\n"
    max_length = (
        len(tokenizer(before + after)["input_ids"]) + 3 + room
    )  # 3: a template with text in it can take other tokens
    sample = tokenize(record, tokenizer, template="plain", max_length=max_length, lm_on="target")
    assert len(sample.input_ids) <= max_length and sample.input_ids[-1] == tokenizer.eos_token_id
    start, end = sample.target_span
    answer = tokenizer(target, add_special_tokens=False)["input_ids"]
    assert 0 < end - start and sample.input_ids[start:end] == answer[: end - start]
    prompt = tokenizer.decode(sample.input_ids[1:start])
    assert prompt.startswith(before) and prompt.endswith(after)
    kept = prompt[len(before) : -len(after)]
    assert source.startswith(kept)
    assert tokenizer.decode(sample.input_ids[slice(*sample.source_span)]).strip() == kept.strip()
    assert sample.truncated == (kept != source or end - start < len(answer))


def test_no_input_form():
    tokenizer = tiny_tokenizer()
    for source in ("", " \n"):
        record = Record("1", "Name a river.", source, "Rhein", "eng_Latn", "eng_Latn")
        for template in TEMPLATES:
            sample = tokenize(record, tokenizer, template=template, max_length=1000, lm_on="target")
            prompt = tokenizer.decode(sample.input_ids[1 : sample.target_span[0]])
            assert prompt == text_without_input(template).replace("{instruction}", "Name a river.")
            assert "Input" not in prompt and sample.source_span == (0, 0)


def test_a_long_instruction_is_cut_but_not_one_to_translate():
    tokenizer = tiny_tokenizer()
    bare = len(tokenizer(text_without_input("alpaca").replace("{instruction}", ""))["input_ids"])
    long, answer = "Name {input} " * 200, "Rhein und Elbe"
    sample = tokenize(
        Record("1", long, "", answer, "eng_Latn", "eng_Latn"),
        tokenizer,
        template="alpaca",
        max_length=bare + 40,
        lm_on="all",
    )
    assert sample.truncated and len(sample.input_ids) <= bare + 40
    assert tokenizer.decode(sample.input_ids[slice(*sample.target_span)]) == answer
    text = tokenizer.decode(sample.input_ids)
    assert "### Instruction:\nName {input}" in text and text.endswith("\n\n### Response:\nRhein und Elbe</s>")
    with pytest.raises(InputError, match="leaves no room"):
        tokenize(
            Record("1", long, "Open", "Ja", "eng_Latn", "deu_Latn"),
            tokenizer,
            template="alpaca",
            max_length=bare + 40,
            lm_on="all",
        )


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        eos_token_id = 1

        def __call__(self, text, return_offsets_mapping=False, **options):
            if return_offsets_mapping:
                raise NotImplementedError
            return {"input_ids": [2]}

    with pytest.raises(InputError, match="fast tokenizer"):
        tokenize(
            Record("1", "a", "b", "c", "eng_Latn", "deu_Latn"), Slow(), template="plain", max_length=50, lm_on="all"
        )


def test_prompt_is_what_generation_sees():
    tokenizer = tiny_tokenizer()
    record = Record(
        "1",
        translation_instruction("plain", "eng_Latn", "deu_Latn"),
        SENTENCES["eng_Latn"],
        "Ja",
        "eng_Latn",
        "deu_Latn",
    )
    sample = tokenize(record, tokenizer, template="plain", max_length=100, lm_on="all")
    before, after = split_at_input("plain")
    prompt = tokenizer(before.format(instruction=record.instruction) + record.source + after)["input_ids"]
    assert sample.input_ids[: len(prompt)] == prompt
    assert sample.trained == [False] + [True] * (len(sample.input_ids) - 1)


@pytest.mark.parametrize(
    ("options", "name"), [(options, name) for options, name in STARTS if "eos_token" not in options]
)
def test_samples_begin_as_the_evaluator_begins_its_texts(options, name):
    """With one start token, whatever the tokenizer adds by itself; nothing stood before the prompt where that is
    nothing."""
    tokenizer = make_tokenizer(**options)
    start, end = tokenizer.convert_tokens_to_ids(name.split()[1]), tokenizer.eos_token_id
    words = {text: tokenizer.convert_tokens_to_ids(text.split()) for text in ("w1 w2 w3", "w4 w5")}
    text = tokenize(
        Record("1", None, "", "w1 w2 w3", "eng_Latn", "eng_Latn"),
        tokenizer,
        template="plain",
        max_length=20,
        lm_on="all",
    )
    assert text.input_ids == sentence_token_ids(tokenizer, ["w1 w2 w3"])[0] + [end] == [start, *words["w1 w2 w3"], end]
    assert text.trained == [False] + [True] * 4 and text.target_span == (1, 4)
    for template in TEMPLATES:
        record = Record("1", "w6 w7", "w1 w2 w3", "w4 w5", "eng_Latn", "deu_Latn")
        sample = tokenize(record, tokenizer, template=template, max_length=100, lm_on="target")
        before, after = split_at_input(template)
        prompt = sentence_token_ids(tokenizer, [before.replace("{instruction}", "w6 w7") + "w1 w2 w3" + after])[0]
        assert prompt[0] == start and prompt.count(start) == 1
        assert sample.input_ids == [*prompt, *words["w4 w5"], end]
        assert sample.input_ids[slice(*sample.source_span)] == words["w1 w2 w3"]
        assert sample.input_ids[slice(*sample.target_span)] == words["w4 w5"]


def test_a_template_that_writes_the_start_token_has_one(monkeypatch):
    monkeypatch.setitem(TEMPLATES, "chat", "<s> {instruction} {input} ")
    for bos in (True, False):
        tokenizer = make_tokenizer(bos=bos)
        record = Record("1", "w6", "w1 w2", "w4", "eng_Latn", "deu_Latn")
        sample = tokenize(record, tokenizer, template="chat", max_length=100, lm_on="target")
        assert sample.input_ids == tokenizer.convert_tokens_to_ids(["<s>", "w6", "w1", "w2", "w4", "</s>"])
        assert (sample.source_span, sample.target_span) == ((2, 4), (4, 5))


def test_truncation_cuts_source_and_target_never_the_template():
    tokenizer = tiny_tokenizer()
    record = Record(
        "1", "English to German:", SENTENCES["eng_Latn"] * 20, SENTENCES["zho_Hans"] * 20, "eng_Latn", "zho_Hans"
    )
    sample = tokenize(record, tokenizer, template="plain", max_length=64, lm_on="target")
    assert len(sample.input_ids) <= 64 and sample.truncated and sample.input_ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(sample.input_ids[: sample.source_span[0]]) == "<s>English to German:\n"
    assert tokenizer.decode(sample.input_ids[sample.source_span[1] : sample.target_span[0]]) == "\n"
    for span in (sample.source_span, sample.target_span):
        assert span[1] - span[0] >= 10
    with pytest.raises(InputError, match="leaves no room"):
        tokenize(record, tokenizer, template="alpaca", max_length=20, lm_on="target")


def test_a_long_source_leaves_a_short_target_whole():
    tokenizer = tiny_tokenizer()
    record = Record("1", "English to German:", SENTENCES["eng_Latn"] * 20, "Ja", "eng_Latn", "deu_Latn")
    sample = tokenize(record, tokenizer, template="plain", max_length=64, lm_on="target")
    assert tokenizer.decode(sample.input_ids[slice(*sample.target_span)]) == "Ja"


def test_collate_pads_to_the_right():
    tokenizer = tiny_tokenizer()
    records = [Record(str(i), "English to German:", "Open." * (i + 1), "Ja", "eng_Latn", "deu_Latn") for i in range(3)]
    samples = [tokenize(record, tokenizer, template="plain", max_length=100, lm_on="target") for record in records]
    batch = collate(samples, padding_id=1)
    for row, sample in enumerate(samples):
        length = len(sample.input_ids)
        assert batch.input_ids[row, :length].tolist() == sample.input_ids
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (batch.input_ids.shape[1] - length)
        assert batch.input_ids[row][batch.source_mask[row]].tolist() == sample.input_ids[slice(*sample.source_span)]
        assert batch.input_ids[row][batch.target_mask[row]].tolist() == sample.input_ids[slice(*sample.target_span)]
        assert (batch.labels[row] != -100).sum() == sum(sample.trained)
    assert batch.tokens == sum(len(sample.input_ids) for sample in samples)


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for code in ("eng_Latn", "deu_Latn", "zho_Hans"):
        (folder / f"{code}.txt").write_text(
            "".join(f"{SENTENCES[code]} {number}\n" for number in range(40)), encoding="utf-8"
        )
    return folder


def recipe_for(folder: Path, **changes) -> Recipe:
    fields = {
        "stage": "stage1",
        "sources": (Source("translation", str(folder), weight=3.0), Source("monolingual", str(folder), weight=1.0)),
        "model": {"model_type": "llama"},
        "batch_size": 8,
        "micro_batch_size": 8,
        "steps": 4,
    }
    return Recipe(**(fields | changes))


def test_order_covers_every_record_once_a_pass_and_is_a_function_of_seed_and_step(corpus_folder: Path):
    recipe = recipe_for(corpus_folder)
    tokenizer = tiny_tokenizer()
    streams = [Stream(source, "plain") for source in recipe.sources]
    assert [len(stream) for stream in streams] == [160, 120]
    order = Order(streams, recipe, tokenizer)
    # 16 steps of 8: 96 translations and 32 texts a window; five windows hold three passes over the 160 translations.
    seen = [sample for step in range(80) for sample in order.batch(step)]
    counts = Counter(sample.identity for sample in seen if sample.source)
    assert len(counts) == 160 and set(counts.values()) == {3}
    again = Order(streams, recipe, tokenizer)
    assert [sample.identity for sample in again.batch(37)] == [sample.identity for sample in order.batch(37)]
    other = Order(streams, recipe_for(corpus_folder, seed=1), tokenizer)
    assert [sample.identity for sample in other.batch(37)] != [sample.identity for sample in order.batch(37)]
    # Within a window the batches hold neighbouring lengths: sorted by length, none overlaps the next.
    lengths = sorted(sorted(len(sample.input_ids) for sample in order.batch(step)) for step in range(16))
    assert all(shorter[-1] <= longer[0] for shorter, longer in zip(lengths, lengths[1:], strict=False))


def test_epochs_count_passes_over_the_largest_source(corpus_folder: Path):
    recipe = recipe_for(corpus_folder, steps=None, epochs=2.0)
    order = Order([Stream(source, "plain") for source in recipe.sources], recipe, tiny_tokenizer())
    assert order.steps == round(2 * 160 / 6)


def test_directions_are_pivot_pairs_or_all_pairs(corpus_folder: Path):
    pivot = Stream(Source("translation", str(corpus_folder)), "plain")
    every = Stream(Source("translation", str(corpus_folder), pivot=None), "plain")
    assert len(pivot.records.directions) == 4 and len(every.records.directions) == 6
    assert all("eng_Latn" in pair for pair in pivot.records.directions)
    with pytest.raises(InputError, match="no pivot language fra_Latn"):
        Stream(Source("translation", str(corpus_folder), pivot="fra_Latn"), "plain")


def test_new_tokenizer_round_trips_every_text_and_is_deterministic(corpus_folder: Path):
    streams = [Stream(source, "plain") for source in recipe_for(corpus_folder).sources]
    tokenizer = train_tokenizer(streams, 400)
    assert tokenizer.get_vocab() == train_tokenizer(streams, 400).get_vocab()
    for text in [*SENTENCES.values(), "unseen Ωmega ½ 🙂", "a  b"]:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def write_lines(path: Path, entries: list) -> str:
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return str(path)


GOOD = {"instruction": "Copy:", "input": "a", "output": "a", "language": "eng_Latn"}


def test_instructions_in_the_shape_of_alpaca_and_bactrian(tmp_path: Path):
    bare = {"instruction": "Name a river.", "output": "Rhein"}
    entries = [
        GOOD,
        dict(GOOD, language="de"),
        bare,
        dict(bare, input=None, id="alpaca-7"),
        dict(bare, input=""),
        dict(GOOD, output=" "),
    ]
    path = write_lines(tmp_path / "instructions.jsonl", entries + [dict(GOOD, output="a\u2028b", language="zh-Hant")])
    records, dropped = read_instructions(path)
    assert len(records) == 6 and dropped == 1
    assert [record.get("language") for record in records] == ["eng_Latn", "deu_Latn", None, None, None, "zho_Hant"]
    assert len(read_instructions(path, ("deu_Latn",))[0]) == 1
    stream = Stream(Source("instructions", path), "plain")
    assert (
        len(stream) == 6
        and stream[1].target_language == "deu_Latn"
        and [stream[index].source for index in (2, 3, 4)] == [""] * 3
    )
    assert stream.description["dropped"] == {"empty output": 1}
    assert {name: len(indices) for name, indices in stream.groups().items()} == {
        "eng_Latn": 1,
        "deu_Latn": 1,
        "no language": 3,
        "zho_Hant": 1,
    }
    assert len(read_instructions("bundled")[0]) >= 5000


@pytest.mark.parametrize(
    "line, message",
    [
        ("{broken", "line 2: no valid JSON"),
        ('{"instruction": "x"}', "line 2: `instruction` and `output` must be texts"),
        ('{"instruction": " ", "output": "x"}', "line 2: the instruction is empty"),
        ('{"instruction": "x", "output": "x", "input": 3}', "line 2: `input` must be"),
        ('{"instruction": "x", "output": "x", "language": "Klingon"}', "line 2: unknown language 'Klingon'"),
        ("[]", "line 2: `instruction`"),
    ],
)
def test_a_wrong_instruction_is_named_by_its_line(tmp_path: Path, line: str, message: str):
    path = tmp_path / "instructions.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    with pytest.raises(InputError, match=message):
        read_instructions(str(path))


### data sets of the hub, by folders in their layout


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def opus(tmp_path: Path, hub_cache) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "opus"
    for pair, count in (("de-en", 6), ("en-zh", 3)):
        other = pair.replace("en", "").strip("-")
        rows = [{"en": f"House {number}.", other: f"{other} {number}"} for number in range(count)]
        rows[1] = {"en": " ", other: "nothing"}
        table = pa.table({"translation": [{key: row[key] for key in pair.split("-")} for row in rows]})
        (folder / pair).mkdir(parents=True)
        pq.write_table(table.slice(0, 2), folder / pair / "train-00000-of-00002.parquet")
        pq.write_table(table.slice(2), folder / pair / "train-00001-of-00002.parquet")
    return folder


def test_opus(opus: Path):
    source = Source("translation", str(opus), languages=("eng_Latn", "deu_Latn", "zho_Hans"))
    stream = Stream(source, "plain")
    assert len(stream) == 2 * (5 + 2)
    assert stream.description["dropped"] == {"empty side": 2}
    assert stream.description["languages"] == {"deu_Latn-eng_Latn": 5, "eng_Latn-zho_Hans": 2}
    there, back, other = stream[2], stream[3], stream[10]
    assert (there.source, there.target, there.target_language) == ("House 2.", "de 2", "deu_Latn")
    assert (back.source, back.target, back.instruction) == ("de 2", "House 2.", "German to English:")
    assert (other.source, other.target, other.target_language) == ("House 0.", "zh 0", "zho_Hans")
    assert len({stream[index].identity for index in range(len(stream))}) == len(stream)
    assert {name: indices.tolist() for name, indices in stream.groups().items()} == {
        "deu_Latn-eng_Latn": list(range(10)),
        "eng_Latn-zho_Hans": list(range(10, 14)),
    }
    assert Stream(source, "plain").description == stream.description
    assert len(Stream(Source("translation", f"hub:{opus}", languages=("deu_Latn",)), "plain")) == 10


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"languages": ()}, "name the languages"),
        ({"languages": ("eng_Latn",)}, "at least two languages"),
        ({"languages": ("fra_Latn",)}, "no en-fr/train"),
        ({"languages": ("zho_Hant",)}, "zho_Hant has no two-letter code"),
        ({"languages": ("deu_Latn", "zho_Hans"), "pivot": None}, "no de-zh/train"),
        ({"languages": ("deu_Latn",), "split": "test"}, "no de-en/test"),
        ({"languages": ("deu_Latn",), "path": "hub:Helsinki-NLP/opus-100"}, "give the revision"),
    ],
)
def test_opus_that_is_not_there(opus: Path, changes: dict, message: str):
    with pytest.raises(InputError, match=message):
        Stream(Source(**{"kind": "translation", "path": str(opus), **changes}), "plain")


def test_opus_of_another_shape(opus: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (opus / "en-fr").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), opus / "en-fr" / "train-00000-of-00001.parquet")
    (opus / "en-ru").mkdir()
    (opus / "en-ru" / "train-00000-of-00001.parquet").write_bytes(b"no parquet")
    for language, message in (
        ("fra_Latn", "no column `translation` with en and fr"),
        ("rus_Cyrl", "en-ru: cannot be read"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            Stream(Source("translation", str(opus), languages=(language,)), "plain")
        assert "\n" not in str(caught.value)


def test_bactrian(tmp_path: Path, hub_cache):
    (tmp_path / "set" / "data").mkdir(parents=True)
    rows = [
        {"instruction": f"Sag {number}", "input": None, "id": f"alpaca-{number}", "output": str(number)}
        for number in range(4)
    ]
    rows[2]["output"] = ""
    rows[3]["input"] = "x"
    with gzip.open(tmp_path / "set" / "data" / "de.json.gz", "wt", encoding="utf-8") as file:
        json.dump(rows, file)
    with gzip.open(tmp_path / "set" / "data" / "th.json.gz", "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(dict(row, input="")) + "\n" for row in rows[:2]))
    source = Source("instructions", str(tmp_path / "set"), languages=("deu_Latn", "tha_Thai"))
    stream = Stream(source, "alpaca")
    assert [stream[index].source for index in range(5)] == ["", "", "x", "", ""]
    assert [stream[index].target_language for index in range(5)] == ["deu_Latn"] * 3 + ["tha_Thai"] * 2
    assert stream[2].target == "3"
    assert stream.description["dropped"] == {"empty output": 1}
    assert stream.description["languages"] == {"deu_Latn": 3, "tha_Thai": 2}
    assert {name: len(indices) for name, indices in stream.groups().items()} == {"deu_Latn": 3, "tha_Thai": 2}
    with pytest.raises(InputError, match="no data/fr.json.gz"):
        Stream(Source("instructions", str(tmp_path / "set"), languages=("fra_Latn",)), "alpaca")
    with pytest.raises(InputError, match="name the languages"):
        Stream(Source("instructions", str(tmp_path / "set")), "alpaca")


@pytest.mark.parametrize(
    "kind, path",
    [("translation", "hub:Helsinki-NLP/opus-100@0123456"), ("instructions", "hub:MBZUAI/Bactrian-X@0123456")],
)
def test_the_hub_without_a_network(kind: str, path: str, monkeypatch, hub_cache, tmp_path: Path):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingAssetError, match="not in the cache, and the network is off; --online"):
        Stream(Source(kind, path, languages=("deu_Latn",)), "plain")


def test_short_codes():
    codes = {
        "zho_Hans": "zh",
        "nob_Latn": "nb",
        "srp_Cyrl": "sr",
        "arb_Arab": "ar",
        "heb_Hebr": "he",
        "ind_Latn": "id",
        "ron_Latn": "ro",
    }
    assert {code: short_code(code) for code in codes} == codes
    assert short_code("als_Latn") == "sq" and short_code("pes_Arab") == "fa" and short_code("swh_Latn") == "sw"
    for code in ("zho_Hant", "arz_Arab", "ast_Latn"):
        with pytest.raises(InputError, match=code):
            short_code(code)


### temperature over languages


def uneven(folder: Path, counts: dict[str, int]) -> str:
    entries = [
        dict(GOOD, input=f"{code} {number}", language=code) for code, count in counts.items() for number in range(count)
    ]
    return write_lines(folder / "uneven.jsonl", entries)


def test_temperature_evens_out_the_languages(tmp_path: Path):
    counts = {"eng_Latn": 900, "deu_Latn": 90, "tha_Thai": 10}
    path = uneven(tmp_path, counts)
    for temperature in (1.5, 5.0, 1e9):
        expected = np.array(list(counts.values())) ** (1 / temperature)
        expected = expected / expected.sum()
        assert np.allclose(language_shares(list(counts.values()), temperature), expected)
        recipe = recipe_for(
            tmp_path,
            sources=(Source("instructions", path, temperature=temperature),),
            batch_size=125,
            micro_batch_size=125,
        )
        streams = [Stream(source, "plain") for source in recipe.sources]
        order = Order(streams, recipe, tiny_tokenizer())
        # 24 steps of 125 are three passes over 1,000 records.
        chosen = [sample for step in range(16) for sample in order.batch(step)]
        again = Order(streams, recipe, tiny_tokenizer())
        assert [sample.identity for sample in again.batch(9)] == [sample.identity for sample in order.batch(9)]
        found = Counter(sample.target_language for sample in chosen)
        assert np.allclose([found[code] / len(chosen) for code in counts], expected, atol=0.002), (
            "two whole passes hold the exact shares"
        )
        # Within a language every record comes up before one comes up again.
        for code in counts:
            times = Counter(sample.identity for sample in chosen if sample.target_language == code)
            assert max(times.values()) - (min(times.values()) if len(times) == counts[code] else 0) <= 1
        assert [
            sample.identity
            for sample in Order(streams, recipe_for(tmp_path, **vars(recipe) | {"seed": 1}), tiny_tokenizer()).batch(9)
        ] != [sample.identity for sample in order.batch(9)]


def test_passes_go_on_where_the_last_one_ended():
    groups = [np.arange(50), np.arange(50, 57)]
    passes = [tempered_pass(groups, 3.0, [0, 0], number) for number in range(9)]
    assert all(len(one) == 57 for one in passes) and not np.array_equal(passes[0], passes[1])
    small = Counter(int(index) for one in passes for index in one if index >= 50)
    assert len(small) == 7 and max(small.values()) - min(small.values()) <= 1
    assert np.array_equal(tempered_pass(groups, 3.0, [0, 0], 4), passes[4])


def test_temperature_counts_both_directions_of_a_pair_together(corpus_folder: Path):
    stream = Stream(Source("translation", str(corpus_folder), temperature=2.0), "plain")
    assert {name: len(indices) for name, indices in stream.groups().items()} == {
        "deu_Latn-eng_Latn": 80,
        "eng_Latn-zho_Hans": 80,
    }
    for name, indices in stream.groups().items():
        assert {
            "-".join(sorted((stream[int(i)].source_language, stream[int(i)].target_language))) for i in indices
        } == {name}
    plain = Stream(Source("monolingual", str(corpus_folder)), "plain")
    assert {name: len(indices) for name, indices in plain.groups().items()} == {
        "eng_Latn": 40,
        "deu_Latn": 40,
        "zho_Hans": 40,
    }


def test_the_order_without_temperature_stays_what_it_was():
    """A run has to be the same with the next version of the trainer."""
    recipe = load_recipe("alignx_stage2", ["init=bundled:base"])
    order = Order([Stream(source, "plain") for source in recipe.sources], recipe, tiny_tokenizer())
    assert order.quota.tolist() == [896, 128]
    permutations = [order._permutation(stream, epoch)[:3].tolist() for stream in (0, 1) for epoch in (0, 1)]
    assert permutations == [[180761, 20516, 59539], [25364, 187394, 135053], [237, 1802, 1860], [5478, 2158, 4230]]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_parses(path: Path):
    recipe = load_recipe(path.stem)
    assert json.loads(json.dumps(recipe.as_dict())) == recipe.as_dict()


def test_paper_recipes_hold_the_papers_settings():
    one, two = load_recipe("paper_stage1"), load_recipe("paper_stage2")
    assert (one.align_layer, one.contrastive_weight, one.temperature, one.matching_weight, one.matching_width) == (
        16,
        0.3,
        0.1,
        0.4,
        128,
    )
    assert (one.contrastive, one.negatives, one.lm_on, one.prompt_template) == (
        "official_code",
        "micro",
        "all",
        "alpaca",
    )
    for recipe in (one, two):
        assert (recipe.epochs, recipe.batch_size, recipe.micro_batch_size) == (2, 128, 16)
        assert (recipe.learning_rate, recipe.warmup_steps, recipe.max_length, recipe.max_grad_norm) == (
            2e-6,
            100,
            512,
            1.0,
        )
    assert not two.aligns


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["learnig_rate=1"], "unknown key 'learnig_rate'"),
        (["batch_size=7"], "no multiple"),
        (["steps=x"], "steps must be a whole number, not 'x'"),
        (["steps=1.5"], "steps must be a whole number, not 1.5"),
        (["steps=true"], "steps must be a whole number, not True"),
        (["steps='7'"], "steps must be a whole number, not '7'"),
        (["steps=.inf"], "steps must be a whole number, not inf"),
        (["seed=true"], "seed must be a whole number, not True"),
        (["seed=null"], "seed must be a whole number, not None"),
        (["seed=-1"], "seed.* must not be negative"),
        (["learning_rate=fast"], "learning_rate must be a number, not 'fast'"),
        (["learning_rate=true"], "learning_rate must be a number, not True"),
        (["learning_rate=.nan"], "learning_rate must be a number, not nan"),
        (["align_layer=.inf"], "align_layer must be a whole number of blocks"),
        (["activation_checkpointing=nope"], "activation_checkpointing must be true or false, not 'nope'"),
        (["activation_checkpointing=1"], "activation_checkpointing must be true or false, not 1"),
        (["eval_languages=de"], "eval_languages must be a list, not 'de'"),
        (["eval_languages=[3]"], "eval_languages.0 must be text, not 3"),
        (["init=3"], "init must be text, not 3"),
        (["model=[llama]"], r"model must be a mapping, not \['llama'\]"),
        (["stage=null"], "stage must be text, not None"),
        (["contrastive=both"], "not one of symmetric, paper_formula, official_code"),
        (["align_layer=1.5"], "align_layer"),
        (["sources=3"], "list of mappings"),
        (["sources=[translation]"], "list of mappings"),
        (["sources=[]"], "at least one source"),
        (["sources=[{path: interface}]"], "sources.0: the key `kind` is missing"),
        (["sources.0.kind=bitext"], "sources.0: kind: 'bitext' is not one of monolingual, translation, instructions"),
        (["sources.0.weigth=2"], "sources.0: unknown key 'weigth'; did you mean weight?"),
        (["sources.0.weight=much"], "sources.0: weight must be a number, not 'much'"),
        (["sources.0.languages=de"], "sources.0: languages must be a list, not 'de'"),
        (["sources.7.kind=translation"], "the recipe has no sources.7.kind"),
        (["steps"], "form key=value"),
        (["steps=null"], "either `epochs` or `steps`"),
        (["epochs=1", "steps=2"], "`epochs` and `steps` exclude each other"),
        (["version=2"], "version 2"),
        (["sources.0.temperature=0.5"], "temperature of a source"),
        (["sources.0.temperature=.inf"], "temperature of a source"),
    ],
)
def test_a_wrong_recipe_is_one_clear_message(overrides: list[str], message: str):
    with pytest.raises(InputError, match=message) as raised:
        load_recipe("alignx_stage1", overrides)
    assert "\n" not in str(raised.value) and str(raised.value).startswith((str(RECIPES), repr(overrides[0])))


def test_a_recipe_made_in_python_is_checked_alike():
    recipe = load_recipe("alignx_stage1")
    with pytest.raises(InputError, match="^steps must be a whole number, not '5'$"):
        dataclasses.replace(recipe, steps="5")
    with pytest.raises(InputError, match="^unknown key 'stepps'; did you mean steps"):
        Recipe(**vars(recipe), stepps=5)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="^kind: 'bitext' is not one of"):
        Source("bitext")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "override,value",
    [
        ("learning_rate=2e-6", 2e-6),
        ("learning_rate=1", 1.0),
        ("align_layer=3", 3.0),
        ("steps=10", 10),
        ("steps=1e3", 1000),
        ("max_tokens=2e9", 2_000_000_000),
        ("max_tokens=null", None),
        ("max_grad_norm=.inf", float("inf")),
        ("eval_languages=[en, no]", ("en", "no")),
        ("eval_languages=null", ()),
        ("activation_checkpointing=TRUE", True),
        ("eval_split='7'", "7"),
    ],
)
def test_values_have_the_type_of_their_key(override: str, value: Any):
    found = getattr(load_recipe("alignx_stage1", [override]), override.partition("=")[0])
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text,override,said",
    [
        ("epochs: 2", "steps=5", "steps=5 replaces `epochs: 2` of the recipe"),
        ("steps: 7", "epochs=0.5", "epochs=0.5 replaces `steps: 7` of the recipe"),
        (
            "steps: 7",
            "model={model_type: gpt2}",
            "model={model_type: gpt2} replaces `init: bundled:base` of the recipe",
        ),
    ],
)
def test_an_override_replaces_the_key_that_it_excludes_and_says_so(tmp_path: Path, text: str, override: str, said: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"stage: tuned\ninit: bundled:base\nsources: [{{kind: monolingual}}]\n{text}\n")
    lines: list[str] = []
    recipe = load_recipe(str(path), [override], lines.append)
    key, _, value = override.partition("=")
    assert getattr(recipe, key) == yaml.safe_load(value) and lines == [said]
    assert not getattr(recipe, {"steps": "epochs", "epochs": "steps", "model": "init"}[key])
    lines.clear()
    load_recipe(str(path), ["seed=3"], lines.append)
    assert not lines


@pytest.mark.parametrize(
    "text,both", [("epochs: 2\nsteps: 7", "epochs steps"), ("steps: 7\nmodel: {model_type: gpt2}", "init model")]
)
def test_both_of_two_alternatives_in_one_file_are_an_error(tmp_path: Path, text: str, both: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"stage: tuned\ninit: bundled:base\nsources: [{{kind: monolingual}}]\n{text}\n")
    with pytest.raises(InputError) as raised:
        load_recipe(str(path))
    assert all(f"`{key}`" in str(raised.value) for key in both.split()) and str(path) in str(raised.value)


def test_overrides_reach_inside():
    recipe = load_recipe("alignx_stage1", ["sources.0.path=elsewhere", "learning_rate=2e-6"])
    assert recipe.sources[0].path == "elsewhere" and recipe.learning_rate == 2e-6
