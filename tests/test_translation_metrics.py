"""BLEU and chrF++ sentence statistics against sacreBLEU's own corpus scores."""

import builtins

import numpy as np
import pytest
import sacrebleu

from alignx_eval.errors import InputError, MissingAssetError
from alignx_eval.languages import LANGUAGES
from alignx_eval.measures import bleu, chrf
from alignx_eval.measures.bleu import bleu_signature, bleu_statistics, bleu_tokenizer, prepare
from alignx_eval.measures.chrf import chrf_signature, chrf_statistics
from alignx_eval.statistics.corpus_metrics import bleu_from_statistics, chrf_from_statistics

# One sentence per script, long enough for 4-grams of words or characters.
SENTENCES = {
    "eng_Latn": "The device could not be reached, check the address and try again.",
    "deu_Latn": "Das Gerät ist nicht erreichbar, bitte überprüfe die Adresse und versuche es erneut.",
    "rus_Cyrl": "Устройство недоступно, проверьте адрес и повторите попытку.",
    "ell_Grek": "Η συσκευή δεν είναι προσβάσιμη, ελέγξτε τη διεύθυνση.",
    "arb_Arab": "تعذر الوصول إلى الجهاز، تحقق من العنوان وحاول مرة أخرى.",
    "hin_Deva": "डिवाइस तक नहीं पहुँचा जा सका, पता जाँचें और फिर से प्रयास करें।",
    "zho_Hans": "无法连接到设备，请检查地址后重试。",
    "zho_Hant": "無法連線到裝置，請檢查位址後再試一次。",
    "jpn_Jpan": "デバイスに接続できません。アドレスを確認してもう一度お試しください。",
    "kor_Hang": "기기에 연결할 수 없습니다. 주소를 확인하고 다시 시도하세요.",
    "tha_Thai": "ไม่สามารถเข้าถึงอุปกรณ์ได้กรุณาตรวจสอบที่อยู่",
    "lao_Laoo": "ບໍ່ສາມາດເຂົ້າເຖິງອຸປະກອນໄດ້ກະລຸນາກວດສອບທີ່ຢູ່",
    "khm_Khmr": "មិនអាចភ្ជាប់ទៅឧបករណ៍បានទេសូមពិនិត្យអាសយដ្ឋាន",
    "mya_Mymr": "စက်ကိုဆက်သွယ်၍မရပါလိပ်စာကိုစစ်ဆေးပါ",
    "bod_Tibt": "མི་རིགས་ཀྱི་སྐད་ཡིག་སློབ་སྦྱོང་བྱེད་དགོས།",
}
HYPOTHESES = [
    "the cat sat on the mat today",
    "a dog",
    "",
    "no overlap whatsoever here",
    "The device could not be reached.",
]
REFERENCES = [
    "the cat sat on a mat",
    "a dog barks at night",
    "something was here",
    "völlig andere Wörter stehen da",
    "The device cannot be reached.",
]


@pytest.mark.parametrize("language", SENTENCES)
def test_T1_identical_text_scores_100_in_every_script(language):
    text = [SENTENCES[language]]
    assert bleu_from_statistics(bleu_statistics(text, text, language).sum(axis=0)) == pytest.approx(100)
    assert chrf_from_statistics(chrf_statistics(text, text).sum(axis=0)) == pytest.approx(100)


def test_T1_what_13a_would_have_made_of_chinese():
    hypothesis, reference = ["无法连接到设备，请检查地址。"], ["无法连接到该设备，请检查地址。"]
    assert sacrebleu.BLEU(tokenize="13a", force=True).corpus_score(hypothesis, [reference]).score < 20
    assert bleu_from_statistics(bleu_statistics(hypothesis, reference, "zho_Hans").sum(axis=0)) > 50


def test_T2_every_code_has_a_tokenizer_and_an_unknown_code_is_an_error():
    assert {bleu_tokenizer(code) for code in LANGUAGES} <= set(sacrebleu.BLEU.TOKENIZERS)
    assert [bleu_tokenizer(code) for code in ("zho_Hans", "zho_Hant", "jpn_Jpan", "kor_Hang")] == [
        "zh",
        "zh",
        "ja-mecab",
        "ko-mecab",
    ]
    for code in ("tha_Thai", "khm_Khmr", "lao_Laoo", "mya_Mymr", "bod_Tibt"):
        assert bleu_tokenizer(code) != "13a"
    with pytest.raises(InputError, match="FLORES code"):
        bleu_statistics(["a"], ["a"], "zh")


