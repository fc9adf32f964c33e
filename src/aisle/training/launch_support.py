"""Support table of one process, DDP and FSDP2; refuse other ways to launch, and unsupported flags.

The table in `docs/reference/training.md` is `support_table()`; a test compares them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Literal

from accelerate.utils import is_torch_xla_available

from aisle.errors import ConfigError

Strategy = Literal["one process", "DDP", "FSDP2"]

STRATEGIES: tuple[Strategy, ...] = ("one process", "DDP", "FSDP2")
NO = "no"
EVERYWHERE = ("yes", "yes", "yes")
SUPPORT: dict[str, tuple[str, str, str]] = {
    "--use_peft": EVERYWHERE,
    "all weights": EVERYWHERE,
    "--two_towers": ("yes", "yes", NO),
    "--head": ("yes", "yes", NO),
    "--gradient_accumulation_steps": EVERYWHERE,
    "--gradient_checkpointing": EVERYWHERE,
    "--cached_embeddings": ("yes", "yes", NO),
    "--max_tokens_per_sub_batch": ("yes", "yes", NO),
    "--learn_temperature": ("yes", "yes", NO),
    "--loss arcface": ("yes", "yes", NO),
    "retry in smaller sub-batches after out of memory": (
        *("yes", "with `--use_peft` or `--freeze_encoder`; otherwise the run stops with advice"),
        "the run stops with advice",
    ),
    "--mixed_precision bf16": EVERYWHERE,
    "--mixed_precision fp16": ("on a GPU", "on GPUs", "yes"),
    "--torch_compile": EVERYWHERE,
    "--checkpointing_steps": EVERYWHERE,
    "--resume_from_checkpoint": ("yes; same bytes on CPU", "yes; same bytes on CPU", "yes"),
    "on CPU": ("yes", "yes, over gloo", NO),
    "what the tests run": ("CPU", "2 and 3 processes on CPU", "2 processes on CPU, 1 on a GPU"),
}
"""Support of each flag in one process, DDP and FSDP2. A flag with `NO` is refused at startup."""

INSTEAD = (
    "use DDP (configs/accelerate/several_gpus.yaml), or FSDP2 for weights that do not fit on one GPU "
    "(configs/accelerate/fsdp.yaml)"
)
LAUNCHED_WITH = {
    "DeepSpeed": "ACCELERATE_USE_DEEPSPEED",
    "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM",
    "tensor, context or sequence parallelism (parallelism_config)": "ACCELERATE_USE_PARALLELISM_CONFIG",
    "SageMaker's launcher": "ACCELERATE_USE_SAGEMAKER",
}
"""Refused ways to launch, each with the variable that `accelerate launch` sets to true for it."""


def refuse_unsupported_launch(environment: Mapping[str, str] = os.environ) -> None:
    """Refuse settings of `accelerate launch` that aisle does not support.

    Args:
        environment: Environment of the process.

    Raises:
        ConfigError: They ask for DeepSpeed, Megatron-LM, FSDP1, another parallelism, XLA or fp8, or for a
            second accumulation of gradients.
    """

    def given(name: str) -> str:
        return environment.get(name, "").strip().lower()

    asked = [name for name, variable in LAUNCHED_WITH.items() if given(variable) in ("true", "1", "yes")]
    if given("ACCELERATE_USE_FSDP") in ("true", "1", "yes") and given("FSDP_VERSION") != "2":
        asked.append("FSDP1 (--fsdp_version 1, Accelerate's default)")
    if is_torch_xla_available():
        asked.append("XLA (torch_xla is installed; a TPU, or a GPU through XLA)")
    problems = [f"{name}: is not supported; {INSTEAD}" for name in asked]
    if given("ACCELERATE_MIXED_PRECISION") == "fp8":
        problems.append("--mixed_precision fp8 of accelerate launch: is not supported; use bf16")
    steps = given("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    if steps not in ("", "1"):
        problems.append(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS={steps}: gradients would be scaled twice; unset it, and "
            "give --gradient_accumulation_steps to the training command"
        )
    if problems:
        raise ConfigError("\n".join(problems))


def refuse_missing_shards(accelerator: Any, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a run that asked for FSDP2 if Accelerate does not shard its weights.

    Raises:
        ConfigError: The processes run on the CPU, or were started without a launcher.
    """
    asked = environment.get("ACCELERATE_USE_FSDP", "").strip().lower() in ("true", "1", "yes")
    if asked and strategy_of(accelerator) != "FSDP2":
        raise ConfigError(
            "FSDP2: needs GPUs and a process for each, started by accelerate launch; found "
            f"{accelerator.device.type} and processes: {accelerator.num_processes}. On CPU use "
            "torchrun, which trains with DDP"
        )


def is_sharded(accelerator: Any) -> bool:
    """Return whether weights are sharded over the ranks; all ranks must then call layers equally often."""
    return strategy_of(accelerator) == "FSDP2"


def strategy_of(accelerator: Any) -> Strategy:
    """Return the distributed strategy of a run."""
    if accelerator.distributed_type.value == "FSDP":
        return "FSDP2"
    return "DDP" if accelerator.num_processes > 1 else "one process"


def refuse_unsupported_flags(strategy: Strategy, flags: Collection[str]) -> None:
    """Refuse flags that a strategy does not support.

    Args:
        strategy: Distributed strategy of the run.
        flags: Flags in use, named as in `SUPPORT`.

    Raises:
        ConfigError: A flag is not supported.
    """
    refused = [flag for flag in flags if SUPPORT[flag][STRATEGIES.index(strategy)] == NO]
    if refused:
        raise ConfigError(
            f"{', '.join(refused)}: not supported with {strategy}; leave out, or train with DDP "
            "(configs/accelerate/several_gpus.yaml)"
        )


def support_table() -> str:
    """Return the support table in Markdown, for the docs."""
    rows = [f"| | {' | '.join(STRATEGIES)} |", "|---|---|---|---|"]
    for name, support in SUPPORT.items():
        rows.append(f"| {f'`{name}`' if name.startswith('--') else name} | {' | '.join(support)} |")
    return "\n".join(rows)
