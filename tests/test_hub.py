"""Uploads to a local server with the Hub's protocol; no test reaches beyond localhost."""

import json
import logging
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, close_session, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError

from aisle.errors import HubError
from aisle.hub import push_run, upload
from aisle.reporting.model_card import is_signed_card, render_model_card, signed_card, write_search_results
from tests.hub_server import TOKEN, HubServer, Repo, blob_id
from tests.reporting.test_search_section import RESULTS

# The client streams LFS uploads in a way that its own HTTP library calls outdated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

ENCODER = {
    "format_version": 1,
    "base_model": "/srv/models/e5-large-v2",
    "base_model_hub_id": "intfloat/e5-large-v2",
    "base_revision": None,
    "pooling": "mean",
    "normalize": True,
    "query_prompt": "/query/: ",
    "product_prompt": "passage: ",
    "max_length": 128,
    "adapter": True,
    "fingerprint": "f" * 64,
}
SETTINGS = {
    "train_file": ["/home/somebody/shop/pairs.csv"],
    "output_dir": "/home/somebody/runs/esci",
    "loss": "cosine_target",
    "learning_rate": 0.0005,
}
METRICS = {"best": {"step": 10, "roc_auc": 0.9, "best_f1": None}, "train_pairs": 700}
LOCAL_BASE = "/srv/models/e5-large-v2"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running server that replaces the Hub for this process, without a login."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    close_session()
    with HubServer() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        yield server
        close_session()


@pytest.fixture
def run(tmp_path):
    """A finished LoRA run, with contents that must not leave the machine."""
    folder = tmp_path / "esci"
    write(folder / "aisle.json", json.dumps(ENCODER))
    write(
        folder / "adapter_config.json",
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": LOCAL_BASE}),
    )
    write(folder / "adapter_model.safetensors", "w" * 3000)
    write(folder / "tokenizer.json", json.dumps({"model": {"vocab": {"/": 0, "/a/b": 1}}}))
    write(folder / "tokenizer_config.json", json.dumps({"name_or_path": LOCAL_BASE, "model_max_length": 512}))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "T"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "P"},
    ]
    write(folder / "modules.json", json.dumps(modules))
    write(folder / "1_Pooling/config.json", json.dumps({"pooling_mode": "mean"}))
    write(folder / "config.yaml", yaml.safe_dump(SETTINGS))
    write(folder / "metrics.json", json.dumps(METRICS))
    card = render_model_card(encoder=ENCODER, settings=SETTINGS, metrics=METRICS, repo_id=None)
    write(folder / "README.md", card)
    for name in (
        "checkpoints/step_10/model.safetensors",
        "logs/run.log",
        "wandb/latest/x",
        "shop/events.out.tfevents.1",
    ):
        write(folder / name, "private")
    for name in (".env", "half.tmp", "events.out.tfevents.2", "optimizer.pt"):
        write(folder / name, "private")
    return folder


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def contents(folder):
    paths = (path for path in Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


SENT = {
    "1_Pooling/config.json",
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "aisle.json",
    "config.yaml",
    "metrics.json",
    "modules.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def test_a_pushed_run_downloads_as_it_was_but_for_local_paths(hub, run, tmp_path):
    url = push_run(run, repo_id="acme/search", token=TOKEN)
    down = contents(snapshot_download("acme/search", cache_dir=tmp_path / "cache"))
    local = contents(run)
    assert url == f"{hub.url}/acme/search"
    assert set(down) == SENT
    untouched = SENT - {
        "README.md",
        "adapter_config.json",
        "aisle.json",
        "config.yaml",
        "tokenizer_config.json",
    }
    assert {path: down[path] for path in untouched} == {path: local[path] for path in untouched}
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "intfloat/e5-large-v2"}
    assert json.loads(down["adapter_config.json"]) == adapter
    assert json.loads(down["aisle.json"]) == ENCODER | {"base_model": "intfloat/e5-large-v2"}
    assert yaml.safe_load(down["config.yaml"]) == SETTINGS | {
        "train_file": ["pairs.csv"],
        "output_dir": "esci",
    }
    assert json.loads(down["tokenizer_config.json"]) == {
        "name_or_path": "intfloat/e5-large-v2",
        "model_max_length": 512,
    }
    expected = render_model_card(encoder=ENCODER, settings=SETTINGS, metrics=METRICS, repo_id="acme/search")
    assert down["README.md"].decode() == signed_card(expected)


def test_a_pushed_run_of_two_towers_has_both_folders_and_no_local_path(hub, run, tmp_path):
    towers = [
        {"sides": [side], "path": side, "base_model": f"/srv/models/{side}-base", "base_model_hub_id": None}
        for side in ("query", "product")
    ]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run / name).unlink()
    whole = {"towers": towers, "adapter": False, "fingerprint": "c0ffee", "query_fingerprint": "decaf"}
    write(run / "aisle.json", json.dumps(ENCODER | whole))
    write(run / "router_config.json", json.dumps({"types": {}}))
    for side in ("query", "product"):
        write(run / side / "aisle.json", json.dumps({"base_model": f"/srv/models/{side}-base"}))
        write(run / side / "model.safetensors", side)

    push_run(run, repo_id="acme/search", token=TOKEN)

    down = contents(snapshot_download("acme/search", cache_dir=tmp_path / "cache"))
    for side in ("query", "product"):
        assert down[f"{side}/model.safetensors"].decode() == side
        assert json.loads(down[f"{side}/aisle.json"])["base_model"] == f"{side}-base"
    assert not any(b"/srv/" in content for content in down.values())


