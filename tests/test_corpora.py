"""Corpora: what is read, what is refused, and what the bundled text promises."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignx_eval.corpora import BUNDLED, ParallelCorpus, list_corpora, load_corpus
from alignx_eval.errors import InputError, MissingAssetError
from alignx_eval.languages import LANGUAGES

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("ALIGNX_SHARED_DATA", ROOT.parent / "shared" / "data"))
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data here")

ENGLISH = ["One.", "Two.", "Three."]
GERMAN = ["Eins.", "Zwei.", "Drei."]


def write(folder: Path, texts: dict[str, list[str] | bytes], suffix: str = "txt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for code, lines in texts.items():
        content = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
        (folder / f"{code}.{suffix}").write_bytes(content)
    return folder


def corpus_of(sentences: dict[str, tuple[str, ...]], **changes: object) -> ParallelCorpus:
    lines = len(next(iter(sentences.values()), ()))
    ids = tuple(str(number) for number in range(lines))
    corpus = ParallelCorpus(
        name="small", split="test", sentences=sentences, ids=ids, groups=ids, licence="", attribution=""
    )
    return replace(corpus, **changes)


# --- folders


def test_a_folder_of_plain_files(tmp_path):
    folder = write(tmp_path / "mine", {"eng_Latn": ENGLISH, "deu_Latn": GERMAN})
    (folder / "README.md").write_text("not a language")
    corpus = load_corpus(folder)
    assert (corpus.name, corpus.split, corpus.languages, len(corpus)) == ("mine", "test", ("deu_Latn", "eng_Latn"), 3)
    assert corpus.sentences["deu_Latn"] == tuple(GERMAN)
    assert corpus.ids == corpus.groups and len(set(corpus.ids)) == 3
    assert corpus.licence == "unknown"


@pytest.mark.parametrize("suffix", ["dev", "devtest"])
def test_flores_names_and_articles_in_the_parent_folder(tmp_path, suffix):
    folder = write(tmp_path / suffix, {"eng_Latn": ENGLISH, "deu_Latn": GERMAN}, suffix)
    (tmp_path / f"metadata_{suffix}.tsv").write_text("URL\tdomain\nhttps://a\twiki\nhttps://a\twiki\nhttps://b\twiki\n")
    corpus = load_corpus(folder)
    assert corpus.split == suffix
    assert corpus.groups == ("https://a", "https://a", "https://b")
    assert len(set(corpus.ids)) == 3
    assert "FLORES" in corpus.attribution


def test_ntrex_documents(tmp_path):
    folder = write(tmp_path, {"eng_Latn": ENGLISH, "deu_Latn": GERMAN})
    (folder / "DOCUMENT_IDS.tsv").write_text("bbc.1\nbbc.1\ncnn.2\n")
    assert load_corpus(folder).groups == ("bbc.1", "bbc.1", "cnn.2")


def test_ids_file_wins(tmp_path):
    folder = write(tmp_path, {"eng_Latn": ENGLISH})
    (folder / "ids.tsv").write_text("a\tfirst\nb\tfirst\nc\n")
    (folder / "DOCUMENT_IDS.tsv").write_text("x\ny\nz\n")
    corpus = load_corpus(folder)
    assert (corpus.ids, corpus.groups) == (("a", "b", "c"), ("first", "first", "c"))


@pytest.mark.parametrize(
    ("name", "content"), [("ids.tsv", "a\nb\n"), ("DOCUMENT_IDS.tsv", "x\n"), ("metadata_test.tsv", "URL\nu\n")]
)
def test_groups_must_describe_every_line(tmp_path, name, content):
    folder = write(tmp_path, {"eng_Latn": ENGLISH})
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=r"describes \d lines, .* has 3"):
        load_corpus(folder)


def test_two_lines_may_not_share_an_id(tmp_path):
    folder = write(tmp_path, {"eng_Latn": ENGLISH})
    (folder / "ids.tsv").write_text("a\nb\na\n")
    with pytest.raises(InputError, match="id 'a'"):
        load_corpus(folder)


def test_mixed_splits_need_a_choice(tmp_path):
    folder = write(tmp_path, {"eng_Latn": ENGLISH}, "dev")
    write(folder, {"eng_Latn": GERMAN}, "devtest")
    with pytest.raises(InputError, match="mixes splits; choose one with --split: dev, devtest"):
        load_corpus(folder)
    assert load_corpus(folder, "dev").sentences["eng_Latn"] == tuple(ENGLISH)
    assert load_corpus(folder, "devtest").sentences["eng_Latn"] == tuple(GERMAN)


def test_splits_in_subfolders(tmp_path):
    write(tmp_path / "train", {"eng_Latn": ENGLISH})
    write(tmp_path / "test", {"eng_Latn": GERMAN})
    assert load_corpus(tmp_path).sentences["eng_Latn"] == tuple(GERMAN)
    assert load_corpus(tmp_path, "train").split == "train"
    with pytest.raises(InputError, match="test, train"):
        load_corpus(tmp_path, "validation")


def test_a_split_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no split 'train'"):
        load_corpus(write(tmp_path, {"eng_Latn": ENGLISH}), "train")
    with pytest.raises(InputError, match="no split 'nope'.*train, validation, test"):
        load_corpus("interface", "nope")


def test_only_a_line_feed_ends_a_line(tmp_path):
    """Unicode line separators, next line, form feed and vertical tab are text; str.splitlines would shift every line
    after them."""
    lines = ["one\u2028two", "three\x85four\x0b", "five\x0csix"]
    assert load_corpus(write(tmp_path, {"eng_Latn": lines})).sentences["eng_Latn"] == tuple(lines)


def test_the_last_line_feed_is_optional(tmp_path):
    assert load_corpus(write(tmp_path, {"eng_Latn": b"a\nb", "deu_Latn": b"c\nd\n"})).sentences["eng_Latn"] == (
        "a",
        "b",
    )


def test_T6_text_is_not_normalised_but_reported(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Ärger")
    corpus = load_corpus(write(tmp_path, {"deu_Latn": ["Ärger", decomposed, "ＡＢＣ \u200fשלום"], "eng_Latn": ENGLISH}))
    assert corpus.sentences["deu_Latn"][1] == decomposed
    assert corpus.not_nfc() == {"deu_Latn": 1}


def test_duplicates_are_reported():
    corpus = corpus_of({"eng_Latn": ("a", "b", "a", "b", "a"), "deu_Latn": ("1", "2", "3", "4", "5")})
    assert corpus.duplicates() == {"eng_Latn": ((0, 2, 4), (1, 3))}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"a\n\nc\n", r"line 2: empty \(1 of 3"),
        (b"a\n  \t\nc\n", "line 2: empty"),
        ("a\n\u3000\nc\n".encode(), "line 2: empty"),
        (b"\xef\xbb\xbfa\nb\nc\n", "byte order mark"),
        (b"a\r\nb\r\nc\r\n", "line 1: a carriage return"),
        (b"a\nb\0\nc\n", "line 2: a NUL"),
        (b"a\nb\nGr\xfc\xdfe\n", "line 3: not UTF-8"),
        ("a\nb\nc\n".encode("utf-16"), "NUL|UTF-8"),
        (b"a\nb\n", r"deu_Latn.txt has 2 lines, .*eng_Latn.txt has 3"),
    ],
)
def test_bad_text_is_refused_with_one_line(tmp_path, content, message):
    folder = write(tmp_path, {"eng_Latn": ENGLISH, "deu_Latn": content})
    with pytest.raises(InputError, match=message) as caught:
        load_corpus(folder)
    assert "\n" not in str(caught.value)
    assert "deu_Latn.txt" in str(caught.value)


def test_only_chosen_languages_are_read(tmp_path):
    folder = write(tmp_path, {"eng_Latn": ENGLISH, "deu_Latn": GERMAN, "fra_Latn": b"\xff"})
    assert load_corpus(folder, languages=["en", "German"]).languages == ("eng_Latn", "deu_Latn")


def test_a_file_of_an_unknown_language(tmp_path):
    folder = write(tmp_path, {"eng_Latn": ENGLISH, "gom_Deva": GERMAN})
    with pytest.raises(InputError, match="gom_Deva is not a FLORES-200 code"):
        load_corpus(folder)
    assert load_corpus(folder, languages=["eng_Latn"]).languages == ("eng_Latn",)


@pytest.mark.parametrize(
    "make",
    [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")],
    ids=["no", "empty", "file"],
)
def test_a_path_that_is_no_corpus(tmp_path, make):
    path = tmp_path / "corpus"
    make(path)
    with pytest.raises(InputError, match=re.escape(str(path))):
        load_corpus(path)


# --- languages and lines


def test_languages_that_a_corpus_lacks_are_refused_with_what_it_has():
    with pytest.raises(InputError, match=r"no fra_Latn \(French\); it has .*spa_Latn"):
        load_corpus("interface", languages=["fr"])
    with pytest.raises(InputError, match="unknown language 'deutsh'"):
        load_corpus("interface", languages=["deutsh"])
    with pytest.raises(InputError, match="nearest of its 89: zho_Hans"):
        load_corpus("udhr", languages=["zh-Hant"])
    with pytest.raises(InputError, match="no language chosen"):
        load_corpus("interface", languages=[])


def test_a_language_named_twice_is_one_language():
    assert load_corpus("interface", languages=["de", "deu_Latn", "German", "en"]).languages == ("deu_Latn", "eng_Latn")


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_below_one(limit):
    with pytest.raises(InputError, match="limit is"):
        load_corpus("interface", limit=limit)


def test_limit_keeps_the_first_lines_and_may_exceed_the_corpus():
    whole = load_corpus("udhr")
    few = load_corpus("udhr", limit=7, languages=["sw", "en"] if "swh_Latn" in whole.languages else ["de", "en"])
    assert few.sentences["eng_Latn"] == whole.sentences["eng_Latn"][:7]
    assert (few.ids, few.groups) == (whole.ids[:7], whole.groups[:7])
    assert whole.select(limit=10_000) == whole


def test_a_corpus_must_be_aligned_and_filled():
    with pytest.raises(InputError, match="eng_Latn has 2 lines, deu_Latn has 1"):
        corpus_of({"eng_Latn": ("a", "b"), "deu_Latn": ("c",)})
    with pytest.raises(InputError, match="no language"):
        corpus_of({})
    with pytest.raises(InputError, match="empty"):
        corpus_of({"eng_Latn": ()})
    with pytest.raises(InputError, match="FLORES"):
        corpus_of({"en": ("a",)})
    with pytest.raises(InputError, match="groups has 1"):
        corpus_of({"eng_Latn": ("a", "b")}, groups=("x",))


# --- content hash

LINES = st.lists(
    st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=5
)


def test_content_hash_is_pinned():
    """The hash is part of every stored fingerprint: a change makes old results incomparable."""
    corpus = corpus_of({"eng_Latn": ("One.",), "deu_Latn": ("Grüße",)})
    parts = ('[["0"], ["0"]]\n', '["deu_Latn", ["Gr\\u00fc\\u00dfe"]]\n', '["eng_Latn", ["One."]]\n')
    assert corpus.content_hash == hashlib.sha256("".join(parts).encode()).hexdigest()


@given(LINES)
def test_content_hash_covers_languages_lines_and_order(lines):
    corpus = corpus_of({"eng_Latn": tuple(lines), "deu_Latn": tuple(lines)})
    same = corpus_of({"deu_Latn": tuple(lines), "eng_Latn": tuple(lines)})
    assert same.content_hash == corpus.content_hash
    assert replace(corpus, name="other", licence="other").content_hash == corpus.content_hash
    changed = [
        corpus.select(languages=["eng_Latn"]),
        corpus.select(limit=1),
        replace(corpus, sentences={"eng_Latn": tuple(lines), "fra_Latn": tuple(lines)}),
        replace(corpus, sentences={"eng_Latn": (*lines[:-1], lines[-1] + " "), "deu_Latn": tuple(lines)}),
        replace(corpus, groups=("together",) * len(lines)),
    ]
    if len(set(lines)) > 1 and lines != lines[::-1]:
        changed.append(corpus_of({"eng_Latn": tuple(lines[::-1]), "deu_Latn": tuple(lines[::-1])}))
    hashes = {other.content_hash for other in changed}
    assert corpus.content_hash not in hashes and len(hashes) == len(changed)


# --- hub data sets, on local folders in the layout of the hub


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def hub_folder(folder: Path, tables: dict[str, list[dict[str, object]]]) -> str:
    """A data set with one configuration per table."""
    folder.mkdir()
    for name, rows in tables.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    entries = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}.jsonl\n" for name in tables
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{entries}---\n")
    return f"hub:{folder}"


def per_language(lines: list[str], column: str = "text", first_id: int = 0) -> list[dict[str, object]]:
    return [{"id": first_id + number, column: line, "url": f"u{number // 2}"} for number, line in enumerate(lines)]


@pytest.mark.parametrize("column", ["text", "sentence"])
def test_hub_configuration_per_language(tmp_path, hub_cache, column):
    reference = hub_folder(
        tmp_path / "set", {"eng_Latn": per_language(ENGLISH, column), "deu_Latn": per_language(GERMAN, column)}
    )
    corpus = load_corpus(reference)
    assert corpus.languages == ("deu_Latn", "eng_Latn")
    assert corpus.sentences["deu_Latn"] == tuple(GERMAN)
    assert (corpus.ids, corpus.groups) == (("0", "1", "2"), ("u0", "u0", "u1"))
    assert "revision" in corpus.note
    assert load_corpus(reference, languages=["de"], limit=2).sentences == {"deu_Latn": ("Eins.", "Zwei.")}
    with pytest.raises(InputError, match="no fra_Latn"):
        load_corpus(reference, languages=["fr"])
    with pytest.raises(InputError, match="train"):
        load_corpus(reference, "train")


@pytest.mark.parametrize("prefix", ["", "sentence_"])
def test_hub_column_per_language(tmp_path, hub_cache, prefix):
    rows = [{f"{prefix}eng_Latn": english, f"{prefix}deu_Latn": german} for english, german in zip(ENGLISH, GERMAN)]
    corpus = load_corpus(hub_folder(tmp_path / "set", {"default": rows}))
    assert corpus.sentences == {"deu_Latn": tuple(GERMAN), "eng_Latn": tuple(ENGLISH)}
    assert corpus.ids == corpus.groups


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"eng_Latn": per_language(ENGLISH), "deu_Latn": per_language(GERMAN[:2])},
            "deu_Latn has 2 lines, eng_Latn has 3",
        ),
        (
            {"eng_Latn": per_language(ENGLISH), "deu_Latn": per_language(GERMAN, first_id=1)},
            "the ids of deu_Latn and eng_Latn differ",
        ),
        ({"eng_Latn": per_language(ENGLISH), "deu_Latn": per_language(["a", "b\nc", "d"])}, "deu_Latn, line 2"),
        ({"eng_Latn": per_language(ENGLISH), "deu_Latn": per_language(["a", "", "d"])}, "deu_Latn, line 2: empty"),
        ({"eng_Latn": per_language(ENGLISH, "prose")}, "no column text or sentence; its columns: id, prose, url"),
        ({"default": [{"en": "One."}]}, "names no configuration or column by FLORES code; its columns: en"),
    ],
)
def test_hub_data_of_another_shape(tmp_path, hub_cache, tables, message):
    with pytest.raises(InputError, match=message):
        load_corpus(hub_folder(tmp_path / "set", tables))


def test_hub_without_a_network_or_a_name():
    """In a process of its own, because the offline switch is read when the library is imported."""
    program = """
