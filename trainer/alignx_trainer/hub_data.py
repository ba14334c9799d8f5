"""Parallel text and instructions of the hub: OPUS-100 and Bactrian-X, or a local folder of the same layout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignx_eval.corpora import HUB_PREFIX
from alignx_eval.errors import InputError, MissingAssetError
from alignx_eval.languages import SPELLINGS, resolve_language
from alignx_trainer.config import Source

OPUS_LICENCE = "OPUS-100: no licence stated by its makers, see its sources"
BACTRIAN_LICENCE = "CC BY-NC 4.0"


def is_opus(path: str) -> bool:
    """Whether the path names OPUS-100 or a folder in its layout, with a subfolder `de-en` for each pair."""
    name = path.removeprefix(HUB_PREFIX)
    if Path(name).is_dir():
        return any(
            re.fullmatch("[a-z]{2,3}-[a-z]{2,3}", entry.name) for entry in Path(name).iterdir() if entry.is_dir()
        )
    return path.startswith(HUB_PREFIX) and name.partition("@")[0].lower().endswith("/opus-100")


def short_code(language: str) -> str:
    """The two-letter code (ISO 639-1) that data sets use for a FLORES code or whatever `resolve_language` takes.

    Bokmål is `nb` (OPUS-100 also has `no`, which does not say which Norwegian), Serbian `sr`, Chinese in simplified
    characters `zh`; traditional characters and other second scripts have none. Raises InputError where there is none.
    """
    code = resolve_language(language)
    for spelling, owner in SPELLINGS.items():  # the first of several is the one in use: `he`, not the retired `iw`
        if owner == code and len(spelling) == 2:
            return spelling
    raise InputError(f"{code} has no two-letter code, so this data set cannot have it; leave it out of `languages`")


def column_values(table: Any, name: str) -> Iterator[Any]:
    """The values of one column, a few thousand in memory at a time."""
    for batch in table.select_columns([name]).iter(batch_size=4096):
        yield from batch[name]


def pinned(source: Source) -> tuple[str, str | None]:
    """Name and revision of a data set of the hub, or a local folder and None. Raises InputError without revision or
    languages."""
    name, _, revision = source.path.removeprefix(HUB_PREFIX).partition("@")
    if not source.languages:
        raise InputError(
            f"source {source.path!r}: name the languages that it should have, as in `languages: [deu_Latn, eng_Latn]`"
        )
    if Path(name).is_dir():
        return name, None
    if not name or not revision:
        raise InputError(
            f"source {source.path!r}: give the revision too, as in {HUB_PREFIX}owner/name@COMMIT, or the text may "
            "change"
        )
    return name, revision


def open_pair(path: str, name: str, revision: str | None, configuration: str, split: str) -> Any:
    """The table of one pair of languages of OPUS-100. Raises InputError and MissingAssetError."""
    import datasets

    if revision is not None:
        return _ask(
            f"{path}, {configuration}", datasets.load_dataset, name, configuration, split=split, revision=revision
        )
    files = sorted(str(file) for file in Path(name, configuration).glob(f"{split}-*.parquet"))
    if not files:
        raise InputError(f"{path} has no {configuration}/{split}-*.parquet; change `languages` or `split`")
    return _ask(f"{path}, {configuration}", datasets.load_dataset, "parquet", data_files=files, split="train")


def open_language(path: str, name: str, revision: str | None, short: str) -> Any:
    """One file of Bactrian-X, by its name: the repository holds a loading script, which `datasets` refuses to run or to
    pass by.

    Raises InputError and MissingAssetError.
    """
    import datasets
    from huggingface_hub import hf_hub_download

    where = f"data/{short}.json.gz"
    if revision is not None:
        file = _ask(f"{path}, {where}", hf_hub_download, name, where, repo_type="dataset", revision=revision)
    else:
        file = str(Path(name, where))
        if not Path(file).is_file():
            raise InputError(f"{path} has no {where}; change `languages`")
    return _ask(f"{path}, {where}", datasets.load_dataset, "json", data_files=file, split="train")


def _ask(reference: str, question: Any, *arguments: Any, **options: Any) -> Any:
    """The answer of `datasets` or the hub, its errors told apart: what can be fetched later, and what is wrong."""
    import datasets
    from huggingface_hub import constants, errors

    try:
        return question(*arguments, **options)
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        raise _not_at_hand(reference) from error
    except (
        datasets.exceptions.DatasetNotFoundError,
        errors.RepositoryNotFoundError,
        errors.HFValidationError,
    ) as error:
        if constants.HF_HUB_OFFLINE:
            raise _not_at_hand(reference) from error
        raise InputError(
            f"{reference}: no such data set on the hub, or no access to it ({_first_line(error)})"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{reference}: the data set has no such revision") from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"{reference}: the data set has no such part; change `languages`") from error
    except (errors.HfHubHTTPError, datasets.exceptions.DatasetsError, ValueError, RuntimeError, OSError) as error:
        line = _first_line(error)
        # `datasets` off the network, with another part of the data set in the cache.
        if line.startswith("Couldn't find cache"):
            raise _not_at_hand(reference) from error
        if line.startswith("BuilderConfig"):  # would go on with the names of all the others
            raise InputError(f"{reference}: the data set has no such part; change `languages`") from error
        raise InputError(f"{reference}: cannot be read ({line})") from error


def _not_at_hand(reference: str) -> MissingAssetError:
    from huggingface_hub import constants

    why = "the network is off; --online lets it be fetched" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
    return MissingAssetError(f"{reference}: not in the cache, and {why}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
