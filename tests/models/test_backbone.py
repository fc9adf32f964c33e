"""Models that cannot embed texts are refused with one message; models of unusual form are read correctly."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, T5EncoderModel

from aisle.errors import ModelError
from aisle.models.adapters import attach_lora, load_adapter
from aisle.models.loading import load_encoder
from tests.edit_json import edit_json
from tests.tiny_models import TOKENIZER_FILES

TEXTS = ["a red sofa", "blue"]
SIZES = {
    "t5": {"vocab_size": 30_522, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2},
    "gpt2": {"vocab_size": 30_522, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "bart": {
        **{"vocab_size": 30_522, "d_model": 32, "max_position_embeddings": 64},
        **{f"{side}_{size}": 2 for side in ("encoder", "decoder") for size in ("layers", "attention_heads")},
        **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
    },
}


@pytest.fixture
def model_folder(minilm_dir, tmp_path):
    """Return a function from an architecture to the folder of a tiny model with MiniLM's tokenizer."""

    def folder_of(architecture):
        folder = tmp_path / architecture
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            special = {"pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102}
            config = AutoConfig.for_model(architecture, **special, **SIZES[architecture])
            AutoModel.from_config(config, dtype=torch.float32).save_pretrained(folder)
        for name in TOKENIZER_FILES:
            shutil.copy(minilm_dir / name, folder / name)
        # GPT-2 would read BERT's token types as words; its own tokenizer has no token types.
        edit_json(folder / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
        return folder

    return folder_of


@pytest.fixture
def bert_copy(tiny_bert, tmp_path):
    return shutil.copytree(tiny_bert, tmp_path / "bert")


def mean_vectors(model, folder, texts):
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        vectors = model.eval()(tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    mask = tokens["attention_mask"][:, :, None]
    return torch.nn.functional.normalize((vectors * mask).sum(1) / mask.sum(1)).numpy()


def test_only_the_encoder_of_a_t5_is_loaded(model_folder):
    folder = model_folder("t5")

    found = load_encoder(folder, device="cpu").encode_products(TEXTS)

    expected = mean_vectors(T5EncoderModel.from_pretrained(folder), folder, TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_other_encoder_decoders_are_refused(model_folder):
    with pytest.raises(ModelError, match="bart is an encoder with a decoder"):
        load_encoder(model_folder("bart"), device="cpu")


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(bert_copy):
    tokenizer = AutoTokenizer.from_pretrained(bert_copy)
    tokenizer.add_tokens(["madeupword"])
    tokenizer.save_pretrained(bert_copy)

    with pytest.raises(ModelError, match=r"its tokenizer has 30,523 tokens, but .* embeddings for 30,522"):
        load_encoder(bert_copy, device="cpu")


def test_quantised_weights_name_the_package_that_they_need(bert_copy):
    edit_json(
        bert_copy / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
    )

    with pytest.raises(ModelError, match=r"needs a package that is not installed.*bitsandbytes"):
        load_encoder(bert_copy, device="cpu")


@pytest.mark.parametrize("model_type", ["bert", "madeup"])
def test_a_model_with_python_code_is_refused_with_the_flag_named(bert_copy, model_type):
    (bert_copy / "modeling_odd.py").write_text("raise SystemExit('this code must not run')\n")
    code = {"AutoConfig": "modeling_odd.OddConfig", "AutoModel": "modeling_odd.OddModel"}
    edit_json(bert_copy / "config.json", auto_map=code, model_type=model_type, num_hidden_layers=3)

    with pytest.raises(ModelError, match="give --trust_remote_code to run it"):
        load_encoder(bert_copy, device="cpu")


def test_a_model_that_does_not_read_text_is_refused(minilm_dir, tmp_path):
    config = AutoConfig.for_model(
        "vit", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32
    )
    AutoModel.from_config(config).save_pretrained(tmp_path)
    for name in TOKENIZER_FILES:
        shutil.copy(minilm_dir / name, tmp_path / name)

    with pytest.raises(ModelError, match="ViTModel does not read a text"):
        load_encoder(tmp_path, device="cpu")


def old_layout(folder, root, *, name="0_Transformer"):
    """Write a model as sentence-transformers 1 did: the transformer's files are in a subfolder."""
    root.mkdir()
    shutil.copytree(folder, root / name)
    (root / name / "sentence_bert_config.json").write_text('{"max_seq_length": 21, "do_lower_case": false}')
    (root / "1_Pooling").mkdir()
    (root / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls", "embedding_dimension": 32}')
    modules = [("Transformer", name), ("Pooling", "1_Pooling")]
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(modules)
    ]
    (root / "modules.json").write_text(json.dumps(listed))
    return root


def test_models_with_the_folders_of_sentence_transformers_1_are_loaded(tiny_bert, tmp_path):
    from sentence_transformers import SentenceTransformer

    root = old_layout(tiny_bert, tmp_path / "old")

    encoder = load_encoder(root, device="cpu")

    assert (encoder.settings.pooling, encoder.settings.max_length) == ("cls", 21)
    expected = SentenceTransformer(str(root), device="cpu").encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode_products(TEXTS), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["0_Transformer", "../elsewhere"])
def test_a_missing_folder_in_modules_json_is_refused(tiny_bert, tmp_path, name):
    root = old_layout(tiny_bert, tmp_path / "old", name=name)
    shutil.rmtree(root / name)

    with pytest.raises(ModelError, match=r"modules\.json: names the folder"):
        load_encoder(root, device="cpu")


def test_gpt2_is_adapted_at_its_transposed_layers_and_loaded_again(model_folder, tmp_path):
    folder = model_folder("gpt2")
    adapted = attach_lora(
        AutoModel.from_pretrained(folder),
        **{
            "rank": 2,
            "alpha": 4,
            "dropout": 0.0,
            "target_modules": None,
            "use_dora": False,
            "use_rslora": False,
        },
        base_reference=str(folder),
        base_revision=None,
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.full_like(parameter, 0.05))
    adapted.save_pretrained(tmp_path / "adapter")
    tokens = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        expected = adapted.eval()(tokens).last_hidden_state
        read = load_adapter(AutoModel.from_pretrained(folder), tmp_path / "adapter").merge_and_unload()
        plain = AutoModel.from_pretrained(folder).eval()(tokens).last_hidden_state
        torch.testing.assert_close(read.eval()(tokens).last_hidden_state, expected, atol=1e-5, rtol=1e-4)
    assert (plain - expected).abs().max() > 0.01
    assert sum("lora_A" in name for name, _ in adapted.named_parameters()) == 2
