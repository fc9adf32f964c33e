"""The commands with a Hub: load a model and pairs, push the run, and keep the run if the upload fails."""

import json
import re
import shlex
from collections import namedtuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from aisle.index import open_index
from aisle.models.loading import load_encoder
from tests.commands.conftest import QUERIES, judged_rows, write_rows
from tests.commands.launch import RankServer
from tests.hub_server import TOKEN, HubServer

WRONG_TOKEN = "hf_" + "AnotherTokenThatNobodyGave000000"
NOWHERE = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""
COLUMNS = ("query", "product", "relevance")
SENT = {
    "1_Pooling/config.json",
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "aisle.json",
    "config.yaml",
    "config_sentence_transformers.json",
    "metrics.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
Done = namedtuple("Done", "code out err")
Shop = namedtuple("Shop", "hub tiny pairs cache servers")


@pytest.fixture(scope="module")
def shop(tiny_bert, tmp_path_factory):
    """A Hub that holds the tiny model and, as parquet, the pairs of a tiny shop."""
    pairs = tmp_path_factory.mktemp("pairs")
    splits = {"train": QUERIES, "validation": ["green sofa", "tall lamp", "round table", "kids chair"]}
    (pairs / "data").mkdir()
    for split, queries in splits.items():
        columns = dict(zip(COLUMNS, zip(*judged_rows(queries), strict=True), strict=True))
        pq.write_table(pa.table(columns), pairs / "data" / f"{split}-00000-of-00001.parquet")
    with HubServer() as hub:
        hub.add_model("acme/tiny", tiny_bert)
        hub.add_dataset("acme/pairs", pairs)
        servers = {}
        yield Shop(hub, tiny_bert, pairs, tmp_path_factory.mktemp("home"), servers)
        for server in servers.values():
            server.end()


def run(shop, script, *arguments, **environment):
    """Run a script with the test's Hub in place of the Hub."""
    given = shop.hub.environment(shop.cache, OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true")
    # Libraries read the token when they use it, but other variables when they are imported.
    imported = {name: value for name, value in environment.items() if name != "HF_TOKEN"}
    server = shop.servers.setdefault(tuple(imported.items()), RankServer({**given, **imported}))
    done = server.run(None, script, *arguments, environment={**given, **environment}, check=False)
    assert TOKEN not in done.stdout + done.stderr
    assert WRONG_TOKEN not in done.stdout + done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def run_each(shop, *commands, **environment):
    """Run several commands of aisle in a process; return the result of each."""
    arguments = json.dumps([[str(argument) for argument in command] for command in commands])
    done = run(shop, "tests/commands/several_commands.py", arguments, **environment)
    assert done.code == 0, done.err[-3000:]
    *outs, codes = done.out.split("\x1e")
    errs = done.err.split("\x1e")[:-1]
    return [Done(*one) for one in zip(map(int, codes.split()), outs, errs, strict=True)]


def training(run_dir, *flags, pairs, model, steps=1):
    flags = ["--max_length", 16, "--max_train_steps", steps, "--per_device_train_batch_size", 8, *flags]
    return [
        "--use_peft",
        "--dataset_name",
        pairs,
        "--model_name_or_path",
        model,
        "--output_dir",
        run_dir,
        *flags,
    ]


def pushing(name, token):
    return ["--push_to_hub", "--hub_model_id", name, "--hub_token", token]


@pytest.fixture(scope="module")
def pushed(shop, tmp_path_factory):
    """A run trained from the Hub's model and pairs and pushed to it: its folder, and its output."""
    run_dir = tmp_path_factory.mktemp("runs") / "search"
    done = run(
        shop,
        "train_peft.py",
        *training(run_dir, pairs="acme/pairs", model="acme/tiny", steps=6),
        *("--checkpointing_steps", "epoch", "--with_tracking", "--report_to", "tensorboard"),
        *("--learning_rate", 0.01, "--seed", 7),
        *pushing("acme/search", TOKEN),
    )
    assert done.code == 0, done.err[-3000:]
    return run_dir, done


def test_a_run_from_the_hub_is_on_the_hub_without_its_checkpoints_and_logs(pushed, shop):
    run_dir, done = pushed
    files = shop.hub.repos["acme/search"].files
    assert f"uploaded to {shop.hub.url}/acme/search" in done.out
    assert (run_dir / "checkpoints").is_dir()
    assert set(files) == SENT
    assert files["adapter_model.safetensors"] == (run_dir / "adapter_model.safetensors").read_bytes()
    adapter = json.loads(files["adapter_config.json"])
    assert adapter["base_model_name_or_path"] == "acme/tiny"
    assert adapter["revision"] == shop.hub.repos["acme/tiny"].commits[-1][0]
    encoder = json.loads(files["aisle.json"])
    assert (encoder["base_model"], encoder["max_length"]) == ("acme/tiny", 16)


def test_the_token_is_in_no_file_of_the_run_and_of_the_hub(pushed, shop):
    run_dir, _ = pushed
    for path in run_dir.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
    for path, content in shop.hub.repos["acme/search"].files.items():
        assert TOKEN.encode() not in content, path


def test_no_path_of_this_machine_is_on_the_hub(pushed, shop):
    run_dir, _ = pushed
    for path, content in shop.hub.repos["acme/search"].files.items():
        assert str(run_dir.parent).encode() not in content, path
        assert str(shop.cache).encode() not in content, path


def test_the_card_names_the_base_the_pairs_and_the_results(pushed, shop):
    run_dir, _ = pushed
    card = shop.hub.repos["acme/search"].files["README.md"].decode()
    metadata = yaml.safe_load(card.split("---\n")[1])
    best = json.loads((run_dir / "metrics.json").read_text())["best"]
    (result,) = metadata["model-index"][0]["results"]
    assert (metadata["base_model"], metadata["base_model_relation"]) == ("acme/tiny", "adapter")
    assert metadata["datasets"] == ["acme/pairs"]
    assert result["dataset"]["type"] == "acme/pairs"
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["roc_auc"] == pytest.approx(best["roc_auc"], abs=1e-5)
    assert 'aisle.load_encoder("acme/search")' in card


def test_an_index_is_built_and_queried_with_the_pushed_model_from_the_hub(pushed, shop, tmp_path):
    run_dir, _ = pushed
    index_dir = tmp_path / "index"
    build = ["build", "--model", "acme/search", "--pairs", "acme/pairs", "--precision", "fp32"]
    built, answered = run_each(
        shop,
        [*build, "--index_dir", index_dir, "--threads", 1],
        ["query", "--index_dir", index_dir, "modern lamp model 10", "--json"],
    )
    assert (built.code, answered.code) == (0, 0), built.err + answered.err
    index = open_index(index_dir)
    titles = [payload["product"] for payload in index.payload(np.arange(len(index)))]
    assert set(titles) == {title for _, title, _ in judged_rows(QUERIES)}
    encoder = load_encoder(run_dir, base_model=str(shop.tiny), device="cpu")
    assert index.manifest.fingerprint == encoder.fingerprint
    stored = index.embeddings
    np.testing.assert_allclose(stored, encoder.encode_products(titles), atol=1e-5)
    cosines = encoder.encode_queries(["modern lamp model 10"]) @ stored.T
    best = json.loads(answered.out)[0]["results"][0]
    assert best["payload"]["product"] == titles[int(cosines.argmax())]
    assert best["score"] == pytest.approx(float(cosines.max()), abs=1e-5)


def test_a_run_of_the_hub_is_merged_and_pushed_without_its_adapter(pushed, shop, tmp_path):
    run_dir, _ = pushed
    commit = shop.hub.repos["acme/search"].commits[-1][0]
    merged = tmp_path / "merged"
    command = ["merge", "acme/search", "--model_revision", commit]
    done, sent, absent = run_each(
        shop,
        [*command, "--output_dir", merged],
        ["push", merged, "--hub_model_id", "acme/merged", "--hub_token", TOKEN],
        ["merge", "acme/search", "--model_revision", "v9", "--output_dir", tmp_path / "absent"],
    )
    assert (done.code, sent.code) == (0, 0), done.err + sent.err
    assert absent.code == 2
    assert "the Hub has no revision 'v9' of this model" in absent.err
    assert not (tmp_path / "absent").exists()

    encoder = load_encoder(run_dir, base_model=str(shop.tiny), device="cpu")
    record = json.loads((merged / "aisle.json").read_text())["merged_from"]
    assert (record["name"], record["revision"]) == ("acme/search", commit)
    assert record["fingerprint"] == encoder.fingerprint
    texts = ["red sofa", "lamp"]
    found = load_encoder(merged, device="cpu").encode_queries(texts)
    np.testing.assert_allclose(found, encoder.encode_queries(texts), atol=1e-5)
    files = shop.hub.repos["acme/merged"].files
    adapter, whole = (
        {"adapter_config.json", "adapter_model.safetensors"},
        {"config.json", "model.safetensors"},
    )
    assert set(files) == SENT - adapter | whole
    assert not [path for path, content in files.items() if str(tmp_path).encode() in content]
    card = files["README.md"].decode()
    assert f"the LoRA run `acme/search`, fingerprint `{encoder.fingerprint}` |" in card
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "acme/tiny"


def assert_whole(run_dir):
    encoder = load_encoder(run_dir, device="cpu")
    saved = json.loads((run_dir / "aisle.json").read_text())
    assert encoder.fingerprint == saved["fingerprint"]
    assert encoder.encode_queries(["red sofa"]).shape == (1, 32)
    for path in run_dir.rglob("*"):
        assert not path.is_file() or WRONG_TOKEN.encode() not in path.read_bytes(), path


def assert_upload_failed(done, run_dir, *, why, name):
    later = f"upload it later with: aisle push {shlex.quote(str(run_dir))} --hub_model_id {name}"
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err.count("error: ") == 1
    assert why in done.err
    assert f"The run is complete in {run_dir}; {later}\n" in done.err
    assert f"saved to {run_dir}" in done.out


def test_uploads_that_the_hub_refuses_leave_whole_runs_and_the_command_they_print_works(shop, tmp_path):
    refused, misnamed = tmp_path / "refused", tmp_path / "mis named"
    local = {"pairs": shop.pairs, "model": shop.tiny}
    wrong_token, bad_name = run_each(
        shop,
        ["train", *training(refused, **local), *pushing("acme/later", WRONG_TOKEN)],
        ["train", *training(misnamed, **local), *pushing("acme/my search", TOKEN)],
    )
    assert_upload_failed(
        wrong_token, refused, why="did not accept the token for acme/later (401)", name="acme/later"
    )
    assert_upload_failed(bad_name, misnamed, why="not a name that the Hub allows", name="OWNER/NAME")
    for run_dir in (refused, misnamed):
        assert_whole(run_dir)
    assert "acme/later" not in shop.hub.repos
    printed = re.search(r"aisle (push .*)\n", wrong_token.err)[1]
    (later,) = run_each(shop, shlex.split(printed), HF_TOKEN=TOKEN)
    assert later.code == 0, later.err
    assert f"uploaded to {shop.hub.url}/acme/later" in later.out
    assert set(shop.hub.repos["acme/later"].files) == SENT


def test_an_unreachable_hub_fails_the_upload_and_keeps_the_run(shop, tmp_path):
    run_dir = tmp_path / "run"
    local = training(run_dir, pairs=shop.pairs, model=shop.tiny)
    push = ["push", run_dir, "--hub_model_id", "acme/gone", "--hub_token", TOKEN, "--json"]
    done, again = run_each(shop, ["train", *local, *pushing("acme/gone", TOKEN)], push, HF_ENDPOINT=NOWHERE)
    assert_upload_failed(done, run_dir, why=f"the Hub at {NOWHERE} gave no answer", name="acme/gone")
    assert (again.code, again.out) == (2, "")
    assert_whole(run_dir)
    (later,) = run_each(shop, push)
    assert json.loads(later.out) == {"run_dir": str(run_dir), "url": f"{shop.hub.url}/acme/gone"}
    assert set(shop.hub.repos["acme/gone"].files) == SENT


def test_names_that_the_hub_does_not_know_are_one_message_each(shop, tmp_path):
    catalog = write_rows(tmp_path / "catalog.csv", ["product_id", "title"], [("a", "red sofa")])
    missing = run_each(
        shop,
        ["train", *training(tmp_path / "run", pairs="acme/absent", model=shop.tiny)],
        ["train", *training(tmp_path / "run", pairs=shop.pairs, model="acme/absent")],
        ["build", "--model", "acme/absent", "--catalog", catalog, "--index_dir", tmp_path / "index"],
    )
    assert_one_message(missing, "acme/absent")
    assert [path.name for path in tmp_path.iterdir()] == ["catalog.csv"]


def test_without_a_network_what_is_cached_trains_and_what_is_not_is_named(pushed, shop, tmp_path):
    catalog = write_rows(tmp_path / "catalog.csv", ["product_id", "title"], [("a", "red sofa")])
    model_is_not = ["train", *training(tmp_path / "run", pairs=shop.pairs, model="acme/elsewhere")]
    cached, *offline = run_each(
        shop,
        ["train", *training(tmp_path / "cached", pairs="acme/pairs", model="acme/tiny")],
        ["train", *training(tmp_path / "run", pairs="acme/elsewhere", model=shop.tiny)],
        model_is_not,
        ["build", "--model", "acme/elsewhere", "--catalog", catalog, "--index_dir", tmp_path / "index"],
        ["build", "--model", shop.tiny, "--pairs", "acme/elsewhere", "--index_dir", tmp_path / "index"],
        HF_HUB_OFFLINE="1",
    )
    unreachable = run_each(shop, model_is_not, HF_ENDPOINT=NOWHERE)
    assert (cached.code, cached.err) == (0, "")
    assert_one_message([*offline, *unreachable], "acme/elsewhere")
    assert all("HF_HUB_OFFLINE" in done.err for done in [*offline, *unreachable])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cached", "catalog.csv"]


def assert_one_message(commands, name):
    for done in commands:
        assert done.code == 2
        assert done.err.startswith(f"error: {name}: ")
        assert done.err.count("\n") == 1
