"""Language modelling: bits per byte of each language, and what its tokenizer does to it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from alignx_eval.corpora import ParallelCorpus
from alignx_eval.engine.base import Engine, Progress
from alignx_eval.engine.score import WINDOW, SentenceCosts
from alignx_eval.errors import InputError
from alignx_eval.languages import LANGUAGES
from alignx_eval.results import Items, Row, SuiteResult
from alignx_eval.statistics.clustered import clustered_mean, clustered_ratio, ratio_influence
from alignx_eval.suites.shared import UNDEFINED, corpus_fingerprint, interval_fields

SUITE = "language_modelling"
# Share of a language's bytes that the tokenizer may not know. They are paid for by few tokens or none, so bits per byte
# is too low by about this share of itself: 0.001 to 0.004 at 1 to 4 bits per byte, a fraction of the 0.02 that the
# default policy tolerates.
MOST_UNKNOWN = 0.001
NO_TEXT = "the lines hold no text"
SCRIPTS_WITHOUT_SPACES = frozenset({"Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"})


def run(
    engine: Engine,
    corpus: ParallelCorpus,
    *,
    window: int = WINDOW,
    max_tokens_per_batch: int = 8192,
    progress: Progress | None = None,
) -> SuiteResult:
    """Bits per byte of every language of `corpus`, with what its tokenizer makes of it.

    Every line stands alone: -log2 p of all its tokens, over all its UTF-8 bytes, in the windows of `rolling_windows`.
    Each window begins with the BOS token. Where the tokenizer has none, the EOS token stands in its place (it ends the
    document before); where it has neither, nothing does, and the first token of a line costs log2(vocabulary). The end
    of the sentence is not scored.

    Rows, per language (kind of items in brackets):
      bits_per_byte         sum of bits / sum of bytes over the lines [ratio]; lower is better. Not judged where more
                            than `MOST_UNKNOWN` of the bytes are unknown, as it is then a lower bound; undefined where
                            the lines have no token
      tokens_per_character  tokens / characters (Unicode code points, spaces included), without special tokens; a fact
                            about the tokenizer
      tokens_per_word       tokens / words between spaces; undefined in scripts that write without spaces
      unknown_rate          share of the bytes that the unknown token, or no token, stands for
    and over all languages:
      bits_per_byte         mean of the languages' values, all languages alike [mean of linearised values: see
                            `_mean_of_ratios`]; judged only where all of them are
    Intervals treat a cluster of lines as one observation. Raises InputError as `check`, and for tokens that the model
    does not have.
    """
    started = time.perf_counter()
    check(engine, corpus, window=window)
    costs = engine.score(corpus, window=window, max_tokens_per_batch=max_tokens_per_batch, progress=progress)
    result = SuiteResult(
        suite=SUITE,
        rows=[],
        default_clusters=corpus.groups,
        item_ids=corpus.ids,
        fingerprint=corpus_fingerprint(corpus)
        | {"unit": "bits per UTF-8 byte", "context": "each line alone", "window": window},
        environment=engine.environment() | {"start_token": engine.start, "vocabulary": engine.vocabulary},
    )
    if not engine.start.startswith("BOS"):
        first = (
            "is conditioned on EOS"
            if engine.start.startswith("EOS")
            else "is charged log2 of the vocabulary, as there is no EOS token either"
        )
        result.notes.append(f"The tokenizer of {engine.name} has no BOS token: the first token of a line {first}.")
    for code in corpus.languages:
        result.rows += _language_rows(engine.name, code, corpus, costs[code], result.items)
    result.rows.append(_summary_row(engine.name, corpus, costs, result.items))
    if named := unknown_languages({code: own for code, own in costs.items() if not _nothing_to_score(own)}):
        result.warnings.append(
            "the tokenizer does not know all of the text, and an unknown token costs once whatever it stands for: "
            "bits per byte is a lower "
            f"bound, and not judged, in {', '.join(named.values())}."
        )
    result.seconds = time.perf_counter() - started
    return result


def check(engine: Engine, corpus: ParallelCorpus, *, window: int = WINDOW) -> None:
    """Raise InputError for what `run` could not measure, without measuring: lines that need more positions than the
    model has, and a model that padding on the right disturbs."""
    engine.check_score()
    if window < 2:
        raise InputError(f"a window of {window} tokens has no context; at least 2 are needed")
    limit = engine.context
    if limit is None or limit >= window:
        return
    # The last token of a window is not put in; the start token takes its place, if any.
    unseen = int(engine.start == "none")
    too_long = {
        code: sum(min(len(ids), window) - unseen > limit for ids in engine.tokenize(corpus.sentences[code]))
        for code in corpus.languages
    }
    named = ", ".join(
        f"{code} ({count} {'line' if count == 1 else 'lines'})" for code, count in too_long.items() if count
    )
    if named:
        raise InputError(
            f"{engine.name} has a context of {limit} tokens, and bits per byte in windows of {window} needs more in "
            f"{named}: "
            f"leave these languages out with --languages, or measure every checkpoint with --window {limit} or less"
        )


def unknown_languages(costs: Mapping[str, SentenceCosts]) -> dict[str, str]:
    """Those whose text the tokenizer does not know, so that their bits per byte must decide nothing, each with its
    share of unknown bytes in words."""
    shares = {code: own.unknown_share() for code, own in costs.items()}
    return {code: f"{code} ({_percent(share)} of the bytes)" for code, share in shares.items() if share > MOST_UNKNOWN}


def _language_rows(
    name: str, code: str, corpus: ParallelCorpus, costs: SentenceCosts, items: dict[str, Items]
) -> list[Row]:
    """The rows of one language from the costs of its lines."""
    lines = corpus.sentences[code]
    common: dict[str, Any] = {"suite": SUITE, "checkpoint": name, "language": code, "n": len(lines)}
    ratio = np.column_stack([costs.bits, costs.bytes])
    nothing = _nothing_to_score(costs)
    if reason := nothing or _not_finite(costs):
        rows = [Row(metric="bits_per_byte", higher_is_better=False, reason=reason, **UNDEFINED, **common)]
    else:
        fields = interval_fields(clustered_ratio(ratio, corpus.groups))
        share = costs.unknown_share()
        bound = (
            f"a lower bound, as the tokenizer does not know {_percent(share)} of the bytes"
            if share > MOST_UNKNOWN
            else None
        )
        rows = [Row(metric="bits_per_byte", higher_is_better=False, unjudged=bound, **fields, **common)]
        items[rows[0].key] = Items("ratio", ratio)
    without_spaces = LANGUAGES[code].script in SCRIPTS_WITHOUT_SPACES
    for metric, numerator, denominator, missing in (
        ("tokens_per_character", costs.tokens, [len(line) for line in lines], nothing),
        (
            "tokens_per_word",
            costs.tokens,
            [len(line.split()) for line in lines],
            f"{LANGUAGES[code].name} is written without spaces" if without_spaces else nothing,
        ),
        ("unknown_rate", costs.unknown_bytes, costs.bytes, None),
    ):
        if missing is None and sum(denominator) == 0:
            missing = NO_TEXT
        values = (
            UNDEFINED
            if missing
            else interval_fields(clustered_ratio(np.column_stack([numerator, denominator]), corpus.groups))
        )
        rows.append(Row(metric=metric, higher_is_better=None, reason=missing, **values, **common))
    return rows


def _nothing_to_score(costs: SentenceCosts) -> str | None:
    """Why the lines of a language have no bits per byte, whatever the model."""
    if costs.bytes.sum() == 0:
        return NO_TEXT
    return "the tokenizer gives no token for these lines" if costs.tokens.sum() == 0 else None


def _not_finite(costs: SentenceCosts) -> str | None:
    return None if np.isfinite(costs.bits).all() else "the model's probabilities are not finite"


def _summary_row(name: str, corpus: ParallelCorpus, costs: dict[str, SentenceCosts], items: dict[str, Items]) -> Row:
    """Mean over the languages of their bits per byte."""
    common: dict[str, Any] = {
        "suite": SUITE,
        "metric": "bits_per_byte",
        "checkpoint": name,
        "n": len(corpus),
        "higher_is_better": False,
    }
    if undefined := [code for code, own in costs.items() if _nothing_to_score(own) or _not_finite(own)]:
        return Row(reason=f"undefined for {', '.join(undefined)}", **UNDEFINED, **common)
    values = _mean_of_ratios([np.column_stack([own.bits, own.bytes]) for own in costs.values()])
    fields = interval_fields(clustered_mean(values, corpus.groups))
    fields["method"] = f"mean of {len(costs)} languages' ratios, linearised; {fields['method']}"
    unknown = unknown_languages(costs)
    unjudged = f"a lower bound, as the tokenizer does not know the text of {', '.join(unknown)}" if unknown else None
    row = Row(unjudged=unjudged, **fields, **common)
    items[row.key] = Items("mean", values)
    return row


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _mean_of_ratios(ratios: list[np.ndarray]) -> np.ndarray:
    """Linearised values [lines] of the mean of several languages' ratios (each [lines, 2], the same parallel lines).

    The pooled ratio, all bits over all bytes, would weigh a language by the bytes its script takes. The mean over
    languages is no ratio of sums, but to first order it is a mean over lines: with r_l the ratio of language l and D_l
    its bytes, line i counts mean_l [r_l + n (bits_il - r_l bytes_il) / D_l]. Their mean is exactly the mean of the r_l,
    and their clustered standard error is that of Taylor linearisation (Cochran 1977, 6.3) with all languages of a line
    taken together. So they pair across checkpoints as any mean does.
    """
    values = np.zeros(len(ratios[0]))
    for ratio in ratios:
        point, influence = ratio_influence(ratio)
        values += point + len(ratio) * influence
    return values / len(ratios)
