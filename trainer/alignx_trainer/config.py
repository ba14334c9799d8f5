"""A recipe: one YAML file, `key=value` overrides, every key checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from alignx_eval.errors import InputError
from alignx_eval.plain_yaml import read_yaml

RECIPE_VERSION = 1
RECIPES = Path(__file__).parent / "recipes"
ACCELERATE = RECIPES / "accelerate"  # configurations for `accelerate launch --config_file`
ALTERNATIVES = (("epochs", "steps"), ("init", "model"))  # keys of which a recipe gives one

Contrastive = Literal["symmetric", "paper_formula", "official_code"]
SourceKind = Literal["monolingual", "translation", "instructions"]


@dataclass(frozen=True)
class Source:
    """One stream of training samples."""

    kind: SourceKind
    # A bundled corpus, a folder of line-aligned files, hub:Helsinki-NLP/opus-100@COMMIT; for instructions a JSONL file, `bundled`, or
    # hub:MBZUAI/Bactrian-X@COMMIT. `languages` have to be named for these two data sets, and for folders in their layout.
    path: str = "interface"
    split: str | None = None  # null: `train` of a bundled corpus, the one split of a folder
    languages: tuple[str, ...] = ()  # FLORES codes; empty: all of the corpus
    pivot: str | None = "eng_Latn"  # translation: pairs into and out of this language; null: all pairs
    weight: float = 1.0  # share of the samples, relative to the other sources
    # Share of a language (translation: of a pair of languages) in this source: its number of records to the power 1 / temperature.
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(SourceKind):
            raise InputError(f"unknown kind of source {self.kind!r}; known: {', '.join(get_args(SourceKind))}")
        if self.weight <= 0:
            raise InputError(f"the weight of a source must be above 0, not {self.weight}")
        if not 1 <= self.temperature < float("inf"):
            raise InputError(f"the temperature of a source must be a number from 1 up, not {self.temperature}")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run. Sizes are in samples, lengths in tokens."""

    stage: str  # free text that the checkpoint carries: "pretrain", "stage1", "stage2", "tuned"
    sources: tuple[Source, ...]
    version: int = RECIPE_VERSION

    ### model
    init: str | None = (
        None  # checkpoint to start from; null: a new model from `model` and a new tokenizer from the sources
    )
    model: dict[str, Any] = field(
        default_factory=dict
    )  # transformers configuration of a new model, `model_type` among its keys
    vocabulary_size: int = 8000  # of a new tokenizer
    prompt_template: str = "plain"
    lora_rank: int = (
        0  # rank of low-rank adapters on all linear layers of the blocks (peft); 0: every weight is trained
    )
    lora_alpha: int = 32  # adapters count alpha / rank times
    lora_dropout: float = 0.0
    activation_checkpointing: bool = (
        False  # keep one state a block and compute the rest again: less memory, about a third more time
    )

    ### losses
    align_layer: float = (
        0.5  # layer of the contrastive loss: a whole number counts blocks, a fraction below 1 is of the depth
    )
    contrastive: Contrastive = "symmetric"
    contrastive_weight: float = 0.0
    temperature: float = 0.1
    matching_weight: float = 0.0
    matching_width: int = 128
    lm_on: Literal["all", "target"] = (
        "target"  # which tokens of an instruction the next-token loss sees; plain text: always all
    )

    ### optimisation
    batch_size: int = 128
    micro_batch_size: int = 128
    negatives: Literal["batch", "micro"] = "batch"
    epochs: float | None = None  # passes over the largest source; or:
    steps: int | None = None
    max_tokens: int | None = None  # stop at the first step that reaches this many trained-on input tokens
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 2e-6
    schedule: Literal["linear", "cosine"] = "linear"
    final_learning_rate: float = 0.0  # as a share of `learning_rate`
    warmup_steps: int = 100
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 512
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; the weights stay float32
    seed: int = 0

    ### output
    store_dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights in the checkpoint
    save_every: int = 200

    ### validation of the run so far, each sentence encoded alone
    eval_every: int = 0  # steps between measurements; 0: none
    eval_path: str = "interface"  # as `path` of a source; never text that is trained on
    eval_split: str | None = None  # null: `validation` of a bundled corpus, the one split of a folder
    eval_languages: tuple[str, ...] = ()  # empty: all of the corpus
    eval_lines: int = 100
    # Over-alignment: stop when the loss since step 0 is above this with 95 % confidence, and keep the last measured state before that.
    stop_bits_per_byte: float | None = None  # rise of the mean bits per byte
    stop_language_identity: float | None = None  # fall of the language probe's balanced accuracy in the last layer

    def __post_init__(self) -> None:
        if self.version != RECIPE_VERSION:
            raise InputError(f"the recipe has version {self.version}; this trainer reads version {RECIPE_VERSION}")
        for name, kind in get_type_hints(Recipe).items():
            choices = get_args(kind)
            if choices and all(isinstance(choice, str) for choice in choices) and getattr(self, name) not in choices:
                raise InputError(f"{name}: {getattr(self, name)!r} is not one of {', '.join(choices)}")
        if not self.sources:
            raise InputError("a recipe needs at least one source")
        for one, other in ALTERNATIVES:
            if both_given(vars(self), one, other):
                raise InputError(f"`{one}` and `{other}` exclude each other; keep one of them")
        if self.epochs is None and self.steps is None:
            raise InputError("give either `epochs` or `steps`")
        if self.batch_size < 1 or self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size:
            raise InputError(f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}")
        if not (0 < self.align_layer < 1 or self.align_layer >= 1 and self.align_layer == int(self.align_layer)):
            raise InputError(
                f"align_layer must be a whole number of blocks or a fraction below 1, not {self.align_layer}"
            )
        if self.contrastive_weight < 0 or self.matching_weight < 0 or self.temperature <= 0 or self.learning_rate <= 0:
            raise InputError("weights must not be negative; temperature and learning_rate must be above 0")
        if self.aligns and all(source.kind != "translation" for source in self.sources):
            raise InputError("the contrastive and matching losses need a source of kind `translation`")
        if (self.stop_bits_per_byte is not None or self.stop_language_identity is not None) and not self.eval_every:
            raise InputError("`stop_bits_per_byte` and `stop_language_identity` need `eval_every`")
        if min(self.eval_every, self.lora_rank, self.warmup_steps) < 0 or self.save_every < 1 or self.eval_lines < 10:
            raise InputError(
                "eval_every, lora_rank and warmup_steps must not be negative, save_every at least 1, eval_lines at least 10"
            )
        if not 0 <= self.lora_dropout < 1 or self.lora_alpha <= 0:
            raise InputError("lora_dropout must be from 0 to below 1, lora_alpha above 0")
        if self.lora_rank and self.optimizer == "muon":
            raise InputError("Muon is for whole weight matrices; train adapters with adamw")
        if self.lora_rank and self.init is None:
            raise InputError("adapters need a model to adapt; give `init`")
        if self.init is None and "model_type" not in self.model:
            raise InputError("a recipe without `init` needs `model` with its `model_type`")

    @property
    def aligns(self) -> bool:
        return self.contrastive_weight > 0 or self.matching_weight > 0

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types only, as the checkpoint stores them."""
        plain = asdict(self)
        plain["eval_languages"] = list(self.eval_languages)
        plain["sources"] = [dict(source, languages=list(source["languages"])) for source in plain["sources"]]
        return plain


def both_given(recipe: dict[str, Any], one: str, other: str) -> bool:
    """Whether both keys have a value."""
    return all(recipe.get(key) not in (None, {}) for key in (one, other))


def _checked(cls: type, given: dict[str, Any], where: str) -> dict[str, Any]:
    known = [entry.name for entry in fields(cls)]
    unknown = [key for key in given if key not in known]
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), known, 1)
        raise InputError(
            f"{where}: unknown key {unknown[0]!r}; "
            + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")
        )
    return given


def _number(cls: type, given: dict[str, Any], where: str) -> dict[str, Any]:
    """A wrong type should be named here, not somewhere in torch."""
    for name, kind in get_type_hints(cls).items():
        if name not in given or given[name] is None:
            continue
        if kind is bool and not isinstance(given[name], bool):
            raise InputError(f"{where}: {name} must be true or false, not {given[name]!r}")
        accepted = {part for part in (get_args(kind) or (kind,)) if part in (int, float)}
        if accepted:
            try:
                value = float(given[name])
            except (TypeError, ValueError):
                value = math.nan
            if math.isnan(value) or isinstance(given[name], bool):
                raise InputError(f"{where}: {name} must be a number, not {given[name]!r}")
            if float not in accepted and value != int(value):
                raise InputError(f"{where}: {name} must be a whole number, not {given[name]!r}")
            given[name] = value if float in accepted else int(value)
    return given


def find_recipe(name: str) -> Path:
    """Path of a recipe file: a path, or the name of a shipped recipe."""
    for path in (Path(name), RECIPES / f"{name}.yaml"):
        if path.is_file():
            return path
    shipped = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    raise InputError(f"no recipe {name!r}: neither a file nor one of the shipped recipes ({shipped})")


def _put(given: Any, key: list[str], value: Any, override: str) -> None:
    """Set `sources.0.path` and the like."""
    try:
        for part in key[:-1]:
            given = given[int(part)] if isinstance(given, list) else given[part]
        if isinstance(given, list):
            given[int(key[-1])] = value
        else:
            given[key[-1]] = value
    except (KeyError, IndexError, ValueError, TypeError):
        raise InputError(f"{override!r}: the recipe has no {'.'.join(key)}") from None


def load_recipe(
    name: str, overrides: list[str] | None = None, say: Callable[[str], None] = lambda line: None
) -> Recipe:
    """Read a recipe and apply `key=value` overrides (values are YAML; `sources.0.path=...` reaches inside).

    An override of one of two keys that exclude each other replaces the other key of the file, and `say` is told so. Raises InputError
    with the offending key.
    """
    path = find_recipe(name)
    try:
        given = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not isinstance(given, dict):
        raise InputError(f"{path}: a recipe is a mapping of keys to values")
    overridden: dict[str, str] = {}
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise InputError(f"{override!r}: overrides have the form key=value")
        try:
            _put(given, key.split("."), read_yaml(value), override)
        except yaml.YAMLError:
            raise InputError(f"{override!r}: the value is no valid YAML") from None
        overridden[key.split(".")[0]] = override
    for pair in ALTERNATIVES:
        new = [key for key in pair if key in overridden]
        if len(new) == 1 and both_given(given, *pair):
            (old,) = set(pair) - set(new)
            value = given.pop(old)
            say(f"{overridden[new[0]]} replaces `{old}{'' if isinstance(value, dict) else f': {value}'}` of the recipe")
    given = _number(Recipe, _checked(Recipe, given, str(path)), str(path))
    sources = given.get("sources")
    if not isinstance(sources, list) or not all(isinstance(source, dict) for source in sources):
        raise InputError(f"{path}: `sources` must be a list of mappings")
    where = f"{path}, sources"
    prepared = [
        dict(_number(Source, _checked(Source, source, where), where), languages=tuple(source.get("languages") or ()))
        for source in sources
    ]
    if "stage" not in given:
        raise InputError(f"{path}: the key `stage` is missing")
    if not all("kind" in source for source in prepared):
        raise InputError(f"{where}: the key `kind` is missing")
    try:
        built = tuple(Source(**source) for source in prepared)
        return Recipe(**dict(given, sources=built, eval_languages=tuple(given.get("eval_languages") or ())))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
