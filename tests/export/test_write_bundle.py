"""`aisle export` writes a whole bundle that passes its gates, or nothing."""

import copy
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import aisle
from aisle.bundle.bundle_file import read_bundle, write_bundle_file
from aisle.bundle.onnx_encoder import load_bundle
from aisle.cli import main
from aisle.errors import ConfigError, ModelError
from aisle.export import write_bundle as module
from aisle.export.gates import Limit
from aisle.export.sample_texts import SampleTexts, added_texts, sample_shop_texts
from aisle.export.write_bundle import ExportOptions, write_bundle
from aisle.models.bi_encoder import BiEncoder
from aisle.models.loading import load_encoder
from tests.edit_json import edit_json

SAMPLE = SampleTexts(("red sofa", "lamp"), ("wooden chair", "steel table for the garden", "blue bed"))
OPTIONS = ExportOptions("fp32", SAMPLE)


@pytest.fixture(scope="module")
def bundle(tiny_bert, tmp_path_factory):
    """Folder of a bundle, made by the command; read it, never write to it."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    main(["export", str(tiny_bert), "--output_dir", str(folder), "--query_prompt", "query: "])
    return folder


def test_a_bundle_gives_the_embeddings_of_its_source(bundle, tiny_bert):
    source = load_encoder(tiny_bert, device="cpu")
    texts = ["red sofa", "", "Stühle für den Garten " * 40]

    found = load_bundle(bundle).encode_products(texts)

    assert found == pytest.approx(source.encode_products(texts), abs=1e-5)


def test_bundle_json_records_source_gates_and_versions(bundle, tiny_bert):
    found = read_bundle(bundle)

    assert found.source.model == str(tiny_bert)
    assert (found.query_prompt, found.precision, found.max_length) == ("query: ", "fp32", 64)
    assert found.gates.passed
    assert not found.accepted
    assert found.gates.figures["greatest_difference"] < 1e-5
    assert found.gates.figures["texts_with_equal_tokens"] == 1000
    assert set(found.made_with) >= {"aisle", "torch", "transformers", "onnxruntime", "opset"}
    assert set(found.files) == {"tower.onnx", "tower.onnx.data", "tokenizer.json"}
    tokenizer = json.loads((bundle / "tokenizer.json").read_text(encoding="utf-8"))
    assert tokenizer["padding"] is tokenizer["truncation"] is None


def test_separate_towers_have_a_graph_each(tiny_bert, tiny_model, tmp_path):
    one, other = load_encoder(tiny_bert, device="cpu"), load_encoder(tiny_model("bert"), device="cpu")
    for parameter in other.model.parameters():
        parameter.data.mul_(1.1)
    towers = BiEncoder(one.model.product_tower, other.model.product_tower).eval()
    encoder = replace(one, model=towers, query_fingerprint="f" * 64)

    bundle = write_bundle(encoder, tmp_path / "bundle", OPTIONS)

    assert {tower.graph: tower.sides for tower in bundle.towers} == {
        "query.onnx": ("query",),
        "product.onnx": ("product",),
    }
    exported = load_bundle(tmp_path / "bundle")
    for encode in ("encode_queries", "encode_products"):
        found = getattr(exported, encode)(SAMPLE.products)
        assert found == pytest.approx(getattr(encoder, encode)(SAMPLE.products), abs=1e-5)
    assert np.abs(exported.encode_queries(["sofa"]) - exported.encode_products(["sofa"])).max() > 1e-3


@pytest.fixture
def encoder(tiny_bert):
    return load_encoder(tiny_bert, device="cpu")


@pytest.fixture
def another_graph(tiny_model, monkeypatch):
    """Make the export write a graph with other weights than the tower's."""
    write = module.write_graph

    def write_other(tower, path, *, max_length):
        other = copy.deepcopy(tower)
        for parameter in other.parameters():
            parameter.data.mul_(1.05)
        write(other, path, max_length=max_length)

    monkeypatch.setattr(module, "write_graph", write_other)


