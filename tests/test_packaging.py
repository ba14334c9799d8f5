"""What an installation consists of. tools/check_wheel.sh builds and installs for real; here is what can be told in a
moment."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import alignx_eval
from alignx_eval.assets import asset_folder

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements() -> list[Requirement]:
    metadata = project()["project"]
    return [
        Requirement(text) for text in [*metadata["dependencies"], *sum(metadata["optional-dependencies"].values(), [])]
    ]


def pinned(name: str) -> dict[str, str]:
    """Distribution -> version of a constraints file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if line and not line.startswith("#")]
    assert all(version for _, _, version in pins) and len({pin[0] for pin in pins}) == len(pins)
    return {distribution.lower(): version for distribution, _, version in pins}


def test_every_direct_dependency_is_constrained_within_its_bounds():
    constraints = pinned("constraints.txt")
    for requirement in requirements():
        assert requirement.name.lower() in constraints, f"{requirement.name} has no tested version"
        assert requirement.specifier.contains(constraints[requirement.name.lower()]), requirement


def test_lower_bounds_are_the_versions_that_ci_installs():
    """What constraints-oldest.txt pins is exactly the lower bound, so a bound that no run installs cannot be
    claimed."""
    oldest = pinned("constraints-oldest.txt")
    tools = {"ruff", "mypy"}  # they check the code and are not run by the tests
    bounds: dict[str, Version] = {}
    for requirement in requirements():
        (lower,) = (each.version for each in requirement.specifier if each.operator == ">=")
        name = requirement.name.lower()
        bounds[name] = min(Version(lower), bounds.get(name, Version(lower)))  # an extra may need a newer one
    assert {name: Version(version) for name, version in oldest.items()} == {
        name: bound for name, bound in bounds.items() if name not in tools
    }


def workflow() -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))


def test_ci_installs_the_oldest_versions_and_what_the_gguf_extra_needs():
    commands = "\n".join(step.get("run", "") for step in workflow()["jobs"]["oldest"]["steps"])
    assert "-c constraints-oldest.txt" in commands and "python -m pytest\n" in commands
    extra = [Requirement(text) for text in project()["project"]["optional-dependencies"]["gguf"]]
    assert {requirement.name for requirement in extra} == {"gguf", "transformers"}
    for requirement in extra:
        (pin,) = re.findall(rf"'{requirement.name}==([\d.]+)'", commands)
        assert {Version(each.version) for each in requirement.specifier} == {Version(pin)}


def test_ci_runs_every_python_that_the_classifiers_name():
    metadata = project()["project"]
    named = [text.rpartition(" ")[2] for text in metadata["classifiers"] if re.search(r":: 3\.\d+$", text)]
    assert workflow()["jobs"]["pythons"]["strategy"]["matrix"]["python"] == named
    assert metadata["requires-python"] == f">={named[0]}"


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Every module of the two packages, parsed."""
    for folder in (ROOT / "alignx_eval", ROOT / "trainer" / "alignx_trainer"):
        for path in sorted(folder.rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def test_libraries_whose_private_functions_are_called_have_an_upper_bound():
    """A private name of a library is one that is used here and defined nowhere here."""
    private = {
        "_extract_corpus_statistics": "sacrebleu",
        "_cache_references": "sacrebleu",
        "_encode_pair": "lm-eval",
        "_foreach_mul_": "torch",
    }
    nodes = [node for _, tree in trees() for node in ast.walk(tree)]
    ours = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    ours |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    ours |= {
        node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls")
    }
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {name for name in used - ours if re.match("_[^_]", name)} == set(private)
    bounded = {each.name for each in requirements() if any(bound.operator == "<" for bound in each.specifier)}
    # torch's own optimizers call it, in every version; `_no_split_modules` of transformers is a name in the trainer too
    assert bounded == set(private.values()) - {"torch"} | {"transformers"}


def test_console_scripts_exist():
    for target in project()["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))


def test_one_version():
    assert re.search(
        rf"^version: {re.escape(alignx_eval.__version__)}$",
        (ROOT / "CITATION.cff").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert f"## {alignx_eval.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_data_folders_are_found_and_travel_inside_the_package():
    included = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"tasks": "alignx_eval/tasks", "reports": "alignx_eval/reports"}
    for name in included:
        assert asset_folder(name).is_absolute() and any(asset_folder(name).iterdir())
        assert not (ROOT / name / "__init__.py").exists()


def test_imports_and_declared_dependencies_are_the_same():
    """Third-party modules that the packages import, anywhere, against what pyproject.toml asks for."""
    metadata = project()["project"]
    extras = metadata["optional-dependencies"]
    declared = {
        Requirement(text).name.lower() for text in [*metadata["dependencies"], *extras["gguf"], *extras["lora"]]
    }
    distribution = {
        "sklearn": "scikit-learn",
        "umap": "umap-learn",
        "yaml": "pyyaml",
        "lm_eval": "lm-eval",
        "huggingface_hub": "huggingface-hub",
        "markupsafe": "jinja2",  # this and the next come with the package that depends on them
        "pydantic_core": "pydantic",
    }
    imported: dict[str, str] = {}
    for path, tree in trees():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [node.module]
            for name in (name.partition(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name not in ("alignx_eval", "alignx_trainer"):
                    imported[distribution.get(name, name)] = path.name
    assert set(imported) <= declared, {name: path for name, path in imported.items() if name not in declared}
    assert declared <= set(imported), f"no line imports {sorted(declared - set(imported))}"
