"""`aisle merge`: a folder without an adapter, equal embeddings in every library, and refusals."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer

from aisle.cli import index_main, main, train_main
from aisle.models.loading import Overrides, load_base, load_encoder
from aisle.models.model_source import find_model
from aisle.models.prepare_model import Lora, prepare_model
from aisle.reporting.model_card import write_search_results
from aisle.reporting.model_card.metadata import results_in
from aisle.reporting.model_card.search_section import BEGIN, END
from tests.commands.conftest import QUERIES, judged_rows, write_rows
from tests.edit_json import edit_json
from tests.models.conftest import save_run, save_tower
from tests.models.test_backbone import bert_copy, model_folder
from tests.models.test_followed_settings import copied, decoder_of
from tests.models.test_heads import with_dense
from tests.models.test_persistence import pooled
from tests.reporting.test_search_section import RESULTS, section_of

__all__ = ["bert_copy", "copied", "decoder_of", "model_folder", "save_run", "with_dense"]

TEXTS = ["shoes", "red running shoes for women, size 38", "حذاء 👟 红色运动鞋", "deep learning " * 60, "usb"]
PROMPTS = {"query_prompt": "query: ", "product_prompt": "passage: "}
WITHOUT_PEFT = """
import json, sys
sys.modules["peft"] = None
import numpy, torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

folder, texts, prompts = json.loads(sys.argv[1])
other = SentenceTransformer(folder, device="cpu")
found = {"query": other.encode_query(texts), "document": other.encode_document(texts)}
model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
for prompt in prompts:
    rows = []
    for text in texts:
        inputs = tokenizer(prompt + text, truncation=True, max_length=40, return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**inputs).last_hidden_state[0].mean(0))
    found[f"plain {prompt}"] = torch.nn.functional.normalize(torch.stack(rows)).numpy()
numpy.savez(sys.argv[2], **found)
"""

TWICE = """
from transformers import BertConfig, BertModel


class TwiceConfig(BertConfig):
    model_type = "twice"


class TwiceModel(BertModel):
    config_class = TwiceConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state * 2 + 1
        return output
