"""What is refused at the door, because another model or none would be measured, and what is opened although it looks
unusual."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import edit_json, hub_cache, logits, refused, write, write_gguf
from helpers.models import TEXT, tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from alignx_eval import opening_checks
from alignx_eval.checkpoint import check_checkpoint, export_folder, open_checkpoint
from alignx_eval.errors import InputError, MissingAssetError

SMALL = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def saved(folder: Path, model, tokenizer=None) -> Path:
    model.eval().save_pretrained(folder)
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    return folder


def refused_everywhere(reference, *words: str, kind=InputError, **options) -> None:
    """Neither opened nor passed by the check that comes before anything is measured; both say the same."""
    message = refused(reference, *words, kind=kind, **options)
    with pytest.raises(kind) as caught:
        check_checkpoint(reference, **options)
    assert str(caught.value) == message


def build(kind: str, **fields):
    import transformers

    torch.manual_seed(0)
    model_class = getattr(transformers, kind)
    return model_class(model_class.config_class(**fields)).eval()


# --- the tokenizer --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "mbart", "llama"])
def test_a_folder_without_tokenizer_files_is_refused(family, tiny_folder):  # noqa: F811
    """Of some families transformers makes an empty tokenizer where there are no files, of others it fails, of others it
    knows '▁'."""
    for path in tiny_folder.iterdir():
        if path.name.startswith(("tokenizer", "special_tokens", "chat_template")):
            path.unlink()
    if family != "llama":
        from transformers import AutoTokenizer

        edit_json(tiny_folder / "config.json", model_type=family)
        empty = AutoTokenizer.from_pretrained(tiny_folder, local_files_only=True)
        assert len(empty) < 40
        with pytest.raises(InputError, match="only special tokens|no tokens for ordinary text"):
            opening_checks.ordinary_tokens(empty, "x")
        empty.save_pretrained(tiny_folder)  # an empty one that was saved again has files
        edit_json(tiny_folder / "config.json", model_type="llama")
        refused_everywhere(tiny_folder, "its tokenizer", "copy them", "from the model it was trained from")
        for path in tiny_folder.glob("tokenizer*"):
            path.unlink()
    refused_everywhere(tiny_folder, "has no tokenizer files", "tokenizer.json", "from the model it was trained from")


def empty_tokenizer():
    """Special tokens and nothing else."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1}, merges=[]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def test_an_empty_tokenizer_is_refused_in_every_format(tmp_path, tiny_checkpoint):
    with pytest.raises(InputError, match="only special tokens"):
        write(tmp_path / "written.pt", tokenizer=empty_tokenizer())
    assert not (tmp_path / "written.pt").exists()
    content = torch.load(tiny_checkpoint, weights_only=True)
    empty_tokenizer().save_pretrained(tmp_path / "tokenizer")
    content["tokenizer"] = {path.name: path.read_text() for path in (tmp_path / "tokenizer").iterdir()}
    torch.save(content, tmp_path / "empty.pt")
    refused_everywhere(tmp_path / "empty.pt", "only special tokens")
    make_adapter(tmp_path / "adapter", tiny_checkpoint, ["q_proj"])
    empty_tokenizer().save_pretrained(tmp_path / "adapter")
    refused_everywhere(tmp_path / "adapter", "only special tokens")


