"""Recipes by name: they come with the package, and a file of the user's comes first."""

import pytest

from aisle.commands.train.settings import TrainSettings
from aisle.config.load import parse_settings
from aisle.config.recipes import RECIPES, find_config, recipe_names
from aisle.errors import ConfigError


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_read_by_its_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    by_name = parse_settings(TrainSettings, ["--config", name], prog="train")
    by_path = parse_settings(TrainSettings, [f"--config={RECIPES / name}.yaml"], prog="train")
    by_old_path = parse_settings(TrainSettings, ["--config", f"configs/{name}.yaml"], prog="train")

    assert by_name.optim == by_path.optim == by_old_path.optim != TrainSettings().optim


def test_the_user_s_file_comes_before_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for place in ("faq", "configs/faq.yaml"):
        (tmp_path / place).write_text("seed: 7\n")

        assert parse_settings(TrainSettings, ["--config", place], prog="train").optim.seed == 7


@pytest.mark.parametrize("given", ["fqa", "recipes/faq.yaml", "faq.yaml", "../configs/faq.yaml"])
def test_neither_a_file_nor_a_recipe_is_refused_with_the_names(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError) as caught:
        find_config(given)

    assert str(caught.value) == (
        f"--config {given}: there is no such file, and no such recipe; did you mean 'faq'? the recipes are "
        "distil, esci_e5_large, esci_minilm, esci_original, faq, faq_head, groups, nli, quickstart, "
        "two_towers, walmart_amazon, wdc"
    )
