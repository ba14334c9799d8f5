"""One strict model of the options: who wins, what a wrong name or value is told, and what no text is turned into."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignx_eval.errors import InputError
from alignx_eval.metrics import SUITES
from alignx_eval.settings import FURTHER, MEASURING, Settings, settings_from


def refusal(given: dict[str, object]) -> str:
    with pytest.raises(InputError) as caught:
        settings_from(given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"seed": True}, "option seed: a whole number is needed, not True"),
        ({"limit": "12"}, "option limit: a whole number is needed, not '12'"),
        ({"limit": 12.0}, "option limit: a whole number is needed, not 12.0"),
        ({"limit": 0}, "option limit: at least 1 is needed, not 0"),
        ({"window": 1}, "option window: at least 2 is needed, not 1"),
        ({"samples": 1}, "option samples: true or false is needed, not 1"),
        ({"offline": "no"}, "option offline: true or false is needed, not 'no'"),
        ({"split": 3}, "option split: text is needed, not 3"),
        ({"languages": 3}, "option languages: a list or comma-separated text is needed, not 3"),
        ({"languages": ["de", 3]}, "option languages: a list of texts is needed, not 3"),
        ({"languages": {"de": 1}}, "option languages: a list or comma-separated text is needed, not {'de': 1}"),
        ({"suits": "layers"}, "unknown option 'suits'; did you mean suites?"),
        ({"cache-directory": "x"}, "unknown option 'cache-directory'; did you mean cache-dir?"),
        ({"zzz": "x"}, "unknown option 'zzz'"),
        ({"output": ["page.pdf"]}, "-o page.pdf: the format follows the suffix, one of .html .json .md .csv .xml"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(given, message):
    assert refusal(given) == message


def test_a_long_value_is_not_repeated_whole():
    assert len(refusal({"limit": "9" * 5000})) < 200


def test_a_text_is_a_list_of_one_and_never_of_letters():
    assert settings_from({"languages": "de"}).languages == ("deu_Latn",)
    assert settings_from({"tasks": "a, b,"}).tasks == ("a", "b")
    assert settings_from({"output": [Path("a,b.html")]}).output == ("a,b.html",)
    assert settings_from({"cache_dir": Path("here")}).cache_dir == "here"


def test_command_line_over_file_over_earlier_run_over_defaults(tmp_path: Path):
    file = tmp_path / "options.yaml"
    file.write_text("limit: 20\nsplit: dev\nseed:\nonline: true\n")
    settings = settings_from({"limit": 7, "split": None}, file, {"limit": 3, "seed": 5, "split": "train", "window": 8})
    assert (settings.limit, settings.split, settings.seed, settings.window) == (7, "dev", 5, 8)
    assert settings.corpus == "interface" and settings.suites == tuple(SUITES) and not settings.offline


def test_what_is_wrong_in_a_file_names_the_file(tmp_path: Path):
    file = tmp_path / "options.yaml"
    for text, message in (
        ("limit: '12'\n", "option limit: a whole number is needed, not '12'"),
        ("seed: true\n", "option seed: a whole number is needed, not True"),
        ("samples: 3\n", "option samples: true or false is needed, not 3"),
        ("languges: de\n", "unknown option 'languges'; did you mean languages?"),
    ):
        file.write_text(text)
        with pytest.raises(InputError) as caught:
            settings_from({}, file)
        assert str(caught.value) == f"{file}: {message}"
        assert caught.value.exit_code == 2
    assert settings_from({"limit": 5}, None).limit == 5
    file.write_text("limit: '12'\n")
    assert settings_from({"limit": 5}, file).limit == 5  # the command line wins before anything is judged


def test_what_a_language_was_resolved_to_is_told_once(capsys: pytest.CaptureFixture[str]):
    settings = settings_from({"languages": "de,deu_Latn,German,tur_Latn", "pivot": "de"})
    assert settings.languages == ("deu_Latn", "tur_Latn") and settings.pivot == "deu_Latn"
    assert capsys.readouterr().err.splitlines() == [
        "language de is deu_Latn (German)",
        "language German is deu_Latn (German)",
    ]


def test_the_lists_of_names_are_names_of_options():
    assert {*FURTHER, *MEASURING} <= set(Settings.model_fields)
