"""Runs of tiny models, with an adapter or with all weights trained."""

import pytest

from aisle.models.adapters import attach_lora
from aisle.models.heads import Normalize
from aisle.models.loading import load_base
from aisle.models.model_source import find_model
from aisle.models.persistence import save_encoder
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower
from aisle.types.encoder_settings import Overrides


@pytest.fixture
def save_run(tiny_bert, tmp_path, shift_weights):
    """Return a function that saves a run without training, and returns its folder."""

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
            tower=Tower(backbone, Pooling(settings.pooling), [Normalize()] if normalize else []),
            weights=None,
            tokenizer=loaded.tokenizer,
            settings=settings,
            source=source,
            adapter=adapter,
        )
        return run_dir

    return save


def save_tower(run_dir, tower, loaded, *, adapter, weights=None):
    """Save a tower that was made from a loaded model as a run, and return its fingerprint."""
    return save_encoder(
        run_dir,
        tower=tower,
        weights=weights,
        tokenizer=loaded.tokenizer,
        settings=loaded.settings,
        source=loaded.source,
        adapter=adapter,
    )
