"""A new version, or a new pair of model and index, is checked and then replaces the one in use."""

import json
import shutil
import threading
from dataclasses import replace

import pytest

from aisle.cli import main
from aisle.errors import FingerprintMismatchError, IndexIntegrityError
from aisle.index import delete_products, read_manifest
from aisle.service.api_keys import ApiKeys
from aisle.service.engine import Engine
from aisle.service.pairs.pointer_file import pointer_beside, publish_pair, read_pointer
from aisle.service.pairs.served_pair import load_pair
from aisle.service.pairs.swap import PairSwapper, followed_pointer, watched_index
from aisle.service.request_errors import RequestError
from tests.service.running_server import running_server
from tests.service.served_shop import write_served_shop

KEY = "k" * 16


def engine_of(swapper):
    return swapper._engine


def damage(index_dir, number, name="embeddings.npy"):
    """Change a byte of a version, as a failing disk does."""
    path = index_dir / "versions" / f"{number:06d}" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_new_version_replaces_the_old_one_which_can_still_be_named(changing, swapper):
    encoder = engine_of(swapper).pair.encoder
    assert swapper.swap() is False
    delete_products(changing.index_dir, ["p004"])

    assert swapper.swap() is True

    engine = engine_of(swapper)
    assert (engine.pair.version, engine.pair.encoder is encoder) == (2, True)
    assert (swapper.status.swaps, swapper.status.problem) == (1, None)
    with changing.client(engine=engine) as client:
        found = {
            version: client.post(
                "/search", json={"query": "blue lamp", "top_k": 1, "version": version}
            ).json()
            for version in (None, 2, 1, 7)
        }
    assert [found[version]["hits"][0]["id"] == "p004" for version in (None, 2, 1)] == [False, False, True]
    assert [found[version]["index"]["version"] for version in (None, 2, 1)] == [2, 2, 1]
    assert "version 2 is current, and 2 and 1 can be named" in found[7]["error"]["message"]


def test_a_damaged_version_is_refused_and_the_old_one_stays(changing, swapper):
    delete_products(changing.index_dir, ["p004"])
    damage(changing.index_dir, 2)

    with pytest.raises(RequestError, match=r"version 1 of .* keeps answering: .*altered"):
        swapper.swap()

    assert engine_of(swapper).pair.version == 1
    assert (swapper.status.swaps, swapper.status.refused) == (0, 1)
    assert swapper.swap() is False  # not checked again at once
    with pytest.raises(RequestError):
        swapper.swap(again=True)
    damage(changing.index_dir, 2)  # repaired
    assert swapper.swap(again=True) is True
    assert swapper.status.problem is None


def test_an_index_of_another_model_is_refused(changing, swapper, tmp_path, minilm_dir):
    other = write_served_shop(tmp_path / "other", minilm_dir, seed=1, fingerprint="b" * 64)
    shutil.rmtree(changing.index_dir)
    shutil.copytree(other.index_dir, changing.index_dir)

    with pytest.raises(RequestError, match="fingerprint"):
        swapper.swap()

    assert engine_of(swapper).pair.encoder.fingerprint == changing.encoder.fingerprint


def test_a_lost_manifest_is_refused_until_it_is_back(changing, swapper):
    manifest = changing.index_dir / "manifest.json"
    content = manifest.read_bytes()
    manifest.unlink()

    with pytest.raises(RequestError, match="missing"):
        swapper.swap()

    manifest.write_bytes(content)
    assert swapper.swap() is False
    assert swapper.status.problem is None


def test_a_start_falls_back_to_the_newest_version_that_is_whole(changing):
    for product in ("p004", "p005"):
        delete_products(changing.index_dir, [product])
    damage(changing.index_dir, 3)
    damage(changing.index_dir, 2)
    swapper = PairSwapper(Engine(), watched_index(changing.source()))

    swapper.load_first()

    assert engine_of(swapper).pair.version == 1
    assert "altered" in swapper.status.problem
    damage(changing.index_dir, 1)
    with pytest.raises(IndexIntegrityError, match=r"versions/000003/.*altered"):
        PairSwapper(Engine(), watched_index(changing.source())).load_first()


