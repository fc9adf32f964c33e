"""train_peft.py under FSDP2 on CPU over gloo; Accelerate shards weights only on GPUs. Run it in ranks.

Usage: sharded_training.py FLAGS...
"""

import os
import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from aisle.cli import train_main
from aisle.training import accelerator, process_group
from tests.commands.launch import ROOT, accelerate_environment


def on_cpu(state):
    state.device = torch.device("cpu")


def main(flags):
    """Train with the settings of the configuration file, but in float32 and on CPU."""
    # aisle and Accelerate take the path of GPUs, with the CPU as device.
    process_group.must_use_cpu = accelerator.must_use_cpu = lambda: False
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = on_cpu
    file = ROOT / "configs" / "accelerate" / "fsdp.yaml"
    os.environ |= accelerate_environment(file, processes=os.environ["WORLD_SIZE"], mixed_precision="no")
    os.environ.pop("ACCELERATE_USE_CPU", None)
    return train_main(flags)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
