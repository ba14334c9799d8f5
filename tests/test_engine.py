"""A suite asks its engine and nothing else: a second engine, of arrays and a bigram model in plain Python, goes through
the real suites."""

from __future__ import annotations

import ast
import inspect
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignx_eval.corpora import ParallelCorpus, load_corpus
from alignx_eval.engine.base import Engine
from alignx_eval.engine.batches import padded
from alignx_eval.engine.encode import CorpusVectors, Encoding
from alignx_eval.engine.generate import Output
from alignx_eval.engine.score import SentenceCosts
from alignx_eval.engine.transformers_engine import TransformersEngine
from alignx_eval.evaluate import check, evaluate
from alignx_eval.measures.bits_per_byte import utf8_bytes
from alignx_eval.run_directory import suite_key
from alignx_eval.suites import table
from alignx_eval.suites.table import Options

LANGUAGES = ("eng_Latn", "deu_Latn", "spa_Latn")
LINES, WIDTH = 24, 16
ROOT = Path(table.__file__).parent.parent


class Bigrams:
    """Bytes are tokens; the probability of a byte after another is add-one smoothed over the text it was made of. Layer
    0 is noise, layer 1 knows which line a sentence is, so that it retrieves every translation; it answers each prompt
    with the reference it is given."""

    name = "bigrams"
    content_hash = "bigrams of the test"
    align_layer = 1
    context = None
    vocabulary = 256
    start = "none"
    end_names: Sequence[str] = ()

    def __init__(self, corpus: ParallelCorpus, answers: dict[str, str]) -> None:
        self.answers = answers
        pairs = [pair for lines in corpus.sentences.values() for text in lines for pair in _pairs(text)]
        self.counts, self.totals = Counter(pairs), Counter(before for before, _ in pairs)
        self.asked: list[str] = []

    def environment(self) -> dict[str, str]:
        return {"dtype": "float64", "device": "plain Python"}

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def check_encode(self, corpus: ParallelCorpus) -> None:
        pass

    def encode(self, corpus: ParallelCorpus, *, pooling: str, cache_dir: Any, progress: Any) -> CorpusVectors:
        self.asked.append("encode")
        meaning = np.random.default_rng(0).normal(size=(len(corpus), WIDTH))
        sources = {}
        for number, code in enumerate(corpus.languages):
            noise = np.random.default_rng(1 + number).normal(size=(2, len(corpus), WIDTH))
            vectors = np.stack([noise[0], meaning + 0.01 * noise[1], meaning + 0.01 * noise[1]]).astype(np.float32)
            counts = np.full(len(corpus), 5)
            sources[code] = Encoding(
                vectors=vectors,
                layer_names=("0", "1", "1+norm"),
                token_counts=counts,
                largest_token_share=np.full((3, len(corpus)), 0.2, dtype=np.float32),
            )
        return CorpusVectors(
            corpus.languages,
            ("0", "1", "1+norm"),
            {code: each.token_counts for code, each in sources.items()},
            {code: each.largest_token_share for code, each in sources.items()},
            len(sources),
            sources,
        )

    def check_score(self) -> None:
        pass

    def score(
        self, corpus: ParallelCorpus, *, window: int, max_tokens_per_batch: int, progress: Any
    ) -> dict[str, SentenceCosts]:
        self.asked.append("score")
        return {
            code: SentenceCosts(
                bits=np.array([self.bits(text) for text in lines]),
                bytes=np.array([utf8_bytes(text) for text in lines]),
                unknown_bytes=np.zeros(len(lines), dtype=np.int64),
                tokens=np.array([utf8_bytes(text) for text in lines]),
            )
            for code, lines in corpus.sentences.items()
        }

    def bits(self, text: str) -> float:
        return sum(-math.log2((self.counts[pair] + 1) / (self.totals[pair[0]] + 256)) for pair in _pairs(text))

    def prompt_lengths(self, prompts: Sequence[str]) -> list[int]:
        return [len(prompt.encode()) for prompt in prompts]

    def generate(
        self, prompts: Sequence[str], caps: Sequence[int], *, max_tokens_per_batch: int, progress: Any
    ) -> list[Output]:
        self.asked.append("generate")
        return [Output(self.answers[prompt], "line") for prompt in prompts]

    def harness_model(self, tasks: Any) -> Any:
        raise NotImplementedError

    def harness_starts(self) -> tuple[str, str]:
        raise NotImplementedError


def _pairs(text: str) -> list[tuple[int, int]]:
    data = [-1, *text.encode()]
    return list(zip(data, data[1:], strict=False))


@pytest.fixture(scope="module")
def corpus() -> ParallelCorpus:
    return load_corpus("interface", "validation", LANGUAGES, LINES)


@pytest.fixture(scope="module")
def engine(corpus: ParallelCorpus) -> Bigrams:
    from alignx_eval.prompts import translation_prompt

    pairs = [("eng_Latn", code) for code in LANGUAGES[1:]] + [(code, "eng_Latn") for code in LANGUAGES[1:]]
    answers = {
        translation_prompt("plain", source, target, line): corpus.sentences[target][number]
        for source, target in pairs
        for number, line in enumerate(corpus.sentences[source])
    }
    return Bigrams(corpus, answers)


def test_the_members_of_both_engines_are_those_of_the_protocol(engine: Bigrams):
    wanted = {name for name in vars(Engine) if not name.startswith("_")}
    for made in (TransformersEngine, Bigrams):
        assert wanted <= set(dir(made)), wanted - set(dir(made))


