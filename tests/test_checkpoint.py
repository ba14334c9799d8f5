"""The .pt file and every other way to open a checkpoint: what goes in comes out, and nothing that a file says is ever
run."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.checkpoints import edit_json, hub_cache, logits, refused, write, write_gguf
from helpers.models import TEXT, tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file

from alignx_eval import checkpoint as module
from alignx_eval.checkpoint import export_folder, open_checkpoint, parameter_count, recorded_template
from alignx_eval.engine.encode import encode
from alignx_eval.errors import InputError, MissingAssetError
from alignx_eval.measures.cosine import cosine_matrix

FAMILIES = {
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 4},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 4},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "phi3": {"num_key_value_heads": 2, "pad_token_id": 1},
    "gpt_neox": {"tie_word_embeddings": False},
    "gpt2": {},
}


def family_model(family: str):
    from transformers import AutoConfig, AutoModelForCausalLM

    common = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 1}
    if family == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    else:
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **common, **shape, **FAMILIES[family])).eval()


def payload_of(path) -> dict:
    return torch.load(path, weights_only=True)


# --- the round trip -------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_gives_identical_logits(family, tmp_path):
    model = family_model(family)
    path = write(tmp_path / "model.pt", model)
    opened = open_checkpoint(path)
    assert torch.equal(logits(model), logits(opened.model))
    assert not opened.model.training
    assert opened.model.get_decoder() is not None
    assert parameter_count(opened) == sum(parameter.numel() for parameter in model.parameters())
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (opened.model.get_output_embeddings().weight is opened.model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("family", ["gemma3_text", "llama"])
def test_bfloat16_file_equals_transformers_own_loading(family, tmp_path):
    """The reference is transformers' own saving and loading, in both dtypes that an evaluation uses."""
    from transformers import AutoModelForCausalLM

    model = family_model(family)
    path = write(tmp_path / "model.pt", model, dtype=torch.bfloat16)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "folder")
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=dtype).eval()
        opened = open_checkpoint(path, dtype=name)
        assert opened.model.dtype == dtype
        assert torch.equal(logits(expected), logits(opened.model))
    assert open_checkpoint(path).model.dtype == torch.float32  # the default on a CPU


def test_everything_else_comes_back(tiny_checkpoint):
    opened = open_checkpoint(str(tiny_checkpoint))
    assert (opened.name, opened.format, opened.stage, opened.step) == ("tiny", "pt", "alignment", 7)
    assert (opened.prompt_template, opened.align_layer) == ("plain", 1)
    assert opened.recipe == {"seed": 1} and opened.provenance == {"align_layer": 1, "tokens": 1000}
    assert opened.heads is not None and torch.equal(opened.heads["matching.weight"], torch.arange(6.0).reshape(2, 3))
    assert set(payload_of(tiny_checkpoint)) == module.KEYS


def test_plain_values_only(tmp_path):
    """Versions, numpy numbers, paths and NaN would break a weights-only load or the JSON of a report."""
    provenance = {
        "torch": torch.__version__,
        "loss": np.float64(1.5),
        "n": np.int64(3),
        "path": Path("x"),
        "nan": np.nan,
        "t": (1, 2),
    }
    path = write(
        tmp_path / "model.pt",
        provenance=provenance,
        step=np.int64(4),
        recipe={"array": np.arange(3), "dtype": torch.bfloat16},
    )
    opened = open_checkpoint(path)
    assert opened.provenance == {
        "torch": str(torch.__version__),
        "loss": 1.5,
        "n": 3,
        "path": "x",
        "nan": None,
        "t": [1, 2],
    }
    assert opened.recipe == {"array": [0, 1, 2], "dtype": "bfloat16"} and opened.step == 4
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
    with pytest.raises(TypeError, match=r"provenance\.f"):
        write(tmp_path / "other.pt", provenance={"f": print})


