"""Separate towers of queries and products, trained by two ranks, compared with one rank."""

import pytest
import torch
from safetensors.torch import load_file

from aisle.models.loading import load_base
from aisle.models.model_source import find_model
from aisle.types.encoder_settings import Overrides
from tests.commands.launch import start_ranks
from tests.training.conftest import tower_of
from tests.training.tower_ranks import CASES


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory):
    """The folders of the weights that one rank and two ranks trained."""
    folders = [tmp_path_factory.mktemp("towers") for _ in range(2)]
    models = tiny_model("bert"), tiny_model("distilbert")
    for processes, folder in enumerate(folders, start=1):
        start_ranks(processes, "tests/training/tower_ranks.py", *models, folder, timeout=150)
    return folders


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_separate_towers_as_one_does(runs, case, tiny_model):
    expected, found = (load_file(folder / f"{case}.safetensors") for folder in runs)

    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)
    for side, model in (("query", "bert"), ("product", "distilbert")):
        base = load_base(find_model(str(tiny_model(model))), overrides=Overrides(max_length=16))
        before = {f"{side}_tower.{name}": value for name, value in tower_of(base).state_dict().items()}
        assert max(float((expected[name] - value).abs().max()) for name, value in before.items()) > 1e-3
