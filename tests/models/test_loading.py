import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel

from aisle.errors import ModelError
from aisle.models.loaded_settings import E5_NAME, longest_input
from aisle.models.loading import load_encoder, load_tokenizer
from aisle.types.encoder_settings import Overrides
from tests.edit_json import edit_json
from tests.tiny_models import ARCHITECTURES


@pytest.fixture
def copy_of(tmp_path):
    def copy(folder, name="copy"):
        shutil.copytree(folder, tmp_path / name)
        return tmp_path / name

    return copy


@pytest.mark.parametrize(
    "name",
    [
        "intfloat/e5-large-v2",
        "intfloat/e5-small",
        "intfloat/e5-base-unsupervised",
        "intfloat/multilingual-e5-large",
        "somebody/my-e5-base-v2",
        "models/e5-large-v2/",
        "E5-Large-v2",
    ],
)
def test_names_of_e5_models_are_recognised(name):
    assert E5_NAME.search(name)


@pytest.mark.parametrize(
    "name",
    [
        "intfloat/e5-mistral-7b-instruct",
        "intfloat/multilingual-e5-large-instruct",
        "me/cafe5-large",
        "google/mt5-base",
        "sentence-transformers/all-MiniLM-L6-v2",
    ],
)
def test_names_that_only_look_like_e5_are_not_recognised(name):
    assert not E5_NAME.search(name)


def test_e5_gets_its_prompts_unless_others_are_given(tiny_bert, copy_of):
    folder = copy_of(tiny_bert, "e5-large-v2")

    plain = load_encoder(folder, device="cpu").settings
    given = load_encoder(
        folder, overrides=Overrides(query_prompt="", product_prompt="p: "), device="cpu"
    ).settings

    assert (plain.query_prompt, plain.product_prompt) == ("query: ", "passage: ")
    assert (given.query_prompt, given.product_prompt) == ("", "p: ")


def test_a_model_that_names_no_prompts_gets_none(tiny_bert):
    settings = load_encoder(tiny_bert, device="cpu").settings

    assert (settings.query_prompt, settings.product_prompt) == ("", "")


def test_settings_of_sentence_transformers_override_our_defaults(tiny_bert, copy_of):
    folder = copy_of(tiny_bert, "e5-large-v2")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "Q ", "document": ""}}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')

    settings = load_encoder(folder, device="cpu").settings

    assert vars(settings) == {
        "pooling": "cls",
        "query_prompt": "Q ",
        "product_prompt": "",
        "max_length": 20,
        "normalize": True,
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_maximum_length_beyond_the_backbones_positions_is_refused(architecture, tiny_model):
    folder = tiny_model(architecture)

    assert load_encoder(folder, overrides=Overrides(max_length=64), device="cpu").settings.max_length == 64
    with pytest.raises(ModelError, match=r"--max_length 65: .* reads at most 64 tokens"):
        load_encoder(folder, overrides=Overrides(max_length=65), device="cpu")


@pytest.mark.parametrize("side", ["query_prompt", "product_prompt"])
def test_a_prompt_that_leaves_no_room_for_a_text_is_refused(tiny_bert, save_run, side):
    prompt = "find the product for this query: "  # 7 tokens, and 2 special ones
    refused = rf"--{side} 'find .*': has 9 tokens, .* --max_length 9 leaves no room"
    for model in (tiny_bert, save_run(max_length=32)):
        overrides = Overrides(max_length=10, **{side: prompt})
        assert load_encoder(model, overrides=overrides, device="cpu").settings.max_length == 10
        with pytest.raises(ModelError, match=refused):
            load_encoder(model, overrides=Overrides(max_length=9, **{side: prompt}), device="cpu")


def test_a_maximum_length_beyond_the_positions_is_refused_for_a_run_too(save_run):
    run = save_run(max_length=32)

    assert load_encoder(run, device="cpu").settings.max_length == 32
    with pytest.raises(ModelError, match="--max_length 65"):
        load_encoder(run, overrides=Overrides(max_length=65), device="cpu")


@pytest.mark.parametrize("architecture", ["roberta", "xlm-roberta", "mpnet"])
def test_one_token_more_than_the_limit_would_be_out_of_range(architecture, tiny_model):
    """The limit is exact, also for models with positions that start after the padding index."""
    folder = tiny_model(architecture)
    backbone = AutoModel.from_pretrained(folder).eval()
    limit = longest_input(backbone, load_tokenizer(folder))

    backbone(input_ids=torch.full((1, limit), 2417))
    with pytest.raises((IndexError, RuntimeError)):
        backbone(input_ids=torch.full((1, limit + 1), 2417))


def test_the_tokenizers_own_limit_counts_too(tiny_bert, copy_of):
    folder = copy_of(tiny_bert)
    edit_json(folder / "tokenizer_config.json", model_max_length=24)

    assert load_encoder(folder, device="cpu").settings.max_length == 24


def test_pickled_weights_are_refused_and_never_opened(tiny_bert, copy_of):
    folder = copy_of(tiny_bert)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")

    with pytest.raises(ModelError, match="aisle loads weights from safetensors only"):
        load_encoder(folder, device="cpu")


def test_truncated_weights_are_refused(tiny_bert, copy_of):
    folder = copy_of(tiny_bert)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])

    with pytest.raises(ModelError, match="cannot be loaded as a model"):
        load_encoder(folder, device="cpu")


