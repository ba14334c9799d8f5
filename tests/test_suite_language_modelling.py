"""The language-modelling suite against a sentence-by-sentence loop with the model's own loss."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_models

from alignx_eval.corpora import load_corpus
from alignx_eval.errors import InputError
from alignx_eval.statistics.clustered import clustered_ratio
from alignx_eval.suites import language_modelling
from alignx_eval.suites.language_modelling import check, run, sentence_costs

LANGUAGES = ["eng_Latn", "deu_Latn", "zho_Hans"]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("interface", languages=LANGUAGES, limit=8)


def naive_bits(model, tokenizer, sentence, start):
    import torch

    ids = torch.tensor([[start, *tokenizer(sentence, add_special_tokens=False)["input_ids"]]])
    with torch.inference_mode():
        loss = model(input_ids=ids, labels=ids).loss  # mean over all but the first position
    return float(loss) * (ids.shape[1] - 1) / math.log(2)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "cohere", "granite"])
def test_equals_a_naive_loop(family, corpus):
    # Gemma 2 caps its logits, Cohere and Granite scale them: the head is not the last word there.
    changes = {"gemma2": {"final_logit_softcapping": 5.0}, "cohere": {"logit_scale": 0.25}, "granite": {"logits_scaling": 4.0}}.get(
        family, {}
    )
    checkpoint = tiny_models.checkpoint(family, **changes)
    sentences = [*corpus.sentences["deu_Latn"], "a", ""]
    costs = sentence_costs(checkpoint.model, checkpoint.tokenizer, sentences, max_tokens_per_batch=200)
    expected = [naive_bits(checkpoint.model, checkpoint.tokenizer, text, checkpoint.tokenizer.bos_token_id) for text in sentences[:-1]] + [
        0.0
    ]
    np.testing.assert_allclose(costs.bits, expected, rtol=2e-5, atol=1e-4)
    assert costs.scored_bytes.tolist() == [len(text.encode()) for text in sentences]
    assert not costs.truncated.any()


def test_R10_batch_neighbours_and_the_size_of_pieces_change_nothing(corpus, monkeypatch):
    checkpoint = tiny_models.checkpoint()
    sentences = corpus.sentences["eng_Latn"]
    together = sentence_costs(checkpoint.model, checkpoint.tokenizer, sentences, max_tokens_per_batch=100_000).bits
    alone = sentence_costs(checkpoint.model, checkpoint.tokenizer, sentences, max_tokens_per_batch=1).bits
    monkeypatch.setattr(language_modelling, "LOGITS_AT_ONCE", 7 * 600)
    pieces = sentence_costs(checkpoint.model, checkpoint.tokenizer, sentences[::-1], max_tokens_per_batch=300).bits[::-1]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    np.testing.assert_allclose(together, pieces, rtol=1e-5)


def test_an_unknown_head_falls_back_to_the_model_s_own_logits(corpus):
    checkpoint = tiny_models.checkpoint()
    sentences = corpus.sentences["eng_Latn"][:3]
    own_forward = checkpoint.model.forward

    def odd_forward(*arguments, **keywords):
        output = own_forward(*arguments, **keywords)
        output.logits = output.logits * 0.5
        return output

    checkpoint.model.forward = odd_forward
    costs = sentence_costs(checkpoint.model, checkpoint.tokenizer, sentences)
    checkpoint.model.forward = own_forward
    import torch

    for bits, text in zip(costs.bits, sentences, strict=True):
        ids = torch.tensor([[0, *checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.inference_mode():
            log_probabilities = (own_forward(input_ids=ids).logits[0, :-1] * 0.5).log_softmax(-1)
        expected = -float(log_probabilities.gather(-1, ids[0, 1:, None]).sum()) / math.log(2)
        assert bits == pytest.approx(expected, rel=1e-5)


def test_without_bos_the_first_token_is_conditioned_on_eos(corpus):
    tokenizer = tiny_models.tokenizer(bos=False)
    checkpoint = tiny_models.checkpoint(tokens=tokenizer)
    text = corpus.sentences["eng_Latn"][0]
    expected = naive_bits(checkpoint.model, tokenizer, text, tokenizer.eos_token_id)
    assert sentence_costs(checkpoint.model, tokenizer, [text]).bits[0] == pytest.approx(expected, rel=1e-5)
    result = run(checkpoint, corpus)
    assert result.environment["start_token"] == "eos" and any("conditioned on EOS" in note for note in result.notes)


def test_without_bos_and_eos_the_first_token_costs_log2_of_the_vocabulary(corpus):
    tokenizer = tiny_models.tokenizer(bos=False, eos=False)
    checkpoint = tiny_models.checkpoint(tokens=tokenizer)
    text = corpus.sentences["eng_Latn"][0]
    first, *rest = tokenizer(text, add_special_tokens=False)["input_ids"]
    import torch

    ids = torch.tensor([[first, *rest]])
    with torch.inference_mode():
        expected = math.log2(600) + float(checkpoint.model(input_ids=ids, labels=ids).loss) * len(rest) / math.log(2)
    assert sentence_costs(checkpoint.model, tokenizer, [text]).bits[0] == pytest.approx(expected, rel=1e-5)


def test_R13_a_truncated_line_is_scored_over_the_bytes_that_were_scored():
    checkpoint = tiny_models.checkpoint(positions=6)
    text = "Größe: 中文字符 und mehr davon, viel mehr als in sechs Positionen passt"
    encoded = checkpoint.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    costs = sentence_costs(checkpoint.model, checkpoint.tokenizer, [text, "ab"])
    assert costs.truncated.tolist() == [True, False]
    assert costs.tokens[0] == len(encoded["input_ids"])
    assert costs.scored_bytes[0] == len(text[: encoded["offset_mapping"][5][1]].encode())
    kept = tiny_models.checkpoint(positions=512)
    import torch

    ids = torch.tensor([[0, *encoded["input_ids"][:6]]])
    with torch.inference_mode():
        expected = float(kept.model(input_ids=ids, labels=ids).loss) * 6 / math.log(2)
    assert costs.bits[0] == pytest.approx(expected, rel=1e-5)


def test_rows_items_and_intervals(corpus):
    result = run(tiny_models.checkpoint(), corpus)
    rows = {row.key: row for row in result.rows}
    assert len(rows) == len(result.rows) == 4 * len(LANGUAGES) + 1
    bits = rows["language_modelling/bits_per_byte/-/deu_Latn/-"]
    items = result.items[bits.key]
    assert items.kind == "ratio" and items.values.shape == (len(corpus), 2)
    assert bits.value == pytest.approx(items.values[:, 0].sum() / items.values[:, 1].sum())
    expected = clustered_ratio(items.values, corpus.groups)
    assert (bits.se, bits.ci_low, bits.ci_high) == (expected.se, expected.ci_low, expected.ci_high)
    assert bits.higher_is_better is False and bits.n == len(corpus)
    chinese = rows["language_modelling/tokens_per_word/-/zho_Hans/-"]
    assert chinese.value is None and "without spaces" in chinese.reason
    german = rows["language_modelling/tokens_per_character/-/deu_Latn/-"]
    lines = corpus.sentences["deu_Latn"]
    tokens = sum(len(tiny_models.tokenizer()(line, add_special_tokens=False)["input_ids"]) for line in lines)
    assert german.value == pytest.approx(tokens / sum(map(len, lines)))
    assert rows["language_modelling/truncated_rate/-/deu_Latn/-"].value == 0


def test_the_mean_over_languages_is_that_of_the_rows_and_its_error_that_of_the_jackknife(corpus):
    result = run(tiny_models.checkpoint(), corpus)
    rows = {row.key: row for row in result.rows}
    mean = rows["language_modelling/bits_per_byte/-/-/-"]
    ratios = [result.items[f"language_modelling/bits_per_byte/-/{code}/-"].values for code in LANGUAGES]
    assert mean.value == pytest.approx(np.mean([rows[f"language_modelling/bits_per_byte/-/{code}/-"].value for code in LANGUAGES]))
    items = result.items[mean.key]
    assert items.kind == "mean" and items.values.mean() == pytest.approx(mean.value)
    groups = list(dict.fromkeys(corpus.groups))
    left_out = []
    for group in groups:
        keep = np.array([other != group for other in corpus.groups])
        left_out.append(np.mean([values[keep, 0].sum() / values[keep, 1].sum() for values in ratios]))
    left_out = np.array(left_out)
    jackknife_se = math.sqrt((len(groups) - 1) / len(groups) * ((left_out - left_out.mean()) ** 2).sum())
    assert mean.se == pytest.approx(jackknife_se, rel=0.25)


def test_S9_twice_the_same(corpus):
    first, second = (run(tiny_models.checkpoint(), corpus) for _ in range(2))
    assert first.rows == second.rows and first.fingerprint == second.fingerprint


def test_empty_lines_and_broken_weights_give_a_reason_not_nan(corpus):
    import torch

    empty = replace(corpus, sentences={"eng_Latn": ("",) * len(corpus), "deu_Latn": corpus.sentences["deu_Latn"]})
    rows = {row.key: row for row in run(tiny_models.checkpoint(), empty).rows}
    assert rows["language_modelling/bits_per_byte/-/eng_Latn/-"].value is None
    assert rows["language_modelling/bits_per_byte/-/eng_Latn/-"].reason == "the lines hold no text"
    assert rows["language_modelling/bits_per_byte/-/-/-"].value is None
    broken = tiny_models.checkpoint()
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[5] = float("inf")
    result = run(broken, corpus)
    assert all(row.value is None or math.isfinite(row.value) for row in result.rows)
    assert all(np.isfinite(items.values).all() for items in result.items.values())


def test_progress_counts_every_line_once(corpus):
    seen = []
    run(tiny_models.checkpoint(), corpus, max_tokens_per_batch=100, progress=lambda done, total, what: seen.append((done, total, what)))
    assert seen[-1][:2] == (len(corpus) * len(LANGUAGES),) * 2
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_a_model_that_padding_disturbs_is_refused():
    import tiny_architectures

    with pytest.raises(InputError, match="other scores when padding follows"):
        check(tiny_architectures.tiny_checkpoint("cpmant"), load_corpus("interface", languages=["eng_Latn"], limit=1))
