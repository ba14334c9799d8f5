"""What is read back from the folder of a run: whose it is, its log, and the state that a run goes on from.

Any of these files can have been cut, changed or exchanged since it was written. That is told before anything in the folder is touched.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from alignx_eval.errors import InputError
from alignx_eval.run_directory import atomic_write
from alignx_trainer.config import Recipe

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
    for name in sorted(expected.keys() | saved.keys(), key=str):
        if name not in expected or not isinstance(saved.get(name), torch.Tensor) or saved[name].shape != expected[name]:
            raise damaged(path, f"the tensor {name!r} is not the model's")


def check_moments(path: Path, state: Mapping[torch.Tensor, Mapping[str, Any]]) -> None:
    """Raises InputError unless an optimizer's restored state fits its parameters; it would fail at the next step."""
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
