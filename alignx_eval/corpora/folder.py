"""A folder of line-aligned text files, one a language, named by FLORES code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from alignx_eval.corpora.parallel_corpus import ParallelCorpus, choose_languages
from alignx_eval.errors import InputError
from alignx_eval.languages import LANGUAGES

SUFFIXES = ("txt", "dev", "devtest", "test", "train", "validation")
_FILE_NAME = re.compile(rf"([a-z]{{3}}_[A-Z][a-z]{{3}})\.({'|'.join(SUFFIXES)})")

FLORES = ("CC BY-SA 4.0", "FLORES-200, NLLB Team et al. 2022")
NTREX = ("CC BY-SA 4.0", "NTREX-128, Federmann et al. 2022; Microsoft")


def load_folder(
    folder: Path,
    *,
    name: str | None = None,
    split: str = "test",
    languages: Sequence[str] | None = None,
    limit: int | None = None,
    licence: str = "",
    attribution: str = "",
    note: str = "",
) -> ParallelCorpus:
    """The corpus in `folder`: `eng_Latn.txt` (or `.dev`, `.devtest`, ...), one sentence per line, line i parallel in
    all files.

    `split` names a subfolder or, where the folder mixes splits, a suffix; a folder of one kind of file is its own split
    "test". Ids and groups come from `ids.tsv` (id, TAB, group), else from FLORES's `metadata_<split>.tsv` or NTREX's
    `DOCUMENT_IDS.tsv`, in the folder or its parent; else every line is a group of its own. Without `languages`, all
    files are read.

    Raises InputError when the folder, split or a language is not there, when files differ in length (naming both), when
    one is empty or has an empty line, is not UTF-8, or carries a byte order mark, NUL or carriage return. Nothing is
    repaired silently.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder" if folder.exists() else f"no such folder: {folder}")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; a corpus needs at least 1 line")
    place = folder.resolve()
    name = name or (f"{place.parent.name}/{place.name}" if place.name in SUFFIXES else place.name)
    folder, split, files = _find_files(folder, split)
    codes = sorted(files) if languages is None else choose_languages(name, languages, sorted(files))
    for code in codes:
        if code not in LANGUAGES:
            raise InputError(
                f"{files[code]}: {code} is not a FLORES-200 code; rename the file, or choose other languages"
            )
    sentences = {code: read_lines(files[code]) for code in codes}
    first = codes[0]
    for code in codes:
        if len(sentences[code]) != len(sentences[first]):
            raise InputError(
                f"{files[first]} has {len(sentences[first])} lines, {files[code]} has {len(sentences[code])}; a "
                "corpus must be parallel"
            )
    ids, groups, source = _read_groups(folder, split, len(sentences[first]))
    corpus = ParallelCorpus(
        name=name,
        split=split,
        sentences=sentences,
        ids=ids,
        groups=groups,
        licence=licence or source[0] or _licence_file(folder),
        attribution=attribution or source[1] or name,
        note=note,
    )
    return corpus.select(limit=limit)


def _find_files(folder: Path, split: str) -> tuple[Path, str, dict[str, Path]]:
    """Folder of the split, name of the split, and its files by language."""
    by_suffix: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = _FILE_NAME.fullmatch(path.name)
        if match and path.is_file():
            by_suffix.setdefault(match[2], {})[match[1]] = path
    splits = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and any(map(_FILE_NAME.fullmatch, _names(path)))
    )
    if not by_suffix:
        if split in splits:
            _, _, files = _find_files(folder / split, split)
            return folder / split, split, files
        if splits:
            raise InputError(f"{folder} has no split {split!r}; choose with --split from: {', '.join(splits)}")
        raise InputError(f"no language file in {folder}; expected names like eng_Latn.txt or eng_Latn.devtest")
    if split in by_suffix:
        return folder, split, by_suffix[split]
    if len(by_suffix) > 1:
        raise InputError(f"{folder} mixes splits; choose one with --split: {', '.join(by_suffix)}")
    (suffix,) = by_suffix
    # "test" is what is asked for when nobody says anything, and a folder of one kind of file leaves no choice.
    if split not in ("test", folder.name):
        raise InputError(f"{folder} has no split {split!r}; its files are *.{suffix}")
    return folder, split if suffix == "txt" else suffix, by_suffix[suffix]


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def read_lines(path: Path) -> tuple[str, ...]:
    """Lines of a UTF-8 text file. Only a line feed ends a line: U+2028, U+0085 and form feeds are part of the text.

    Raises InputError, naming file and line, for other encodings, a byte order mark, NUL, carriage returns, empty lines,
    and empty files.
    """
    data = path.read_bytes()
    if data.startswith(b"\xef\xbb\xbf"):
        raise InputError(f"{path} starts with a byte order mark; save it as UTF-8 without one")
    for byte, what in ((b"\0", "a NUL byte"), (b"\r", "a carriage return (save it with Unix line ends)")):
        if byte in data:
            raise InputError(f"{path}, line {_line_number(data, data.index(byte))}: {what}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {_line_number(data, error.start)}: not UTF-8 ({error.reason})") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    if not lines:
        raise InputError(f"{path} is empty")
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if empty:
        raise InputError(
            f"{path}, line {empty[0]}: empty ({len(empty)} of {len(lines)} lines are); drop such lines from every "
            "language"
        )
    return tuple(lines)


def _line_number(data: bytes, offset: int) -> int:
    """Number, from 1, of the line that holds the byte at `offset`."""
    return data.count(b"\n", 0, offset) + 1


def _read_groups(folder: Path, split: str, lines: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, str]]:
    """Id and group of each line, and licence and attribution where the file that gives the groups tells which data set
    this is."""
    numbers = tuple(f"{split}:{number}" for number in range(1, lines + 1))
    path = folder / "ids.tsv"
    if path.is_file():
        fields = [line.split("\t") for line in read_lines(path)]
        _check_length(path, len(fields), folder, lines)
        return (
            tuple(field[0] for field in fields),
            tuple(field[1] if len(field) > 1 else field[0] for field in fields),
            ("", ""),
        )
    for place in (folder, folder.parent):
        path = place / f"metadata_{split}.tsv"
        if path.is_file():
            header, *rows = (line.split("\t") for line in read_lines(path))
            if "URL" not in header:
                raise InputError(f"{path} has no column URL")
            _check_length(path, len(rows), folder, lines)
            return numbers, tuple(row[header.index("URL")] for row in rows), FLORES
    for place in (folder, folder.parent):
        path = place / "DOCUMENT_IDS.tsv"
        if path.is_file():
            documents = read_lines(path)
            _check_length(path, len(documents), folder, lines)
            return numbers, documents, NTREX
    return numbers, numbers, ("", "")


def _check_length(path: Path, found: int, folder: Path, lines: int) -> None:
    if found != lines:
        raise InputError(f"{path} describes {found} lines, the text in {folder} has {lines}")


def _licence_file(folder: Path) -> str:
    """Where the licence of a folder may be read, "unknown" where there is no such file."""
    for place in (folder, folder.parent):
        for path in sorted(place.glob("LICEN[CS]E*")):
            return f"see {path.name}"
    return "unknown"