def test_a_run_with_a_shared_tower_replaces_the_towers_of_an_earlier_one(hub, run):
    whole = [run / "query" / "model.safetensors", run / "query" / "aisle.json", run / "router_config.json"]
    for path in whole:
        write(path, "{}")
    push_run(run, repo_id="acme/search", token=TOKEN)
    for path in whole:
        path.unlink()

    push_run(run, repo_id="acme/search", token=TOKEN)

    assert "query/model.safetensors" not in hub.repos["acme/search"].files
    assert "router_config.json" not in hub.repos["acme/search"].files


def test_the_run_on_disk_is_not_altered(hub, run):
    before = contents(run)
    push_run(run, repo_id="acme/search", token=TOKEN)
    assert contents(run) == before


def test_one_push_is_one_commit_and_a_second_one_sends_only_what_changed(hub, run):
    push_run(run, repo_id="acme/search", token=TOKEN)
    push_run(run, repo_id="acme/search", token=TOKEN)
    assert len(hub.repos["acme/search"].commits) == 2  # the empty commit of the creation, and the upload
    write(run / "adapter_model.safetensors", "better")
    push_run(run, repo_id="acme/search", token=TOKEN)
    assert len(hub.repos["acme/search"].commits) == 3
    assert hub.repos["acme/search"].files["adapter_model.safetensors"] == b"better"
    assert sum(request.startswith("PUT /lfs-upload/") for request in hub.requests) == 2


def test_weights_of_an_earlier_run_of_the_other_kind_are_removed(hub, run):
    push_run(run, repo_id="acme/search", token=TOKEN)
    hub.repos["acme/search"].files["NOTES.md"] = b"mine"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (run / name).unlink()
    write(run / "aisle.json", json.dumps(ENCODER | {"adapter": False}))
    write(run / "model.safetensors", "all")
    push_run(run, repo_id="acme/search", token=TOKEN)
    adapter = {"adapter_config.json", "adapter_model.safetensors"}
    assert set(hub.repos["acme/search"].files) == SENT - adapter | {"model.safetensors", "NOTES.md"}


def test_the_folder_names_the_repository_when_nobody_else_does(hub, run):
    assert push_run(run, repo_id=None, token=TOKEN) == f"{hub.url}/acme/esci"
    assert b'SentenceTransformer("acme/esci")' in hub.repos["acme/esci"].files["README.md"]


def test_a_private_repository_is_hidden_from_those_without_a_token(hub, run, tmp_path):
    push_run(run, repo_id="acme/search", token=TOKEN, private=True)
    options = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("acme/search", "aisle.json", **options)
    assert Path(hf_hub_download("acme/search", "aisle.json", token=TOKEN, **options)).is_file()


