"""Mistakes of the user: each gives one clear message and exit code 2, and leaves nothing half-written."""

import errno
import json
import os

import pytest

from aisle.cli import train_main
from tests.commands.conftest import QUERIES, judged_rows, write_rows

HEADER = ["query", "product", "relevance"]


@pytest.fixture
def refused(tiny_bert, tmp_path, capfd):
    """Run a training command that must be refused; return its message."""

    def run(*flags, output="run"):
        code = train_main(
            ["--use_peft", "--model_name_or_path", str(tiny_bert), "--output_dir", str(tmp_path / output),
             "--max_length", "16", "--max_train_steps", "2", *map(str, flags)]
        )  # fmt: skip
        said = capfd.readouterr().err
        assert code == 2, said
        assert "Traceback" not in said
        return said

    return run


def good_rows():
    return [list(row) for row in judged_rows(QUERIES)]


def test_a_missing_file(refused, tmp_path):
    assert "absent.csv" in refused("--train_file", tmp_path / "absent.csv")
    assert not (tmp_path / "run").exists()


def test_a_missing_column_is_refused_with_the_existing_columns(refused, judged_csv):
    message = refused("--train_file", judged_csv, "--query_column", "querry")
    assert "querry" in message
    assert "query" in message


def test_an_empty_file(refused, tmp_path):
    (tmp_path / "empty.csv").write_text("")
    assert "empty.csv" in refused("--train_file", tmp_path / "empty.csv")


@pytest.mark.parametrize(
    ("column", "value"), [(0, ""), (1, "   "), (2, "nan"), (2, "7"), (2, "perhaps"), (2, "")]
)
def test_a_bad_value_is_named_with_file_and_row(refused, tmp_path, column, value):
    rows = good_rows()
    rows[16][column] = value
    message = refused("--train_file", write_rows(tmp_path / "bad.csv", HEADER, rows))
    assert "bad.csv" in message
    assert "17" in message


def test_bad_rows_can_be_left_out(tiny_bert, tmp_path, capfd):
    rows = good_rows()
    rows[3][0] = ""
    pairs = write_rows(tmp_path / "bad.csv", HEADER, rows)
    code = train_main(
        ["--use_peft", "--model_name_or_path", str(tiny_bert), "--output_dir", str(tmp_path / "run"),
         "--train_file", str(pairs), "--on_bad_row", "skip", "--max_train_steps", "1"]
    )  # fmt: skip
    assert code == 0
    assert "1 of 40 rows" in capfd.readouterr().out


def test_null_and_non_string_text(refused, tmp_path):
    file = tmp_path / "bad.jsonl"
    lines = [dict(zip(HEADER, row, strict=True)) for row in good_rows()]
    lines[2]["query"], lines[5]["product"] = None, 17
    file.write_text("\n".join(map(json.dumps, lines)))
    message = refused("--train_file", file)
    assert "2 of 40" in message


def test_labels_outside_the_map(refused, tmp_path):
    rows = [(query, product, "EX" if value else "I") for query, product, value in good_rows()]
    rows[4] = (rows[4][0], rows[4][1], "Z")
    message = refused(
        "--train_file", write_rows(tmp_path / "bad.csv", HEADER, rows), "--label_map", "EX=1,I=0"
    )
    assert "'Z'" in message


