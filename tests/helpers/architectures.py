"""Every causal architecture of the installed transformers as a tiny random model, for the test and the tool that try
them all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from alignx_eval.checkpoint import Checkpoint
from alignx_eval.corpora import load_corpus
from alignx_eval.engine import decoding_cache
from alignx_eval.engine.encode import encode
from alignx_eval.engine.generate import greedy_decode
from alignx_eval.engine.score import sentence_costs
from alignx_eval.errors import InputError
from helpers import tiny_models
from helpers.engines import language_modelling

# Sizes by the names that configurations use for them; a name that a family does not have, or that it leaves at 0, is
# left alone.
_NAMES: dict[float, str] = {
    600: "vocab_size vocab_size_per_layer_input decoder_vocab_size unpadded_vocab_size",
    512: "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions context_length model_max_length "
    "original_max_position_embeddings index_topk",
    32: "hidden_size d_model n_embd emb_dim dim word_embed_proj_dim embedding_dim embedding_size lru_width input_embedding_size "
    "output_embedding_size adapter_in_dim adapter_input_size pronunciation_embed_dim shape_embed_dim",
    64: "intermediate_size moe_intermediate_size decoder_ffn_dim encoder_ffn_dim ffn_dim dff d_inner dim_ff ffn_hidden_size "
    "shared_expert_intermediate_size expert_ffn_hidden_size intermediate_size_mlp shared_experts_intermediate_size "
    "moe_shared_expert_intermediate_size dense_intermediate_size feed_forward_size shared_intermediate_size "
    "shape_vocab_size",
    8: "head_dim dim_head d_head attention_head_size kv_channels qk_rope_head_dim v_head_dim qk_nope_head_dim mamba_d_head mamba_headdim "
    "mamba_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim swa_head_dim state_size ssm_state_size "
    "mamba_d_state "
    "index_head_dim rotary_dim mamba_dt_rank time_step_rank sliding_window sliding_window_size attention_window_size "
    "attention_chunk_size hidden_size_per_layer_input n_mamba_heads mamba_n_heads mamba_num_heads",
    16: "kv_lora_rank q_lora_rank o_lora_rank chunk_size mamba_chunk_size hc_lowrank",
    4: "num_attention_heads n_head n_heads attention_heads decoder_attention_heads encoder_attention_heads num_heads "
    "num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads linear_num_heads num_experts "
    "n_routed_experts "
    "num_local_experts moe_num_experts linear_num_value_heads index_n_heads zero_expert_num",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_encoder_layers num_decoder_layers num_blocks "
    "num_key_value_heads num_kv_heads swa_num_key_value_heads num_experts_per_tok num_experts_per_token moe_topk moe_k "
    "linear_num_key_heads index_topk_blocks",
    1: "n_group num_expert_group topk_group n_shared_experts num_shared_experts moe_num_shared_experts mamba_n_groups n_groups "
    "mamba_ngroups o_groups first_k_dense_replace",
    0.3: "initializer_range init_std",
}
SIZES = {name: size for size, names in _NAMES.items() for name in names.split()}
ROLES = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
LAYER_LISTS = ("layer_types", "mlp_layer_types", "layers_block_type")
# Where the names above are not enough.
CHANGES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 64},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note_text": {
        "per_layer_config": {
            "1": {
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "q_lora_rank": 16,
                "kv_lora_rank": 16,
                "head_dim": 16,
                "qk_nope_head_dim": 8,
                "v_head_dim": 8,
                "qk_rope_head_dim": 8,
            }
        }
    },
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0, 0.0]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "attention_layers": ["global", "local"]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "lsh"]},
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}
# Not tried, and why: the one kind of "not supported" that is not found out.
NOT_BUILT = {
    "blt": "reads bytes in patches by an entropy model of its own; no small configuration of it is known here",
    "dots3_note": "its text part is `dots3_note_text`; with it come encoders of images and sound",
    "gemma3n": "its text part is `gemma3n_text`; with it come encoders that need `timm`",
    "gemma4_assistant": "drafts for another model and does not run alone",
    "gemma4_unified_assistant": "drafts for another model and does not run alone",
    "musicgen": "a model of sound tokens",
    "musicgen_melody": "a model of sound tokens",
}
CHANGES["qwen4_exp"] = {"text_config": CHANGES["qwen4_exp_text"]}


@cache
def causal_architectures() -> tuple[str, ...]:
    """Model types of `AutoModelForCausalLM`, in alphabetical order."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


def tiny_config(model_type: str) -> Any:
    """The type's default configuration with small sizes. Raises whatever the configuration raises."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    return kind(**_small(kind(), CHANGES.get(model_type, {})))


def _small(config: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """The settings of `config` that have to be other than its defaults, those of configurations inside it too."""
    default = config.to_dict()
    parts = getattr(config, "sub_configs", {})
    small: dict[str, Any] = {}
    for name, value in default.items():
        if name in parts:
            if value is not None:
                own = changes.get(name, {})
                small[name] = _small(getattr(config, name), own)
        elif name in SIZES and isinstance(value, int | float) and not isinstance(value, bool) and value:
            small[name] = SIZES[name]
        elif name in ROLES:
            small[name] = ROLES[name]
        elif name == "is_decoder":
            small[name] = True
        elif name == "head_dim":
            small[name] = SIZES[name]
    if "qk_rope_head_dim" in default:  # latent attention shares no keys between heads
        small |= {name: SIZES["num_attention_heads"] for name in ("num_key_value_heads",) if name in small}
    kinds = {name: list(dict.fromkeys(default[name])) for name in LAYER_LISTS if isinstance(default.get(name), list)}
    if kinds:  # one layer of each kind
        count = max(2, *(len(kind) for kind in kinds.values()), 0)
        small |= {name: (kind * count)[:count] for name, kind in kinds.items()}
        small |= {name: count for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if name in small}
    return small | {name: value for name, value in changes.items() if name not in parts}


def tiny_model(model_type: str, seed: int = 0) -> Any:
    """A random model of `tiny_config` in evaluation mode."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(tiny_config(model_type)).eval()


