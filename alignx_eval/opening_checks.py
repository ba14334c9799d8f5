"""What a checkpoint has to pass before it is trusted: a tokenizer that is one, a causal architecture, weights that all
have a place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from alignx_eval.errors import InputError

# The same short text in several scripts: a tokenizer may know one of them alone, but one that knows none of them is
# none.
SENTENCES = (
    "The house stands by the river, and there is a light in its window.",
    "Дом стоит у реки, и в его окне горит свет.",
    "房子在河边，窗户里亮着灯。",
    "البيت على ضفة النهر وفي نافذته ضوء.",
    "घर नदी के किनारे है और उसकी खिड़की में रोशनी है।",
    "집은 강가에 있고 창문에 불이 켜져 있다.",
)
PROBE_TOKENS = 32
# Share of the spread of the logits by which merged weights may miss the adapter: rounding of the weights, and nothing
# else.
MERGE_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
# A part of a model that reads pictures or sound takes no part in text.
_OTHER_SENSES = re.compile(r"vision|visual|image|audio|speech|multi_?modal|mm_projector")
_SIZEABLE = 0.05
# What torch.compile, DDP, FSDP, activation checkpointing and peft put before the names of a model that they wrap.
_WRAPPERS = ("_orig_mod.", "module.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "base_model.model.")


def ordinary_tokens(tokenizer: Any, source: str) -> list[int]:
    """Token ids of an ordinary sentence, in the script that the tokenizer knows best; at most `PROBE_TOKENS`, no start
    token.

    Raises InputError where there are none: a tokenizer that has only special tokens, or gives nothing else for any
    script, is none.
    """
    special = set(tokenizer.all_special_ids)

    def readable(tokens: list[int]) -> set[int]:
        return {token for token in set(tokens) - special if tokenizer.decode([token]).strip()}

    sentences = [tokenizer(sentence, add_special_tokens=False)["input_ids"] for sentence in SENTENCES]
    best = max(sentences, key=lambda tokens: len(readable(tokens)))
    if len(readable(best)) < 2:
        reason = (
            "has only special tokens"
            if set(tokenizer.get_vocab().values()) <= special
            else "gives no tokens for ordinary text"
        )
        raise InputError(f"{source}: its tokenizer {reason}, so its files are missing or empty; {COPY_TOKENIZER}")
    return best[:PROBE_TOKENS]


COPY_TOKENIZER = (
    "copy them (tokenizer.json, tokenizer_config.json and what else there is) from the model it was trained from"
)


def refuse_not_causal(config: Mapping[str, Any], source: str) -> None:
    """Raise InputError where a configuration, as plain JSON, is that of an encoder or of an encoder with a decoder."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    model_type = config.get("model_type")
    if config.get("is_encoder_decoder"):
        raise InputError(
            f"{source} is an encoder with a decoder ({model_type}); its decoder alone is another model, and only "
            "causal "
            "language models are measured. A decoder that was trained alone says is_encoder_decoder: false and "
            "is_decoder: true"
        )
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return  # refused elsewhere, as one that cannot be built
    if CONFIG_MAPPING[model_type] not in MODEL_FOR_MASKED_LM_MAPPING:
        return
    if not config.get("is_decoder") and not config.get("causal"):  # XLM calls it causal
        raise InputError(
            f"{source} is an encoder ({model_type}): every position sees the whole sentence, so it gives no "
            "probability of a next "
            "token; only causal language models are measured. A decoder of this family says is_decoder: true in its "
            "config.json"
        )


def wrapper_prefix(names: Iterable[str]) -> str:
    """The prefix that wrappers (torch.compile, DDP, FSDP, peft) left before all names, or an empty string."""
    names, prefix = list(names), ""
    while wrapper := next(
        (wrapper for wrapper in _WRAPPERS if names and all(name.startswith(prefix + wrapper) for name in names)), ""
    ):
        prefix += wrapper
    return prefix


def wrapped(names: Iterable[str]) -> str:
    """The first wrapper that occurs anywhere in names, or an empty string."""
    return next((wrapper for name in names for wrapper in _WRAPPERS if f".{wrapper}" in f".{name}"), "")


