"""A recipe: one YAML file, `key=value` overrides, every key and every type checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails, PydanticKnownError

from alignx_eval.errors import InputError
from alignx_eval.plain_yaml import read_yaml

RECIPE_VERSION = 1
RECIPES = Path(__file__).parent / "recipes"
ACCELERATE = RECIPES / "accelerate"  # configurations for `accelerate launch --config_file`
ALTERNATIVES = (("epochs", "steps"), ("init", "model"))  # keys of which a recipe gives one

Contrastive = Literal["symmetric", "paper_formula", "official_code"]
SourceKind = Literal["monolingual", "translation", "instructions"]
FloatFormat = Literal["float32", "bfloat16"]


def _without_fraction(value: Any) -> Any:
    """`max_tokens: 1e9` is a whole number too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _no_nan(value: float) -> float:
    if math.isnan(value):
        raise PydanticKnownError("float_type")
    return value


def _languages(value: Any) -> Any:
    """YAML has lists, and null for none."""
    return tuple(value) if isinstance(value, list) else () if value is None else value


# Types are strict: nothing becomes a number, a text or a truth value that was none. A whole number does where a number
# is wanted.
Whole = Annotated[int, BeforeValidator(_without_fraction)]
Number = Annotated[float, AfterValidator(_no_nan)]
Languages = Annotated[tuple[str, ...], BeforeValidator(_languages)]
Model = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]

Built = TypeVar("Built")  # Recipe or Source

STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, config=STRICT)
class Source:
    """One stream of training samples. Raises InputError for a wrong key, type or value, as `Recipe` does."""

    kind: SourceKind
    # A bundled corpus, a folder of line-aligned files, hub:Helsinki-NLP/opus-100@COMMIT; for instructions a JSONL file,
    # `bundled`, or hub:MBZUAI/Bactrian-X@COMMIT. `languages` have to be named for these two data sets, and for folders
    # in their layout.
    path: str = "interface"
    split: str | None = None  # null: `train` of a bundled corpus, the one split of a folder
    languages: Languages = ()  # FLORES codes; empty: all of the corpus
    pivot: str | None = "eng_Latn"  # translation: pairs into and out of this language; null: all pairs
    weight: Number = 1.0  # share of the samples, relative to the other sources
    # Share of a language (translation: of a pair of languages) in this source: its number of records to the power
    # 1 / temperature.
    temperature: Number = 1.0

    @model_validator(mode="wrap")
    @classmethod
    def _check_types(cls, value: Any, handler: ModelWrapValidatorHandler[Source]) -> Source:
        return _in_one_line(cls, value, handler)

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise InputError(f"the weight of a source must be above 0, not {self.weight}")
        if not 1 <= self.temperature < float("inf"):
            raise InputError(f"the temperature of a source must be a number from 1 up, not {self.temperature}")


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything that decides a training run. Sizes are in samples, lengths in tokens.

    Raises InputError for a key that there is none of, a wrong type, a value out of range, and keys that contradict each
    other.
    """

    stage: str  # free text that the checkpoint carries: "pretrain", "stage1", "stage2", "tuned"
    sources: tuple[Source, ...]
    version: Whole = RECIPE_VERSION

    ### model
    init: str | None = None  # checkpoint to start from; null: a new model, and a new tokenizer from the sources
    model: Model = field(default_factory=dict)  # transformers configuration of a new model, with `model_type`
    vocabulary_size: Whole = 8000  # of a new tokenizer
    prompt_template: str = "plain"
    lora_rank: Whole = 0  # of low-rank adapters on all linear layers of the blocks (peft); 0: every weight is trained
    lora_alpha: Whole = 32  # adapters count alpha / rank times
    lora_dropout: Number = 0.0
    # Keep one state a block and compute the rest again: less memory, about a third more time.
    activation_checkpointing: bool = False

    ### losses
    align_layer: Number = (
        0.5  # of the contrastive loss: a whole number counts blocks, a fraction below 1 is of the depth
    )
    contrastive: Contrastive = "symmetric"
    contrastive_weight: Number = 0.0
    temperature: Number = 0.1
    matching_weight: Number = 0.0
    matching_width: Whole = 128
    lm_on: Literal["all", "target"] = (
        "target"  # tokens of an instruction with a next-token loss; plain text: always all
    )

    ### optimisation
    batch_size: Whole = 128
    micro_batch_size: Whole = 128
    negatives: Literal["batch", "micro"] = "batch"
    epochs: Number | None = None  # passes over the largest source; or:
    steps: Whole | None = None
    max_tokens: Whole | None = None  # stop at the first step that reaches this many trained-on input tokens
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: Number = 2e-6
    schedule: Literal["linear", "cosine"] = "linear"
    final_learning_rate: Number = 0.0  # as a share of `learning_rate`
    warmup_steps: Whole = 100
    weight_decay: Number = 0.0
    max_grad_norm: Number = 1.0
    max_length: Whole = 512
    dtype: FloatFormat = "float32"  # of the computation; the weights stay float32
    seed: Whole = 0

    ### output
    store_dtype: FloatFormat = "float32"  # of the weights in the checkpoint
    save_every: Whole = 200

    ### validation of the run so far, each sentence encoded alone
    eval_every: Whole = 0  # steps between measurements; 0: none
    eval_path: str = "interface"  # as `path` of a source; never text that is trained on
    eval_split: str | None = None  # null: `validation` of a bundled corpus, the one split of a folder
    eval_languages: Languages = ()  # empty: all of the corpus
    eval_lines: Whole = 100
    # Over-alignment: stop when the loss since step 0 is above this with 95 % confidence, and keep the last measured
    # state before that.
    stop_bits_per_byte: Number | None = None  # rise of the mean bits per byte
    stop_language_identity: Number | None = None  # fall of the language probe's balanced accuracy in the last layer

    @model_validator(mode="wrap")
    @classmethod
    def _check_types(cls, value: Any, handler: ModelWrapValidatorHandler[Recipe]) -> Recipe:
        return _in_one_line(cls, value, handler)

    def __post_init__(self) -> None:
        if self.version != RECIPE_VERSION:
            raise InputError(f"the recipe has version {self.version}; this trainer reads version {RECIPE_VERSION}")
        if not self.sources:
            raise InputError("a recipe needs at least one source")
        for one, other in ALTERNATIVES:
            if both_given(vars(self), one, other):
                raise InputError(f"`{one}` and `{other}` exclude each other; keep one of them")
        if self.epochs is None and self.steps is None:
            raise InputError("give either `epochs` or `steps`")
        if self.batch_size < 1 or self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size:
            raise InputError(f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}")
        if not (0 < self.align_layer < 1 or self.align_layer >= 1 and self.align_layer.is_integer()):
            raise InputError(
                f"align_layer must be a whole number of blocks or a fraction below 1, not {self.align_layer}"
            )
        if self.contrastive_weight < 0 or self.matching_weight < 0 or self.temperature <= 0 or self.learning_rate <= 0:
            raise InputError("weights must not be negative; temperature and learning_rate must be above 0")
        if self.aligns and all(source.kind != "translation" for source in self.sources):
            raise InputError("the contrastive and matching losses need a source of kind `translation`")
        if (self.stop_bits_per_byte is not None or self.stop_language_identity is not None) and not self.eval_every:
            raise InputError("`stop_bits_per_byte` and `stop_language_identity` need `eval_every`")
        if min(self.seed, self.eval_every, self.lora_rank, self.warmup_steps) < 0:
            raise InputError("seed, eval_every, lora_rank and warmup_steps must not be negative")
        if self.save_every < 1 or self.eval_lines < 10:
            raise InputError("save_every must be at least 1, eval_lines at least 10")
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


# What a value should have been, by the beginning of pydantic's name of the error.
EXPECTED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "tuple": "a list",
    "dict": "a mapping",
}


def _in_one_line(cls: Any, value: Any, handler: Callable[[Any], Built]) -> Built:
    """What `handler` makes of `value`, an error of pydantic as one line that names the key and what is expected."""
    try:
        return handler(value)
    except ValidationError as error:
        # A misspelt key is told before the one that it was meant to be is told to be missing.
        first = min(error.errors(), key=lambda found: found["type"] != "unexpected_keyword_argument")
        raise InputError(_message(cls, first)) from None


def _message(cls: Any, error: ErrorDetails) -> str:
    known, (place, *inside), given = [entry.name for entry in fields(cls)], error["loc"], error["input"]
    # An argument by position has its number.
    key = ".".join(map(str, [known[place] if isinstance(place, int) else place, *inside]))
    if error["type"] == "missing":
        return f"the key `{key}` is missing"
    if error["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(key, known, 1)
        return f"unknown key {key!r}; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")
    if error["type"] == "literal_error":
        choices = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
        return f"{key}: {given!r} is not one of {choices}"
    expected = EXPECTED.get(error["type"].partition("_")[0])
    return f"{key} must be {expected}, not {given!r}" if expected else f"{key}: {error['msg']}, not {given!r}"


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

    An override of one of two keys that exclude each other replaces the other key of the file, and `say` is told so.
    Raises InputError with the offending key.
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
    sources = given.get("sources", ())
    if not isinstance(sources, list | tuple) or not all(isinstance(source, dict) for source in sources):
        raise InputError(f"{path}: `sources` must be a list of mappings")
    built = [_built(Source, source, f"{path}, sources.{number}") for number, source in enumerate(sources)]
    return _built(Recipe, given | ({"sources": tuple(built)} if "sources" in given else {}), str(path))


def _built(cls: type[Built], given: dict[Any, Any], where: str) -> Built:
    try:
        return cls(**{str(key): value for key, value in given.items()})
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
