"""A bundle's embeddings are those of its graph, whatever the other texts of the call and other threads."""

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import aisle
from aisle.bundle import parallel_batches
from aisle.bundle.bundle_file import read_bundle, write_bundle_file
from aisle.bundle.bundle_record import BundledTokenizer, BundledTower, GateResults
from aisle.bundle.graph_session import GraphSession
from aisle.bundle.onnx_encoder import load_bundle
from aisle.bundle.parallel_batches import equal_lengths
from aisle.errors import ModelError
from aisle.models.loading import load_encoder
from aisle.types.encoder_settings import Overrides
from tests.bundle.small_bundle import embedding, write_graph, write_small_bundle

DIM = 8
WORDS = ("red", "blue", "sofa", "lamp", "oak", "table", "bed", "garden", "espresso", "machine", "usb")
LONG = "a long title that is cut off somewhere " * 9
UNICODE = (
    *(
        "Größe 42 \u2013 Schühe",
        "日本語の本",
        "кофемашина",
        "🛋️ sofa 🛋️",
        "e\u0301cran",
        "\u00a0",
        "",
        "a\x00b",
        "ﬁt",
    ),
    *("İstanbul", "ß" * 40, "\u200bzero width", "مصباح أحمر", "[CLS] [SEP] [PAD] [UNK]", "tab\tnew\nline"),
)


