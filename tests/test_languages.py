"""The table of languages against sacreBLEU, py3langid, Unicode and FLORES."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU

from alignx_eval.errors import InputError
from alignx_eval.languages import LANGUAGES, resolve_language

SHARED = Path(os.environ.get("ALIGNX_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FLORES = SHARED / "flores200" / "dev-510"
needs_flores = pytest.mark.skipif(not FLORES.is_dir(), reason="no FLORES here")


def test_table_is_well_formed():
    assert len(LANGUAGES) == 205
    assert len({language.name for language in LANGUAGES.values()}) == 205
    for code, language in LANGUAGES.items():
        assert language.code == code
        assert code.split("_")[1] == language.script
        assert language.direction in ("ltr", "rtl")


@needs_flores
def test_codes_are_those_of_flores():
    assert {path.stem for path in FLORES.glob("*.dev")} == set(LANGUAGES)
    assert {path.stem for path in (SHARED / "flores200" / "devtest").glob("*.devtest")} == set(LANGUAGES) - {"nqo_Nkoo"}


@needs_flores
def test_direction_is_that_of_the_letters():
    for code, language in LANGUAGES.items():
        letters = "".join((FLORES / f"{code}.dev").read_text(encoding="utf-8").split("\n")[:20])
        kinds = Counter(unicodedata.bidirectional(letter) for letter in letters if letter.isalpha())
        right_to_left = kinds["R"] + kinds["AL"] > kinds["L"]
        assert language.direction == ("rtl" if right_to_left else "ltr"), code


def test_T2_every_language_has_a_tokenizer_of_sacrebleu():
    assert {language.bleu_tokenizer for language in LANGUAGES.values()} <= set(BLEU.TOKENIZERS)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("zho_Hans", "我们现在有四个月大没有糖尿病的老鼠。"),
        ("zho_Hant", "我們現在有四個月大沒有糖尿病的老鼠。"),
        ("yue_Hant", "我哋而家有四個月大冇糖尿病嘅老鼠。"),
        ("jpn_Jpan", "生後4カ月のマウスで糖尿病が治りました。"),
        ("kor_Hang", "당뇨병이 없는 생후 4개월 된 쥐가 있습니다."),
        ("tha_Thai", "ตอนนี้เรามีหนูอายุสี่เดือนที่ไม่เป็นโรคเบาหวาน"),
        ("lao_Laoo", "ດຽວນີ້ພວກເຮົາມີໜູອາຍຸສີ່ເດືອນທີ່ບໍ່ເປັນເບົາຫວານ"),
        ("khm_Khmr", "ឥឡូវនេះយើងមានកណ្តុរអាយុបួនខែដែលមិនមានជំងឺទឹកនោមផ្អែម"),
        ("mya_Mymr", "ယခုကျွန်ုပ်တို့တွင်ဆီးချိုရောဂါမရှိသောလေးလသားကြွက်များရှိသည်။"),
        ("shn_Mymr", "ယၢမ်းလဵဝ်ႁဝ်းမီးၼူဢႃယုသီႇလိူၼ်"),
        ("bod_Tibt", "ང་ཚོར་ད་ལྟ་ཟླ་བཞི་ལོན་པའི་ཙི་ཙི་ཡོད།"),
        ("dzo_Tibt", "ད་ལྟོ་ང་བཅས་ལུ་ཟླཝ་བཞི་ལོན་མི་བྱི་ཙི་ཡོད།"),
        ("deu_Latn", "Wir haben jetzt vier Monate alte Mäuse."),
    ],
)
def test_T1_a_perfect_translation_scores_100_and_half_of_it_neither_0_nor_100(code, sentence):
    bleu = BLEU(tokenize=LANGUAGES[code].bleu_tokenizer, effective_order=True)
    assert bleu.corpus_score([sentence], [[sentence]]).score == pytest.approx(100)
    # With a tokenizer that does not segment the script, half a sentence is a single wrong word: 0.
    half = sentence[: len(sentence) * 2 // 3]
    assert 5 < bleu.corpus_score([half], [[sentence]]).score < 95


@pytest.fixture(scope="module")
def identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def test_labels_are_known_to_py3langid(identifier):
    assert {language.lid_label for language in LANGUAGES.values()} - {None} <= set(identifier.labels)


@needs_flores
def test_labels_are_what_py3langid_answers(identifier):
    for code, language in LANGUAGES.items():
        if language.lid_label is None:
            continue
        lines = (FLORES / f"{code}.dev").read_text(encoding="utf-8").split("\n")[:20]
        accepted = {language.lid_label} | {
            other.lid_label
            for other in LANGUAGES.values()
            if language.confusable and other.confusable == language.confusable
        }
        right = sum(identifier.classify(line)[0] in accepted for line in lines)
        assert right >= 0.8 * len(lines), f"{code}: {right} of {len(lines)}"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("deu_Latn", "deu_Latn"),
        ("DEU_latn", "deu_Latn"),
        ("de", "deu_Latn"),
        ("deu", "deu_Latn"),
        ("de-AT", "deu_Latn"),
        ("de-Latn-AT", "deu_Latn"),
        (" german ", "deu_Latn"),
        ("zh", "zho_Hans"),
        ("Chinese", "zho_Hans"),
        ("cmn", "zho_Hans"),
        ("zh-Hant", "zho_Hant"),
        ("zh_TW", "zho_Hant"),
        ("zh-Hans-CN", "zho_Hans"),
        ("cmn_Hant", "zho_Hant"),
        ("yue", "yue_Hant"),
        ("pt-BR", "por_Latn"),
        ("es-419", "spa_Latn"),
        ("ar", "arb_Arab"),
        ("Arabic", "arb_Arab"),
        ("ar-Latn", "arb_Latn"),
        ("sr", "srp_Cyrl"),
        ("sr-Cyrl", "srp_Cyrl"),
        ("no", "nob_Latn"),
        ("nb", "nob_Latn"),
        ("Malay", "zsm_Latn"),
        ("fa", "pes_Arab"),
        ("ku", "kmr_Latn"),
        ("fil", "tgl_Latn"),
        ("iw", "heb_Hebr"),
        ("ks", "kas_Arab"),
        ("ks-Deva", "kas_Deva"),
        ("Acehnese", "ace_Latn"),
        ("Norwegian Bokmål", "nob_Latn"),
    ],
)
def test_resolution(text, code):
    assert resolve_language(text) == code


def test_every_code_and_name_resolves_to_itself():
    for code, language in LANGUAGES.items():
        assert (
            resolve_language(code)
            == resolve_language(language.name)
            == resolve_language(code.replace("_", "-").upper())
            == code
        )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("sr-Latn", "srp_Cyrl"),
        ("deu_Cyrl", "deu_Latn"),
        ("Germann", "deu_Latn"),
        ("Norwegan", "nob_Latn"),
        ("0123", "ls languages"),
        ("", "ls languages"),
        ("🙂", "ls languages"),
    ],
)
def test_unknown_languages_are_refused_with_the_nearest(text, hint):
    with pytest.raises(InputError, match="unknown language") as caught:
        resolve_language(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_dialect_region_is_not_taken_for_a_script_or_a_name():
    """Only ISO codes carry regions: "english-us" is a typing error, not English."""
    with pytest.raises(InputError, match="eng_Latn"):
        resolve_language("english-US")
