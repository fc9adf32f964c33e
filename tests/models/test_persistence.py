import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.adapters import load_adapter
from aisle.models.bi_encoder import BiEncoder
from aisle.models.heads import Normalize
from aisle.models.loading import load_base, load_encoder
from aisle.models.model_source import find_model
from aisle.models.persistence import save_encoder
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower
from aisle.text.token_batches import pad
from aisle.text.tokens import TokenizedTexts
from aisle.types.encoder_settings import Overrides

TEXTS = [
    "shoes",
    "red running shoes for women, size 38, breathable and light as a feather",
    "حذاء 👟 红色运动鞋",
    "deep learning " * 60,
    "usb",
]
PROMPTS = {"query_prompt": "query: ", "product_prompt": "passage: "}


def both_sides(encoder):
    return encoder.encode_queries(TEXTS), encoder.encode_products(TEXTS)


def pooled(backbone, encoder, texts, prompt):
    """Embed with another library's backbone, padded by its tokenizer."""
    tokenizer, settings = encoder.tokenizer, encoder.settings
    inputs = tokenizer(
        [prompt + text for text in texts],
        padding=True,
        truncation=True,
        max_length=settings.max_length,
        return_tensors="pt",
    )
    with torch.no_grad():
        tokens = backbone(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).last_hidden_state
    take = {"mean": lambda real: real.mean(dim=0), "cls": lambda real: real[0], "last": lambda real: real[-1]}
    masks = inputs["attention_mask"].bool()
    rows = [take[settings.pooling](vectors[mask]) for vectors, mask in zip(tokens, masks, strict=True)]
    return nn.functional.normalize(torch.stack(rows), dim=1).numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_sentence_transformers_gives_the_same_embeddings(adapter, pooling, save_run):
    from sentence_transformers import SentenceTransformer

    run = save_run(adapter=adapter, pooling=pooling, max_length=40, **PROMPTS)
    queries, products = both_sides(load_encoder(run, device="cpu"))

    other = SentenceTransformer(str(run), device="cpu")

    np.testing.assert_allclose(other.encode_query(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(other.encode_document(TEXTS), products, atol=1e-5)
    np.testing.assert_allclose(other.encode(TEXTS, prompt_name="query"), queries, atol=1e-5)
    assert np.abs(queries - products).max() > 1e-3


@pytest.mark.parametrize("architecture", ["roberta", "mpnet", "distilbert", "modernbert", "qwen3"])
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_sentence_transformers_gives_the_same_embeddings_for_every_architecture(
    adapter, architecture, save_run, tiny_model
):
    from sentence_transformers import SentenceTransformer

    run = save_run(base=tiny_model(architecture), adapter=adapter, max_length=40, **PROMPTS)
    queries, products = both_sides(load_encoder(run, device="cpu"))

    other = SentenceTransformer(str(run), device="cpu")

    np.testing.assert_allclose(other.encode_query(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(other.encode_document(TEXTS), products, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_peft_gives_the_same_embeddings(pooling, save_run, tiny_bert):
    from peft import PeftModel
    from transformers import AutoModel

    run = save_run(pooling=pooling, max_length=40, **PROMPTS)
    encoder = load_encoder(run, device="cpu")
    queries, products = both_sides(encoder)

    backbone = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_bert), run).eval()

    np.testing.assert_allclose(pooled(backbone, encoder, TEXTS, "query: "), queries, atol=1e-5)
    np.testing.assert_allclose(pooled(backbone, encoder, TEXTS, "passage: "), products, atol=1e-5)


def test_transformers_gives_the_same_embeddings_for_a_full_run(save_run):
    from transformers import AutoModel

    run = save_run(adapter=False, max_length=40, **PROMPTS)
    encoder = load_encoder(run, device="cpu")

    backbone = AutoModel.from_pretrained(run).eval()

    np.testing.assert_allclose(
        pooled(backbone, encoder, TEXTS, "query: "), encoder.encode_queries(TEXTS), atol=1e-5
    )


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_a_loaded_run_has_its_settings_and_its_trained_weights(adapter, save_run, tiny_bert):
    run = save_run(adapter=adapter, pooling="cls", max_length=40, **PROMPTS)

    encoder = load_encoder(run, device="cpu")

    assert vars(encoder.settings) == {"pooling": "cls", "max_length": 40, "normalize": True, **PROMPTS}
    base = load_encoder(tiny_bert, overrides=Overrides(pooling="cls", max_length=40, **PROMPTS), device="cpu")
    assert np.abs(encoder.encode_queries(TEXTS) - base.encode_queries(TEXTS)).max() > 1e-2


def test_embeddings_without_normalisation_keep_their_length(save_run):
    from sentence_transformers import SentenceTransformer

    run = save_run(normalize=False)
    embeddings = load_encoder(run, device="cpu").encode_queries(TEXTS)

    assert np.abs(np.linalg.norm(embeddings, axis=1) - 1).min() > 0.1
    np.testing.assert_allclose(
        SentenceTransformer(str(run), device="cpu").encode(TEXTS), embeddings, atol=1e-5
    )


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_given_weights_are_saved_instead_of_the_models_present_weights(
    adapter, tiny_bert, tmp_path, save_run, shift_weights
):
    """Training keeps a copy of the best weights and goes on."""
    best = save_run("best", adapter=adapter, seed=1)
    encoder = load_encoder(best, device="cpu")
    expected = encoder.encode_queries(TEXTS)
    if adapter:  # as in training: beside the base's weights, not merged into them
        base = load_base(find_model(str(tiny_bert)), overrides=Overrides())
        unmerged = Tower(load_adapter(base.backbone, best), Pooling("mean"), [Normalize()]).eval()
        encoder = replace(encoder, model=BiEncoder(unmerged).eval())
    trained = {
        name: value.clone()
        for name, value in encoder.model.product_tower.state_dict().items()
        if not adapter or "lora_" in name
    }
    for name, parameter in encoder.model.product_tower.named_parameters():
        parameter.requires_grad_(name in trained)
    shift_weights(encoder.model.product_tower, seed=2)
    assert np.abs(encoder.encode_queries(TEXTS) - expected).max() > 1e-3

    save_encoder(
        tmp_path / "saved",
        tower=encoder.model.product_tower,
        weights=trained,
        tokenizer=encoder.tokenizer,
        settings=encoder.settings,
        source=find_model(str(tiny_bert)),
        adapter=adapter,
    )

    saved = load_encoder(tmp_path / "saved", base_model=str(tiny_bert) if adapter else None, device="cpu")
    np.testing.assert_allclose(saved.encode_queries(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_given_weights_with_unknown_names_are_refused(prefix, tiny_bert, tmp_path):
    """Otherwise they would be left out, and the last weights saved as the best."""
    source = find_model(str(tiny_bert))
    base = load_base(source, overrides=Overrides())
    tower = Tower(base.backbone, Pooling("mean"), [Normalize()])
    weights = {prefix + name: value for name, value in tower.state_dict().items()}

    with pytest.raises(ModelError, match=r"names of its weights do not match .* unknown") as caught:
        save_encoder(
            tmp_path / "saved",
            tower=tower,
            weights=weights,
            tokenizer=base.tokenizer,
            settings=base.settings,
            source=source,
            adapter=False,
        )

    assert f"({prefix}backbone." in str(caught.value)
    assert not (tmp_path / "saved" / "aisle.json").exists()


def test_saving_keeps_other_files_of_a_run_and_leaves_no_temporary_file(save_run, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "run" / "README.md").write_text("the card\n")

    run = save_run()

    names = {path.name for path in run.iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "aisle.json",
        "modules.json",
        "tokenizer.json",
    } <= names
    assert (run / "config.yaml").read_text() == "seed: 1\n"
    assert (run / "README.md").read_text() == "the card\n"
    assert ".saving" not in names


def test_a_lora_run_contains_only_the_adapter(save_run):
    from safetensors.torch import load_file

    run = save_run()

    assert [path.name for path in run.rglob("*.safetensors")] == ["adapter_model.safetensors"]
    names = load_file(run / "adapter_model.safetensors")
    assert all("lora_A" in name or "lora_B" in name for name in names)


def test_the_settings_file_is_written_last(save_run, monkeypatch):
    """A run with an aisle.json is complete."""
    import os

    moved = []
    replace = os.replace
    monkeypatch.setattr("os.replace", lambda source, target: (moved.append(target), replace(source, target)))

    save_run()

    assert moved[-1].name == "aisle.json"
    assert [path.name for path in moved].count("aisle.json") == 1


def test_an_interrupted_first_save_is_not_a_run_and_the_next_save_is_complete(save_run, monkeypatch):
    import os

    replace = os.replace

    def stop(source, target):
        if target.name == "tokenizer.json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        save_run()
    monkeypatch.setattr("os.replace", replace)

    run = save_run()

    assert (
        load_encoder(run, device="cpu").fingerprint
        == json.loads((run / "aisle.json").read_text())["fingerprint"]
    )
    assert not (run / ".saving").exists()


def test_the_adapter_names_its_base_for_peft(save_run, tiny_bert):
    run = save_run()

    config = json.loads((run / "adapter_config.json").read_text())

    assert config["base_model_name_or_path"] == str(tiny_bert)
    assert config["task_type"] == "FEATURE_EXTRACTION"


def test_a_run_of_the_packaged_minilm_finds_its_base_by_name(save_run, minilm):
    run = save_run(base=minilm)

    description = json.loads((run / "aisle.json").read_text())

    assert description["base_model"] == minilm
    assert description["base_model_hub_id"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert load_encoder(run, device="cpu").fingerprint == description["fingerprint"]


def test_a_tower_embeds_several_batches_in_order(tiny_bert):
    base = load_base(find_model(str(tiny_bert)), overrides=Overrides())
    tower = Tower(base.backbone, Pooling("mean"), [Normalize()]).eval()
    ids = np.array([101, 2417, 102, 101, 102, 101, 6007, 6007, 102], np.int32)
    texts = TokenizedTexts(ids, np.array([0, 3, 5, 9]))
    first, second = pad(texts, np.array([0]), 0), pad(texts, np.array([1, 2]), 0)

    with torch.no_grad():
        together = tower([first, second])
        apart = torch.cat([tower([first]), tower([second])])

    torch.testing.assert_close(together, apart, rtol=0, atol=0)
    assert together.shape == (3, 32)
