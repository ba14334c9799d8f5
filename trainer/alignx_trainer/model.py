"""The model that is trained: opened or made new, with adapters, a new tokenizer, and its FLOPs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignx_eval.checkpoint import open_checkpoint
from alignx_eval.errors import InputError
from alignx_eval.prompts import split_at_input
from alignx_trainer.config import Recipe
from alignx_trainer.records import ParallelRecords, Stream
from alignx_trainer.step import check_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train_tokenizer(streams: Sequence[Stream], vocabulary_size: int) -> Any:
    """A byte-level BPE tokenizer with `<s>`, `</s>` and `<pad>` from all monolingual text and a sample of the prompts
    of the streams.

    Deterministic: it depends on the texts and the size alone.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def texts() -> Iterator[str]:
        for stream in streams:
            if isinstance(stream.records, ParallelRecords) and stream.source.kind == "monolingual":
                for lines in stream.records.corpus.sentences.values():
                    yield from lines
            else:
                before, after = split_at_input(stream.template)
                for index in range(0, len(stream), max(1, len(stream) // 4000)):
                    record = stream[index]
                    yield before.replace("{instruction}", record.instruction or "") + after

    tokenizer = Tokenizer(models.BPE())
    # Digits apart: numbers are copied, not learnt by heart. Chinese and other unspaced text has no blanks, so merges
    # grow into words by themselves.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def open_model(recipe: Recipe, streams: list[Stream], offline: bool) -> tuple[Any, Any, dict[str, Any]]:
    """Model in float32 on the CPU, tokenizer, and the provenance so far: those of `init`, or new ones. Raises
    InputError."""
    provenance: dict[str, Any] = {"stages": []}
    if recipe.init is not None:
        start = open_checkpoint(recipe.init, device="cpu", dtype="float32", offline=offline)
        model, tokenizer = start.model, start.tokenizer
        provenance = {
            "stages": list(start.provenance.get("stages", [])),
            "init": {"reference": recipe.init, "content_hash": start.content_hash},
        }
        if start.align_layer is not None:
            provenance["align_layer"] = start.align_layer
    else:
        from transformers import AutoConfig, AutoModelForCausalLM

        tokenizer = train_tokenizer(streams, recipe.vocabulary_size)
        settings = dict(
            recipe.model,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        settings["pad_token_id"] = tokenizer.pad_token_id
        try:
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"model: transformers cannot build it: {error}") from None
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-sequence token; the model could not learn to stop")
    try:
        check_logits(model)
    except ValueError as error:
        raise InputError(str(error)) from None
    return model, tokenizer, provenance


def add_adapters(model: PreTrainedModel, recipe: Recipe) -> Any:
    """`model` with low-rank adapters (Hu et al. 2021) on the linear layers of its blocks, all else frozen; a peft model
    around it."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise InputError("lora_rank needs peft: pip install 'alignx-eval[lora]'") from None
    settings = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, settings)
    # What the adapter's folder names as its base: a model opened from a .pt does not know its place, one of the hub
    # only that in the cache.
    assert recipe.init is not None
    base, revision = Path(recipe.init).expanduser(), None
    name = str(base.resolve()) if base.exists() else recipe.init
    if not base.exists() and "@" in name:
        name, _, revision = name.partition("@")
    adapted.peft_config["default"].base_model_name_or_path = name
    adapted.peft_config["default"].revision = revision
    return adapted


def flops_per_token(model: PreTrainedModel, recipe: Recipe) -> tuple[int, int]:
    """Floating-point operations a token, and more a token with a next-token loss.

    2 a weight forward, 2 for the gradients of the states, 2 for those of weights that are trained (Kaplan et al. 2020),
    2 more each for the second forward pass of gradient caching and for activation checkpointing. The output embeddings
    work for the tokens with a next-token loss. Attention's own products and the embeddings' look-up are not counted.
    """
    table = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    weights = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in table)
    two_passes = recipe.aligns and recipe.negatives == "batch" and recipe.batch_size > recipe.micro_batch_size
    trained = 4 if recipe.lora_rank else 6
    adapters = (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) if recipe.lora_rank else 0
    )
    return (
        weights * (trained + 2 * two_passes + 2 * recipe.activation_checkpointing) + 2 * adapters,
        model.get_output_embeddings().weight.numel() * trained,
    )


def whole_model(config: Any, state: dict[str, Any]) -> Any:
    """A model of its own for the gathered tensors of a sharded one."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    return model
