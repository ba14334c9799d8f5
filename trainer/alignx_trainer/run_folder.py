"""What is read back from the folder of a run: whose it is, its log, and the state that a run goes on from.

Any of these files can have been cut, changed or exchanged since it was written. That is told before anything in the folder is touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shlex
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignx_eval import wording
from alignx_eval.errors import AlignxError, InputError
from alignx_eval.files import atomic_write, follow_umask
from alignx_trainer.config import Recipe

if TYPE_CHECKING:
    import torch

# What a kill leaves of files that were being written.
PARTS = (
    "state.pt.part",
    "within_limits.pt.part",
    ".model.pt.*.partial",
    *(f".{name}.*.tmp" for name in ("recipe.json", "log.jsonl", "report.html")),
)


GOES_ON = "when that is mended, the same command goes on from the last saved step"


class TrainingError(AlignxError):
    """Training cannot go on: a loss or gradient is not finite, or the disk is full."""


def _atomic_save(what: Any, path: Path) -> None:
    import torch

    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            torch.save(what, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise TrainingError(f"could not write {path}: {error}; {GOES_ON}") from None


def _open_log(path: Path) -> Any:
    try:
        return open(
            path, "ab", buffering=0
        )  # a line is on its way when it is written, and closing has nothing left to do
    except OSError as error:
        raise TrainingError(f"could not write {path}: {error.strerror}") from None


def _save_adapter(adapted: Any, folder: Path) -> None:
    """The adapter in peft's format, beside the checkpoint that holds it merged; whole under its name or not at all."""
    from safetensors import SafetensorError

    part = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        adapted.save_pretrained(part, save_embedding_layers=False)  # they are frozen; "auto" would ask the hub
        follow_umask(part)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        shutil.rmtree(part, ignore_errors=True)
        raise TrainingError(f"could not write {folder}: {error}; {GOES_ON}") from None


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


STATE_VERSION = 3  # of state.pt


COUNTS = 8  # of what the run has done so far


OPTIONAL = (dict, type(None))


# Parts of the two files that hold weights on the way, with their types.
STATE = {
    "version": int,
    "recipe": str,  # the recipe's hash
    "model": dict,
    "optimizers": list,
    "matcher": OPTIONAL,
    "matcher_optimizer": OPTIONAL,
    "counts": list,
    "start": (list, type(None)),
}


WITHIN_LIMITS = {"step": int, "model": dict, "matcher": OPTIONAL}


def recipe_hash(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(recipe.as_dict(), sort_keys=True).encode()).hexdigest()


def is_marked(folder: Path, recipe: Recipe) -> bool:
    """Whether recipe.json says that the output folder is this recipe's. Raises InputError where it is another run's."""
    file = folder / "recipe.json"
    begun = [name for name in ("model.pt", "state.pt", "log.jsonl") if (folder / name).is_file()]
    if not file.is_file():
        if begun and begun[0] != "state.pt":  # a state says itself which recipe it is of
            raise InputError(f"{folder} holds a {begun[0]} that this recipe did not make; choose another output folder")
        return False
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))["sha256"]
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{file}: is damaged or no file of a run; put back a copy of it, or delete it to go on from a state.pt of this recipe, "
            "or choose another output folder"
        ) from None
    if (
        owner != recipe_hash(recipe) and begun
    ):  # a recipe that ended before it had begun, by an error in it, can be mended
        raise InputError(f"{folder} holds a run of another recipe; choose another output folder or remove it")
    return owner == recipe_hash(recipe)


