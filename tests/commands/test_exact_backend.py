"""build --backend exact, and every command on the index that it makes."""

import json

import pytest

from aisle.cli import index_main
from aisle.index import open_index
from tests.commands.conftest import write_rows


@pytest.fixture
def build(tiny_bert, catalog_csv, tmp_path):
    def run(*flags):
        given = [
            "--model",
            str(tiny_bert),
            "--catalog",
            str(catalog_csv),
            "--index_dir",
            str(tmp_path / "index"),
        ]
        return index_main(["build", *given, *map(str, flags)])

    return run


@pytest.fixture
def ask(capfd, tmp_path):
    """Run a command on the index; return exit code, JSON document and stderr."""

    def run(command, *flags):
        capfd.readouterr()
        code = index_main([command, "--index_dir", str(tmp_path / "index"), *map(str, flags), "--json"])
        out, err = capfd.readouterr()
        return code, json.loads(out) if code == 0 else None, err

    return run


def test_every_command_works_on_an_exact_index(build, ask, tmp_path):
    assert build("--backend", "exact") == 0
    index = open_index(tmp_path / "index")
    title, count = index.payload(3)["title"], len(index)

    code, found, _ = ask("query", title, "--top_k", 2)
    assert code == 0
    assert found[0]["results"][0]["payload"]["title"] == title
    assert ask("query", title, "--exact", "--top_k", 2)[1] == found

    code, document, err = ask("info")
    assert document["backend"] == {"name": "exact", "parameters": {}}
    assert (document["ann_recall@10"], document["wants_compacting"]) == (1.0, None)
    assert f"exact: {document['graph_nodes']} nodes and 0 of deleted products" in err
    assert "ef_search  " not in err.split("recall@10 on")[0]

    new = write_rows(
        tmp_path / "new.csv", ["product_id", "title", "brand", "price"], [("n1", "zebra rug", "Acme", 5)]
    )
    assert ask("upsert", "--catalog", new)[1]["added"] == 1
    assert ask("query", "zebra rug", "--top_k", 1)[1][0]["results"][0]["product_id"] == "n1"
    assert ask("delete", "n1")[1]["products"] == count
    code, document, err = ask("compact")
    assert (code, document["nodes_removed"]) == (0, 1)
    assert "ann_recall@10 1.0000, by backend exact" in err
    code, document, _ = ask("tune", "--target_recall", 0.9)
    assert (code, document["reached"], document["ann_recall@10"]) == (0, True, 1.0)
    assert ask("verify", "--all_versions")[0] == 0
    assert ask("rollback", "--to", 3)[1]["products"] == count
    assert ask("versions")[0] == 0


@pytest.mark.parametrize(("command", "flags"), [("query", ["sofa"]), ("tune", [])])
def test_an_ef_search_for_an_exact_index_is_one_clear_message(build, ask, command, flags):
    build("--backend", "exact")

    code, _, err = ask(command, *flags, "--ef_search", 50)

    assert code == 2
    assert "ef_search: backend 'exact' has nothing to tune, found 50; leave it out" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--backend", "exact", "--M", 8], "--M: --backend exact has no such parameter; leave it out"),
        (
            ["--backend", "exact", "--ef_search", 8],
            "--ef_search: backend 'exact' has nothing to tune",
        ),
        (["--backend", "annoy"], "--backend: must be one of hnsw, exact, found 'annoy'"),
    ],
)
def test_flags_that_do_not_fit_the_backend_are_refused_before_anything_is_read(
    build, capfd, tmp_path, flags, message
):
    assert build(*flags) == 2

    assert message in capfd.readouterr().err
    assert not (tmp_path / "index").exists()
