"""What a model's files ask for is followed or refused, and is the same again after saving.

Values are compared with plain transformers and with sentence-transformers.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoModel, AutoTokenizer

from aisle.errors import ModelError
from aisle.models.loading import load_base, load_encoder
from aisle.models.model_source import find_model
from aisle.models.st_files import TRANSFORMER_FILES
from aisle.types.encoder_settings import Overrides

TEXTS = ["Red Sofa", "oak TABLE with drawers", "lamp", "sofa " * 60]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
ST_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def copied(tiny_model, tmp_path):
    """Return a function that copies a tiny model to a folder that a test may write to."""

    def copy(architecture="bert"):
        return shutil.copytree(tiny_model(architecture), tmp_path / "base")

    return copy


@pytest.fixture
def decoder_of(copied):
    """Return a function that makes a decoder; its tokenizer adds only the tokens that its settings name."""

    def make(**settings):
        folder = copied("qwen2")
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {word: number for number, word in enumerate([*SPECIAL, *letters])}
        tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.add_special_tokens(SPECIAL)
        for name in ("vocab.txt", "special_tokens_map.json"):
            (folder / name).unlink()
        tokenizer.save(str(folder / "tokenizer.json"))
        special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        kind = {"tokenizer_class": "Qwen2Tokenizer", "model_max_length": 64}
        write(folder, "tokenizer_config.json", special | kind | settings)
        return folder

    return make


def plain_last(folder, rows):
    """Return the vector of each row's last token, computed by transformers alone."""
    backbone = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        vectors = [backbone(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
    return nn.functional.normalize(torch.stack(vectors), dim=1).numpy()


def in_sentence_transformers(folder, texts=TEXTS, *, side="document", **options):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return getattr(model, f"encode_{side}")(texts, normalize_embeddings=True, **options)


def assert_same_after_saving(save_run, base, **overrides):
    """Save a run of all weights and a run with an adapter, and open them in both libraries."""
    for adapter in (True, False):
        run = save_run(f"run {adapter}", base=base, adapter=adapter, **overrides)
        encoder = load_encoder(run, device="cpu")
        for side in ("query", "document"):
            encode = encoder.encode_queries if side == "query" else encoder.encode_products
            np.testing.assert_allclose(in_sentence_transformers(run, side=side), encode(TEXTS), atol=2e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("settings", "first", "last"),
    [
        ({"add_eos_token": True}, [], [2]),
        ({"add_eos_token": True, "add_bos_token": True}, [1], [2]),
        ({"add_bos_token": True}, [1], []),
        ({"add_eos_token": False}, [], []),
    ],
)
def test_first_and_last_tokens_are_added_as_the_settings_ask(settings, first, last, decoder_of, save_run):
    folder = decoder_of(**settings)
    plain = AutoTokenizer.from_pretrained(folder)
    assert plain("ab", add_special_tokens=False)["input_ids"] == plain.convert_tokens_to_ids(["a", "b"])
    rows = []
    for text in TEXTS:
        ids = plain(text, add_special_tokens=False)["input_ids"]
        rows.append([*first, *ids[: 64 - len(first) - len(last)], *last])

    encoder = load_encoder(folder, device="cpu")

    assert encoder.settings.pooling == "last"
    np.testing.assert_allclose(encoder.encode_products(TEXTS), plain_last(folder, rows), atol=1e-5)
    assert_same_after_saving(save_run, folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TRANSFORMER_FILES)
def test_lower_case_and_maximum_length_are_read_from_every_file_of_sentence_transformers(
    name, copied, save_run
):
    folder = copied()
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"]["lowercase"] = False
    write(folder, "tokenizer.json", tokenizer)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write(
        folder,
        "tokenizer_config.json",
        config | {"do_lower_case": False, "tokenizer_class": "TokenizersBackend"},
    )
    before = load_encoder(folder, device="cpu").encode_products(TEXTS)
    write(folder, "modules.json", ST_MODULES)
    write(folder, "1_Pooling/config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})

    write(folder, name, {"max_seq_length": 20, "do_lower_case": True})

    encoder = load_encoder(folder, device="cpu")
    found = encoder.encode_products(TEXTS)
    assert encoder.settings.max_length == 20
    assert (found[:2] * before[:2]).sum(axis=1).max() < 0.99  # the words in capitals were unknown
    np.testing.assert_allclose(found, in_sentence_transformers(folder), atol=2e-5)
    np.testing.assert_array_equal(encoder.encode_products([text.lower() for text in TEXTS]), found)
    if name == TRANSFORMER_FILES[0]:
        assert_same_after_saving(save_run, folder)


def prompts_of(folder, prompts, default=None):
    content = {"prompts": prompts, "default_prompt_name": default}
    write(folder, "config_sentence_transformers.json", content)
    return load_encoder(folder, device="cpu").settings


@pytest.mark.parametrize(
    ("prompts", "default", "query", "product"),
    [
        ({"query": "q: ", "document": "d: "}, None, "q: ", "d: "),
        ({"query": "q: ", "corpus": "c: "}, None, "q: ", "c: "),
        ({"query": "q: ", "STS": "s: "}, None, "q: ", ""),
        ({"query": "q: "}, "query", "q: ", ""),
        ({"general": "g: "}, "general", "g: ", "g: "),
        ({"general": "g: ", "document": "d: "}, "general", "g: ", "d: "),
        ({"STS": ""}, None, "", ""),
    ],
)
def test_prompts_are_found_by_their_names_or_the_default(prompts, default, query, product, copied):
    settings = prompts_of(copied(), prompts, default)

    assert (settings.query_prompt, settings.product_prompt) == (query, product)


@pytest.mark.filterwarnings("ignore")
def test_the_default_prompt_gives_the_embeddings_of_sentence_transformers(copied, save_run):
    folder = copied()
    prompts_of(folder, {"general": "lamp: "}, "general")
    write(folder, "modules.json", ST_MODULES)
    write(folder, "1_Pooling/config.json", {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})

    found = load_encoder(folder, device="cpu").encode_products(TEXTS)

    expected = in_sentence_transformers(folder, prompt_name="general")
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert_same_after_saving(save_run, folder)


def test_prompts_with_other_names_are_refused_unless_the_user_gives_prompts(copied):
    folder = copied()
    prompts = {"search_query": "q: ", "search_document": "d: "}

    with pytest.raises(ModelError, match=r"search_query \('q: '\), search_document .*--query_prompt"):
        prompts_of(folder, prompts)

    said = Overrides(query_prompt="q: ", product_prompt="d: ")
    assert load_encoder(folder, overrides=said, device="cpu").settings.query_prompt == "q: "


def test_a_pooling_that_leaves_out_prompts_is_refused_if_there_are_prompts(copied, save_run):
    folder = copied()
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "include_prompt": False}
    write(folder, "1_Pooling/config.json", pooling)
    assert load_encoder(folder, device="cpu").settings.pooling == "mean"  # no prompt, nothing to leave out

    with pytest.raises(ModelError, match=r"include_prompt: false.*--query_prompt ''.*--pooling"):
        prompts_of(folder, {"query": "q: ", "document": "d: "})

    bare = Overrides(query_prompt="", product_prompt="")
    assert load_encoder(folder, overrides=bare, device="cpu").settings.query_prompt == ""
    run = save_run(base=folder, pooling="mean")
    assert load_encoder(run, device="cpu").settings.query_prompt == "q: "
    assert json.loads((run / "1_Pooling" / "config.json").read_text())["include_prompt"] is True


@pytest.mark.filterwarnings("ignore")
def test_include_prompt_off_without_prompts_gives_the_embeddings_of_sentence_transformers(copied):
    folder = copied()
    write(folder, "modules.json", ST_MODULES)
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "include_prompt": False}
    write(folder, "1_Pooling/config.json", pooling)

    found = load_encoder(folder, device="cpu").encode_products(TEXTS)

    np.testing.assert_allclose(found, in_sentence_transformers(folder), atol=2e-5)


def test_pickled_weights_are_converted_in_place_and_keep_the_pooling(copied):
    folder = copied()
    write(folder, "1_Pooling/config.json", {"word_embedding_dimension": 32, "pooling_mode_cls_token": True})
    expected = load_encoder(folder, device="cpu").encode_products(TEXTS)
    backbone = AutoModel.from_pretrained(folder)
    torch.save(backbone.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()

    with pytest.raises(ModelError, match="Convert pickled weights in place") as refused:
        load_encoder(folder, device="cpu")

    code = str(refused.value).partition('python -c "')[2].removesuffix('"')
    assert code.startswith("from transformers import ")
    exec(code, {})
    np.testing.assert_allclose(load_encoder(folder, device="cpu").encode_products(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "how"),
    [("qwen2", "the last token, as is usual for decoders"), ("bert", "the mean of all tokens")],
)
def test_a_pooling_that_no_file_names_is_logged(architecture, how, tiny_model):
    base = load_base(find_model(str(tiny_model(architecture))), overrides=Overrides())
    chosen = load_base(find_model(str(tiny_model(architecture))), overrides=Overrides(pooling="cls"))

    assert base.note is not None
    assert f"it is pooled by {how}. Give another with --pooling" in base.note
    assert chosen.note is None
    assert load_encoder(tiny_model(architecture), device="cpu").note == base.note