@pytest.mark.usefixtures("another_graph")
def test_a_failed_gate_writes_nothing_and_names_figure_and_limit(tiny_bert, tmp_path, capsys):
    source = load_encoder(tiny_bert, device="cpu")
    with pytest.raises(
        ModelError, match=r"greatest_difference is 0\.\d+ and must be at most 0\.0001.*--accept"
    ):
        write_bundle(source, tmp_path / "bundle", OPTIONS)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("another_graph")
def test_an_accepted_gate_is_recorded(tiny_bert, tmp_path):
    source = load_encoder(tiny_bert, device="cpu")

    write_bundle(source, tmp_path / "bundle", replace(OPTIONS, accept=True))

    found = read_bundle(tmp_path / "bundle")
    assert found.accepted
    assert not found.gates.passed
    assert found.gates.failed == ("greatest_difference",)
    assert found.failed_gates.startswith("greatest_difference 0.")


def test_a_limit_may_be_reached_and_nan_fails():
    assert Limit(0.5).holds(0.5)
    assert Limit(0.5, highest=True).holds(0.5)
    assert not Limit(0.5).holds(float("nan"))
    assert not Limit(0.5, highest=True).holds(float("nan"))


def test_int8_is_not_exported_on_a_cpu_without_vnni(tiny_bert, encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("aisle.bundle.bundle_file.why_int8_saturates", lambda: "this CPU has no VNNI")
    int8 = replace(OPTIONS, precision="int8")

    with pytest.raises(ModelError, match=r"^--precision int8: this CPU has no VNNI, so sums"):
        write_bundle(encoder, tmp_path / "bundle", int8)
    code = main(["export", str(tiny_bert), "--output_dir", str(tmp_path / "bundle"), "--precision", "int8"])

    assert code == 2
    assert "error: --precision int8: this CPU has no VNNI" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_only_if_asked_and_an_accepted_one_that_passes_is_no_exception(
    bundle, encoder, tmp_path
):
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in bundle.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())

    with pytest.raises(ConfigError, match=r"contains another bundle; .* --overwrite_output_dir"):
        write_bundle(encoder, folder, OPTIONS)
    write_bundle(encoder, folder, replace(OPTIONS, overwrite=True, accept=True))

    assert read_bundle(folder).query_prompt == ""
    assert not read_bundle(folder).accepted
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_with_other_files_stays_even_if_a_bundle_may_be_replaced(encoder, tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "letters.txt").write_text("kept")

    with pytest.raises(ConfigError, match=r"contains other files \(letters.txt\)"):
        write_bundle(encoder, tmp_path / "bundle", replace(OPTIONS, overwrite=True))

    assert (tmp_path / "bundle" / "letters.txt").read_text() == "kept"


@pytest.mark.parametrize("when", ["write_graph", "write_bundle_file", "sync"])
def test_a_full_disk_leaves_nothing_and_is_one_message(encoder, tmp_path, monkeypatch, when):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, when, full)

    with pytest.raises(
        ConfigError, match=r"cannot be written: .*No space left on device; [\d,]+ bytes were free"
    ):
        write_bundle(encoder, tmp_path / "bundle", OPTIONS)

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_earlier_bundle(bundle, encoder, tmp_path, monkeypatch):
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in bundle.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "sync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_bundle(encoder, folder, replace(OPTIONS, overwrite=True))

    assert read_bundle(folder).query_prompt == "query: "


def test_a_tokenizer_in_python_is_refused(encoder, tmp_path):
    class Own(type(encoder.tokenizer)):
        def _encode_plus(self, *arguments, **options):
            return super()._encode_plus(*arguments, **options)

    encoder.tokenizer.__class__ = Own

    with pytest.raises(ModelError, match="its tokenizer, Own, runs its own Python code"):
        write_bundle(encoder, tmp_path / "bundle", OPTIONS)


