"""The translation suite: decoding against generate(), stopping, scores, floors."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import sacrebleu
from helpers import tiny_models
from helpers.engines import translation

from alignx_eval import prompts
from alignx_eval.corpora import load_corpus
from alignx_eval.engine import generate
from alignx_eval.engine.batches import sentence_token_ids
from alignx_eval.engine.generate import greedy_decode
from alignx_eval.engine.transformers_engine import TransformersEngine
from alignx_eval.errors import InputError
from alignx_eval.measures.bleu import prepare
from alignx_eval.prompts import translation_prompt
from alignx_eval.suites.translation import shuffled

run = translation.run

LANGUAGES = ["eng_Latn", "deu_Latn", "zho_Hans"]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("interface", languages=LANGUAGES, limit=6)


@pytest.fixture(scope="module")
def result(corpus):
    return run(tiny_models.checkpoint(), corpus, template="plain", max_new_tokens=12)


def prompts_of(corpus):
    tokenizer = tiny_models.tokenizer()
    texts = [translation_prompt("plain", "eng_Latn", "deu_Latn", line) for line in corpus.sentences["eng_Latn"]]
    return [[tokenizer.bos_token_id, *ids] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def never(_tokens):
    return False


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "gemma3_text", "mistral", "qwen3", "phi3"])
def test_R10_batched_decoding_with_left_padding_equals_generate_one_by_one(family, corpus):
    import torch

    # A sliding window shorter than the prompts, so that the cache forgets.
    changes = {
        "gemma2": {"sliding_window": 8},
        "gemma3_text": {"sliding_window": 8},
        "mistral": {"sliding_window": 8},
    }.get(family, {})
    model = tiny_models.model(family, **changes)
    prompts = prompts_of(corpus)
    caps = [3 + 2 * index for index in range(len(prompts))]
    decoded = greedy_decode(model, prompts, caps, end_tokens=frozenset(), breaks_line=never)
    for prompt, cap, (tokens, end) in zip(prompts, caps, decoded, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False, max_new_tokens=cap, min_new_tokens=cap, eos_token_id=None, pad_token_id=2,
        )[0, len(prompt) :].tolist()  # fmt: skip
        assert tokens == expected and end == "length"


@pytest.mark.parametrize("family", ["mamba", "mamba2", "qwen3_next", "recurrent_gemma", "rwkv", "minimax", "bart"])
def test_decoding_of_every_kind_of_cache_equals_the_plain_forward_pass(family, corpus):
    """Recurrent states, hybrids, caches under other names and none at all; rows end at different times."""
    import torch
    from helpers import architectures as tiny_architectures

    model = tiny_architectures.tiny_model(family)
    prompts = prompts_of(corpus)
    caps = [1 + 3 * index for index in range(len(prompts))]
    decoded = greedy_decode(model, prompts, caps, end_tokens=frozenset(), breaks_line=never)
    for prompt, cap, (tokens, _) in zip(prompts, caps, decoded, strict=True):
        text = list(prompt)
        with torch.inference_mode():
            for _ in range(cap):
                text.append(int(model(input_ids=torch.tensor([text])).logits[0, -1].argmax()))
        assert tokens == text[len(prompt) :]


def test_R10_batch_size_changes_nothing(corpus):
    model = tiny_models.model()
    prompts = prompts_of(corpus)
    together = greedy_decode(
        model, prompts, [9] * len(prompts), end_tokens=frozenset(range(0, 600, 7)), breaks_line=never
    )
    alone = greedy_decode(
        model,
        prompts,
        [9] * len(prompts),
        end_tokens=frozenset(range(0, 600, 7)),
        breaks_line=never,
        max_tokens_per_batch=1,
    )
    assert together == alone
    assert (
        len({len(tokens) for tokens, _ in together}) > 1
    )  # rows ended at different times, so the batch shrank on the way


def test_T7_stops_at_the_end_token_and_at_a_line_break(corpus):
    model = tiny_models.model()
    prompts = prompts_of(corpus)[:1]
    (free, _), *_ = greedy_decode(model, prompts, [10], end_tokens=frozenset(), breaks_line=never)
    stop = next(index for index, token in enumerate(free) if token not in free[:index] and index > 0)
    (tokens, end), *_ = greedy_decode(model, prompts, [10], end_tokens=frozenset({free[stop]}), breaks_line=never)
    assert (tokens, end) == (free[:stop], "eos")
    (tokens, end), *_ = greedy_decode(
        model, prompts, [10], end_tokens=frozenset(), breaks_line=lambda tokens: tokens[-1] == free[stop]
    )
    assert (tokens, end) == (free[: stop + 1], "line")
    assert greedy_decode(model, prompts, [0], end_tokens=frozenset(), breaks_line=never) == [([], "length")]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Hallo\nEnglish to German:\nmehr", ("Hallo", True)),
        (" Hallo \r\nx", ("Hallo", True)),
        ("\n \r\nHallo", ("Hallo", False)),
        ("\n\u200f\n Hallo\nmehr", ("Hallo", True)),
        ("Hallo", ("Hallo", False)),
        ("\n\n", ("", False)),
        ("", ("", False)),
    ],
)
def test_T7_leading_line_breaks_are_skipped_and_a_continuation_is_never_scored(text, expected):
    assert generate._first_line(text) == expected


def chained(chain, **settings):
    """A checkpoint whose next token follows from the last one alone: `chain` says what comes after which text of one
    token."""
    import torch

    checkpoint = tiny_models.checkpoint(**settings)
    tokenizer, model = checkpoint.tokenizer, checkpoint.model
    state = model.state_dict()
    with torch.no_grad():
        for name, weight in state.items():
            if name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight", "lm_head.weight")):
                weight.zero_()
        for dimension, (last, following) in enumerate(chain.items()):
            ((token,), (answer,)) = (
                tokenizer(text, add_special_tokens=False)["input_ids"] for text in (last, following)
            )
            state["model.embed_tokens.weight"][token, dimension] = state["lm_head.weight"][answer, dimension] = 1.0
    return checkpoint


def test_an_answer_that_begins_with_line_breaks_is_read(corpus):
    result = run(chained({"\n": "\r", "\r": " ", " ": "H", "H": "\n"}), corpus, template="plain")
    assert {(sample["output"], sample["stopped_by"]) for sample in result.samples} == {("H", "line")}
    assert {row.value for row in result.rows if row.metric == "empty_rate"} == {0.0}
    only_breaks = run(chained({"\n": "\r", "\r": "\n"}), corpus, template="plain", max_new_tokens=5)
    assert {(sample["output"], sample["stopped_by"]) for sample in only_breaks.samples} == {
        ("", "length")
    }  # they count towards the cap


def requests_of(tokenizer, corpus, pairs, most):
    engine = TransformersEngine(SimpleNamespace(tokenizer=tokenizer))
    return translation._requests(engine, corpus, pairs, "plain", most)


@pytest.mark.parametrize("bos, eos, first", [(True, True, [0]), (False, True, [1]), (False, False, [])])
def test_a_prompt_starts_with_bos_else_eos_else_nothing(corpus, bos, eos, first):
    tokenizer = tiny_models.tokenizer(bos=bos, eos=eos)
    pair = ("eng_Latn", "deu_Latn")
    prompts_of_lines = sentence_token_ids(tokenizer, requests_of(tokenizer, corpus, [pair], 5).prompts[pair])
    for prompt, line in zip(prompts_of_lines, corpus.sentences["eng_Latn"], strict=True):
        assert prompt == [
            *first,
            *tokenizer(translation_prompt("plain", *pair, line), add_special_tokens=False)["input_ids"],
        ]
    assert "BOS, else EOS, else none" in generate.DECODING


def test_a_start_token_that_the_template_writes_is_not_doubled(corpus, monkeypatch):
    monkeypatch.setitem(prompts.TEMPLATES, "plain", "<s>{instruction}\n{input}\n")
    pair, tokenizer = ("eng_Latn", "deu_Latn"), tiny_models.tokenizer()
    prompts_of_lines = sentence_token_ids(tokenizer, requests_of(tokenizer, corpus, [pair], 5).prompts[pair])
    assert {tuple(prompt[:2]).count(0) for prompt in prompts_of_lines} == {1}


def test_sampling_options_of_the_checkpoint_change_nothing(corpus, result):
    checkpoint = tiny_models.checkpoint()
    for option, value in {"repetition_penalty": 5.0, "do_sample": True, "temperature": 9.0}.items():
        setattr(checkpoint.model.generation_config, option, value)
    again = run(checkpoint, corpus, template="plain", max_new_tokens=12)
    assert [sample["output"] for sample in again.samples] == [sample["output"] for sample in result.samples]


def test_end_tokens_come_from_tokenizer_and_generation_config():
    checkpoint = tiny_models.checkpoint()
    checkpoint.model.generation_config.eos_token_id = [1, 17]
    assert generate.end_tokens(checkpoint) == {1, 17}


def test_the_cap_follows_the_source_and_the_target_language(corpus):
    result = run(tiny_models.checkpoint(), corpus, template="plain", max_new_tokens=1000)
    tokenizer = tiny_models.tokenizer()

    def count(code):
        return [len(ids) for ids in tokenizer(list(corpus.sentences[code]), add_special_tokens=False)["input_ids"]]

    expansion = sum(count("zho_Hans")) / sum(count("eng_Latn"))
    caps = [
        generate.LENGTH_ALLOWANCE + math.ceil(generate.LENGTH_FACTOR * expansion * tokens)
        for tokens in count("eng_Latn")
    ]
    outputs = [sample for sample in result.samples if sample["other_language"] == "zho_Hans"]
    for sample, cap in zip(outputs, caps, strict=True):
        assert (
            len(tokenizer(sample["output"], add_special_tokens=False)["input_ids"]) <= 2 * cap
        )  # re-tokenizing random bytes is not exact
    rate = {row.key: row for row in result.rows}["translation/over_length_rate/-/eng_Latn/zho_Hans"].value
    assert rate == np.mean([sample["stopped_by"] == "length" for sample in outputs])


def test_text_that_leaves_no_room_in_the_context_is_refused_by_name(corpus):
    pairs = [("eng_Latn", "zho_Hans"), ("zho_Hans", "eng_Latn")]
    tokenizer = tiny_models.tokenizer()
    requests = requests_of(tokenizer, corpus, pairs, 40)
    lengths = {pair: [len(ids) for ids in sentence_token_ids(tokenizer, requests.prompts[pair])] for pair in pairs}
    needed = np.array(
        [[length + cap for length, cap in zip(lengths[pair], requests.caps[pair], strict=True)] for pair in pairs]
    ).max(axis=0)
    for positions in (int(needed.max()) - 1, int(np.median(needed))):
        count = int((needed > positions).sum())
        for call in (translation.check, run):
            with pytest.raises(
                InputError, match=rf"context of {positions} tokens.* zho_Hans \({count} lines?\).*--languages"
            ):
                call(tiny_models.checkpoint(positions=positions), corpus, template="plain", max_new_tokens=40)
    translation.check(tiny_models.checkpoint(positions=512), corpus, template="plain", max_new_tokens=40)


def test_rows_and_items(corpus, result):
    rows = {row.key: row for row in result.rows}
    assert len(rows) == len(result.rows)
    directions = {(row.language, row.other_language) for row in result.rows if row.language and row.other_language}
    assert directions == {
        ("eng_Latn", "deu_Latn"),
        ("eng_Latn", "zho_Hans"),
        ("deu_Latn", "eng_Latn"),
        ("zho_Hans", "eng_Latn"),
    }
    metrics = {row.metric for row in result.rows}
    assert metrics == {
        "bleu",
        "chrf++",
        "bleu_floor_copy",
        "bleu_floor_empty",
        "chrf++_floor_copy",
        "chrf++_floor_empty",
        "off_target_rate",
        "off_target_rate_reference",
        "off_target_coverage",
        "over_length_rate",
        "empty_rate",
        "copied_rate",
    }
    for key, kind, width in (("bleu", "bleu", 10), ("chrf++", "chrf", 24), ("off_target_rate", "ratio", 2)):
        items = result.items[f"translation/{key}/-/eng_Latn/deu_Latn"]
        assert items.kind == kind and items.values.shape == (len(corpus), width)
    for direction in directions:
        own, reference = (
            rows["/".join(("translation", f"off_target_rate{end}", "-", *direction))] for end in ("", "_reference")
        )
        assert own.null == reference.value is not None and "py3langid" in own.method
    for group in ("-/-", "eng_Latn/-", "-/eng_Latn"):
        reference = rows[f"translation/off_target_rate_reference/-/{group}"]
        assert reference.ci_low <= reference.value <= reference.ci_high
        assert rows[f"translation/off_target_rate/-/{group}"].null == pytest.approx(reference.value)
    for metric in ("bleu", "chrf++"):
        mean = result.items[f"translation/{metric}/-/-/-"]
        assert mean.kind == "jackknife"
        expected = np.mean([rows[f"translation/{metric}/-/{source}/{target}"].value for source, target in directions])
        assert mean.point == pytest.approx(expected) == rows[f"translation/{metric}/-/-/-"].value
        into = rows[f"translation/{metric}/-/-/eng_Latn"].value
        out = rows[f"translation/{metric}/-/eng_Latn/-"].value
        assert (into + out) / 2 == pytest.approx(expected)
    assert all(row.value is not None or row.reason for row in result.rows)
    assert not [key for key in result.items if key not in rows]


def test_scores_are_those_of_sacrebleu_on_the_samples(corpus, result):
    rows = {row.key: row for row in result.rows}
    for source, target, tokenizer in (
        ("eng_Latn", "deu_Latn", "13a"),
        ("eng_Latn", "zho_Hans", "zh"),
        ("zho_Hans", "eng_Latn", "13a"),
    ):
        samples = [
            sample for sample in result.samples if (sample["language"], sample["other_language"]) == (source, target)
        ]
        assert [sample["id"] for sample in samples] == list(corpus.ids)
        assert tuple(sample["reference"] for sample in samples) == corpus.sentences[target]
        outputs, references = (
            [prepare(sample["output"]) for sample in samples],
            [prepare(sample["reference"]) for sample in samples],
        )
        bleu, chrf = sacrebleu.BLEU(tokenize=tokenizer, force=True), sacrebleu.CHRF(word_order=2)
        row = rows[f"translation/bleu/-/{source}/{target}"]
        assert row.value == pytest.approx(bleu.corpus_score(outputs, [references]).score, abs=1e-9)
        assert row.null == pytest.approx(bleu.corpus_score(outputs, [shuffled(references)]).score, abs=1e-9)
        assert row.method.startswith(f"{bleu.get_signature()}|norm:nfc+marks+spaces; ")
        for floor in ("copy", "empty"):
            assert (
                rows[f"translation/bleu_floor_{floor}/-/{source}/{target}"].method
                == f"{bleu.get_signature()}|norm:nfc+marks+spaces"
            )
        row = rows[f"translation/chrf++/-/{source}/{target}"]
        assert row.value == pytest.approx(chrf.corpus_score(outputs, [references]).score, abs=1e-9)
        copied = chrf.corpus_score([prepare(line) for line in corpus.sentences[source]], [references]).score
        assert rows[f"translation/chrf++_floor_copy/-/{source}/{target}"].value == pytest.approx(copied, abs=1e-9)
        assert rows[f"translation/bleu_floor_empty/-/{source}/{target}"].value == 0
        for sample, output, reference in zip(samples, outputs, references, strict=True):
            assert sample["chrf++"] == pytest.approx(chrf.sentence_score(output, [reference]).score, abs=0.006)


JUDGED = ("bleu", "chrf++", "off_target_rate")


def score(corpus, source, target, texts, name="given"):
    """The suite's rows for outputs that are given instead of decoded."""
    from alignx_eval.results import SuiteResult

    result = SuiteResult(suite="translation", rows=[], default_clusters=corpus.groups, item_ids=corpus.ids)
    direction = translation._Direction(
        source,
        target,
        corpus.sentences[source],
        corpus.sentences[target],
        [generate.Output(text, "eos") for text in texts],
    )
    left_out = {"bleu": {}, "chrf++": {}, "off_target_rate": {}, "off_target_rate_reference": {}}
    signatures = {"chrf++": "c", f"bleu {target}": "b"}
    unusable = translation._score(
        name, corpus, direction, translation._jackknife_groups(corpus.groups), signatures, result, left_out, {}
    )
    translation._withhold_verdicts(result, {(source, target): unusable})
    assert len({row.unjudged is None for row in result.rows if row.metric in JUDGED and row.value is not None}) == 1
    assert (result.warnings == []) == all(row.unjudged is None for row in result.rows)
    return {row.metric: row for row in result.rows}, left_out


