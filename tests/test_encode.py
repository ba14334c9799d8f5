"""Encoding: layers, pooling, padding, special tokens, truncation, the vector cache."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch
from helpers.commands import call
from helpers.encoding import (
    CONFIGS,
    SENTENCES,
    STARTS,
    WORDS,
    corpus_of,
    make_checkpoint,
    make_tokenizer,
    module_calls,
    sink_checkpoint,
)
from helpers.models import TEXT, tiny_model, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from alignx_eval.checkpoint import write_checkpoint
from alignx_eval.engine import vector_cache
from alignx_eval.engine.batches import (
    content_token_mask,
    encoding_environment,
    plan_batches,
    sentence_token_ids,
    special_token_ids,
    start_before,
    start_name,
)
from alignx_eval.engine.encode import POOLINGS, check_lengths, encode, encode_corpus, pooling_weights
from alignx_eval.errors import InputError
from alignx_eval.measures.cosine import centre, cosine_matrix, paired_cosine
from alignx_eval.measures.retrieval import hits


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_R10_batch_neighbours(family, pooling):
    checkpoint = make_checkpoint(family)
    together = encode(checkpoint, SENTENCES, pooling=pooling)
    assert np.abs(np.diff(together.vectors[-1], axis=0)).max() > 1e-2  # the model does tell them apart
    for number, sentence in enumerate(SENTENCES):
        alone = encode(checkpoint, [sentence], pooling=pooling)
        np.testing.assert_allclose(together.vectors[:, number], alone.vectors[:, 0], atol=1e-4, rtol=1e-4)


def test_R10_order_and_duplicates():
    """Another order of the sentences puts them into other batches; a sentence that comes twice has one vector."""
    checkpoint, order = make_checkpoint(), [3, 0, 5, 5, 1, 4, 2, 0]
    plain = encode(checkpoint, SENTENCES, max_tokens_per_batch=14)
    shuffled = encode(checkpoint, [SENTENCES[number] for number in order], max_tokens_per_batch=14)
    np.testing.assert_allclose(shuffled.vectors, plain.vectors[:, order], atol=1e-5)
    assert shuffled.token_counts.tolist() == plain.token_counts[order].tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("budget", [1, 7, 20, 10_000])
def test_R11_batch_size_sweep(family, budget):
    checkpoint = make_checkpoint(family)
    np.testing.assert_allclose(
        encode(checkpoint, SENTENCES, max_tokens_per_batch=budget).vectors,
        encode(checkpoint, SENTENCES).vectors,
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_R11_sixteen_bit_weights(family):
    """bfloat16 keeps 8 bits, and kernels may add in another order for another batch: 5 % of a vector's root mean square
    is the tolerance between batch sizes, 10 % that to float32. Pooling itself is in float32."""
    checkpoint = make_checkpoint(family)
    exact = encode(checkpoint, SENTENCES).vectors
    scale = np.sqrt((exact**2).mean(axis=2, keepdims=True))
    checkpoint.model.to(torch.bfloat16)
    sweep = [encode(checkpoint, SENTENCES, max_tokens_per_batch=budget).vectors for budget in (1, 7, 20, 10_000)]
    for rough in sweep:
        assert rough.dtype == np.float32
        assert (np.abs(rough - sweep[0]) / scale).max() < 0.05
        assert 1e-4 < (np.abs(rough - exact) / scale).max() < 0.1  # 16 bits can be told from 32, and no more
    assert encoding_environment(checkpoint)["dtype"] == "bfloat16"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "mistral"])
def test_R11_attention_kernels(family):
    checkpoint, vectors = make_checkpoint(family), {}
    for kernel in ("eager", "sdpa"):
        checkpoint.model.set_attn_implementation(kernel)
        assert encoding_environment(checkpoint) == {"dtype": "float32", "device": "cpu", "attention": kernel}
        vectors[kernel] = encode(checkpoint, SENTENCES).vectors
    np.testing.assert_allclose(vectors["eager"], vectors["sdpa"], atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_R10_padding_side_and_pad_token(family):
    reference = encode(make_checkpoint(family), SENTENCES).vectors
    for options in ({"side": "left"}, {"pad": None}, {"pad": "</s>"}):
        np.testing.assert_array_equal(encode(make_checkpoint(family, **options), SENTENCES).vectors, reference)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_R10_equals_left_padded_forward(family):
    """The other padding side, by transformers itself with its own position ids, gives the same vectors."""
    checkpoint = make_checkpoint(family)
    rows = checkpoint.tokenizer(SENTENCES)["input_ids"]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    attention = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        hidden = checkpoint.model(
            input_ids=ids, attention_mask=attention, position_ids=positions, output_hidden_states=True
        ).hidden_states
    encoding = encode(checkpoint, SENTENCES)
    for layer, states in [
        (0, hidden[0]),
        (1, hidden[1]),
        (2, hidden[2]),
        (4, hidden[3]),
    ]:  # the last of transformers is after the final norm
        expected = torch.stack([states[row, longest - len(tokens) + 1 :].mean(0) for row, tokens in enumerate(rows)])
        np.testing.assert_allclose(encoding.vectors[layer], expected.numpy(), atol=1e-4, rtol=1e-4)


def test_R10_special_tokens_by_id_not_position():
    plain = encode(make_checkpoint(eos=True), SENTENCES)
    for pooling in ("mean", "last", "weighted"):
        # A causal model cannot see the EOS that follows, so with it or without it the content is pooled to the same
        # vector.
        np.testing.assert_allclose(
            encode(make_checkpoint(eos=True), SENTENCES, pooling=pooling).vectors,
            encode(make_checkpoint(), SENTENCES, pooling=pooling).vectors,
            atol=1e-5,
        )
    assert plain.token_counts.tolist() == [3, 1, 9, 2, 6, 12]
    # Where the pad id is that of EOS, a real EOS is still left out.
    assert encode(make_checkpoint(eos=True, pad="</s>"), SENTENCES).token_counts.tolist() == plain.token_counts.tolist()


@pytest.mark.parametrize("pad", [None, "<pad>", "</s>"])
def test_R10_a_word_with_id_0_is_a_word(pad):
    checkpoint = make_checkpoint(words_first=True, pad=pad)
    assert checkpoint.tokenizer("w0")["input_ids"][-1] == 0
    encoding = encode(checkpoint, ["w0", "w5 w0 w0", "w0 w1 w2 w3 w4 w5 w6"])
    assert encoding.token_counts.tolist() == [1, 3, 7]
    ids = torch.tensor([checkpoint.tokenizer("w5 w0 w0")["input_ids"]])
    with torch.no_grad():
        hidden = checkpoint.model(input_ids=ids, output_hidden_states=True).hidden_states[2][0, 1:]
    np.testing.assert_allclose(encoding.vectors[2, 1], hidden.mean(0).numpy(), atol=1e-5)


def test_R10_one_token_for_every_role():
    """GPT-2 has one token that begins, ends, pads and stands for the unknown: it is special, so it is left out."""
    tokenizer = make_tokenizer()
    tokenizer.unk_token = tokenizer.bos_token = tokenizer.pad_token = "</s>"
    assert special_token_ids(tokenizer) == {tokenizer.eos_token_id}


def test_R9_bos_is_left_out():
    """A sink in the BOS position must not reach the vectors: pooling equals a mean over the other positions by hand."""
    checkpoint = make_checkpoint()
    ids = torch.tensor([checkpoint.tokenizer(SENTENCES[2])["input_ids"]])
    with torch.no_grad():
        hidden = checkpoint.model(input_ids=ids, output_hidden_states=True).hidden_states
    encoding = encode(checkpoint, [SENTENCES[2]])
    np.testing.assert_allclose(encoding.vectors[1, 0], hidden[1][0, 1:].mean(0).numpy(), atol=1e-5)
    assert np.abs(encoding.vectors[1, 0] - hidden[1][0].mean(0).numpy()).max() > 1e-3


@pytest.mark.parametrize("pooling", POOLINGS)
def test_R9_a_sink_does_not_reach_the_vectors(pooling):
    """A huge BOS, the same in every sentence, would make all sentences alike. It is left out by its id, at the start or
    elsewhere."""
    checkpoint = make_checkpoint()
    with torch.no_grad():
        checkpoint.model.get_input_embeddings().weight[checkpoint.tokenizer.bos_token_id] = 1000
    sentences = [SENTENCES[0], SENTENCES[4], "w1 w2 <s> w3"]
    embeddings = encode(checkpoint, sentences, pooling=pooling).vectors[0]
    assert np.abs(embeddings).max() < 10
    np.testing.assert_allclose(embeddings[2], embeddings[0], atol=1e-6)
    weight = checkpoint.model.get_input_embeddings().weight.detach().numpy()
    with_bos = [weight[checkpoint.tokenizer(sentence)["input_ids"]].mean(axis=0) for sentence in sentences[:2]]
    assert paired_cosine(*np.stack(with_bos)[:, None])[0] > 0.999
    assert paired_cosine(embeddings[:1], embeddings[1:2])[0] < 0.9


def test_unknown_tokens_are_text():
    checkpoint = make_checkpoint()
    assert checkpoint.tokenizer.unk_token_id not in special_token_ids(checkpoint.tokenizer)
    assert encode(checkpoint, ["never seen words"]).token_counts.tolist() == [3]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_R12_layers_against_manual_forward(family):
    checkpoint = make_checkpoint(family)
    model, ids = checkpoint.model, torch.tensor([checkpoint.tokenizer(SENTENCES[4])["input_ids"]])
    encoding = encode(checkpoint, [SENTENCES[4]])
    assert encoding.layer_names == ("0", "1", "2", "3", "3+norm")
    assert encoding.vectors.shape == (5, 1, 32) and encoding.vectors.dtype == np.float32
    with torch.no_grad():
        if family == "llama":
            decoder = model.model
            hidden = decoder.embed_tokens(ids)
            rotary = decoder.rotary_emb(hidden, torch.arange(ids.shape[1])[None])
            states = [hidden]
            for block in decoder.layers:
                states.append(block(states[-1], attention_mask=None, position_embeddings=rotary))
            states.append(decoder.norm(states[-1]))
        else:
            decoder = model.transformer
            states = [decoder.wte(ids) + decoder.wpe(torch.arange(ids.shape[1]))[None]]
            for block in decoder.h:
                output = block(states[-1])
                states.append(output if isinstance(output, torch.Tensor) else output[0])
            states.append(decoder.ln_f(states[-1]))
    for vector, state in zip(encoding.vectors[:, 0], states, strict=True):
        np.testing.assert_allclose(vector, state[0, 1:].mean(0).numpy(), atol=1e-4, rtol=1e-4)
    assert np.abs(encoding.vectors[3] - encoding.vectors[4]).max() > 1e-2  # before and after the final norm differ


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_R12_layers_and_pooling_of_every_family(family, pooling):
    """Against the states that transformers itself returns, of the sentence alone, without padding and without mask."""
    checkpoint = make_checkpoint(family, eos=True)
    sentence = SENTENCES[2]  # longer than the sliding windows
    ids = torch.tensor([checkpoint.tokenizer(sentence)["input_ids"]])
    with torch.no_grad():
        states = checkpoint.model(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(states) == 4  # embeddings and three blocks, of which the last is given after the final norm only
    encoding = encode(checkpoint, ["w1", sentence, SENTENCES[5]], pooling=pooling)
    position = np.arange(1, 10)
    weights = {"mean": np.ones(9), "last": position == 9, "weighted": position}[pooling]
    for name, state in zip(("0", "1", "2", "3+norm"), states, strict=True):
        expected = np.average(state[0, 1:-1].numpy(), axis=0, weights=weights)  # without BOS and EOS
        np.testing.assert_allclose(
            encoding.vectors[encoding.layer_names.index(name), 1], expected, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_R12_last_state_before_and_after_the_final_norm(family):
    """Of a sentence with a single token the norm of the pooled state is the pooled norm."""
    checkpoint = make_checkpoint(family)
    decoder = checkpoint.model.get_decoder()
    norm = next(module for name, module in decoder.named_children() if name in ("norm", "ln_f", "final_layer_norm"))
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, 32))
        encoding = encode(checkpoint, ["w4"])
        expected = norm(torch.from_numpy(encoding.vectors[3])).numpy()
    np.testing.assert_allclose(encoding.vectors[4], expected, atol=1e-5)
    assert np.abs(encoding.vectors[4] - encoding.vectors[3]).max() > 0.1


def test_hooks_are_removed_and_mode_is_kept():
    checkpoint = make_checkpoint()
    checkpoint.model.train()
    encode(checkpoint, SENTENCES)
    assert checkpoint.model.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in checkpoint.model.modules())


def test_pooling_weights_by_hand():
    mask = np.array([[False, True, True, False], [False, True, False, False], [True, False, True, True]])
    np.testing.assert_allclose(
        pooling_weights(mask, "mean"), [[0, 0.5, 0.5, 0], [0, 1, 0, 0], [1 / 3, 0, 1 / 3, 1 / 3]], rtol=1e-6
    )
    np.testing.assert_array_equal(pooling_weights(mask, "last"), [[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(
        pooling_weights(mask, "weighted"), [[0, 1 / 3, 2 / 3, 0], [0, 1, 0, 0], [1 / 6, 0, 2 / 6, 3 / 6]], rtol=1e-6
    )
    ids = np.array([[1, 7, 0, 2], [1, 9, 0, 0]])
    assert content_token_mask(ids, np.array([4, 2]), frozenset({1, 2})).tolist() == [
        [False, True, True, False],
        [False, True, False, False],
    ]
    assert content_token_mask(ids, np.array([4, 2]), frozenset(), first=1)[:, :2].tolist() == [
        [False, True],
        [False, True],
    ]


def test_weighted_pooling_is_that_of_mexa_without_special_tokens():
    checkpoint = make_checkpoint(bos=False, bos_token=None, eos_token=None)
    ids = torch.tensor([checkpoint.tokenizer(SENTENCES[2])["input_ids"]])
    with torch.no_grad():
        hidden = checkpoint.model(input_ids=ids, output_hidden_states=True).hidden_states[2][0]
    position = torch.arange(1, len(hidden) + 1)[:, None]
    expected = (hidden * position).sum(0) / position.sum()
    np.testing.assert_allclose(
        encode(checkpoint, [SENTENCES[2]], pooling="weighted").vectors[2, 0], expected.numpy(), atol=1e-5
    )


@pytest.mark.parametrize("text", ["", "   ", "<s> </s>"])
def test_sentence_without_ordinary_token_is_named(text):
    with pytest.raises(InputError, match="sentence b .*no token besides special ones.*1 of 2"):
        encode(make_checkpoint(), ["w1", text], ids=["a", "b"])
    with pytest.raises(InputError, match="no sentences"):
        encode(make_checkpoint(), [])
    with pytest.raises(InputError, match="pooling"):
        encode(make_checkpoint(), ["w1"], pooling="max")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_R13_a_sentence_that_does_not_fit_is_refused_and_never_cut(family):
    """The models were made for 64 tokens, and the start token is one of them."""
    words = (WORDS * 2)[:64]
    assert encode(make_checkpoint(family), [" ".join(words[:63])]).token_counts.tolist() == [63]
    with pytest.raises(InputError, match="sentence b has 65 tokens, more than the 64 that the model takes; 1 of 2"):
        encode(make_checkpoint(family), ["w1 w2", " ".join(words)], ids=["a", "b"])
    without_start = make_checkpoint(family, bos_token=None, eos_token=None, bos=False)
    assert encode(without_start, [" ".join(words)]).token_counts.tolist() == [64]


def test_R13_all_languages_that_do_not_fit_are_named_before_anything_is_encoded():
    long = " ".join(WORDS * 2)
    corpus = corpus_of({"eng_Latn": SENTENCES[:3], "deu_Latn": [long, "w1", long], "rus_Cyrl": ["w1", long, "w2"]})
    with pytest.raises(
        InputError,
        match=r"tiny takes 64 tokens.*: deu_Latn \(2 of 3\), rus_Cyrl \(1 of 3\)\..*leave these languages out",
    ):
        check_lengths(make_checkpoint(), corpus)
    check_lengths(make_checkpoint(), corpus_of({"eng_Latn": SENTENCES, "deu_Latn": [" ".join(WORDS)] * 6}))
    longer = make_checkpoint()
    longer.model.config.max_position_embeddings = 81
    check_lengths(longer, corpus)


@pytest.mark.parametrize(("options", "name"), STARTS)
def test_R9_one_start_token_stands_before_every_sentence(options, name):
    """BOS, else EOS, else none; nothing is doubled and nothing else is added, whatever the tokenizer adds by itself."""
    tokenizer = make_tokenizer(**options)
    start = tokenizer.convert_tokens_to_ids(name.split()[1:])
    words = [tokenizer.convert_tokens_to_ids(sentence.split()) for sentence in SENTENCES]
    assert start_name(tokenizer) == name
    assert sentence_token_ids(tokenizer, SENTENCES) == [start + row for row in words]
    if start:  # a text that begins with it already, as of a template
        assert sentence_token_ids(tokenizer, [f"{name.split()[1]} w1 w2"]) == [
            start + tokenizer.convert_tokens_to_ids(["w1", "w2"])
        ]
        assert start_before([], tokenizer) == start


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("options", "name"), STARTS)
def test_R9_only_the_content_is_pooled(options, name, pooling):
    """Against the states of the model itself for the start token and the words."""
    checkpoint = make_checkpoint(**options)
    tokenizer, encoding = checkpoint.tokenizer, encode(make_checkpoint(**options), SENTENCES, pooling=pooling)
    assert encoding.token_counts.tolist() == [len(sentence.split()) for sentence in SENTENCES]
    for number, sentence in enumerate(SENTENCES):
        words = sentence.split()
        ids = torch.tensor([tokenizer.convert_tokens_to_ids([*name.split()[1:], *words])])
        with torch.no_grad():
            states = (
                checkpoint.model(input_ids=ids, output_hidden_states=True).hidden_states[2][0, -len(words) :].numpy()
            )
        position = np.arange(1, len(words) + 1)
        weights = {"mean": np.ones(len(words)), "last": position == len(words), "weighted": position}[pooling]
        np.testing.assert_allclose(encoding.vectors[2, number], np.average(states, axis=0, weights=weights), atol=1e-4)


def test_R9_what_a_tokenizer_adds_by_itself_changes_no_vector():
    reference = encode(make_checkpoint(), SENTENCES).vectors
    for options in ({"bos": False}, {"eos": True}, {"bos": False, "eos": True}):
        np.testing.assert_array_equal(encode(make_checkpoint(**options), SENTENCES).vectors, reference)


class UnlistedTokenizer(PreTrainedTokenizerFast):
    """Its end token, the only one that can stand at the start, is an ordinary word, and it lists no special token."""

    all_special_ids = property(lambda self: [])


def test_R9_the_start_token_is_left_out_by_its_position():
    checkpoint = make_checkpoint()
    ids = [checkpoint.tokenizer.convert_tokens_to_ids(word) for word in ("w0", "w1", "w0", "w2")]
    checkpoint.tokenizer = UnlistedTokenizer(
        tokenizer_object=make_tokenizer(bos=False).backend_tokenizer, eos_token="w0"
    )
    encoding = encode(checkpoint, ["w1 w0 w2", "w3"])
    assert start_name(checkpoint.tokenizer) == "EOS w0" and encoding.token_counts.tolist() == [3, 1]
    with torch.no_grad():
        states = checkpoint.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]
    np.testing.assert_allclose(
        encoding.vectors[2, 0], states[1:].mean(0).numpy(), atol=1e-5
    )  # w0 within the text is text


def test_R9_the_first_token_of_a_model_with_a_sink_is_the_start_token():
    """Where the tokenizer adds no start token by itself, the first word took its place, and all sentences were
    alike."""
    for options in ({"bos": True}, {"bos": False}, {"bos": False, "bos_token": None}):
        encoding = encode(sink_checkpoint(**options), [SENTENCES[2], SENTENCES[5]])
        assert encoding.largest_token_share.max() < 0.5
        assert paired_cosine(encoding.vectors[1][:1], encoding.vectors[1][1:])[0] < 0.9
    without = encode(sink_checkpoint(bos=False, bos_token=None, eos_token=None), [SENTENCES[2], SENTENCES[5]])
    assert without.largest_token_share[:4].min() > 0.99
    assert paired_cosine(without.vectors[1][:1], without.vectors[1][1:])[0] > 0.99


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_largest_share_of_one_token_is_that_of_the_formula(family, pooling):
    """max_t |h_t|^2 / sum_t |h_t|^2 over the content tokens, for any batch and pooling."""
    checkpoint = make_checkpoint(family)
    shares = encode(checkpoint, SENTENCES, pooling=pooling).largest_token_share
    assert shares.shape == (5, len(SENTENCES)) and shares.dtype == np.float32
    for number, ids in enumerate(sentence_token_ids(checkpoint.tokenizer, SENTENCES)):
        with torch.no_grad():
            states = checkpoint.model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        squares = np.stack([(state[0, 1:] ** 2).sum(-1).numpy() for state in states])
        expected = squares.max(axis=1) / squares.sum(axis=1)
        np.testing.assert_allclose(shares[[0, 1, 2, 4], number], expected, rtol=1e-4)
    with torch.no_grad():
        checkpoint.model.get_input_embeddings().weight.zero_()
    if family == "llama":
        assert encode(checkpoint, SENTENCES).largest_token_share[0].tolist() == [0] * len(SENTENCES)


def test_non_finite_states_are_refused():
    checkpoint = make_checkpoint()
    with torch.no_grad():
        checkpoint.model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="layer 2 has non-finite"):
        encode(checkpoint, SENTENCES)


def test_plan_batches():
    lengths = np.array([3, 10, 1, 7, 7, 2])
    batches = plan_batches(lengths, 14)
    assert sorted(np.concatenate(batches).tolist()) == list(range(6))
    assert [batch.tolist() for batch in batches] == [[1], [3, 4], [0, 5, 2]]
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= 14 for batch in batches)
    assert [len(batch) for batch in plan_batches(lengths, 1)] == [1] * 6


def test_progress_reports_every_batch():
    seen = []
    encode(
        make_checkpoint(),
        SENTENCES,
        max_tokens_per_batch=14,
        progress=lambda done, total, what: seen.append((done, total)),
    )
    assert seen[-1][0] == seen[-1][1] == len(seen)


@pytest.mark.parametrize("layer", [1, 2])
def test_R14_template_leaks_source_into_target(layer):
    """In one causal sequence the target has attended to the source, so it matches its source even in an untrained
    model; alone it does not. Source and target are unrelated here: there is nothing to find."""
    checkpoint = make_checkpoint()
    generator = np.random.default_rng(0)
    sources = [" ".join(generator.choice(WORDS[:20], 6)) for _ in range(60)]
    targets = [" ".join(generator.choice(WORDS[20:], 6)) for _ in range(60)]
    alone = [encode(checkpoint, sentences).vectors[layer] for sentences in (sources, targets)]
    together = []
    for source, target in zip(sources, targets, strict=True):
        ids = torch.tensor([checkpoint.tokenizer(f"{source} {target}")["input_ids"]])
        with torch.no_grad():
            state = checkpoint.model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
        together.append([state[1:7].mean(0).numpy(), state[7:].mean(0).numpy()])
    sources_together, targets_together = np.stack(together, axis=1)
    np.testing.assert_allclose(
        sources_together, alone[0], atol=1e-5
    )  # the source comes first and sees nothing of the target

    def found(target_vectors):
        return hits(cosine_matrix(centre(target_vectors), centre(alone[0]))).forward.mean()

    assert found(alone[1]) < 0.1
    assert found(targets_together) > found(alone[1]) + 0.1


def test_cache_second_run_encodes_nothing(tmp_path, monkeypatch):
    checkpoint = make_checkpoint()
    corpus = corpus_of({"eng_Latn": SENTENCES[:3], "deu_Latn": SENTENCES[3:]})
    plain = encode_corpus(checkpoint, corpus)
    first = encode_corpus(checkpoint, corpus, cache_dir=tmp_path)
    assert (plain.encoded, first.encoded) == (2, 2)
    forwards = []
    checkpoint.model.get_decoder().register_forward_hook(lambda *_: forwards.append(1))
    second = encode_corpus(checkpoint, corpus, cache_dir=tmp_path)
    assert second.encoded == 0 and not forwards
    assert second.layer_names == plain.layer_names == ("0", "1", "2", "3", "3+norm")
    for layer in plain.layer_names:
        np.testing.assert_array_equal(second.layer(layer), plain.layer(layer))
        assert second.layer(layer).shape == (2, 3, 32)
    np.testing.assert_array_equal(second.token_counts["deu_Latn"], plain.token_counts["deu_Latn"])
    np.testing.assert_array_equal(second.largest_token_share["deu_Latn"], plain.largest_token_share["deu_Latn"])
    # Another language encodes only itself; other settings and other weights share nothing.
    more = corpus_of({**corpus.sentences, "fra_Latn": ["w9 w8", "w7", "w6"]})
    assert encode_corpus(checkpoint, more, cache_dir=tmp_path).encoded == 1
    assert encode_corpus(checkpoint, corpus, cache_dir=tmp_path, pooling="last").encoded == 2
    other = make_checkpoint("gpt2")
    assert encode_corpus(other, corpus, cache_dir=tmp_path).encoded == 2


def test_cache_keeps_what_was_done_before_an_interruption(tmp_path):
    checkpoint = make_checkpoint()
    broken = corpus_of({"eng_Latn": ["w1", "w2"], "deu_Latn": ["w3", ""]})
    with pytest.raises(InputError, match="line-1 of deu_Latn"):
        encode_corpus(checkpoint, broken, cache_dir=tmp_path)
    mended = corpus_of({"eng_Latn": ["w1", "w2"], "deu_Latn": ["w3", "w4"]})
    assert encode_corpus(checkpoint, mended, cache_dir=tmp_path).encoded == 1


def test_cache_damaged_entry_is_made_again(tmp_path):
    checkpoint, corpus = make_checkpoint(), corpus_of({"eng_Latn": SENTENCES})
    expected = encode_corpus(checkpoint, corpus, cache_dir=tmp_path).layer("2")
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    again = encode_corpus(checkpoint, corpus, cache_dir=tmp_path)
    assert again.encoded == 1
    np.testing.assert_array_equal(again.layer("2"), expected)
    assert [each.name for each in tmp_path.rglob("*") if each.is_file()] == [path.name]  # no temporary file is left


def test_cache_is_capped_and_old_entries_go_first(tmp_path):
    paths = []
    for number in range(4):
        paths.append(
            vector_cache.store(
                tmp_path, vector_cache.cache_key({"entry": number}), {"0": np.zeros(1000, np.float32)}, {}
            )
        )
        os.utime(paths[-1], (number, number))
    assert (
        vector_cache.open_entry(tmp_path, vector_cache.cache_key({"entry": 0})) is not None
    )  # used now, so the newest
    assert vector_cache.prune(tmp_path, 9000, keep={paths[1]}) == [paths[2], paths[3]]
    assert paths[0].exists() and paths[1].exists()
    assert vector_cache.open_entry(tmp_path, vector_cache.cache_key({"entry": 2})) is None
    assert vector_cache.expected_bytes(languages=51, lines=500, layers=20, width=640) == 51 * 500 * 20 * 640 * 4


def test_open_entry_survives_eviction(tmp_path):
    checkpoint, corpus = make_checkpoint(), corpus_of({"eng_Latn": SENTENCES})
    expected = encode_corpus(checkpoint, corpus).layer("1")
    held = encode_corpus(checkpoint, corpus, cache_dir=tmp_path)
    vector_cache.prune(tmp_path, 0)
    np.testing.assert_array_equal(held.layer("1"), expected)


def _as_rank(rank, port, out):
    """Body of a process that a launcher would have started: its environment, then encode. Writes down what it computed
    itself."""
    from accelerate import PartialState

    os.environ.update(
        WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    PartialState._reset_state()  # an earlier test of the parent may have made one
    state = PartialState(cpu=True)
    checkpoint, seen = make_checkpoint(), []
    checkpoint.model.get_decoder().register_forward_pre_hook(
        lambda _, args, named: seen.append(named["input_ids"]), with_kwargs=True
    )
    encoding = encode(checkpoint, SENTENCES, max_tokens_per_batch=20)
    lengths = [int((batch != 0).sum(1).max()) for batch in seen]
    (out / f"{rank}.json").write_text(json.dumps({"world": state.num_processes, "lengths": lengths}))
    corpus = corpus_of({"eng_Latn": SENTENCES, "deu_Latn": SENTENCES[::-1]})
    counts = [
        encode_corpus(checkpoint, corpus, cache_dir=out / "cache", max_tokens_per_batch=14).encoded for _ in range(2)
    ]
    np.savez(out / f"{rank}.npz", vectors=encoding.vectors, shares=encoding.largest_token_share, counts=counts)
    state.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    """Forked, since a fresh interpreter would spend all its time on imports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_as_rank, args=(rank, port, tmp_path)) for rank in range(2)]
    try:
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(timeout=300)
        assert [rank.exitcode for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    lengths = np.array([len(make_tokenizer()(sentence)["input_ids"]) for sentence in SENTENCES])
    plan = [int(lengths[batch].max()) for batch in plan_batches(lengths, 20)]
    assert len(plan) % 2 == 1  # so one process has to repeat a batch
    expected = encode(make_checkpoint(), SENTENCES, max_tokens_per_batch=20)
    for rank in range(2):
        notes = json.loads((tmp_path / f"{rank}.json").read_text())
        assert notes == {
            "world": 2,
            "lengths": [*plan, plan[-1]][rank::2],
        }  # whole batches of the one plan are dealt out
        result = np.load(tmp_path / f"{rank}.npz")
        np.testing.assert_allclose(result["vectors"], expected.vectors, atol=1e-6)
        np.testing.assert_allclose(result["shares"], expected.largest_token_share, atol=1e-6)
        assert result["counts"].tolist() == [2, 0]  # both share one cache


def test_second_compare_encodes_nothing(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """With a run directory of its own it measures all again, from the cached vectors; another pooling is encoded
    anew."""
    other = tmp_path / "other.pt"
    write_checkpoint(
        other,
        model=tiny_model(seed=1),
        tokenizer=tiny_tokenizer(),
        stage="base",
        step=0,
        prompt_template=None,
        heads=None,
        recipe={},
        provenance={},
    )
    (tmp_path / "text").mkdir()
    for language, lines in (
        ("eng_Latn", [f"The {number}th house." for number in range(12)]),
        ("deu_Latn", TEXT[:4] * 3),
    ):
        (tmp_path / "text" / f"{language}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    common = (
        tiny_checkpoint,
        other,
        "--suites",
        "layers,language_id",
        "--corpus",
        tmp_path / "text",
        "--cache-dir",
        tmp_path / "cache",
    )

    def compare(out: str, *options: str) -> int:
        with module_calls() as calls:
            code, _, err = call(
                monkeypatch,
                capsys,
                "compare",
                *common,
                *options,
                "--out",
                tmp_path / out,
                "-o",
                tmp_path / f"{out}.csv",
                "--quiet",
            )
        assert code == 0, err
        return (
            sum(type(module).__name__ == "LlamaModel" for module in calls) - 2 * 2
        )  # at opening, two passes of one sentence each

    def entries() -> list[str]:
        return sorted(path.name for path in (tmp_path / "cache").rglob("*.safetensors"))

    assert compare("first") > 0
    kept = entries()
    assert len(kept) == 2 * 2  # a checkpoint and a language each; both suites share them
    assert compare("second") == 0 and entries() == kept
    assert (tmp_path / "second.csv").read_text() == (tmp_path / "first.csv").read_text()
    assert compare("third", "--pooling", "last") > 0
