"""YAML is read as people mean it: a language called `no` is Norwegian, in recipes, in options and in policies."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from alignx_trainer.config import load_recipe

from alignx_eval.errors import InputError
from alignx_eval.judgement.policy import load_policy
from alignx_eval.plain_yaml import read_yaml
from alignx_eval.settings import settings_from


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("010", 10),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("2e-6", 2e-6),
        ("3.0e-4", 3e-4),
        ("-7", -7),
        ("+.5", 0.5),
        ("0x10", "0x10"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nullable", "nullable"),
        ("'true'", "true"),
        ("[en, no]", ["en", "no"]),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    found = read_yaml(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "!!int ''", "9" * 5000, "[" * 5000, "{a: 1"])
def test_what_is_no_plain_data_is_refused(text):
    with pytest.raises(yaml.YAMLError):
        read_yaml(text)


def test_norwegian_is_a_language_everywhere(tmp_path: Path):
    options = tmp_path / "eval.yaml"
    options.write_text("languages: [en, no]\n")
    assert settings_from({}, options).languages == ("eng_Latn", "nob_Latn")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "stage: stage1\ninit: bundled:base\nsteps: 1\nsources: [{kind: translation, path: text, languages: [en, no]}]\n"
    )
    assert load_recipe(str(recipe)).sources[0].languages == ("en", "no")
    assert load_recipe(str(recipe), ["sources.0.languages=[no, de]"]).sources[0].languages == ("no", "de")
    policy = tmp_path / "gate.yaml"
    policy.write_text(
        "format: alignx-eval gate policy\nversion: 1\ngroups: {no: [nob_Latn, nno_Latn]}\n"
        "rules: [{suite: language_modelling, metric: bits_per_byte, tolerance: 2e-2, languages: [no]}]\n"
    )
    rule = load_policy(policy).rules[0]
    assert (rule.languages, rule.tolerance) == (("no",), 0.02)


@pytest.mark.parametrize("value", ["yes", "no", "on", "nope", "1"])
def test_a_truth_value_that_is_none_is_refused_by_name(tmp_path: Path, value):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"stage: pretrain\ninit: bundled:base\nsteps: 1\nactivation_checkpointing: {value}\n"
        "sources: [{kind: monolingual, path: text}]\n"
    )
    with pytest.raises(InputError, match="activation_checkpointing must be true or false"):
        load_recipe(str(recipe))
    options = tmp_path / "eval.yaml"
    options.write_text(f"samples: {value}\n")
    with pytest.raises(InputError, match="samples: true or false is needed"):
        settings_from({}, options)