def refuse_sizeable_rest(unused: Iterable[str], stored: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise InputError where stored tensors without a place in the model are more than a twentieth of all weights.

    `stored` maps names to tensors (on the meta device). The parts of a model that see or hear are not counted.
    """
    total = sum(tensor.numel() for tensor in stored.values())
    rest = {name: stored[name].numel() for name in unused if name in stored and not _OTHER_SENSES.search(name)}
    if sum(rest.values()) > _SIZEABLE * total:
        largest = max(sorted(rest), key=lambda name: rest[name])
        raise InputError(
            f"{source}: {sum(rest.values()) / total:.0%} of its weights ({largest} and {len(rest) - 1} more) belong "
            "to no part of the "
            "model that its configuration describes; without them it is another model. Mend the configuration, or "
            "give the model they "
            "belong to"
        )


def logits_of(model: Any, tokens: list[int]) -> torch.Tensor:
    """(tokens, vocabulary) logits in float32 on the CPU."""
    device = model.get_input_embeddings().weight.device
    if device.type == "meta":  # kept on disk; the model fetches its layers and moves its input to them
        device = torch.device("cpu")
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens], device=device), use_cache=False).logits[0].float().cpu()


def spread(logits: torch.Tensor) -> float:
    return float(logits.max() - logits.min())


def check_one_sentence(model: Any, tokens: list[int], source: str) -> list[str]:
    """Send one ordinary sentence through the model: as many finite logits as tokens, and none that depends on a later
    token.

    Two forward passes; a third where an earlier logit moved by more than a hundredth of the logits' spread when later
    tokens were exchanged, to tell a model that looks ahead from one that gives another answer each time. Raises
    InputError; returns notes.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if max(tokens) >= rows:
        raise InputError(
            f"{source}: its tokenizer gives token {max(tokens)}, but the model has {rows} embeddings; they do not "
            "belong together"
        )
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or PROBE_TOKENS
    tokens = tokens[: max(2, min(PROBE_TOKENS, longest // 2))]
    logits = logits_of(model, tokens)
    if logits.shape[0] != len(tokens):
        raise InputError(
            f"{source}: {len(tokens)} tokens give {logits.shape[0]} logits; only causal language models are measured"
        )
    if not torch.isfinite(logits).all():
        raise InputError(
            f"{source}: an ordinary sentence gives logits that are not finite; its weights are damaged, or "
            f"{model.dtype} is too narrow"
        )
    kept = len(tokens) // 2
    other = [next(candidate for candidate in tokens if candidate != token) for token in tokens[kept:]]
    movement = float((logits_of(model, tokens[:kept] + other) - logits)[:kept].abs().max())
    limit = spread(logits) / 100
    if movement <= limit:
        return []
    noise = float((logits_of(model, tokens) - logits)[:kept].abs().max())
    if noise <= limit:
        raise InputError(
            f"{source} is not causal: exchanging later tokens moves earlier logits by up to {movement:.2g} (their "
            "spread is "
            f"{spread(logits):.2g}), so it sees what it has to predict; only causal language models are measured"
        )
    return [
        f"{source}: the same sentence gives logits that differ by up to {noise:.2g} from pass to pass; no number "
        "repeats exactly"
    ]


def says_tied(model: Any) -> bool:
    """Whether a model's configuration ties its input and output embeddings."""
    return (
        bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
        and model.get_output_embeddings() is not None
    )


def untie(model: Any) -> None:
    """Give the output embeddings of a model, with or without adapters on them, weights of their own."""
    inputs, outputs = (
        getattr(module, "base_layer", module)
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    if outputs is not None and inputs.weight is outputs.weight:
        outputs.weight = torch.nn.Parameter(outputs.weight.detach().clone(), requires_grad=outputs.weight.requires_grad)


def mark_untied(model: Any) -> None:
    """Make the configuration say what the weights are: two matrices."""
    model.config.tie_word_embeddings = False
    model.config.get_text_config().tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def check_merged(before: torch.Tensor, after: torch.Tensor, dtype: torch.dtype, source: str) -> None:
    """Raise InputError unless the logits of a merged model are those of the adapter before, but for rounding in
    `dtype`."""
    difference = float((after - before).abs().max()) / spread(before)
    if not difference <= MERGE_TOLERANCE.get(dtype, MERGE_TOLERANCE[torch.bfloat16]):
        half = dtype in (torch.float16, torch.bfloat16)
        advice = (
            "try --dtype float32"
            if half
            else "merge it with the peft that trained it, save it as a whole model, and open that"
        )
        raise InputError(
            f"{source}: merged into its base, the adapter gives other logits than before (by {difference:.1%} of "
            "their spread), so another "
            f"model would be measured; {advice}"
        )
