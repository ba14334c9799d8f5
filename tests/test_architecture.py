"""The rules of the house, held by the imports as they stand in the source: who may know of whom (docs/architecture.md).

Nothing is imported or run here: each file is parsed, and its imports are told apart by when they take effect: when the
module is loaded ("import"), when a function runs ("function"), or for a type checker only ("typing").
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")

# From below to above. A module may import from its own layer and from those before it. A name stands for a module or a
# whole package.
LAYERS = [
    "errors files wording metrics languages results assets plain_yaml processes prompts",
    "measures statistics",
    "corpora checkpoint opening_checks engine",
    "suites",
    "evaluate run_directory",
    "comparison",
    "judgement",
    "render",
    "pipeline sources identity settings environment api",
    "cli __main__",
]

# What the rules forbid and the code still does, as pairs (module, what it should not touch). A pair that no longer
# occurs makes its test fail, so this can only shrink; a new pair is a decision for a reviewer.
NOT_YET: dict[str, set[tuple[str, str]]] = {
    "layers": set(),
    "private names": set(),
}


class Import(NamedTuple):
    module: str  # as written: alignx_eval.files
    name: str | None  # what is taken from it: atomic_write; None for `import alignx_eval.files`
    when: str  # import, function or typing


def module_files() -> dict[str, Path]:
    files = {}
    for package, base in (("alignx_eval", ROOT), ("alignx_trainer", ROOT / "trainer")):
        for path in sorted((base / package).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


FILES = module_files()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_in(node: ast.AST, when: str = "import") -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, None, when) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (Import(child.module or "", alias.name, when) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (found for part in child.body for found in imports_in(ast.Module([part], []), "typing"))
            yield from (found for part in child.orelse for found in imports_in(ast.Module([part], []), when))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and when == "import":
            yield from imports_in(child, "function")
        else:
            yield from imports_in(child, when)


def target(found: Import) -> str | None:
    """The module of ours that an import names, or None."""
    if found.name and f"{found.module}.{found.name}" in FILES:
        return f"{found.module}.{found.name}"
    return found.module if found.module in FILES else None


def edges(*when: str) -> dict[str, set[str]]:
    return {
        module: {
            of for found in imports_in(parsed(path)) if found.when in when and (of := target(found)) and of != module
        }
        for module, path in FILES.items()
    }


def loaded_edges() -> dict[str, set[str]]:
    """Which modules the loading of a module loads: those that it imports, and the packages around them, except those
    that it lies in."""

    def packages(module: str) -> set[str]:
        parts = module.split(".")
        return {".".join(parts[:length]) for length in range(1, len(parts))}

    return {
        module: set().union(of, *(packages(other) for other in of)) - packages(module) - {module}
        for module, of in edges("import").items()
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach one another (strongly connected components of more than one module)."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for following in graph.get(waiting.pop(), ()):
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
        return seen

    reach = {module: reached(module) for module in graph}
    groups = {
        frozenset(other for other in of if module in reach[other]) for module, of in reach.items() if module in of
    }
    return sorted(sorted(group) for group in groups)


def hold(rule: str, found: set[tuple[str, str]]) -> None:
    """Nothing breaks a rule but what NOT_YET lists, and all that it lists still does."""
    new, mended = found - NOT_YET[rule], NOT_YET[rule] - found
    assert not new, f"{rule}: " + "; ".join(f"{module} -> {of}" for module, of in sorted(new))
    assert not mended, f"{rule}: no longer broken, take out of NOT_YET: " + "; ".join(
        f"{module} -> {of}" for module, of in sorted(mended)
    )


def layer(module: str) -> int:
    name = module.split(".")[1]
    found = [number for number, names in enumerate(LAYERS) if name in names.split()]
    assert len(found) == 1, f"{module}: LAYERS must say where `{name}` belongs"
    return found[0]


def test_a_circle_is_found_and_a_lazy_import_is_none():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    source = (
        "import one\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from two import Two\nelse:\n    import three\n"
        "try:\n    import four\nexcept ImportError:\n    pass\n"
        "class C:\n    import five\n    def f(self):\n        def g():\n            import six\n"
    )
    assert {found.module: found.when for found in imports_in(ast.parse(source)) if found.module != "typing"} == {
        "one": "import",
        "two": "typing",
        "three": "import",
        "four": "import",
        "five": "import",
        "six": "function",
    }


def test_no_circle_of_imports():
    """A circle works from one entrance and breaks from another, and hides which of its modules is the lower one."""
    assert circles(loaded_edges()) == [], "when loaded"
    assert circles(edges("import", "function")) == [], "put off into functions"


def test_layers_never_point_back_up():
    """Imports in functions and for types count too: putting one off does not make the lower thing know less of the
    higher one."""
    found = set()
    for module, of in edges("import", "function", "typing").items():
        if module.startswith("alignx_eval."):
            found |= {
                (module, other) for other in of if other.startswith("alignx_eval.") and layer(other) > layer(module)
            }
    hold("layers", found)


def test_the_front_door_loads_nothing():
    """`import alignx_eval` is what every command begins with; the public names are loaded when they are asked for."""
    assert edges("import")["alignx_eval"] <= {"alignx_eval.errors"}
    assert {found.module for found in imports_in(parsed(FILES["alignx_eval"])) if found.when == "import"} <= {
        "__future__",
        "importlib",
        "typing",
        "alignx_eval.errors",
    }


def test_the_evaluator_knows_no_trainer():
    for module, path in FILES.items():
        if module.startswith("alignx_eval"):
            assert not [found for found in imports_in(parsed(path)) if found.module.startswith("alignx_trainer")], (
                module
            )


def test_only_the_command_line_of_the_trainer_uses_that_of_the_evaluator():
    for module, of in edges("import", "function", "typing").items():
        if module.startswith("alignx_trainer") and module != "alignx_trainer.cli":
            assert not [other for other in of if other.startswith("alignx_eval.cli")], module


@pytest.mark.parametrize("package", ["measures", "statistics"])
def test_numbers_know_arrays_and_strings_only(package):
    for module, of in edges("import", "function", "typing").items():
        if module.startswith(f"alignx_eval.{package}"):
            allowed = ("alignx_eval.languages", "alignx_eval.errors", f"alignx_eval.{package}")
            assert not [other for other in of if not other.startswith(allowed)], module


def test_a_suite_never_calls_a_model():
    for module, path in FILES.items():
        if module.startswith("alignx_eval.suites"):
            assert not [found for found in imports_in(parsed(path)) if found.module.startswith("transformers")], module
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.Call):
                    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    assert called != "model", f"{module}, line {node.lineno}: a suite asks the engine"


def private_uses(path: Path, module: str) -> set[tuple[str, str]]:
    """(module, other._name) for each private name of another module of ours, imported or reached as an attribute of the
    module."""
    tree = parsed(path)
    used, modules = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("alignx_eval", "alignx_trainer")):
            for alias in node.names:
                if alias.name.startswith("_") and not alias.name.startswith("__") and node.module != module:
                    used.add((module, f"{node.module}.{alias.name}"))
                if f"{node.module}.{alias.name}" in FILES:
                    modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            modules.update({alias.asname or alias.name: alias.name for alias in node.names if alias.name in FILES})
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr) and ast.unparse(node.value) in modules:
            used.add((module, f"{modules[ast.unparse(node.value)]}.{node.attr}"))
    return used


def test_private_names_stay_in_their_module():
    found = set().union(*(private_uses(path, module) for module, path in FILES.items()))
    for folder in ("tools", "benchmarks"):
        found |= set().union(*(private_uses(path, f"{folder}/{path.name}") for path in (ROOT / folder).glob("*.py")))
    hold("private names", found)


def test_every_module_says_what_it_is():
    others = [path for folder in ("tools", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert not [str(path) for path in [*FILES.values(), *others] if not ast.get_docstring(parsed(path))]


def test_no_test_imports_another_test():
    """What tests share lies in tests/helpers; a test module that is imported has its tests collected twice, and cannot
    be changed alone."""
    tests = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    for path in (ROOT / "tests").rglob("*.py"):
        for found in imports_in(parsed(path)):
            assert not {*found.module.split("."), found.name} & tests, f"{path.name} imports {found.module}"