@pytest.mark.parametrize("files", [{}, {"notes.txt": b"mine"}])
def test_a_run_that_must_be_private_is_not_sent_to_a_public_repository(hub, run, files):
    hub.repos["acme/search"] = Repo(private=False)
    hub.repos["acme/search"].commit(files)
    with pytest.raises(HubError, match=r"^--hub_private: acme/search exists and is public"):
        push_run(run, repo_id="search", token=TOKEN, private=True)
    assert hub.repos["acme/search"].files == files
    assert not any("/commit/" in request or "lfs" in request for request in hub.requests)


@pytest.mark.parametrize("private", [False, True])
def test_a_run_goes_to_a_private_repository_that_is_there_and_it_stays_private(hub, run, private):
    hub.repos["acme/search"] = Repo(private=True)
    push_run(run, repo_id="acme/search", token=TOKEN, private=private)
    assert set(hub.repos["acme/search"].files) == SENT
    assert hub.repos["acme/search"].private


def test_the_advice_after_a_failed_private_upload_is_private_too(hub, run):
    hub.fail_with(503)
    with pytest.raises(HubError, match=r"with: aisle push \S+ --hub_model_id a/b --hub_private$"):
        push_run(run, repo_id="a/b", token=TOKEN, private=True)


def edit_card(hub, change):
    repo = hub.repos["acme/search"]
    repo.commit({**repo.files, "README.md": change(repo.files["README.md"])})


