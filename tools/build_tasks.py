"""Write the lm-eval definitions under `tasks/` from the table of languages and the prompt templates.

python tools/build_tasks.py            write them
python tools/build_tasks.py --check    exit 1 where a file differs from what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

from alignx_eval.corpora import load_corpus
from alignx_eval.languages import LANGUAGES
from alignx_eval.prompts import translation_prompt

TASKS = Path(__file__).resolve().parent.parent / "tasks"
PIVOT = "eng_Latn"
WRITTEN_BY = "# Written by tools/build_tasks.py; edit that.\n"

# lm-eval reads every *.yaml as a task, so what the tasks share has no suffix.
INTERFACE_CHOICE_COMMON = f"""{WRITTEN_BY}custom_dataset: !function alignx_eval.suites.interface_choice.interface_choice
output_type: multiple_choice
test_split: test
num_fewshot: 0
doc_to_choice: choices
doc_to_target: gold
target_delimiter: ""
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def definitions() -> dict[str, str]:
    """Path under `tasks/` -> text."""
    languages = [code for code in load_corpus("interface").languages if code != PIVOT]
    files = {"interface_choice/_common": INTERFACE_CHOICE_COMMON}
    for code in languages:
        prompt = translation_prompt("plain", PIVOT, code, "{{source}}").replace("\n", "\\n")
        files[f"interface_choice/interface_choice_{code}.yaml"] = (
            f"{WRITTEN_BY}include: _common\ntask: interface_choice_{code}\ntask_alias: {LANGUAGES[code].name}\n"
            f'doc_to_text: "{prompt}"\ndataset_kwargs:\n  language: {code}\n'
        )
    members = "".join(f"  - interface_choice_{code}\n" for code in languages)
    files["interface_choice/interface_choice.yaml"] = (
        f"{WRITTEN_BY}group: interface_choice\ntask:\n{members}aggregate_metric_list:\n"
        "  - metric: acc\n    aggregation: mean\n    weight_by_size: false\n"
        "  - metric: acc_norm\n    aggregation: mean\n    weight_by_size: false\nmetadata:\n  version: 1.0\n"
    )
    return files


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    stale = []
    for name, text in definitions().items():
        path = TASKS / name
        if check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                stale.append(name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"tasks/{name} is not what tools/build_tasks.py writes; run it", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
