"""Cross-encoders: scores of joined pairs, packed and padded, equal to those of sentence-transformers."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aisle.errors import ModelError
from aisle.models.cross_encoder_loading import is_reranker, load_cross_encoder
from aisle.models.cross_encoder_persistence import save_cross_encoder
from aisle.models.loading import load_encoder
from aisle.models.model_source import find_model
from aisle.models.prepare_cross_encoder import prepare_cross_encoder
from aisle.models.prepare_model import Lora
from aisle.models.torch_reranker import load_torch_reranker
from aisle.text.token_batches import pack, pad
from aisle.types.text_marks import CUT
from tests.edit_json import edit_json

LORA = Lora(rank=4, alpha=8, dropout=0.0, target_modules=None, use_dora=False, use_rslora=False)
PAIRS = [
    ("red sofa", "a red sofa with wooden legs for the garden, and a table of steel beside the bed"),
    ("lamp", "blue lamp"),
    ("outdoor chair made of steel for a garden with a blue table and a red lamp", "chair"),
    ("lamp", "blue lamp"),
    ("a", "b"),
]
KINDS = ("weight", "bias")
IDENTITY = "torch.nn.modules.linear.Identity"


def trained(folder, run_dir, shift_weights, *, lora=None, max_length=16, seed=1):
    """Save a cross-encoder whose weights moved as training would move them."""
    loaded = load_cross_encoder(find_model(str(folder)), max_length=max_length, new_head_seed=5)
    model = prepare_cross_encoder(loaded, lora=lora)
    shift_weights(model, seed=seed)
    save_cross_encoder(run_dir, model=model, weights=None, loaded=loaded, lora=lora)
    return run_dir, model.eval()


@pytest.fixture(scope="module")
def runs(tiny_model, tmp_path_factory, shift_weights):
    """Return a function from an architecture to the run of its tiny cross-encoder."""
    made = {}

    def run_of(architecture):
        if architecture not in made:
            run_dir = tmp_path_factory.mktemp("rerankers") / architecture
            made[architecture] = trained(tiny_model(architecture), run_dir, shift_weights)[0]
            if architecture != "bert":  # whose tokenizer the tiny models share, with token types
                edit_json(
                    made[architecture] / "tokenizer_config.json",
                    model_input_names=["input_ids", "attention_mask"],
                )
                (made[architecture] / "aisle.json").unlink()  # the tokenizer is another now
        return made[architecture]

    return run_of


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "modernbert", "mpnet"])
def test_scores_equal_those_of_sentence_transformers_raw_and_as_probabilities(runs, architecture):
    from sentence_transformers import CrossEncoder

    reranker = load_torch_reranker(runs(architecture), device="cpu")
    theirs = CrossEncoder(str(runs(architecture)), device="cpu")

    logits = reranker.score(PAIRS)

    assert (reranker.why_padded is None) == (architecture != "mpnet")  # which has its own attention
    raw = theirs.predict(PAIRS, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(logits, raw, atol=2e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), theirs.predict(PAIRS), atol=1e-5)
    assert np.ptp(logits) > 1e-2
    assert logits[1] == logits[3]


@pytest.mark.parametrize(
    "fields",
    [
        {"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.1.0"}},
        {"sbert_ce_default_activation_function": IDENTITY},
    ],
    ids=["ms-marco", "before-4.0"],
)
def test_a_run_from_a_base_that_returns_logits_predicts_sigmoids(tiny_bert, tmp_path, shift_weights, fields):
    from sentence_transformers import CrossEncoder

    base = shutil.copytree(tiny_bert, tmp_path / "base")
    edit_json(base / "config.json", **fields)

    run_dir, _ = trained(base, tmp_path / "run", shift_weights)

    logits = load_torch_reranker(run_dir, device="cpu").score(PAIRS)
    found = CrossEncoder(str(run_dir), device="cpu").predict(PAIRS)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_pickled_weights_are_converted_with_their_classification_head(runs, tmp_path):
    folder = shutil.copytree(runs("bert"), tmp_path / "pickled")
    expected = load_torch_reranker(folder, device="cpu").score(PAIRS)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "aisle.json").unlink()

    with pytest.raises(ModelError, match="Convert pickled weights in place") as refused:
        load_torch_reranker(folder)

    exec(str(refused.value).partition('python -c "')[2].removesuffix('"'), {})
    found = load_torch_reranker(folder, device="cpu").score(PAIRS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "modernbert", "distilbert"])
def test_packed_pairs_have_the_scores_and_gradients_of_padded_pairs(tiny_model, architecture):
    loaded = load_cross_encoder(find_model(str(tiny_model(architecture))), max_length=24, new_head_seed=5)
    model = loaded.cross_encoder().eval()
    tokens = loaded.pair_tokenizer.tokenize(PAIRS)
    rows = np.argsort(-tokens.lengths(), kind="stable")

    def scores_and_gradient(batch):
        model.zero_grad()
        scores = model([batch])
        (scores * torch.arange(1.0, 6)[:, None]).sum().backward()
        return scores.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    packed, of_packed = scores_and_gradient(pack(tokens, rows))
    padded, of_padded = scores_and_gradient(pad(tokens, rows, loaded.tokenizer.pad_token_id))

    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-4)
    assert of_packed.keys() == of_padded.keys()
    for name, gradient in of_padded.items():
        torch.testing.assert_close(of_packed[name], gradient, atol=1e-4, rtol=1e-3, msg=name)


def test_token_types_separate_the_two_texts_of_a_pair(tiny_bert):
    loaded = load_cross_encoder(find_model(str(tiny_bert)), max_length=24, new_head_seed=5)
    tokens = loaded.pair_tokenizer.tokenize([("red sofa", "lamp")])
    model = loaded.cross_encoder().eval()

    assert tokens.types.tolist() == [0, 0, 0, 0, 1, 1]
    untyped = replace(tokens, types=None)
    with torch.no_grad():
        first, second = (model([pack(one, np.array([0]))]) for one in (tokens, untyped))
    assert abs(float(first - second)) > 1e-4


def test_an_adapter_is_merged_and_the_saved_model_scores_as_the_trained_one(
    tiny_bert, tmp_path, shift_weights
):
    run_dir, model = trained(tiny_bert, tmp_path / "run", shift_weights, lora=LORA)

    reranker = load_torch_reranker(run_dir, device="cpu")

    tokens = reranker.tokenizer.tokenize(PAIRS)
    with torch.no_grad():
        expected = model([pad(tokens, np.arange(5), 0)])[:, 0]
    np.testing.assert_allclose(reranker.score(PAIRS), expected, atol=2e-5)
    assert not (run_dir / "adapter_config.json").exists()
    trained_names = {name for name, one in model.named_parameters() if one.requires_grad}
    assert any("lora_A" in name for name in trained_names)
    heads = {name.removeprefix("backbone.base_model.model.") for name in trained_names if "lora" not in name}
    assert heads == {f"{part}.{kind}" for part in ("bert.pooler.dense", "classifier") for kind in KINDS}


def test_long_pairs_lose_tokens_of_the_longer_text_and_are_counted_whole(tiny_bert):
    loaded = load_cross_encoder(find_model(str(tiny_bert)), max_length=10, new_head_seed=5)
    long, short = "red blue red blue red blue red blue", "sofa lamp"

    tokens = loaded.pair_tokenizer.tokenize([(long, short), (short, long), (short, short)])

    words = [loaded.tokenizer.decode(tokens[row]) for row in range(3)]
    assert words == [
        "[CLS] red blue red blue red [SEP] sofa lamp [SEP]",
        "[CLS] sofa lamp [SEP] red blue red blue red [SEP]",
        "[CLS] sofa lamp [SEP] sofa lamp [SEP]",
    ]
    assert tokens.marks.tolist() == [CUT, CUT, 0]
    assert loaded.pair_tokenizer.lengths([(long, short), (short, short)]) == [13, 7]


def test_a_new_head_is_the_same_for_a_seed_and_leaves_the_random_state(tiny_bert):
    state = torch.random.get_rng_state()
    first, again, other = (
        load_cross_encoder(find_model(str(tiny_bert)), new_head_seed=seed) for seed in (5, 5, 6)
    )

    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [one.backbone.classifier.weight for one in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert "a new one starts with random weights" in first.note


def test_models_that_are_no_rerankers_are_refused(tiny_bert, runs, tmp_path):
    with pytest.raises(ModelError, match=r"no classification head with one score.*train-reranker"):
        load_torch_reranker(tiny_bert)
    with pytest.raises(ModelError, match=r"is a reranker .*--reranker"):
        load_encoder(runs("bert"))
    altered = shutil.copytree(runs("bert"), tmp_path / "altered")
    edit_json(altered / "config.json", layer_norm_eps=1e-6)
    with pytest.raises(ModelError, match="a file was altered"):
        load_torch_reranker(altered)
    with pytest.raises(ModelError, match=r"--max_length 100: .* reads at most 64 tokens"):
        load_cross_encoder(find_model(str(tiny_bert)), max_length=100, new_head_seed=5)


def test_a_folder_with_a_pooling_or_several_labels_is_no_reranker(runs, tmp_path):
    folder = shutil.copytree(runs("bert"), tmp_path / "model")
    assert is_reranker(folder)
    (folder / "aisle.json").unlink()
    assert is_reranker(folder)
    config = folder / "config.json"
    described = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({**described, "id2label": {"0": "no", "1": "yes"}}))
    assert not is_reranker(folder)
    config.write_text(json.dumps(described))
    pooling = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
    (folder / "modules.json").write_text(json.dumps([pooling]))
    assert not is_reranker(folder)
    (folder / "modules.json").unlink()
    config.write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: is not valid JSON"):
        is_reranker(folder)


def test_a_pair_must_be_two_texts(runs):
    reranker = load_torch_reranker(runs("bert"), device="cpu")

    assert reranker.score([]).shape == (0,)
    with pytest.raises(ModelError, match=r"pairs\[1\] must be a query and a text"):
        reranker.score([("a", "b"), ("a", None)])
