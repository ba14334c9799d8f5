"""Checkpoints whose tokenizer splits at words, to encode with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

WORDS = [f"w{number}" for number in range(40)]
SENTENCES = [
    "w1 w2 w3",
    "w4",
    "w5 w6 w7 w8 w9 w10 w11 w12 w13",
    "w3 w2",
    "w20 w21 w22 w23 w24 w25",
    "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12",
]


def make_tokenizer(
    *,
    bos: bool = True,
    eos: bool = False,
    bos_token: str | None = "<s>",
    eos_token: str | None = "</s>",
    pad: str | None = "<pad>",
    words_first: bool = False,
    side: str = "right",
) -> PreTrainedTokenizerFast:
    """One token a word. `bos` and `eos`: what it adds to a text by itself; `bos_token` and `eos_token`: what it has.

    Id 0 is the padding token, or the word w0 with `words_first`.
    """
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {
        token: number for number, token in enumerate([*WORDS, *specials] if words_first else [*specials, *WORDS])
    }
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = ("<s> " if bos else "") + "$A" + (" </s>" if eos else "")
    inner.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=bos_token,
        eos_token=eos_token,
        unk_token="<unk>",
        pad_token=pad,
        padding_side=side,
    )


COMMON = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**COMMON),
    "gpt2": lambda: GPT2Config(vocab_size=48, n_embd=32, n_layer=3, n_head=4, n_positions=64),
    "gemma2": lambda: Gemma2Config(**COMMON, num_key_value_heads=2, head_dim=8, sliding_window=4),
    "gemma3": lambda: Gemma3TextConfig(
        **COMMON,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    "mistral": lambda: MistralConfig(**COMMON, num_key_value_heads=2, sliding_window=4),
    "qwen2": lambda: Qwen2Config(**COMMON, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**COMMON, num_key_value_heads=2, head_dim=8),
    "phi3": lambda: Phi3Config(**COMMON, num_key_value_heads=2, pad_token_id=0),
    "gpt_neox": lambda: GPTNeoXConfig(**COMMON),
}


def make_checkpoint(family: str = "llama", **tokenizer_options) -> SimpleNamespace:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]()).eval()
    with torch.no_grad():  # fresh weights are small; larger ones let attention and positions matter
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return SimpleNamespace(
        model=model,
        tokenizer=make_tokenizer(**tokenizer_options),
        name="tiny",
        content_hash=f"hash-{family}",
        align_layer=None,
    )


def corpus_of(sentences: dict[str, list[str]]) -> SimpleNamespace:
    lines = len(next(iter(sentences.values())))
    return SimpleNamespace(
        sentences=sentences, languages=tuple(sentences), ids=tuple(f"line-{number}" for number in range(lines))
    )


# --- the start token ------------------------------------------------------------------------------
# tokenizer has, and what it adds to a text by itself -> the name of the start token.
STARTS = [
    ({"bos": True}, "BOS <s>"),
    ({"bos": False}, "BOS <s>"),
    ({"bos": True, "eos": True}, "BOS <s>"),
    ({"bos": False, "eos": True}, "BOS <s>"),
    ({"bos": False, "bos_token": None}, "EOS </s>"),
    ({"bos": False, "eos": True, "bos_token": None}, "EOS </s>"),
    ({"bos": False, "eos_token": None}, "BOS <s>"),
    ({"bos": False, "bos_token": None, "eos_token": None}, "none"),
]


def sink_checkpoint(**tokenizer_options) -> SimpleNamespace:
    """Whatever token comes first gets a huge state, as in most trained models."""
    checkpoint = make_checkpoint("gpt2", **tokenizer_options)
    with torch.no_grad():
        checkpoint.model.transformer.wpe.weight[0] += 1000
    return checkpoint


@contextmanager
def module_calls() -> Iterator[list[torch.nn.Module]]:
    """The modules that any model calls in the meantime."""
    calls: list[torch.nn.Module] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda module, _: calls.append(module))
    try:
        yield calls
    finally:
        hook.remove()
