"""What an installation consists of. tools/check_wheel.sh builds and installs for real; here is what can be told in a moment."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import alignx_eval

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ;]", requirement)[0].lower() for requirement in requirements}


def test_every_direct_dependency_is_constrained_within_its_bounds():
    from packaging.requirements import Requirement

    metadata = project()["project"]
    constraints = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            constraints[name.lower()] = version
    for requirement in map(
        Requirement, [*metadata["dependencies"], *sum(metadata["optional-dependencies"].values(), [])]
    ):
        assert requirement.name.lower() in constraints, f"{requirement.name} has no tested version"
        assert requirement.specifier.contains(constraints[requirement.name.lower()]), requirement


def test_console_scripts_exist():
    from importlib import import_module

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
    from alignx_eval.assets import asset_folder

    included = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"tasks": "alignx_eval/tasks", "reports": "alignx_eval/reports"}
    for name in included:
        assert asset_folder(name).is_absolute() and any(asset_folder(name).iterdir())
        assert not (ROOT / name / "__init__.py").exists()


def test_every_import_is_a_declared_dependency():
    """Third-party modules that the packages import, anywhere, against what pyproject.toml asks for."""
    import ast
    import sys

    metadata = project()["project"]
    declared = requirement_names(
        [
            *metadata["dependencies"],
            *metadata["optional-dependencies"]["gguf"],
            *metadata["optional-dependencies"]["lora"],
        ]
    )
    distribution = {
        "sklearn": "scikit-learn",
        "umap": "umap-learn",
        "yaml": "pyyaml",
        "lm_eval": "lm-eval",
        "huggingface_hub": "huggingface-hub",
    }
    # Used only beside the package that depends on them.
    brought_along = {"datasets": "lm-eval", "markupsafe": "jinja2", "pydantic_core": "pydantic"}
    for folder in (ROOT / "alignx_eval", ROOT / "trainer" / "alignx_trainer"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                    names = [node.module]
                for name in (name.partition(".")[0] for name in names):
                    if name in sys.stdlib_module_names or name in ("alignx_eval", "alignx_trainer"):
                        continue
                    assert brought_along.get(name, distribution.get(name, name)) in declared, (
                        f"{path.name} imports {name}"
                    )
