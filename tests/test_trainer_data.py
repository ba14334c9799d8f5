"""Spans, labels, truncation, order, recipes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from alignx_trainer.config import RECIPES, Recipe, Source, load_recipe
from alignx_trainer.data import Order, Record, Stream, collate, read_instructions, tokenize, train_tokenizer
from conftest import tiny_tokenizer

from alignx_eval.errors import InputError
from alignx_eval.prompts import TEMPLATES, split_at_input, translation_instruction

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
        texts, trainers.UnigramTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module", params=[tiny_tokenizer, unigram_tokenizer], ids=["byte_level", "unigram"])
def tokenizer(request):
    return request.param()


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("source", SENTENCES)
@pytest.mark.parametrize("target", SENTENCES)
def test_spans_decode_to_the_sentences(tokenizer, template: str, source: str, target: str):
    record = Record("1", translation_instruction(template, source, target), SENTENCES[source], SENTENCES[target], source, target)
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


def test_prompt_is_what_generation_sees():
    tokenizer = tiny_tokenizer()
    record = Record("1", translation_instruction("plain", "eng_Latn", "deu_Latn"), SENTENCES["eng_Latn"], "Ja", "eng_Latn", "deu_Latn")
    sample = tokenize(record, tokenizer, template="plain", max_length=100, lm_on="all")
    before, after = split_at_input("plain")
    prompt = tokenizer(before.format(instruction=record.instruction) + record.source + after)["input_ids"]
    assert sample.input_ids[: len(prompt)] == prompt
    assert sample.trained == [False] + [True] * (len(sample.input_ids) - 1)


def test_truncation_cuts_source_and_target_never_the_template():
    tokenizer = tiny_tokenizer()
    record = Record("1", "English to German:", SENTENCES["eng_Latn"] * 20, SENTENCES["zho_Hans"] * 20, "eng_Latn", "zho_Hans")
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
        (folder / f"{code}.txt").write_text("".join(f"{SENTENCES[code]} {number}\n" for number in range(40)), encoding="utf-8")
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
    assert len(pivot.directions) == 4 and len(every.directions) == 6
    assert all("eng_Latn" in pair for pair in pivot.directions)
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


def test_instructions_are_checked(tmp_path: Path):
    path = tmp_path / "instructions.jsonl"
    good = {"instruction": "Copy:", "input": "a", "output": "a", "language": "eng_Latn"}
    path.write_text(json.dumps(good) + "\n\n" + json.dumps(dict(good, language="deu_Latn")) + "\n")
    assert len(read_instructions(str(path))) == 2
    assert len(read_instructions(str(path), ("deu_Latn",))) == 1
    path.write_text(json.dumps(good) + "\n{broken\n")
    with pytest.raises(InputError, match="line 2: no valid JSON"):
        read_instructions(str(path))
    path.write_text(json.dumps({"instruction": "x"}) + "\n")
    with pytest.raises(InputError, match="line 1: `instruction`, `input` and `output`"):
        read_instructions(str(path))
    assert len(read_instructions("bundled")) >= 5000


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_parses(path: Path):
    recipe = load_recipe(path.stem)
    assert json.loads(json.dumps(recipe.as_dict())) == recipe.as_dict()


def test_paper_recipes_hold_the_papers_settings():
    one, two = load_recipe("paper_stage1"), load_recipe("paper_stage2")
    assert (one.align_layer, one.contrastive_weight, one.temperature, one.matching_weight, one.matching_width) == (16, 0.3, 0.1, 0.4, 128)
    assert (one.contrastive, one.negatives, one.lm_on, one.prompt_template) == ("official_code", "micro", "all", "alpaca")
    for recipe in (one, two):
        assert (recipe.epochs, recipe.batch_size, recipe.micro_batch_size) == (2, 128, 16)
        assert (recipe.learning_rate, recipe.warmup_steps, recipe.max_length, recipe.max_grad_norm) == (2e-6, 100, 512, 1.0)
    assert not two.aligns


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["learnig_rate=1"], "unknown key 'learnig_rate'"),
        (["batch_size=7"], "no multiple"),
        (["steps=x"], "steps must be a number"),
        (["steps=1.5"], "steps must be a whole number"),
        (["contrastive=both"], "not one of symmetric, paper_formula, official_code"),
        (["align_layer=1.5"], "align_layer"),
        (["sources=3"], "list of mappings"),
        (["sources.0.kind=bitext"], "unknown kind of source 'bitext'"),
        (["sources.7.kind=translation"], "the recipe has no sources.7.kind"),
        (["steps"], "form key=value"),
        (["epochs=1"], "either `epochs` or `steps`"),
        (["version=2"], "version 2"),
    ],
)
def test_a_wrong_recipe_is_one_clear_message(overrides: list[str], message: str):
    with pytest.raises(InputError, match=message):
        load_recipe("alignx_stage1", overrides)


def test_overrides_reach_inside():
    recipe = load_recipe("alignx_stage1", ["sources.0.path=elsewhere", "learning_rate=2e-6"])
    assert recipe.sources[0].path == "elsewhere" and recipe.learning_rate == 2e-6
