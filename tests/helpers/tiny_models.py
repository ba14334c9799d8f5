"""Tiny random models and a tokenizer trained on the bundled text, for tests that need a real model and no download."""

from __future__ import annotations

from functools import cache
from typing import Any

from alignx_eval.checkpoint import Checkpoint
from alignx_eval.corpora import load_corpus


@cache
def tokenizer(vocabulary: int = 600, *, bos: bool = True, eos: bool = True) -> Any:
    """Byte-level BPE trained on the validation split of `interface`; treat it as read-only."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(
        (line for lines in load_corpus("interface", "validation").sentences.values() for line in lines), trainer
    )
    names = {"bos_token": "<s>"} if bos else {}
    names |= {"eos_token": "</s>"} if eos else {}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", clean_up_tokenization_spaces=False, **names)


def model(family: str = "llama", *, vocabulary: int = 600, positions: int = 512, seed: int = 0, **changes: Any) -> Any:
    """A random two-layer model of width 32 in evaluation mode, with weights large enough to be far from uniform."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if family == "gpt2":
        settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": positions}
    else:
        settings = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": positions,
        }
        if family != "gpt_neox":
            settings |= {"num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        family,
        vocab_size=vocabulary,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        **settings | changes,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def checkpoint(family: str = "llama", *, name: str = "tiny", tokens: Any = None, **settings: Any) -> Checkpoint:
    """A checkpoint around `model(family, ...)`."""
    return Checkpoint(
        name=name,
        reference=name,
        model=model(family, **settings),
        tokenizer=tokenizer() if tokens is None else tokens,
        prompt_template="plain",
        heads=None,
        stage=None,
        step=None,
        align_layer=None,
        provenance={},
        recipe={},
        content_hash=name,
        format="pt",
    )
