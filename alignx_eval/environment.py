"""Where the cache is, what is offline, which versions and which device."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from pathlib import Path

from alignx_eval import processes


def software_versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "sacrebleu", "lm-eval"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def default_device() -> str:
    """A GPU where there is one."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return "cuda"


def own_device(device: str) -> str:
    """Of several processes each has a GPU of its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and processes.launched() else device


def default_cache_dir() -> str:
    """`$ALIGNX_EVAL_CACHE`, else `alignx-eval` in the user's cache folder."""
    if os.environ.get("ALIGNX_EVAL_CACHE"):
        return os.environ["ALIGNX_EVAL_CACHE"]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return str(Path(base) / "alignx-eval")


def ensure_home() -> None:
    """Give the process a home folder where the system knows none, as for a user of a container without an entry in
    /etc/passwd: our cache and those of torch, numba, matplotlib and the Hugging Face libraries lie there. It is said on
    stderr.

    A home that is there and cannot be written stays, since models may be cached in it; only numba and matplotlib get
    another place.
    """
    try:
        home = Path.home()
    except RuntimeError:
        os.environ["HOME"] = folder = _own_temporary_folder()
        os.environ.setdefault("LOGNAME", "nobody")  # torch asks for a name
        if not {"-q", "--quiet"} & set(sys.argv) and processes.is_main():
            print(f"this user has no home folder: caches go to {folder}", file=sys.stderr)
        return
    if not os.access(home, os.W_OK):
        for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
            if name not in os.environ:
                os.environ[name] = _own_temporary_folder()


def _own_temporary_folder() -> str:
    """A folder for temporary files that belongs to this user alone, the same one each time."""
    folder = Path(tempfile.gettempdir()) / f"alignx-eval-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not folder.is_symlink() and folder.stat().st_uid == os.getuid():
            return str(folder)
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="alignx-eval-")


def prepare_environment(offline: bool) -> None:
    """Settle network and chatter of the Hugging Face libraries. Must run before any of them is imported."""
    os.environ["TOKENIZERS_PARALLELISM"] = os.environ.get("TOKENIZERS_PARALLELISM", "false")
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["DATASETS_VERBOSITY"] = "error"
    os.environ["LMEVAL_LOG_LEVEL"] = "ERROR"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if offline:
            os.environ[name] = "1"
        else:
            os.environ.pop(name, None)


def silence() -> None:
    """No warnings and log lines of other libraries on the screen of a command. The library leaves them to the program
    that uses it."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("alignx_eval").setLevel(logging.WARNING)
