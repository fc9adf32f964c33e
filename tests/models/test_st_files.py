import json

import pytest

from aisle.errors import ModelError
from aisle.models.st_files import read_st_files


@pytest.fixture
def folder(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return tmp_path

    return write


def test_a_folder_without_these_files_gives_no_settings(tmp_path):
    said = read_st_files(tmp_path, pooling=None)

    assert (said.pooling, said.query_prompt, said.product_prompt, said.max_length) == (None,) * 4


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False, "include_prompt": True}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean", "embedding_dimension": 8}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_pooling_is_read_in_the_older_and_the_newer_form(folder, config, pooling):
    assert read_st_files(folder("1_Pooling/config.json", config), pooling=None).pooling == pooling


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode": "weightedmean"},
    ],
)
def test_an_unsupported_pooling_is_refused_unless_another_is_given(folder, config):
    path = folder("1_Pooling/config.json", config)

    with pytest.raises(ModelError, match="--pooling"):
        read_st_files(path, pooling=None)
    assert read_st_files(path, pooling="mean").pooling == "mean"


def test_supported_layers_are_accepted(minilm_dir):
    said = read_st_files(minilm_dir, pooling=None)

    assert (said.pooling, said.max_length) == ("mean", 256)


@pytest.mark.parametrize("name", ["document", "passage"])
def test_prompts_are_read_under_both_names_for_products(folder, name):
    path = folder("config_sentence_transformers.json", {"prompts": {"query": "q: ", name: "p: "}})

    said = read_st_files(path, pooling=None)

    assert (said.query_prompt, said.product_prompt) == ("q: ", "p: ")


def test_a_damaged_file_is_named(folder):
    path = folder("1_Pooling/config.json", '{"pooling_mode_mean_tokens": tr')

    with pytest.raises(ModelError, match=r"1_Pooling/config\.json: is not valid JSON"):
        read_st_files(path, pooling=None)