from alignx_eval.corpora import load_corpus
for reference in ("hub:owner/name@0123456", "hub:", "hub:/no/such/folder"):
    try:
        load_corpus(reference)
    except Exception as error:
        print(type(error).__name__, error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    first, second, third = done.stdout.splitlines()
    assert first.startswith(f"{MissingAssetError.__name__} data set owner/name@0123456 is not in the cache")
    assert second.startswith(f"{InputError.__name__} hub: needs the name")
    assert third.startswith(InputError.__name__)


# --- bundled text


def test_list_of_corpora():
    rows = list_corpora()
    assert [(row["name"], row["split"]) for row in rows] == [
        ("interface", "train"),
        ("interface", "validation"),
        ("interface", "test"),
        ("udhr", "test"),
    ]
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for name, corpus in BUNDLED.items() for split in corpus.splits]
)
def test_bundled_text_is_clean(name, split):
    corpus = load_corpus(name, split)
    assert corpus.licence and corpus.attribution
    for code, lines in corpus.sentences.items():
        odd = [
            character
            for character in set("".join(lines))
            if unicodedata.category(character) in ("Cc", "Co", "Cn", "Cs")
        ]
        assert not odd, (code, odd)
        for line in lines:
            assert line == " ".join(line.split()), (code, line)
            assert re.search(r"[^\W\d_]", line), (code, line)