def test_perfect_copied_and_empty_outputs(corpus):
    perfect, _ = score(corpus, "eng_Latn", "deu_Latn", corpus.sentences["deu_Latn"])
    assert perfect["bleu"].value == pytest.approx(100) and perfect["chrf++"].value == pytest.approx(100)
    assert perfect["bleu"].null < 20 and perfect["off_target_rate"].value == 0 and perfect["bleu"].unjudged is None
    assert perfect["copied_rate"].value == perfect["empty_rate"].value == 0
    copied, _ = score(corpus, "eng_Latn", "deu_Latn", corpus.sentences["eng_Latn"])
    assert copied["bleu"].value == copied["bleu_floor_copy"].value and copied["off_target_rate"].value > 0.8
    assert (
        copied["copied_rate"].value == 1
        and copied["chrf++"].unjudged == "100% of the outputs are empty, copied, off target or cut"
    )
    empty, left_out = score(corpus, "eng_Latn", "deu_Latn", [""] * len(corpus))
    assert empty["bleu"].value == empty["chrf++"].value == 0
    assert empty["off_target_rate"].value == empty["empty_rate"].value == empty["off_target_coverage"].value == 1
    short, left_out = score(corpus, "eng_Latn", "deu_Latn", ["ja"] * len(corpus))
    assert short["off_target_rate"].value is None and short["off_target_coverage"].value == 0
    assert left_out["off_target_rate"] == {("eng_Latn", "deu_Latn"): None}
    (mean, *_) = translation._mean_rows("x", "off_target_rate", left_out, "eng_Latn", np.ones(len(corpus), int), {})
    assert mean.value is None and mean.reason


