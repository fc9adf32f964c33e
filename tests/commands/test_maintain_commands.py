"""delete, compact, tune and rollback from the command line."""

import pytest

from aisle.cli import index_main, main
from aisle.index import index_writer, open_index, read_manifest
from aisle.types.columns import ID_COLUMN
from tests.commands.array_index import COUNT, ask, write_index

EVERY_COMMAND = {
    "upsert": ["--catalog", "absent.csv"],
    "delete": ["p000"],
    "compact": [],
    "tune": [],
    "versions": [],
    "rollback": [],
    "info": [],
    "verify": [],
}
WRITERS = ("delete", "compact", "tune", "rollback")


@pytest.fixture
def index_dir(tmp_path):
    write_index(tmp_path / "index")
    return tmp_path / "index"


def ids_in(index_dir):
    return set(open_index(index_dir).products.column(ID_COLUMN).to_pylist())


def test_deleted_products_are_gone_and_all_others_stay(index_dir, capfd):
    before = ids_in(index_dir)

    code, document, _ = ask(capfd, "delete", "--index_dir", index_dir, "p003", "p005", "p003")

    assert code == 0
    assert ids_in(index_dir) == before - {"p003", "p005"}
    assert (document["deleted"], document["products"], document["version"]) == (2, COUNT - 2, 2)
    assert document["ann_recall@10"] == read_manifest(index_dir).ann_recall_at_10


def test_ids_come_from_a_file_as_editors_save_it(index_dir, tmp_path, capfd):
    file = tmp_path / "ids.txt"
    file.write_bytes(b"\xef\xbb\xbfp001\r\n\r\n  p002 \r\n")

    code, document, _ = ask(capfd, "delete", "--index_dir", index_dir, "--ids_file", file, "p007")

    assert code == 0
    assert document["deleted"] == 3
    assert ids_in(index_dir) & {"p001", "p002", "p007"} == set()


def test_an_unknown_id_is_refused_by_name_and_nothing_is_deleted(index_dir, capfd):
    code, document, said = ask(capfd, "delete", "--index_dir", index_dir, "p001", "q9")

    assert (code, document) == (2, None)
    assert "'q9'" in said
    assert "--ignore_unknown" in said
    assert read_manifest(index_dir).version == 1


def test_unknown_ids_can_be_skipped(index_dir, capfd):
    code, document, _ = ask(capfd, "delete", "--index_dir", index_dir, "--ignore_unknown", "p001", "q9")

    assert code == 0
    assert document["deleted"] == 1


@pytest.mark.parametrize(
    ("content", "part"),
    [(b"\n \n", "no product ids"), (b"p001\n\xff\n", "not valid Unicode"), (None, "cannot be read")],
)
def test_a_file_without_usable_ids_is_refused(index_dir, tmp_path, capfd, content, part):
    file = tmp_path / "ids.txt"
    if content is not None:
        file.write_bytes(content)

    code, _, said = ask(capfd, "delete", "--index_dir", index_dir, "--ids_file", file)

    assert code == 2
    assert part in said
    assert read_manifest(index_dir).version == 1


def test_deleting_nothing_is_refused(index_dir, capfd):
    code, _, said = ask(capfd, "delete", "--index_dir", index_dir)

    assert code == 2
    assert "--ids_file" in said


def test_the_last_product_stays(tmp_path, capfd):
    write_index(tmp_path / "index", count=2)

    code, _, said = ask(capfd, "delete", "--index_dir", tmp_path / "index", "p000", "p001")

    assert code == 2
    assert "at least one product" in said


def test_many_deletes_recommend_compact_by_the_command_to_paste(tmp_path, capfd):
    index_dir = tmp_path / "my index"
    write_index(index_dir)
    few, many = [f"p{row:03d}" for row in range(10)], [f"p{row:03d}" for row in range(10, 100)]

    _, after_few, said_after_few = ask(capfd, "delete", "--index_dir", index_dir, *few)
    _, after_many, said_after_many = ask(capfd, "delete", "--index_dir", index_dir, *many)

    assert after_few["wants_compacting"] is None
    assert "compact" not in said_after_few
    assert "deleted products" in after_many["wants_compacting"]
    assert f"aisle compact --index_dir '{index_dir}'" in said_after_many.replace("\n", "")


