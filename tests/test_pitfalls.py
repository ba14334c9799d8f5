"""docs/pitfalls.md and the tests name the same pitfalls, and the tests that the page names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "pitfalls.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs the checkout")


def sections() -> dict[str, str]:
    """The lines below each heading `### R1: ...`, by id."""
    parts = re.split(r"^### ([A-Z]\d+): .+$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ids = parts[1::2]
    assert len(ids) == len(set(ids)), "an id twice"
    return {name: re.split(r"^## ", text, flags=re.MULTILINE)[0] for name, text in zip(ids, parts[2::2], strict=True)}


def named_by_id() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (match := re.match(r"test_([A-Z]\d+)_", node.name)):
                found.setdefault(match[1], set()).add(f"{path.relative_to(ROOT).as_posix()}::{node.name}")
    return found


def test_the_page_has_the_ids_of_the_tests_and_no_other():
    assert set(sections()) == set(named_by_id())


def test_every_pitfall_names_tests_of_its_own_that_exist():
    tests = named_by_id()
    for name, text in sections().items():
        named = re.findall(r"`(tests/\S+::\S+)`", text)
        assert named and set(named) <= tests[name], f"{name}: {sorted(set(named) - tests[name])}"


def test_every_pitfall_says_what_it_is_in_a_few_lines():
    for name, text in sections().items():
        lines = text.strip().splitlines()
        assert len(lines) <= 5 and [line.partition(":")[0].partition(" by")[0] for line in lines] == [
            "* Symptom",
            "* Cause",
            "* Wrong",
            "* Held",
        ], name
        assert "Right: " in lines[2], name


def test_ids_in_the_text_of_the_tests_are_on_the_page():
    """A comment or docstring that speaks of a pitfall speaks of one that is explained."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        named = re.findall(r"(?:#|\"\"\").*?\b([RSPTL]\d{1,2})\b:", path.read_text(encoding="utf-8"))
        assert set(named) <= set(sections()), path.name
