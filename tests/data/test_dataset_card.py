"""Names of classes from the README of a local folder."""

import json

import pytest

from aisle.data.dataset_sources import iter_split, resolve_dataset
from aisle.data.nli import join_nli
from aisle.data.pairs import PairColumns
from aisle.errors import DataError

USUAL, TURNED = ["entailment", "neutral", "contradiction"], ["contradiction", "neutral", "entailment"]


def info(names, config=None, quoted=True):
    listed = "".join(f"\n          '{n}': {name}" for n, name in enumerate(names))
    if not quoted:
        listed = "".join(f"\n          - {name}" for name in names)
    start = "" if config is None else f"config_name: {config}\n  "
    return (
        f"{start}features:\n  - name: premise\n    dtype: string\n  - name: label\n    dtype:\n"
        f"      class_label:\n        names:{listed}\n"
    )


def card(*infos):
    if len(infos) == 1:
        return f"---\nlicense: mit\ndataset_info:\n  {infos[0]}---\n# A data set\n"
    return f"---\ndataset_info:\n{''.join(f'- {one}' for one in infos)}---\n"


def write(folder, text, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"premise": "p", "hypothesis": f"h{label}", "label": label} for label in (0, 1, 2)]
        path.write_text("\n".join(map(json.dumps, rows)))
    (folder / "README.md").write_text(text)


def joined(folder):
    rows = iter_split(resolve_dataset(str(folder)), "train")
    made = join_nli(rows, wanted=PairColumns(), log=lambda _: None)
    return [(row.values["positive"], row.values["negatives"]) for row in made]


@pytest.mark.parametrize("text", [card(info(TURNED)), card(info(TURNED, quoted=False))])
def test_the_readme_of_a_folder_names_the_classes(tmp_path, text):
    write(tmp_path, text, "train.jsonl")
    assert joined(tmp_path) == [("h2", ["h0"])]


@pytest.mark.parametrize("text", ["", "# no yaml", "---\nlicense: mit\n---", "---\n: [\n---\n"])
def test_without_names_the_usual_order_holds(tmp_path, text):
    write(tmp_path, text, "train.jsonl")
    assert joined(tmp_path) == [("h0", ["h2"])]


def test_each_configuration_has_its_own_names(tmp_path):
    text = card(info(USUAL, "glue"), info(TURNED, "other"))
    write(tmp_path, text, "other/train-00000.jsonl")
    assert joined(tmp_path) == [("h2", ["h0"])]


def test_names_of_an_unknown_configuration_are_refused(tmp_path):
    write(tmp_path, card(info(USUAL, "glue"), info(TURNED, "other")), "train.jsonl")
    with pytest.raises(
        DataError, match=r"README.md: names other classes for each of the configurations glue, o"
    ):
        joined(tmp_path)
    write(tmp_path, card(info(TURNED, "glue"), info(TURNED, "other")), "train.jsonl")
    assert joined(tmp_path) == [("h2", ["h0"])]