def test_running_requests_finish_on_the_old_version(changing, swapper):
    """A batch that has begun holds its pair, whatever is switched meanwhile."""
    engine = engine_of(swapper)
    old = engine.pair
    begun, switched = threading.Event(), threading.Event()
    candidates = old.searcher.candidates

    def slow_candidates(*arguments, **options):
        begun.set()
        assert switched.wait(30)
        return candidates(*arguments, **options)

    old.searcher.candidates = slow_candidates
    with changing.client(engine=engine) as client:
        answers = []
        asking = threading.Thread(
            target=lambda: answers.append(client.post("/search", json={"query": "oak"}).json())
        )
        asking.start()
        assert begun.wait(30)
        delete_products(changing.index_dir, ["p004"])
        assert swapper.swap() is True
        switched.set()
        asking.join(30)

    assert [answer["index"]["version"] for answer in answers] == [1]


def test_reload_needs_a_key_and_reports_what_it_did(changing):
    engine = Engine()
    swapper = PairSwapper(engine, watched_index(changing.source()), poll_seconds=3600)
    swapper.load_first()
    headers = {"X-API-Key": KEY}
    with changing.client(engine=engine, keys=ApiKeys([KEY]), swapper=swapper) as client:
        assert client.post("/admin/reload").status_code == 401
        assert client.post("/admin/reload", headers=headers).json() == {"swapped": False, "version": 1}
        delete_products(changing.index_dir, ["p004"])
        assert client.post("/admin/reload", headers=headers).json() == {"swapped": True, "version": 2}
        delete_products(changing.index_dir, ["p005"])
        damage(changing.index_dir, 3)
        refused = client.post("/admin/reload", headers=headers)
        assert (refused.status_code, refused.json()["error"]["type"]) == (409, "swap_refused")
        info = client.get("/info", headers=headers).json()
        assert "altered" in info["swaps"]["problem"]
        metrics = client.get("/metrics", headers=headers).text
    assert 'aisle_swaps{index="tuned",outcome="done"} 1.0' in metrics
    assert 'aisle_swaps{index="tuned",outcome="refused"} 1.0' in metrics
    assert 'aisle_swap_failing{index="tuned"} 1.0' in metrics


def test_a_server_without_keys_has_no_reload(changing):
    with changing.client() as client:
        answer = client.post("/admin/reload")

    assert (answer.status_code, "--api_key_file" in answer.json()["error"]["message"]) == (401, True)


def test_model_and_index_are_published_and_swapped_as_a_pair(changing, tmp_path, minilm_dir):
    other = write_served_shop(tmp_path / "other", minilm_dir, seed=1, fingerprint="b" * 64)
    pointer = tmp_path / "serving.json"
    publish_pair(changing.pair(), pointer)
    swapper = PairSwapper(Engine(), followed_pointer(pointer, replace(changing.source(), mode="hybrid")))
    swapper.load_first()
    delete_products(changing.index_dir, ["p004"])
    assert swapper.swap() is False  # a version counts once it is published

    publish_pair(load_pair(other.source()), pointer)

    assert swapper.swap() is True
    pair = engine_of(swapper).pair
    assert (pair.source.index_dir, pair.source.model) == (other.index_dir, str(other.bundle))
    assert pair.encoder.fingerprint == other.encoder.fingerprint
    assert (pair.searcher.mode, read_pointer(pointer).previous.index_version) == ("hybrid", 1)