def test_interface_is_as_large_as_promised():
    splits = {split: load_corpus("interface", split) for split in BUNDLED["interface"].splits}
    languages = {corpus.languages for corpus in splits.values()}
    assert len(languages) == 1
    (codes,) = languages
    assert len(codes) >= 10 and len({LANGUAGES[code].script for code in codes}) >= 4 and "eng_Latn" in codes
    assert sum(map(len, splits.values())) >= 5000
    assert len(splits["test"]) >= 400 and len(splits["validation"]) >= 200
    assert all(len(set(corpus.groups)) >= 100 for corpus in splits.values())


def test_interface_has_no_placeholders_or_markup():
    for split in BUNDLED["interface"].splits:
        for code, lines in load_corpus("interface", split).sentences.items():
            for line in lines:
                assert not re.search(r"[{}<>\[\]|\\`]|https?:|&\w+;|%[sd(]|\*\*", line), (split, code, line)


def test_interface_test_lines_are_translated():
    """A line that is left in English is no translation; brand names alone are no sentence."""
    scripts = {"ell_Grek": "GREEK", "rus_Cyrl": "CYRILLIC", "zho_Hans": "CJK"}
    for split in ("validation", "test"):
        corpus = load_corpus("interface", split)
        for code in corpus.languages:
            for line, english in zip(corpus.sentences[code], corpus.sentences["eng_Latn"]):
                assert code == "eng_Latn" or line != english
                if code in scripts:
                    assert any(unicodedata.name(character, "").startswith(scripts[code]) for character in line), (
                        code,
                        line,
                    )


