"""Ways to launch that are refused by name, and flags that a strategy does not support."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from aisle.cli import train_main
from aisle.errors import ConfigError
from aisle.training import launch_support
from aisle.training.launch_support import (
    NO,
    SUPPORT,
    refuse_missing_shards,
    refuse_unsupported_flags,
    refuse_unsupported_launch,
    strategy_of,
    support_table,
)

ROOT = Path(__file__).resolve().parents[2]


def launched(*flags):
    """Return the environment that `accelerate launch` gives a training script."""
    words = [
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    arguments, *_ = _validate_launch_command(
        launch_command_parser().parse_args([*words, *flags, "train_peft.py"])
    )
    if "--use_deepspeed" in flags:
        arguments.deepspeed_fields_from_accelerate_config = ""
        return prepare_deepspeed_cmd_env(arguments)[1]
    return prepare_multi_gpu_env(arguments)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--use_deepspeed"], "DeepSpeed"),
        (["--use_megatron_lm"], "Megatron-LM"),
        (["--use_fsdp", "--fsdp_version", "1"], "FSDP1"),
        (["--use_fsdp"], "FSDP1"),
        (["--use_fsdp", "--fsdp_version", "2", "--use_parallelism_config", "true"], "parallelism_config"),
    ],
)
def test_other_ways_to_launch_are_refused_by_name_with_what_to_use(flags, name):
    with pytest.raises(ConfigError, match=re.escape(name)) as refused:
        refuse_unsupported_launch(launched(*flags))

    assert "not supported; use DDP" in str(refused.value)
    assert "FSDP2" in str(refused.value)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize("flags", [["--multi_gpu"], ["--use_fsdp", "--fsdp_version", "2"]])
def test_ddp_and_fsdp2_are_accepted(flags):
    refuse_unsupported_launch(launched(*flags))


def test_one_process_without_a_launcher_is_accepted():
    refuse_unsupported_launch({})


def test_xla_is_refused(monkeypatch):
    monkeypatch.setattr(launch_support, "is_torch_xla_available", lambda: True)

    with pytest.raises(ConfigError, match="XLA"):
        refuse_unsupported_launch({})


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp8", "use bf16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_accumulation_steps"),
        ("ACCELERATE_USE_SAGEMAKER", "true", "SageMaker"),
    ],
)
def test_variables_that_would_change_the_training_are_refused(name, value, advice):
    with pytest.raises(ConfigError, match=advice):
        refuse_unsupported_launch({name: value})


def test_all_problems_are_named_at_once():
    with pytest.raises(ConfigError, match=r"DeepSpeed.*\n.*fp8"):
        refuse_unsupported_launch({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_MIXED_PRECISION": "fp8"})


def test_a_training_under_deepspeed_ends_with_exit_code_2_and_one_message(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("query,product\nred sofa,sofa in red\n", encoding="utf-8")

    code = train_main(["--train_file", str(pairs), "--output_dir", str(tmp_path / "run")])

    assert code == 2
    error = capsys.readouterr().err
    assert "DeepSpeed: is not supported" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def accelerator(kind, processes=2):
    return SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind),
        num_processes=processes,
        device=SimpleNamespace(type="cpu"),
    )


def test_fsdp2_without_gpus_is_refused_and_not_trained_as_ddp():
    asked = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}

    with pytest.raises(ConfigError, match="FSDP2: needs GPUs"):
        refuse_missing_shards(accelerator("MULTI_CPU"), asked)
    refuse_missing_shards(accelerator("FSDP"), asked)
    refuse_missing_shards(accelerator("MULTI_CPU"), {})


@pytest.mark.parametrize(
    ("kind", "processes", "strategy"),
    [("NO", 1, "one process"), ("MULTI_CPU", 2, "DDP"), ("MULTI_GPU", 8, "DDP"), ("FSDP", 8, "FSDP2")],
)
def test_the_strategy_is_that_of_the_accelerator(kind, processes, strategy):
    assert strategy_of(accelerator(kind, processes)) == strategy


@pytest.mark.parametrize(
    "flag", ["--head", "--cached_embeddings", "--learn_temperature", "--max_tokens_per_sub_batch"]
)
def test_flags_without_support_are_refused_with_fsdp2_only(flag):
    with pytest.raises(ConfigError, match=f"{flag}: not supported with FSDP2"):
        refuse_unsupported_flags("FSDP2", [flag])
    refuse_unsupported_flags("DDP", [flag])
    refuse_unsupported_flags("one process", [flag])


def test_the_flags_that_the_table_denies_are_those_that_a_run_checks():
    source = (ROOT / "src/aisle/commands/train/step_setup.py").read_text(encoding="utf-8")
    denied = [name for name, support in SUPPORT.items() if NO in support and name.startswith("--")]

    assert denied
    assert [flag for flag in denied if f'"{flag}":' not in source] == []


def test_the_table_of_the_docs_is_that_of_the_code():
    assert support_table() in (ROOT / "docs/reference/training.md").read_text(encoding="utf-8")