def mark(folder: Path, recipe: Recipe) -> None:
    """Write recipe.json, which makes the output folder this recipe's."""
    content = {"sha256": recipe_hash(recipe), "recipe": recipe.as_dict()}
    atomic_write(folder / "recipe.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def damaged(path: Path, reason: object) -> InputError:
    """The error for a file with weights that cannot be gone on from."""
    text = " ".join(str(reason).split())[:120]
    state = path if path.name == "state.pt" else path.with_name("state.pt")
    return InputError(
        f"{path}: is damaged ({text}); put back a copy of it, or delete {'it' if path == state else state} to begin the run again at its "
        "first step"
    )


def read_state(path: Path, recipe: Recipe) -> dict[str, Any]:
    """The content of state.pt, on the CPU. Raises InputError where it is damaged, of another recipe or of another version."""
    import torch

    state = _load(path)
    if type(state.get("version")) is int and state["version"] != STATE_VERSION:
        raise InputError(
            f"{path} is of another version of this trainer; finish with that, or delete it to begin the run again"
        )
    _check_parts(path, state, STATE)
    if state["recipe"] != recipe_hash(recipe):
        raise InputError(f"{path} is of a run of another recipe; choose another output folder or remove it")
    counts, start = state["counts"], state["start"]
    if not (len(counts) == COUNTS and all(type(count) in (int, float) for count in counts) and type(counts[0]) is int):
        raise damaged(path, "its counts are no counts")
    if (start is not None) != (recipe.eval_every > 0) or not all(
        isinstance(values, torch.Tensor) for values in start or ()
    ):
        raise damaged(path, "its first measurement is none")
    return state


def read_within_limits(path: Path) -> dict[str, Any]:
    """The content of within_limits.pt, on the CPU. Raises InputError where it is damaged."""
    content = _load(path)
    _check_parts(path, content, WITHIN_LIMITS)
    return content


def _load(path: Path) -> dict[str, Any]:
    import torch

    try:
        file = open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        with file, zipfile.ZipFile(file) as archive:
            changed = archive.testzip()  # torch.load does not look at the checksums
            file.seek(0)
            content = None if changed else torch.load(file, weights_only=True, map_location="cpu")
    except (
        Exception
    ) as error:  # whatever zipfile, pickle and torch make of a damaged file; torch advises weights_only=False
        raise damaged(path, type(error).__name__ if "weights_only" in str(error) else error) from None
    if changed:
        raise damaged(path, f"{changed} does not have its checksum")
    if not isinstance(content, dict):
        raise damaged(path, f"it holds a {type(content).__name__}")
    return content


def _check_parts(path: Path, content: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    for name, kind in parts.items():
        if not isinstance(content.get(name, ...), kind):
            raise damaged(path, f"its part {name!r} is missing or of a wrong type")


def check_tensors(path: Path, saved: Mapping[str, Any], expected: Mapping[str, torch.Size]) -> None:
    """Raises InputError unless `saved` has tensors of these names and shapes; load_state_dict would take what is there."""
    import torch

    for name in sorted(expected.keys() | saved.keys(), key=str):
        if name not in expected or not isinstance(saved.get(name), torch.Tensor) or saved[name].shape != expected[name]:
            raise damaged(path, f"the tensor {name!r} is not the model's")


def check_moments(path: Path, state: Mapping[torch.Tensor, Mapping[str, Any]]) -> None:
    """Raises InputError unless an optimizer's restored state fits its parameters; it would fail at the next step."""
    import torch

    for parameter, moments in state.items():
        tensors = [value for value in moments.values() if isinstance(value, torch.Tensor)]
        if moments.keys() != next(iter(state.values())).keys() or any(
            value.ndim and value.shape != parameter.shape for value in tensors
        ):
            raise damaged(path, "an optimizer's state does not fit its parameters")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a killed run or a full disk leaves a part of one at the end, without the end of the line.

    Raises InputError where a line is no step.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.is_file() else []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if type(entry["step"]) is not int:
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{path}: line {number} is damaged; put back a copy of the file, or move it away to go on with a new log from the last "
                "saved step"
            ) from None
        entries.append(entry)
    return entries


Values = list[float | None]


@dataclass(frozen=True)
class Run:
    """What a training run left in its folder."""

    name: str  # of the recipe, as well as can be told
    recipe: dict[str, Any]
    recipe_hash: str
    lines: list[dict[str, Any]]  # of the log, one a step, in order
    validations: list[tuple[int, dict[str, Any]]]  # step and measurement, in order; step 0: before training
    stage: dict[str, Any] | None  # the provenance of this stage; None while the run is not finished
    init: dict[str, Any] | None

    @property
    def steps(self) -> int:
        """Steps that the log holds."""
        return int(self.lines[-1]["step"])

    def values(self, name: str) -> Values:
        return [_number(line.get(name)) for line in self.lines]

    def fact(self, name: str) -> Any:
        """Of the finished stage; None while there is none or it does not record this."""
        return (self.stage or {}).get(name)

    @property
    def stopped(self) -> str | None:
        """Why the run ended early, None if it did not."""
        reasons = [self.fact("stopped"), *(line.get("stopped") for line in reversed(self.lines))]
        return next((str(reason) for reason in reasons if reason), None)


# --- reading ----------------------------------------------------------------------------------------------------------------------
def read_run(folder: Path) -> Run:
    """The run in `folder`. Raises InputError where that is no folder of a run, holds no step yet, or a file in it is damaged."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: {'is no folder' if folder.exists() else 'does not exist'}; give the output folder of a training run"
        )
    entries = logged_steps(folder / "log.jsonl")
    mark = _read_object(folder / "recipe.json")
    recipe = mark.get("recipe")
    if not isinstance(recipe, dict):
        raise InputError(f"{folder / 'recipe.json'}: holds no recipe")
    provenance = _read_provenance(folder / "model.pt")
    stages = provenance.get("stages") or []
    stage = stages[-1] if stages and isinstance(stages[-1], dict) else None
    lines = [entry for entry in entries if entry["step"] > 0]
    if not lines:
        raise InputError(f"{folder / 'log.jsonl'}: holds no step yet; the report can be made after the first one")
    return Run(
        name=_recipe_name(mark, stage, folder),
        recipe=wording.finite(recipe),
        recipe_hash=str(mark.get("sha256") or ""),
        lines=lines,
        validations=[
            (entry["step"], entry["validation"]) for entry in entries if isinstance(entry.get("validation"), dict)
        ],
        stage=stage,
        init=provenance.get("init"),
    )


def logged_steps(path: Path) -> list[dict[str, Any]]:
    """The lines of a log in order of their steps; a last line that was cut off is left out.

    Raises InputError where the file is missing or empty, or a line before the last is no JSON object with a step.
    """
    texts = _read_text(path, "is this the output folder of a training run?").splitlines()
    texts = [text for text in texts if text.strip()]
    found: dict[int, dict[str, Any]] = {}
    for number, text in enumerate(texts, 1):
        try:
            entry = json.loads(text)
            step = entry["step"]
            if not isinstance(step, int):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            if number == len(texts):  # the process was killed while it wrote
                break
            raise InputError(f"{path}: line {number} is no step of a training log") from None
        found[step] = wording.finite(entry)
    if not found:
        raise InputError(f"{path}: is empty; the report can be made after the first step")
    return [found[step] for step in sorted(found)]


def _read_text(path: Path, help_: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; {help_}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path, "is this the output folder of a training run?"))
    except ValueError:
        raise InputError(f"{path}: is no JSON") from None
    return content if isinstance(content, dict) else {}


def _read_provenance(path: Path) -> dict[str, Any]:
    """What the checkpoint says of its making; empty where there is none yet. Its weights stay on disk."""
    if not path.is_file():
        return {}
    from alignx_eval.checkpoint import _read_pt

    return wording.finite(_read_pt(path)["provenance"])


def _recipe_name(mark: dict[str, Any], stage: dict[str, Any] | None, folder: Path) -> str:
    """The recipe as it was named on the command line; a run that does not record it has the name of its folder."""
    if mark.get("name"):
        return str(mark["name"])
    try:
        words = shlex.split(str((stage or {}).get("command") or ""))[1:]
    except ValueError:  # a quote that is not closed
        words = []
    for before, word in zip(["", *words], words, strict=False):
        if word != "train" and not word.startswith("-") and "=" not in word and before not in ("--out", "--threads"):
            return Path(word).stem
    return folder.resolve().name


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
