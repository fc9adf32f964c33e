"""The command that a stopped run prints: in a shell, it starts the same run with its launcher."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from aisle.commands.train.launch_command import resume_command
from aisle.commands.train.settings import TrainSettings
from aisle.config.load import parse_settings
from tests.doc_commands import launcher_problem

PROBE = """
import sys
from aisle.commands.train.launch_command import resume_command, started_as
sys.stdout.write(resume_command(*started_as()) + "\\n")
"""
AWKWARD = 'it\'s a "shop" & $HOME; `x` *'
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "launcher",
    [
        [sys.executable],
        [sys.executable, "-W", "error"],
        [
            BIN / "accelerate",
            "launch",
            "--num_processes",
            "1",
            "--num_machines",
            "1",
            "--mixed_precision",
            "no",
        ],
    ],
    ids=["python", "python with a flag", "accelerate"],
)
def test_the_printed_command_starts_the_same_run_again(launcher, tmp_path):
    launcher = [
        *map(str, launcher),
        *(["--mixed_precision", "no", "--dynamo_backend", "no"] if "launch" in launcher else []),
    ]
    (tmp_path / "probe one.py").write_text(PROBE)
    flags = ["--output_dir", AWKWARD, "--overwrite_output_dir", "--train_file", "a b.csv", "c.csv"]
    environment = {**os.environ, "WANDB_MODE": "off line", "ACCELERATE_USE_CPU": "true"}

    def printed_by(command, **how):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, **how)
        return done.stdout.splitlines()[-1]

    line = printed_by([*launcher, "probe one.py", *flags], env=environment)
    without = {name: value for name, value in os.environ.items() if name not in {"WANDB_MODE"}}

    words = shlex.split(line)
    expected = ["probe one.py", "--output_dir", AWKWARD, "--train_file", "a b.csv", "c.csv"]
    assert words[-8:] == [*expected, "--resume_from_checkpoint", "latest"]
    assert {"WANDB_MODE=off line", "ACCELERATE_USE_CPU=true"} <= set(words)
    assert [word for word in launcher[1:] if word not in words] == []
    assert printed_by(["bash", "-c", line], env=without) == line


def test_the_command_line_of_accelerate_is_valid_for_both_parsers():
    flags = ["--use_peft", "--train_file", "my pairs.csv", "--output_dir", "runs/mine", "--json"]
    launch = ["accelerate", "launch", "--num_processes", "2", "--mixed_precision", "bf16"]

    line = resume_command([sys.executable, *launch, "train_peft.py", *flags], {"CUDA_VISIBLE_DEVICES": "1,3"})

    variable, _, program, *rest = shlex.split(line)
    assert variable == "CUDA_VISIBLE_DEVICES=1,3"
    assert launcher_problem(program, rest) is None
    settings = parse_settings(TrainSettings, rest[rest.index("train_peft.py") + 1 :], prog="train")
    assert settings.data.train_file == ("my pairs.csv",)
    assert settings.run.resume_from_checkpoint == "latest"


@pytest.mark.parametrize(
    "token", [["--hub_token", "hf_secret"], ["--hub-token=hf_secret"], ["--hub_token", "***"]]
)
def test_no_token_is_printed(token):
    words = ["python", "train_peft.py", *token, "--push_to_hub"]

    line = resume_command(words, {"HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "1"})

    assert line == "HF_HUB_OFFLINE=1 python train_peft.py --push_to_hub --resume_from_checkpoint latest"


def test_what_the_first_call_resumed_or_replaced_is_not_repeated():
    words = [
        "python",
        "-m",
        "aisle",
        "train",
        "--overwrite-output-dir",
        "--resume_from_checkpoint=runs/a/step_1",
    ]

    assert resume_command(words, {}) == "python -m aisle train --resume_from_checkpoint latest"
