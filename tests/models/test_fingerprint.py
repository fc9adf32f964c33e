import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from aisle.errors import ModelError
from aisle.models.fingerprint import fingerprint_of
from aisle.models.loading import load_encoder
from aisle.models.tokenizers import load_tokenizer
from aisle.types.encoder_settings import EncoderSettings, Overrides
from tests.edit_json import edit_json


def fingerprint(folder, **options):
    """Return the fingerprint of the files, even if they differ from those that the run recorded."""
    if (folder / "aisle.json").is_file():
        saved = json.loads((folder / "aisle.json").read_text())
        options.setdefault("overrides", Overrides(max_length=saved["max_length"]))
    return load_encoder(folder, device="cpu", **options).fingerprint


def change_one_weight(path):
    weights = load_file(path)
    name = sorted(weights)[0]
    weights[name].view(-1)[0] += 0.001
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture
def run(save_run, tiny_bert, tmp_path):
    """A LoRA run and a copy of its base model, so that a test can change both."""
    base = tmp_path / "base"
    shutil.copytree(tiny_bert, base)
    return save_run(base=base)


def saved_fingerprint(run):
    return json.loads((run / "aisle.json").read_text())["fingerprint"]


@pytest.mark.parametrize("adapter", [True, False])
def test_a_fingerprint_is_64_hexadecimal_digits_and_survives_saving_and_loading(adapter, save_run):
    run = save_run(adapter=adapter)

    assert len(bytes.fromhex(fingerprint(run))) == 32
    assert fingerprint(run) == saved_fingerprint(run) == fingerprint(run)


@pytest.mark.parametrize("adapter", [True, False])
def test_copying_the_folder_keeps_the_fingerprint(adapter, save_run, tmp_path):
    run = save_run(adapter=adapter)
    shutil.copytree(run, tmp_path / "elsewhere" / "run")

    assert fingerprint(tmp_path / "elsewhere" / "run") == saved_fingerprint(run)


def test_copying_the_base_model_keeps_the_fingerprint(run, tmp_path):
    shutil.copytree(tmp_path / "base", tmp_path / "moved")

    assert fingerprint(run, base_model=str(tmp_path / "moved")) == saved_fingerprint(run)


def test_other_files_of_a_run_do_not_change_the_fingerprint(run):
    before = fingerprint(run)
    (run / "README.md").write_text("A card.")
    (run / "metrics.json").write_text("{}")
    (run / "checkpoints").mkdir()

    assert fingerprint(run) == before


def test_encoding_does_not_change_the_fingerprint(run):
    encoder = load_encoder(run, device="cpu")
    encoder.encode_queries(["red shoes"])

    assert fingerprint(run) == encoder.fingerprint


def test_one_base_weight_changes_the_fingerprint(run, tmp_path):
    change_one_weight(tmp_path / "base" / "model.safetensors")

    assert fingerprint(run) != saved_fingerprint(run)


def test_one_adapter_weight_changes_the_fingerprint(run):
    change_one_weight(run / "adapter_model.safetensors")

    assert fingerprint(run) != saved_fingerprint(run)


def test_one_weight_of_a_full_run_changes_the_fingerprint(save_run):
    run = save_run(adapter=False)
    change_one_weight(run / "model.safetensors")

    assert fingerprint(run) != saved_fingerprint(run)


def test_the_scale_of_the_adapter_changes_the_fingerprint(run):
    path = run / "adapter_config.json"
    edit_json(path, lora_alpha=9)

    assert fingerprint(run) != saved_fingerprint(run)


def test_the_location_of_the_base_model_does_not_change_the_fingerprint(run, tmp_path):
    path = run / "adapter_config.json"
    edit_json(path, base_model_name_or_path="/elsewhere")

    assert fingerprint(run) == saved_fingerprint(run)


def test_the_vocabulary_changes_the_fingerprint(run):
    path = run / "tokenizer.json"
    path.write_text(path.read_text().replace('"shoes":', '"shoez":'))

    assert fingerprint(run) != saved_fingerprint(run)


@pytest.mark.parametrize("change", [{"do_lower_case": False}, {"truncation_side": "left"}])
def test_settings_of_the_tokenizer_change_the_fingerprint(change, run):
    path = run / "tokenizer_config.json"
    edit_json(path, **change)

    assert fingerprint(run) != saved_fingerprint(run)