def test_an_encoder_that_was_never_saved_is_refused(encoder, tmp_path):
    with pytest.raises(ModelError, match="was never saved"):
        write_bundle(replace(encoder, fingerprint=None), tmp_path / "bundle", OPTIONS)


def test_a_shop_with_few_products_is_compared_on_texts_of_the_sample_shop_too(tiny_bert, tmp_path, capsys):
    (tmp_path / "products.csv").write_text("product_id,title\np1,red sofa\np2,blue lamp\np3,garden chair\n")
    (tmp_path / "queries.csv").write_text("query_id,query\nq1,sofa\nq2,chair\n")
    (tmp_path / "qrels.tsv").write_text("query_id\tproduct_id\trelevance\nq1\tp1\t1\nq2\tp3\t1\n")
    files = [str(tmp_path / name) for name in ("products.csv", "queries.csv", "qrels.tsv")]

    compared = ["--catalog", files[0], "--queries", files[1], "--qrels", files[2]]
    main(["export", str(tiny_bert), "--output_dir", str(tmp_path / "bundle"), "--json", *compared])

    shown = capsys.readouterr()
    document = json.loads(shown.out)
    added = added_texts(sample_shop_texts())
    gates = document["gates"]
    assert gates["passed"]
    assert gates["figures"]["texts"] == 5 + len(added.queries) + len(added.products)
    assert set(gates["limits"]) == {"greatest_difference", "greatest_difference_in_a_batch"}
    reason = "needs at least 100 products and 25 queries with different texts, found 3 and 2"
    assert gates["not_measured"] == [f"top10_overlap: {reason}", f"ndcg@10_difference: {reason}"]
    assert f"not measured: top10_overlap: {reason}" in shown.err
    assert read_bundle(tmp_path / "bundle").gates.not_measured == tuple(gates["not_measured"])
    assert Path(document["output_dir"]) == tmp_path / "bundle"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--qrels", "q.tsv"], "--qrels: needs --queries and --catalog"),
        (["--queries", "missing.csv"], "missing.csv: there is no such file"),
    ],
)
def test_bad_input_is_one_line(tiny_bert, tmp_path, capsys, arguments, message):
    code = main(["export", str(tiny_bert), "--output_dir", str(tmp_path / "bundle"), *arguments])

    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_the_current_folder_is_refused_before_the_work(tiny_bert, tmp_path, monkeypatch, capsys):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    code = main(["export", str(tiny_bert), "--output_dir", "."])

    assert code == 2
    assert "--output_dir .: is the current folder, which cannot be replaced" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_stopped_export_leaves_nothing_and_its_unmeasured_bundle_is_refused(encoder, tmp_path, monkeypatch):
    def stopped(_encoder, exported, *_):
        with pytest.raises(ModelError, match="its export was stopped before it was measured; export again"):
            load_bundle(exported.name)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(module, "measure", stopped)
    with pytest.raises(SystemExit, match="143"):
        write_bundle(encoder, tmp_path / "bundle", OPTIONS)

    assert list(tmp_path.iterdir()) == []


def test_an_unmeasured_bundle_is_refused_even_if_it_says_accepted(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "bundle")
    unmeasured = replace(read_bundle(bundle), gates=module.NOT_MEASURED, accepted=True)
    write_bundle_file(tmp_path / "bundle", unmeasured)

    with pytest.raises(ModelError, match="was stopped before it was measured"):
        load_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["letters.txt", "notes/letters.txt"])
def test_other_files_in_the_folder_of_a_bundle_are_not_deleted(bundle, encoder, tmp_path, name):
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("kept")

    with pytest.raises(ConfigError, match=rf"does not list \({name}\) and that would be deleted; move them"):
        write_bundle(encoder, folder, replace(OPTIONS, overwrite=True))

    assert (folder / name).read_text() == "kept"
    assert read_bundle(folder).query_prompt == "query: "


