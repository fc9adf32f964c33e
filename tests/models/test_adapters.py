import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModel

from aisle.errors import ModelError
from aisle.models.adapters import attach_lora, default_target_modules, linear_layer_names, trainable_share
from aisle.models.loading import load_encoder
from tests.tiny_models import ARCHITECTURES

PROJECTIONS = {
    "bert": {"query", "key", "value"},
    "roberta": {"query", "key", "value"},
    "xlm-roberta": {"query", "key", "value"},
    "mpnet": {"q", "k", "v"},
    "distilbert": {"q_lin", "k_lin", "v_lin"},
    "modernbert": {"Wqkv"},
    "qwen2": {"q_proj", "k_proj", "v_proj"},
    "qwen3": {"q_proj", "k_proj", "v_proj"},
    "mistral": {"q_proj", "k_proj", "v_proj"},
}
TEXTS = ["red running shoes", "a book", "deep learning for search, third edition"]


def backbone_of(folder):
    return AutoModel.from_pretrained(folder, dtype=torch.float32)


def lora(backbone, **changes):
    options = {
        "rank": 4,
        "alpha": 8,
        "dropout": 0.0,
        "target_modules": None,
        "use_dora": False,
        "use_rslora": False,
        "base_reference": "base",
        "base_revision": None,
    }
    return attach_lora(backbone, **(options | changes))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_attention_projections_of_every_block_are_adapted_and_nothing_else(architecture, tiny_model):
    adapted = lora(backbone_of(tiny_model(architecture)))

    names = [name for name, module in adapted.named_modules() if hasattr(module, "lora_A")]
    assert {name.rpartition(".")[2] for name in names} == PROJECTIONS[architecture]
    assert len(names) == 2 * len(PROJECTIONS[architecture])  # two blocks
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in adapted.named_parameters() if "lora_" in name}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fresh_adapter_changes_nothing(architecture, tiny_model):
    backbone = backbone_of(tiny_model(architecture)).eval()
    ids = torch.tensor([[101, 2417, 6007, 102]])
    with torch.no_grad():
        before = backbone(input_ids=ids).last_hidden_state
        after = lora(backbone).eval()(input_ids=ids).last_hidden_state

    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_an_unknown_architecture_lists_its_linear_layers():
    backbone = nn.Sequential()
    backbone.add_module("mixer", nn.Linear(2, 2))
    backbone.add_module("gate", nn.Linear(2, 2))

    with pytest.raises(ModelError, match=r"--lora_target_modules: .* Sequential; .* gate, mixer$"):
        default_target_modules(backbone)


def test_a_wrong_target_lists_the_linear_layers(tiny_bert):
    with pytest.raises(ModelError) as caught:
        lora(backbone_of(tiny_bert), target_modules=["query", "q_proj"])

    message = str(caught.value)
    assert message.startswith("--lora_target_modules: BertModel has no linear layer named q_proj; it has ")
    assert message.endswith("dense, key, query, value")


def test_the_pooler_is_refused_as_a_target(tiny_bert):
    """Embeddings do not depend on the pooler, so nothing would be trained."""
    with pytest.raises(ModelError, match=r"no linear layer named pooler\.dense"):
        lora(backbone_of(tiny_bert), target_modules=["pooler.dense"])


def test_part_of_a_layer_name_is_refused_as_a_target(tiny_bert):
    with pytest.raises(ModelError, match="no linear layer named uery"):
        lora(backbone_of(tiny_bert), target_modules=["uery"])


def test_a_target_may_be_a_longer_path(tiny_bert):
    adapted = lora(backbone_of(tiny_bert), target_modules=["attention.self.query"])

    assert {
        name.rpartition(".")[2] for name, module in adapted.named_modules() if hasattr(module, "lora_A")
    } == {"query"}


def test_linear_layers_are_named_by_their_last_part(tiny_bert):
    assert linear_layer_names(backbone_of(tiny_bert)) == {"query", "key", "value", "dense"}


def test_the_trained_share_equals_a_count_by_hand(tiny_bert):
    """Two blocks, three projections of 32 x 32 each, A and B of rank 4."""
    adapted = lora(backbone_of(tiny_bert))

    share = trainable_share(adapted)

    assert share.trainable == 2 * 3 * 2 * 32 * 4
    assert share.total == sum(parameter.numel() for parameter in adapted.parameters())
    assert str(share) == f"1,536 of {share.total:,} parameters are trained (0.15%)"


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}])
def test_variants_of_lora_survive_saving(options, save_run):
    run = save_run(lora=options)
    plain = save_run("plain")

    embeddings = load_encoder(run, device="cpu").encode_queries(TEXTS)

    assert json.loads((run / "adapter_config.json").read_text())[next(iter(options))] is True
    assert np.abs(embeddings - load_encoder(plain, device="cpu").encode_queries(TEXTS)).max() > 1e-3


