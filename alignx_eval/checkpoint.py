"""Checkpoints: open a `.pt`, a Hugging Face folder, a PEFT adapter, a hub id or a `.gguf`; write a `.pt`.

A `.pt` is one self-contained file, written by `write_checkpoint` and read with `torch.load(weights_only=True,
mmap=True)` only:

    format             "alignx"
    version            1
    stage, step        where in training it was written
    config             the model's configuration as plain JSON, without paths and without references to code
    tokenizer          {file name: text, or a uint8 tensor for a binary file}
    generation_config  plain JSON, or None
    prompt_template    name of the template it was taught with (see `prompts.py`), or None
    state_dict         {name: dense tensor}; tied weights share their storage
    heads              {name: dense tensor} of training heads, or None
    recipe, provenance plain JSON; `provenance.start_token` is the start token of training (see `encode.start_name`),
    where recorded

Nothing that a file says is ever run: the pickle inside is scanned before it is loaded, and remote code is refused
wherever it is named.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib.util
import io
import json
import math
import os
import pickletools
import re
import shutil
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from alignx_eval import opening_checks
from alignx_eval.engine.batches import embeddings_of, start_name
from alignx_eval.errors import AlignxError, InputError, MissingAssetError
from alignx_eval.files import follow_umask
from alignx_eval.wording import one_line, some_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BUNDLED_CHECKPOINTS = {
    "base": "small model pre-trained on monolingual text and bitext of the corpus `interface`",
    "tuned": "base after instruction tuning alone; the control, on the same number of tokens as alignx",
    "alignx": "base after AlignX stages 1 (alignment) and 2 (instruction tuning)",
}


def release_memory() -> None:
    """Give the memory of a model that is no longer referenced back, also on an accelerator."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


Format = Literal["pt", "folder", "adapter", "hub", "gguf"]
FORMAT = "alignx"
VERSION = 1
KEYS = frozenset(
    "format version stage step config tokenizer generation_config prompt_template state_dict heads recipe "
    "provenance".split()
)
BUNDLED = ("base", "tuned", "alignx")
BUNDLED_FOLDER = Path(__file__).parent / "bundled" / "checkpoints"
SIDECAR = "alignx.json"  # beside an exported folder: what a Hugging Face folder has no place for
WRITABLE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# Everything that torch.save needs for a dict of plain values and dense tensors. Any other name in the pickle is refused
# unread.
_HARMLESS_GLOBAL = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch(\.storage)? \w+Storage"
)
# Keys that make transformers look for code, kernels or paths somewhere else, or that training leaves behind and
# evaluation pays for.
_DROPPED_CONFIG_KEYS = frozenset(
    "auto_map trust_remote_code attn_implementation experts_implementation name_or_path transformers_version "
    "custom_pipelines "
    "custom_generate output_hidden_states output_attentions".split()
)
_REFUSED_CONFIG_KEYS = frozenset(
    "auto_map trust_remote_code attn_implementation experts_implementation custom_pipelines custom_generate "
    "quantization_config".split()
)
_TOKENIZER_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(json|txt|model|jinja|tiktoken|spm|bpe)")
_NO_TOKENIZER_FILE = frozenset(
    ("config.json", "generation_config.json", "adapter_config.json", "processor_config.json")
)
_HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
_FILE_SUFFIXES = (".pt", ".pth", ".gguf", ".safetensors", ".bin", ".ckpt", ".zip")


@dataclass
class Checkpoint:
    """A causal language model that is ready to be evaluated, and what is known about it.

    `model` is in evaluation mode; `model.get_decoder()` is the part without the language-model head. `name` is the
    label for display, `reference` what the user typed. `heads` are tensors of training heads, on the CPU. `align_layer`
    is the layer whose states were aligned (0 the embeddings, k the state after block k). `content_hash` is a SHA-256
    over weights, configuration and tokenizer; provenance, recipe and file name do not enter it. Of a `.pt` it covers
    the tensors, of other formats the files. `notes` are sentences for the reader of a report.
    """

    name: str
    reference: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt_template: str | None
    heads: dict[str, torch.Tensor] | None
    stage: str | None
    step: int | None
    align_layer: int | None
    provenance: dict[str, Any]
    recipe: dict[str, Any]
    content_hash: str
    format: Format
    notes: list[str] = field(default_factory=list)