def test_tokenizer_round_trip(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}<s>{{ message['content'] }}{% endfor %}"
    opened = open_checkpoint(write(tmp_path / "model.pt", tokenizer=tokenizer)).tokenizer
    for sentence in TEXT + ("", "  two  spaces\n", "ภาษาไทย <s>"):
        assert opened(sentence)["input_ids"] == tokenizer(sentence)["input_ids"]
        assert opened.decode(opened(sentence)["input_ids"]) == tokenizer.decode(tokenizer(sentence)["input_ids"])
    chat = [{"role": "user", "content": "Hello"}]
    assert (
        opened.apply_chat_template(chat, tokenize=False)
        == tokenizer.apply_chat_template(chat, tokenize=False)
        == "<s>Hello"
    )
    assert (opened.bos_token, opened.eos_token, opened.pad_token) == ("<s>", "</s>", None)
    assert len(opened) == len(tokenizer)
    opened.save_pretrained(tmp_path / "again")  # the temporary folder it was read from is gone


def test_recorded_template_needs_no_weights(tiny_checkpoint, tmp_path):
    assert recorded_template(tiny_checkpoint) == "plain"
    assert recorded_template("owner/name@main", offline=False) is None
    with pytest.raises(MissingAssetError):
        recorded_template("owner/name@main")
    with pytest.raises(InputError, match="no such checkpoint"):
        recorded_template(tmp_path / "missing")


