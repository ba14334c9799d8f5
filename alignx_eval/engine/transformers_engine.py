"""The engine over transformers: an open checkpoint in this process, or in each of the processes of a launcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignx_eval.checkpoint import Checkpoint
from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine import batches, harness
from alignx_eval.engine.base import Progress
from alignx_eval.engine.decoding_cache import check_padding
from alignx_eval.engine.encode import CorpusVectors, Pooling, check_lengths, encode_corpus
from alignx_eval.engine.generate import Output, end_names, generate_lines
from alignx_eval.engine.score import SentenceCosts, corpus_costs


@dataclass(frozen=True, slots=True)
class TransformersEngine:
    """See `engine.base.Engine`."""

    checkpoint: Checkpoint

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def content_hash(self) -> str:
        return self.checkpoint.content_hash

    @property
    def align_layer(self) -> int | None:
        return getattr(self.checkpoint, "align_layer", None)

    @property
    def context(self) -> int | None:
        return batches.context_length(self.checkpoint.model)

    @property
    def vocabulary(self) -> int:
        return len(self.checkpoint.tokenizer)

    @property
    def start(self) -> str:
        return batches.start_name(self.checkpoint.tokenizer)

    @property
    def end_names(self) -> list[str]:
        return end_names(self.checkpoint)

    def environment(self) -> dict[str, str]:
        return batches.encoding_environment(self.checkpoint)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return batches.tokens_of(self.checkpoint.tokenizer, texts)

    def check_encode(self, corpus: ParallelCorpus) -> None:
        check_lengths(self.checkpoint, corpus)

    def encode(
        self, corpus: ParallelCorpus, *, pooling: Pooling, cache_dir: str | Path | None, progress: Progress | None
    ) -> CorpusVectors:
        return encode_corpus(self.checkpoint, corpus, pooling=pooling, cache_dir=cache_dir, progress=progress)

    def check_score(self) -> None:
        check_padding(self.checkpoint.model)

    def score(
        self, corpus: ParallelCorpus, *, window: int, max_tokens_per_batch: int, progress: Progress | None
    ) -> dict[str, SentenceCosts]:
        return corpus_costs(
            self.checkpoint.model,
            self.checkpoint.tokenizer,
            corpus,
            window=window,
            max_tokens_per_batch=max_tokens_per_batch,
            progress=progress,
        )

    def prompt_lengths(self, prompts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in batches.sentence_token_ids(self.checkpoint.tokenizer, prompts)]

    def generate(
        self, prompts: Sequence[str], caps: Sequence[int], *, max_tokens_per_batch: int, progress: Progress | None
    ) -> list[Output]:
        return generate_lines(
            self.checkpoint, prompts, caps, max_tokens_per_batch=max_tokens_per_batch, progress=progress
        )

    def harness_model(self, tasks: Mapping[str, Any]) -> Any:
        return harness.lm_eval_model(self.checkpoint, tasks)

    def harness_starts(self) -> tuple[str, str]:
        return harness.starts(self.checkpoint.tokenizer)