def test_a_file_that_appears_during_the_export_is_not_deleted(encoder, tmp_path, monkeypatch):
    def meanwhile(*arguments):
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "letters.txt").write_text("kept")
        return measure(*arguments)

    measure = module.measure
    monkeypatch.setattr(module, "measure", meanwhile)
    with pytest.raises(ConfigError, match=r"contains other files \(letters.txt\)"):
        write_bundle(encoder, tmp_path / "bundle", OPTIONS)

    assert (tmp_path / "bundle" / "letters.txt").read_text() == "kept"


def test_weights_that_a_file_cannot_take_leave_nothing_and_are_one_message(encoder, tmp_path, monkeypatch):
    """A limit on the size of files makes the real write fail, as a full disk does."""
    write, limits = module.write_graph, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*arguments, **options):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            write(*arguments, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(module, "write_graph", limited)
    with pytest.raises(ConfigError, match=r"bundle: cannot be written: .*; [\d,]+ bytes were free"):
        write_bundle(encoder, tmp_path / "bundle", OPTIONS)

    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def full_disk(tmp_path, monkeypatch):
    """A disk with less room than the weights: a real tmpfs if this user may mount, or a pretended size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True
        ).returncode
    )
    if not mounted:
        sizes = SimpleNamespace(total=2**21, used=2**20, free=2**20)
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: sizes)
    yield folder
    if mounted:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_without_room_for_the_weights_is_named_before_they_are_written(encoder, full_disk):
    with pytest.raises(ConfigError) as refused:
        write_bundle(encoder, full_disk / "bundle", OPTIONS)

    found = re.search(
        r"the disk of .* is too full: .* about ([\d,]+) bytes, and ([\d,]+) are free", str(refused.value)
    )
    needed, free = (int(number.replace(",", "")) for number in found.groups())
    assert needed == module.weight_bytes(encoder.model.product_tower)
    assert 0 < free < 2**21
    assert list(full_disk.iterdir()) == []


def test_the_room_that_weights_need_is_that_of_their_file(bundle, encoder, tmp_path, monkeypatch):
    needed = {"fp32": module.weight_bytes(encoder.model.product_tower)}
    written = {"fp32": bundle / "tower.onnx.data", "int8": tmp_path / "tower.onnx.data"}
    monkeypatch.setattr(
        module, "check_space", lambda tower, _: needed.update(int8=module.weight_bytes(tower))
    )

    module._write_towers(encoder, tmp_path, "int8")

    for precision, path in written.items():
        assert needed[precision] == pytest.approx(path.stat().st_size, rel=0.15)


def test_code_that_depends_on_data_is_refused_in_one_message(tiny_model, tmp_path, capfd):
    model = tmp_path / "model"
    shutil.copytree(tiny_model("qwen2"), model)
    edit_json(
        model / "config.json", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    )

    code = main(["export", str(model), "--output_dir", str(tmp_path / "bundle"), "--pooling", "last"])

    shown = capfd.readouterr()
    assert (code, shown.out) == (2, "")
    (line,) = shown.err.splitlines()
    assert line.startswith("error: qwen2: cannot be exported: torch's exporter does not support `if seq_len")
    assert "in dynamic_frequency_update of modeling_rope_utils.py" in line
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_as_the_model_to_export_is_named_as_a_bundle(bundle, tmp_path, capsys):
    code = main(["export", str(bundle), "--output_dir", str(tmp_path / "bundle")])

    message = capsys.readouterr().err
    assert code == 2
    assert "is a bundle of `aisle export`, and weights (*.safetensors) are needed" in message
    assert "give the run or model that it was exported from" in message
    assert "pickled" not in message


def test_a_bundle_without_its_file_is_named_as_a_bundle(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "bundle.json").unlink()

    with pytest.raises(ModelError, match=r"as a bundle of `aisle export` has, but no bundle\.json.*restore"):
        aisle.load_encoder(tmp_path / "bundle")