def test_compact_drops_the_nodes_of_deleted_products(index_dir, capfd):
    ask(capfd, "delete", "--index_dir", index_dir, *[f"p{row:03d}" for row in range(100)])
    assert read_manifest(index_dir).deleted_nodes == 100

    code, document, _ = ask(capfd, "compact", "--index_dir", index_dir, "--threads", 1)

    manifest = read_manifest(index_dir)
    assert code == 0
    assert (manifest.command, manifest.deleted_nodes, manifest.graph_nodes) == ("compact", 0, 100)
    assert document["nodes_removed"] == 100
    assert document["wants_compacting"] is None


def test_tune_with_an_ef_search_measures_it_and_sets_it(index_dir, capfd):
    code, document, _ = ask(capfd, "tune", "--index_dir", index_dir, "--ef_search", 25)

    manifest = read_manifest(index_dir)
    assert code == 0
    assert manifest.ef_search == document["ef_search"] == 25
    assert [point["ef_search"] for point in document["recall_curve"]] == [25]
    assert document["recall_curve"][0]["recall"] == document["ann_recall@10"] == manifest.ann_recall_at_10
    assert (document["target_recall"], document["reached"]) == (None, None)


def test_tune_reaches_the_recall_that_was_asked_for(index_dir, capfd):
    code, document, said = ask(capfd, "tune", "--index_dir", index_dir, "--target_recall", 1.0)

    assert code == 0
    assert (document["target_recall"], document["reached"], document["ann_recall@10"]) == (1.0, True, 1.0)
    assert "not reached" not in said


def test_tune_reports_a_recall_that_is_not_reached(tmp_path, capfd):
    # With four links a node, the nearest random vectors stay beyond the highest ef_search. A graph with two
    # links falls into parts, which are too small for a high ef_search, so that it is searched exactly.
    write_index(tmp_path / "index", count=4000, dim=32, M=4, ef_construction=6)

    code, document, said = ask(capfd, "tune", "--index_dir", tmp_path / "index", "--target_recall", 1.0)

    assert code == 0
    assert document["reached"] is False
    assert "1.0 is not reached" in said


def test_tune_shows_the_curve_as_a_table(index_dir, capfd):
    assert index_main(["tune", "--index_dir", str(index_dir), "--ef_search", "31"]) == 0

    shown = capfd.readouterr().out
    point = read_manifest(index_dir).recall_curve[0]
    row = next(line.split() for line in shown.splitlines() if line.split()[:1] == ["31"])
    assert row == ["31", f"{point.recall:.4f}", f"{point.milliseconds:.3f}", "in", "force"]
    assert all(name in shown for name in ("ef_search", "recall", "ms per query"))


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--target_recall", "0.9", "--ef_search", "20"], "--target_recall and --ef_search"),
        (["--target_recall", "1.5"], "--target_recall"),
        (["--ef_search", "0"], "--ef_search"),
        (["--keep_versions", "0"], "--keep_versions"),
    ],
)
def test_a_wrong_value_is_refused_with_the_flag_named(index_dir, capfd, flags, part):
    code, _, said = ask(capfd, "tune", "--index_dir", index_dir, *flags)

    assert code == 2
    assert part in said
    assert read_manifest(index_dir).version == 1


def test_rollback_brings_back_what_was_deleted(index_dir, capfd):
    ask(capfd, "delete", "--index_dir", index_dir, "p001")

    code, document, _ = ask(capfd, "rollback", "--index_dir", index_dir)

    assert code == 0
    assert (document["version"], document["version_before"], document["products"]) == (1, 2, COUNT)
    assert "p001" in ids_in(index_dir)


def test_rollback_goes_to_the_version_that_is_asked_for_and_forward_again(index_dir, capfd):
    for product_id in ("p001", "p002"):
        ask(capfd, "delete", "--index_dir", index_dir, product_id)

    assert ask(capfd, "rollback", "--index_dir", index_dir, "--to", 1)[0] == 0
    assert len(ids_in(index_dir)) == COUNT
    assert ask(capfd, "rollback", "--index_dir", index_dir, "--to", 3)[0] == 0
    assert len(ids_in(index_dir)) == COUNT - 2


@pytest.mark.parametrize(("flags", "part"), [([], "older version"), (["--to", "9"], "version 9")])
def test_rolling_back_to_a_missing_version_is_refused(index_dir, capfd, flags, part):
    code, _, said = ask(capfd, "rollback", "--index_dir", index_dir, *flags)

    assert code == 2
    assert part in said
    assert "[1]" in said


