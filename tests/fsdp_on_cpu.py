"""`python -m alignx_trainer` with FSDP2 on the CPU, for tests: accelerate shards on GPUs only, torch on the CPU too.

All that is different from a run on GPUs is what accelerate takes the kind of machine for.
"""

from accelerate import PartialState
from accelerate.utils import DistributedType

PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU

from alignx_trainer.cli import main  # noqa: E402

main()
