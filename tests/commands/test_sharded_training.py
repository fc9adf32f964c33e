"""FSDP2 in two processes on CPU, compared with one process: LoRA and all weights."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.commands.launch import start_ranks

TRAINED = {
    "adapter_model": ["--use_peft", "--learning_rate", 0.01],
    "model": ["--learning_rate", 0.001],
}


@pytest.mark.parametrize("weights", TRAINED)
def test_sharded_weights_train_what_one_process_trains(weights, tiny_bert, judged_csv, tmp_path):
    flags = ["--model_name_or_path", tiny_bert, "--train_file", judged_csv, "--validation_share", 0.4]
    flags += ["--max_train_steps", 4, "--gradient_accumulation_steps", 2, "--dropout", 0]
    flags += ["--eval_steps", 2, "--checkpointing_steps", 3, *TRAINED[weights]]
    one, two = tmp_path / "one", tmp_path / "two"

    def sharded(*more):
        ranks = (2, "tests/commands/sharded_training.py", *flags, "--per_device_train_batch_size", 4)
        return start_ranks(*ranks, "--output_dir", two, *more).stdout

    start_ranks(1, "train_peft.py", *flags, "--per_device_train_batch_size", 8, "--output_dir", one)
    assert "processes: 2, distribution: FSDP" in sharded()
    assert_same(one, two, weights)
    (two / f"{weights}.safetensors").unlink()
    sharded("--resume_from_checkpoint", two / "checkpoints" / "step_00000003")
    assert_same(one, two, weights)


def assert_same(one, two, weights):
    """Compare the evaluations and the saved weights of two runs."""
    expected, found = (load_file(run / f"{weights}.safetensors") for run in (one, two))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if not name.endswith("key.bias"):  # its gradient is zero but for rounding
            np.testing.assert_allclose(found[name], value, atol=2e-5, err_msg=name)
    histories = [json.loads((run / "metrics.json").read_text())["history"] for run in (one, two)]
    for first, second in zip(*histories, strict=True):
        assert second == pytest.approx(first, abs=1e-3)
