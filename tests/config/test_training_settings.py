import pytest

from aisle.commands.train.settings import TrainSettings, problems_of
from aisle.config.load import parse_settings


def problems(*arguments):
    return problems_of(parse_settings(TrainSettings, arguments, prog="p"))


def test_a_run_with_data_and_a_folder_has_no_problems():
    assert problems("--output_dir", "x", "--train_file", "a.csv", "--validation_file", "b.csv") == []


def test_the_sanity_test_needs_no_data():
    assert problems("--output_dir", "x", "--sanity_test") == []


def test_problems_are_reported_together():
    found = problems("--validation_file", "b.csv", "--max_train_steps", "5", "--num_warmup_steps", "6")

    assert [line.split(":")[0] for line in found] == [
        "--output_dir",
        "no training data",
        "--validation_file",
        "--num_warmup_steps 6",
    ]


def test_two_sources_of_pairs_are_refused():
    (line,) = problems("--output_dir", "x", "--dataset_name", "d", "--train_file", "a.csv")

    assert line.startswith("--dataset_name and --train_file: ")


def test_overwriting_and_resuming_exclude_each_other():
    (line,) = problems(
        "--output_dir", "x", "--sanity_test", "--overwrite_output_dir", "--resume_from_checkpoint", "latest"
    )

    assert "--overwrite_output_dir and --resume_from_checkpoint" in line


def test_an_empty_model_name_is_refused():
    (line,) = problems("--output_dir", "x", "--sanity_test", "--model_name_or_path", "")

    assert line.startswith("--model_name_or_path: is empty")


@pytest.mark.parametrize("steps", [5, 6])
def test_warmup_may_be_as_long_as_the_run_but_not_longer(steps):
    arguments = ("--output_dir", "x", "--sanity_test", "--max_train_steps", str(steps))

    assert problems(*arguments, "--num_warmup_steps", str(steps)) == []
    assert problems(*arguments, "--num_warmup_steps", str(steps + 1)) != []


def test_warmup_is_given_in_steps_or_as_a_share():
    arguments = ("--output_dir", "x", "--sanity_test", "--warmup_share", "0.1")

    assert problems(*arguments) == []
    assert problems(*arguments, "--num_warmup_steps", "5") == [
        "--num_warmup_steps and --warmup_share: give one of them"
    ]


def test_several_data_sets_name_their_configurations_themselves():
    arguments = ("--output_dir", "x", "--dataset_name", "acme/snli", "acme/glue:mnli")

    assert problems(*arguments) == []
    (line,) = problems(*arguments, "--dataset_config_name", "mnli")
    assert line.endswith("name each configuration as NAME:CONFIG")


def test_labels_are_mapped_or_divided():
    arguments = ("--output_dir", "x", "--sanity_test", "--label_max", "5", "--label_map", "E=1,I=0")

    assert problems(*arguments) == ["--label_map and --label_max: give one of them"]
