"""Checkpoint files and folders, whole and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alignx_eval.checkpoint import open_checkpoint, write_checkpoint
from alignx_eval.errors import InputError
from helpers.models import tiny_model, tiny_tokenizer


def write(path, model=None, tokenizer=None, **changes):
    parts = {"stage": "base", "step": 0, "prompt_template": None, "heads": None, "recipe": {}, "provenance": {}}
    write_checkpoint(
        path, model=tiny_model() if model is None else model, tokenizer=tokenizer or tiny_tokenizer(), **parts | changes
    )
    return path


def logits(model):
    with torch.inference_mode():
        return model(torch.arange(2, 26).reshape(2, 12)).logits


def refused(reference, *words: str, kind=InputError, **options) -> str:
    """Open what must not open; the message is one line, of a bearable length, and contains `words`."""
    with pytest.raises(kind) as caught:
        open_checkpoint(reference, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    for word in words:
        assert word in message, message
    return message


# --- folders, adapters, the hub, GGUF -------------------------------------------------------------
@pytest.fixture
def tiny_folder(tmp_path) -> Path:
    folder = tmp_path / "tiny-folder"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def edit_json(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def hub_cache(cache: Path, folder: Path, commit: str) -> None:
    """The layout of the hub's cache: models--owner--name/snapshots/COMMIT and refs/main."""
    repository = cache / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / commit
    snapshot.parent.mkdir()
    folder.rename(snapshot)


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "model.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path: Path, model, tokenizer, quantisation: str) -> None:
    """A tied Llama as llama.cpp stores it: its own names, and in query and key the two halves of a rotary pair side by
    side."""
    import gguf

    config, kind = model.config, gguf.GGMLQuantizationType[quantisation]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    words = sorted(bpe["vocab"], key=bpe["vocab"].get)
    words += [f"<unused{number}>" for number in range(config.vocab_size - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * (len(words) - 2))
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(True)
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                weight = weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        for ours, theirs in GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        if weight.ndim == 2 and weight.shape[1] % 32 == 0 and quantisation != "F32":
            writer.add_tensor(name, gguf.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
