"""Whoever has a command line for PEFT's semantic-search example changes only the script's name.

https://github.com/huggingface/peft/tree/main/examples/feature_extraction
"""

import shlex

import pytest

from aisle.commands.train.settings import TrainSettings
from aisle.config.load import flatten, parse_settings

PUBLISHED = """
--dataset_name="smangrul/amazon_esci"
--max_length=70 --model_name_or_path="intfloat/e5-large-v2"
--per_device_train_batch_size=64
--per_device_eval_batch_size=128
--learning_rate=5e-4
--weight_decay=0.0
--num_train_epochs 3
--gradient_accumulation_steps=1
--output_dir="results/peft_lora_e5_ecommerce_semantic_search_colab"
--seed=42
--push_to_hub
--hub_model_id="smangrul/peft_lora_e5_ecommerce_semantic_search_colab"
--with_tracking
--report_to="wandb"
--use_peft
--checkpointing_steps "epoch"
"""
VALUES = {
    "max_length": 70,
    "model_name_or_path": "intfloat/e5-large-v2",
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 16,
    "learning_rate": 5e-05,
    "weight_decay": 0.01,
    "num_train_epochs": 2,
    "max_train_steps": 100,
    "gradient_accumulation_steps": 4,
    "lr_scheduler_type": "cosine",
    "num_warmup_steps": 10,
    "output_dir": "results/x",
    "seed": 7,
    "hub_model_id": "me/x",
    "hub_token": "hf_secret",
    "checkpointing_steps": 50,
    "resume_from_checkpoint": "results/x/step_50",
    "report_to": "tensorboard",
}
SWITCHES = ("push_to_hub", "with_tracking", "sanity_test", "use_peft")


def flat(arguments):
    return flatten(parse_settings(TrainSettings, arguments, prog="train_peft.py"))


def test_the_published_command_line_parses_to_what_it_says():
    settings = flat(shlex.split(PUBLISHED))

    expected = {
        "dataset_name": ("smangrul/amazon_esci",),
        "max_length": 70,
        "model_name_or_path": "intfloat/e5-large-v2",
        "per_device_train_batch_size": 64,
        "per_device_eval_batch_size": 128,
        "learning_rate": 5e-4,
        "weight_decay": 0.0,
        "num_train_epochs": 3,
        "gradient_accumulation_steps": 1,
        "output_dir": "results/peft_lora_e5_ecommerce_semantic_search_colab",
        "seed": 42,
        "push_to_hub": True,
        "hub_model_id": "smangrul/peft_lora_e5_ecommerce_semantic_search_colab",
        "with_tracking": True,
        "report_to": "wandb",
        "use_peft": True,
        "checkpointing_steps": "epoch",
    }
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize("style", ["--{}={}", "--{} {}"])
@pytest.mark.parametrize("name", VALUES)
def test_every_flag_with_a_value_parses_in_both_styles(name, style):
    arguments = style.format(name, VALUES[name]).split(" ")

    settings = flat(arguments)

    assert settings[name] == VALUES[name]
    assert type(settings[name]) is type(VALUES[name])


@pytest.mark.parametrize("given", ["--dataset_name=acme/a", "--dataset_name acme/a"])
def test_the_data_set_may_be_one_name(given):
    assert flat(given.split(" "))["dataset_name"] == ("acme/a",)


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_is_off_until_it_is_given(name):
    assert flat([])[name] is False
    assert flat([f"--{name}"])[name] is True


@pytest.mark.parametrize(
    "name", ["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]
)
def test_every_scheduler_of_the_example_parses(name):
    assert flat(["--lr_scheduler_type", name])["lr_scheduler_type"] == name
