import dataclasses

import pytest
import yaml

from aisle.commands.build.settings import BuildSettings
from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.push import PushSettings
from aisle.commands.query import QuerySettings
from aisle.commands.quickstart import QuickstartSettings
from aisle.commands.sample import SampleSettings
from aisle.commands.train.settings import TrainSettings
from aisle.config.load import flatten, parse_settings, saved_form, write_yaml
from aisle.errors import ConfigError

SETTINGS = (
    TrainSettings,
    BuildSettings,
    QuerySettings,
    EvaluateSettings,
    SampleSettings,
    QuickstartSettings,
    PushSettings,
)


def parse(*arguments, settings_type=TrainSettings):
    return parse_settings(settings_type, arguments, prog="prog")


def flat(*arguments, settings_type=TrainSettings):
    return flatten(parse(*arguments, settings_type=settings_type))


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def problems(*arguments, settings_type=TrainSettings):
    with pytest.raises(ConfigError) as caught:
        parse(*arguments, settings_type=settings_type)
    return str(caught.value).splitlines()


def test_flags_win_over_yaml_and_yaml_over_defaults(yaml_file):
    path = yaml_file("max_length: 64\nlora_rank: 4\n")

    settings = flat("--config", path, "--lora_rank", "32")

    assert (settings["max_length"], settings["lora_rank"], settings["lora_alpha"]) == (64, 32, None)


def test_a_flag_that_repeats_the_default_still_wins_over_yaml(yaml_file):
    path = yaml_file("max_length: 64\n")

    assert flat(f"--config={path}", "--max_length", "128")["max_length"] == 128


def test_a_switch_of_yaml_can_be_turned_off(yaml_file):
    path = yaml_file("use_peft: true\n")

    assert flat("--config", path)["use_peft"] is True
    assert flat("--config", path, "--no_use_peft")["use_peft"] is False


def test_a_value_of_yaml_can_be_set_back_to_none(yaml_file):
    path = yaml_file("max_grad_norm: 2.0\nlabel_map: {E: 1}\n")

    settings = flat("--config", path, "--max_grad_norm", "None", "--label_map", "None")

    assert settings["max_grad_norm"] is None
    assert settings["label_map"] is None


def test_an_empty_prompt_differs_from_no_prompt():
    assert flat("--query_prompt", "")["query_prompt"] == ""
    assert flat()["query_prompt"] is None


def test_a_prompt_keeps_its_trailing_space():
    assert flat("--query_prompt=query: ")["query_prompt"] == "query: "


def test_required_settings_may_come_from_yaml_or_flags(yaml_file):
    path = yaml_file("index_dir: from_yaml\n")

    settings = parse("--config", path, "--model", "m", settings_type=BuildSettings)

    assert (settings.model, settings.index_dir) == ("m", "from_yaml")