@pytest.mark.parametrize("language, module, extra", [("jpn_Jpan", "MeCab", "ja"), ("kor_Hang", "mecab_ko", "ko")])
def test_T3_a_missing_tokenizer_names_the_extra(language, module, extra, monkeypatch):
    import sys

    real = builtins.__import__

    def without(name, *rest, **keywords):
        if name.split(".")[0] == module:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.startswith("sacrebleu.tokenizers.tokenizer_" + extra)]:
        monkeypatch.delitem(sys.modules, name)
    bleu._metric.cache_clear()
    try:
        with pytest.raises(MissingAssetError, match=rf"pip install 'sacrebleu\[{extra}\]'"):
            bleu_statistics(["x"], ["x"], language)
    finally:
        bleu._metric.cache_clear()


@pytest.mark.parametrize(
    "tokenizer, language", [("13a", "eng_Latn"), ("zh", "zho_Hans"), ("ja-mecab", "jpn_Jpan"), ("char", "tha_Thai")]
)
def test_summed_statistics_give_the_corpus_score_of_sacrebleu(tokenizer, language):
    hypotheses = [*HYPOTHESES, SENTENCES[language][:-6], SENTENCES[language]]
    references = [*REFERENCES, SENTENCES[language], SENTENCES[language]]
    assert bleu_tokenizer(language) == tokenizer
    expected = sacrebleu.BLEU(tokenize=tokenizer, force=True).corpus_score(hypotheses, [references]).score
    statistics = bleu_statistics(hypotheses, references, language)
    assert statistics.shape == (len(hypotheses), 10) and statistics.dtype == np.int64
    assert bleu_from_statistics(statistics.sum(axis=0)) == pytest.approx(expected, abs=1e-9)
    expected = sacrebleu.CHRF(word_order=2).corpus_score(hypotheses, [references]).score
    assert chrf_from_statistics(chrf_statistics(hypotheses, references).sum(axis=0)) == pytest.approx(
        expected, abs=1e-9
    )


def test_sentence_chrf_is_that_of_sacrebleu():
    metric = sacrebleu.CHRF(word_order=2)
    expected = [
        metric.sentence_score(hypothesis, [reference]).score
        for hypothesis, reference in zip(HYPOTHESES, REFERENCES, strict=True)
    ]
    np.testing.assert_allclose(chrf_from_statistics(chrf_statistics(HYPOTHESES, REFERENCES)), expected, atol=1e-9)


def test_T4_signatures_name_what_must_agree():
    assert bleu_signature("zho_Hans").startswith("nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:")
    assert "tok:13a" in bleu_signature("deu_Latn")
    assert chrf_signature().startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:")


def test_T5_hypotheses_come_first():
    short, long = ["the cat"], ["the cat sat on the mat"]
    forward, backward = bleu_statistics(short, long, "eng_Latn")[0], bleu_statistics(long, short, "eng_Latn")[0]
    assert forward[:2].tolist() == [2, 6] and backward[:2].tolist() == [6, 2]
    hypothesis, reference, match = chrf_statistics(short, long)[0, :3]
    assert (hypothesis, reference, match) == (6, 17, 6)


def test_T5_lists_of_different_length_are_an_error():
    for call in (lambda: bleu_statistics(["a", "b"], ["a"], "eng_Latn"), lambda: chrf_statistics(["a"], [])):
        with pytest.raises(InputError, match="one reference for each hypothesis"):
            call()


@pytest.mark.parametrize("text", ["", "   ", "\n", "\r\n", "\u200f"])
def test_T6_an_empty_output_scores_0(text):
    assert prepare(text) == ""
    reference = [SENTENCES["eng_Latn"]]
    assert bleu_from_statistics(bleu_statistics([prepare(text)], reference, "eng_Latn").sum(axis=0)) == 0
    assert chrf_from_statistics(chrf_statistics([prepare(text)], reference).sum(axis=0)) == 0


def test_T6_text_policy():
    assert prepare("Gera\u0308t\r\n  ist\u00a0da ") == "Gerät ist da"  # NFD, line breaks, no-break space
    assert prepare("\u200fשלום\u200e \u2067עולם\u2069") == "שלום עולם"
    assert prepare("Ｆｕｌｌ") == "Ｆｕｌｌ"  # full-width letters stay: NFC, not NFKC
    assert prepare("می\u200cخواهم") == "می\u200cخواهم"  # a zero-width non-joiner is spelling


def test_empty_lists():
    assert bleu_statistics([], [], "eng_Latn").shape == (0, 10) and chrf_statistics([], []).shape == (0, 24)


def test_word_order_is_that_of_chrf_plus_plus():
    assert chrf.WORD_ORDER == 2
