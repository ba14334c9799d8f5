"""Off-target judgements on real sentences."""

import numpy as np
import pytest

from alignx_eval.corpora import load_corpus
from alignx_eval.errors import InputError
from alignx_eval.measures.off_target import accepted_labels, identify, judge, letter_count, off_target_items, text_to_identify

GERMAN = "Das Gerät ist nicht erreichbar, bitte überprüfe die Adresse und versuche es erneut."
ENGLISH = "The device could not be reached, check the address and try again."


def accepted(source, target):
    labels, reason = accepted_labels(source, target)
    assert reason is None
    return labels


def test_L1_empty_outputs_are_off_target_and_short_ones_are_not_judged():
    german = accepted("eng_Latn", "deu_Latn")
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
    assert judge(text, ENGLISH, accepted("eng_Latn", target))[0] == "on"
    assert judge(text, ENGLISH, accepted("eng_Latn", "deu_Latn"))[0] == "off"


def test_L2_length_is_counted_in_letters():
    assert letter_count("12:30 — ok!") == 2
    assert letter_count("设备") == 6
    assert letter_count("การ") == 3


def test_L3_confusable_languages_count_as_the_target_but_the_source_never_does():
    assert {"pt", "gl"} <= accepted("eng_Latn", "por_Latn")
    assert accepted("glg_Latn", "por_Latn") & {"gl"} == set()
    assert accepted("por_Latn", "glg_Latn") & {"pt"} == set()


def test_L3_languages_that_cannot_be_told_apart_are_undefined_with_a_reason():
    for source, target, word in (
        ("zho_Hans", "zho_Hant", "apart"),
        ("eng_Latn", "lmo_Latn", "no label"),
        ("deu_Latn", "deu_Latn", "apart"),
    ):
        labels, reason = accepted_labels(source, target)
        assert not labels and word in reason
    with pytest.raises(InputError):
        accepted_labels("eng_Latn", "zh")


def test_L4_code_numbers_and_quoted_source_are_removed():
    source = 'Open the file "configuration of the house" at https://example.org/a with `reload()`.'
    output = "Öffne „configuration of the house“ https://example.org/a `reload()` {name} <b> 12.5 MQTT sensor_id v2 a/b me@x.org jetzt"
    assert text_to_identify(output, source) == "Öffne jetzt"
    assert text_to_identify("Sie sagt „guten Morgen“ laut", source) == "Sie sagt „guten Morgen“ laut"  # quoted, but not from the source
    assert text_to_identify("GERÄT NICHT GEFUNDEN", source) == "GERÄT NICHT GEFUNDEN"
    assert judge("https://example.org/a 12345 {name}", source, accepted("eng_Latn", "deu_Latn"))[0] == "unjudged"


def test_copied_source_is_off_target():
    corpus = load_corpus("interface", limit=60)
    german = accepted("eng_Latn", "deu_Latn")
    judgements = [judge(line, line, german)[0] for line in corpus.sentences["eng_Latn"]]
    off, judged = np.array(off_target_items(judgements)).sum(axis=0)
    assert judged >= 55 and off >= 0.97 * judged


@pytest.mark.parametrize("target", ["deu_Latn", "spa_Latn", "rus_Cyrl", "zho_Hans", "ell_Grek", "tur_Latn"])
def test_references_are_nearly_always_on_target_and_covered(target):
    corpus = load_corpus("interface")
    labels = accepted("eng_Latn", target)
    judgements = [
        judge(line, source, labels)[0] for line, source in zip(corpus.sentences[target], corpus.sentences["eng_Latn"], strict=True)
    ]
    off, judged = np.array(off_target_items(judgements)).sum(axis=0)
    assert judged >= 0.95 * len(corpus) and off <= 0.08 * judged


def test_L5_the_identifier_is_local_and_does_not_touch_that_of_the_process():
    import py3langid

    before = py3langid.langid.IDENTIFIER
    assert identify(GERMAN) == "de"
    assert py3langid.langid.IDENTIFIER is before
