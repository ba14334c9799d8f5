"""The tasks suite through lm-eval, on documents read in place from the bundled text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_models
from helpers.engines import tasks

from alignx_eval.assets import asset_folder
from alignx_eval.corpora import load_corpus
from alignx_eval.errors import InputError, MissingAssetError
from alignx_eval.prompts import translation_prompt
from alignx_eval.suites.interface_choice import choice_lines, interface_choice
from alignx_eval.suites.tasks import list_tasks

run = tasks.run


def check(names=None, limit=None):
    return tasks.check(None, tasks=names, limit=limit)


ROOT = Path(__file__).resolve().parent.parent
TASKS = ("interface_choice_deu_Latn", "interface_choice_zho_Hans")


@pytest.fixture(scope="module")
def result():
    return run(tiny_models.checkpoint(), tasks=TASKS, limit=12)


def test_definitions_are_what_the_tool_writes():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "build_tasks.py", "--check"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (asset_folder("tasks") / "interface_choice" / "README.md").is_file()


def test_list_tasks_names_ours_without_lm_eval():
    code = (
        "import sys; from alignx_eval.suites.tasks import list_tasks; print(*list_tasks()); sys.exit('lm_eval' in "
        "sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "interface_choice" in done.stdout.split() and set(TASKS) <= set(done.stdout.split()) == set(list_tasks())


def test_documents_are_parallel_and_wrong_choices_are_other_lines_of_similar_length():
    corpus = load_corpus("interface")
    german, chinese = interface_choice("deu_Latn")["test"], interface_choice("zho_Hans", version=1.0)["test"]
    assert len(german) == len(chinese) == len(corpus)
    assert german["id"] == chinese["id"] == list(corpus.ids) and german["gold"] == chinese["gold"]
    english = corpus.sentences["eng_Latn"]
    for line, (document, chosen) in enumerate(zip(german, choice_lines(), strict=True)):
        assert document["choices"][document["gold"]] == corpus.sentences["deu_Latn"][line]
        assert document["source"] == english[line] and document["group"] == corpus.groups[line]
        assert len(set(chosen)) == 4 == len(set(document["choices"]))
        assert all(len({lines[other] for other in chosen}) == 4 for lines in corpus.sentences.values())
    gaps = [
        abs(len(english[other]) - len(english[line])) for line, chosen in enumerate(choice_lines()) for other in chosen
    ]
    assert np.mean(gaps) < 3
    shares = np.bincount(german["gold"], minlength=4) / len(german)
    assert shares.min() > 0.18  # the place of the right answer tells nothing
    for code in ("eng_Latn", "fra_Latn"):
        with pytest.raises(InputError, match=code):
            interface_choice(code)


def test_rows_items_and_clusters(result):
    rows = {row.key: row for row in result.rows}
    assert set(rows) == {
        f"tasks/interface_choice.{metric}/-/{language}/-"
        for metric in ("acc", "acc_norm")
        for language in ("deu_Latn", "zho_Hans", "-")
    }
    corpus = load_corpus("interface", limit=12)
    for key, row in rows.items():
        items = result.items[key]
        assert items.kind == "mean" and items.values.shape == (12,) and items.values.mean() == pytest.approx(row.value)
        assert result.clusters[key] == corpus.groups
        assert row.chance == 0.25 and row.n == 12 and row.higher_is_better is True
    mean = result.items["tasks/interface_choice.acc/-/-/-"].values
    parts = [result.items[f"tasks/interface_choice.acc/-/{code}/-"].values for code in ("deu_Latn", "zho_Hans")]
    np.testing.assert_allclose(mean, np.mean(parts, axis=0))


def test_accuracy_equals_log_likelihoods_computed_by_hand(result):
    import torch

    checkpoint = tiny_models.checkpoint()
    tokenizer = checkpoint.tokenizer
    plain, normalised = [], []
    for document in interface_choice("deu_Latn")["test"].select(range(12)):
        prompt = translation_prompt("plain", "eng_Latn", "deu_Latn", document["source"])
        scores = []
        for choice in document["choices"]:
            context = tokenizer(prompt.rstrip(), add_special_tokens=False)[
                "input_ids"
            ]  # lm-eval scores the line break with the answer
            whole = tokenizer(prompt + choice, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                log_probabilities = checkpoint.model(torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(
                sum(float(log_probabilities[place - 1, whole[place]]) for place in range(len(context), len(whole)))
            )
        plain.append(int(np.argmax(scores) == document["gold"]))
        normalised.append(
            int(
                np.argmax([score / len(choice) for score, choice in zip(scores, document["choices"], strict=True)])
                == document["gold"]
            )
        )
    np.testing.assert_array_equal(result.items["tasks/interface_choice.acc/-/deu_Latn/-"].values, plain)
    np.testing.assert_array_equal(result.items["tasks/interface_choice.acc_norm/-/deu_Latn/-"].values, normalised)


def test_samples_show_prompt_and_answer(result):
    sample = next(sample for sample in result.samples if sample["language"] == "deu_Latn")
    corpus = load_corpus("interface")
    assert sample["id"] == corpus.ids[0]
    assert sample["source"] == translation_prompt("plain", "eng_Latn", "deu_Latn", corpus.sentences["eng_Latn"][0])
    assert sample["reference"] == corpus.sentences["deu_Latn"][0]
    assert (sample["output"] == sample["reference"]) == bool(sample["acc"])
    json.dumps([result.samples, result.fingerprint, result.environment])


def test_S9_twice_the_same_and_other_documents_change_the_fingerprint(result):
    again = run(tiny_models.checkpoint(), tasks=TASKS[:1], limit=12)
    assert again.fingerprint[TASKS[0]] == result.fingerprint[TASKS[0]]
    key = "tasks/interface_choice.acc/-/deu_Latn/-"
    np.testing.assert_array_equal(again.items[key].values, result.items[key].values)
    fewer = run(tiny_models.checkpoint(), tasks=TASKS[:1], limit=3)
    assert fewer.fingerprint[TASKS[0]] != result.fingerprint[TASKS[0]]
    assert {row.language for row in fewer.rows} == {"deu_Latn"}  # no mean over a single language


def test_nothing_is_printed_and_the_tokenizer_is_left_alone(capfd):
    tokenizer = tiny_models.tokenizer(bos=True)
    before = (tokenizer.pad_token, tokenizer.padding_side)
    run(tiny_models.checkpoint(), tasks=TASKS[:1], limit=1)
    assert capfd.readouterr() == ("", "")
    assert (tokenizer.pad_token, tokenizer.padding_side) == before


def test_wrong_input():
    with pytest.raises(InputError, match="interface_choice"):
        run(tiny_models.checkpoint(), tasks=["interface_choise"])
    with pytest.raises(InputError, match="no task"):
        run(tiny_models.checkpoint(), tasks=[])
    with pytest.raises(InputError, match="at least 1"):
        run(tiny_models.checkpoint(), tasks=TASKS, limit=0)


@pytest.mark.parametrize("name", ["interface_choise", "interface_choise_*", "interface_choice_xx*"])
def test_a_wrong_task_name_is_told_before_anything_is_measured(name):
    with pytest.raises(InputError, match="nearest: .*interface_choice"):
        check([name])


def test_patterns_groups_and_single_tasks_together_measure_each_task_once():
    result = run(tiny_models.checkpoint(), tasks=["interface_choice_[dz]*", "interface_choice_deu_Latn"], limit=2)
    assert {row.language for row in result.rows} == {"deu_Latn", "zho_Hans", None}
    group = run(tiny_models.checkpoint(), tasks=["interface_choice", "interface_choice_*"], limit=1)
    assert len({row.language for row in group.rows} - {None}) == 9
    assert len(group.rows) == len({row.key for row in group.rows})


def test_data_is_looked_for_before_anything_is_measured(monkeypatch, tmp_path):
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(MissingAssetError, match="belebele_deu_Latn"):
        check(["interface_choice_deu_Latn", "belebele_deu_Latn"])


def test_a_tokenizer_without_start_and_end_works_and_says_what_stands_at_the_start():
    tokens = tiny_models.tokenizer(bos=False, eos=False)
    result = run(tiny_models.checkpoint(tokens=tokens), tasks=TASKS[:1], limit=4)
    assert {row.metric for row in result.rows} == {"interface_choice.acc", "interface_choice.acc_norm"}
    assert (
        result.environment["start_token"] == "none"
        and result.environment["start_token_of_empty_prompt"] == "line break"
    )
    assert "no start token" in result.notes[0] and "line break" in result.notes[0]
    # Prompts are not empty, so the same model with a BOS that is never added scores the same.
    with_start = run(tiny_models.checkpoint(), tasks=TASKS[:1], limit=4)
    assert [row.value for row in with_start.rows] == [row.value for row in result.rows]
    assert with_start.environment["start_token_of_empty_prompt"] == "bos"


@pytest.mark.parametrize("ends", [True, False])
def test_generation_and_empty_prompts_need_no_special_token(ends):
    from lm_eval.api.instance import Instance

    from alignx_eval.engine.harness import lm_eval_model

    class Generating:
        OUTPUT_TYPE = "generate_until"

    tokens = tiny_models.tokenizer(bos=ends, eos=ends)
    tokens = tokens if ends else without_padding(tokens)
    model = lm_eval_model(tiny_models.checkpoint(tokens=tokens), {"made up": Generating()})
    assert model.batch_size == (1 if not ends else 64)
    requests = [
        Instance("generate_until", {}, (text, {"until": ["x"], "max_gen_toks": 5}), 0) for text in ("Open the", "Save")
    ]
    assert len(model.generate_until(requests, disable_tqdm=True)) == 2
    ((score, _),) = model.loglikelihood([Instance("loglikelihood", {}, ("", "Open"), 0)], disable_tqdm=True)
    assert np.isfinite(score) and score < 0


def without_padding(tokenizer):
    import copy

    changed = copy.deepcopy(tokenizer)
    changed.pad_token = None
    return changed


def test_documents_longer_than_the_context_are_named_and_decide_nothing():
    whole = run(tiny_models.checkpoint(), tasks=TASKS, limit=6)
    assert not whole.warnings and not any(row.unjudged for row in whole.rows)
    lengths = prompt_lengths("interface_choice_deu_Latn", 6)
    positions = sorted(lengths)[3]
    expected = sum(length > positions for length in lengths)
    assert 0 < expected < 6
    cut = run(tiny_models.checkpoint(positions=positions), tasks=TASKS, limit=6)
    row = next(row for row in cut.rows if row.language == "deu_Latn")
    assert row.value is not None and row.unjudged.startswith(
        f"{expected} of 6 documents are longer than the model's context"
    )
    assert any(warning.startswith(f"interface_choice_deu_Latn: {expected} of 6") for warning in cut.warnings)
    assert next(row for row in cut.rows if row.language is None).unjudged
    with pytest.raises(InputError, match="room for an answer"):
        run(tiny_models.checkpoint(positions=2), tasks=TASKS[:1], limit=6)


def prompt_lengths(task, limit):
    """Tokens that a model has to read of the longest choice of each document: all but the last."""
    tokenizer = tiny_models.tokenizer()
    documents = interface_choice(task.removeprefix("interface_choice_"))["test"].select(range(limit))
    return [
        max(
            len(
                tokenizer(translation_prompt("plain", "eng_Latn", "deu_Latn", document["source"]) + choice)["input_ids"]
            )
            - 1
            for choice in document["choices"]
        )
        for document in documents
    ]


def test_a_model_that_keeps_padding_in_its_state_generates_text_by_text():
    from helpers import architectures as tiny_architectures

    from alignx_eval.engine.harness import lm_eval_model

    class Generating:
        OUTPUT_TYPE = "generate_until"

    for kind, size in (("mamba", 1), ("llama", 64)):
        assert lm_eval_model(tiny_architectures.tiny_checkpoint(kind), {"made up": Generating()}).batch_size == size


def test_data_that_is_not_at_hand_is_a_missing_asset(monkeypatch, tmp_path):
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(MissingAssetError, match="belebele_deu_Latn"):
        run(tiny_models.checkpoint(), tasks=["belebele_deu_Latn"], limit=1)


def test_a_read_only_installation_without_a_home_will_do(tmp_path):
    """Documents come from the package itself: no cache is written, wherever the package lies."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from helpers import tiny_models\n"
        "from helpers.engines import tasks\n"
        "print(len(tasks.run(tiny_models.checkpoint(), tasks=['interface_choice_deu_Latn'], limit=2).rows))"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "tests")], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip() == "2", done.stderr
    assert not [path for path in home.rglob("*") if path.is_file() and "interface" in path.name]
