"""Wrong flags and keys: the right name is suggested, even if it is spelt differently."""

import pytest

from aisle.cli import main
from aisle.commands.command_list import COMMANDS
from aisle.commands.train.settings import TrainSettings
from aisle.config.flag_names import ALIASES, unknown_flags
from aisle.config.load import parse_settings
from aisle.errors import ConfigError
from tests.doc_commands import names_of


@pytest.mark.parametrize(
    ("command", "given", "meant"),
    [
        ("train", "--lr", "--learning_rate"),
        ("train", "--lr=1e-3", "--learning_rate"),
        ("train", "--batch_size", "--per_device_train_batch_size"),
        ("train", "--batch-size", "--per_device_train_batch_size"),
        ("train", "--epochs", "--num_train_epochs"),
        ("train", "--model", "--model_name_or_path"),
        ("train", "--output", "--output_dir"),
        ("train", "--dtype", "--mixed_precision"),
        ("train", "--lora_rnk", "--lora_rank"),
        ("train", "--no_use_pefts", "--no_use_peft"),
        ("build", "--dtype", "--store_dtype"),
        ("build", "--output", "--index_dir"),
        ("build", "--model_name_or_path", "--model"),
        ("query", "-k", "--top_k"),
        ("query", "--k", "--top_k"),
        ("query", "--topk", "--top_k"),
        ("push", "--private", "--hub_private"),
    ],
)
def test_a_wrong_flag_is_refused_with_the_right_one(command, given, meant, capfd):
    assert main([command, given, "3"]) == 2

    typed = given.partition("=")[0]
    assert capfd.readouterr().err == f"error: {typed}: there is no such flag; did you mean {meant}?\n"


def test_all_wrong_flags_are_named_at_once(capfd):
    assert main(["query", "-k", "3", "--zzz", "--index", "x", "lamp"]) == 2

    assert capfd.readouterr().err.splitlines() == [
        "error: -k: there is no such flag; did you mean --top_k?",
        "--zzz: there is no such flag; --help lists the flags",
        "--index: there is no such flag; did you mean --index_dir?",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--top-k", "3"],
        ["--top_k=3"],
        ["-h"],
        ["--help"],
        ["--no_exact"],
        ["-3"],
        ["-.5"],
        ["-"],
        ["--", "-k"],
    ],
)
def test_known_flags_and_other_arguments_are_left_to_the_parser(arguments):
    assert unknown_flags(arguments, set(names_of(COMMANDS["query"]))) == []


@pytest.mark.parametrize(("key", "meant"), [("lr", "learning_rate"), ("epochs", "num_train_epochs")])
def test_a_wrong_key_of_a_yaml_file_is_refused_with_the_right_one(key, meant, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(f"{key}: 3\n")

    with pytest.raises(ConfigError, match=f"unknown key '{key}'; did you mean '{meant}'"):
        parse_settings(TrainSettings, ["--config", str(path)], prog="train")


def test_every_alias_stands_for_an_existing_setting():
    known = {name for command in COMMANDS.values() for name in names_of(command)}

    assert {meant for names in ALIASES.values() for meant in names} - known == set()
    assert COMMANDS["train"].settings is TrainSettings
