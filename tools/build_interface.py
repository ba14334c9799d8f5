"""Rebuild the bundled corpus `interface` from the wheel of Home Assistant (Apache-2.0).

    pip download --no-deps --only-binary=:all: --python-version 3.14 homeassistant==2026.2.3
    python tools/build_interface.py homeassistant-2026.2.3-py3-none-any.whl

A key is kept when its text has a translation of its own in every language, is free of placeholders and markup, and has
12 to 160 characters in
English. Keys with the same English text are one key. Near-duplicates (character 4-gram cosine of the English texts at
least 0.7, or the same text in
any language) are linked, and each linked group goes to one split as a whole. Validation and test take only texts of 25
characters or more. That cosine weighs rare words most, so that "hostname of your Elgato device" and "hostname of your
Flo device" are far apart in it. A line of validation or test that shares too many character n-grams, or all its
letters, with a line of another split, in any language, is therefore dropped, and so is one without a letter of its
language's script. The result depends on the wheel alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import unicodedata
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

LANGUAGES = {
    "ces_Latn": "cs",
    "deu_Latn": "de",
    "ell_Grek": "el",
    "eng_Latn": "en",
    "por_Latn": "pt",
    "rus_Cyrl": "ru",
    "spa_Latn": "es",
    "swe_Latn": "sv",
    "tur_Latn": "tr",
    "zho_Hans": "zh-Hans",
}
TEST_LINES, VALIDATION_LINES = 500, 300
SHORTEST, SHORTEST_EVALUATED, LONGEST = 12, 25, 160
NEAR_DUPLICATE = 0.7
# Largest share of common character n-grams (Jaccard) between a line of validation or test and any line of another
# split.
OVERLAP = {"eng_Latn": 0.6}
OVERLAP_ELSEWHERE = 0.7
LETTERS = {"ell_Grek": r"[\u0370-\u03ff\u1f00-\u1fff]", "rus_Cyrl": r"[\u0400-\u04ff]", "zho_Hans": r"[\u4e00-\u9fff]"}
# Placeholders, markup, links, format strings: text that is not language.
NOT_PLAIN = re.compile(r"[{}\[\]<>`\n\r\t|]|https?:|www\.|%\w|\*\*|[\x00-\x1f\x7f]|\\")
TARGET = Path(__file__).parent.parent / "alignx_eval" / "bundled" / "text" / "interface"


def leaves(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield prefix + key, unicodedata.normalize("NFC", " ".join(value.split()))


def read_wheel(wheel: Path) -> dict[str, dict[str, str]]:
    """FLORES code -> key -> text."""
    by_locale = {locale: code for code, locale in LANGUAGES.items()}
    texts: dict[str, dict[str, str]] = {code: {} for code in LANGUAGES}
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            found = re.fullmatch(r"homeassistant/components/([^/]+)/translations/([^/]+)\.json", name)
            if found and found[2] in by_locale:
                texts[by_locale[found[2]]].update(leaves(json.loads(archive.read(name)), f"{found[1]}."))
    return texts


def keep_parallel(texts: dict[str, dict[str, str]]) -> list[str]:
    """Keys that qualify, one for each distinct English text, in a fixed order."""
    seen: set[str] = set()
    kept = []
    for key in sorted(texts["eng_Latn"]):
        line = {code: texts[code].get(key, "") for code in LANGUAGES}
        english = line["eng_Latn"]
        if not SHORTEST <= len(english) <= LONGEST or english in seen:
            continue
        if any(
            not text or len(text) > 2 * LONGEST or NOT_PLAIN.search(text) or NOT_PLAIN.search(english)
            for text in line.values()
        ):
            continue
        # A translation equal to the English text was most likely never made; one without a letter carries no language.
        if any(
            code != "eng_Latn" and text == english or not re.search(r"[^\W\d_]{2}", text) for code, text in line.items()
        ):
            continue
        seen.add(english)
        kept.append(key)
    return kept


def link_near_duplicates(texts: dict[str, dict[str, str]], keys: list[str]) -> np.ndarray:
    """Label [keys] of the near-duplicate group of each key."""
    english = [texts["eng_Latn"][key].lower() for key in keys]
    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 4), dtype=np.float32).fit_transform(english)
    rows, columns = [], []
    for start in range(0, len(keys), 512):
        close = (grams[start : start + 512] @ grams.T).tocoo()
        near = close.data >= NEAR_DUPLICATE
        rows.append(close.row[near] + start)
        columns.append(close.col[near])
    for code in LANGUAGES:
        same: dict[str, list[int]] = defaultdict(list)
        for index, key in enumerate(keys):
            same[texts[code][key].casefold()].append(index)
        for members in same.values():
            rows.append(np.full(len(members), members[0]))
            columns.append(np.array(members))
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_matrix((np.ones(len(row), dtype=np.int8), (row, column)), shape=(len(keys), len(keys)))
    return connected_components(graph, directed=False)[1]


def split_keys(texts: dict[str, dict[str, str]], keys: list[str], group: np.ndarray) -> dict[str, list[str]]:
    """Whole near-duplicate groups, in the order of a hash of their first key, fill test, then validation; the rest is
    for training."""
    members: dict[int, list[str]] = defaultdict(list)
    for key, label in zip(keys, group, strict=True):
        members[int(label)].append(key)
    ordered = sorted(members.values(), key=lambda group_keys: hashlib.sha256(group_keys[0].encode()).hexdigest())
    splits: dict[str, list[str]] = {"test": [], "validation": [], "train": []}
    for group_keys in ordered:
        evaluable = len(group_keys) == 1 and len(texts["eng_Latn"][group_keys[0]]) >= SHORTEST_EVALUATED
        if evaluable and len(splits["test"]) < TEST_LINES:
            splits["test"] += group_keys
        elif evaluable and len(splits["validation"]) < VALIDATION_LINES:
            splits["validation"] += group_keys
        else:
            splits["train"] += group_keys
    return {
        name: sorted(split, key=lambda key: hashlib.sha256(key.encode()).hexdigest()) for name, split in splits.items()
    }


def letters_of(line: str) -> str:
    """The line without case, digits, punctuation and spaces."""
    return "".join(character for character in line.casefold() if character.isalpha())


def largest_overlap(lines: list[str], others: list[str], n: int) -> np.ndarray:
    """For each of `lines`, the largest Jaccard index of its character n-gram set with that of any of `others`."""
    grams = CountVectorizer(analyzer="char", ngram_range=(n, n), binary=True, dtype=np.int32).fit_transform(
        [*lines, *others]
    )
    ours, theirs = grams[: len(lines)], grams[len(lines) :]
    largest = np.zeros(len(lines))
    for start in range(0, len(lines), 256):
        common = (ours[start : start + 256] @ theirs.T).toarray()
        union = np.asarray(ours[start : start + 256].sum(1)) + np.asarray(theirs.sum(1)).T - common
        largest[start : start + 256] = (common / np.maximum(union, 1)).max(1)
    return largest


def drop_leaks(texts: dict[str, dict[str, str]], splits: dict[str, list[str]]) -> dict[str, list[str]]:
    """The splits without the lines of test and validation that nearly occur in another split or were not translated;
    train stays."""
    kept = dict(splits)
    for name, others in (("test", ("train",)), ("validation", ("train", "test"))):
        keys = kept[name]
        other_keys = [key for other in others for key in kept[other]]
        good = np.ones(len(keys), dtype=bool)
        for code in LANGUAGES:
            lines = [texts[code][key] for key in keys]
            # A Chinese character carries about as much as two and a half letters.
            n = 2 if code == "zho_Hans" else 5
            other_lines = [texts[code][key] for key in other_keys]
            good &= largest_overlap(lines, other_lines, n) < OVERLAP.get(code, OVERLAP_ELSEWHERE)
            other_letters = {letters_of(line) for line in other_lines}
            good &= [letters_of(line) not in other_letters for line in lines]
            good &= [re.search(LETTERS.get(code, "."), line) is not None for line in lines]
        kept[name] = [key for key, is_good in zip(keys, good, strict=True) if is_good]
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args()
    texts = read_wheel(arguments.wheel)
    keys = keep_parallel(texts)
    group = link_near_duplicates(texts, keys)
    for split, split_list in drop_leaks(texts, split_keys(texts, keys, group)).items():
        folder = arguments.target / split
        folder.mkdir(parents=True, exist_ok=True)
        for code in LANGUAGES:
            (folder / f"{code}.txt").write_text(
                "".join(texts[code][key] + "\n" for key in split_list), encoding="utf-8", newline="\n"
            )
        # The component (one integration, usually one translator at a time) is the cluster of a line.
        (folder / "ids.tsv").write_text(
            "".join(f"{key}\t{key.split('.')[0]}\n" for key in split_list), encoding="utf-8", newline="\n"
        )
        print(
            f"{split}: {len(split_list)} lines, {len({key.split('.')[0] for key in split_list})} components",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
