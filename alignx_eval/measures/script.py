"""In which script a text is written, by the Unicode names of its letters; Simplified and Traditional Chinese by their
characters.

Python knows no scripts, but the name of a letter begins with its script: CYRILLIC SMALL LETTER ZHE, CJK UNIFIED
IDEOGRAPH-4E2D. Most Chinese characters belong to both forms. Those of one form alone are the ones that one national
standard has and the other lacks: a character of GB 2312 that is not in Big5 is Simplified, one of Big5 that is not in
GB 2312 is Traditional.
"""

from __future__ import annotations

import unicodedata
from functools import cache

# A wide letter (Han, kana, Hangul) counts as this many letters of an alphabet.
WIDE_LETTERS = 3
# Share of the letters. Names, loanwords and code in other letters are normal, and in short lines of an interface may be
# over half.
LEAST_SHARE = 0.25

_HAN = {"CJK", "IDEOGRAPHIC"}
_KANA = {"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"}
# ISO 15924 code -> first words of the names of its letters.
_NAMES = {
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
    "Hang": {"HANGUL"} | _HAN,
    "Hans": _HAN,
    "Hant": _HAN | {"BOPOMOFO"},
    "Hebr": {"HEBREW"},
    "Jpan": _KANA | _HAN,
    "Khmr": {"KHMER"},
    "Knda": {"KANNADA"},
    "Laoo": {"LAO"},
    "Latn": {"LATIN"},
    "Mlym": {"MALAYALAM"},
    "Mymr": {"MYANMAR"},
    "Nkoo": {"NKO"},
    "Olck": {"OL"},
    "Orya": {"ORIYA"},
    "Sinh": {"SINHALA"},
    "Taml": {"TAMIL"},
    "Telu": {"TELUGU"},
    "Tfng": {"TIFINAGH"},
    "Thai": {"THAI"},
    "Tibt": {"TIBETAN"},
}
# Han characters alone are Chinese.
_NEEDED = {"Jpan": _KANA, "Hang": {"HANGUL"}}


def letter_count(text: str) -> int:
    """Letters of `text`, a wide one counted as `WIDE_LETTERS`; marks, digits, spaces and punctuation count nothing."""
    return sum(_letter(character)[1] for character in text)


def is_written_in(text: str, script: str) -> bool:
    """Whether `text` is in `script` (ISO 15924): at least `LEAST_SHARE` of its letters (wide ones weigh more) are
    letters of it.

    Japanese and Korean also have Han characters, but not those alone. Simplified Chinese (Hans) has no more characters
    of the Traditional form than of the Simplified one, and the other way round; characters of both forms say nothing.
    Raises KeyError for an unknown script.
    """
    letters = [_letter(character) for character in text]
    names = _NAMES[script]
    own = sum(weight for name, weight in letters if name in names)
    if own == 0 or own < LEAST_SHARE * sum(weight for _, weight in letters):
        return False
    if script in _NEEDED and not any(name in _NEEDED[script] for name, _ in letters):
        return False
    if script in ("Hans", "Hant"):
        forms = [_chinese_form(character) for character in text]
        return forms.count(script) >= len([form for form in forms if form not in (None, script)])
    return True


@cache
def _letter(character: str) -> tuple[str, int]:
    """First word of the name of a letter, and its weight; weight 0 for what is no letter."""
    if unicodedata.category(character)[0] != "L":
        return "", 0
    name, *rest = unicodedata.name(character, "?").split()
    if name in ("FULLWIDTH", "HALFWIDTH"):
        name = rest[0]
    return name, WIDE_LETTERS if unicodedata.east_asian_width(character) in "WF" else 1


@cache
def _chinese_form(character: str) -> str | None:
    """ "Hans" or "Hant" for a character of one form alone."""
    if _letter(character)[0] not in _HAN:
        return None
    simplified, traditional = _encodable(character, "gb2312"), _encodable(character, "big5")
    if simplified == traditional:
        return None
    return "Hans" if simplified else "Hant"


def _encodable(character: str, codec: str) -> bool:
    try:
        character.encode(codec)
    except UnicodeEncodeError:
        return False
    return True
