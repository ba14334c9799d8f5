"""The language-modelling suite against a sentence-by-sentence loop with the model's own loss."""

import copy
import math
import string
from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny_models
from helpers.engines import language_modelling

from alignx_eval.corpora import load_corpus
from alignx_eval.engine.score import rolling_windows, sentence_costs
from alignx_eval.errors import InputError
from alignx_eval.statistics.clustered import clustered_ratio

check, run = language_modelling.check, language_modelling.run

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
    changes = {
        "gemma2": {"final_logit_softcapping": 5.0},
        "cohere": {"logit_scale": 0.25},
        "granite": {"logits_scaling": 4.0},
    }.get(family, {})
    checkpoint = tiny_models.checkpoint(family, **changes)
    sentences = [*corpus.sentences["deu_Latn"], "a", ""]
    costs = sentence_costs(checkpoint.model, checkpoint.tokenizer, sentences, max_tokens_per_batch=200)
    expected = [
        naive_bits(checkpoint.model, checkpoint.tokenizer, text, checkpoint.tokenizer.bos_token_id)
        for text in sentences[:-1]
    ] + [0.0]
    np.testing.assert_allclose(costs.bits, expected, rtol=2e-5, atol=1e-4)
    assert costs.bytes.tolist() == [len(text.encode()) for text in sentences]
    assert not costs.unknown_bytes.any()


def test_R10_batch_neighbours_and_the_size_of_pieces_change_nothing(corpus, monkeypatch):
    checkpoint = tiny_models.checkpoint()
    sentences = corpus.sentences["eng_Latn"]
    together = sentence_costs(checkpoint.model, checkpoint.tokenizer, sentences, max_tokens_per_batch=100_000).bits
    alone = sentence_costs(checkpoint.model, checkpoint.tokenizer, sentences, max_tokens_per_batch=1).bits
    monkeypatch.setattr("alignx_eval.engine.score.LOGITS_AT_ONCE", 7 * 600)
    pieces = sentence_costs(checkpoint.model, checkpoint.tokenizer, sentences[::-1], max_tokens_per_batch=300).bits[
        ::-1
    ]
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
    assert result.environment["start_token"].startswith("EOS ") and any(
        "conditioned on EOS" in note for note in result.notes
    )


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