def test_a_perfect_translation_is_on_target_where_the_identifier_errs():
    corpus = load_corpus("interface", languages=["eng_Latn", "spa_Latn"])
    perfect, _ = score(corpus, "eng_Latn", "spa_Latn", corpus.sentences["spa_Latn"])
    assert (
        perfect["off_target_rate"].value
        == 0
        < perfect["off_target_rate_reference"].value
        == perfect["off_target_rate"].null
    )


def test_a_name_that_is_the_same_in_both_languages_is_not_copied(corpus):
    same = replace(corpus, sentences=dict.fromkeys(LANGUAGES, corpus.sentences["eng_Latn"]))
    rows, _ = score(same, "eng_Latn", "deu_Latn", same.sentences["eng_Latn"])
    assert rows["copied_rate"].value == 0


def test_scores_of_outputs_that_are_mostly_no_translation_are_not_judged(corpus):
    """A direction and a mean by their own outputs, a mean also by all: over half of them."""
    from alignx_eval.results import Row, SuiteResult

    pairs = [("eng_Latn", "deu_Latn"), ("eng_Latn", "zho_Hans"), ("deu_Latn", "eng_Latn"), ("zho_Hans", "eng_Latn")]
    good, half, bad, full = (np.outer([True, False, False, False], np.arange(6) < number) for number in (0, 3, 4, 6))

    def withheld(*flags):
        result = SuiteResult(
            suite="translation",
            rows=[
                Row(
                    suite="translation",
                    metric=metric,
                    checkpoint="x",
                    language=source,
                    other_language=target,
                    value=1.0,
                    n=6,
                )
                for metric in (*JUDGED, "empty_rate")
                for source, target in [*pairs, (None, None), ("eng_Latn", None), (None, "eng_Latn")]
            ],
        )
        translation._withhold_verdicts(result, dict(zip(pairs, flags, strict=True)))
        marked = {
            metric: {
                row.key.removeprefix(f"translation/{metric}/-/")
                for row in result.rows
                if row.metric == metric and row.unjudged
            }
            for metric in (*JUDGED, "empty_rate")
        }
        assert marked["bleu"] == marked["chrf++"] == marked["off_target_rate"] and not marked["empty_rate"]
        return marked["bleu"], result.warnings

    assert withheld(half, half, half, half) == (set(), [])
    marked, (warning,) = withheld(good, bad, good, good)
    assert marked == {"eng_Latn/zho_Hans"}
    assert "1 of 4 directions (empty 67%), most of all eng_Latn to zho_Hans (67%)" in warning
    assert withheld(bad, bad, good, good)[0] == {"eng_Latn/deu_Latn", "eng_Latn/zho_Hans", "eng_Latn/-"}
    assert withheld(full, full, half, good)[0] == {
        "eng_Latn/deu_Latn",
        "eng_Latn/zho_Hans",
        "-/-",
        "eng_Latn/-",
        "-/eng_Latn",
    }