class AutoModelForSentenceEmbedding(nn.Module):
    """The wrapper that PEFT's example trains; the backbone is its attribute `model`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, **inputs):
        return self.model(**inputs).last_hidden_state


@pytest.fixture
def example_adapter(tiny_bert, tmp_path, shift_weights):
    """An adapter as the example saves it: it names no base model, and its keys have an extra `model.`."""
    wrapped = AutoModelForSentenceEmbedding(backbone_of(tiny_bert))
    config = LoraConfig(
        r=8,
        lora_alpha=16,
        bias="none",
        task_type="FEATURE_EXTRACTION",
        target_modules=["key", "query", "value"],
    )
    adapted = get_peft_model(wrapped, config)
    shift_weights(adapted, seed=5)
    adapted.save_pretrained(tmp_path / "example")
    return tmp_path / "example", adapted.eval()


def test_an_adapter_of_pefts_example_needs_base_model(example_adapter):
    folder, _ = example_adapter

    with pytest.raises(ModelError, match="names no base model; give it with --base_model"):
        load_encoder(folder, device="cpu")


def test_an_adapter_of_pefts_example_gives_the_examples_embeddings(example_adapter, tiny_bert):
    folder, adapted = example_adapter

    encoder = load_encoder(folder, base_model=str(tiny_bert), device="cpu")

    inputs = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = adapted(**inputs)
    mask = inputs["attention_mask"].unsqueeze(-1)
    expected = nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=1)
    np.testing.assert_allclose(encoder.encode_products(TEXTS), expected, atol=1e-5)
    base = load_encoder(tiny_bert, device="cpu").encode_products(TEXTS)
    assert np.abs(base - expected.numpy()).max() > 1e-2


def test_an_adapter_over_another_architecture_is_refused(save_run, tiny_model):
    run = save_run()

    with pytest.raises(ModelError, match="does not fit DistilBertModel"):
        load_encoder(run, base_model=str(tiny_model("distilbert")), device="cpu")


def test_an_adapter_that_lacks_weights_is_refused(save_run):
    from safetensors.torch import load_file, save_file

    run = save_run()
    path = run / "adapter_model.safetensors"
    weights = load_file(path)
    gone = sorted(weights)[0]
    save_file({name: value for name, value in weights.items() if name != gone}, path)

    with pytest.raises(ModelError, match="1 of its weights are missing"):
        load_encoder(run, device="cpu")


@pytest.mark.parametrize(
    ("options", "part", "message"),
    [
        ({"modules_to_save": ["key"]}, "key.weight", "does not fit BertModel: .*key.weight"),
        ({"bias": "lora_only"}, "query.base_layer.bias", "2 of its weights are missing"),
        ({"use_dora": True}, "lora_magnitude_vector", "2 of its weights are missing"),
    ],
    ids=["modules_to_save", "bias", "magnitude"],
)
def test_an_adapter_that_lacks_saved_layers_biases_or_magnitudes_is_refused(
    options, part, message, tiny_bert, tmp_path
):
    from safetensors.torch import load_file, save_file

    config = LoraConfig(r=4, task_type="FEATURE_EXTRACTION", target_modules=["query"], **options)
    get_peft_model(backbone_of(tiny_bert), config).save_pretrained(tmp_path)
    base = str(tiny_bert)
    load_encoder(tmp_path, base_model=base, device="cpu")
    path = tmp_path / "adapter_model.safetensors"
    weights = load_file(path)
    gone = [name for name in weights if part in name]
    assert gone
    save_file({name: value for name, value in weights.items() if name not in gone}, path)

    with pytest.raises(ModelError, match=message):
        load_encoder(tmp_path, base_model=base, device="cpu")


def test_pickled_adapters_are_refused(save_run):
    run = save_run()
    (run / "adapter_model.safetensors").rename(run / "adapter_model.bin")

    with pytest.raises(ModelError, match=r"adapter_model\.safetensors: is missing; .* safetensors only"):
        load_encoder(run, device="cpu")


@pytest.mark.parametrize(
    ("name", "message"), [("adapter_model.safetensors", "damaged"), ("adapter_config.json", "")]
)
def test_a_truncated_adapter_is_refused_with_its_folder_named(name, message, save_run):
    run = save_run()
    (run / name).write_bytes((run / name).read_bytes()[:50])

    with pytest.raises(ModelError) as caught:
        load_encoder(run, device="cpu")

    assert str(run) in str(caught.value)
    assert message in str(caught.value)


def test_an_adapter_with_a_moved_base_model_names_the_flag_to_give(save_run, tiny_bert, tmp_path):
    moved = tmp_path / "base"
    shutil.copytree(tiny_bert, moved)
    run = save_run(base=moved)
    before = load_encoder(run, device="cpu")
    moved.rename(tmp_path / "elsewhere")

    with pytest.raises(ModelError, match="base model cannot be found; give it with --base_model"):
        load_encoder(run, device="cpu")
    found = load_encoder(run, base_model=str(tmp_path / "elsewhere"), device="cpu")
    assert found.fingerprint == before.fingerprint