def tiny_checkpoint(model_type: str) -> Checkpoint:
    """`tiny_model` with the tokenizer of `tiny_models`."""
    return Checkpoint(
        name=model_type,
        reference=model_type,
        model=tiny_model(model_type),
        tokenizer=tiny_models.tokenizer(),
        prompt_template="plain",
        heads=None,
        stage=None,
        step=None,
        align_layer=None,
        provenance={},
        recipe={},
        content_hash=model_type,
        format="pt",
    )


@dataclass(frozen=True, slots=True)
class Support:
    """What works with an architecture: None, or why it does not. `way`: how it decodes."""

    layers: str | None
    language_modelling: str | None
    translation: str | None
    way: str


def lines(count: int = 4) -> list[str]:
    """The first lines of `interface` in English and Chinese, of unequal length."""
    corpus = load_corpus("interface", languages=["eng_Latn", "zho_Hans"], limit=count)
    return [line for texts in corpus.sentences.values() for line in texts]


def support(model_type: str) -> Support:
    """Try an architecture. Every answer in a batch must be the one that a text gets alone; AssertionError where it is
    not."""
    checkpoint = tiny_checkpoint(model_type)
    if not _is_causal(checkpoint.model):
        reason = "not causal: a later token changes what the model says before it"
        return Support(reason, reason, reason, "")
    return Support(
        _reason(_try_layers, checkpoint),
        _reason(_try_language_modelling, checkpoint),
        _reason(_try_translation, checkpoint),
        _describe(decoding_cache.find_way(checkpoint.model)),
    )


def _reason(attempt: Any, checkpoint: Checkpoint) -> str | None:
    try:
        attempt(checkpoint)
    except InputError as error:
        return str(error)
    return None


def _is_causal(model: Any) -> bool:
    import torch

    ids = torch.arange(20, 32)[None]
    other = ids.clone()
    other[0, -1] = 7
    with torch.inference_mode():
        first, second = model(input_ids=ids).logits[0, :-1], model(input_ids=other).logits[0, :-1]
    return bool((first - second).abs().max() <= 0.01 * first.std())


def _try_layers(checkpoint: Checkpoint) -> None:
    together = encode(checkpoint, lines()).vectors
    alone = encode(checkpoint, lines(), max_tokens_per_batch=1).vectors
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-3 * alone.std())


def _try_language_modelling(checkpoint: Checkpoint) -> None:
    language_modelling.check(checkpoint, load_corpus("interface", languages=["eng_Latn", "zho_Hans"], limit=1))
    together = sentence_costs(checkpoint.model, checkpoint.tokenizer, lines()).bits
    alone = sentence_costs(checkpoint.model, checkpoint.tokenizer, lines(), max_tokens_per_batch=1).bits
    np.testing.assert_allclose(together, alone, rtol=1e-3)


def _try_translation(checkpoint: Checkpoint) -> None:
    """Batched greedy decoding with rows that end at different times, against the plain forward pass over one text at a
    time."""
    import torch

    prompts = [[0, *ids] for ids in checkpoint.tokenizer(lines(3), add_special_tokens=False)["input_ids"]]
    caps = [2 + 2 * (index % 3) for index in range(len(prompts))]
    ends = frozenset(range(0, 600, 29))
    decoded = greedy_decode(checkpoint.model, prompts, caps, end_tokens=ends, breaks_line=lambda token: False)
    for prompt, cap, (tokens, _) in zip(prompts, caps, decoded, strict=True):
        expected: list[int] = []
        with torch.inference_mode():
            while len(expected) < cap:
                token = int(checkpoint.model(input_ids=torch.tensor([[*prompt, *expected]])).logits[0, -1].argmax())
                if token in ends:
                    break
                expected.append(token)
        assert tokens == expected


def _describe(way: decoding_cache.Way) -> str:
    if not way.cached:
        return "without cache"
    return ("padded batches" if way.padded else "batches of equal length") + (
        "" if way.drops_rows else ", ended rows stay"
    )


def row(model_type: str, found: Support | str) -> str:
    """The architecture's line in docs/architectures.md; `found` is a reason where it was not tried."""
    if isinstance(found, str):
        return f"| {model_type} | not tried: {found} | | | |"
    suites = (found.layers, found.language_modelling, found.translation)
    if suites[0] is not None and len(set(suites)) == 1:
        return f"| {model_type} | no: {suites[0]} | | | |"
    return (
        f"| {model_type} | "
        + " | ".join("yes" if reason is None else f"no: {reason}" for reason in suites)
        + f" | {found.way} |"
    )