def bare(line: str) -> str:
    """The letters of a line alone, so that numbering, punctuation and case make no difference."""
    return "".join(character for character in line.casefold() if character.isalpha())


def test_interface_splits_share_no_line_in_any_language():
    train, validation, test = (load_corpus("interface", split) for split in ("train", "validation", "test"))
    for one, other in ((test, train), (validation, train), (test, validation)):
        assert not set(one.ids) & set(other.ids)
        for code in one.languages:
            shared = {bare(line) for line in one.sentences[code]} & {bare(line) for line in other.sentences[code]}
            assert not shared, (one.split, other.split, code, sorted(shared)[:5])


def test_interface_splits_share_no_near_duplicates():
    """Overlap of character 5-grams (Jaccard) of the English sides, by inverted index, so independent of how the builder
    finds them."""
    train, validation, test = (
        load_corpus("interface", split).sentences["eng_Latn"] for split in ("train", "validation", "test")
    )

    def grams(line: str) -> frozenset[str]:
        return frozenset(line.lower()[start : start + 5] for start in range(len(line) - 4))

    for lines, others in ((test, train), (validation, train), (validation, test)):
        sets = [grams(other) for other in others]
        places: dict[str, list[int]] = {}
        for number, members in enumerate(sets):
            for gram in members:
                places.setdefault(gram, []).append(number)
        for line in lines:
            own = grams(line)
            common: dict[int, int] = {}
            for gram in own:
                for number in places.get(gram, ()):
                    common[number] = common.get(number, 0) + 1
            for number, count in common.items():
                assert count / (len(own) + len(sets[number]) - count) < 0.6, (line, others[number])


