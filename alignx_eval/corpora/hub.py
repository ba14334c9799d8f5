"""Parallel text from a data set of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignx_eval.corpora.parallel_corpus import ParallelCorpus, choose_languages
from alignx_eval.errors import InputError, MissingAssetError
from alignx_eval.languages import LANGUAGES

TEXT_COLUMNS = ("text", "sentence")
GROUP_COLUMNS = ("group", "document_id", "url", "URL")


def load_hub(
    reference: str, *, split: str = "test", languages: Sequence[str] | None = None, limit: int | None = None
) -> ParallelCorpus:
    """The corpus in the hub data set `owner/name@revision`. A revision (a commit, best of all) makes it the same text
    tomorrow.

    Two shapes are understood:
    one configuration per language, named by FLORES code, the sentence in a column `text` or `sentence`
    (openlanguagedata/flores_plus); one table with a column per language, `eng_Latn` or `sentence_eng_Latn`.
    A column `id` names the lines, and one of `group`, `document_id`, `url` or `URL` their cluster. Data sets with code
    are refused. The path of a local folder in the layout of the hub stands in for the name.

    Raises MissingAssetError when the data set cannot be fetched, InputError when it is not there, has another shape,
    lacks the split or a language, or is not parallel.
    """
    import datasets
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    name, _, revision = reference.partition("@")
    if not name:
        raise InputError("hub: needs the name of a data set, as in hub:owner/name@revision")

    def ask(question: Any, *arguments: Any, **options: Any) -> Any:
        """The answer of `datasets`, its errors told apart: what can be fetched later, and what is wrong."""
        try:
            return question(name, *arguments, revision=revision or None, **options)
        except (datasets.exceptions.DatasetNotFoundError, HFValidationError) as error:
            if datasets.config.HF_HUB_OFFLINE:
                raise MissingAssetError(f"data set {reference} is not in the cache and the network is off") from error
            raise InputError(
                f"no data set {reference} on the hub, or no access to it ({_first_line(error)})"
            ) from error
        except (ConnectionError, OfflineModeIsEnabled) as error:
            raise MissingAssetError(
                f"data set {reference} is not in the cache and cannot be fetched ({_first_line(error)})"
            ) from error
        except (ValueError, RuntimeError, FileNotFoundError) as error:
            raise InputError(f"data set {reference} cannot be read ({_first_line(error)})") from error

    configurations = [code for code in ask(datasets.get_dataset_config_names) if code in LANGUAGES]
    if configurations:
        codes = (
            sorted(configurations)
            if languages is None
            else choose_languages(reference, languages, sorted(configurations))
        )
        tables = {code: ask(datasets.load_dataset, code, split=split) for code in codes}
        columns = {code: _text_column(reference, table) for code, table in tables.items()}
    else:
        table = ask(datasets.load_dataset, split=split)
        by_code = {column.removeprefix("sentence_"): column for column in table.column_names}
        available = sorted(code for code in by_code if code in LANGUAGES)
        if not available:
            raise InputError(
                f"data set {reference} names no configuration or column by FLORES code; its columns: "
                f"{', '.join(table.column_names)}"
            )
        codes = available if languages is None else choose_languages(reference, languages, available)
        tables = dict.fromkeys(codes, table)
        columns = {code: by_code[code] for code in codes}

    first = tables[codes[0]]
    for code in codes:
        if len(tables[code]) != len(first):
            raise InputError(
                f"data set {reference} is not parallel: {codes[0]} has {len(first)} lines, {code} has "
                f"{len(tables[code])}"
            )
        if (
            "id" in first.column_names
            and "id" in tables[code].column_names
            and list(tables[code]["id"]) != list(first["id"])
        ):
            raise InputError(f"data set {reference} is not parallel: the ids of {codes[0]} and {code} differ")
    sentences = {code: tuple(tables[code][columns[code]]) for code in codes}
    for code, lines in sentences.items():
        for number, line in enumerate(lines, 1):
            if not isinstance(line, str) or not line.strip() or any(character in line for character in "\n\r\0"):
                raise InputError(
                    f"data set {reference}, {code}, line {number}: empty, or more than one line of text: {line!r:.60}"
                )
    ids = (
        tuple(str(identity) for identity in first["id"]) if "id" in first.column_names else _numbers(split, len(first))
    )
    group_column = next((column for column in GROUP_COLUMNS if column in first.column_names), None)
    corpus = ParallelCorpus(
        name=reference,
        split=split,
        sentences=sentences,
        ids=ids,
        groups=tuple(str(group) for group in first[group_column]) if group_column else ids,
        licence=str(first.info.license or "see the card of the data set"),
        attribution=reference,
        note="" if revision else "no revision was given, so the text may change",
    )
    return corpus.select(limit=limit)


def _text_column(reference: str, table: Any) -> str:
    for column in TEXT_COLUMNS:
        if column in table.column_names:
            return column
    raise InputError(
        f"data set {reference} has no column {' or '.join(TEXT_COLUMNS)}; its columns: {', '.join(table.column_names)}"
    )


def _numbers(split: str, lines: int) -> tuple[str, ...]:
    return tuple(f"{split}:{number}" for number in range(1, lines + 1))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