def test_several_chat_templates(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": "a{{ messages[0]['content'] }}", "tool_use": "b"}
    assert (
        open_checkpoint(write(tmp_path / "model.pt", tokenizer=tokenizer)).tokenizer.chat_template
        == tokenizer.chat_template
    )


def test_content_hash(tmp_path):
    tokenizer = tiny_tokenizer()
    first = open_checkpoint(write(tmp_path / "a.pt", tokenizer=tokenizer)).content_hash
    tokenizer.pad_token = None
    tokenizer(list(TEXT), truncation=True, max_length=5)  # leaves its settings in the tokenizer
    again = write(
        tmp_path / "b.pt", tokenizer=tokenizer, provenance={"run": 2}, recipe={"seed": 5}, stage="other", step=9
    )
    assert open_checkpoint(again).content_hash == first
    rewritten = open_checkpoint(again)
    assert open_checkpoint(write(tmp_path / "c.pt", rewritten.model, rewritten.tokenizer)).content_hash == first
    assert open_checkpoint(again, dtype="bfloat16").content_hash == first
    changed = tiny_model()
    with torch.no_grad():
        changed.model.norm.weight[3] += 1e-6
    others = [
        write(tmp_path / "d.pt", changed),
        write(tmp_path / "e.pt", tokenizer=tiny_tokenizer(300)),
        write(tmp_path / "f.pt", tiny_model(rms_norm_eps=1e-5)),
    ]
    assert len({first, *(open_checkpoint(path).content_hash for path in others)}) == 4


def test_tied_and_non_contiguous_tensors(tmp_path):
    model = tiny_model()
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.data = weight.detach().t().contiguous().t()
    large = torch.randn(4000, 32)
    model.model.layers[1].input_layernorm.weight.data = large[17]  # a view of a much larger storage
    assert not weight.is_contiguous()
    path = write(tmp_path / "model.pt", model, heads={"view": large.t()[:3, :5]})
    opened = open_checkpoint(path)
    assert torch.equal(logits(model), logits(opened.model))
    state = payload_of(path)["state_dict"]
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    assert all(tensor.is_contiguous() for tensor in state.values())
    assert path.stat().st_size < 4 * parameter_count(opened) + 60_000  # tied weights once, no hidden storage
    half = payload_of(write(tmp_path / "half.pt", model, dtype=torch.bfloat16))["state_dict"]
    assert half["lm_head.weight"].data_ptr() == half["model.embed_tokens.weight"].data_ptr()


def test_writing_leaves_the_model_alone(tmp_path):
    model = tiny_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write(tmp_path / "model.pt", model, dtype=torch.bfloat16)
    assert model.training and all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_open_model_does_not_follow_its_file(tiny_checkpoint):
    opened = open_checkpoint(tiny_checkpoint)
    before = logits(opened.model)
    with open(tiny_checkpoint, "r+b") as file:  # overwritten in place, as cp does
        file.write(bytes(tiny_checkpoint.stat().st_size))
    assert torch.equal(before, logits(opened.model))


def test_training_leftovers_are_dropped(tmp_path):
    model = tiny_model()
    model.config.output_hidden_states = True
    model.config.auto_map = {"AutoModelForCausalLM": "evil.Model"}
    model.config._name_or_path = "/home/somebody/secret"
    tokenizer = tiny_tokenizer()
    tokenizer.init_kwargs["auto_map"] = {"AutoTokenizer": ["evil.Tokenizer", None]}
    path = write(tmp_path / "model.pt", model, tokenizer)
    assert not open_checkpoint(path).model.config.output_hidden_states
    content = payload_of(path)
    text = json.dumps([content["config"], content["generation_config"], content["tokenizer"]])
    assert "auto_map" not in text and "secret" not in text and "evil" not in text


# --- writing atomically ---------------------------------------------------------------------------
@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_failed_write_keeps_the_old_file(tiny_checkpoint):
    """The system refuses to write beyond 40 kB, as a full disk would."""
    import resource
    import signal

    before = tiny_checkpoint.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
        with pytest.raises(InputError, match="cannot write"):
            write(tiny_checkpoint, tiny_model(seed=5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert tiny_checkpoint.read_bytes() == before
    assert os.listdir(tiny_checkpoint.parent) == [tiny_checkpoint.name]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_write_leaves_no_partial_file(tmp_path):
    """A process that writes again and again is killed at some moment: the file under the final name is whole or
    absent."""
    script = (
        "import pathlib, sys, torch\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from alignx_eval.checkpoint import _save_atomically\n"
        "print('ready', flush=True)\n"
        "while True: _save_atomically({'weights': torch.ones(3_000_000)}, pathlib.Path(sys.argv[1]))\n"
    )
    path = tmp_path / "model.pt"
    command = [sys.executable, "-c", script, str(path), str(Path(__file__).parents[1])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
    finally:
        process.kill()
        process.wait()
    for name in os.listdir(tmp_path):
        assert name == path.name or name.endswith(".partial")
    if path.exists():
        assert payload_of(path)["weights"].sum() == 3_000_000


def test_unwritable_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write(tmp_path / "file" / "model.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_weights_are_refused_by_name(value, tmp_path, tiny_checkpoint):
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[2, 3] = value
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.down_proj\.weight"):
        write(tmp_path / "model.pt", model)
    assert not (tmp_path / "model.pt").exists()
    with pytest.raises(InputError, match="head bad"):
        write(tmp_path / "model.pt", heads={"bad": torch.tensor([1.0, value])})
    content = payload_of(tiny_checkpoint)
    content["state_dict"]["model.norm.weight"][0] = value
    torch.save(content, tiny_checkpoint)
    refused(tiny_checkpoint, "model.norm.weight", "not finite")


# --- what must not open ---------------------------------------------------------------------------
class RunsCode:
    """Unpickling this runs a command that leaves a file behind."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def torch_zip(path: Path, pickle_bytes: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle_bytes)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


@pytest.mark.parametrize("how", ["bare", "legacy", "zip", "inside a checkpoint", "protocol 4", "in a folder"])
def test_malicious_pickle_runs_nothing(how, tmp_path, tiny_checkpoint):
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    evil = RunsCode(marker)
    if how == "bare":
        path.write_bytes(pickle.dumps(evil))
    elif how == "legacy":
        torch.save({"format": "alignx", "x": evil}, path, _use_new_zipfile_serialization=False)
    elif how == "zip":
        torch.save(evil, path)
    elif how == "inside a checkpoint":
        torch.save(payload_of(tiny_checkpoint) | {"recipe": {"x": evil}}, path)
    elif how == "protocol 4":
        torch_zip(path, pickle.dumps(evil, protocol=4))
    else:
        path = tmp_path / "folder"
        tiny_model().config.save_pretrained(path)
        tiny_tokenizer().save_pretrained(path)
        torch.save({"model.norm.weight": evil}, path / "pytorch_model.bin")
    message = refused(path)
    assert not marker.exists()
    if how in ("zip", "inside a checkpoint"):
        assert "system" in message and "nothing of it was run" in message
    if how != "in a folder":  # the bait is real: the same file does run code where it is trusted
        content = path.read_bytes()
        if content.startswith(b"PK"):
            content = zipfile.ZipFile(path).read(
                next(n for n in zipfile.ZipFile(path).namelist() if n.endswith("data.pkl"))
            )
        if how in ("bare", "zip", "protocol 4"):
            pickle.load(io.BytesIO(content))
            assert marker.exists()


def test_code_that_was_declared_safe_elsewhere_is_still_refused(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "evil.pt"
    torch.save(RunsCode(marker), path)
    with torch.serialization.safe_globals([os.system]):
        refused(path, "system")
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # files of it are about all the same
def test_files_that_are_no_checkpoint(tmp_path, tiny_checkpoint):
    path = tmp_path / "x.pt"

    def file(content: bytes) -> Path:
        path.write_bytes(content)
        return path

    whole = tiny_checkpoint.read_bytes()
    refused(file(b""), "is empty")
    refused(file(b"hello, this is text\n"), "no checkpoint")
    refused(file(b"\x80\x04."), "pickle")
    refused(file(b"x"), "no checkpoint")
    for part in (0.999, 0.5, 0.1):
        refused(file(whole[: int(len(whole) * part)]), "cut off or damaged")
    refused(file(whole[:4]), "cut off or damaged")
    refused(file(whole[:2000] + bytes(1000) + whole[3000:]), "x.pt")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    refused(path, "zip archive", "not one that torch.save wrote")
    with zipfile.ZipFile(tiny_checkpoint) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    refused(path, "compressed")
    torch_zip(path, b"not a pickle")
    refused(path, "damaged")
    save_file({"a": torch.zeros(2)}, path)
    refused(path, "safetensors")
    torch.jit.script(torch.nn.ReLU()).save(path)
    refused(path, "TorchScript")
    refused(tmp_path / "missing.pt", "no such checkpoint")
    refused(tmp_path / "missing", "no such checkpoint")
    refused("no_such_name", "no such checkpoint")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "config.json")
    (tmp_path / "empty" / "config.json").write_text("{")
    refused(tmp_path / "empty", "config.json")


def test_foreign_torch_files(tmp_path):
    path = tmp_path / "x.pt"
    for content, words in (
        (tiny_model().state_dict(), ("plain state_dict",)),
        (dict(tiny_model().named_parameters()), ("plain state_dict",)),
        ({"model": {}, "epoch": 3}, ("'model'", "'epoch'")),
        (torch.zeros(2), ("Tensor",)),
        ([], ("list",)),
        ({"metrics": np.zeros(2)}, ("numpy",)),
        (tiny_model(), ("transformers.",)),
    ):
        torch.save(content, path)
        refused(path, *words)


def with_config(**fields):
    return lambda content: content["config"].update(fields)


def with_weights(name, tensor):
    return lambda content: content["state_dict"].update({name: tensor})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(version=99), ["version 99"]),
        (lambda c: c.pop("tokenizer"), ["tokenizer missing"]),
        (lambda c: c.update(extra=1), ["unknown parts", "extra"]),
        (lambda c: c.update(step="x"), ["step"]),
        (lambda c: c.update(config=None), ["config"]),
        (lambda c: c.update(state_dict={}), ["no weights"]),
        (lambda c: c.update(recipe={"t": torch.zeros(1)}), ["recipe"]),
        (lambda c: c["state_dict"].pop("model.norm.weight"), ["lacks model.norm.weight"]),
        (with_weights("model.extra.weight", torch.zeros(1)), ["holds model.extra.weight"]),
        (with_weights("model.norm.weight", torch.zeros(31)), ["model.norm.weight", "[31]", "[32]"]),
        (with_weights("model.norm.weight", torch.zeros(1).expand(32)), ["dense", "model.norm.weight"]),
        (with_weights("model.norm.weight", torch.zeros(32).to_sparse()), ["evil.pt"]),
        (with_weights("model.embed_tokens.weight", torch.zeros(320, 32)), ["ties"]),
        (with_weights("model.norm.weight", torch.zeros(32).to(torch.float8_e4m3fn)), ["float8"]),
        (with_weights("model.norm.weight", 3), ["dense", "model.norm.weight"]),
        (with_config(auto_map={"AutoModelForCausalLM": "evil--code.Model"}), ["auto_map"]),
        (with_config(text_config={"auto_map": {}}), ["auto_map"]),
        (with_config(trust_remote_code=True), ["trust_remote_code"]),
        (with_config(attn_implementation="somebody/kernel"), ["attn_implementation"]),
        (with_config(_attn_implementation_internal="somebody/kernel"), ["private"]),
        (with_config(quantization_config={"quant_method": "bitsandbytes"}), ["quantization_config"]),
        (with_config(model_type="no_such_model"), ["no_such_model"]),
        (with_config(model_type="t5"), ["t5"]),
        (with_config(hidden_size=-3), ["configuration"]),
        (with_config(hidden_size=64), ["shape"]),
        (lambda c: c.update(generation_config={"custom_generate": "evil/repo"}), ["custom_generate"]),
        (lambda c: c.update(tokenizer={}), ["no tokenizer"]),
        (lambda c: c.update(tokenizer={"tokenizer.json": "{}"}), ["tokenizer"]),
        (lambda c: c["tokenizer"].update({"../../evil.json": "{}"}), ["../../evil.json"]),
        (lambda c: c["tokenizer"].update({"/tmp/evil.json": "{}"}), ["/tmp/evil.json"]),
        (lambda c: c["tokenizer"].update({"evil.py": "print(1)"}), ["evil.py"]),
        (lambda c: c["tokenizer"].update({".hidden.json": ""}), [".hidden.json"]),
        (lambda c: c["tokenizer"].update({"config.json": "{}"}), ["config.json"]),
        (
            lambda c: c["tokenizer"].update(
                {"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["e.T", null]}}'}
            ),
            ["auto_map"],
        ),
        (lambda c: c["tokenizer"].update({"tokenizer_config.json": "{"}), ["tokenizer_config.json"]),
    ],
)
def test_tampered_checkpoint_is_refused(change, words, tiny_checkpoint, tmp_path):
    content = payload_of(tiny_checkpoint)
    change(content)
    torch.save(content, tmp_path / "evil.pt")
    refused(tmp_path / "evil.pt", *words)


def test_models_that_could_not_be_read_again_are_not_written(tmp_path):
    model = tiny_model()
    model.config.num_hidden_layers = 3
    with pytest.raises(InputError, match=r"lacks model\.layers\.2"):
        write(tmp_path / "model.pt", model)
    model = tiny_model()
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(320, 32))  # untied behind the configuration's back
    with pytest.raises(InputError, match="ties"):
        write(tmp_path / "model.pt", model)
    assert os.listdir(tmp_path) == []


def test_devices_and_dtypes(tiny_checkpoint):
    refused(tiny_checkpoint, "int3", dtype="int3")
    refused(tiny_checkpoint, "nonsense", device="nonsense")
    refused(tiny_checkpoint, "meta", device="meta")
    if not torch.cuda.is_available():
        refused(tiny_checkpoint, "cuda", device="cuda")
    assert torch.equal(
        logits(open_checkpoint(tiny_checkpoint, device="auto", dtype="float32").model).cpu(), logits(tiny_model())
    )


def test_folder(tiny_folder):
    opened = open_checkpoint(str(tiny_folder))
    assert torch.equal(logits(opened.model), logits(tiny_model()))
    assert (opened.name, opened.format, opened.stage, opened.notes) == ("tiny-folder", "folder", None, [])
    assert opened.tokenizer(TEXT[0])["input_ids"] == tiny_tokenizer()(TEXT[0])["input_ids"]
    assert opened.content_hash == open_checkpoint(tiny_folder, dtype="bfloat16").content_hash
    edit_json(tiny_folder / "config.json", rms_norm_eps=1e-4)
    assert opened.content_hash != open_checkpoint(tiny_folder).content_hash


def test_folder_defects(tiny_folder):
    weights = load_file(tiny_folder / "model.safetensors")

    def save(state):
        save_file(state, tiny_folder / "model.safetensors", metadata={"format": "pt"})

    save(weights | {"language_matching_classifier.weight": torch.zeros(3)})
    assert any("language_matching_classifier.weight" in note for note in open_checkpoint(tiny_folder).notes)
    save({name: tensor for name, tensor in weights.items() if name != "model.norm.weight"})
    refused(tiny_folder, "lacks model.norm.weight")
    save(weights | {"model.norm.weight": torch.full((32,), float("nan"))})
    refused(tiny_folder, "model.norm.weight", "not finite")
    save(weights | {"model.norm.weight": torch.zeros(5)})
    refused(tiny_folder, "model.norm.weight", "[5]", "[32]")
    save(weights)
    with open(tiny_folder / "model.safetensors", "r+b") as file:
        file.truncate(5000)
    refused(tiny_folder, "cannot be loaded")
    (tiny_folder / "model.safetensors").unlink()
    refused(tiny_folder, "tiny-folder")


def test_folder_with_code_of_its_own(tiny_folder):
    (tiny_folder / "evil.py").write_text(f"open({str(tiny_folder / 'marker')!r}, 'w')\n")
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    edit_json(tiny_folder / "config.json", auto_map=auto_map)
    opened = open_checkpoint(tiny_folder)
    assert torch.equal(logits(opened.model), logits(tiny_model())) and "not used" in opened.notes[0]
    edit_json(tiny_folder / "config.json", model_type="evil")
    refused(tiny_folder, "auto_map", "never run")
    edit_json(tiny_folder / "config.json", model_type="llama", attn_implementation="somebody/kernel")
    refused(tiny_folder, "kernel")
    assert not (tiny_folder / "marker").exists()


def test_export_folder(tiny_checkpoint, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export_folder(tiny_checkpoint, tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    opened = open_checkpoint(tmp_path / "out")
    assert torch.equal(logits(plain), logits(tiny_model())) and torch.equal(logits(opened.model), logits(tiny_model()))
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "out")(TEXT[3])["input_ids"] == tiny_tokenizer()(TEXT[3])["input_ids"]
    )
    original = open_checkpoint(tiny_checkpoint)
    for part in ("stage", "step", "prompt_template", "align_layer", "recipe", "provenance"):
        assert getattr(opened, part) == getattr(original, part)
    with pytest.raises(InputError, match="not empty"):
        export_folder(tiny_checkpoint, tmp_path / "out")
    with pytest.raises(InputError):
        export_folder(tmp_path / "missing.pt", tmp_path / "nothing")
    assert sorted(os.listdir(tmp_path)) == ["out", "tiny.pt"]


@pytest.mark.parametrize("recorded", [None, "BOS <s>", "EOS </s>", "none"])
def test_another_start_token_than_in_training_is_noted(tmp_path, recorded):
    """The trainer records it in the provenance; files of before have no record and open without a word."""
    path = write(tmp_path / "a.pt", provenance={} if recorded is None else {"start_token": recorded})
    export_folder(path, tmp_path / "folder")
    for reference in (path, tmp_path / "folder"):
        notes = [note for note in open_checkpoint(reference).notes if "began every text" in note]
        assert len(notes) == (recorded not in (None, "BOS <s>"))
        assert all(f"began every text with {recorded}; it is measured with BOS <s>" in note for note in notes)


def test_export_keeps_the_stored_dtype(tmp_path):
    export_folder(write(tmp_path / "half.pt", dtype=torch.bfloat16), tmp_path / "out")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


def make_adapter(folder: Path, base: str):
    """A LoRA adapter with weights that matter; returns the model that carries it, not merged."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)).eval()
    model.save_pretrained(folder)
    edit_json(folder / "adapter_config.json", base_model_name_or_path=base)
    return model


@pytest.mark.parametrize("base", ["pt", "folder", "relative"])
def test_adapter_is_merged_into_its_base(base, tmp_path, tiny_checkpoint, tiny_folder):
    pytest.importorskip("peft")
    name = {"pt": str(tiny_checkpoint), "folder": str(tiny_folder), "relative": "../tiny.pt"}[base]
    expected = logits(make_adapter(tmp_path / "adapter", name))
    opened = open_checkpoint(tmp_path / "adapter")
    assert torch.allclose(expected, logits(opened.model), atol=1e-5) and not torch.allclose(
        expected, logits(tiny_model()), atol=1e-2
    )
    assert (opened.name, opened.format) == ("adapter", "adapter")
    assert not any("lora" in name for name, _ in opened.model.named_parameters())
    assert opened.content_hash != open_checkpoint(name if base != "relative" else tiny_checkpoint).content_hash
    write(tmp_path / "merged.pt", opened.model, opened.tokenizer)  # a merged model is a plain one
    assert torch.equal(logits(open_checkpoint(tmp_path / "merged.pt").model), logits(opened.model))


def test_adapter_is_encoded(tmp_path, tiny_checkpoint):
    """Vectors are those of the model that carries the adapter, of the merged model in a file of its own, and not those
    of the base."""
    pytest.importorskip("peft")
    carrier = make_adapter(tmp_path / "adapter", str(tiny_checkpoint))
    opened = open_checkpoint(tmp_path / "adapter")
    vectors = encode(opened, TEXT).vectors
    for number, text in enumerate(TEXT):
        with torch.inference_mode():
            states = carrier(
                torch.tensor([opened.tokenizer(text)["input_ids"]]), output_hidden_states=True
            ).hidden_states
        for layer, state in zip((0, 1, 3), states, strict=True):  # embeddings, block 1, block 2 after the final norm
            np.testing.assert_allclose(vectors[layer, number], state[0, 1:].mean(0).numpy(), atol=1e-5)
    write(tmp_path / "merged.pt", opened.model, opened.tokenizer)
    np.testing.assert_allclose(vectors, encode(open_checkpoint(tmp_path / "merged.pt"), TEXT).vectors, atol=1e-5)
    base = encode(open_checkpoint(tiny_checkpoint), TEXT).vectors
    assert all(np.abs(vectors[layer] - base[layer]).max() > 1e-2 for layer in (1, 2, 3))


def test_adapter_defects(tmp_path, tiny_checkpoint):
    pytest.importorskip("peft")
    folder = tmp_path / "adapter"
    make_adapter(folder, str(tiny_checkpoint))
    edit_json(folder / "adapter_config.json", base_model_name_or_path="owner/model", revision="abc")
    refused(folder, "adapter", "owner/model@abc", kind=MissingAssetError)
    edit_json(folder / "adapter_config.json", base_model_name_or_path=None)
    refused(folder, "names no base model")
    edit_json(folder / "adapter_config.json", base_model_name_or_path=str(folder))
    refused(folder, "itself")
    edit_json(
        folder / "adapter_config.json",
        base_model_name_or_path=str(tiny_checkpoint),
        megatron_config={},
        megatron_core="evil",
    )
    refused(folder, "Megatron")
    edit_json(folder / "adapter_config.json", megatron_config=None)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[2:]), folder / "adapter_model.safetensors")
    refused(folder, "lacks adapter weights")
    (folder / "adapter_model.safetensors").unlink()
    refused(folder, "cannot be merged")


def test_hub_id_from_the_cache(tmp_path, tiny_folder):
    commit = "0123456789abcdef0123456789abcdef01234567"
    refused("owner/tiny", "network is off", kind=MissingAssetError, cache_dir=tmp_path / "cache")
    hub_cache(tmp_path / "cache", tiny_folder, commit)
    pinned = open_checkpoint(f"owner/tiny@{commit}", cache_dir=tmp_path / "cache")
    assert torch.equal(logits(pinned.model), logits(tiny_model()))
    assert (pinned.name, pinned.format, pinned.notes) == ("owner/tiny@0123456789ab", "hub", [])
    assert pinned.provenance == {"hub_id": "owner/tiny", "revision": commit}
    floating = open_checkpoint("owner/tiny", cache_dir=tmp_path / "cache")
    assert floating.content_hash == pinned.content_hash and commit in floating.notes[0]
    refused("owner/tiny@other", "network is off", kind=MissingAssetError, cache_dir=tmp_path / "cache")
    refused("owner/other", "network is off", kind=MissingAssetError, cache_dir=tmp_path / "cache")


def test_bundled_names():
    refused("bundled:nothing", "bundled:alignx")
    for name in module.BUNDLED:
        if (module.BUNDLED_FOLDER / f"{name}.pt").is_file():
            assert open_checkpoint(f"bundled:{name}").name == name
        else:
            refused(f"bundled:{name}", "not part of this installation", kind=MissingAssetError)


def test_gguf_defects(tmp_path):
    pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    for content in (b"GGUF", b"GGUF" + bytes(100), b"GGUF\x03\0\0\0" + b"\xff" * 64):
        path.write_bytes(content)
        refused(path, "GGUF")


@pytest.mark.parametrize("quantisation", ["F32", "Q8_0", "Q4_1"])
def test_gguf_written_by_the_reference_library(quantisation, tmp_path):
    gguf = pytest.importorskip("gguf")
    model, tokenizer, path = tiny_model(intermediate_size=64), tiny_tokenizer(), tmp_path / "tiny.gguf"
    write_gguf(path, model, tokenizer, quantisation)
    opened = open_checkpoint(path)
    assert (opened.name, opened.format, opened.provenance) == ("tiny", "gguf", {"quantisation": quantisation})
    assert [opened.tokenizer(text)["input_ids"] for text in TEXT] == [tokenizer(text)["input_ids"] for text in TEXT]
    exact = logits(model)
    if quantisation == "F32":
        assert opened.notes == [] and torch.equal(logits(opened.model), exact)
    else:
        assert f"quantised to {quantisation}" in opened.notes[0]
        kind = gguf.GGMLQuantizationType[quantisation]
        with (
            torch.no_grad()
        ):  # what the library itself makes of the quantised weights; blocks lie within rows, so their order is free
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(parameter.numpy(), kind), kind)))
        torch.testing.assert_close(logits(opened.model), logits(model), atol=1e-5, rtol=0)
        assert (logits(opened.model) - exact).abs().max() > 1e-4
    np.testing.assert_allclose(
        encode(opened, TEXT).vectors, encode(SimpleNamespace(model=model, tokenizer=tokenizer), TEXT).vectors, atol=1e-5
    )
    write(tmp_path / "copy.pt", opened.model, opened.tokenizer)  # unpacked, it is a model as any other
    assert torch.equal(logits(open_checkpoint(tmp_path / "copy.pt").model), logits(opened.model))


