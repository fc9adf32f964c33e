"""Every file of a run, an index, a report and a sample has the mode that the umask gives."""

import os

import pytest

from aisle.cli import index_main, main, train_main
from tests.commands.conftest import write_rows


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def assert_modes(folder, umask):
    paths = [folder, *folder.rglob("*")]
    assert len(paths) >= 3
    wrong = {
        str(path.relative_to(folder)): oct(path.stat().st_mode & 0o777)
        for path in paths
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong


@pytest.mark.parametrize("peft", [["--use_peft"], []], ids=["lora", "full"])
def test_all_files_of_a_run_have_the_mode_of_the_umask(peft, umask, tiny_bert, judged_csv, tmp_path):
    flags = [
        "--model_name_or_path",
        str(tiny_bert),
        "--output_dir",
        str(tmp_path / "run"),
        "--max_length",
        "16",
    ]
    flags += ["--train_file", str(judged_csv), "--max_train_steps", "2", "--checkpointing_steps", "1", *peft]
    code = train_main([*flags, "--eval_steps", "1", "--per_device_train_batch_size", "8"])

    assert code == 0
    assert list((tmp_path / "run").rglob("checkpoints/step_*/*.safetensors"))
    assert_modes(tmp_path / "run", umask)


def test_all_files_of_an_index_have_the_mode_of_the_umask(umask, tiny_bert, catalog_csv, tmp_path):
    index, report = str(tmp_path / "index"), tmp_path / "report"
    build = ["build", "--model", str(tiny_bert), "--index_dir", index, "--catalog", str(catalog_csv)]
    assert index_main([*build, "--threads", "1"]) == 0
    changed = write_rows(
        tmp_path / "new.csv", ["product_id", "title", "brand", "price"], [("n1", "sofa", "A", 3)]
    )
    assert index_main(["upsert", "--index_dir", index, "--catalog", str(changed)]) == 0
    assert index_main(["delete", "--index_dir", index, "p1"]) == 0
    queries = write_rows(tmp_path / "queries.csv", ["query_id", "query"], [("1", "sofa"), ("2", "lamp")])
    qrels = write_rows(
        tmp_path / "qrels.csv", ["query_id", "product_id", "relevance"], [("1", "n1", 1), ("2", "p2", 1)]
    )
    evaluate = ["evaluate", "--index_dir", index, "--queries", str(queries), "--qrels", str(qrels)]
    report.mkdir()
    outputs = ["--report", str(report / "report.html"), "--run_file", str(report / "run.trec")]
    assert index_main([*evaluate, "--rows", "bm25", "tuned", *outputs]) == 0

    assert_modes(tmp_path / "index", umask)
    assert_modes(report, umask)


def test_all_files_of_a_sample_have_the_mode_of_the_umask(umask, tmp_path):
    assert main(["sample", "--output_dir", str(tmp_path / "sample"), "--products", "500"]) == 0

    assert_modes(tmp_path / "sample", umask)