def test_a_second_engine_goes_through_every_suite_that_reads_text(engine: Bigrams, corpus: ParallelCorpus):
    suites = ("layers", "language_id", "language_modelling", "translation")
    check(engine, corpus, suites, Options())
    results = evaluate(engine, corpus, suites, Options())
    assert set(engine.asked) == {"encode", "score", "generate"}
    rows = {row.key: row for result in results.values() for row in result.rows}
    assert {row.checkpoint for row in rows.values()} == {"bigrams"}
    # Layer 1 finds every translation, layer 0 none but by chance.
    assert rows["layers/precision_at_1/1/-/-"].value == 1 and rows["layers/precision_at_1/0/-/-"].value < 0.2
    for code in LANGUAGES:
        lines = corpus.sentences[code]
        expected = sum(engine.bits(text) for text in lines) / sum(len(text.encode()) for text in lines)
        assert rows[f"language_modelling/bits_per_byte/-/{code}/-"].value == pytest.approx(expected, rel=1e-12)
    assert rows["translation/bleu/-/-/-"].value == pytest.approx(100)
    assert rows["translation/off_target_rate/-/-/-"].value == 0
    for result in results.values():
        assert result.environment["device"] == "plain Python" and result.fingerprint["measuring_version"]


def test_a_corpus_without_english_has_another_pivot(corpus: ParallelCorpus, engine: Bigrams):
    german = corpus.select(("deu_Latn", "spa_Latn"))
    from alignx_eval.errors import InputError
    from alignx_eval.prompts import translation_prompt

    with pytest.raises(InputError, match="eng_Latn"):
        check(engine, german, ["layers"], Options())
    answers = {
        translation_prompt("plain", source, target, line): german.sentences[target][number]
        for source, target in (("deu_Latn", "spa_Latn"), ("spa_Latn", "deu_Latn"))
        for number, line in enumerate(german.sentences[source])
    }
    options = Options(pivot="deu_Latn")
    results = evaluate(Bigrams(german, answers), german, ["layers", "translation"], options)
    keys = {row.key for result in results.values() for row in result.rows}
    assert "layers/precision_at_1/1/spa_Latn/deu_Latn" in keys and "translation/bleu/-/deu_Latn/spa_Latn" in keys
    assert {result.fingerprint["pivot"] for result in results.values()} == {"deu_Latn"}
    # What was measured before there was a choice keeps its key.
    identities = [table.identity("layers", engine, corpus, Options(pivot=pivot)) for pivot in ("eng_Latn", "deu_Latn")]
    assert "pivot" not in identities[0] and identities[1]["pivot"] == "deu_Latn"


@pytest.mark.parametrize("place", ["suites", "evaluate.py"])
def test_no_suite_opens_or_calls_a_model(place: str):
    files = sorted((ROOT / place).glob("*.py")) if (ROOT / place).is_dir() else [ROOT / place]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("model", "tokenizer"), f"{path.name}, line {node.lineno}"


def test_every_entry_of_the_table_has_its_module():
    from importlib import import_module

    for name, suite in table.TABLE.items():
        module = import_module(f"alignx_eval.suites.{name}")
        assert {*suite.deciding, *suite.further, "progress"} <= set(inspect.signature(module.run).parameters), name
        assert set(suite.checked) <= set(inspect.signature(module.check).parameters), name


def test_one_padding_on_either_side():
    rows = [[5, 6, 7], [8], [9, 9]]
    ids, mask = padded(rows)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0], [9, 9, 0]] and mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    ids, mask = padded(rows, left=True)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8], [0, 9, 9]] and mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]


OTHER = Options(
    languages=("deu_Latn", "zho_Hans"),
    pooling="last",
    seed=3,
    template="alpaca",
    limit=7,
    window=64,
    samples=False,
    cache_dir="x",
)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (
            Options(),
            ("0f5644ad9a2838a2", "8f64e7804399cc52", "d27fd210756a9325", "a80dd13ec0bd5f48", "f7cb9cde245b3239"),
        ),
        (OTHER, ("e4f3d9048f26327b", "f24389a8a88111c5", "3bf578f2a3d95f3b", "f006d9df6e2233f9", "9e8a43682a5fbbbe")),
    ],
)
def test_keys_of_results_that_lie_in_run_directories(monkeypatch, engine: Bigrams, options: Options, keys: tuple):
    """Recorded before there was a table, with the measuring versions of then: a run of that time is not measured
    again."""
    lines = {"eng_Latn": ("one", "two"), "deu_Latn": ("eins", "zwei"), "zho_Hans": ("一", "二")}
    toy = ParallelCorpus("toy", "test", lines, ("a", "b"), ("a", "b"), "CC0", "")
    versions = {"layers": 3, "language_id": 2, "language_modelling": 2, "translation": 2, "tasks": 2}
    monkeypatch.setattr(table, "MEASURING_VERSIONS", versions)
    monkeypatch.setattr(Bigrams, "environment", lambda self: {"dtype": "float32", "device": "cpu"})
    for suite, key in zip(versions, keys, strict=True):
        identity = table.identity(suite, engine, toy, table.resolved(suite, options))
        assert suite_key(label="base", content_hash="0" * 64, suite=suite, options=identity) == key, suite
