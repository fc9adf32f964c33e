import re

import pytest
from huggingface_hub import ModelCard

from aisle.reporting.model_card import fill_repository, render_model_card

ENCODER = {
    "base_model": "intfloat/e5-large-v2",
    "base_model_hub_id": "intfloat/e5-large-v2",
    "base_revision": "b2ef1d8",
    "pooling": "mean",
    "normalize": True,
    "query_prompt": "query: ",
    "product_prompt": 'say "passage": ',
    "max_length": 96,
    "adapter": True,
    "fingerprint": "c0ffee",
}
SETTINGS = {
    "dataset_name": "acme/judged",
    "train_file": None,
    "loss": "in_batch",
    "temperature": 0.05,
    "learning_rate": 0.0005,
    "lora_rank": 8,
    "lora_target_modules": ["query", "value"],
    "label_map": {"E": 1.0, "I": 0.0},
    "output_dir": "/home/somebody/runs/esci",
}
METRICS = {
    "base": {"roc_auc": 0.81, "average_precision": 0.5},
    "best": {
        "step": 40,
        "roc_auc": 0.912345678,
        "average_precision": 0.75,
        "best_f1": 0.7,
        "best_f1_threshold": 0.31,
    },
    "train_pairs": 12345,
}


def render(encoder=None, settings=None, metrics=METRICS, repo_id="acme/search"):
    return render_model_card(
        encoder=ENCODER | (encoder or {}),
        settings=SETTINGS | (settings or {}),
        metrics=metrics,
        repo_id=repo_id,
    )