"""


def both_sides(folder, **options):
    encoder = load_encoder(folder, device="cpu", **options)
    return encoder.encode_queries(TEXTS), encoder.encode_products(TEXTS)


@pytest.fixture
def merge(tmp_path, capfd):
    """Merge a model; return the exit code, the merged folder and the output."""

    def run(model, *flags, output="merged"):
        capfd.readouterr()
        code = main(["merge", str(model), "--output_dir", str(tmp_path / output), *map(str, flags)])
        shown = capfd.readouterr()
        assert "Traceback" not in shown.err
        return code, tmp_path / output, " ".join((shown.out + shown.err).split())

    return run


LORAS = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "all layers": {"target_modules": ["query", "key", "value", "dense"], "rank": 8},
}


@pytest.mark.parametrize("lora", LORAS.values(), ids=LORAS)
def test_a_merged_adapter_gives_equal_embeddings_without_one(lora, merge, save_run, tiny_bert):
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    run = save_run(lora=lora, pooling="cls", max_length=40, **PROMPTS)
    code, folder, shown = merge(run)
    assert code == 0, shown
    assert f"merged the LoRA run {run}; saved to {folder}" in shown

    queries, products = both_sides(run)
    for found, expected in zip(both_sides(folder), (queries, products), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    other = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(other.encode_query(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(other.encode_document(TEXTS), products, atol=1e-5)
    unmerged = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_bert), run).eval()
    encoder = load_encoder(folder, device="cpu")
    np.testing.assert_allclose(pooled(unmerged, encoder, TEXTS, "query: "), queries, atol=1e-5)
    assert encoder.settings == load_encoder(run, device="cpu").settings
    assert not list(folder.glob("adapter*"))
    weights = load_file(folder / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert not [name for name in weights if "lora" in name or "base_layer" in name]


def test_transformers_and_sentence_transformers_read_the_folder_without_peft(merge, save_run, tmp_path):
    run = save_run(max_length=40, **PROMPTS)
    _, folder, _ = merge(run)
    queries, products = both_sides(run)

    arguments = json.dumps([str(folder), TEXTS, list(PROMPTS.values())])
    command = [sys.executable, "-c", WITHOUT_PEFT, arguments, str(tmp_path / "found.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    found = np.load(tmp_path / "found.npz")
    for name, expected in {
        **{"query": queries, "plain query: ": queries},
        **{"document": products, "plain passage: ": products},
    }.items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("architecture", ["xlm-roberta", "mpnet", "distilbert", "modernbert", "qwen3"])
def test_every_architecture_merges_with_its_tokenizer(architecture, merge, save_run, tiny_model):
    from sentence_transformers import SentenceTransformer

    run = save_run(base=tiny_model(architecture), max_length=40, **PROMPTS)
    code, folder, shown = merge(run)
    assert code == 0, shown

    expected = both_sides(run)[1]
    np.testing.assert_allclose(both_sides(folder)[1], expected, atol=1e-5)
    other = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(other.encode_document(TEXTS), expected, atol=1e-5)
    ids = load_encoder(run, device="cpu").tokenizer(TEXTS)["input_ids"]
    assert AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"] == ids
    assert (folder / "tokenizer.json").is_file()


def test_a_trained_head_is_kept(merge, with_dense, tmp_path, shift_weights):
    loaded = load_base(find_model(str(with_dense())), overrides=Overrides())
    lora = Lora(rank=4, alpha=8, dropout=0.0, target_modules=None, use_dora=True, use_rslora=False)
    tower = prepare_model(loaded, lora=lora)
    shift_weights(tower, seed=1)
    save_tower(tmp_path / "run", tower, loaded, adapter=True)
    code, folder, shown = merge(tmp_path / "run")
    assert code == 0, shown

    head = tower.heads[0].linear.weight
    assert torch.equal(load_file(folder / "2_Dense" / "model.safetensors")["linear.weight"], head)
    np.testing.assert_allclose(both_sides(folder)[0], both_sides(tmp_path / "run")[0], atol=1e-5)
    assert load_encoder(folder, device="cpu").dim == 8


@pytest.mark.parametrize("normalize", [True, False])
def test_a_run_of_all_weights_is_copied_although_its_base_is_gone(normalize, merge, save_run, bert_copy):
    run = save_run(base=bert_copy, adapter=False, normalize=normalize, **PROMPTS)
    shutil.rmtree(bert_copy)
    code, folder, shown = merge(run)
    assert code == 0, shown
    assert f"copied the run of all weights {run}" in shown

    for found, expected in zip(both_sides(folder), both_sides(run), strict=True):
        np.testing.assert_array_equal(found, expected)
    saved = json.loads((folder / "aisle.json").read_text())
    assert (saved["base_model"], saved["merged_from"]["kind"]) == (str(bert_copy), "run of all weights")


def test_a_base_model_is_copied_and_its_pooling_is_printed(merge, tiny_bert):
    code, folder, shown = merge(tiny_bert)
    assert code == 0, shown
    assert "has no file with its pooling; it is pooled by the mean of all tokens" in shown
    np.testing.assert_array_equal(both_sides(folder)[0], both_sides(tiny_bert)[0])
    assert "A copy of `bert`" in (folder / "README.md").read_text()


def test_an_adapter_of_peft_is_merged_into_the_base_that_it_or_the_user_names(
    merge, save_run, tiny_bert, bert_copy
):
    run = save_run(max_length=64)
    for name in (
        "aisle.json",
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
    ):
        (run / name).unlink()
    expected = both_sides(run)[0]

    code, folder, shown = merge(run)
    assert code == 0, shown
    np.testing.assert_allclose(both_sides(folder)[0], expected, atol=1e-5)
    saved = json.loads((folder / "aisle.json").read_text())
    assert (saved["base_model"], saved["merged_from"]["kind"]) == (str(tiny_bert), "PEFT adapter")

    config = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    code, _, shown = merge(run, output="again")
    assert code == 2
    assert "the adapter names no base model; give it with --base_model" in shown
    code, folder, shown = merge(run, "--base_model", bert_copy, output="again")
    assert code == 0, shown
    np.testing.assert_allclose(both_sides(folder)[0], expected, atol=1e-5)


def test_whole_layers_of_an_adapter_are_merged(merge, tiny_bert, tmp_path, shift_weights):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    config = LoraConfig(r=4, target_modules=["query"], modules_to_save=["intermediate"], bias="lora_only")
    adapted = get_peft_model(AutoModel.from_pretrained(tiny_bert), config)
    shift_weights(adapted, seed=1)
    adapted.save_pretrained(tmp_path / "adapter")

    code, folder, shown = merge(tmp_path / "adapter")
    assert code == 0, shown
    np.testing.assert_allclose(both_sides(folder)[0], both_sides(tmp_path / "adapter")[0], atol=1e-5)


@pytest.mark.parametrize("form", ["t5", "gpt2"])
def test_an_encoder_of_t5_and_transposed_layers_merge(form, merge, trained_on, model_folder):
    from sentence_transformers import SentenceTransformer

    run = trained_on(model_folder(form))
    code, folder, shown = merge(run)
    assert code == 0, shown
    expected = both_sides(run)[1]
    np.testing.assert_allclose(both_sides(folder)[1], expected, atol=1e-5)
    other = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(other.encode_document(TEXTS), expected, atol=1e-5)


def test_python_code_of_the_base_model_is_run_only_if_asked_for_and_copied(
    merge, bert_copy, tmp_path, shift_weights
):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    adapted = get_peft_model(AutoModel.from_pretrained(bert_copy), LoraConfig(r=4, target_modules=["query"]))
    shift_weights(adapted, seed=1)
    adapted.save_pretrained(tmp_path / "adapter")
    (bert_copy / "modeling_twice.py").write_text(TWICE)
    code = {"AutoConfig": "modeling_twice.TwiceConfig", "AutoModel": "modeling_twice.TwiceModel"}
    edit_json(bert_copy / "config.json", auto_map=code, model_type="twice")

    code, folder, shown = merge(tmp_path / "adapter")
    assert code == 2
    assert "give --trust_remote_code to run it" in shown
    assert not folder.exists()
    code, folder, shown = merge(tmp_path / "adapter", "--trust_remote_code")
    assert code == 0, shown
    expected = both_sides(tmp_path / "adapter", trust_remote_code=True)[0]
    np.testing.assert_allclose(both_sides(folder, trust_remote_code=True)[0], expected, atol=1e-5)
    assert (folder / "modeling_twice.py").read_text() == TWICE


def test_python_code_of_an_earlier_model_is_removed_and_other_python_files_stay(merge, save_run, bert_copy):
    (bert_copy / "modeling_twice.py").write_text(TWICE)
    code = {"AutoConfig": "modeling_twice.TwiceConfig", "AutoModel": "modeling_twice.TwiceModel"}
    config = json.loads((bert_copy / "config.json").read_text())
    edit_json(bert_copy / "config.json", auto_map=code, model_type="twice")
    _, folder, shown = merge(bert_copy, "--trust_remote_code")
    assert (folder / "modeling_twice.py").is_file(), shown
    (bert_copy / "config.json").write_text(json.dumps(config))
    run = save_run()

    code, _, shown = merge(run, "--overwrite_output_dir")
    assert code == 0, shown
    assert list(folder.glob("*.py")) == []

    (folder / "search.py").write_text("print('mine')")
    assert merge(run, "--overwrite_output_dir")[0] == 0
    assert (folder / "search.py").is_file()
    (folder / "config.json").write_text("{")
    assert merge(run, "--overwrite_output_dir")[0] == 0
    np.testing.assert_allclose(both_sides(folder)[0], both_sides(run)[0], atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_first_and_last_tokens_that_transformers_ignores_are_in_the_merged_tokenizer(
    merge, decoder_of, save_run
):
    base = decoder_of(add_eos_token=True, add_bos_token=True)
    run = save_run(base=base, max_length=40)
    code, folder, shown = merge(run)
    assert code == 0, shown

    plain = AutoTokenizer.from_pretrained(folder)
    for text, ids in zip(TEXTS, plain(TEXTS)["input_ids"], strict=True):
        assert ids == [1, *plain(text, add_special_tokens=False)["input_ids"], 2]
    assert AutoTokenizer.from_pretrained(base)("ab")["input_ids"][0] != 1
    np.testing.assert_allclose(both_sides(folder)[0], both_sides(run)[0], atol=1e-5)


@pytest.fixture(scope="module")
def trained(tiny_bert, tmp_path_factory):
    """Two trained LoRA runs and their average."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in {"one": 1, "two": 2}.items():
        train_lora(tiny_bert, folder, name, "--seed", seed)
    runs = [str(folder / name) for name in ("one", "two")]
    assert main(["average", *runs, "--output_dir", str(folder / "average")]) == 0
    return folder