def test_a_tokenizer_of_one_script_is_one(tmp_path):
    """It writes <unk> for everything else, which is for the suites to judge."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<unk>", *"房子在河边窗户里亮着灯"]
    backend = Tokenizer(
        models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[], unk_token="<unk>")
    )
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    assert set(tokenizer(TEXT[0], add_special_tokens=False)["input_ids"]) == {2}
    folder = saved(tmp_path / "han", tiny_model(), tokenizer)
    check_checkpoint(folder)
    assert open_checkpoint(folder).notes == []


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    refused(saved(tmp_path / "mixed", tiny_model(vocab_size=40)), "its tokenizer gives token", "40 embeddings")


# --- what is causal -------------------------------------------------------------------------------


BART = {"vocab_size": 320, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2} | {
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 128,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "decoder_start_token_id": 1,
}  # fmt: skip


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_an_encoder_with_a_decoder_is_refused(weights, tmp_path):
    model = build("MBartForConditionalGeneration", **BART)
    folder = saved(tmp_path / "mbart", model)
    if weights == "bin":  # as older libraries stored it: every name of a tied tensor
        (folder / "model.safetensors").unlink()
        torch.save({name: tensor.clone() for name, tensor in model.state_dict().items()}, folder / "pytorch_model.bin")
    refused_everywhere(folder, "encoder with a decoder", "mbart")
    edit_json(folder / "config.json", is_encoder_decoder=False, is_decoder=True)  # its weights tell nevertheless
    words = ("of its weights", "model.encoder") if weights == "bin" else ("lacks", "model.decoder.embed_tokens.weight")
    refused_everywhere(folder, *words)


def test_an_encoder_is_refused(tmp_path, tiny_checkpoint):
    folder = saved(
        tmp_path / "xlmr", build("XLMRobertaForMaskedLM", **SMALL, max_position_embeddings=130, type_vocab_size=1)
    )
    refused_everywhere(folder, "is an encoder (xlm-roberta)", "causal")
    model = build("BertForMaskedLM", **SMALL)
    with pytest.raises(InputError, match="is an encoder"):
        write(tmp_path / "bert.pt", model)
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["config"] = json.loads(model.config.to_json_string(use_diff=False))
    for key in [key for key in content["config"] if key.startswith("_") or key in ("transformers_version",)]:
        del content["config"][key]
    torch.save(content, tmp_path / "bert.pt")
    refused_everywhere(tmp_path / "bert.pt", "is an encoder (bert)")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("BertLMHeadModel", SMALL | {"is_decoder": True}),
        ("XLMRobertaForCausalLM", SMALL | {"is_decoder": True, "max_position_embeddings": 130, "type_vocab_size": 1}),
        ("BartForCausalLM", BART | {"is_decoder": True, "is_encoder_decoder": False}),
        ("MambaForCausalLM", {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
        ("BloomForCausalLM", {"vocab_size": 320, "hidden_size": 32, "n_layer": 2, "n_head": 2}),
        ("GPT2LMHeadModel", {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16}),
    ],
)
def test_decoders_are_accepted(kind, fields, tmp_path):
    folder = saved(tmp_path / "decoder", build(kind, **fields))
    check_checkpoint(folder)
    opened = open_checkpoint(folder)
    assert type(opened.model).__name__ == kind and opened.notes == []


def test_a_model_that_looks_ahead_is_refused_whatever_its_configuration_says(tmp_path):
    """An encoder built from a decoder: nothing but its own flag tells, which not every library calls the same."""
    fields = SMALL | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 64}
    model = build("Gemma3ForCausalLM", **fields)
    assert open_checkpoint(saved(tmp_path / "causal", model)).notes == []
    model.config.use_bidirectional_attention = True
    refused(saved(tmp_path / "bidirectional", model), "is not causal", "moves earlier logits")


class Noisy(torch.nn.Module):
    """The embeddings of a model, with noise that no repetition repeats."""

    def __init__(self, embeddings: torch.nn.Embedding) -> None:
        super().__init__()
        self.embeddings, self.weight = embeddings, embeddings.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states = self.embeddings(tokens)
        return states + states.std() * torch.randn_like(states)


def test_a_model_that_never_answers_the_same_is_noted_and_not_called_bidirectional():
    model, tokens = tiny_model(), opening_checks.ordinary_tokens(tiny_tokenizer(), "x")
    assert opening_checks.check_one_sentence(model, tokens, "x") == []
    model.set_input_embeddings(Noisy(model.get_input_embeddings()))
    (note,) = opening_checks.check_one_sentence(model, tokens, "x")
    assert "from pass to pass" in note


def test_one_sentence_costs_two_short_passes():
    model, tokens = tiny_model(), opening_checks.ordinary_tokens(tiny_tokenizer(), "x")
    lengths = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    opening_checks.check_one_sentence(model, tokens, "x")
    assert len(lengths) == 2 and max(lengths) <= 32


def test_logits_that_are_not_finite_are_refused(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(6e4)  # finite itself
    folder = saved(tmp_path / "overflow", model)
    assert open_checkpoint(folder).notes == []
    refused(folder, "logits that are not finite", "float16 is too narrow", dtype="float16")


# --- adapters -------------------------------------------------------------------------------------


def make_adapter(folder: Path, base: Path, targets, model=None, **options):
    """An adapter with weights that matter; returns the model that carries it, not merged."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    settings = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    carrier = peft.get_peft_model(model or tiny_model(), settings).eval()
    with torch.no_grad():
        for name, parameter in carrier.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) / 10)
    carrier.save_pretrained(folder)
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(base))
    return carrier