def test_a_broken_quote(refused, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text('query,product,relevance\nsofa,"red sofa,1\nlamp,blue lamp,0\n')
    assert "bad.csv" in refused("--train_file", file)


def test_invalid_utf8(refused, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_bytes(b"query,product,relevance\nsofa,red so\xfffa,1\n" + b"lamp,blue lamp,0\n" * 20)
    assert "UTF-8" in refused("--train_file", file)


def test_an_unknown_yaml_key_is_refused_with_the_nearest_key(refused, tmp_path, judged_csv):
    (tmp_path / "recipe.yaml").write_text("lora_rnk: 4\n")
    assert "lora_rank" in refused("--train_file", judged_csv, "--config", tmp_path / "recipe.yaml")


def test_an_unknown_flag(tiny_bert, capfd):
    assert train_main(["--lora_rnk", "3"]) == 2
    assert "lora_rank" in capfd.readouterr().err


def test_an_unknown_target_module_is_refused_with_the_existing_modules(refused, judged_csv):
    message = refused("--train_file", judged_csv, "--lora_target_modules", "q_proj")
    assert "q_proj" in message
    assert "query" in message


def test_a_folder_with_another_run_is_not_changed(refused, tmp_path, judged_csv):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text("{}")
    assert "--overwrite_output_dir" in refused("--train_file", judged_csv)
    assert (run / "metrics.json").read_text() == "{}"


def test_a_bad_file_leaves_the_run_to_overwrite_unchanged(refused, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.json").write_text("{}")
    refused("--train_file", tmp_path / "absent.csv", "--overwrite_output_dir")
    assert (run / "metrics.json").read_text() == "{}"


def test_all_problems_of_a_command_line_are_named_at_once(capfd):
    assert train_main(["--lora_rank", "0", "--temperature", "-1"]) == 2
    message = capfd.readouterr().err
    assert "--lora_rank" in message
    assert "--temperature" in message
    assert train_main(["--use_peft"]) == 2
    message = capfd.readouterr().err
    assert "--output_dir" in message
    assert "--train_file" in message


def test_labels_of_one_class_train_with_a_note_that_roc_auc_is_undefined(tiny_bert, tmp_path, capfd):
    rows = [(query, product, 1) for query, product, _ in good_rows()]
    pairs = write_rows(tmp_path / "one.csv", HEADER, rows)
    code = train_main(
        ["--use_peft", "--model_name_or_path", str(tiny_bert), "--output_dir", str(tmp_path / "run"),
         "--train_file", str(pairs), "--max_train_steps", "2"]
    )  # fmt: skip
    assert code == 0
    assert (
        "ROC-AUC, average precision and F1 are undefined: all 5 pairs are positive" in capfd.readouterr().out
    )
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["best"]["roc_auc"] is None


def test_resuming_without_a_checkpoint_is_refused(refused, judged_csv):
    message = refused("--train_file", judged_csv, "--resume_from_checkpoint", "latest")
    assert "--checkpointing_steps" in message


def test_resuming_with_other_settings_names_both_values(refused, tiny_bert, judged_csv, tmp_path):
    flags = ["--train_file", str(judged_csv), "--max_length", "16", "--max_train_steps", "2"]
    train_main(
        ["--use_peft", "--model_name_or_path", str(tiny_bert), "--output_dir", str(tmp_path / "run"), *flags,
         "--checkpointing_steps", "1"]
    )  # fmt: skip
    message = refused(
        "--train_file", judged_csv, "--resume_from_checkpoint", "latest", "--per_device_train_batch_size", "7"
    )
    assert "64" in message
    assert "7" in message


def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_used(tiny_bert, judged_csv, tmp_path, capfd):
    flags = [
        "--use_peft", "--model_name_or_path", str(tiny_bert), "--train_file", str(judged_csv),
        "--output_dir", str(tmp_path / "run"), "--max_train_steps", "3", "--checkpointing_steps", "1",
    ]  # fmt: skip
    train_main(flags)
    damaged = tmp_path / "run" / "checkpoints" / "step_00000003" / "optimizer.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    capfd.readouterr()
    assert train_main([*flags, "--resume_from_checkpoint", "latest"]) == 0
    said = capfd.readouterr().out
    assert "optimizer.bin" in said
    assert "step 2" in said


def test_a_full_disk_while_saving_keeps_the_previous_checkpoint(
    tiny_bert, judged_csv, tmp_path, monkeypatch, capfd
):
    import torch

    save, calls = torch.save, []

    def fail_late(*args, **options):
        calls.append(1)
        if len(calls) > 5:
            raise OSError(28, os.strerror(28))
        return save(*args, **options)

    monkeypatch.setattr(torch, "save", fail_late)
    code = train_main(
        ["--use_peft", "--model_name_or_path", str(tiny_bert), "--train_file", str(judged_csv),
         "--output_dir", str(tmp_path / "run"), "--max_train_steps", "3", "--checkpointing_steps", "1"]
    )  # fmt: skip
    message = capfd.readouterr().err
    assert code == 2
    assert "No space left" in message
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000001"]


def test_texts_in_every_writing_system_train(tiny_bert, tmp_path):
    rows = [
        (f"{text} {n}", f"{text} ✅ {n}", n % 2) for n in range(8) for text in ("沙发", "أريكة", "🛋️", "סַפָּה")
    ]
    pairs = write_rows(tmp_path / "scripts.csv", HEADER, rows)
    code = train_main(
        ["--use_peft", "--model_name_or_path", str(tiny_bert), "--output_dir", str(tmp_path / "run"),
         "--train_file", str(pairs), "--max_train_steps", "1"]
    )  # fmt: skip
    assert code == 0


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--mixed_precision", "fp16"], "fp16"),
        (["--num_warmup_steps", "100"], "--num_warmup_steps 100"),
        (["--with_tracking", "--report_to", "wandbb"], "wandbb"),
        (["--with_tracking", "--report_to", ""], "--report_to"),
        (["--loss", "in_batch", "--label_column", "absent"], "absent"),
    ],
)
def test_settings_that_cannot_work_are_refused(refused, judged_csv, flags, part):
    assert part in refused("--train_file", judged_csv, "--num_train_epochs", 1, *flags)


def test_a_tracker_that_cannot_start_is_one_message(refused, judged_csv, monkeypatch):
    from accelerate import Accelerator

    def fail(*_, **__):
        raise RuntimeError("No API key configured")

    monkeypatch.setattr(Accelerator, "init_trackers", fail)
    message = refused("--train_file", judged_csv, "--with_tracking", "--report_to", "wandb")
    assert "No API key configured" in message
    assert "WANDB_MODE=offline" in message


@pytest.mark.parametrize(
    "change",
    [
        ["--pooling", "cls"],
        ["--query_prompt", "query: "],
        ["--lora_alpha", "64"],
        ["--use_dora"],
        ["--weight_decay", "0.1"],
        ["--max_grad_norm", "0.01"],
        ["--keep", "last"],
    ],
)
def test_resuming_with_another_model_or_optimiser_is_refused(
    refused, tiny_bert, judged_csv, tmp_path, change
):
    train_main(
        ["--use_peft", "--model_name_or_path", str(tiny_bert), "--output_dir", str(tmp_path / "run"),
         "--max_length", "16", "--train_file", str(judged_csv), "--max_train_steps", "2",
         "--checkpointing_steps", "1"]
    )  # fmt: skip
    message = refused("--train_file", judged_csv, "--resume_from_checkpoint", "latest", *change)
    assert "belongs to another run" in message
    assert change[0].removeprefix("--") in message


def test_a_checkpoint_of_one_run_does_not_overwrite_another(refused, tiny_bert, judged_csv, tmp_path):
    for name in ("one", "two"):
        train_main(
            ["--use_peft", "--model_name_or_path", str(tiny_bert), "--output_dir", str(tmp_path / name),
             "--train_file", str(judged_csv), "--max_train_steps", "2", "--checkpointing_steps", "1"]
        )  # fmt: skip
    before = (tmp_path / "two" / "aisle.json").read_text()
    checkpoint = tmp_path / "one" / "checkpoints" / "step_00000001"
    message = refused("--train_file", judged_csv, "--resume_from_checkpoint", checkpoint, output="two")
    assert "contains another run" in message
    assert (tmp_path / "two" / "aisle.json").read_text() == before


def test_a_folder_is_locked_while_another_training_run_writes_it(refused, tiny_bert, judged_csv, tmp_path):
    from aisle.commands.train.run_dir import only_writer

    with only_writer(tmp_path / "run"):
        message = refused("--train_file", judged_csv)
        assert f"--output_dir {tmp_path / 'run'}: a training, process " in message
        assert "is writing it; try again later" in message
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    flags = ["--use_peft", "--model_name_or_path", str(tiny_bert), "--train_file", str(judged_csv)]
    assert train_main([*flags, "--output_dir", str(tmp_path / "run"), "--max_train_steps", "1"]) == 0
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_full_disk_while_saving_the_model_is_one_message(refused, judged_csv, monkeypatch, tmp_path):
    from transformers import PreTrainedTokenizerBase

    def fail(*_, **__):
        raise Exception("No space left on device (os error 28)")  # the error of tokenizers

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", fail)
    message = refused("--train_file", judged_csv, "--checkpointing_steps", 2)
    assert "No space left on device" in message
    assert "--resume_from_checkpoint latest" in message
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert left == [".tokens", "checkpoints", "config.yaml", "log.jsonl"]


def test_training_is_refused_on_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    from aisle.commands.train.run_dir import only_writer
    from aisle.errors import ConfigError

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)

    refusal = r"--output_dir .*/run: its file system refuses the lock"
    with pytest.raises(ConfigError, match=refusal) as caught, only_writer(tmp_path / "run"):
        raise AssertionError("must not be entered")

    assert "No locks available; write to a folder on a local disk" in str(caught.value)
    assert list((tmp_path / "run").iterdir()) == []