EDITS = {
    "a sentence at the end": lambda card: card + b"\nNot for medical products.\n",
    "a sentence above": lambda card: card.replace(b"\n---\n", b"\n---\nNot for medical products.\n", 1),
    "metadata": lambda card: card.replace(b"---\n", b"---\nlicense: mit\n", 1),
    "another card": lambda card: b"# Our search\n",
    "not text": lambda card: b"\xff\xfe",
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_card_that_was_edited_on_the_hub_is_kept_until_it_is_to_be_overwritten(hub, run, edit, caplog):
    push_run(run, repo_id="acme/search", token=TOKEN)
    edit_card(hub, EDITS[edit])
    edited = hub.repos["acme/search"].files["README.md"]
    write(run / "README.md", (run / "README.md").read_text() + "\nNew figures.\n")
    write(run / "adapter_model.safetensors", "better")
    for _ in range(2):
        push_run(run, repo_id="acme/search", token=TOKEN)
        assert "README.md of acme/search was edited on the Hub, so it is kept" in caplog.text
        assert hub.repos["acme/search"].files["README.md"] == edited
        assert hub.repos["acme/search"].files["adapter_model.safetensors"] == b"better"
    push_run(run, repo_id="acme/search", token=TOKEN, overwrite_card=True)
    assert b"New figures." in hub.repos["acme/search"].files["README.md"]


def test_a_card_that_nobody_edited_is_replaced_by_that_of_a_later_run(hub, run, caplog, tmp_path):
    push_run(run, repo_id="acme/search", token=TOKEN)
    down = Path(snapshot_download("acme/search", cache_dir=tmp_path / "cache")) / "README.md"
    write(run / "README.md", down.read_text() + "\nNew figures.\n")
    push_run(run, repo_id="acme/search", token=TOKEN)
    pushed = hub.repos["acme/search"].files["README.md"].decode()
    assert "New figures." in pushed
    assert is_signed_card(pushed)
    assert "edited" not in caplog.text


def test_the_token_of_the_environment_is_used_when_none_is_given(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push_run(run, repo_id="search", commit_message="First")
    assert set(hub.repos["acme/search"].files) == SENT


def test_a_base_model_that_is_not_on_the_hub_is_named_without_its_folder(hub, run, caplog):
    write(run / "aisle.json", json.dumps(ENCODER | {"base_model_hub_id": None}))
    push_run(run, repo_id="acme/search", token=TOKEN)
    adapter = json.loads(hub.repos["acme/search"].files["adapter_config.json"])
    assert adapter["base_model_name_or_path"] == "e5-large-v2"
    assert "'e5-large-v2'" in caplog.text
    assert not any(b"/srv/" in content for content in hub.repos["acme/search"].files.values())


def test_the_charts_of_the_card_are_sent_with_it(hub, run, tmp_path):
    images = {"retrieval": b"\x89PNG\r\n\x1a\n\xff\x00", "roc": b"\x89PNG other"}
    write_search_results(run, RESULTS, images)
    write(run / "evaluation/.roc.png.writing", "private")
    write(run / "evaluation/notes.txt", "private")
    write(run / "evaluation/launch-plan.png", "a picture of somebody else's")
    write(run / "evaluation/figures/roc.png", "of a report")
    write(run / "evaluation/deeper/more.png", "private")

    push_run(run, repo_id="acme/search", token=TOKEN)

    down = contents(snapshot_download("acme/search", cache_dir=tmp_path / "cache"))
    charts = {f"evaluation/{name}.png": content for name, content in images.items()}
    assert set(down) == SENT | set(charts)
    assert {path: down[path] for path in charts} == charts
    card = down["README.md"].decode()
    assert all(f"]({path})" in card for path in charts)
    assert "\n- name: search\n" in card


def test_a_card_with_line_ends_of_windows_is_sent_as_it_is(hub, run):
    card = (run / "README.md").read_bytes().replace(b"\n", b"\r\n")
    (run / "README.md").write_bytes(card)
    push_run(run, repo_id="acme/search", token=TOKEN)
    pushed = hub.repos["acme/search"].files["README.md"]
    assert (
        pushed.count(b"\n") == pushed.count(b"\r\n") == card.count(b"\n") + 2
    )  # a blank line and the checksum


def test_a_card_that_is_not_text_is_refused_before_anything_is_sent(hub, run):
    (run / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(HubError, match=r"README\.md: cannot be read as UTF-8.*, so the run was not uploaded"):
        push_run(run, repo_id="acme/search", token=TOKEN)
    assert hub.requests == []


def test_a_card_that_its_owner_edited_is_kept(hub, run):
    card = (run / "README.md").read_text() + f"\nTrained in {run.resolve()} on {LOCAL_BASE}.\n"
    write(run / "README.md", card)
    push_run(run, repo_id="acme/search", token=TOKEN)
    pushed = hub.repos["acme/search"].files["README.md"].decode()
    assert "\nTrained in esci on intfloat/e5-large-v2.\n" in pushed


def test_a_run_without_a_card_gets_one(hub, run):
    (run / "README.md").unlink()
    push_run(run, repo_id="acme/search", token=TOKEN)
    assert b"| ROC-AUC | not measured | 0.9000 |" in hub.repos["acme/search"].files["README.md"]


FAILURES = {
    "wrong token": (lambda hub, patch: setattr(hub, "token", "another"), {}, "did not accept the token"),
    "no token": (lambda hub, patch: None, {"token": None}, "there is no token"),
    "token with a line break": (lambda hub, patch: None, {"token": TOKEN + "\n"}, "line break"),
    "someone else's": (
        lambda hub, patch: None,
        {"repo_id": "others/search"},
        "may not write to others/search",
    ),
    "bad name": (lambda hub, patch: None, {"repo_id": "acme/my search"}, "not a name that the Hub allows"),
    "server fault": (lambda hub, patch: hub.fail_with(503), {}, "has a fault \\(503"),
    "fault while committing": (
        lambda hub, patch: hub.fail_with(500, at="/commit/"),
        {},
        "has a fault \\(500",
    ),
    "fault with metadata": (lambda hub, patch: hub.fail_with(502, at="/validate-yaml"), {}, "\\(502"),
    "object store": (lambda hub, patch: hub.fail_with(403, at="/lfs-upload/"), {}, "may not write"),
    "too many requests": (lambda hub, patch: hub.fail_with(429), {}, "refused the request \\(429"),
    "no answer": (lambda hub, patch: hub.fail_with(None), {}, "gave no answer \\(ReadTimeout"),
    "nobody there": (
        lambda hub, patch: patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9"),
        {},
        "gave no answer \\(ConnectError",
    ),
    "no such endpoint": (
        lambda hub, patch: patch.setattr(constants, "ENDPOINT", "hub.example"),
        {},
        "gave no answer \\(UnsupportedProtocol",
    ),
    "offline": (
        lambda hub, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True),
        {},
        "HF_HUB_OFFLINE is set",
    ),
    "lost file": (
        lambda hub, patch: hub.lost.add("modules.json"),
        {},
        "another size: modules.json",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failed_upload_says_why_and_how_to_push_later_and_never_the_token(
    case, hub, run, monkeypatch, capfd, caplog
):
    prepare, arguments, why = FAILURES[case]
    prepare(hub, monkeypatch)
    monkeypatch.setattr(upload, "TIMEOUTS", (0.3, 0.3, 0.3, 0.3))
    before = contents(run)
    with caplog.at_level(logging.DEBUG), pytest.raises(HubError, match=why) as caught:
        push_run(run, **{"repo_id": "acme/search", "token": TOKEN, **arguments})
    name = "OWNER/NAME" if case == "bad name" else arguments.get("repo_id", "acme/search")
    assert str(caught.value).endswith(f"upload it later with: aisle push {run} --hub_model_id {name}")
    assert f"The run is complete in {run}" in str(caught.value)
    assert contents(run) == before
    assert caught.value.__context__ is None
    shown = capfd.readouterr()
    assert TOKEN not in "".join([repr(caught.value), str(caught.value), caplog.text, shown.out, shown.err])


def test_a_token_that_a_server_repeats_is_blotted_out(hub, run):
    hub.fail_with(418)
    with pytest.raises(HubError, match=r"\(418: refused Bearer \*\*\*\)") as caught:
        push_run(run, repo_id="acme/search", token=TOKEN)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("text", ["hub_token: short-token", "note: hf_" + "AbCdEfGhIjKlMnOpQrStUvWx"])
def test_a_file_that_holds_a_token_stops_the_upload_before_it_begins(text, hub, run):
    write(run / "config.yaml", text)
    with pytest.raises(HubError, match=r"config\.yaml: this file contains a Hub token") as caught:
        push_run(run, repo_id="acme/search", token="short-token")
    assert text.split()[-1] not in str(caught.value)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("missing", "said"), [("aisle.json", "no aisle.json"), ("adapter_model.safetensors", "no weights")]
)
def test_a_folder_that_is_not_a_finished_run_is_refused(missing, said, hub, run):
    (run / missing).unlink()
    with pytest.raises(HubError, match=f"finished run.*{said}"):
        push_run(run, repo_id="acme/search", token=TOKEN)
    assert hub.requests == []


def test_damaged_settings_are_named(hub, run):
    write(run / "aisle.json", "{")
    with pytest.raises(HubError, match=r"aisle\.json: cannot be read"):
        push_run(run, repo_id="acme/search", token=TOKEN)


def test_the_endpoint_and_token_of_the_environment_reach_a_fresh_process(hub, run, tmp_path):
    push = f"print(push_run(Path({str(run)!r}), repo_id=None))"
    code = f"from pathlib import Path\nfrom aisle.hub import push_run\n{push}"
    done = python(code, hub.environment(tmp_path / "home", HF_TOKEN=TOKEN))
    assert done.stdout.split()[-1] == f"{hub.url}/acme/esci"
    assert set(hub.repos["acme/esci"].files) == SENT


def python(code, environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return done


def test_the_server_answers_who_one_is_lists_folders_and_serves_ranges(hub, tmp_path):
    write(tmp_path / "model/a.txt", "0123456789")
    write(tmp_path / "model/deep/b.txt", "b")
    hub.add_model("bert-tiny", tmp_path / "model")
    api = HfApi(token=TOKEN)
    assert api.whoami()["name"] == "acme"
    assert {entry.path for entry in api.list_repo_tree("bert-tiny")} == {"a.txt", "deep"}
    assert [entry.blob_id for entry in api.get_paths_info("bert-tiny", ["a.txt"])] == [blob_id(b"0123456789")]
    request = urllib.request.Request(
        f"{hub.url}/bert-tiny/resolve/main/a.txt", headers={"Range": "bytes=3-5"}
    )
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.read()) == (206, b"345")
        assert answer.headers["Content-Range"] == "bytes 3-5/10"


DATASETS = """
import sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from datasets import load_dataset
from huggingface_hub import CommitOperationAdd, HfApi

print(load_dataset("acme/csv")["test"][0])
pq.write_table(pa.table({"query": ["pan"], "relevance": [0.5]}), "train-00000-of-00001.parquet")
api = HfApi()
api.create_repo("acme/parquet", repo_type="dataset", private=True)
file = CommitOperationAdd("data/train-00000-of-00001.parquet", "train-00000-of-00001.parquet")
api.create_commit("acme/parquet", [file], commit_message="data", repo_type="dataset")
print(load_dataset("acme/parquet", split="train")[0])
# Read to the end: Arrow's threads may abort the interpreter at exit if a stream is left half-read.
print(*load_dataset("acme/parquet", split="train", streaming=True))
"""


def test_datasets_are_loaded_from_the_server(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "csv/train.csv", "query,product\na,b\n")
    write(tmp_path / "csv/test.csv", "query,product\nshoe,Running shoe\n")
    hub.add_dataset("acme/csv", tmp_path / "csv")
    done = python(DATASETS, hub.environment(tmp_path / "home", HF_TOKEN=TOKEN))
    row = "{'query': 'pan', 'relevance': 0.5}"
    assert done.stdout.splitlines() == ["{'query': 'shoe', 'product': 'Running shoe'}", row, row]


SNIPPETS = """
import json, re
from pathlib import Path
import numpy as np, torch
from huggingface_hub import CommitOperationAdd, HfApi
from peft import LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformer, models
from transformers import AutoModel, BertConfig, BertModel, BertTokenizerFast
from aisle.hub import push_run

torch.manual_seed(0)
words = "[PAD] [UNK] [CLS] [SEP] [MASK] query : passage waterproof running shoes trail shoe with a pan"
Path("vocab.txt").write_text("\\n".join(words.split()))
tokenizer = BertTokenizerFast("vocab.txt")
sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
BertModel(BertConfig(vocab_size=len(words.split()), **sizes)).save_pretrained("base")
tokenizer.save_pretrained("base")
api = HfApi()
api.create_repo("acme/base")
files = [CommitOperationAdd(path.name, path) for path in Path("base").iterdir()]
api.create_commit("acme/base", files, commit_message="base")

run = Path("tiny")
lora = LoraConfig(target_modules=["query"], init_lora_weights=False)
tuned = get_peft_model(AutoModel.from_pretrained("base"), lora).eval()
tuned.save_pretrained(run)
tokenizer.save_pretrained(run)
(run / "README.md").unlink()
parts = [models.Transformer("base", max_seq_length=32), models.Pooling(16), models.Normalize()]
SentenceTransformer(modules=parts, prompts={"query": "query: ", "document": "passage: "}).save("st")
for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
    (run / name).write_text(Path("st", name).read_text())
Path("st/1_Pooling").rename(run / "1_Pooling")
encoder = dict(
    base_model="base", base_model_hub_id="acme/base", base_revision=None, fingerprint="f", adapter=True,
    pooling="mean", normalize=True, query_prompt="query: ", product_prompt="passage: ", max_length=32,
)
(run / "aisle.json").write_text(json.dumps(encoder))
push_run(run, repo_id="acme/tiny")

card = Path(api.hf_hub_download("acme/tiny", "README.md")).read_text()
snippets = [code for code in re.findall(r"```python\\n(.*?)```", card, re.S) if "import aisle" not in code]
results = []
for code in snippets:
    scope = {}
    exec(code, scope)
    results.append((np.asarray(scope["queries"]), np.asarray(scope["products"])))
peft, sentence_transformers = results
for found, expected in zip(peft, sentence_transformers):
    np.testing.assert_allclose(found, expected, atol=1e-6)
with torch.inference_mode():
    batch = tokenizer(["query: waterproof running shoes"], return_tensors="pt")
    expected = tuned(**batch).last_hidden_state.mean(1)
np.testing.assert_allclose(peft[0], torch.nn.functional.normalize(expected, dim=1), atol=1e-6)
print("all the same")
"""


def test_the_snippets_of_a_pushed_card_run_and_agree(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = python(SNIPPETS, hub.environment(tmp_path / "home", HF_TOKEN=TOKEN))
    assert done.stdout.splitlines()[-1] == "all the same"
