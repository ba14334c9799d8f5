"""The folder of a training run: every file in it, its writer and its reader.

    recipe.json       whose folder it is
    log.jsonl         one line a step, and one for the measurement before the first
    state.pt          what an interrupted run goes on from; gone when it has finished
    within_limits.pt  the last weights that were measured within the limits on over-alignment; likewise
    model.pt          the checkpoint, by `alignx_eval.checkpoint.write_checkpoint`
    adapter/          of a run with adapters, in peft's format
    report.html       by `alignx_trainer.report`

Any of these can have been cut, changed or exchanged since it was written. That is told before anything in the folder is
touched. A report reads the log and needs no torch, so torch is imported where weights are written or read.
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
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from alignx_eval import wording
from alignx_eval.errors import AlignxError, InputError
from alignx_eval.files import atomic_write, follow_umask
from alignx_trainer.config import Recipe

if TYPE_CHECKING:
    import torch

MARK, LOG, STATE, WITHIN_LIMITS = "recipe.json", "log.jsonl", "state.pt", "within_limits.pt"
MODEL, ADAPTER, REPORT = "model.pt", "adapter", "report.html"

# What validation measures, in the order of the arrays of the first measurement in state.pt.
MEASURES = ("precision_at_1", "precision_at_1_last", "language_identity", "bits_per_byte")

# What a kill leaves of files that were being written.
PARTS = (
    f"{STATE}.part",
    f"{WITHIN_LIMITS}.part",
    f".{MODEL}.*.partial",
    *(f".{name}.*.tmp" for name in (MARK, LOG, REPORT)),
)

GOES_ON = "when that is mended, the same command goes on from the last saved step"


class TrainingError(AlignxError):
    """Training cannot go on: a loss or gradient is not finite, or the disk is full."""


# Whose folder it is


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of the resolved recipe, which a run is known by: a default that changes, changes it."""
    return hashlib.sha256(json.dumps(recipe.as_dict(), sort_keys=True).encode()).hexdigest()


def mark(folder: Path, recipe: Recipe) -> None:
    """Write recipe.json, which makes the folder this recipe's."""
    content = {"sha256": recipe_hash(recipe), "recipe": recipe.as_dict()}
    atomic_write(folder / MARK, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def is_marked(folder: Path, recipe: Recipe) -> bool:
    """Whether recipe.json says that the folder is this recipe's. Raises InputError where it is another run's."""
    file = folder / MARK
    begun = [name for name in (MODEL, STATE, LOG) if (folder / name).is_file()]
    if not file.is_file():
        if begun and begun[0] != STATE:  # a state says itself which recipe it is of
            raise InputError(f"{folder} holds a {begun[0]} that this recipe did not make; choose another output folder")
        return False
    try:
        owner = json.loads(file.read_text(encoding="utf-8"))["sha256"]
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{file}: is damaged or no file of a run; put back a copy of it, or delete it to go on from a state.pt of "
            "this recipe, "
            "or choose another output folder"
        ) from None
    # A recipe that ended before it had begun, by an error in it, can be mended.
    if owner != recipe_hash(recipe) and begun:
        raise InputError(f"{folder} holds a run of another recipe; choose another output folder or remove it")
    return bool(owner == recipe_hash(recipe))


# The log


class Log:
    """log.jsonl, open for more lines. Raises TrainingError where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Without a buffer a line is on its way when it is written, and closing has nothing left to do.
            self._file = open(path, "ab", buffering=0)
        except OSError as error:
            raise TrainingError(f"could not write {path}: {error.strerror}") from None

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        try:
            while line:  # on a disk that gets full a write may stop short; the next one fails
                line = line[self._file.write(line) :]
        except OSError as error:
            raise TrainingError(f"could not write {self.path}: {error.strerror}; {GOES_ON}") from None

    def sync(self) -> None:
        """The lines so far are on the disk when this returns."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise TrainingError(f"could not write {self.path}: {error.strerror}; {GOES_ON}") from None