def test_a_damaged_version_is_not_rolled_back_to(index_dir, capfd):
    ask(capfd, "delete", "--index_dir", index_dir, "p001")
    (index_dir / "versions" / "000001" / "graph.bin").write_bytes(b"x")

    code, _, said = ask(capfd, "rollback", "--index_dir", index_dir)

    assert code == 2
    assert "graph.bin" in said
    assert read_manifest(index_dir).version == 2


def test_keep_versions_sets_how_many_versions_are_kept(index_dir, capfd):
    ask(capfd, "tune", "--index_dir", index_dir)
    ask(capfd, "delete", "--index_dir", index_dir, "p001", "--keep_versions", 2)
    assert sorted(path.name for path in (index_dir / "versions").iterdir()) == ["000002", "000003"]

    ask(capfd, "compact", "--index_dir", index_dir, "--keep_versions", 1)
    assert [path.name for path in (index_dir / "versions").iterdir()] == ["000004"]

    ask(capfd, "tune", "--index_dir", index_dir)
    assert [path.name for path in (index_dir / "versions").iterdir()] == ["000005"]


def test_versions_that_are_removed_are_named_and_the_number_is_remembered(index_dir, capfd):
    for _ in range(3):
        ask(capfd, "tune", "--index_dir", index_dir, "--keep_versions", 4)

    code, document, said = ask(capfd, "delete", "--index_dir", index_dir, "p001")
    assert (code, document["pruned"], document["keep_versions"]) == (0, [1], 4)
    assert "version 1 removed: 4 are kept" in said

    code, document, said = ask(capfd, "compact", "--index_dir", index_dir, "--keep_versions", 2)
    assert (code, document["pruned"], document["keep_versions"]) == (0, [2, 3, 4], 2)
    assert "versions 2, 3, 4 removed: 2 are kept" in said

    code, document, said = ask(capfd, "rollback", "--index_dir", index_dir)
    assert (code, document["pruned"], document["version"]) == (0, [], 5)  # a rollback removes nothing
    assert "are kept" not in said


@pytest.mark.parametrize("damage", [None, b"{}"])
def test_rollback_repairs_a_lost_or_damaged_manifest(index_dir, capfd, damage):
    ask(capfd, "delete", "--index_dir", index_dir, "p001")
    (index_dir / "manifest.json").unlink()
    if damage is not None:
        (index_dir / "manifest.json").write_bytes(damage)

    code, _, said = ask(capfd, "info", "--index_dir", index_dir)
    assert code == 2
    assert "versions [1, 2] are there: go back to the newest with: aisle rollback" in said
    code, document, said = ask(capfd, "versions", "--index_dir", index_dir)
    assert (code, [version["current"] for version in document["versions"]]) == (0, [False, False])
    assert "no version is current" in said

    code, document, _ = ask(capfd, "rollback", "--index_dir", index_dir)

    assert (code, document["version"], document["version_before"]) == (0, 2, None)
    assert len(ids_in(index_dir)) == COUNT - 1


def test_settings_come_from_a_yaml_file_too(index_dir, tmp_path, capfd):
    file = tmp_path / "nightly.yaml"
    file.write_text(f"index_dir: {index_dir}\nef_search: 40\nkeep_versions: 1\n")

    code, document, _ = ask(capfd, "tune", "--config", file, "--ef_search", 30)

    assert code == 0
    assert document["ef_search"] == 30
    assert [path.name for path in (index_dir / "versions").iterdir()] == ["000002"]


@pytest.mark.parametrize("command", WRITERS)
def test_a_second_writer_is_refused_with_the_holder_of_the_lock(index_dir, capfd, command):
    with index_writer(index_dir, command="build"):
        code, _, said = ask(capfd, command, "--index_dir", index_dir, *EVERY_COMMAND[command])

    assert code == 2
    assert "build, process" in said
    assert "try again later" in said


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_a_missing_index_is_refused_and_not_created(tmp_path, capfd, command):
    code, document, said = ask(capfd, command, "--index_dir", tmp_path / "absent", *EVERY_COMMAND[command])

    assert (code, document) == (2, None)
    assert str(tmp_path / "absent") in said
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_an_unknown_flag_is_refused(tmp_path, capfd, command):
    assert index_main([command, "--index_dir", str(tmp_path), *EVERY_COMMAND[command], "--jsno"]) == 2
    assert "--jsno: there is no such flag; did you mean --json?" in capfd.readouterr().err


@pytest.mark.parametrize("run", [main, index_main])
def test_help_lists_every_command(run, capsys):
    assert run(["--help"]) == 0

    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert set(EVERY_COMMAND) <= listed