def text_of(tokenizer, tokens):
    """A text of exactly `tokens` tokens."""

    def count(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    words = "Größe: 中文字符 und mehr davon, "
    text = words * ((tokens - 1) // count(words))
    while count(text) < tokens:
        text += "Q"  # a token of its own
    assert count(text) == tokens
    return text


def rolled_bits(model, tokenizer, text, window):
    """The published rule, one token at a time in float64: the first `window` tokens see all tokens before them; then
    every block of window - window // 2 tokens sees the window // 2 tokens before it. The start token stands in front of
    each."""
    import torch

    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    double = copy.deepcopy(model).double()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    half, total = window // 2, 0.0
    for place, token in enumerate(ids):
        first_seen = 0 if place < window else window + (place - window) // (window - half) * (window - half) - half
        seen = ([] if start is None else [start]) + ids[first_seen:place]
        if not seen:
            total += math.log2(model.config.vocab_size)
            continue
        with torch.inference_mode():
            logits = double(input_ids=torch.tensor([seen])).logits[0, -1]
        total -= float(logits.double().log_softmax(-1)[token]) / math.log(2)
    return total


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("window", [2, 7, 16])
def test_all_bytes_are_scored_in_rolling_windows(family, window):
    checkpoint = tiny_models.checkpoint(family)
    texts = [
        text_of(checkpoint.tokenizer, tokens)
        for tokens in (1, window, window + 1, window + window // 2 + 1, 5 * window + 3)
    ]
    costs = sentence_costs(checkpoint.model, checkpoint.tokenizer, texts, window=window)
    assert costs.tokens.tolist() == [1, window, window + 1, window + window // 2 + 1, 5 * window + 3]
    assert costs.bytes.tolist() == [len(text.encode()) for text in texts]
    expected = [rolled_bits(checkpoint.model, checkpoint.tokenizer, text, window) for text in texts]
    np.testing.assert_allclose(costs.bits, expected, rtol=2e-5)
    # Neither neighbours, nor order, nor the size of the batch, nor padding.
    for order, size in ((slice(None), 1), (slice(None, None, -1), 40), (slice(None, None, -1), 10_000)):
        again = sentence_costs(
            checkpoint.model, checkpoint.tokenizer, texts[order], window=window, max_tokens_per_batch=size
        )
        np.testing.assert_allclose(again.bits[order], costs.bits, rtol=1e-5)


@pytest.mark.parametrize("names", [{"bos": False}, {"bos": False, "eos": False}])
def test_rolling_windows_without_bos(names):
    tokenizer = tiny_models.tokenizer(**names)
    checkpoint = tiny_models.checkpoint(tokens=tokenizer)
    texts = [text_of(tokenizer, tokens) for tokens in (1, 8, 9, 30)]
    expected = [rolled_bits(checkpoint.model, tokenizer, text, 8) for text in texts]
    np.testing.assert_allclose(sentence_costs(checkpoint.model, tokenizer, texts, window=8).bits, expected, rtol=2e-5)


@pytest.mark.parametrize("tokens", [0, 1, 5, 8, 9, 12, 13, 100])
def test_every_token_is_scored_once_and_with_half_a_window_of_context(tokens):
    windows = rolling_windows(tokens, 8)
    assert [place for _, scored, end in windows for place in range(scored, end)] == list(range(tokens))
    assert all(end - seen <= 8 for seen, _, end in windows)
    assert all(scored - seen == 4 for seen, scored, _ in windows[1:])


def test_R13_the_same_weights_give_the_same_number_whatever_their_context_or_are_refused(corpus):
    long, short = (
        tiny_models.checkpoint(name="long", positions=512),
        tiny_models.checkpoint(name="short", positions=128),
    )
    text = text_of(long.tokenizer, 300)
    lengthy = replace(
        corpus, sentences=dict(corpus.sentences) | {"deu_Latn": (text, text, *corpus.sentences["deu_Latn"][2:])}
    )
    # Short lines fit both, and so does every line in a window that both have.
    for sentences, window in ((corpus, 512), (lengthy, 128), (lengthy, 100)):
        sides = [run(checkpoint, sentences, window=window).rows for checkpoint in (long, short)]
        values = [[row.value for row in rows if row.metric == "bits_per_byte"] for rows in sides]
        assert values[0] == pytest.approx(values[1], rel=1e-6) and len(values[0]) == len(LANGUAGES) + 1
    assert run(long, lengthy).fingerprint["window"] == 512
    for refused in (check, run):
        with pytest.raises(
            InputError, match=r"short has a context of 128 tokens.* deu_Latn \(2 lines\).*--languages.*--window 128"
        ):
            refused(short, lengthy)
    check(long, lengthy)
    # A line that fits to the last position, and one token more; without a start token one more fits.
    edge = {
        tokens: replace(corpus, sentences={"deu_Latn": (text_of(long.tokenizer, tokens),) * len(corpus)})
        for tokens in (128, 129, 130)
    }
    check(short, edge[128])
    with pytest.raises(InputError, match="deu_Latn"):
        check(short, edge[129])
    bare = tiny_models.checkpoint(positions=128, tokens=tiny_models.tokenizer(bos=False, eos=False))
    check(bare, edge[129])
    with pytest.raises(InputError, match="deu_Latn"):
        check(bare, edge[130])


def test_a_model_that_names_no_context_has_no_limit(corpus):
    checkpoint = tiny_models.checkpoint()
    del checkpoint.model.config.max_position_embeddings
    long = replace(corpus, sentences={"deu_Latn": (text_of(checkpoint.tokenizer, 700),) * len(corpus)})
    check(checkpoint, long)
    assert run(checkpoint, long).rows[0].value > 0
    with pytest.raises(InputError, match="at least 2"):
        check(checkpoint, long, window=1)


LATIN = string.ascii_letters + string.digits + string.punctuation + "äöüßÄÖÜ"


def latin_only(kind, *, declared=True):
    """A fast tokenizer that knows Latin letters, one token each, and writes the unknown token for the rest."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special, letters = ["<s>", "</s>", "<pad>", "<unk>"], [*LATIN, "▁"]
    vocabulary = {token: identity for identity, token in enumerate(dict.fromkeys(special + letters))}
    if kind == "unigram":
        tokens = Tokenizer(models.Unigram([(token, -1.0) for token in vocabulary], unk_id=3))
    elif kind == "word pieces":
        vocabulary |= {f"##{letter}": len(vocabulary) + number for number, letter in enumerate(letters)}
        tokens = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    elif kind == "dropped":
        tokens = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    elif kind == "bytes":
        vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
        tokens = Tokenizer(
            models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
    else:
        tokens = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=kind == "merged"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace() if kind == "word pieces" else pre_tokenizers.Metaspace()
    tokens.decoder = decoders.Metaspace()
    names = {"unk_token": "<unk>"} if declared else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **names
    )


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("kind", ["merged", "one by one", "unigram"])
def test_the_bytes_of_unknown_tokens_are_known(kind, declared):
    tokenizer = latin_only(kind, declared=declared)
    texts = ["Latin only, äöü", "中文", "ab 中文字 cd, ж", "中 a", "", " "]
    costs = sentence_costs(tiny_models.model(), tokenizer, texts)
    assert costs.unknown_bytes.tolist() == [0, 6, 11, 3, 0, 0]
    assert costs.unknown_share() == pytest.approx(20 / sum(len(text.encode()) for text in texts))


def test_unknown_bytes_of_other_tokenizers(tmp_path):
    from transformers import ByT5Tokenizer
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    def unknown(tokenizer, texts):
        return sentence_costs(tiny_models.model(), tokenizer, texts).unknown_bytes.tolist()

    # A word with one unknown letter is unknown as a whole; the spaces between words are left out on purpose.
    assert unknown(latin_only("word pieces"), ["ab cd", "abж cd", "中文 ab"]) == [0, 4, 6]
    # Where characters without a token are dropped in silence, no token stands for them (the mark of a word claims its
    # first character).
    assert unknown(latin_only("dropped"), ["ab cd", "中文字", "ab 文字字字字"]) == [0, 6, 15]
    # Of bytes everything is known.
    everything = ["中文字, ж😀", "ab", "e\u0301 क्षि \u200c"]
    assert unknown(latin_only("bytes"), everything) == unknown(tiny_models.tokenizer(), everything) == [0, 0, 0]
    assert unknown(ByT5Tokenizer(), everything) == [0, 0, 0]
    # Without offsets: by the characters that the known tokens do not give back.
    words = tmp_path / "vocab.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ab", "##c", "cd", ","]))
    slow = BertTokenizerLegacy(str(words))
    assert not slow.is_fast
    assert unknown(slow, ["ab, cd abc", "ab 中文 cd", "abж, ＡＢ ab", "AB"]) == [0, 6, 10, 0]


def test_where_the_tokenizer_does_not_know_the_text_bits_per_byte_decides_nothing(corpus):
    from alignx_eval.comparison.compare import compare

    base = run(tiny_models.checkpoint(name="base"), corpus)
    assert not base.warnings and all(row.unjudged is None for row in base.rows)
    found = run(tiny_models.checkpoint(name="latin", tokens=latin_only("merged")), corpus)
    rows = {row.key.removeprefix("language_modelling/"): row for row in found.rows}
    chinese = rows["bits_per_byte/-/zho_Hans/-"]
    share = rows["unknown_rate/-/zho_Hans/-"]
    lines = corpus.sentences["zho_Hans"]
    # All but the full stops and digits of the lines; commas, letters and spaces are ASCII there or unknown as well.
    unknown = sum(len(character.encode()) for line in lines for character in line if character not in LATIN + " ")
    assert (
        share.value == pytest.approx(unknown / sum(len(line.encode()) for line in lines))
        and share.higher_is_better is None
    )
    assert "lower bound" in chinese.unjudged and chinese.value < base.rows[8].value
    assert rows["unknown_rate/-/eng_Latn/-"].value == 0 and rows["bits_per_byte/-/eng_Latn/-"].unjudged is None
    assert "zho_Hans" in rows["bits_per_byte/-/-/-"].unjudged
    (warning,) = found.warnings
    assert f"zho_Hans ({100 * share.value:.3g} % of the bytes)" in warning and "eng_Latn" not in warning
    sides = {"base": {"language_modelling": base}, "latin": {"language_modelling": found}}
    comparison = compare(sides, base="base", candidates=["latin"])
    assert comparison.warnings[0] == f"latin: {warning}"
    for row in comparison.rows:
        if row.metric == "bits_per_byte" and row.language != "eng_Latn" and row.language != "deu_Latn":
            assert row.verdict == "insufficient-data" and row.se is None and "lower bound" in row.reason, row


def test_a_text_without_any_token_has_no_bits_per_byte(corpus):
    # All that this tokenizer does not know is dropped: nothing is left of Chinese.
    tokenizer = latin_only("dropped")
    only = replace(corpus, sentences={"eng_Latn": corpus.sentences["eng_Latn"], "zho_Hans": ("中文",) * len(corpus)})
    assert tokenizer("\n中文", add_special_tokens=False)["input_ids"] != []  # the mark of a word; so without the marks:
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    found = run(tiny_models.checkpoint(tokens=tokenizer), only)
    rows = {row.key.removeprefix("language_modelling/"): row for row in found.rows}
    for metric in ("bits_per_byte", "tokens_per_character"):
        row = rows[f"{metric}/-/zho_Hans/-"]
        assert row.value is None and row.reason == "the tokenizer gives no token for these lines"
    assert rows["unknown_rate/-/zho_Hans/-"].value == 1
    mean = rows["bits_per_byte/-/-/-"]
    assert mean.value is None and "zho_Hans" in mean.reason and "eng_Latn" not in mean.reason
    assert rows["bits_per_byte/-/eng_Latn/-"].value > 0
    assert not found.warnings  # what is undefined is no bound


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
    assert rows["language_modelling/unknown_rate/-/deu_Latn/-"].value == 0


def test_the_mean_over_languages_is_that_of_the_rows_and_its_error_that_of_the_jackknife(corpus):
    result = run(tiny_models.checkpoint(), corpus)
    rows = {row.key: row for row in result.rows}
    mean = rows["language_modelling/bits_per_byte/-/-/-"]
    ratios = [result.items[f"language_modelling/bits_per_byte/-/{code}/-"].values for code in LANGUAGES]
    assert mean.value == pytest.approx(
        np.mean([rows[f"language_modelling/bits_per_byte/-/{code}/-"].value for code in LANGUAGES])
    )
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


def test_a_token_that_the_model_does_not_have_is_one_line(corpus):
    with pytest.raises(InputError, match="300 embeddings"):
        run(tiny_models.checkpoint(vocabulary=300), corpus)


def test_progress_counts_every_line_once(corpus):
    seen = []
    run(
        tiny_models.checkpoint(),
        corpus,
        max_tokens_per_batch=100,
        progress=lambda done, total, what: seen.append((done, total, what)),
    )
    assert seen[-1][:2] == (len(corpus) * len(LANGUAGES),) * 2
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_a_model_that_padding_disturbs_is_refused():
    from helpers import architectures as tiny_architectures

    with pytest.raises(InputError, match="other scores when padding follows"):
        check(tiny_architectures.tiny_checkpoint("cpmant"), load_corpus("interface", languages=["eng_Latn"], limit=1))
