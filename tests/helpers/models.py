"""Tiny models and tokenizers of real architectures."""

from __future__ import annotations

TEXT = (
    "The house stands by the river.",
    "Das Haus steht am Fluss.",
    "La casa está junto al río.",
    "Дом стоит у реки.",
    "房子在河边。",
    "Open the settings and choose a language.",
    "Öffnen Sie die Einstellungen und wählen Sie eine Sprache.",
)


def tiny_tokenizer(vocabulary: int = 320):
    """A byte-level BPE tokenizer with BOS in front of every text, EOS and no padding token, trained on a handful of
    sentences."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def tiny_model(seed: int = 0, **changes):
    """A 2-layer Llama of width 32 with random weights, in evaluation mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": True,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**fields | changes)).eval()