def test_missing_weights_are_refused_instead_of_initialised_at_random(tiny_bert, copy_of):
    from safetensors.torch import load_file, save_file

    folder = copy_of(tiny_bert)
    path = folder / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if "layer.1." not in name}
    save_file(weights, path, metadata={"format": "pt"})

    with pytest.raises(ModelError, match=r"lack 16 weights of BertModel, encoder\.layer\.1\."):
        load_encoder(folder, device="cpu")


def test_a_missing_pooler_is_accepted(tiny_bert, copy_of):
    from safetensors.torch import load_file, save_file

    folder = copy_of(tiny_bert)
    path = folder / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if "pooler" not in name}
    save_file(weights, path, metadata={"format": "pt"})

    embeddings = load_encoder(folder, device="cpu").encode_queries(["red shoes"])

    np.testing.assert_array_equal(
        embeddings, load_encoder(tiny_bert, device="cpu").encode_queries(["red shoes"])
    )


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_damaged_file_of_the_model_gives_a_message_and_no_traceback(name, tiny_bert, copy_of):
    folder = copy_of(tiny_bert)
    (folder / name).write_text('{"model_type": "be')

    with pytest.raises(ModelError, match=str(folder)):
        load_encoder(folder, device="cpu")


def test_a_folder_without_a_tokenizer_is_refused(tiny_bert, copy_of):
    folder = copy_of(tiny_bert)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        (folder / name).unlink()

    with pytest.raises(ModelError, match="has no tokenizer"):
        load_encoder(folder, device="cpu")


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(tiny_bert, copy_of):
    folder = copy_of(tiny_bert)
    edit_json(
        folder / "tokenizer_config.json",
        pad_token=None,
        eos_token="[SEP]",
        tokenizer_class="PreTrainedTokenizerFast",
    )
    edit_json(folder / "special_tokens_map.json", pad_token=None, eos_token="[SEP]")

    encoder = load_encoder(folder, device="cpu")

    assert encoder.tokenizer.pad_token == "[SEP]"
    texts = ["red shoes", "a much longer text about shoes", "x"]
    np.testing.assert_allclose(
        encoder.encode_queries(texts), load_encoder(tiny_bert, device="cpu").encode_queries(texts), atol=1e-5
    )


@pytest.mark.parametrize("content", ["{", '{"pooling": "mean"}', "[]", "null"])
def test_a_damaged_settings_file_of_a_run_is_named(content, save_run):
    run = save_run()
    (run / "aisle.json").write_text(content)

    with pytest.raises(ModelError, match=r"aisle\.json: is damaged"):
        load_encoder(run, device="cpu")


def test_code_of_a_repository_runs_only_on_request(tiny_bert, copy_of, tmp_path):
    folder = copy_of(tiny_bert)
    ran = tmp_path / "ran"
    edit_json(
        folder / "config.json",
        model_type="custom",
        auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"},
    )
    (folder / "code.py").write_text(f"open({str(ran)!r}, 'w').close()\n")

    with pytest.raises(ModelError):
        load_encoder(folder, device="cpu")
    assert not ran.exists()


def test_backbones_saved_in_half_precision_compute_in_float32(tiny_bert, tmp_path):
    folder = tmp_path / "half"
    AutoModel.from_pretrained(tiny_bert, dtype=torch.bfloat16).save_pretrained(folder)
    load_tokenizer(tiny_bert).save_pretrained(folder)

    encoder = load_encoder(folder, device="cpu")

    assert {parameter.dtype for parameter in encoder.model.product_tower.parameters()} == {torch.float32}


def test_a_run_loads_with_the_pooling_of_its_training_not_of_its_base(save_run, tiny_bert, copy_of):
    base = copy_of(tiny_bert, "base")
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')

    run = save_run(base=base, pooling="cls")

    assert load_encoder(run, device="cpu").settings.pooling == "cls"
    with pytest.raises(ModelError, match="pooling_mode_max_tokens"):
        load_encoder(base, device="cpu")


def test_another_base_of_the_same_shape_is_refused_with_both_fingerprints(
    save_run, tiny_model, tmp_path, minilm_dir
):
    from tests.tiny_models import write_tiny_model

    run_dir = save_run()
    other = write_tiny_model(tmp_path / "other", "bert", minilm_dir, seed=5)

    with pytest.raises(ModelError, match="was saved with fingerprint") as refused:
        load_encoder(run_dir, base_model=str(other), device="cpu")

    assert json.loads((run_dir / "aisle.json").read_text())["fingerprint"] in str(refused.value)
