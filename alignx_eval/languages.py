"""The one table of languages: what a FLORES-200 code stands for, and what people type instead of it.

Names are those of FLORES-200. The 204 codes are the 204 of its devtest; `nqo_Nkoo` joined its dev set later and is the
205th.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from alignx_eval.errors import InputError

DEFAULT_PIVOT = "eng_Latn"  # the language that all others are paired with, where nobody chose another

# code | English name | other spellings (ISO 639-1, macro-language, retired codes, common names) | py3langid label |
# confusable group
#
# A label stands only where py3langid 0.4 has one for the language or for its ISO macro-language (`ar` for Tunisian
# Arabic, none for Lombard), and gives it, or another label of the group, to at least nine in ten of the language's
# FLORES dev sentences. A group holds languages so close in writing that an identifier mixes them up on correct
# sentences: it takes most Moroccan Arabic for `ar`, not `ary`.
_TABLE = """
ace_Arab | Acehnese (Arabic script) | | |
ace_Latn | Acehnese (Latin script) | Acehnese | ace |
acm_Arab | Mesopotamian Arabic | | ar | Arabic
acq_Arab | Ta'izzi-Adeni Arabic | | ar | Arabic
aeb_Arab | Tunisian Arabic | | ar | Arabic
afr_Latn | Afrikaans | af | af |
ajp_Arab | South Levantine Arabic | | ar | Arabic
aka_Latn | Akan | ak | | Akan
als_Latn | Tosk Albanian | sq, sqi, Albanian | sq |
amh_Ethi | Amharic | am | am |
apc_Arab | North Levantine Arabic | Levantine Arabic | ar | Arabic
arb_Arab | Modern Standard Arabic | ar, ara, Arabic | ar | Arabic
arb_Latn | Modern Standard Arabic (Romanized) | Romanized Arabic | |
ars_Arab | Najdi Arabic | | ar | Arabic
ary_Arab | Moroccan Arabic | | ary | Arabic
arz_Arab | Egyptian Arabic | | arz | Arabic
asm_Beng | Assamese | as | as |
ast_Latn | Asturian | | |
awa_Deva | Awadhi | | | Hindi belt
ayr_Latn | Central Aymara | ay, aym, Aymara | |
azb_Arab | South Azerbaijani | | |
azj_Latn | North Azerbaijani | az, aze, Azerbaijani | az |
bak_Cyrl | Bashkir | ba | ba |
bam_Latn | Bambara | bm | | Manding
ban_Latn | Balinese | | |
bel_Cyrl | Belarusian | be | be |
bem_Latn | Bemba | | |
ben_Beng | Bengali | bn, Bangla | bn |
bho_Deva | Bhojpuri | | | Hindi belt
bjn_Arab | Banjar (Arabic script) | | |
bjn_Latn | Banjar (Latin script) | Banjar | |
bod_Tibt | Standard Tibetan | bo, Tibetan | | Tibetan
bos_Latn | Bosnian | bs | bs | Serbo-Croatian
bug_Latn | Buginese | | |
bul_Cyrl | Bulgarian | bg | bg |
cat_Latn | Catalan | ca | ca |
ceb_Latn | Cebuano | | |
ces_Latn | Czech | cs | cs |
cjk_Latn | Chokwe | | |
ckb_Arab | Central Kurdish | Sorani | |
crh_Latn | Crimean Tatar | | crh |
cym_Latn | Welsh | cy | cy |
dan_Latn | Danish | da | da | Scandinavian
deu_Latn | German | de | de |
dik_Latn | Southwestern Dinka | din, Dinka | |
dyu_Latn | Dyula | | | Manding
dzo_Tibt | Dzongkha | dz | dz | Tibetan
ell_Grek | Greek | el | el |
eng_Latn | English | en | en |
epo_Latn | Esperanto | eo | eo |
est_Latn | Estonian | et, ekk | et |
eus_Latn | Basque | eu | eu |
ewe_Latn | Ewe | ee | |
fao_Latn | Faroese | fo | fo |
fij_Latn | Fijian | fj | |
fin_Latn | Finnish | fi | fi |
fon_Latn | Fon | | |
fra_Latn | French | fr | fr |
fur_Latn | Friulian | | |
fuv_Latn | Nigerian Fulfulde | ff, ful, Fulfulde | fuv |
gaz_Latn | West Central Oromo | om, orm, Oromo | om |
gla_Latn | Scottish Gaelic | gd | gd |
gle_Latn | Irish | ga | ga |
glg_Latn | Galician | gl | gl | Galician-Portuguese
grn_Latn | Guarani | gn, gug | gug |
guj_Gujr | Gujarati | gu | gu |
hat_Latn | Haitian Creole | ht | ht |
hau_Latn | Hausa | ha | ha |
heb_Hebr | Hebrew | he, iw | he |
hin_Deva | Hindi | hi | hi | Hindi belt
hne_Deva | Chhattisgarhi | | | Hindi belt
hrv_Latn | Croatian | hr | hr | Serbo-Croatian
hun_Latn | Hungarian | hu | hu |
hye_Armn | Armenian | hy | hy |
ibo_Latn | Igbo | ig | ig |
ilo_Latn | Ilocano | | |
ind_Latn | Indonesian | id, in | id | Malay
isl_Latn | Icelandic | is | is |
ita_Latn | Italian | it | it |
jav_Latn | Javanese | jv | jv |
jpn_Jpan | Japanese | ja | ja |
kab_Latn | Kabyle | | kab |
kac_Latn | Jingpho | | |
kam_Latn | Kamba | | |
kan_Knda | Kannada | kn | kn |
kas_Arab | Kashmiri (Arabic script) | ks, Kashmiri | |
kas_Deva | Kashmiri (Devanagari script) | | |
kat_Geor | Georgian | ka | ka |
kaz_Cyrl | Kazakh | kk | kk |
kbp_Latn | Kabiyè | | |
kea_Latn | Kabuverdianu | Cape Verdean Creole | |
khk_Cyrl | Halh Mongolian | mn, mon, Mongolian, Khalkha Mongolian | mn |
khm_Khmr | Khmer | km | km |
kik_Latn | Kikuyu | ki | kik |
kin_Latn | Kinyarwanda | rw | rw | Rwanda-Rundi
kir_Cyrl | Kyrgyz | ky | ky |
kmb_Latn | Kimbundu | | |
kmr_Latn | Northern Kurdish | ku, kur, Kurdish, Kurmanji | ku |
knc_Arab | Central Kanuri (Arabic script) | | |
knc_Latn | Central Kanuri (Latin script) | kr, kau, Kanuri, Central Kanuri | |
kon_Latn | Kikongo | kg, ktu, Kongo | |
kor_Hang | Korean | ko | ko |
lao_Laoo | Lao | lo | lo |
lij_Latn | Ligurian | | lij |
lim_Latn | Limburgish | li | |
lin_Latn | Lingala | ln | ln |
lit_Latn | Lithuanian | lt | lt |
lmo_Latn | Lombard | | |
ltg_Latn | Latgalian | | ltg | Latvian
ltz_Latn | Luxembourgish | lb | lb |
lua_Latn | Luba-Kasai | | |
lug_Latn | Ganda | lg, Luganda | lg |
luo_Latn | Luo | | |
lus_Latn | Mizo | | |
lvs_Latn | Standard Latvian | lv, lav, Latvian | lv | Latvian
mag_Deva | Magahi | | | Hindi belt
mai_Deva | Maithili | | | Hindi belt
mal_Mlym | Malayalam | ml | ml |
mar_Deva | Marathi | mr | mr |
min_Arab | Minangkabau (Arabic script) | | |
min_Latn | Minangkabau (Latin script) | Minangkabau | |
mkd_Cyrl | Macedonian | mk | mk |
mlt_Latn | Maltese | mt | mt |
mni_Beng | Meitei (Bengali script) | Meitei, Manipuri | |
mos_Latn | Mossi | | |
mri_Latn | Maori | mi, Māori | |
mya_Mymr | Burmese | my, Myanmar | my |
nld_Latn | Dutch | nl | nl |
nno_Latn | Norwegian Nynorsk | nn, Nynorsk | nn | Scandinavian
nob_Latn | Norwegian Bokmål | nb, no, nor, Norwegian, Bokmål | no | Scandinavian
npi_Deva | Nepali | ne, nep | ne |
nqo_Nkoo | N'Ko | NKo | |
nso_Latn | Northern Sotho | Sepedi | nso | Sotho-Tswana
nus_Latn | Nuer | | |
nya_Latn | Nyanja | ny, Chichewa, Chewa | |
oci_Latn | Occitan | oc | oc |
ory_Orya | Odia | or, ori, Oriya | or |
pag_Latn | Pangasinan | | |
pan_Guru | Eastern Panjabi | pa, Punjabi, Panjabi | pa |
pap_Latn | Papiamento | | |
pbt_Arab | Southern Pashto | ps, pus, Pashto | ps |
pes_Arab | Western Persian | fa, fas, Persian, Farsi | fa | Persian
plt_Latn | Plateau Malagasy | mg, mlg, Malagasy | mg |
pol_Latn | Polish | pl | pl |
por_Latn | Portuguese | pt | pt | Galician-Portuguese
prs_Arab | Dari | | fa | Persian
quy_Latn | Ayacucho Quechua | qu, que, Quechua | qu |
ron_Latn | Romanian | ro, mo | ro |
run_Latn | Rundi | rn, Kirundi | | Rwanda-Rundi
rus_Cyrl | Russian | ru | ru |
sag_Latn | Sango | sg | |
san_Deva | Sanskrit | sa | sa |
sat_Olck | Santali | | |
scn_Latn | Sicilian | | |
shn_Mymr | Shan | | |
sin_Sinh | Sinhala | si | si |
slk_Latn | Slovak | sk | sk |
slv_Latn | Slovenian | sl | sl |
smo_Latn | Samoan | sm | |
sna_Latn | Shona | sn | sn |
snd_Arab | Sindhi | sd | |
som_Latn | Somali | so | so |
sot_Latn | Southern Sotho | st, Sesotho | st | Sotho-Tswana
spa_Latn | Spanish | es | es |
srd_Latn | Sardinian | sc | |
srp_Cyrl | Serbian | sr | sr | Serbo-Croatian
ssw_Latn | Swati | ss | | Nguni
sun_Latn | Sundanese | su | |
swe_Latn | Swedish | sv | sv |
swh_Latn | Swahili | sw, swa | sw |
szl_Latn | Silesian | | |
tam_Taml | Tamil | ta | ta |
taq_Latn | Tamasheq (Latin script) | Tamasheq | |
taq_Tfng | Tamasheq (Tifinagh script) | | |
tat_Cyrl | Tatar | tt | tt |
tel_Telu | Telugu | te | te |
tgk_Cyrl | Tajik | tg | tg |
tgl_Latn | Tagalog | tl, fil, Filipino | tl |
tha_Thai | Thai | th | th |
tir_Ethi | Tigrinya | ti | |
tpi_Latn | Tok Pisin | | |
tsn_Latn | Tswana | tn, Setswana | | Sotho-Tswana
tso_Latn | Tsonga | ts | |
tuk_Latn | Turkmen | tk | tk |
tum_Latn | Tumbuka | | |
tur_Latn | Turkish | tr | tr |
twi_Latn | Twi | tw | | Akan
tzm_Tfng | Central Atlas Tamazight | Tamazight | |
uig_Arab | Uyghur | ug | ug |
ukr_Cyrl | Ukrainian | uk | uk |
umb_Latn | Umbundu | | |
urd_Arab | Urdu | ur | ur |
uzn_Latn | Northern Uzbek | uz, uzb, Uzbek | uz |
vec_Latn | Venetian | | vec |
vie_Latn | Vietnamese | vi | vi |
war_Latn | Waray | | |
wol_Latn | Wolof | wo | |
xho_Latn | Xhosa | xh | xh | Nguni
ydd_Hebr | Eastern Yiddish | yi, yid, ji, Yiddish | |
yor_Latn | Yoruba | yo | yo |
yue_Hant | Yue Chinese | Cantonese | yue | Chinese
zho_Hans | Chinese (Simplified) | zh, cmn, Chinese, Mandarin, Simplified Chinese, zh-CN, zh-SG | zh | Chinese
zho_Hant | Chinese (Traditional) | Traditional Chinese, zh-TW, zh-HK, zh-MO | zh | Chinese
zsm_Latn | Standard Malay | ms, msa, Malay | ms | Malay
zul_Latn | Zulu | zu | zu | Nguni
"""

_RIGHT_TO_LEFT = {"Arab", "Hebr", "Nkoo"}
# sacreBLEU's 13a splits at spaces, so a sentence in one of these scripts would be a single word and BLEU an exact-match
# rate.
_BLEU_TOKENIZERS = {
    "Hans": "zh",
    "Hant": "zh",
    "Jpan": "ja-mecab",
    "Hang": "ko-mecab",
    "Thai": "char",
    "Khmr": "char",
    "Laoo": "char",
    "Mymr": "char",
    "Tibt": "char",
}
# Languages in several scripts: the one that the bare language code means.
_STANDARD_SCRIPT = {
    "ace": "Latn",
    "arb": "Arab",
    "bjn": "Latn",
    "kas": "Arab",
    "knc": "Latn",
    "min": "Latn",
    "taq": "Latn",
    "zho": "Hans",
}


@dataclass(frozen=True, slots=True)
class Language:
    """What is known about one FLORES code.

    `script` is the ISO 15924 code, `direction` "ltr" or "rtl", `bleu_tokenizer` sacreBLEU's name of the tokenizer that
    fits the script, `lid_label` the answer of py3langid that means this language (None: it knows no such language, so
    its answers say nothing about it), `confusable` the name of a group of languages that language identification mixes
    up even on correct sentences.
    """

    code: str
    name: str
    script: str
    direction: str
    bleu_tokenizer: str
    lid_label: str | None
    confusable: str | None


def _read_table(table: str) -> tuple[dict[str, Language], dict[str, str]]:
    """The languages by code, and the code of every lower-case spelling that means one of them."""
    languages: dict[str, Language] = {}
    spellings: dict[str, str] = {}
    for line in table.strip().splitlines():
        code, name, aliases, label, group = (field.strip() for field in line.split("|"))
        iso, script = code.split("_")
        languages[code] = Language(
            code=code,
            name=name,
            script=script,
            direction="rtl" if script in _RIGHT_TO_LEFT else "ltr",
            bleu_tokenizer=_BLEU_TOKENIZERS.get(script, "13a"),
            lid_label=label or None,
            confusable=group or None,
        )
        names = [name, *(alias.strip() for alias in aliases.split(",") if alias.strip())]
        if _STANDARD_SCRIPT.get(iso, script) == script:
            names.append(iso)
        # "zh-Hant" and "sr-Cyrl": every short code also with its script, whichever script of the language the short
        # code alone means.
        names += [f"{iso}-{script}"] + [f"{alias}-{script}" for alias in names if alias.islower() and len(alias) <= 3]
        for spelling in names:
            owner = spellings.setdefault(spelling.lower(), code)
            assert owner == code, f"{spelling!r} means {owner} and {code}"
    for alias, iso in (("zh", "zho"), ("cmn", "zho"), ("ar", "arb"), ("ara", "arb"), ("ks", "kas"), ("kr", "knc")):
        for code in languages:
            if code.startswith(iso):
                spellings[f"{alias}-{code[4:]}".lower()] = code
    return languages, spellings


LANGUAGES, SPELLINGS = _read_table(_TABLE)


def resolve_language(text: str) -> str:
    """FLORES code of a language given as a FLORES code, ISO 639-1, ISO 639-3, BCP 47 (`zh-Hant`, `pt-BR`) or English
    name, in any case.

    What names a group of varieties means its standard one: Arabic is Modern Standard Arabic, Chinese is Mandarin in
    simplified characters, Norwegian is Bokmål, Malay is Standard Malay, Persian is Western Persian, Kurdish is Northern
    Kurdish, Kashmiri is in Arabic script; Serbian is in Cyrillic (FLORES has no other) and Acehnese, Banjar, Kanuri,
    Minangkabau and Tamasheq are in Latin script. A region that FLORES does not tell apart is dropped (`de-AT` is
    German); a script that FLORES lacks (`sr-Latn`) is an error.

    Raises InputError, with the nearest codes, when nothing fits.
    """
    wanted = text.strip().lower().replace("_", "-")
    if wanted in SPELLINGS:
        return SPELLINGS[wanted]
    language, *subtags = wanted.split("-")
    # BCP 47: a subtag of four letters is a script, one of two letters or three digits a region.
    regions = [tag for tag in subtags if (len(tag) == 2 and tag.isalpha()) or (len(tag) == 3 and tag.isdigit())]
    without_region = "-".join([language, *(tag for tag in subtags if tag not in regions)])
    if len(language) <= 3 and regions and without_region in SPELLINGS:
        return SPELLINGS[without_region]
    # A known language in a script that FLORES lacks, first; then whatever is spelt alike.
    known = SPELLINGS.get(language, "")
    codes = [code for code in LANGUAGES if code[:3] == known[:3]]
    codes += [SPELLINGS[spelling] for spelling in difflib.get_close_matches(wanted, SPELLINGS, n=12, cutoff=0.5)]
    codes = list(dict.fromkeys(codes))[:4]
    if not codes:
        raise InputError(f"unknown language {text!r}; `alignx-eval ls languages` lists all")
    raise InputError(
        f"unknown language {text!r}; nearest: {', '.join(f'{code} ({LANGUAGES[code].name})' for code in codes)}"
    )