def texts_of(count, *, seed=0):
    """Return random texts of many lengths, with repeats."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 40))) for _ in range(count)]
    return [*texts, *texts[: count // 5], *UNICODE]


@pytest.fixture
def folder(minilm_dir, tmp_path):
    write_small_bundle(tmp_path / "bundle", minilm_dir, dim=DIM)
    return tmp_path / "bundle"


@pytest.fixture
def encoder(folder):
    return load_bundle(folder)


def by_hand(encoder, texts, *, prompt=""):
    """Return the embeddings of texts, each computed alone with numpy."""
    ids = [encoder.tokenize([text], prompt=prompt).tokens[0] for text in texts]
    return np.stack([embedding(one, DIM) for one in ids])


def test_embeddings_are_those_of_the_graph_in_the_order_of_the_texts(encoder):
    texts = texts_of(120)

    found = encoder.encode_products(texts)

    assert (found.shape, found.dtype) == ((len(texts), DIM), np.float32)
    np.testing.assert_allclose(found, by_hand(encoder, texts), atol=1e-6)


def test_a_text_has_the_same_embedding_alone_in_parts_and_in_any_order(encoder):
    texts = texts_of(100)
    whole = encoder.encode_products(texts)
    order = np.random.default_rng(1).permutation(len(texts))

    np.testing.assert_allclose(
        encoder.encode_products([texts[place] for place in order]), whole[order], atol=1e-6
    )
    np.testing.assert_allclose(encoder.encode_products(texts, max_tokens=64), whole, atol=1e-6)
    np.testing.assert_allclose(
        np.concatenate([encoder.encode_products([text]) for text in texts]), whole, atol=1e-6
    )


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
@pytest.mark.parametrize("prompt", ["", "query: "])
def test_tokens_and_marks_are_those_of_the_torch_encoder(architecture, prompt, tiny_model, tmp_path):
    trained = load_encoder(
        tiny_model(architecture), device="cpu", overrides=Overrides(max_length=32, product_prompt=prompt)
    )
    trained.tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    write_small_bundle(
        tmp_path / "bundle",
        tmp_path,
        product_prompt=prompt,
        tokenizer=BundledTokenizer(trained.tokenizer.pad_token_id, trained.tokenizer.unk_token_id),
    )
    encoder = load_bundle(tmp_path / "bundle")
    texts = [*texts_of(300), LONG, "x" * 5000]

    found, expected = (one.tokenize_products(texts, marked=True) for one in (encoder, trained))

    assert found.tokens.ids.tolist() == expected.tokens.ids.tolist()
    assert found.tokens.offsets.tolist() == expected.tokens.offsets.tolist()
    assert found.marks.tolist() == expected.marks.tolist()
    assert {1, 2} <= set(found.marks.tolist())


def test_a_long_text_is_cut_at_the_side_that_the_bundle_names(minilm_dir, tmp_path):
    cut = BundledTokenizer(pad_token_id=0, unk_token_id=100, truncation_side="left")
    write_small_bundle(tmp_path / "bundle", minilm_dir, max_length=4, tokenizer=cut)

    tokens = load_bundle(tmp_path / "bundle").tokenize_products(["red blue sofa lamp", "sofa lamp"]).tokens

    assert tokens[0].tolist() == tokens[1].tolist()


def test_eight_threads_share_an_encoder(encoder):
    lists = [texts_of(30, seed=seed) + [LONG] * (seed % 2) for seed in range(8)]
    expected = [encoder.encode_products(texts) for texts in lists]
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        return [
            encoder.encode_products(texts if repeat % 3 else [texts[repeat]])
            for repeat in range(9)
            for texts in [lists[number]]
        ]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))

    for number, answers in enumerate(found):
        for repeat, answer in enumerate(answers):
            right = expected[number] if repeat % 3 else expected[number][repeat : repeat + 1]
            np.testing.assert_allclose(answer, right, atol=1e-6)


def test_each_distinct_text_is_computed_once_and_every_text_counts_as_progress(encoder, monkeypatch):
    computed, progress = [], []
    embed = GraphSession.embed

    def counted(session, ids):
        computed.append(len(ids))
        return embed(session, ids)

    monkeypatch.setattr(GraphSession, "embed", counted)
    encoder.encode_products(["red sofa", "lamp", "red sofa", "red sofa"], on_progress=progress.append)

    assert (sum(computed), sum(progress)) == (2, 4)

    encoder.encode_products(["lamp"] * 3, on_progress=progress.append)  # a single text

    assert (sum(computed), sum(progress)) == (3, 7)


def test_batches_have_texts_of_one_length_longest_first_and_within_the_limit():
    lengths = np.array([3, 7, 3, 3, 9, 7, 1])

    batches = equal_lengths(lengths, 7)

    assert [batch.tolist() for batch in batches] == [[4], [1], [5], [0, 2], [3], [6]]
    assert equal_lengths(np.empty(0, np.int64), 7) == []


def test_no_text_gives_no_embedding(encoder):
    assert encoder.encode_queries([]).shape == (0, DIM)


def test_separate_towers_compute_their_sides(minilm_dir, tmp_path):
    folder = tmp_path / "bundle"
    bundle = write_small_bundle(folder, minilm_dir, dim=DIM, seed=0)
    write_graph(folder / "query.onnx", DIM, seed=5)
    towers = (BundledTower(("query",), "query.onnx", DIM), BundledTower(("product",), "tower.onnx", DIM))
    write_bundle_file(folder, replace(bundle, towers=towers))
    encoder = load_bundle(folder)
    ids = encoder.tokenize(["red sofa"], prompt="").tokens[0]

    np.testing.assert_allclose(
        encoder.encode_queries(["red sofa"])[0], embedding(ids, DIM, seed=5), atol=1e-6
    )
    np.testing.assert_allclose(encoder.encode_products(["red sofa"])[0], embedding(ids, DIM), atol=1e-6)
    assert encoder.query_fingerprint != encoder.fingerprint


def test_prompts_are_those_of_the_bundle(minilm_dir, tmp_path):
    write_small_bundle(tmp_path / "bundle", minilm_dir, query_prompt="query: ", product_prompt="passage: ")
    encoder = load_bundle(tmp_path / "bundle")

    np.testing.assert_allclose(
        encoder.encode_queries(["sofa"]), by_hand(encoder, ["sofa"], prompt="query: "), atol=1e-6
    )
    np.testing.assert_allclose(
        encoder.encode_products(["sofa"]), by_hand(encoder, ["sofa"], prompt="passage: "), atol=1e-6
    )


def test_fewer_dimensions_are_the_first_ones_of_unit_norm(encoder):
    whole = encoder.encode_products(["red sofa", "lamp"])[:, :3]

    found = encoder.truncated(3).encode_products(["red sofa", "lamp"])

    np.testing.assert_allclose(found, whole / np.linalg.norm(whole, axis=1, keepdims=True), atol=1e-6)
    assert encoder.truncated(None) is encoder
    with pytest.raises(ModelError, match=r"--dimensions 9: .* has 8 dimensions"):
        encoder.truncated(9)


def test_another_precision_is_refused(encoder):
    assert encoder.encode_queries(["sofa"], precision="fp32").shape == (1, DIM)
    with pytest.raises(ModelError, match=r"precision int8: .* is a bundle that computes in fp32; leave"):
        encoder.encode_queries(["sofa"], precision="int8")


def test_an_int8_bundle_is_refused_on_a_cpu_without_vnni(minilm_dir, tmp_path, monkeypatch):
    write_small_bundle(tmp_path / "bundle", minilm_dir, precision="int8")
    monkeypatch.setattr("aisle.bundle.bundle_file.why_int8_saturates", lambda: "this CPU has no VNNI")

    with pytest.raises(ModelError, match=r"bundle: this CPU has no VNNI, so sums .*, or export in fp32"):
        load_bundle(tmp_path / "bundle")


def test_an_entry_that_is_no_text_is_refused(encoder):
    with pytest.raises(ModelError, match=r"texts\[1\] must be a text; found int 3"):
        encoder.encode_products(["a", 3])


def test_the_representation_names_what_matters(folder):
    assert repr(aisle.load_encoder(folder)).split("\n") == [
        f"OnnxEncoder({str(folder)[-60:]}, 8 dim, mean pooling, max_length 32,",
        "  query_prompt '', product_prompt '',",
        f"  fp32, exported from runs/shop, fingerprint {read_bundle(folder).fingerprint[:12]})",
    ]


def test_torch_and_transformers_are_not_imported(folder):
    code = """