def test_no_claim_is_made_from_a_checkpoint_that_answers_nothing(corpus):
    """Whatever the other checkpoint does: its outputs are better than none, and that says nothing about translation."""
    from alignx_eval.comparison.compare import compare

    silent, speaking = (
        run(chained(chain, name=name), corpus, template="plain")
        for name, chain in (("silent", {"\n": "</s>"}), ("speaking", {"\n": "H", "H": "</s>"}))
    )
    comparison = compare({"a": {"translation": silent}, "b": {"translation": speaking}}, base="a", candidates=["b"])
    assert any(warning.startswith("a: 100% of the translations are empty") for warning in comparison.warnings)
    judged = [row for row in comparison.rows if row.metric in JUDGED and row.difference is not None]
    assert len(judged) == 2 * 7 and {row.verdict for row in judged} == {"insufficient-data"}
    assert {(row.p, row.ci_low) for row in judged} == {(None, None)} and all("empty" in row.reason for row in judged)


def test_T5_shuffled_references_keep_no_line():
    lines = [str(number) for number in range(7)]
    assert sorted(shuffled(lines)) == lines and all(a != b for a, b in zip(lines, shuffled(lines), strict=True))
    assert shuffled(["only"]) == ["only"]


def test_jackknife_groups_hold_whole_clusters():
    clusters = tuple(f"cluster {index % 230}" for index in range(700))
    groups, count = translation._jackknife_groups(clusters)
    assert count == 100 and set(groups) == set(range(100))
    assert all(
        len({groups[line] for line in range(700) if clusters[line] == cluster}) == 1 for cluster in set(clusters)
    )


