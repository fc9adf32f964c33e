"""Training from base models of unusual form: the run opens again, here and in sentence-transformers."""

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from aisle.cli import train_main
from aisle.models.loading import load_encoder
from tests.models.test_backbone import TEXTS, model_folder, old_layout

__all__ = ["model_folder"]


@pytest.fixture
def train(judged_csv, tmp_path):
    """Run train_peft.py for two steps and return its exit code and the run's folder."""

    def run(model, *flags):
        run_dir = tmp_path / "run"
        given = ["--model_name_or_path", str(model), "--output_dir", str(run_dir), "--max_length", "16"]
        given += ["--train_file", str(judged_csv), "--max_train_steps", "2", "--learning_rate", "0.01"]
        return train_main([*given, *flags]), run_dir

    return run


@pytest.mark.parametrize("flags", [("--use_peft",), ()], ids=["lora", "all weights"])
@pytest.mark.parametrize("form", ["t5", "gpt2", "old folders"])
def test_a_run_from_an_unusual_model_opens_again_with_the_same_embeddings(
    form, flags, train, model_folder, tiny_bert, tmp_path
):
    base = old_layout(tiny_bert, tmp_path / "old") if form == "old folders" else model_folder(form)

    code, run_dir = train(base, *flags)

    assert code == 0
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["attention"] == ("padded" if form == "t5" else "packed")
    assert (metrics["attention_reason"] or "").startswith("t5 " if form == "t5" else "")
    found = load_encoder(run_dir, device="cpu").encode_products(TEXTS)
    assert np.abs(found - load_encoder(base, device="cpu").encode_products(TEXTS)).max() > 1e-3
    expected = SentenceTransformer(str(run_dir), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_architecture_without_gradient_checkpointing_is_refused_with_advice(train, tiny_model, capsys):
    code, _ = train(tiny_model("mpnet"), "--gradient_checkpointing", "--use_peft")
    assert code == 2
    assert "--gradient_checkpointing: MPNetModel does not support it" in capsys.readouterr().err