import json, sys
import aisle
aisle.load_encoder(sys.argv[1]).encode_products(["red sofa", "lamp", "a much longer text about a lamp"] * 99)
print(json.dumps(sorted(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(ran.stdout)}

    assert {"onnxruntime", "tokenizers"} <= loaded
    assert loaded & {"torch", "transformers", "peft", "accelerate", "datasets", "pandas", "onnx"} == set()


def test_an_altered_graph_is_named_before_anything_is_computed(folder):
    path = folder / "tower.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"tower\.onnx: altered: its SHA-256"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("graph", "dim", "message"),
    [
        (
            {"output_name": "vectors_out"},
            DIM,
            r"must have the input input_ids and the output embeddings",
        ),
        ({"input_name": "ids"}, DIM, r"found \['ids'\] and \['embeddings'\]; export the run again"),
        ({}, DIM + 1, r"gives embeddings of 8 components, and bundle\.json records 9"),
    ],
)
def test_a_graph_that_differs_from_its_description_is_refused(graph, dim, message, folder):
    bundle = read_bundle(folder)
    write_graph(folder / "tower.onnx", DIM, **graph)
    write_bundle_file(folder, replace(bundle, towers=(replace(bundle.towers[0], dim=dim),)))

    with pytest.raises(ModelError, match=message):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tower.onnx", r"tower\.onnx: onnxruntime .* cannot load it: .*; upgrade onnxruntime, or export"),
        ("tokenizer.json", r"tokenizer\.json: is not a tokenizer of the installed version of tokenizers"),
    ],
)
def test_a_file_that_the_libraries_cannot_read_is_named(name, message, folder):
    bundle = read_bundle(folder)
    (folder / name).write_bytes(b"{}")
    write_bundle_file(folder, bundle)

    with pytest.raises(ModelError, match=message):
        load_bundle(folder)


def test_arguments_that_would_change_a_bundle_are_refused(folder):
    with pytest.raises(ModelError, match=r"^--base_model and --query_prompt: .* is a bundle, whose settings"):
        aisle.load_encoder(folder, base_model="x", overrides=Overrides(query_prompt="q"))


def test_an_accepted_gate_is_noted(minilm_dir, tmp_path):
    failed = GateResults(
        passed=False,
        figures={"worst": 0.5, "mean": 1},
        limits={"worst": 0.99, "mean": 0.999},
        failed=("worst",),
    )
    write_small_bundle(tmp_path / "bundle", minilm_dir, gates=failed, accepted=True)

    note = load_bundle(tmp_path / "bundle").note

    assert note == f"{tmp_path / 'bundle'}: its export accepted a failed gate: worst 0.5 (limit 0.99)"


def test_a_moved_bundle_keeps_its_fingerprint(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")

    assert load_bundle(tmp_path / "elsewhere").fingerprint == load_bundle(folder).fingerprint


def test_the_threads_of_a_batch_are_those_that_the_user_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    assert parallel_batches._threads() == 3


@pytest.mark.parametrize(
    ("weight_bytes", "processors", "threads"),
    [(11_000_000, 8, 1), (42_000_000, 8, 2), (42_000_000, 1, 1), (1_200_000_000, 8, 8), (-5, 8, 1)],
)
def test_a_call_has_more_threads_with_more_weights(weight_bytes, processors, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(parallel_batches, "available_processors", lambda: processors)

    assert parallel_batches.threads_of_call(weight_bytes) == threads