@pytest.mark.skipif("ALIGNX_TEST_GGUF" not in os.environ, reason="ALIGNX_TEST_GGUF names no .gguf file")
def test_gguf(capfd):
    """Any real language model that knows some English: weights that end up in the wrong place leave no such model."""
    import gguf

    path = os.environ["ALIGNX_TEST_GGUF"]
    opened = open_checkpoint(path)
    assert opened.format == "gguf" and opened.model.dtype == torch.float32
    if opened.provenance["quantisation"] not in ("F32", "F16", "BF16"):
        assert opened.provenance["quantisation"] in opened.notes[0] and "quantised" in opened.notes[0]
    text = "Paris is the capital and largest city of France, and it lies on the river Seine."
    ids = opened.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        assert opened.model(ids, labels=ids).loss < 4  # nats per token; a guess costs log(vocabulary), more than 10
    stored = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "token_embd.weight")
    embeddings = opened.model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(embeddings, gguf.dequantize(stored.data, stored.tensor_type))
    layers = opened.model.config.get_text_config().num_hidden_layers
    sentences = ["The train leaves at noon.", "The train departs at midday.", "I like coffee with milk."]
    encoding = encode(opened, sentences)
    assert encoding.layer_names[-2:] == (str(layers), f"{layers}+norm") and encoding.vectors.shape == (
        layers + 2,
        3,
        embeddings.shape[1],
    )
    similarity = cosine_matrix(encoding.vectors[layers // 2], encoding.vectors[layers // 2])
    assert similarity[0, 1] > similarity[0, 2]
    assert "quantizing" not in capfd.readouterr().err