@pytest.fixture
def trained_on(tmp_path):
    """Return a function from a base model to the folder of a LoRA run that was trained on it."""
    return lambda base: train_lora(base, tmp_path, "run")


def train_lora(base, folder, name, *flags):
    pairs = write_rows(folder / "pairs.csv", ["query", "product", "relevance"], judged_rows(QUERIES))
    given = ["--use_peft", "--model_name_or_path", base, "--train_file", pairs, "--max_length", 16, *flags]
    given += ["--max_train_steps", 2, "--learning_rate", 0.01, "--output_dir", folder / name]
    assert train_main(list(map(str, given))) == 0
    return folder / name


def test_the_folder_records_the_run_it_was_merged_from(merge, trained, capfd):
    run = trained / "one"
    code, folder, shown = merge(run, "--json")
    assert code == 0, shown
    saved = json.loads((folder / "aisle.json").read_text())
    fingerprint = load_encoder(run, device="cpu").fingerprint
    record = {"kind": "LoRA run", "name": str(run), "revision": None, "fingerprint": fingerprint}
    assert saved["merged_from"] == record
    assert saved["adapter"] is False
    assert load_encoder(folder, device="cpu").fingerprint == saved["fingerprint"] != fingerprint
    document, _ = json.JSONDecoder().raw_decode(shown[shown.index("{") :])
    assert document["merged_from"] == record
    assert document["fingerprint"] == saved["fingerprint"]
    for name in ("config.yaml", "metrics.json"):
        read = [yaml.safe_load((place / name).read_text()) for place in (run, folder)]
        assert read[0] == read[1]
    card = (folder / "README.md").read_text()
    assert f"| Made by `aisle merge` from | the LoRA run `one`, fingerprint `{fingerprint}` |" in card
    assert "the model needs no PEFT" in card
    assert "| LoRA rank | 8 |" in card
    assert "from peft" not in card
    assert "SentenceTransformer(" in card
    assert str(trained) not in card
    best = json.loads((run / "metrics.json").read_text())["best"]
    assert f"{best['roc_auc']:.4f}" in card