def test_a_fingerprint_names_an_index_among_versions_of_the_same_number(changing, tmp_path, minilm_dir):
    other = write_served_shop(tmp_path / "other", minilm_dir, seed=1, fingerprint="b" * 64)
    pointer = tmp_path / "serving.json"
    publish_pair(changing.pair(), pointer)
    swapper = PairSwapper(Engine(), followed_pointer(pointer, changing.source()))
    swapper.load_first()
    with changing.client(engine=engine_of(swapper)) as client:

        def answered_by(**names):
            answer = client.post("/search", json={"query": "oak", **names})
            return answer.status_code, answer.json().get("index", {}).get("fingerprint")

        _, first = answered_by()
        publish_pair(load_pair(other.source()), pointer)
        assert swapper.swap() is True
        _, second = answered_by()

        assert first != second
        assert answered_by(version=1) == (200, second)
        assert answered_by(fingerprint=second) == (200, second)
        assert answered_by(fingerprint=first) == answered_by(fingerprint=first, version=1) == (200, first)
        assert answered_by(fingerprint=first, version=2) == (410, None)
        assert answered_by(fingerprint=first[:12]) == (410, None)


def test_a_start_with_a_damaged_publication_serves_the_one_before(changing, tmp_path):
    pointer = tmp_path / "serving.json"
    publish_pair(changing.pair(), pointer)
    delete_products(changing.index_dir, ["p004"])
    publish_pair(changing.pair(), pointer)
    damage(changing.index_dir, 2)
    swapper = PairSwapper(Engine(), followed_pointer(pointer, changing.source()))

    swapper.load_first()

    assert engine_of(swapper).pair.version == 1


def publish(*flags):
    return main(["publish", *map(str, flags)])


def test_publish_writes_the_pointer_beside_the_index(changing, capsys):
    assert publish("--index_dir", changing.index_dir, "--model", changing.bundle, "--json") == 0

    pointer = pointer_beside(changing.index_dir)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["pointer"], printed["index_version"]) == (str(pointer), 1)
    published = read_pointer(pointer)
    assert (published.model, published.index_dir) == (str(changing.bundle), str(changing.index_dir))
    assert read_manifest(changing.index_dir).version == 1


def test_publish_refuses_a_pair_that_does_not_fit(changing, tmp_path, minilm_dir, capsys):
    other = write_served_shop(tmp_path / "other", minilm_dir, seed=1, fingerprint="b" * 64)
    pointer = tmp_path / "serving.json"
    publish_pair(changing.pair(), pointer)
    before = pointer.read_bytes()

    assert publish("--index_dir", changing.index_dir, "--model", other.bundle, "--pointer", pointer) == 2

    assert "fingerprint" in capsys.readouterr().err
    assert pointer.read_bytes() == before
    with pytest.raises(FingerprintMismatchError):
        load_pair(replace(changing.source(), model=str(other.bundle)))


def test_a_pair_published_twice_keeps_the_pair_before_it(changing, tmp_path):
    pointer = tmp_path / "serving.json"
    publish_pair(changing.pair(), pointer)
    delete_products(changing.index_dir, ["p004"])

    for _ in range(2):
        published = publish_pair(changing.pair(), pointer)

        assert (published.index_version, published.previous.index_version) == (2, 1)
        assert published.previous.previous is None
        assert read_pointer(pointer) == published


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b"\xff"])
def test_a_pointer_that_is_not_valid_is_refused(tmp_path, content):
    path = tmp_path / "serving.json"
    path.write_bytes(content)

    with pytest.raises(IndexIntegrityError, match="write it again with aisle publish"):
        read_pointer(path)


def test_a_server_that_was_killed_starts_with_the_last_good_version(changing, tmp_path):
    flags = ("--index_dir", changing.index_dir, "--model", changing.bundle, "--watch_seconds", 0.05)
    with running_server(*flags) as server:
        server.wait_until_ready()
        delete_products(changing.index_dir, ["p004"])
        server.wait_until(lambda server: server.client.get("/ready").json() == {"version": 2})
        with server.paused():  # otherwise it might load the version before it is damaged
            delete_products(changing.index_dir, ["p005"])
            damage(changing.index_dir, 3)
        server.wait_until(lambda server: server.client.get("/info").json()["swaps"]["problem"])
        server.process.kill()
        server.process.wait()

    with running_server(*flags) as server:
        server.wait_until_ready()
        assert server.client.get("/ready").json() == {"version": 2}
        assert "altered" in server.client.get("/info").json()["swaps"]["problem"]