def test_a_missing_required_flag_exits_with_2_and_is_named(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--model", "m", settings_type=BuildSettings)

    assert caught.value.code == 2
    assert "--index_dir" in capsys.readouterr().err


def test_unknown_keys_of_yaml_name_the_file_and_the_nearest_key(yaml_file):
    path = yaml_file("max_lenght: 64\nlora_rnak: 4\n")

    assert problems("--config", path) == [
        f"{path}: unknown key 'max_lenght'; did you mean 'max_length'?",
        f"{path}: unknown key 'lora_rnak'; did you mean 'lora_rank'?",
    ]


def test_an_unknown_choice_exits_with_2_and_lists_the_choices(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--pooling", "max")

    message = capsys.readouterr().err
    assert caught.value.code == 2
    assert all(word in message for word in ("--pooling", "'max'", "'mean'", "'cls'", "'last'"))


def test_every_wrong_flag_is_reported_at_once_with_what_was_found():
    found = problems(
        "--max_length", "abc", "--learning_rate", "0", "--lora_rank", "0",
        "--lora_dropout", "1.0", "--label_map", "E", "--seed", "-3", "--temperature", "inf",
    )  # fmt: skip

    assert {line.split(":")[0] for line in found} == {
        "--max_length", "--learning_rate", "--lora_rank", "--lora_dropout", "--label_map", "--seed",
        "--temperature",
    }  # fmt: skip
    by_flag = {line.split(":")[0]: line for line in found}
    assert by_flag["--lora_rank"] == "--lora_rank: input should be greater than or equal to 1; found 0"
    assert by_flag["--max_length"].endswith("found 'abc'")


def test_every_wrong_value_of_yaml_is_reported_at_once_with_the_file(yaml_file):
    path = yaml_file("max_length: 2\nseed: 1.5\ntrain_file: {a: 1}\nuse_peft: perhaps\nnope: 1\n")

    found = problems("--config", path)

    assert len(found) == 5
    assert all(line.startswith(f"{path}: ") for line in found)
    for name in ("max_length", "seed", "train_file", "use_peft", "nope"):
        assert sum(name in line for line in found) == 1


def test_a_wrong_checkpointing_interval_names_both_forms():
    (line,) = problems("--checkpointing_steps", "epok")

    assert line.startswith("--checkpointing_steps: ")
    assert "integer" in line
    assert "'epoch'" in line
    assert line.endswith("found 'epok'")


def test_an_unquoted_no_in_yaml_is_explained(yaml_file):
    (line,) = problems("--config", yaml_file("mixed_precision: no\n"))

    assert "mixed_precision" in line
    assert "quotes" in line
    assert flat("--config", yaml_file("mixed_precision: 'no'\n"))["mixed_precision"] == "no"


def test_numbers_that_yaml_reads_as_text_are_numbers(yaml_file):
    """YAML 1.1 takes 5e-4, without a point, for a text."""
    assert flat("--config", yaml_file("learning_rate: 5e-4\n"))["learning_rate"] == 5e-4


@pytest.mark.parametrize("text", ["- a\n- b\n", "just a text\n", "3\n"])
def test_yaml_that_is_not_a_mapping_is_refused(yaml_file, text):
    (line,) = problems("--config", yaml_file(text))

    assert "must be a mapping" in line


def test_an_empty_yaml_file_changes_nothing(yaml_file):
    assert {**flat("--config", yaml_file("")), "config": None} == flat()


def test_yaml_that_cannot_be_parsed_names_the_line(yaml_file):
    path = yaml_file("seed: 3\nmax_length: [1, 2\n")

    (line,) = problems("--config", path)

    assert line.startswith(f"--config {path}: line 3 is not valid YAML")


def test_yaml_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "latin.yaml"
    path.write_bytes("dataset_name: café\n".encode("latin-1"))

    (line,) = problems("--config", str(path))

    assert line.startswith(f"--config {path}: cannot be read as YAML")


def test_a_missing_config_file_is_named():
    (problem,) = problems("--config", "nowhere.yaml")
    assert problem.startswith(
        "--config nowhere.yaml: there is no such file, and no such recipe; the recipes are "
    )


def test_a_config_flag_without_a_file_is_refused():
    assert problems("--config") == ["--config: give the YAML file"]


def test_flags_may_be_written_with_dashes():
    assert flat("--max-length", "64")["max_length"] == 64


def test_several_files_follow_one_flag():
    assert flat("--train_file", "a.csv", "b.csv")["train_file"] == ("a.csv", "b.csv")


def test_queries_are_positional_and_may_be_several():
    settings = parse("red shoes", "tv", "--index_dir", "i", "--top_k", "3", settings_type=QuerySettings)

    assert (settings.text, settings.top_k) == (("red shoes", "tv"), 3)


def test_a_saved_config_passes_back_through_config(tmp_path):
    settings = parse(
        "--output_dir", "runs/x", "--label_map", "E=1,S=0.1234567890123,C=0.01,I=0", "--use_peft",
        "--train_file", "a.csv", "b.csv", "--checkpointing_steps", "epoch", "--mixed_precision", "no",
        "--query_prompt", "query: ", "--product_prompt", "", "--learning_rate", "1e-5", "--max_grad_norm",
        "None", "--hub_model_id", "me/café",
    )  # fmt: skip
    path = tmp_path / "config.yaml"

    write_yaml(settings, path)

    again = parse("--config", str(path))
    assert dataclasses.replace(again, config=None) == settings
    assert saved_form(parse_settings(TrainSettings, ["--config", str(path)], prog="aisle")) == saved_form(
        settings
    )


@pytest.mark.parametrize("settings_type", SETTINGS)
def test_defaults_of_every_command_pass_back_through_config(settings_type, tmp_path):
    required = {field.name: "x" for field in dataclasses.fields(settings_type) if needs_value(field)}
    settings = settings_type(**required)
    path = tmp_path / "config.yaml"

    write_yaml(settings, path)

    assert saved_form(parse_settings(settings_type, ["--config", str(path)], prog="aisle")) == saved_form(
        settings
    )


def needs_value(field):
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def test_the_token_is_read_but_never_saved_nor_shown(tmp_path):
    settings = parse("--hub_token", "hf_secret", "--output_dir", "x")
    path = tmp_path / "config.yaml"

    write_yaml(settings, path)

    assert settings.run.hub_token == "hf_secret"
    assert "hub_token" not in yaml.safe_load(path.read_text())
    assert "hf_secret" not in path.read_text() + repr(settings) + str(saved_form(settings))


def test_a_token_of_yaml_reaches_the_settings_and_a_flag_wins_over_it(yaml_file):
    path = yaml_file("hub_token: hf_secret\n")

    assert flat("--config", path)["hub_token"] == "hf_secret"
    assert flat("--config", path, "--hub_token", "hf_other")["hub_token"] == "hf_other"


def test_the_help_does_not_show_the_token_of_yaml_as_a_default(yaml_file, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        parse("--config", yaml_file("hub_token: hf_secret\nmax_length: 77\n"), "--help")

    shown = capsys.readouterr().out
    assert "(default: 77)" in shown
    assert "hf_secret" not in shown


def test_a_broken_line_with_a_token_is_not_quoted(yaml_file):
    found = problems("--config", yaml_file('hub_token: "hf_secret\nseed: 1\n'))

    assert "hf_secret" not in "\n".join(found)


def test_a_token_of_the_wrong_type_is_not_quoted(yaml_file):
    (line,) = problems("--config", yaml_file("hub_token: [hf_secret]\n"))

    assert "hub_token" in line
    assert "hf_secret" not in line


def test_a_token_for_a_command_without_that_flag_is_an_unknown_key(yaml_file):
    (line,) = problems(
        "--config", yaml_file("hub_token: hf_secret\n"), "--output_dir", "x", settings_type=SampleSettings
    )

    assert "unknown key 'hub_token'" in line
    assert "hf_secret" not in line