def rows(card):
    lines = [line.strip("|").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_the_hub_can_read_the_metadata():
    data = ModelCard(render()).data
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert (data.library_name, data.pipeline_tag) == ("peft", "sentence-similarity")
    assert (data.base_model, data.base_model_relation) == ("intfloat/e5-large-v2", "adapter")
    assert {
        "sentence-transformers",
        "sentence-similarity",
        "feature-extraction",
        "product-search",
        "aisle",
    } < set(data.tags)
    assert (data.datasets, data.model_name) == (["acme/judged"], "search")
    assert results == {"roc_auc": 0.912346, "average_precision": 0.75, "f1": 0.7}


def test_a_fully_tuned_model_is_tagged_as_finetuned():
    data = ModelCard(render({"adapter": False})).data
    assert (data.library_name, data.base_model_relation) == ("sentence-transformers", "finetune")
    assert "lora" not in data.tags


def test_base_and_tuned_are_side_by_side():
    table = rows(render())
    assert table["ROC-AUC"] == ["0.8100", "0.9123"]
    assert table["Average precision"] == ["0.5000", "0.7500"]
    assert table["Best F1"] == ["not measured", "0.7000"]
    assert table["Cosine at the best F1"] == ["not measured", "0.3100"]


@pytest.mark.parametrize("missing", [None, float("nan"), "absent"])
def test_a_missing_number_is_neither_shown_nor_published(missing):
    best = (
        {"step": 1, "roc_auc": 0.9}
        if missing == "absent"
        else {"step": 1, "roc_auc": 0.9, "best_f1": missing}
    )
    card = render(metrics={"best": best})
    assert rows(card)["Best F1"] == ["not measured", "not measured"]
    assert [result.metric_type for result in ModelCard(card).data.eval_results] == ["roc_auc"]
    assert rows(card)["Training pairs"] == ["not recorded"]
    assert "nan" not in card


def test_without_any_measurement_there_is_no_model_index():
    assert "model-index" not in ModelCard(render(metrics={})).data.to_dict()


def test_spearman_is_a_row_only_where_judgements_are_graded():
    assert "Spearman correlation" not in rows(render())
    graded = {"best": {"roc_auc": 0.9, "spearman": 0.6}}
    assert rows(render(metrics=graded))["Spearman correlation"] == ["not measured", "0.6000"]


def test_the_recipe_shows_the_settings_that_were_in_force():
    table = rows(render())
    assert table["Training pairs"] == ["12,345"]
    assert table["Temperature"] == ["0.05"]
    assert table["Adapted layers"] == ["query, value"]
    assert table["Relevance of each label"] == ["E: 1.0, I: 0.0"]
    assert table["Revision of the base model"] == ["`b2ef1d8`"]
    assert "Training files" not in table
    assert "Temperature" not in rows(render(settings={"loss": "cosine_target"}))
    assert "LoRA rank" not in rows(render({"adapter": False}))


def test_no_absolute_path_of_the_machine_is_in_the_card():
    card = render(
        {"base_model": "/srv/models/tiny", "base_model_hub_id": None},
        {"dataset_name": "/srv/data/pairs.csv", "train_file": ["/srv/data/a.csv", "b.csv"]},
    )
    assert "/srv" not in card
    assert "/home" not in card
    assert rows(card)["Training files"] == ["a.csv, b.csv"]
    assert 'AutoModel.from_pretrained("tiny")' in card
    assert "`tiny`, a local model that is not on the Hub," in card
    data = ModelCard(card).data
    assert (data.base_model, data.datasets) == (None, None)


def test_a_card_filled_in_later_equals_a_card_rendered_with_the_name():
    assert fill_repository(render(repo_id=None), "acme/search") == render()


def snippets(card):
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_a_dora_adapter_is_not_promised_to_sentence_transformers():
    card = render({"adapter": True}, {"use_dora": True})

    assert len(snippets(card)) == 2
    assert "from sentence_transformers" not in card
    assert "leaves out the magnitudes of its DoRA adapter" in card
    assert "- sentence-transformers" not in card
    assert "- sentence-transformers" in render({"adapter": True}, {"use_dora": False})
    assert "from sentence_transformers" in render({"adapter": True}, {"use_dora": False})
    assert "from sentence_transformers" in render({"adapter": False}, {"use_dora": True})  # all weights


def test_a_card_of_a_model_with_a_head_has_no_snippet_that_leaves_it_out():
    head = {"head": "skip_connection", "freeze_encoder": True}
    card = render(encoder={**ENCODER, "adapter": False, "heads": ["Dense"]}, settings={**SETTINGS, **head})

    assert "AutoModel" not in card
    assert "SentenceTransformer(" in card
    assert "passed through a head of Dense layers, with unit length" in card
    assert "skip_connection" in card


def test_every_snippet_is_python_and_names_the_repository():
    for adapter in (True, False):
        aisle, own, sentence_transformers = snippets(render({"adapter": adapter}))
        for code in (aisle, own, sentence_transformers):
            compile(code, "card", "exec")
            assert '"acme/search"' in code
        assert ("PeftModel.from_pretrained(base, repo)" in own) == adapter
        assert ('AutoModel.from_pretrained("intfloat/e5-large-v2", revision="b2ef1d8")' in own) == adapter


class FakeTokenizer:
    """A tokenizer with a token per word, which records its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, texts, **options):
        import torch

        self.calls.append((texts, options))
        longest = max(len(text.split()) for text in texts)
        mask = [[int(at < len(text.split())) for at in range(longest)] for text in texts]
        return {"attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize(
    ("pooling", "normalize", "expected"),
    [
        ("mean", False, [[2.0, 0.0], [3.0, 1.0]]),
        ("cls", False, [[2.0, 0.0], [2.0, 0.0]]),
        ("last", False, [[2.0, 0.0], [4.0, 2.0]]),
        ("cls", True, [[1.0, 0.0], [1.0, 0.0]]),
        ("last", True, [[1.0, 0.0], [0.8**0.5, 0.2**0.5]]),
    ],
)
def test_the_transformers_snippet_pools_and_normalises_as_the_encoder_does(pooling, normalize, expected):
    import torch

    code = snippets(render({"pooling": pooling, "normalize": normalize}))[1]
    definition = code[code.index("def embed") : code.index("queries =")]
    states = torch.tensor([[2.0, 0.0], [4.0, 2.0]]).repeat(2, 1, 1)  # the second token of text one is padding
    output = type("Output", (), {"last_hidden_state": states})
    tokenizer = FakeTokenizer()
    scope = {"torch": torch, "tokenizer": tokenizer, "model": lambda **batch: output}
    exec(definition, scope)
    torch.testing.assert_close(scope["embed"](["a", "b c"], ""), torch.tensor(expected))
    assert tokenizer.calls[0][1]["max_length"] == 96
    assert tokenizer.calls[0][1].get("padding_side") == ("right" if pooling == "last" else None)


def test_the_snippet_puts_each_prompt_before_its_own_texts():
    code = snippets(render())[1]
    calls = []
    scope = {"embed": lambda texts, prompt: calls.append((texts[0][:5], prompt)) or _Scores()}
    exec(code[code.index("queries =") :].replace("print", ""), scope)
    assert calls == [("water", "query: "), ("Trail", 'say "passage": ')]


class _Scores:
    T = 1

    def __matmul__(self, other):
        return other


def test_the_card_of_two_towers_names_both_and_has_no_code_for_transformers_alone():
    towers = [
        {"sides": [side], "path": side, "base_model": base, "base_model_hub_id": base}
        for side, base in (("query", "acme/small"), ("product", "intfloat/e5-large-v2"))
    ]
    card = render({"adapter": False, "query_fingerprint": "decaf", "towers": towers})

    assert "Two encoders, one for queries and one for products" in card
    assert "fine-tuned from `acme/small` and `intfloat/e5-large-v2`" in card
    assert "product tower `c0ffee`, of the query tower `decaf`" in card
    assert "AutoModel" not in card
    assert 'encode_query(["waterproof' in card
    assert "An embedding is the mean of all tokens, with unit length" in card
    pooled = [tower | {"pooling": pooling} for tower, pooling in zip(towers, ("cls", "mean"), strict=True)]
    card = render({"adapter": False, "query_fingerprint": "decaf", "towers": pooled})
    said = "An embedding of a query is the first token, and of a product the mean of all tokens, with"
    assert said in card
    assert ModelCard(card).data.base_model == ["acme/small", "intfloat/e5-large-v2"]
