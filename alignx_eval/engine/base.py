"""What a suite asks of a model: three verbs, what lm-eval needs, and the facts that stand beside the numbers.

A suite knows nothing else of a model, so another engine is one file with a class that has these members (see
docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from alignx_eval.corpora import ParallelCorpus
    from alignx_eval.engine.encode import CorpusVectors, Pooling
    from alignx_eval.engine.generate import Output
    from alignx_eval.engine.score import SentenceCosts

Progress = Callable[[int, int, str], None]  # (done, total, what)


class Engine(Protocol):
    """One checkpoint, ready to work. Texts go in; token ids come out of `tokenize` alone."""

    @property
    def name(self) -> str:
        """The label of the checkpoint in all results."""

    @property
    def content_hash(self) -> str:
        """Identity of weights, configuration and tokenizer."""

    @property
    def align_layer(self) -> int | None:
        """The layer that the checkpoint was aligned at, where it says so."""

    @property
    def context(self) -> int | None:
        """Tokens that the model was made for; None where that is not known."""

    @property
    def vocabulary(self) -> int:
        """Tokens that the tokenizer has."""

    @property
    def start(self) -> str:
        """Role and text of the token that stands before every text: "BOS <s>", "EOS </s>", or "none"."""

    @property
    def end_names(self) -> list[str]:
        """The tokens that end an output."""

    def environment(self) -> dict[str, str]:
        """`dtype`, `device`, and what else of the engine moves numbers slightly."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""

    def check_encode(self, corpus: ParallelCorpus) -> None:
        """Raise InputError for what `encode` could not do with this text, naming the languages."""

    def encode(
        self, corpus: ParallelCorpus, *, pooling: Pooling, cache_dir: str | Path | None, progress: Progress | None
    ) -> CorpusVectors:
        """One vector a sentence and layer: float32 [languages, lines, width] of each layer, the embeddings first."""

    def check_score(self) -> None:
        """Raise InputError where the model cannot score texts of unequal length together."""

    def score(
        self, corpus: ParallelCorpus, *, window: int, max_tokens_per_batch: int, progress: Progress | None
    ) -> dict[str, SentenceCosts]:
        """By language, what each line costs: bits, bytes, unknown bytes, tokens. A line is read in windows of `window`
        tokens."""

    def prompt_lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens that each prompt takes of the context, the start token included."""

    def generate(
        self, prompts: Sequence[str], caps: Sequence[int], *, max_tokens_per_batch: int, progress: Progress | None
    ) -> list[Output]:
        """The first line that follows each prompt, greedily, of at most `caps` new tokens."""

    def harness_model(self, tasks: Mapping[str, Any]) -> Any:
        """The model as lm-eval wants it (`lm_eval.api.model.LM`, with `max_length`), for these loaded tasks."""

    def harness_starts(self) -> tuple[str, str]:
        """What stands at the start of a prompt when lm-eval makes it ("bos", "eos", another special token, "none"), and
        of an empty prompt ("bos", "eos", "line break")."""
