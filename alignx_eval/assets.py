"""Where the folders of data files are: `tasks` and `reports` travel inside the package in a wheel and lie beside it in
a checkout."""

from __future__ import annotations

from pathlib import Path

from alignx_eval.errors import MissingAssetError


def asset_folder(name: str) -> Path:
    """Absolute path of the data folder `name` ("tasks" or "reports"). Raises MissingAssetError where the installation
    lacks it."""
    package = Path(__file__).resolve().parent
    # The package's own copy first: in site-packages a folder beside the package belongs to somebody else.
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise MissingAssetError(
        f"the data folder {name!r} is missing from this installation of alignx-eval; install it again"
    )