def test_udhr_is_as_large_as_promised():
    corpus = load_corpus("udhr")
    assert len(corpus) == 50 and len(set(corpus.groups)) == 30
    assert len(corpus.languages) >= 51
    assert len({LANGUAGES[code].script for code in corpus.languages}) >= 12
    assert "memorised" in corpus.note and "50" in corpus.note
    assert not corpus.duplicates()


def test_udhr_is_aligned():
    """Article 21.2 (equal access to public service) in languages whose words for it are easy to check, and names that
    stay the same."""
    corpus = load_corpus("udhr")
    line = corpus.ids.index("article-21.2")
    for code, word in (
        ("eng_Latn", "public service"),
        ("deu_Latn", "Ämter"),
        ("fra_Latn", "publiques"),
        ("zho_Hans", "公务"),
        ("jpn_Jpan", "公務"),
    ):
        assert word in corpus.sentences[code][line]
    # "United Nations" closes articles 14 and 29: the same lines in every language whose name for it is known.
    names = {
        "eng_Latn": "United Nations",
        "deu_Latn": "Vereinten Nationen",
        "spa_Latn": "Naciones Unidas",
        "rus_Cyrl": "Объединенных Наций",
        "tur_Latn": "Birleşmiş Milletler",
        "zho_Hans": "联合国",
        "kor_Hang": "국제연합",
        "heb_Hebr": "האומות המאוחדות",
    }
    for code, name in names.items():
        found = {
            corpus.ids[number] for number, text in enumerate(corpus.sentences[code]) if name.lower() in text.lower()
        }
        assert {"article-14.2", "article-29.3"} <= found, (code, found)


