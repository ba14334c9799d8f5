"""The processes of one run: several under `accelerate launch` or torchrun, else this one alone. Nothing is imported
where there is one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def launched() -> bool:
    """Whether a launcher started this process together with others."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def share() -> tuple[int, int]:
    """Number of this process, and of all processes; (0, 1) without a launcher."""
    if not launched():
        return 0, 1
    state = _state()
    return state.process_index, state.num_processes


def is_main() -> bool:
    """Whether this process writes files and talks to the user."""
    return int(os.environ.get("RANK") or 0) == 0 or not launched()


def all_agree(flag: bool) -> bool:
    """Whether `flag` is true in every process. All of them have to ask."""
    if not launched():
        return flag
    import numpy as np

    return bool(_reduce(np.array([0.0 if flag else 1.0], dtype=np.float32))[0] == 0)


def sum_of(array: np.ndarray) -> np.ndarray:
    """Sum of the float32 arrays of all processes, row by row of the first axis; exact where all but one are 0."""
    if not launched():
        return array
    import numpy as np

    return np.stack([_reduce(row) for row in array])


def _reduce(array: np.ndarray) -> np.ndarray:
    import torch
    from accelerate.utils import reduce

    state = _state()
    return reduce(torch.from_numpy(array).to(state.device), reduction="sum").cpu().numpy()


def _state() -> Any:
    import torch
    from accelerate import PartialState

    # Without a GPU it would take itself for alone unless it is told that processors are meant.
    return PartialState(cpu=not torch.cuda.is_available())