def test_T4_fingerprint_holds_prompt_decoding_and_signatures(result):
    fingerprint = result.fingerprint
    assert fingerprint["prompt"] == "English to German:\n{text}\n"
    assert "tok:zh" in fingerprint["signatures"]["bleu zho_Hans"] and "nw:2" in fingerprint["signatures"]["chrf++"]
    assert all(signature.endswith("|norm:nfc+marks+spaces") for signature in fingerprint["signatures"].values())
    assert (
        "greedy" in fingerprint["decoding"]
        and "nfc" in fingerprint["text"]
        and "py3langid" in fingerprint["language_identification"]
    )
    json.dumps([fingerprint, result.environment, result.extras, result.samples, result.notes])


def test_S9_twice_the_same(corpus, result):
    again = run(tiny_models.checkpoint(), corpus, template="plain", max_new_tokens=12)
    assert again.rows == result.rows and again.fingerprint == result.fingerprint and again.samples == result.samples


def test_limit_and_wrong_input(corpus):
    limited = run(tiny_models.checkpoint(), corpus, template="plain", limit=2, max_new_tokens=3)
    assert limited.item_ids == corpus.ids[:2] and {row.n for row in limited.rows} == {2}
    with pytest.raises(InputError, match="pivot language fra_Latn"):
        run(tiny_models.checkpoint(), corpus, template="plain", pivot="fra_Latn")
    with pytest.raises(InputError, match="besides the pivot"):
        run(
            tiny_models.checkpoint(),
            replace(corpus, sentences={"eng_Latn": corpus.sentences["eng_Latn"]}),
            template="plain",
        )
    with pytest.raises(InputError, match="unknown prompt template"):
        run(tiny_models.checkpoint(), corpus, template="nonsense")