ON_TIED = {
    "head": {"targets": ["lm_head"]},
    "embeddings": {"targets": ["embed_tokens"]},
    "both": {"targets": ["lm_head", "embed_tokens", "q_proj"]},
    "DoRA": {"targets": ["lm_head", "q_proj"], "use_dora": True},
    "whole head": {"targets": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole embeddings": {"targets": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "tied adapters": {"targets": ["embed_tokens"], "ensure_weight_tying": True},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("what", ON_TIED)
def test_an_adapter_on_a_tied_matrix_changes_that_one_alone(what, tmp_path, tiny_checkpoint):
    expected = logits(make_adapter(tmp_path / "adapter", tiny_checkpoint, **ON_TIED[what]))
    assert (expected - logits(tiny_model())).abs().max() > 0.01  # it matters
    check_checkpoint(tmp_path / "adapter")
    opened = open_checkpoint(tmp_path / "adapter")
    rounding = {"atol": 1e-6 * opening_checks.spread(expected), "rtol": 0}
    torch.testing.assert_close(logits(opened.model), expected, **rounding)
    assert any("tied embeddings" in note and "weights of their own" in note for note in opened.notes)
    assert not any("peft warns" in note for note in opened.notes)
    write(tmp_path / "merged.pt", opened.model, opened.tokenizer)
    assert torch.equal(logits(open_checkpoint(tmp_path / "merged.pt").model), logits(opened.model))
    export_folder(tmp_path / "adapter", tmp_path / "out")
    again = open_checkpoint(tmp_path / "out")
    torch.testing.assert_close(logits(again.model), expected, **rounding)
    assert again.notes == opened.notes  # it is still a merged adapter


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_adapter_is_merged_in_half_precision(dtype, tmp_path, tiny_checkpoint):
    carrier = make_adapter(tmp_path / "adapter", tiny_checkpoint, ["q_proj", "up_proj"]).to(getattr(torch, dtype))
    opened = open_checkpoint(tmp_path / "adapter", dtype=dtype)
    assert opened.model.dtype == getattr(torch, dtype)
    assert (logits(opened.model) - logits(carrier)).abs().max() < 0.1 * opening_checks.spread(logits(carrier).float())


def test_a_merge_that_gives_another_model_is_refused(tmp_path, tiny_checkpoint, monkeypatch):
    """The trap itself: without its own copy, the head gets what was meant for the embeddings."""
    make_adapter(tmp_path / "adapter", tiny_checkpoint, ["embed_tokens"])
    monkeypatch.setattr(opening_checks, "untie", lambda model: None)
    refused(tmp_path / "adapter", "other logits than before", "another model would be measured")


def test_adapter_weights_without_a_place_are_refused(tmp_path, tiny_checkpoint):
    make_adapter(tmp_path / "adapter", tiny_checkpoint, ["q_proj", "up_proj"])
    edit_json(tmp_path / "adapter" / "adapter_config.json", target_modules=["q_proj"])
    refused(tmp_path / "adapter", "of its weights", "up_proj", "belong to no part")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    edit_json(tmp_path / "adapter" / "adapter_config.json", target_modules=["q_proj", "up_proj"])
    save_file(load_file(path) | {"base_model.model.critic.weight": torch.ones(2)}, path)
    assert any("critic.weight" in note and "left out" in note for note in open_checkpoint(tmp_path / "adapter").notes)


def test_adapters_that_cannot_be_merged_are_refused(tmp_path, tiny_checkpoint):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_model(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    model.save_pretrained(tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(tiny_checkpoint))
    refused(tmp_path / "adapter", "cannot be merged")


# --- notes ----------------------------------------------------------------------------------------


def test_two_matrices_that_the_configuration_ties_are_noted(tmp_path):
    folder = saved(tmp_path / "untied", tiny_model(tie_word_embeddings=False))
    edit_json(folder / "config.json", tie_word_embeddings=True)
    opened = open_checkpoint(folder)
    assert torch.equal(logits(opened.model), logits(tiny_model(tie_word_embeddings=False)))
    assert any("ties input and output embeddings" in note for note in opened.notes)
    write(tmp_path / "untied.pt", opened.model, opened.tokenizer)
    assert torch.equal(logits(open_checkpoint(tmp_path / "untied.pt").model), logits(opened.model))


def test_layers_that_the_configuration_does_not_know_are_refused(tiny_folder):  # noqa: F811
    edit_json(tiny_folder / "config.json", num_hidden_layers=1)
    refused_everywhere(tiny_folder, "of its weights", "model.layers.1")


# --- which model is meant -------------------------------------------------------------------------


def test_a_folder_of_the_owner_does_not_hide_a_hub_model(tmp_path, tiny_folder, monkeypatch):  # noqa: F811
    hub_cache(tmp_path / "cache", tiny_folder, "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    assert open_checkpoint("owner/tiny", cache_dir=tmp_path / "cache").format == "hub"
    check_checkpoint("owner/tiny", cache_dir=tmp_path / "cache")
    refused_everywhere("elsewhere/tiny", "not in the hub cache", kind=MissingAssetError, cache_dir=tmp_path / "cache")


def test_a_mistyped_path_is_told_with_what_lies_beside_it(tmp_path, tiny_folder, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    tiny_folder.rename(tmp_path / "runs" / "checkpoint-500")
    refused_everywhere(
        "runs/checkpoint-50", "runs/checkpoint-500", "hub id", "not in the cache", cache_dir=tmp_path / "cache"
    )
    write(tmp_path / "runs" / "tuned.pt")
    refused_everywhere("runs/tund.pt", "no such checkpoint", "runs/tuned.pt")


# --- weights as training leaves them --------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_fsdp_wrapped_module.", "base_model.model."]
)
@pytest.mark.parametrize("weights", ["safetensors", "bin"])
def test_a_prefix_on_all_names_is_taken_off(prefix, weights, tiny_folder):  # noqa: F811
    path = tiny_folder / "model.safetensors"
    tensors = {prefix + name: tensor for name, tensor in load_file(path).items()}
    if weights == "safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        path.unlink()
        torch.save(tensors, tiny_folder / "pytorch_model.bin")
    check_checkpoint(tiny_folder)
    opened = open_checkpoint(tiny_folder)
    assert torch.equal(logits(opened.model), logits(tiny_model()))
    (note,) = opened.notes
    assert repr(prefix) in note


def test_a_wrapper_in_some_names_is_named(tiny_folder):  # noqa: F811
    path = tiny_folder / "model.safetensors"
    tensors = {name.replace("self_attn", "_orig_mod.self_attn"): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    refused_everywhere(tiny_folder, "lacks", "self_attn", "'_orig_mod.'", "wrapper")


def test_stubs_of_zero3_are_named_with_the_command_that_mends_them(tiny_folder):  # noqa: F811
    path = tiny_folder / "model.safetensors"
    stubs = {name: torch.empty(0) if tensor.dim() == 2 else tensor for name, tensor in load_file(path).items()}
    save_file(stubs, path, metadata={"format": "pt"})
    refused_everywhere(tiny_folder, "size 0", "ZeRO-3", "zero_to_fp32.py")
    path.unlink()
    torch.save(stubs, tiny_folder / "pytorch_model.bin")
    refused_everywhere(tiny_folder, "size 0", "ZeRO-3", "zero_to_fp32.py")


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        ("global_step5/zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_to_fp32.py"),
        ("pytorch_model_fsdp_0/__0_0.distcp", "accelerate merge-weights"),
        ("nothing.txt", "holds no weights"),
    ],
)
def test_a_folder_without_whole_weights_says_what_makes_them(piece, words, tiny_folder):  # noqa: F811
    (tiny_folder / "model.safetensors").unlink()
    (tiny_folder / piece).parent.mkdir(exist_ok=True)
    (tiny_folder / piece).write_bytes(b"")
    refused_everywhere(tiny_folder, "holds no weights", words)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_in_parts(tmp_path):
    folder = tmp_path / "parts"
    tiny_model().save_pretrained(folder, max_shard_size="30KB")
    tiny_tokenizer().save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    check_checkpoint(folder)
    assert torch.equal(logits(open_checkpoint(folder).model), logits(tiny_model()))
    name = sorted(path.name for path in folder.glob("model-*.safetensors"))[1]
    (folder / name).unlink()
    refused_everywhere(folder, name, "is missing")


def test_one_part_of_a_split_gguf_says_how_to_join_them(tmp_path, monkeypatch):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter
    monkeypatch.setattr(gguf, "GGUFWriter", lambda path, kind: writer(path, kind, split_max_tensors=8))
    write_gguf(tmp_path / "tiny.gguf", tiny_model(intermediate_size=64), tiny_tokenizer(), "F32")
    monkeypatch.undo()
    parts = sorted(tmp_path.glob("tiny-*.gguf"))
    assert len(parts) == 3
    for part in parts:
        refused_everywhere(part, "3 parts", f"llama-gguf-split --merge {parts[0].name} tiny.gguf")


# --- what is told before anything is measured -----------------------------------------------------


def test_the_check_reads_every_weight(tiny_folder, tiny_checkpoint, tmp_path):  # noqa: F811
    path = tiny_folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.down_proj.weight"][2, 3] = float("inf")
    save_file(tensors, path, metadata={"format": "pt"})
    refused_everywhere(tiny_folder, "model.layers.1.mlp.down_proj.weight", "not finite")
    path.unlink()
    torch.save(tensors, tiny_folder / "pytorch_model.bin")
    refused_everywhere(tiny_folder, "model.layers.1.mlp.down_proj.weight", "not finite")
    content = torch.load(tiny_checkpoint, weights_only=True)
    content["state_dict"]["model.norm.weight"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    refused_everywhere(tmp_path / "nan.pt", "model.norm.weight", "not finite")


def test_the_check_reads_every_weight_of_a_gguf(tmp_path):
    pytest.importorskip("gguf")
    model = tiny_model(intermediate_size=64)
    write_gguf(tmp_path / "fine.gguf", model, tiny_tokenizer(), "Q8_0")
    check_checkpoint(tmp_path / "fine.gguf")
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    write_gguf(tmp_path / "nan.gguf", model, tiny_tokenizer(), "F32")
    refused(tmp_path / "nan.gguf", "not finite")
    with pytest.raises(InputError, match="output_norm.*not finite"):
        check_checkpoint(tmp_path / "nan.gguf")


def test_the_check_of_an_adapter_is_one_of_its_base(tmp_path, tiny_folder):  # noqa: F811
    make_adapter(tmp_path / "adapter", tiny_folder, ["q_proj"])
    path = tiny_folder / "model.safetensors"
    save_file(
        {name: tensor for name, tensor in load_file(path).items() if "norm" not in name},
        path,
        metadata={"format": "pt"},
    )
    refused_everywhere(
        tmp_path / "adapter", "base model cannot be opened", "lacks model.layers.0.input_layernorm.weight"
    )


def test_the_check_needs_no_room_for_the_model(tmp_path):
    """Names and shapes of a model of 70 billion weights, of which no file and no memory exist."""
    folder = tmp_path / "huge"
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    edit_json(
        folder / "config.json", hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64
    )
    refused_everywhere(folder, "lacks model.layers.10.")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"config.json": "{}"},
        {"config.json": '{"model_type": "llama"}'},
        {"config.json": '{"model_type": 3}'},
        {"model.safetensors": "x"},
    ],
)
def test_halves_of_a_folder_are_refused(content, tmp_path):
    folder = tmp_path / "half"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    refused_everywhere(folder, "half")


# --- exporting ------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_follow_the_umask(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        export_folder(write(tmp_path / "model.pt"), tmp_path / "out")
    finally:
        os.umask(before)
    files = [tmp_path / "model.pt", *(tmp_path / "out").iterdir()]
    assert len(files) > 4 and {path.stat().st_mode & 0o777 for path in files} == {mode}


@pytest.mark.parametrize("format_", ["folder", "hub", "gguf"])
def test_whatever_opens_is_exported(format_, tmp_path, tiny_folder, monkeypatch):  # noqa: F811
    from transformers import AutoModelForCausalLM

    if format_ == "gguf":
        pytest.importorskip("gguf")
        reference = tmp_path / "tiny.gguf"
        write_gguf(reference, tiny_model(intermediate_size=64), tiny_tokenizer(), "Q8_0")
    elif format_ == "hub":
        hub_cache(tmp_path / "models", tiny_folder, "0123456789abcdef0123456789abcdef01234567")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "models"))
        reference = "owner/tiny"
    else:
        reference = tiny_folder
    opened = open_checkpoint(reference)
    export_folder(reference, tmp_path / "out")
    again = open_checkpoint(tmp_path / "out")
    assert torch.equal(logits(again.model), logits(opened.model)) and again.notes == opened.notes
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    assert torch.equal(logits(plain), logits(opened.model))
    assert again.provenance == opened.provenance | {
        "exported_from": {"name": opened.name, "format": format_, "content_hash": opened.content_hash}
    }


def test_the_command_exports_an_adapter(tmp_path, tiny_checkpoint, monkeypatch):
    from alignx_trainer.cli import app

    carrier = make_adapter(tmp_path / "adapter", tiny_checkpoint, ["q_proj"])
    result = CliRunner().invoke(app, ["export", str(tmp_path / "adapter"), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    torch.testing.assert_close(logits(open_checkpoint(tmp_path / "out").model), logits(carrier), atol=1e-5, rtol=0)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".partial")]
    shutil.rmtree(tmp_path / "adapter")  # the folder stands by itself
    open_checkpoint(tmp_path / "out")