def test_udhr_scripts_are_those_of_the_codes():
    corpus = load_corpus("udhr")
    first_words = {
        "Latn": {"LATIN", "MODIFIER"},
        "Arab": {"ARABIC"},
        "Cyrl": {"CYRILLIC"},
        "Hans": {"CJK"},
        "Thai": {"THAI"},
        "Deva": {"DEVANAGARI"},
    }
    for code, lines in corpus.sentences.items():
        expected = first_words.get(LANGUAGES[code].script)
        if expected:
            letters = [character for character in "".join(lines) if character.isalpha()]
            share = sum(unicodedata.name(letter, "?").split()[0] in expected for letter in letters) / len(letters)
            assert share > 0.97, code


def udhr_builder():
    specification = importlib.util.spec_from_file_location("build_udhr", ROOT / "tools" / "build_udhr.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_udhr_builder_reads_paragraphs_and_list_items_once():
    html = (
        "<body><header><p>Preamble</p></header>"
        '<article data-number="1"><h2>Article 1</h2><p>All  human\n beings.</p></article>'
        '<article data-number="2"><ol><li><p>(1) First &amp; best '
        "[best?].</p></li><li>Second.</li></ol></article></body>"
    )
    articles = udhr_builder().parse_declaration(html)
    assert articles[:3] == [["All human beings."], ["First & best.", "Second."], []]


def test_udhr_builder_refuses_what_does_not_align():
    builder = udhr_builder()
    corpus = load_corpus("udhr")

    def articles(lines: list[str]) -> list[list[str]]:
        grouped: dict[str, list[str]] = {}
        for group, line in zip(corpus.groups, lines):
            grouped.setdefault(group, []).append(line)
        return list(grouped.values())

    english, german = articles(list(corpus.sentences["eng_Latn"])), articles(list(corpus.sentences["deu_Latn"]))
    assert not builder.reasons_against("deu_Latn", german, english)
    lines = list(corpus.sentences["deu_Latn"])
    assert any(
        "times as long" in reason
        for reason in builder.reasons_against("deu_Latn", articles([lines[0] * 3, *lines[1:]]), english)
    )
    assert any(
        "correlate" in reason
        for reason in builder.reasons_against("deu_Latn", articles(lines[1:] + lines[:1]), english)
    )
    assert any("script" in reason for reason in builder.reasons_against("rus_Cyrl", german, english))
    assert any(
        "twice" in reason for reason in builder.reasons_against("deu_Latn", articles([lines[1], *lines[1:]]), english)
    )
    assert builder.reasons_against("deu_Latn", german[:-1] + [[]], english) == [
        "article 30 has 0 paragraphs instead of 1"
    ]


# --- real corpora


@needs_shared
@pytest.mark.parametrize(
    ("folder", "split", "lines", "languages", "groups"),
    [
        ("flores200/devtest", "devtest", 1012, 204, 281),
        ("flores200/dev-510", "dev", 510, 205, 510),
        ("ntrex128", "test", 1997, 77, 123),
        ("tico19", "test", 1977, 25, 1977),
    ],
)
def test_real_corpora_load_as_they_are(folder, split, lines, languages, groups):
    corpus = load_corpus(SHARED / folder)
    assert (corpus.split, len(corpus), len(corpus.languages), len(set(corpus.groups))) == (
        split,
        lines,
        languages,
        groups,
    )


def test_imports_stay_light():
    program = (
        "import sys, alignx_eval.corpora, alignx_eval.languages; "
        "print(sorted({'torch', 'datasets', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