@pytest.mark.parametrize(
    "overrides",
    [
        {"pooling": "cls"},
        {"query_prompt": "query: "},
        {"product_prompt": "passage: "},
        {"max_length": 63},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_every_setting_changes_the_fingerprint(overrides, run):
    assert fingerprint(run, overrides=Overrides(**overrides)) != saved_fingerprint(run)


def test_normalisation_changes_the_fingerprint(run):
    before = fingerprint(run)
    path = run / "aisle.json"
    edit_json(path, normalize=False)

    assert fingerprint(run) != before


def test_swapped_prompts_change_the_fingerprint(run):
    one = fingerprint(run, overrides=Overrides(query_prompt="a", product_prompt="b"))
    other = fingerprint(run, overrides=Overrides(query_prompt="b", product_prompt="a"))

    assert one != other


def test_base_and_run_have_different_fingerprints(run, tmp_path):
    assert fingerprint(run) != fingerprint(tmp_path / "base")


@pytest.mark.parametrize(
    "changes",
    [
        {"modules_to_save": ["dense"]},
        {"use_dora": True},
        {"lora_alpha": 9},
        {"layers_to_transform": [0]},
        {"fan_in_fan_out": True},
        {"target_modules": ["query"]},
        {"lora_bias": True},
    ],
    ids=str,
)
def test_settings_of_an_adapter_that_change_its_output_change_the_fingerprint(changes, run, tiny_bert):
    before = of_files(run)

    edit_json(run / "adapter_config.json", **changes)

    assert of_files(run) != before


@pytest.mark.parametrize(
    "changes", [{"lora_dropout": 0.5}, {"base_model_name_or_path": "x"}, {"inference_mode": 0}]
)
def test_settings_of_training_and_of_the_machine_do_not_change_the_fingerprint(changes, run):
    before = of_files(run)

    edit_json(run / "adapter_config.json", **changes)

    assert of_files(run) == before


def of_files(run):
    settings = EncoderSettings("mean", "", "", 16)
    return fingerprint_of(base_dir=run.parent / "base", model_dir=run, adapter=True, settings=settings)


def test_the_magnitudes_of_dora_change_the_fingerprint(save_run):
    run = save_run(lora={"use_dora": True})
    weights = load_file(run / "adapter_model.safetensors")
    before = fingerprint(run)

    (magnitude, *_) = [name for name in sorted(weights) if "magnitude" in name]
    save_file(weights | {magnitude: weights[magnitude] * 1.01}, run / "adapter_model.safetensors")

    assert fingerprint(run) != before


@pytest.mark.parametrize("file", ["modeling_mine.py", "parts/layers.py"])
def test_code_that_a_repositorys_configuration_names_changes_the_fingerprint(file, run, tmp_path):
    base = tmp_path / "base"
    (base / file).parent.mkdir(exist_ok=True)
    (base / file).write_text("A = 1\n", encoding="utf-8")
    without = of_files(run)
    (base / file).write_text("A = 2\n", encoding="utf-8")
    assert of_files(run) == without  # nothing runs it

    edit_json(base / "config.json", auto_map={"AutoModel": "modeling_mine.Mine"})
    before = of_files(run)
    (base / file).write_text("A = 3\n", encoding="utf-8")

    assert of_files(run) != before


def test_lower_case_changes_the_fingerprint(run, tmp_path):
    for path in run.glob("tokenizer*"):
        path.unlink()
    before = of_files(run)

    edit_json(tmp_path / "base" / "sentence_bert_config.json", do_lower_case=True)

    assert of_files(run) != before


def test_a_run_of_an_earlier_format_is_refused_clearly(run):
    edit_json(run / "aisle.json", format_version=1)

    with pytest.raises(
        ModelError, match=r"has format 1, and this version of aisle reads 2, in which the fingerprint covers"
    ):
        load_encoder(run, device="cpu")


@pytest.mark.parametrize("trusted", [True, False])
def test_the_tokenizer_of_a_run_runs_code_only_if_that_is_allowed(trusted, run, monkeypatch):
    allowed = []

    def recorded(folder, *, trust_remote_code):
        allowed.append((folder.name, trust_remote_code))
        return load_tokenizer(folder, trust_remote_code=trust_remote_code)

    monkeypatch.setattr("aisle.models.loading.load_tokenizer", recorded)

    load_encoder(run, device="cpu", trust_remote_code=trusted)

    assert allowed == [("base", trusted), (run.name, trusted)]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (Overrides(), "ee39ff5dfd10787e07a1681d536bb9804c023d44557c2d7602f991ea0ec60ec4"),
        (
            Overrides("cls", query_prompt="query: ", product_prompt="passage: ", max_length=40),
            "d8bece02234a97820d2ef55b98be1f4af988edff1d10339e18acc2e2e57402a9",
        ),
    ],
)
def test_models_without_heads_keep_the_fingerprint_of_earlier_versions(overrides, expected, minilm):
    """Existing runs and indexes stay valid: these values were computed before towers had heads."""
    assert load_encoder(minilm, overrides=overrides, device="cpu").fingerprint == expected