# ----------------------------------------------------------------------------------------------------------------------
# Opening
def open_checkpoint(
    reference: str | os.PathLike[str],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    offline: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """Open the checkpoint that `reference` names.

    reference: a `.pt` of ours, a `.gguf`, a Hugging Face folder, a PEFT adapter folder (merged into its base), a hub id
        `owner/name@revision`, or `bundled:base`, `bundled:tuned`, `bundled:alignx`. What exists on disk comes before
        the hub.
    device: "cpu", "cuda", "cuda:1", "mps", or "auto", which spreads the model over all accelerators there are.
    dtype: "float32", "bfloat16" or "float16"; None is float32 on the CPU and the checkpoint's own elsewhere.
    offline: True never touches the network; a hub id then has to be in the cache.
    cache_dir: the hub's cache; None is its default place.

    Raises InputError for anything that is no usable checkpoint, MissingAssetError for what would have to be fetched or
    installed.
    """
    target, own_dtype = _resolve_device_and_dtype(device, dtype)
    return _open(os.fspath(reference), target, own_dtype, offline, cache_dir)


def check_checkpoint(
    reference: str | os.PathLike[str], *, offline: bool = True, cache_dir: str | os.PathLike[str] | None = None
) -> None:
    """Find out what would keep `reference` from being opened, as far as that is possible without loading weights into a
    model.

    It exists (of the hub: is fetched, or in the cache), its configuration is that of a causal language model, names and
    shapes of the stored tensors are those that the configuration asks for, its tokenizer is one, and all weights are
    finite, read one by one. What only the model itself can tell (one sentence through it) is left to `open_checkpoint`.
    Raises as `open_checkpoint` does.
    """
    reference = os.fspath(reference)
    place = _find(reference, offline, cache_dir)
    if place.format == "pt":
        payload, _ = _read_pt_for_opening(place.path)
        _tokenizer_from_files(payload["tokenizer"], str(place.path))
    elif place.format == "gguf":
        _check_gguf(place.path, reference)
    elif place.format == "adapter":
        base_name, _ = _read_adapter(place.path, reference)
        with _naming_base(reference):
            check_checkpoint(base_name, offline=offline, cache_dir=cache_dir)
        if (place.path / "tokenizer_config.json").is_file():
            _tokenizer_from_folder(place.path, reference)
        _refuse_non_finite(_stored_floating([*place.path.glob("adapter_model.safetensors")]), reference)
    else:
        _inspect_folder(place.path, reference)
        _tokenizer_from_folder(place.path, reference)
        _refuse_non_finite(_stored_floating(_weight_files(place.path, reference)), reference)


def parameter_count(checkpoint: Checkpoint) -> int:
    """Number of parameters of the model, tied ones counted once, training heads not counted."""
    return sum(parameter.numel() for parameter in checkpoint.model.parameters())


def recorded_template(reference: str | os.PathLike[str], *, offline: bool = True) -> str | None:
    """Name of the prompt template that the checkpoint was taught with, read without its weights; None where it names
    none.

    An adapter or a `.gguf` names none, nor does a hub id that would have to be fetched first. Raises InputError where a
    file or folder is no usable checkpoint at first sight, and MissingAssetError where a hub id is not at hand and
    `offline`.
    """
    reference = os.fspath(reference)
    try:
        place = _find(reference, True, None)
    except MissingAssetError:
        if offline:
            raise
        return None
    if place.format == "pt":
        return read_pt(place.path)["prompt_template"]
    sidecar = place.path / SIDECAR
    return (
        _read_json(sidecar, f"{reference}: its {SIDECAR} is not readable").get("prompt_template")
        if sidecar.is_file()
        else None
    )


@dataclass(frozen=True)
class _Location:
    """Where a reference leads: a file or a folder; of a hub model also its id, the revision that was asked for and the
    one found."""

    format: Format
    path: Path
    hub_id: str | None = None
    asked: str | None = None
    commit: str | None = None


def _find(reference: str, offline: bool, cache_dir: str | os.PathLike[str] | None) -> _Location:
    """What `reference` names: something bundled, else what exists under this very path, else a hub model."""
    if reference.startswith("bundled:"):
        return _Location("pt", _bundled_path(reference))
    path = Path(reference).expanduser()
    if path.is_dir():
        return _Location("adapter" if (path / "adapter_config.json").is_file() else "folder", path)
    if path.exists():
        return _Location("gguf" if _first_bytes(path, 4) == b"GGUF" else "pt", path)
    beside: list[str] = []
    with contextlib.suppress(OSError):
        beside = sorted(os.listdir(path.parent))
    similar = difflib.get_close_matches(path.name, beside, 3, 0.5)
    nearest = f"; near it are {', '.join(str(path.with_name(name)) for name in similar)}" if similar else ""
    match = _HUB_ID.fullmatch(reference)
    if match is None or reference.endswith(_FILE_SUFFIXES):
        raise InputError(
            f"no such checkpoint: {reference!r} is neither a file nor a folder here{nearest}, nor a hub id "
            "(owner/name@revision), "
            "nor bundled:NAME"
        )
    try:
        folder, commit = _hub_folder(match["id"], match["revision"], offline, cache_dir)
    except MissingAssetError as error:
        if not (offline and path.parent.is_dir()):
            raise
        raise InputError(
            f"no such checkpoint: the folder {path.parent} has no {path.name!r}{nearest}, and as a hub id {reference} "
            "is not in the cache, "
            "and the network is off; mend the path, or fetch the model first"
        ) from error
    format_: Format = "adapter" if (folder / "adapter_config.json").is_file() else "hub"
    return _Location(format_, folder, match["id"], match["revision"], commit)


def _open(
    reference: str, device: str, dtype: torch.dtype | None, offline: bool, cache_dir: str | os.PathLike[str] | None
) -> Checkpoint:
    """As `open_checkpoint`, but dtype None is the checkpoint's own."""
    place = _find(reference, offline, cache_dir)
    if place.format == "pt":
        checkpoint = _open_pt(place.path, reference, device, dtype)
    elif place.format == "gguf":
        checkpoint = _open_gguf(place.path, reference, device, dtype)
    elif place.format == "adapter":
        checkpoint = _open_adapter(place.path, reference, device, dtype, offline, cache_dir)
    else:
        checkpoint = _open_folder(place.path, reference, device, dtype, place.format)
    if reference.startswith("bundled:"):
        checkpoint.name = place.path.stem
    if place.hub_id is not None:
        checkpoint.name = place.hub_id + (f"@{place.asked[:12]}" if place.asked else "")
        checkpoint.provenance |= {"hub_id": place.hub_id, "revision": place.commit}
        if place.asked != place.commit:
            checkpoint.notes.append(
                f"{place.hub_id}: {place.asked or 'the default branch'} is not a fixed revision; here it was "
                f"{place.commit}. "
                f"Write {place.hub_id}@{place.commit} to pin it."
            )
    with _refusing(f"{reference}: an ordinary sentence cannot be sent through the model"), _quiet():
        tokens = opening_checks.ordinary_tokens(checkpoint.tokenizer, reference)
        checkpoint.notes += opening_checks.check_one_sentence(checkpoint.model, tokens, reference)
    return checkpoint


def _bundled_path(reference: str) -> Path:
    name = reference.removeprefix("bundled:")
    if name not in BUNDLED:
        raise InputError(
            f"no bundled checkpoint {name!r}; there are {', '.join('bundled:' + known for known in BUNDLED)}"
        )
    path = BUNDLED_FOLDER / f"{name}.pt"
    if not path.is_file():
        raise MissingAssetError(
            f"{reference} is not part of this installation ({path} is missing); install alignx-eval again"
        )
    return path


def _resolve_device_and_dtype(device: str, dtype: str | None) -> tuple[str, torch.dtype | None]:
    """The device to load on and the dtype to load in; None means the checkpoint's own."""
    has_accelerator = torch.accelerator.is_available()
    if device == "auto" and not has_accelerator:
        device = "cpu"
    if device != "auto":
        try:
            kind = torch.device(device)
            torch.empty(0, device=kind)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch built without CUDA asserts
            raise InputError(f"device {device!r} cannot be used here: {one_line(error)}") from None
        if kind.type == "meta":
            raise InputError("device 'meta' holds no weights; use cpu, cuda, mps or auto")
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is not None and dtype not in names:
        raise InputError(f"unknown dtype {dtype!r}; use one of {', '.join(names)}")
    if dtype is None:
        return device, torch.float32 if device.startswith("cpu") else None
    return device, names[dtype]


# ----------------------------------------------------------------------------------------------------------------------
# The .pt file
def write_checkpoint(
    path: str | os.PathLike[str],
    *,
    model: Any,
    tokenizer: Any,
    stage: str,
    step: int,
    prompt_template: str | None,
    heads: Mapping[str, torch.Tensor] | None,
    recipe: Mapping[str, Any],
    provenance: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Write a `.pt` checkpoint atomically: whatever happens, `path` holds the old file or the whole new one.

    `model` is a transformers model for causal language modelling that transformers itself can build (no remote code;
    adapters merged). `dtype` is the type the floating-point weights are stored in, None as they are. `recipe` and
    `provenance` are plain JSON values; paths, numpy scalars and versions are turned into such. Raises InputError where
    the file could not be read again (non-finite or quantised weights, a model that its own configuration does not
    describe, a tokenizer with code of its own) and where it cannot be written; TypeError where recipe or provenance
    hold something that is no plain data.
    """
    path = Path(path)
    config = _clean_config(json.loads(model.config.to_json_string(use_diff=False)))
    state = _dense(model.state_dict(), dtype)
    config["dtype"] = str(_main_dtype(state)).removeprefix("torch.")
    generation_config = getattr(model, "generation_config", None)
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "stage": str(stage),
        "step": int(step),
        "config": config,
        "tokenizer": _tokenizer_files(tokenizer),
        "generation_config": None
        if generation_config is None
        else _clean_config(_plain(generation_config.to_dict(), "generation_config")),
        "prompt_template": None if prompt_template is None else str(prompt_template),
        "state_dict": state,
        "heads": None if heads is None else _dense(heads, None),
        "recipe": _plain(recipe, "recipe"),
        "provenance": _plain(provenance, "provenance"),
    }
    # The reader's own checks, so that no file is written that it would refuse.
    source = f"the model for {path.name}"
    _check_payload(payload, source)
    opening_checks.refuse_not_causal(config, source)
    opening_checks.ordinary_tokens(tokenizer, source)
    _check_state(_skeleton(config, _main_dtype(state), source), state, source)
    _refuse_non_finite(_floating(payload), source)
    _save_atomically(payload, path)


def export_folder(reference: str | os.PathLike[str], folder: str | os.PathLike[str], *, offline: bool = True) -> None:
    """Write whatever `open_checkpoint` opens as a Hugging Face folder, weights in their stored dtype (a `.gguf`
    unpacked to float32).

    `folder` must not exist, or be empty; it appears under its name only when it is complete, and its files follow the
    umask. Stage, step, prompt template, recipe, notes and provenance, with what the folder was made from, go to
    `alignx.json`, which `open_checkpoint` reads; training heads are left out. Raises InputError, and MissingAssetError
    where something would have to be fetched and `offline`.
    """
    reference, folder = os.fspath(reference), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty; name a new folder")
    checkpoint = _open(reference, "cpu", None, offline, None)
    sidecar = {
        key: getattr(checkpoint, key) for key in ("stage", "step", "prompt_template", "recipe", "notes", "provenance")
    }
    found_again = _start_notes(checkpoint.provenance, checkpoint.tokenizer, reference)
    sidecar["notes"] = [note for note in checkpoint.notes if note not in found_again]
    if checkpoint.format != "pt":
        origin = {key: getattr(checkpoint, key) for key in ("name", "format", "content_hash")}
        sidecar["provenance"] = checkpoint.provenance | {"exported_from": origin}
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        (partial / SIDECAR).write_text(json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        with _refusing(f"{reference} cannot be written as a folder"), _quiet():
            checkpoint.model.save_pretrained(partial)
            checkpoint.tokenizer.save_pretrained(partial)
        follow_umask(partial)
        os.replace(partial, folder)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {one_line(error)}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_pt_for_opening(path: Path, dtype: torch.dtype | None = None) -> tuple[dict[str, Any], Any]:
    """The content of a `.pt` and the model, still without memory, that it fits."""
    payload, source = read_pt(path), str(path)
    opening_checks.refuse_not_causal(payload["config"], source)
    model = _skeleton(payload["config"], dtype or _main_dtype(payload["state_dict"]), source)
    _check_state(model, payload["state_dict"], source)
    _refuse_non_finite(_floating(payload), source)
    return payload, model


def _open_pt(path: Path, reference: str, device: str, dtype: torch.dtype | None) -> Checkpoint:
    payload, model = _read_pt_for_opening(path, dtype)
    source = str(path)
    state = payload["state_dict"]
    tokenizer = _tokenizer_from_files(payload["tokenizer"], source)
    content_hash = _content_hash(payload)
    layers = model.config.get_text_config().num_hidden_layers

    # Copied out of the memory map, so that a file that is overwritten in place cannot change a model in use. Tied
    # tensors are copied once.
    copies: dict[tuple[int, torch.Size, torch.dtype], torch.Tensor] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if key not in copies:
            copies[key] = tensor.to(dtype if tensor.is_floating_point() else None, copy=True)
        state[name] = copies[key]
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    if payload["generation_config"] is not None:
        from transformers import GenerationConfig

        with _refusing(f"{source}: its generation_config is not usable"), _quiet():
            model.generation_config = GenerationConfig.from_dict(payload["generation_config"])
    return Checkpoint(
        name=path.resolve().parent.name if path.stem == "model" else path.stem,  # a training run writes FOLDER/model.pt
        reference=reference,
        model=_place(model.eval(), device),
        tokenizer=tokenizer,
        prompt_template=payload["prompt_template"],
        heads=None if payload["heads"] is None else {name: tensor.clone() for name, tensor in payload["heads"].items()},
        stage=payload["stage"],
        step=payload["step"],
        align_layer=_align_layer(payload["provenance"], payload["recipe"], layers),
        provenance=payload["provenance"],
        recipe=payload["recipe"],
        content_hash=content_hash,
        format="pt",
        notes=_start_notes(payload["provenance"], tokenizer, source),
    )


def read_pt(path: Path) -> dict[str, Any]:
    """The content of a `.pt`, its form checked, weights still on disk (memory-mapped). Never runs anything that the
    file names."""
    _scan_before_loading(path)
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (
        Exception
    ) as error:  # whatever torch makes of a damaged file; its own message is long and advises weights_only=False
        raise InputError(
            f"{path} is damaged and cannot be loaded ({one_line(error, 120)}); copy or write it again"
        ) from None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise InputError(
            f"{path} is a torch file, but no alignx checkpoint{_foreign_content(payload)}; write it with "
            "alignx_eval.checkpoint.write_checkpoint, or give the Hugging Face folder it belongs to"
        )
    if payload.get("version") != VERSION:
        raise InputError(
            f"{path} has checkpoint version {payload.get('version')!r}; this alignx-eval reads version {VERSION}: "
            "update it, or write the file again"
        )
    _check_payload(payload, str(path))
    return payload


def _foreign_content(payload: object) -> str:
    if isinstance(payload, dict) and payload and all(isinstance(value, torch.Tensor) for value in payload.values()):
        return " (a plain state_dict without configuration and tokenizer)"
    if isinstance(payload, dict):
        return f" (its keys are {', '.join(map(repr, list(payload)[:5]))}{', ...' if len(payload) > 5 else ''})"
    return f" (it holds a {type(payload).__name__})"


def _scan_before_loading(path: Path) -> None:
    """Refuse, without unpickling, whatever is not a zip by torch.save whose pickle names only tensors and dicts."""
    head = _first_bytes(path, 16)
    if not head:
        raise InputError(f"{path} is empty")
    if not head.startswith(b"PK\x03\x04"):
        raise InputError(f"{path} is no checkpoint: {_guess_content(head)}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InputError(f"{path} is a zip archive, but not one that torch.save wrote; no checkpoint")
            if any(entry.filename.endswith("/constants.pkl") or "/code/" in entry.filename for entry in entries):
                raise InputError(
                    f"{path} is a TorchScript archive, which contains code; it is refused and nothing of it was run"
                )
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise InputError(f"{path} is a compressed archive, which torch.save does not write; it is refused")
            unsafe = _unsafe_globals(archive.read(pickles[0]))
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OSError) as error:
        raise InputError(f"{path} is cut off or damaged ({one_line(error, 120)}); copy or write it again") from None
    if unsafe:
        raise InputError(
            f"{path} is refused: it names {some_of(sorted(unsafe, key=_torch_last))}, which a checkpoint has no need "
            "of "
            "and which could run code when loaded; nothing of it was run"
        )


def _unsafe_globals(pickle_bytes: bytes) -> set[str]:
    """Names of the functions and classes in a pickle that plain values and dense tensors do not need; disassembled,
    never run."""
    unsafe: set[str] = set()
    for opcode, argument, _ in pickletools.genops(pickle_bytes):
        if opcode.name in ("GLOBAL", "INST") and not _HARMLESS_GLOBAL.fullmatch(str(argument)):
            unsafe.add(str(argument).replace(" ", "."))
        elif opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):  # torch.save never writes these
            unsafe.add("a hidden function or class")
    return unsafe


def _torch_last(name: str) -> tuple[bool, str]:
    return name.startswith(("torch.", "__builtin__.", "collections.")), name


def _guess_content(head: bytes) -> str:
    if head[0] == 0x80 and head[1] <= 5:
        return "it is a bare pickle, which could run code when loaded; it is refused and nothing of it was run"
    if head[8:9] == b"{" and head[6:8] == b"\0\0":
        return "it looks like a .safetensors file; give the Hugging Face folder it lies in"
    return "neither a .pt written by alignx-eval or alignx-train nor a .gguf"


def _check_payload(payload: dict[str, Any], source: str) -> None:
    """Raise InputError unless every part has the type and the form that version 1 demands."""
    if missing := sorted(KEYS - payload.keys()):
        raise InputError(f"{source} is incomplete: {', '.join(missing)} missing")
    if unknown := sorted(map(str, payload.keys() - KEYS)):
        raise InputError(f"{source} has unknown parts: {', '.join(unknown[:5])}")
    for key, kind, optional in (
        ("stage", str, True),
        ("step", int, True),
        ("prompt_template", str, True),
        ("config", dict, False),
        ("generation_config", dict, True),
        ("tokenizer", dict, False),
        ("state_dict", dict, False),
        ("heads", dict, True),
        ("recipe", dict, False),
        ("provenance", dict, False),
    ):
        if not (isinstance(payload[key], kind) or optional and payload[key] is None):
            raise InputError(f"{source}: {key} is a {type(payload[key]).__name__}, not a {kind.__name__}")
    for key in ("config", "generation_config", "recipe", "provenance"):
        if not _is_plain(payload[key]):
            raise InputError(f"{source}: {key} holds something else than plain text, numbers, lists and dicts")
    for key in ("config", "generation_config"):
        if refused := sorted(set(_keys_of(payload[key])) & _REFUSED_CONFIG_KEYS):
            raise InputError(
                f"{source}: its {key} asks for {', '.join(refused)}; code, kernels and quantisation of a file's own "
                "are refused"
            )
        if private := sorted(key for key in _keys_of(payload[key]) if key.startswith("_")):
            raise InputError(f"{source}: its {key} sets private fields ({', '.join(private[:3])}), which is refused")
    if not payload["state_dict"]:
        raise InputError(f"{source} holds no weights")
    _check_tokenizer_files(payload["tokenizer"], source)
    for key in ("state_dict", "heads"):
        for name, tensor in (payload[key] or {}).items():
            if not isinstance(name, str) or not _is_dense(tensor):
                raise InputError(f"{source}: {name!r} in {key} is not a dense, contiguous, unquantised tensor")


def _is_dense(tensor: object) -> bool:
    # Sparse and strided-with-tricks tensors pass weights_only and can crash the process later.
    return (
        type(tensor) is torch.Tensor
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and (
            tensor.dtype in WRITABLE_DTYPES
            or not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized)
        )
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


def _keys_of(value: object) -> Iterator[str]:
    """Keys of a nested configuration, except those of its label tables, which are data."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            if key not in ("id2label", "label2id"):
                yield from _keys_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys_of(item)


def _clean_config(value: Any) -> Any:
    """A configuration without code, kernels, paths, versions and private fields."""
    if isinstance(value, dict):
        return {
            key: _clean_config(item)
            for key, item in value.items()
            if not key.startswith("_") and key not in _DROPPED_CONFIG_KEYS
        }
    if isinstance(value, list):
        return [_clean_config(item) for item in value]
    return value


def _plain(value: Any, where: str) -> Any:
    """`value` as plain JSON. torch.__version__, numpy scalars and paths would make a weights-only load fail; NaN would
    not survive JSON."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (str, os.PathLike)):
        return str(value)
    if hasattr(value, "tolist") and not isinstance(value, (Integral, Real)):  # arrays and tensors
        return _plain(value.tolist(), where)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, where) for item in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    raise TypeError(f"{where}: {type(value).__name__} is not plain data")


def _dense(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Contiguous CPU tensors without gradient, floating ones in `dtype`.

    Entries that were one tensor stay one, and no view drags a larger storage along."""
    copies: dict[tuple[Any, ...], torch.Tensor] = {}
    dense = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in copies or tensor.numel() == 0:
            copy = tensor.to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
            whole = copy.untyped_storage().nbytes() == copy.numel() * copy.element_size()
            copies[key] = copy if whole else copy.clone()
        dense[name] = copies[key]
    return dense


def _save_atomically(payload: dict[str, Any], path: Path) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise InputError(f"cannot write {path}: {one_line(error, 200)}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


# ----------------------------------------------------------------------------------------------------------------------
# Model, weights, tokenizer
def _skeleton(config: dict[str, Any], dtype: torch.dtype, source: str) -> Any:
    """The model that `config` describes: parameters without memory, buffers that no file stores (rotary frequencies,
    masks) computed."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(config)
    model_type = fields.pop("model_type", None)
    with (
        _refusing(f"{source}: its configuration ({model_type!r}) cannot be built by this version of transformers"),
        _quiet(),
    ):
        built = AutoConfig.for_model(model_type, **fields)
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(built, dtype=dtype, trust_remote_code=False)
        model.tie_weights()
    return model


def _check_state(model: Any, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise InputError unless `state` has exactly the model's tensors, in its shapes, tied ones equal."""
    expected = model.state_dict(keep_vars=True)
    if missing := sorted(expected.keys() - state.keys()):
        raise InputError(f"{source} lacks {some_of(missing)}, which its configuration asks for")
    if unexpected := sorted(state.keys() - expected.keys()):
        raise InputError(f"{source} holds {some_of(unexpected)}, which its configuration does not know")
    for name, tensor in expected.items():
        if tensor.shape != state[name].shape:
            raise InputError(
                f"{source}: {name} has shape {list(state[name].shape)}, its configuration asks for {list(tensor.shape)}"
            )
    first_of: dict[int, str] = {}
    for name, tensor in expected.items():
        first = first_of.setdefault(id(tensor), name)
        if state[first].data_ptr() != state[name].data_ptr() and not torch.equal(state[first], state[name]):
            raise InputError(
                f"{source}: {first} and {name} differ, but its configuration ties them; set tie_word_embeddings to "
                "false"
            )


def _refuse_non_finite(tensors: Iterable[tuple[str, torch.Tensor]], source: str) -> None:
    for name, tensor in tensors:
        if not torch.isfinite(
            tensor if tensor.element_size() > 1 else tensor.float()
        ).all():  # float8 has no such test of its own
            raise InputError(
                f"{source}: {name} holds values that are not finite (NaN or infinity); training has diverged or the "
                "file is damaged"
            )


def _floating(payload: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    for key in ("state_dict", "heads"):
        for name, tensor in (payload[key] or {}).items():
            if tensor.is_floating_point():
                yield name if key == "state_dict" else f"head {name}", tensor


def _main_dtype(state: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The floating-point type that most weights have."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in state.values():
        if tensor.is_floating_point():
            sizes[tensor.dtype] += tensor.numel()
    return sizes.most_common(1)[0][0] if sizes else torch.float32


def _place(model: Any, device: str) -> Any:
    if device != "auto":
        return model.to(device)
    from accelerate import dispatch_model, infer_auto_device_map

    device_map = infer_auto_device_map(model, no_split_module_classes=list(model._no_split_modules or ()))
    return dispatch_model(model, device_map)


def _align_layer(provenance: dict[str, Any], recipe: dict[str, Any], layers: int) -> int | None:
    """The aligned layer: what training noted down, else a whole number in its recipe; None where it lies outside the
    model."""
    for value in (provenance.get("align_layer"), recipe.get("align_layer")):
        if (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and value == int(value)
            and 0 <= value <= layers
        ):
            return int(value)
    return None


def _start_notes(provenance: dict[str, Any], tokenizer: Any, source: str) -> list[str]:
    """Where training recorded a start token (older checkpoints have no record) that is not the one that texts are
    measured with."""
    recorded, measured = provenance.get("start_token"), start_name(tokenizer)
    if recorded is None or recorded == measured:
        return []
    return [
        f"{source}: its training began every text with {recorded}; it is measured with {measured}, so its numbers may "
        "be too low"
    ]


def _tokenizer_files(tokenizer: Any) -> dict[str, str | torch.Tensor]:
    """The files of `tokenizer.save_pretrained`, without references to code and paths and without the padding of the
    last call."""
    files: dict[str, str | torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        with _quiet():
            tokenizer.save_pretrained(
                folder, save_jinja_files=False
            )  # chat templates, also several, inside tokenizer_config.json
        for path in sorted(Path(folder).iterdir()):
            content = path.read_bytes()
            if path.name in ("tokenizer.json", "tokenizer_config.json"):
                fields = json.loads(content)
                dropped = ("padding", "truncation") if path.name == "tokenizer.json" else ()
                for key in dropped:
                    fields[key] = None
                if path.name == "tokenizer_config.json":
                    for key in (
                        "auto_map",
                        "trust_remote_code",
                        "name_or_path",
                        "local_files_only",
                        "is_local",
                        "tokenizer_file",
                        "vocab_file",
                        "merges_file",
                    ):
                        fields.pop(key, None)
                content = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
            try:
                files[path.name] = content.decode("utf-8")
            except UnicodeDecodeError:
                files[path.name] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    return files


def _check_tokenizer_files(files: dict[Any, Any], source: str) -> None:
    if not files:
        raise InputError(f"{source} holds no tokenizer")
    for name, content in files.items():
        if not isinstance(name, str) or not _TOKENIZER_FILE.fullmatch(name) or name in _NO_TOKENIZER_FILE:
            raise InputError(f"{source}: {name!r} is not a permitted name of a tokenizer file")
        binary = (
            isinstance(content, torch.Tensor)
            and _is_dense(content)
            and content.dtype is torch.uint8
            and content.dim() == 1
        )
        if not binary and type(content) is not str:
            raise InputError(f"{source}: tokenizer file {name} is neither text nor bytes")
    if isinstance(files.get("tokenizer_config.json"), str):
        with _refusing(f"{source}: tokenizer_config.json is not readable"):
            fields = json.loads(files["tokenizer_config.json"])
            refused = sorted({"auto_map", "trust_remote_code"} & fields.keys())
        if refused:
            raise InputError(f"{source}: its tokenizer asks for {', '.join(refused)}; code of a file's own is refused")


def _tokenizer_from_files(files: dict[str, str | torch.Tensor], source: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(
                content.encode("utf-8") if isinstance(content, str) else content.numpy().tobytes()
            )
        tokenizer = _tokenizer_from_folder(Path(folder), source)
    tokenizer.name_or_path = source  # not the temporary folder
    return tokenizer


def _tokenizer_from_folder(folder: Path, source: str, **options: Any) -> Any:
    from transformers import AutoTokenizer

    if not options and not _tokenizer_paths(folder):  # transformers would make an empty one
        raise InputError(f"{source} has no tokenizer files; {opening_checks.COPY_TOKENIZER}")
    with _refusing(f"{source}: its tokenizer cannot be loaded"), _quiet():
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **options
        )
        opening_checks.ordinary_tokens(tokenizer, source)
    return tokenizer


def _content_hash(payload: dict[str, Any]) -> str:
    """SHA-256 over configuration, tokenizer and weights as stored. Hashing leaves the interpreter lock, so tensors go
    side by side."""

    def digest(tensor: torch.Tensor) -> str:
        return hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()

    tokenizer = {
        name: content if isinstance(content, str) else digest(content) for name, content in payload["tokenizer"].items()
    }
    state = payload["state_dict"]
    distinct = {(tensor.data_ptr(), tensor.nbytes): tensor for tensor in state.values()}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        digests = dict(zip(distinct, pool.map(digest, distinct.values()), strict=True))
    weights = [
        [name, str(tensor.dtype), list(tensor.shape), digests[tensor.data_ptr(), tensor.nbytes]]
        for name, tensor in sorted(state.items())
    ]
    content = json.dumps([payload["config"], tokenizer, weights], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


# ----------------------------------------------------------------------------------------------------------------------
# Hugging Face folders, adapters, the hub, GGUF
def _open_folder(folder: Path, reference: str, device: str, dtype: torch.dtype | None, format_: Format) -> Checkpoint:
    source = reference
    notes, key_mapping = _inspect_folder(folder, source)
    sidecar = (
        _read_json(folder / SIDECAR, f"{source}: its {SIDECAR} is not readable") if (folder / SIDECAR).is_file() else {}
    )
    provenance, recipe = sidecar.get("provenance") or {}, sidecar.get("recipe") or {}
    if not (isinstance(provenance, dict) and isinstance(recipe, dict)):
        raise InputError(f"{source}: its {SIDECAR} is not readable: recipe and provenance must be objects")
    tokenizer = _tokenizer_from_folder(folder, source)
    model, dropped = _model_from_folder(folder, source, device, dtype or "auto", key_mapping=key_mapping)
    if dropped:
        notes.append(
            f"{source}: {some_of(dropped)} in its weight files belong to no part of the model and were left out"
        )
    if (
        opening_checks.says_tied(model)
        and model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    ):
        opening_checks.mark_untied(model)
        notes.append(
            f"{source}: its configuration ties input and output embeddings, but two different ones are stored; both "
            "are used"
        )
    notes += _start_notes(provenance, tokenizer, source)
    return Checkpoint(
        name=folder.resolve().name,
        reference=reference,
        model=model,
        tokenizer=tokenizer,
        prompt_template=sidecar.get("prompt_template"),
        heads=None,
        stage=sidecar.get("stage"),
        step=sidecar.get("step"),
        align_layer=_align_layer(provenance, recipe, model.config.get_text_config().num_hidden_layers),
        provenance=provenance,
        recipe=recipe,
        content_hash=_hash_files(_identity_files(folder)),
        format=format_,
        notes=[*(note for note in sidecar.get("notes") or [] if isinstance(note, str)), *notes],
    )


def _inspect_folder(folder: Path, source: str) -> tuple[list[str], dict[str, str] | None]:
    """Notes, and how names of stored tensors are to be changed. Reads the configuration and the headers of the weight
    files only.

    Raises InputError unless the folder holds, by names and shapes, a causal language model that transformers knows.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_utils import load_state_dict

    config = _read_json(
        folder / "config.json", f"{source} is a folder without a readable config.json, so no Hugging Face model"
    )
    notes = _check_folder_config(config, source)
    opening_checks.refuse_not_causal(config, source)
    files = _weight_files(folder, source)
    stored: dict[str, torch.Tensor] = {}
    for path in files:
        with _refusing(f"{source}: {path.name} cannot be loaded"):
            stored |= load_state_dict(str(path), map_location="meta")
    key_mapping = None
    if prefix := opening_checks.wrapper_prefix(stored):
        key_mapping = {"^" + re.escape(prefix): ""}
        stored = {name.removeprefix(prefix): tensor for name, tensor in stored.items()}
        notes.append(
            f"{source}: the names of all its tensors begin with {prefix!r}, which a wrapper left there; it was taken "
            "off"
        )
    if config.get("quantization_config") is not None:  # its packed tensors have names and shapes of their own
        return notes, key_mapping
    with _refusing(f"{source}: the model cannot be loaded"), _quiet():
        built = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            kind: Any = type(AutoModelForCausalLM.from_config(built, trust_remote_code=False))
        _, info = kind.from_pretrained(
            None,
            config=built,
            state_dict=stored,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if empty := sorted(name for name, tensor in stored.items() if tensor.numel() == 0):
        raise InputError(
            f"{source}: {some_of(empty)} are of size 0, as DeepSpeed ZeRO-3 leaves weights that it did not gather; "
            "`python zero_to_fp32.py . whole`, in the checkpoint's folder, makes whole ones; open those"
        )
    if missing := sorted(info["missing_keys"]):
        wrapper = opening_checks.wrapped(stored)
        left = f"; {wrapper!r} in some of its names was left by a wrapper: take it off all of them" if wrapper else ""
        raise InputError(f"{source} lacks {some_of(missing)}, which its configuration asks for{left}")
    for name, found, asked in sorted(info["mismatched_keys"]):
        raise InputError(f"{source}: {name} has shape {list(found)}, its configuration asks for {list(asked)}")
    opening_checks.refuse_sizeable_rest(info["unexpected_keys"], stored, source)
    return notes, key_mapping


def _weight_files(folder: Path, source: str) -> list[Path]:
    """The files that transformers would read, in its order of preference."""
    for name in (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ):
        path = folder / name
        if not path.is_file():
            continue
        if path.suffix != ".json":
            return [path]
        index = _read_json(path, f"{source}: its {name} is not readable").get("weight_map")
        if not isinstance(index, dict) or not index or any(Path(str(part)).name != part for part in index.values()):
            raise InputError(f"{source}: its {name} is not readable: weight_map must name files of the folder")
        files = [folder / part for part in sorted(set(index.values()))]
        if absent := [path.name for path in files if not path.is_file()]:
            raise InputError(f"{source}: {some_of(absent)}, which its {name} names, is missing")
        return files
    raise InputError(
        f"{source} holds no weights (model.safetensors or pytorch_model.bin, also in parts){_unmerged_shards(folder)}"
    )


def _unmerged_shards(folder: Path) -> str:
    """What to do with the pieces that a sharded training run leaves in place of weights."""
    if any(folder.glob("*/*_model_states.pt")) or (folder / "zero_to_fp32.py").is_file():
        return (
            "; it is a DeepSpeed checkpoint: `python zero_to_fp32.py . whole` in that folder makes the whole weights; "
            "open those"
        )
    if any(folder.glob("*.distcp")) or any(folder.glob("*/*.distcp")):
        return "; it is an FSDP checkpoint in shards: `accelerate merge-weights` makes the whole weights; open those"
    return ""


def _stored_floating(files: Iterable[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of weight files, one in memory at a time."""
    from safetensors import safe_open

    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (it is no dict)
                    tensor = file.get_tensor(name)
                    if tensor.is_floating_point():
                        yield name, tensor
        else:
            mapped = zipfile.is_zipfile(path)  # older files cannot be
            for name, tensor in torch.load(path, map_location="cpu", weights_only=True, mmap=mapped).items():
                if tensor.is_floating_point():
                    yield name, tensor


def _check_folder_config(config: dict[str, Any], source: str) -> list[str]:
    from transformers import CONFIG_MAPPING

    model_type = config.get("model_type")
    for key in (
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
    ):
        if "/" in str(config.get(key)):
            raise InputError(f"{source}: its config.json asks for a kernel from the hub ({key}), which is refused")
    if "auto_map" in config and model_type not in CONFIG_MAPPING:
        raise InputError(
            f"{source} needs code of its own (auto_map in config.json), which is never run; only models that "
            "transformers knows can be opened"
        )
    if "auto_map" in config:
        return [f"{source}: the code named in its config.json was not used; transformers has this model itself"]
    return []


def _model_from_folder(
    folder: Path, source: str, device: str, dtype: torch.dtype | str, **options: Any
) -> tuple[Any, list[str]]:
    """The model, and the names of stored tensors that it has no place for. Missing, mis-shaped and non-finite tensors
    are refused."""
    from transformers import AutoModelForCausalLM

    with _refusing(f"{source}: the model cannot be loaded"), _quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            device_map=None if device == "cpu" else device,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{source} lacks {some_of(missing)}, which its configuration asks for")
    _refuse_non_finite(
        (
            (name, tensor)
            for name, tensor in model.state_dict().items()
            if tensor.is_floating_point() and not tensor.is_meta
        ),
        source,
    )
    return model.eval(), sorted(info["unexpected_keys"])


def _read_adapter(folder: Path, reference: str) -> tuple[str, dict[str, Any]]:
    """The reference of the base model, and the adapter's configuration."""
    if importlib.util.find_spec("peft") is None:
        raise MissingAssetError(f"{reference} is an adapter; opening it needs peft: pip install 'alignx-eval[lora]'")
    config = _read_json(folder / "adapter_config.json", f"{reference}: its adapter_config.json is not readable")
    base_name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(base_name, str) or not base_name:
        raise InputError(f"{reference}: its adapter_config.json names no base model (base_model_name_or_path)")
    if config.get("megatron_config") is not None:  # peft would import the module that the file names
        raise InputError(f"{reference}: its adapter_config.json asks for Megatron layers, which are refused")
    if (folder / base_name).exists():
        base_name = str(folder / base_name)
    elif not Path(base_name).expanduser().exists() and revision:
        base_name += f"@{revision}"
    if Path(base_name).expanduser().exists() and Path(base_name).expanduser().resolve() == folder.resolve():
        raise InputError(f"{reference}: its adapter_config.json names the adapter itself as its base model")
    if not (folder / "adapter_model.safetensors").is_file() and not (folder / "adapter_model.bin").is_file():
        raise InputError(f"{reference} cannot be merged into {base_name}: it has no adapter_model.safetensors")
    return base_name, config


@contextlib.contextmanager
def _naming_base(reference: str) -> Iterator[None]:
    try:
        yield
    except AlignxError as error:
        raise type(error)(f"{reference} is an adapter and its base model cannot be opened: {error}") from None


def _open_adapter(
    folder: Path,
    reference: str,
    device: str,
    dtype: torch.dtype | None,
    offline: bool,
    cache_dir: str | os.PathLike[str] | None,
) -> Checkpoint:
    base_name, config = _read_adapter(folder, reference)
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

    with _naming_base(reference):
        base = _open(base_name, device, dtype, offline, cache_dir)
    tokenizer = base.tokenizer
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = _tokenizer_from_folder(folder, reference)
        rows = embeddings_of(base.model)
        if len(tokenizer) > rows:
            raise InputError(
                f"{reference}: its tokenizer has {len(tokenizer)} tokens, its base {rows} embeddings; "
                "merge and save it with peft, then open that folder"
            )
    with (
        _refusing(f"{reference}: the adapter cannot be merged into {base_name}"),
        _quiet(),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(base.model, str(folder), is_trainable=False)
        if incomplete := [
            str(warning.message) for warning in caught if "missing adapter keys" in str(warning.message).lower()
        ]:
            raise InputError(f"{reference} lacks adapter weights: {one_line(incomplete[0], 200)}")
        if not hasattr(adapted.base_model, "merge_and_unload"):
            raise InputError(
                f"{reference}: adapters of this kind ({config.get('peft_type')}) cannot be merged into a model"
            )
        stored = load_peft_weights(str(folder), device="cpu")
        loaded: Any = set_peft_model_state_dict(
            adapted, stored
        )  # once more: the first time does not tell what was left over
        dropped = sorted(name.replace(".default", "") for name in loaded.unexpected_keys)
        opening_checks.refuse_sizeable_rest(dropped, stored, reference)
        model, untied = merge_adapter(adapted, tokenizer, reference)
    notes = [f"{reference}: {config.get('peft_type')} adapter merged into {base_name}"]
    if untied:
        notes.append(
            f"{reference}: the adapter changes one of the base's tied embeddings; they were given weights of their "
            "own for it"
        )
    if (folder / "config.json").is_file():
        notes.append(f"{reference}: beside the adapter it holds a config.json of a whole model, which was not used")
    if dropped:
        notes.append(
            f"{reference}: {some_of(dropped)} in its weight file belong to no part of the adapter and were left out"
        )
    notes += [f"{reference}: peft warns: {one_line(message)}" for message in dict.fromkeys(_telling(caught))]
    weights = [path for path in sorted(folder.iterdir()) if path.name.startswith("adapter_")]
    return replace(
        base,
        name=folder.resolve().name,
        reference=reference,
        model=model,
        tokenizer=tokenizer,
        heads=None,
        stage=None,
        step=None,
        align_layer=None,
        provenance={
            "adapter": reference,
            "base": base_name,
            "base_content_hash": base.content_hash,
            "base_provenance": base.provenance,
        },
        recipe={},
        content_hash=_hash_files([*weights, *_tokenizer_paths(folder)], base.content_hash),
        format="adapter",
        notes=[*base.notes, *notes],
    )


def merge_adapter(adapted: Any, tokenizer: Any, source: str) -> tuple[Any, bool]:
    """The base model of a peft model with the adapters merged into it, and whether its tied embeddings had to be untied
    for that.

    A delta on one of two tied matrices would otherwise be added to both. Raises InputError where the merged model gives
    other logits for an ordinary sentence than the adapter did.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    tokens = opening_checks.ordinary_tokens(tokenizer, source)
    adapted.eval()
    before = opening_checks.logits_of(adapted, tokens)
    model = adapted.get_base_model()
    tied = opening_checks.says_tied(model)
    if any(isinstance(end, BaseTunerLayer) for end in (model.get_input_embeddings(), model.get_output_embeddings())):
        opening_checks.untie(model)
    model = adapted.merge_and_unload(safe_merge=True).eval()
    untied = tied and model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    if untied:  # also where the adapter brings a whole matrix
        opening_checks.mark_untied(model)
    opening_checks.check_merged(before, opening_checks.logits_of(model, tokens), model.dtype, source)
    return model, untied


def _telling(caught: Iterable[warnings.WarningMessage]) -> Iterator[str]:
    """What peft warns of, but for tied embeddings, which `merge_adapter` takes care of, and what is none of the user's
    business."""
    for warning in caught:
        message = str(warning.message)
        if issubclass(warning.category, UserWarning) and not re.search(
            r"\btied?\b|tie_word_embeddings|weight_tying", message
        ):
            yield message


def _hub_folder(
    hub_id: str, revision: str | None, offline: bool, cache_dir: str | os.PathLike[str] | None
) -> tuple[Path, str]:
    """The snapshot of a hub model on disk and its commit; fetched only when not offline."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = f"{hub_id}@{revision}" if revision else hub_id

    def fetch(patterns: list[str] | None) -> Path:
        return Path(
            snapshot_download(
                hub_id,
                revision=revision,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                local_files_only=offline,
                allow_patterns=patterns,
                ignore_patterns=["*/*"],
            )
        )

    try:
        folder = fetch(["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"])
        if not offline and not any(folder.glob("*.safetensors")):
            folder = fetch(["pytorch_model*", "adapter_model.bin"])
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise InputError(
            f"{wanted}: the hub has no such model or revision, or does not give it to you ({one_line(error, 120)})"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        if offline:
            raise MissingAssetError(
                f"{wanted} is no file or folder here and not in the hub cache, and the network is off; fetch it "
                "first, or allow the network"
            ) from None
        raise MissingAssetError(f"{wanted} could not be fetched: {one_line(error, 200)}") from None
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise MissingAssetError(
            f"{wanted}: the weights are not in the hub cache" + ("; the network is off" if offline else "")
        )
    return folder, folder.name


def _check_gguf(path: Path, reference: str) -> None:
    """Raise what keeps a `.gguf` from being opened, as far as its header and its tensors, unpacked one by one, tell."""
    from transformers import AutoConfig

    with _one_gguf_reader(reference) as reader, contextlib.redirect_stderr(io.StringIO()):
        tensors = _gguf_tensors(path, reference, reader)
        with _refusing(f"{reference}: the model cannot be loaded"), _quiet():
            config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
        opening_checks.refuse_not_causal(json.loads(config.to_json_string(use_diff=False)), reference)
        _tokenizer_from_folder(path.parent, reference, gguf_file=path.name)
        with _refusing(f"{reference} is a damaged or unknown GGUF file"):
            _refuse_non_finite(_unpacked(tensors), reference)


def _gguf_tensors(path: Path, reference: str, reader: Callable[[str], Any]) -> list[Any]:
    """The tensors of a GGUF file, still packed and on disk. Raises InputError where it is damaged, or one part of
    several."""
    with _refusing(f"{reference} is a damaged or unknown GGUF file"):
        content = reader(str(path))
        parts = content.get_field("split.count")
        count = int(parts.contents()) if parts is not None else 1
    if count > 1:
        first = re.sub(r"-\d{5}-of-", "-00001-of-", path.name)
        raise InputError(
            f"{reference} is one of the {count} parts of a split GGUF file; join them with "
            f"`llama-gguf-split --merge {first} {re.sub(r'-00001-of-.*', '', first)}.gguf` (part of llama.cpp) and "
            "open the result"
        )
    return list(content.tensors)


def _unpacked(tensors: Iterable[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and values of each tensor of a GGUF file, some rows at a time."""
    from gguf import dequantize

    for tensor in tensors:
        rows = tensor.data.reshape(-1, tensor.data.shape[-1])
        for start in range(0, len(rows), 4096):
            yield tensor.name, torch.tensor(dequantize(rows[start : start + 4096], tensor.tensor_type))


def _open_gguf(path: Path, reference: str, device: str, dtype: torch.dtype | None) -> Checkpoint:
    options: dict[str, Any] = {"gguf_file": path.name}
    with contextlib.suppress(
        ImportError
    ):  # newer transformers can keep blocks packed, with kernels fetched from the hub: never
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    with (
        _one_gguf_reader(reference) as reader,
        contextlib.redirect_stderr(io.StringIO()),
    ):  # its progress bar knows no switch
        sizes: Counter[str] = Counter()
        for tensor in _gguf_tensors(path, reference, reader):
            sizes[tensor.tensor_type.name] += int(tensor.n_elements)
        # A file mixes types; the embeddings of a large vocabulary alone can outweigh all blocks.
        quantisation = " and ".join(name for name, size in sizes.most_common() if size >= 0.05 * sizes.total())
        tokenizer = _tokenizer_from_folder(path.parent, reference, gguf_file=path.name)
        model, dropped = _model_from_folder(path.parent, reference, device, dtype or torch.float32, **options)
    # The weights are plain tensors now; left in place, these would keep the model from being saved.
    model.hf_quantizer = None
    with contextlib.suppress(AttributeError):
        del model.config.quantization_config
    notes = [f"{reference}: {some_of(dropped)} belong to no part of the model and were left out"] if dropped else []
    if set(quantisation.split(" and ")) - {"F32", "F16", "BF16"}:
        wide = str(model.dtype).removeprefix("torch.")
        notes.insert(
            0,
            f"{reference}: weights quantised to {quantisation}, here unpacked to {wide}; all numbers are those of the "
            "quantised model",
        )
    return Checkpoint(
        name=path.stem,
        reference=reference,
        model=model,
        tokenizer=tokenizer,
        prompt_template=None,
        heads=None,
        stage=None,
        step=None,
        align_layer=None,
        provenance={"quantisation": quantisation},
        recipe={},
        content_hash=_hash_files([path]),
        format="gguf",
        notes=notes,
    )


@contextlib.contextmanager
def _one_gguf_reader(reference: str) -> Iterator[Callable[[str], Any]]:
    """Parse a GGUF file once: transformers reads its header, tokenizer included, three times over, seconds each."""
    try:
        import gguf
    except ImportError:
        raise MissingAssetError(
            f"{reference} is a GGUF file; opening it needs gguf: pip install 'alignx-eval[gguf]'"
        ) from None
    library: Any = gguf
    original = library.GGUFReader
    library.GGUFReader = reader = functools.cache(original)
    try:
        yield reader
    finally:
        library.GGUFReader = original


def _tokenizer_paths(folder: Path) -> list[Path]:
    names = (
        "tokenizer",
        "vocab",
        "merges",
        "special_tokens_map",
        "added_tokens",
        "chat_template",
        "spiece",
        "sentencepiece",
    )
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.startswith(names)]


def _identity_files(folder: Path) -> list[Path]:
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return [folder / "config.json", *weights, *_tokenizer_paths(folder)]


def _hash_files(paths: list[Path], prefix: str = "") -> str:
    def digest(path: Path) -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        content = [
            prefix,
            *(f"{path.name} {value}" for path, value in zip(paths, pool.map(digest, paths), strict=True)),
        ]
    return hashlib.sha256("\n".join(content).encode("utf-8")).hexdigest()


# ----------------------------------------------------------------------------------------------------------------------
# Small helpers
def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(count)
    except OSError as error:
        raise InputError(f"cannot read {path}: {one_line(error)}") from None


def _read_json(path: Path, complaint: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{complaint} ({one_line(error, 120)})") from None
    if not isinstance(content, dict):
        raise InputError(f"{complaint} (it is no JSON object)")
    return content


@contextlib.contextmanager
def _refusing(complaint: str) -> Iterator[None]:
    """Turn whatever a library raises over somebody's file into one InputError; running out of memory and our own errors
    pass."""
    try:
        yield
    except (AlignxError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(f"{complaint}: {one_line(error)}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no log lines of transformers: what matters is raised or noted."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
