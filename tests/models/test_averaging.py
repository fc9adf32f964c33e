from types import SimpleNamespace

import pytest
from torch import nn

from aisle.errors import ModelError
from aisle.models import averaging


def test_runs_with_different_names_of_weights_are_refused(monkeypatch):
    """The average of a weight that one run lacks would be a fraction of the other run's weight."""
    towers = {
        "one": nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}),
        "two": nn.ModuleDict({"a": nn.Linear(1, 1)}),
    }
    monkeypatch.setattr(averaging, "_described", lambda run, token: {"base_model": "base"})
    monkeypatch.setattr(
        averaging,
        "load_encoder",
        lambda run, **options: SimpleNamespace(model=SimpleNamespace(product_tower=towers[run])),
    )

    with pytest.raises(ModelError, match=r"two: cannot be averaged with one: .* 2 missing \(b\.bias for ex"):
        averaging.average_runs(["one", "two"], [1.0, 1.0])
