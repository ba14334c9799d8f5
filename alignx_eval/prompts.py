"""The only home of instruction and translation templates; the trainer and the evaluator both read them here.

A template is plain text with the fields `{instruction}` and `{input}`; what the model writes follows it directly and
ends with the end-of-sequence token. A checkpoint records the name of its template, so that it is asked the way it was
taught.
"""

from __future__ import annotations

from alignx_eval.errors import InputError
from alignx_eval.languages import LANGUAGES

# `alpaca` is the prompt with input of Stanford Alpaca, which AlignX trains on. `plain` is short enough for small models
# and short contexts.
TEMPLATES = {
    "alpaca": (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
    ),
    "plain": "{instruction}\n{input}\n",
}
# The same templates for an instruction that needs no input; `alpaca` again as in Stanford Alpaca.
TEMPLATES_WITHOUT_INPUT = {
    "alpaca": (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:\n"
    ),
    "plain": "{instruction}\n",
}
TRANSLATION_INSTRUCTIONS = {
    "alpaca": "Translate the following text from {source} to {target}.",
    "plain": "{source} to {target}:",
}


def template_text(name: str) -> str:
    """Text of the template called `name`. Raises InputError for an unknown name."""
    if name not in TEMPLATES:
        raise InputError(f"unknown prompt template {name!r}; known: {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def split_at_input(name: str) -> tuple[str, str]:
    """The template's text before and after `{input}`, the first with `{instruction}` still in it."""
    before, _, after = template_text(name).partition("{input}")
    return before, after


def text_without_input(name: str) -> str:
    """The template called `name` for an instruction that needs no input: only `{instruction}` is in it. Raises
    InputError as above."""
    template_text(name)
    return TEMPLATES_WITHOUT_INPUT[name]


def translation_instruction(name: str, source_language: str, target_language: str) -> str:
    """The instruction that asks for a translation, with English names for the FLORES codes."""
    template_text(name)
    return TRANSLATION_INSTRUCTIONS[name].format(
        source=LANGUAGES[source_language].name, target=LANGUAGES[target_language].name
    )


def translation_prompt(name: str, source_language: str, target_language: str, text: str) -> str:
    """The whole prompt for translating `text`; the model's answer starts right after it."""
    before, after = split_at_input(name)
    return before.format(instruction=translation_instruction(name, source_language, target_language)) + text + after