def test_the_card_keeps_the_section_on_search_with_its_charts(merge, save_run):
    run, other = save_run("run"), save_run("other", seed=2)
    write_search_results(run, RESULTS, {"retrieval": b"1", "roc": b"2"})
    code, folder, shown = merge(run)
    assert code == 0, shown

    card, expected = ((place / "README.md").read_text() for place in (folder, run))
    assert section_of(card) == section_of(expected)
    assert results_in(card) == results_in(expected) != []
    assert card.index("## Results") < card.index(BEGIN) < card.index("## How it was trained")
    charts = {chart.name: chart.read_bytes() for chart in (folder / "evaluation").iterdir()}
    assert charts == {"retrieval.png": b"1", "roc.png": b"2"}

    code, folder, shown = merge(other, "--overwrite_output_dir")
    assert code == 0, shown
    assert BEGIN not in (folder / "README.md").read_text()
    assert not (folder / "evaluation").exists()


def test_a_damaged_section_on_search_is_one_message_before_anything_is_written(merge, save_run):
    run = save_run()
    write_search_results(run, RESULTS, {})
    card = run / "README.md"
    card.write_text(card.read_text().replace(END, ""))

    code, folder, shown = merge(run)

    assert code == 2
    assert "README.md: must have the line" in shown
    assert "Remove both" in shown
    assert not folder.exists()


def test_an_average_is_merged(merge, trained):
    code, folder, shown = merge(trained / "average")
    assert code == 0, shown
    np.testing.assert_array_equal(both_sides(folder)[1], both_sides(trained / "average")[1])
    assert "| Average of the weights of | one, two |" in (folder / "README.md").read_text()


