"""Every causal architecture of the installed transformers, tiny and random, against the list in
docs/architectures.md."""

import re
from pathlib import Path

import numpy as np
import pytest
import transformers
from helpers import architectures as tiny_architectures
from helpers.architectures import NOT_BUILT, causal_architectures, row, support, tiny_checkpoint
from helpers.engines import language_id, language_modelling, layers, tasks, translation
from packaging.version import Version

from alignx_eval.corpora import load_corpus
from alignx_eval.engine import decoding_cache

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "architectures.md").read_text(encoding="utf-8")
LISTED = {
    line.split(" | ")[0].removeprefix("| "): line
    for line in PAGE.splitlines()
    if line.startswith("| ") and line.count("|") == 6
}
VERSION = re.findall(r"With transformers (\d\S*):", PAGE)[0]
SAME_VERSION = transformers.__version__ == VERSION
# All suites, with the statistics behind them; the others go through the forward passes of the suites alone.
FAMILIES = (
    "bamba",
    "bart",
    "bloom",
    "codegen",
    "cohere",
    "deepseek_v3",
    "falcon",
    "falcon_mamba",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "gptj",
    "granite",
    "jamba",
    "llama",
    "mamba",
    "mamba2",
    "mistral",
    "mixtral",
    "mpt",
    "olmo2",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_next",
    "recurrent_gemma",
    "rwkv",
    "stablelm",
    "starcoder2",
    "xglm",
    "zamba2",
)
WITH_TASKS = ("bart", "llama", "mamba", "qwen3_next", "recurrent_gemma")


@pytest.mark.parametrize("model_type", causal_architectures())
def test_what_the_page_says_of_an_architecture_is_so(model_type):
    if Version(transformers.__version__) < Version(VERSION):
        pytest.skip(f"the page is about transformers {VERSION}")
    if not SAME_VERSION and model_type not in LISTED:
        pytest.skip("newer than the page")
    assert LISTED[model_type] == row(model_type, NOT_BUILT.get(model_type) or support(model_type))


def test_the_page_lists_no_other():
    if SAME_VERSION:
        assert set(LISTED) - {"architecture"} == set(causal_architectures())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_all_suites_work_with(model_type):
    checkpoint = tiny_checkpoint(model_type)
    corpus = load_corpus("interface", languages=["eng_Latn", "deu_Latn", "zho_Hans"], limit=6)
    results = [
        layers.run(checkpoint, corpus),
        language_id.run(checkpoint, corpus),
        language_modelling.run(checkpoint, corpus),
        translation.run(checkpoint, corpus, template="plain", max_new_tokens=3),
    ]
    if model_type in WITH_TASKS:
        results.append(tasks.run(checkpoint, tasks=["interface_choice_deu_Latn"], limit=2))
    assert all(np.isfinite(row.value) for result in results for row in result.rows if row.value is not None)
    assert all(any(row.value is not None for row in result.rows) for result in results)


def test_a_cache_that_padding_gets_into_is_found_out():
    """The probe must see what is wrong with each way that is not taken: that is what makes the taken one right."""
    found = {
        kind: decoding_cache.find_way(tiny_architectures.tiny_model(kind))
        for kind in ("llama", "mamba", "minimax", "rwkv")
    }
    assert found == {
        "llama": decoding_cache.Way(padded=True, cached=True, drops_rows=True),
        "mamba": decoding_cache.Way(padded=False, cached=True, drops_rows=True),
        "minimax": decoding_cache.Way(padded=True, cached=True, drops_rows=False),
        "rwkv": decoding_cache.WITHOUT_CACHE,
    }
