"""One process or several: what accelerate does for the loop."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Collection
from typing import Any

import torch

from alignx_eval import processes
from alignx_eval.errors import InputError
from alignx_trainer.config import Recipe
from alignx_trainer.step import Forward


class Parallel:
    """Where the work runs: this process alone, or several under `accelerate launch` (DDP, or FSDP2 by its YAML)."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        self.accelerator: Any = None
        self.sharded = False
        if processes.launched():
            from accelerate import Accelerator
            from accelerate.utils import DistributedType

            self.accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
            self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
            device = str(self.accelerator.device)
            if self.sharded and not self.accelerator.is_fsdp2:
                raise InputError(
                    "FSDP of version 1 is not supported; set `fsdp_version: 2` in the accelerate configuration"
                )
            if self.sharded and (recipe.optimizer == "muon" or recipe.eval_every):
                raise InputError(
                    "muon and eval_every need whole matrices in each process; with FSDP use adamw and eval_every: 0"
                )
            if self.sharded and recipe.lora_rank:
                raise InputError("adapters are small enough for whole copies; train them with DDP, not FSDP")
        self.device = device
        self.main = processes.is_main()
        self.count = self.accelerator.num_processes if self.accelerator is not None else 1
        micro_batches = recipe.batch_size // recipe.micro_batch_size
        if micro_batches % self.count:
            raise InputError(
                f"batch_size / micro_batch_size gives {micro_batches} micro-batches, which {self.count} processes "
                "cannot share"
            )

    def prepare(self, forward: Forward, optimizers: list[torch.optim.Optimizer]) -> tuple[Any, list[Any]]:
        """Module and optimizers as accelerate wraps them: gradients are exchanged, weights perhaps sharded."""
        if self.accelerator is None:
            return forward, list(optimizers)
        prepared = self.accelerator.prepare(forward, *optimizers)
        return prepared[0], list(prepared[1:])

    def wait(self) -> None:
        """Until all processes are here."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def clip(self, model: list[torch.nn.Parameter], matcher: list[torch.nn.Parameter], largest: float) -> float:
        """Scale all gradients together to a norm of at most `largest`; returns the norm before."""
        gradients = [
            [parameter.grad for parameter in group if parameter.grad is not None] for group in (model, matcher)
        ]
        norms = [torch.nn.utils.get_total_norm(group) for group in gradients if group]
        # The gradients of a sharded model are sharded, those of the matcher are not, so each has its norm.
        total = math.sqrt(
            sum(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm) ** 2 for norm in norms)
        )
        if math.isfinite(total) and total > largest:
            for group in gradients:
                torch._foreach_mul_(group, largest / (total + 1e-6)) if group else None
        return total

    def model_state(self, forward: Any, names: Collection[str]) -> dict[str, Any]:
        """Tensors of the model by the name they have in one process, those of `names` alone. Sharded: whole in the main
        process only."""
        if not self.sharded:
            inner = self.accelerator.unwrap_model(forward) if self.accelerator is not None else forward
            return {name: tensor for name, tensor in inner.state_dict().items() if name in names}
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return {
            name: tensor for name, tensor in get_model_state_dict(forward, options=options).items() if name in names
        }

    def optimizer_states(self, forward: Any, optimizers: list[Any]) -> list[dict[str, Any]]:
        """As one process has them. Sharded: whole in the main process only."""
        plain = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
        if not self.sharded:
            return [optimizer.state_dict() for optimizer in plain]
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return [get_optimizer_state_dict(forward, optimizer, options=options) for optimizer in plain]

    def restore(self, forward: Any, optimizers: list[Any], model: dict[str, Any], states: list[dict[str, Any]]) -> None:
        """Load what `model_state` and `optimizer_states` gave."""
        plain = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
        if not self.sharded:
            inner = self.accelerator.unwrap_model(forward) if self.accelerator is not None else forward
            inner.load_state_dict(model, strict=False)  # adapters alone where the rest is frozen
            for optimizer, saved in zip(plain, states, strict=True):
                optimizer.load_state_dict(saved)
            return
        from torch.distributed.checkpoint.state_dict import (
            StateDictOptions,
            set_model_state_dict,
            set_optimizer_state_dict,
        )

        options = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True, strict=False)
        set_model_state_dict(forward, model if self.main else {}, options=options)
        for optimizer, saved in zip(plain, states, strict=True):
            set_optimizer_state_dict(forward, optimizer, saved if self.main else {}, options=options)


def peak_memory(device: str) -> int:
    """Bytes: of tensors on a GPU, else of this process."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
