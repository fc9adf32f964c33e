"""Towers of tiny models."""

import pytest

from tests.packed_towers import tower_without_dropout


@pytest.fixture
def tower_of(tiny_model, shift_weights):
    """Return a function that builds the tower of an architecture for training, without dropout."""

    def load(architecture, *, pooling="mean", adapter=False):
        tower = tower_without_dropout(tiny_model(architecture), pooling=pooling, adapter=adapter)
        if adapter:
            shift_weights(tower, seed=1)
        return tower

    return load