def test_the_folder_is_a_model_for_every_command(merge, trained, tmp_path):
    _, folder, _ = merge(trained / "one")
    catalog = write_rows(tmp_path / "c.csv", ["product_id", "title"], [("a", "red sofa"), ("b", "lamp")])
    flags = ["--model", folder, "--catalog", catalog, "--index_dir", tmp_path / "index", "--threads", 1]
    assert index_main(["build", *map(str, flags)]) == 0
    assert index_main(["query", "--index_dir", str(tmp_path / "index"), "sofas"]) == 0
    flags = ["--model_name_or_path", folder, "--train_file", trained / "pairs.csv", "--use_peft"]
    flags += ["--max_length", 16, "--max_train_steps", 1, "--output_dir", tmp_path / "further"]
    assert train_main(list(map(str, flags))) == 0
    code, again, shown = merge(folder, output="again")
    assert code == 0, shown
    np.testing.assert_array_equal(both_sides(again)[0], both_sides(folder)[0])


def test_a_folder_with_a_model_is_replaced_only_with_overwrite_output_dir(
    merge, save_run, tiny_bert, tmp_path
):
    one, two = save_run("one", seed=1), save_run("two", adapter=False, seed=2)
    _, folder, _ = merge(one)
    before = (folder / "model.safetensors").read_bytes()
    code, _, shown = merge(two)
    assert code == 2
    assert "contains another run (aisle.json, config.json, modules.json)" in shown
    assert (folder / "model.safetensors").read_bytes() == before
    (folder / "metrics.json").write_text("{}")
    code, _, shown = merge(two, "--overwrite_output_dir")
    assert code == 0, shown
    np.testing.assert_array_equal(both_sides(folder)[0], both_sides(two)[0])
    assert not (folder / "metrics.json").exists()

    shutil.copytree(tiny_bert, tmp_path / "base")
    code, _, shown = merge(one, output="base")
    assert code == 2
    assert "contains another model (config.json)" in shown


def test_the_run_and_its_base_are_never_replaced(merge, save_run, bert_copy):
    run = save_run(base=bert_copy)
    for output in (run.name, bert_copy.name):
        code, folder, shown = merge(run, "--overwrite_output_dir", output=output)
        assert code == 2
        assert (
            f"--output_dir {folder}: is the folder of {folder}, which the merged model would replace" in shown
        )
    assert both_sides(run)


def test_a_full_disk_leaves_nothing_half_written(merge, save_run, monkeypatch):
    from transformers import PreTrainedTokenizerBase

    run, other = save_run("run"), save_run("other", seed=2)
    _, folder, _ = merge(other)
    expected = both_sides(folder)[0]
    files = sorted(folder.rglob("*"))

    def fail(*_, **__):
        raise Exception("No space left on device (os error 28)")  # the error of tokenizers

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", fail)
    code, new, shown = merge(run, output="new")
    assert code == 2
    assert f"{new}: the model cannot be saved (No space left on device (os error 28))" in shown
    assert "free some space, and run the command again" in shown
    assert not new.exists()
    code, _, _ = merge(run, "--overwrite_output_dir")
    assert code == 2
    assert sorted(folder.rglob("*")) == files
    np.testing.assert_array_equal(both_sides(folder)[0], expected)


def damage(run):
    path = run / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def lack(run):
    (run / "adapter_model.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "why"), [(damage, "is damaged"), (lack, "is missing; aisle reads adapters from safetensors")]
)
def test_a_damaged_adapter_is_one_message(change, why, merge, save_run):
    run = save_run()
    change(run)
    code, folder, shown = merge(run)
    assert code == 2
    assert f"adapter_model.safetensors: {why}" in shown
    assert not folder.exists()


def test_models_that_cannot_be_merged_are_refused(merge, save_run, tiny_model, tiny_bert):
    run, full = save_run(), save_run("full", adapter=False)
    refused = {
        (str(run.parent / "missing" / "run"),): "there is no such folder",
        (run, "--base_model", tiny_model("mpnet")): "the adapter does not fit MPNetModel",
        (run, "--base_model", full): "the base model is different",
        (run, "--base_model", run.parent / "none" / "base"): "there is no such folder",
        (full, "--base_model", tiny_bert): f"--base_model: {full} has no adapter, so it needs no base model",
    }
    for arguments, why in refused.items():
        code, folder, shown = merge(*arguments)
        assert (code, why in shown) == (2, True), shown
        assert not folder.exists()
