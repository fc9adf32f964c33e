"""Runs of tiny models as training leaves them, with an adapter or with all weights trained."""

import pytest
import torch

from aisle.models.adapters import attach_lora
from aisle.models.loading import Overrides, load_base
from aisle.models.model_source import find_model
from aisle.models.persistence import save_encoder
from aisle.models.tower import Tower


def shift_weights(module, *, seed):
    """Move the weights as training would: a fresh adapter changes nothing until its B is not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(name="shift_weights")
def shift_weights_fixture():
    return shift_weights


@pytest.fixture
def save_run(tiny_bert, tmp_path):
    """Return a function that trains nothing and saves a run, and gives its folder."""

    def save(name="run", *, base=tiny_bert, adapter=True, seed=1, normalize=True, lora=None, **overrides):
        source = find_model(str(base))
        loaded = load_base(source, overrides=Overrides(**overrides))
        backbone = loaded.backbone
        if adapter:
            options = {
                "rank": 4,
                "alpha": 8,
                "dropout": 0.0,
                "target_modules": None,
                "use_dora": False,
                "use_rslora": False,
                "base_reference": source.reference,
                "base_revision": source.revision,
            }
            backbone = attach_lora(backbone, **(options | (lora or {})))
        shift_weights(backbone, seed=seed)
        settings = type(loaded.settings)(**{**vars(loaded.settings), "normalize": normalize})
        run_dir = tmp_path / name
        save_encoder(
            run_dir,
            embedder=Tower(backbone, pooling=settings.pooling, normalize=normalize),
            weights=None,
            tokenizer=loaded.tokenizer,
            settings=settings,
            source=source,
            adapter=adapter,
        )
        return run_dir

    return save
