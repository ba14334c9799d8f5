"""Off-target judgements on real sentences."""

import os
from pathlib import Path

import numpy as np
import pytest

from alignx_eval.corpora import load_corpus
from alignx_eval.errors import InputError
from alignx_eval.languages import LANGUAGES
from alignx_eval.measures import script
from alignx_eval.measures.bleu import prepare
from alignx_eval.measures.off_target import expected_language, identify, judge, off_target_items, text_to_identify
from alignx_eval.measures.script import is_written_in, letter_count

GERMAN = "Das Gerät ist nicht erreichbar, bitte überprüfe die Adresse und versuche es erneut."
ENGLISH = "The device could not be reached, check the address and try again."
SIMPLIFIED = "无法连接到设备，请检查地址后重试。"
TRADITIONAL = "無法連線到裝置，請檢查位址後再試一次。"
SERBIAN = "Uređaj nije dostupan, proverite adresu i pokušajte ponovo."
SERBIAN_CYRILLIC = "Уређај није доступан, проверите адресу и покушајте поново."
SHARED = Path(os.environ.get("ALIGNX_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
FLORES = SHARED / "flores200" / "devtest"


def expected(source, target):
    found, reason = expected_language(source, target)
    assert found is not None and reason is None
    return found


def test_L1_empty_outputs_are_off_target_and_short_ones_are_not_judged():
    german = expected("eng_Latn", "deu_Latn")
    judgements = [judge(text, ENGLISH, german)[0] for text in ("", "  \n", "OK", GERMAN, ENGLISH)]
    assert judgements == ["empty", "empty", "unjudged", "on", "off"]
    off, judged = np.array(off_target_items(judgements)).sum(axis=0)
    assert (off, judged) == (3, 4)  # a model that says nothing has rate 1, not 0


@pytest.mark.parametrize(
    "target, text",
    [
        ("tha_Thai", "ไม่สามารถเข้าถึงอุปกรณ์ได้กรุณาตรวจสอบที่อยู่"),
        ("zho_Hans", "无法连接到设备"),
        ("jpn_Jpan", "デバイスに接続できません"),
        ("khm_Khmr", "មិនអាចភ្ជាប់ទៅឧបករណ៍បានទេសូមពិនិត្យអាសយដ្ឋាន"),
        ("lao_Laoo", "ບໍ່ສາມາດເຂົ້າເຖິງອຸປະກອນໄດ້ກະລຸນາກວດສອບທີ່ຢູ່"),
    ],
)
def test_L2_scripts_without_spaces_are_judged(target, text):
    assert judge(text, ENGLISH, expected("eng_Latn", target))[0] == "on"
    assert judge(text, ENGLISH, expected("eng_Latn", "deu_Latn"))[0] == "off"


def test_L2_length_is_counted_in_letters():
    assert letter_count("12:30 — ok!") == 2
    assert letter_count("设备") == 6
    assert letter_count("การ") == 3


def test_L3_confusable_languages_count_as_the_target_but_the_source_never_does():
    assert {"pt", "gl"} <= expected("eng_Latn", "por_Latn").labels
    assert "gl" not in expected("glg_Latn", "por_Latn").labels
    assert "pt" not in expected("por_Latn", "glg_Latn").labels


def test_L3_languages_that_cannot_be_told_apart_are_undefined_with_a_reason():
    for source, target, word in (
        ("arb_Arab", "acm_Arab", "apart"),
        ("eng_Latn", "lmo_Latn", "no label"),
        ("eng_Latn", "kas_Deva", "no label"),
        ("deu_Latn", "deu_Latn", "apart"),
    ):
        found, reason = expected_language(source, target)
        assert found is None and word in reason
    with pytest.raises(InputError):
        expected_language("eng_Latn", "zh")


@pytest.mark.parametrize(
    "source, target, right, wrong",
    [
        ("eng_Latn", "zho_Hant", TRADITIONAL, SIMPLIFIED),
        ("eng_Latn", "zho_Hans", SIMPLIFIED, TRADITIONAL),
        ("eng_Latn", "yue_Hant", TRADITIONAL, SIMPLIFIED),
        ("eng_Latn", "srp_Cyrl", SERBIAN_CYRILLIC, SERBIAN),
        ("eng_Latn", "hrv_Latn", SERBIAN, SERBIAN_CYRILLIC),
        ("zho_Hans", "zho_Hant", TRADITIONAL, SIMPLIFIED),
        ("zho_Hant", "zho_Hans", SIMPLIFIED, TRADITIONAL),
        ("hrv_Latn", "srp_Cyrl", SERBIAN_CYRILLIC, SERBIAN),
        ("eng_Latn", "jpn_Jpan", "デバイスに接続できません。", TRADITIONAL),
        ("eng_Latn", "kor_Hang", "기기에 연결할 수 없습니다.", "機器接続不可能再試行要求"),
        ("eng_Latn", "sat_Olck", "ᱚᱞ ᱪᱤᱠᱤ ᱛᱮ ᱚᱞ ᱟᱠᱟᱱᱟ", ENGLISH),
    ],
)
def test_the_script_decides_where_the_identifier_cannot(source, target, right, wrong):
    wanted = expected(source, target)
    assert judge(right, "x", wanted)[0] == "on"
    assert judge(wrong, "x", wanted) == ("off", f"not {target[4:]}")


def test_loanwords_and_names_in_other_letters_do_not_change_the_script():
    assert (
        judge("Настройка Home Assistant для интеграции с Meater Cloud.", ENGLISH, expected("eng_Latn", "rus_Cyrl"))[0]
        == "on"
    )
    assert judge("正在搜索 Energenie Power Sockets 设备", ENGLISH, expected("eng_Latn", "zho_Hans"))[0] == "on"
    assert judge("Search for Energenie Power Sockets 设备", ENGLISH, expected("eng_Latn", "zho_Hans"))[0] == "off"
    assert is_written_in("蘇格蘭的 Alasdair Lamont 報導", "Hant") and not is_written_in(
        "Tony Macaroni Arena, Livingston 報", "Hant"
    )
    assert not is_written_in("12:30", "Latn")  # no letters at all


def test_every_script_of_the_table_of_languages_is_known():
    assert {language.script for language in LANGUAGES.values()} == set(script._NAMES)


def test_an_output_equal_to_its_reference_is_on_target_and_the_references_own_rate_still_shows_the_error():
    spanish = expected("eng_Latn", "spa_Latn")
    corpus = load_corpus("interface")
    pairs = list(zip(corpus.sentences["spa_Latn"], corpus.sentences["eng_Latn"], strict=True))
    mistaken = [(line, source) for line, source in pairs if judge(line, source, spanish)[0] == "off"]
    assert mistaken  # Spanish taken for Galician
    assert {judge(line, source, spanish, line)[0] for line, source in mistaken} == {"on"}
    assert judge(ENGLISH, ENGLISH, spanish, GERMAN)[0] == "off"


def test_numbers_and_acronyms_do_not_swallow_a_sentence_that_is_written_without_spaces():
    sentence = "2008年にNASAが3台のHubbleデバイスを接続しました。"
    assert text_to_identify(sentence, ENGLISH) == "年に が 台のHubbleデバイスを接続しました。"
    assert judge(sentence, ENGLISH, expected("eng_Latn", "jpn_Jpan"))[0] == "on"


@pytest.mark.skipif(not FLORES.is_dir(), reason="no FLORES here")
def test_limits_of_the_rule_on_flores():
    """At most 1 in 100 references is taken for another language or script; no Chinese line is taken for the other
    form."""
    codes = (
        "arb ben bul deu ell eng fra heb hin jpn kor pes rus spa srp swh tha tur ukr vie yue zho_Hans zho_Hant".split()
    )
    chosen = [code for code in LANGUAGES if code in codes or (code[:3] in codes and code != "arb_Latn")]
    lines = {
        code: [prepare(line) for line in (FLORES / f"{code}.devtest").read_text("utf-8").split("\n")[:1012:3]]
        for code in chosen
    }
    for code in chosen:
        source = "deu_Latn" if code == "eng_Latn" else "eng_Latn"
        wanted = expected(source, code)
        found = [judge(*pair, wanted)[0] for pair in zip(lines[code], lines[source], strict=True)]
        assert found.count("off") <= 3 and found.count("unjudged") == 0, code
    others = {"zho_Hans": "Hant", "zho_Hant": "Hans", "yue_Hant": "Hans"}
    assert [sum(is_written_in(line, other) for line in lines[code]) for code, other in others.items()] == [0, 0, 0]


def test_L4_code_numbers_and_quoted_source_are_removed():
    source = 'Open the file "configuration of the house" at https://example.org/a with `reload()`.'
    output = (
        "Öffne „configuration of the house“ https://example.org/a `reload()` {name} <b> 12.5 MQTT sensor_id v2 a/b "
        "me@x.org jetzt"
    )
    assert text_to_identify(output, source) == "Öffne jetzt"
    assert (
        text_to_identify("Sie sagt „guten Morgen“ laut", source) == "Sie sagt „guten Morgen“ laut"
    )  # quoted, but not from the source
    assert text_to_identify("GERÄT NICHT GEFUNDEN", source) == "GERÄT NICHT GEFUNDEN"
    assert judge("https://example.org/a 12345 {name}", source, expected("eng_Latn", "deu_Latn"))[0] == "unjudged"


def test_copied_source_is_off_target():
    corpus = load_corpus("interface", limit=60)
    german = expected("eng_Latn", "deu_Latn")
    judgements = [judge(line, line, german)[0] for line in corpus.sentences["eng_Latn"]]
    off, judged = np.array(off_target_items(judgements)).sum(axis=0)
    assert judged >= 55 and off >= 0.97 * judged


@pytest.mark.parametrize("target", ["deu_Latn", "spa_Latn", "rus_Cyrl", "zho_Hans", "ell_Grek", "tur_Latn"])
def test_references_are_nearly_always_on_target_and_covered(target):
    corpus = load_corpus("interface")
    wanted = expected("eng_Latn", target)
    judgements = [
        judge(line, source, wanted)[0]
        for line, source in zip(corpus.sentences[target], corpus.sentences["eng_Latn"], strict=True)
    ]
    off, judged = np.array(off_target_items(judgements)).sum(axis=0)
    assert judged >= 0.95 * len(corpus) and off <= 0.08 * judged


def test_L5_the_identifier_is_local_and_does_not_touch_that_of_the_process():
    import py3langid

    before = py3langid.langid.IDENTIFIER
    assert identify(GERMAN) == "de"
    assert py3langid.langid.IDENTIFIER is before