def rewrite_log(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """A log of these lines alone, as a whole or not at all."""
    atomic_write(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def _entry(line: str) -> dict[str, Any] | None:
    """A line of the log; None where it is no JSON object with the number of a step."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and type(entry.get("step")) is int else None


# There are two readers, since there are two uses. A run goes on from its log and writes it anew, so every line has to
# be one that it wrote, and only a part without the end of a line can be a kill's. A report shows what there is, of a
# copied or edited log too: the last line counts where it is whole, a step that is there twice counts once, and a log
# that is missing is an error.


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of the log of a run that goes on, in their order; none where there is no file.

    A killed run or a full disk leaves a part of a line at the end, which is left out. Raises InputError where a line is
    no step.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if path.is_file() else []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    entries = []
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if entry is None:
            raise InputError(
                f"{path}: line {number} is damaged; put back a copy of the file, or move it away to go on with a new "
                "log from the last "
                "saved step"
            )
        entries.append(entry)
    return entries


def logged_steps(path: Path) -> list[dict[str, Any]]:
    """The lines of a log for its report, one a step, in order of their steps; a last line that was cut off is left out.

    Raises InputError where the file is missing or empty, or a line before the last is no step.
    """
    lines = [line for line in _read_text(path).splitlines() if line.strip()]
    found: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        entry = _entry(line)
        if entry is not None:
            found[entry["step"]] = wording.finite(entry)
        elif number < len(lines):  # else the process was killed while it wrote
            raise InputError(f"{path}: line {number} is no step of a training log")
    if not found:
        raise InputError(f"{path}: is empty; the report can be made after the first step")
    return [found[step] for step in sorted(found)]


# The state that a run goes on from

STATE_VERSION = 3
OPTIONAL = (dict, type(None))

# Parts of the two files that hold weights on the way, with their types.
STATE_PARTS = {
    "version": int,
    "recipe": str,  # the recipe's hash
    "model": dict,
    "optimizers": list,
    "matcher": OPTIONAL,
    "matcher_optimizer": OPTIONAL,
    "counts": list,
    "start": (list, type(None)),
}
WITHIN_LIMITS_PARTS = {"step": int, "model": dict, "matcher": OPTIONAL}


@dataclass(slots=True)
class Counters:
    """What a run has done so far. In state.pt it is a list in this order."""

    steps: int = 0
    tokens: int = 0  # of the inputs
    samples: int = 0
    truncated: int = 0  # of the samples
    seconds: float = 0.0  # of training, without validation
    validating: float = 0.0  # seconds
    flops: float = 0.0
    kept_step: int = 0  # whose weights are in within_limits.pt; 0: there are none


@dataclass(slots=True)
class State:
    """What an interrupted run goes on from. Of several processes the main one holds it whole."""

    model: dict[str, Any]  # the tensors that are trained
    optimizers: list[dict[str, Any]]  # of the model
    matcher: dict[str, Any] | None
    matcher_optimizer: dict[str, Any] | None
    counters: Counters
    start: list[torch.Tensor] | None  # the measurement before the first step


def save_state(path: Path, recipe: Recipe, state: State) -> None:
    """Write state.pt, as a whole or not at all. Raises TrainingError where it cannot be written."""
    content = {name: getattr(state, name) for name in ("model", "optimizers", "matcher", "matcher_optimizer", "start")}
    content |= {"version": STATE_VERSION, "recipe": recipe_hash(recipe), "counts": list(astuple(state.counters))}
    save_atomically(content, path)


def read_state(path: Path, recipe: Recipe) -> State:
    """The content of state.pt, on the CPU. Raises InputError where it is damaged, of another recipe or of another
    version."""
    import torch

    content = _load(path)
    if type(content.get("version")) is int and content["version"] != STATE_VERSION:
        raise InputError(
            f"{path} is of another version of this trainer; finish with that, or delete it to begin the run again"
        )
    _check_parts(path, content, STATE_PARTS)
    if content["recipe"] != recipe_hash(recipe):
        raise InputError(f"{path} is of a run of another recipe; choose another output folder or remove it")
    counts, start = content["counts"], content["start"]
    known = len(counts) == len(fields(Counters)) and all(type(count) in (int, float) for count in counts)
    if not (known and type(counts[0]) is int):
        raise damaged(path, "its counts are no counts")
    measured = all(isinstance(values, torch.Tensor) for values in start or ())
    if (start is not None) != (recipe.eval_every > 0) or not measured:
        raise damaged(path, "its first measurement is none")
    return State(
        content["model"],
        content["optimizers"],
        content["matcher"],
        content["matcher_optimizer"],
        Counters(*counts),
        start,
    )


def read_within_limits(path: Path) -> dict[str, Any]:
    """The content of within_limits.pt, on the CPU: step, model, matcher. Raises InputError where it is damaged."""
    content = _load(path)
    _check_parts(path, content, WITHIN_LIMITS_PARTS)
    return content


def save_atomically(what: Any, path: Path) -> None:
    """torch.save as a whole or not at all. Raises TrainingError where it cannot be written."""
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


def discard_state(folder: Path) -> None:
    """Away with what was for going on, and with what a kill left."""
    leavings = (part for pattern in PARTS for part in folder.glob(pattern))
    for path in (folder / STATE, folder / WITHIN_LIMITS, *leavings):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def damaged(path: Path, reason: object) -> InputError:
    """The error for a file with weights that cannot be gone on from."""
    text = " ".join(str(reason).split())[:120]
    state = path if path.name == STATE else path.with_name(STATE)
    return InputError(
        f"{path}: is damaged ({text}); put back a copy of it, or delete {'it' if path == state else state} to begin "
        "the run again at its "
        "first step"
    )


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
    except Exception as error:  # whatever zipfile, pickle and torch make of a damaged file
        # torch advises weights_only=False, which would run what the file says.
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
    """Raises InputError unless `saved` has tensors of these names and shapes; load_state_dict would take what is
    there."""
    import torch

    for name in sorted(expected.keys() | saved.keys(), key=str):
        if name not in expected or not isinstance(saved.get(name), torch.Tensor) or saved[name].shape != expected[name]:
            raise damaged(path, f"the tensor {name!r} is not the model's")


def check_moments(path: Path, state: Mapping[torch.Tensor, Mapping[str, Any]]) -> None:
    """Raises InputError unless an optimizer's restored state fits its parameters; it would fail at the next step."""
    import torch

    for parameter, moments in state.items():
        tensors = [value for value in moments.values() if isinstance(value, torch.Tensor)]
        misfit = any(value.ndim and value.shape != parameter.shape for value in tensors)
        if misfit or moments.keys() != next(iter(state.values())).keys():
            raise damaged(path, "an optimizer's state does not fit its parameters")


# The adapter


def save_adapter(adapted: Any, folder: Path) -> None:
    """The adapter in peft's format, beside the checkpoint that holds it merged; whole under its name or not at all.

    Raises TrainingError where it cannot be written.
    """
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


# All of a run, for its report

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
        """A number of the log at each step, None where it is undefined."""
        return [finite_number(line.get(name)) for line in self.lines]

    def fact(self, name: str) -> Any:
        """Of the finished stage; None while there is none or it does not record this."""
        return (self.stage or {}).get(name)

    @property
    def kept_step(self) -> int:
        """The step whose weights the checkpoint has."""
        step = self.fact("kept_step")
        return step if isinstance(step, int) else self.steps

    @property
    def stopped(self) -> str | None:
        """Why the run ended early, None if it did not."""
        reasons = [self.fact("stopped"), *(line.get("stopped") for line in reversed(self.lines))]
        return next((str(reason) for reason in reasons if reason), None)


def read_run(folder: Path) -> Run:
    """The run in `folder`. Raises InputError where that is no folder of a run, holds no step yet, or a file in it is
    damaged."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: {'is no folder' if folder.exists() else 'does not exist'}; give the output folder of a "
            "training run"
        )
    entries = logged_steps(folder / LOG)
    mark = _read_object(folder / MARK)
    recipe = mark.get("recipe")
    if not isinstance(recipe, dict):
        raise InputError(f"{folder / MARK}: holds no recipe")
    provenance = _read_provenance(folder / MODEL)
    stages = provenance.get("stages") or []
    stage = stages[-1] if stages and isinstance(stages[-1], dict) else None
    lines = [entry for entry in entries if entry["step"] > 0]
    if not lines:
        raise InputError(f"{folder / LOG}: holds no step yet; the report can be made after the first one")
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


def finite_number(value: Any) -> float | None:
    """A number of a file as a float; None for what is no number, or none that is finite."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise InputError(f"{path}: does not exist; is this the output folder of a training run?") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read_text(path))
    except ValueError:
        raise InputError(f"{path}: is no JSON") from None
    return content if isinstance(content, dict) else {}


def _read_provenance(path: Path) -> dict[str, Any]:
    """What the checkpoint says of its making; empty where there is none yet. Its weights stay on disk."""
    if not path.is_file():
        return {}
    from alignx_eval.checkpoint import read_pt

    provenance: dict[str, Any] = wording.finite(read_pt(path)["provenance"])
    return provenance


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
