"""Run the commands of README and guides in order, in a shop with the files that they name.

A tiny model replaces every other, and trainings have two steps: the tests check that the docs' commands run
with their flags and files. tests/test_docs.py runs the tutorial unchanged.
"""

import csv
import gzip
import io
import json
import re
import shlex
import shutil

import pyarrow.csv
import pyarrow.parquet
import pytest

from aisle.cli import index_main, main, train_main, train_reranker_main
from aisle.sample_shop.generate import write_sample
from tests.doc_commands import ROOT, SCRIPTS, blocks_of, commands_of

PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / "reference").glob("training.md"),
    *(ROOT / "docs" / "reference").glob("data.md"),
    *(ROOT / "docs" / "explanation").glob("ef.md"),
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]
TRAININGS = {"train_peft.py": train_main, "train_reranker.py": train_reranker_main}
QUICK = {"--max_length": "16", "--max_train_steps": "2", "--num_warmup_steps": "0"}
STANDS_FOR = {"500": "1", "step_00000500": "step_00000001", "128": QUICK["--max_length"]}
"""Name on a page -> its equivalent in a run of two steps, with a checkpoint after the first."""


def blocks_on(page):
    blocks = blocks_of(page.read_text("utf-8"), page.relative_to(ROOT).as_posix())
    return [block for block in blocks if block.comment == "<!-- parsed -->"]


def ours(words):
    """Return the script and its arguments; None for other programs, such as make and pip."""
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    at = next((at for at, word in enumerate(words) if word in {*SCRIPTS, "aisle"}), None)
    return None if at is None else (words[at], words[at + 1 :])


PARTS = {
    page: [command for block in blocks_on(page) for words in commands_of(block) if (command := ours(words))]
    for page in PAGES
}
RUN = {page: commands for page, commands in PARTS.items() if commands}


def write_rows(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def read_rows(path, delimiter=","):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def write_shop(folder):
    """Write the files that the guides expect."""
    write_sample(folder, products=500, seed=0)
    products, judgements = read_rows(folder / "products.csv"), read_rows(folder / "train.csv")
    train = judgements[:200]
    judged = [(row["query"], row["product_title"], row["esci_label"]) for row in train]
    grades = {"E": "exact", "S": "close", "C": "wrong", "I": "wrong"}
    graded = [(query, title, grades[label]) for query, title, label in judged]
    clicks = [(query, title) for query, title, label in judged if label == "E"]
    write_rows(folder / "clicks.csv", ("query", "product"), clicks)
    write_rows(folder / "clicks" / "one.csv.gz", ("query", "product"), clicks)
    write_clicks(folder, judged)
    write_rows(folder / "judged.csv", ("search_term", "item_title", "grade"), graded[:150])
    write_rows(folder / "judged_held_out.csv", ("search_term", "item_title", "grade"), graded[150:])
    worth = {"E": 1, "S": 0.1, "C": 0.01, "I": 0}
    pairs = [(query, title, worth[label]) for query, title, label in judged]
    by_id = [(row["query"], row["product_id"], worth[row["esci_label"]]) for row in judgements]
    write_rows(folder / "judged_ids.csv", ("query", "product_id", "relevance"), by_id)
    write_rows(folder / "pairs.csv", ("query", "product", "relevance"), pairs)
    named = [(*pair, row["product_id"]) for pair, row in zip(pairs, train, strict=True)]
    write_rows(folder / "judged_products.csv", ("query", "product", "relevance", "product_id"), named)
    write_groups(folder, pairs)
    write_triples(folder, clicks)
    write_scores(folder, pairs)
    write_dpr(folder, clicks, products)
    write_rows(folder / "more.csv", ("query", "product", "relevance"), pairs[::2])
    questions = [{"question": query, "answer": title} for query, title in clicks]
    lines = [json.dumps(row) for row in questions]
    (folder / "faq.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for part in ("train.csv", "validation.csv"):
        rows = read_rows(folder / part)[:200]
        numbers = [(row["query"], row["product_title"], worth[row["esci_label"]]) for row in rows]
        write_rows(folder / part, ("query", "product", "relevance"), numbers)
    changed = [(row["product_id"], f"{row['title']}, new", *list(row.values())[2:]) for row in products[:5]]
    write_rows(folder / "changed.csv", list(products[0]), changed)
    prices = [(row["product_id"], "9.50") for row in products[:5]]
    write_rows(folder / "prices.csv", ("product_id", "price"), prices)
    (folder / "gone.txt").write_text("P0000031\nP0000032\n", encoding="utf-8")
    (folder / "queries.txt").write_text("red sofa\nblue lamp\n", encoding="utf-8")
    for part in ("queries.csv", "qrels.tsv"):
        shutil.copy(folder / part, folder / f"train_{part}")
    table = pyarrow.csv.read_csv(folder / "products.csv")
    names = ["sku" if name == "product_id" else name for name in table.column_names]
    pyarrow.parquet.write_table(table.rename_columns(names), folder / "items.parquet")
    qrels = read_rows(folder / "qrels.tsv", "\t")
    labels = [
        (row["query-id"], row["corpus-id"], "exact" if float(row["score"]) == 1 else "close") for row in qrels
    ]
    ranked = [(row["query-id"], "Q0", row["corpus-id"], 1, 0, "solr") for row in qrels[::3]]
    lines = [" ".join(map(str, line)) for line in dict((line[0], line) for line in ranked).values()]
    (folder / "solr.trec").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_rows(folder / "judgements.csv", ("query_id", "product_id", "label"), labels)
    shutil.copytree(ROOT / "configs", folder / "configs")


def write_clicks(folder, judged):
    """Write how often each product was shown and clicked, at two positions."""
    rates = {"E": 40, "S": 20, "C": 4, "I": 1}
    titles = {title: number for number, (_, title, _) in enumerate(judged)}
    rows = [
        (query, title, position, 100, rates[label] // position, label == "E", titles[title] % 70)
        for query, title, label in judged
        for position in (1, 2)
    ]
    names = ("query", "product", "position", "impressions", "clicks", "purchases", "variant_of")
    write_rows(folder / "click_log.csv", names, [(*row[:5], int(row[5]), row[6]) for row in rows])


def write_scores(folder, pairs):
    """Write pairs with the scores of a teacher, and hard negatives with theirs."""
    rows = [
        {"query": query, "product": title, "teacher_score": 6 * relevance - 3}
        | {"hard_negatives": [f"{title}, broken"], "negative_teacher_scores": [-4.5]}
        for query, title, relevance in pairs
    ]
    (folder / "scored.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def write_groups(folder, pairs):
    """Write texts with their groups, and pairs with groups and subgroups."""
    texts = [(text, f"intent {text[:1]}") for text in dict.fromkeys(text for _, text, _ in pairs)]
    write_rows(folder / "texts.csv", ("text", "intent"), texts)
    known = [(number, *row) for number, row in enumerate(texts)]
    write_rows(folder / "known.csv", ("product_id", "text", "intent"), known)
    grouped = [(*pair, number % 70, number % 3) for number, pair in enumerate(pairs)]
    write_rows(folder / "variants.csv", ("query", "product", "relevance", "variant_of", "shop"), grouped)


def write_triples(folder, clicks):
    """Write a query, a right and a wrong product in each row, and the same as mined pairs."""
    wrong = [title for _, title in clicks[1:]]
    triples = [(*pair, other) for pair, other in zip(clicks, wrong, strict=False) if other != pair[1]]
    write_rows(folder / "triples.csv", ("anchor", "positive", "negative"), triples)
    names = ("query", "product", "hard_negatives")
    lines = [json.dumps(dict(zip(names, (*pair, [other]), strict=True))) for *pair, other in triples]
    (folder / "mined.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_dpr(folder, clicks, products):
    """Write questions in DPR's format, and passages to search for their hard negatives."""
    questions = [
        {
            "question": query,
            "answers": [],
            "positive_ctxs": [{"title": "", "text": title}],
            "negative_ctxs": [],
            "hard_negative_ctxs": [],
        }
        for query, title in clicks[:20]
    ]
    (folder / "nq-train.json").write_text(json.dumps(questions), encoding="utf-8")
    passages = [f"{row['product_id']}\t{row['title']}\t\n" for row in products]
    (folder / "passages.tsv").write_text("id\ttext\ttitle\n" + "".join(passages), encoding="utf-8")


def write_esci(folder):
    """Rename the columns of the files in the ESCI guide to ESCI's names."""
    shutil.copy(folder / "test.csv", folder / "train.csv")
    rows = [(row["product_id"], row["title"]) for row in read_rows(folder / "products.csv")]
    write_rows(folder / "products.csv", ("product_id", "product_title"), rows)
    test = [row for row in read_rows(folder / "test.csv") if row["query_id"] in {"Q0004"}]
    write_rows(folder / "examples.csv", list(test[0]), [row.values() for row in test])


def run(script, arguments, model):
    """Run an aisle command in this process; trainings use the tiny model and two steps."""
    words = [
        STANDS_FOR.get(word, re.sub(r"step_\d+", lambda m: STANDS_FOR[m[0]], word)) for word in arguments
    ]
    words = [str(model) if word == "all-MiniLM-L6-v2" else word for word in words]
    if script in TRAININGS:
        quick = {"--model_name_or_path": str(model), **QUICK}
        words += [part for flag, value in quick.items() if flag not in words for part in (flag, value)]
        resumed = {"--resume_from_checkpoint", "--overwrite_output_dir"} & set(words)
        words += [] if resumed else ["--overwrite_output_dir"]
    return {**TRAININGS, "infer_index.py": index_main, "aisle": main}[script](words)


@pytest.fixture(scope="module")
def shop(tiny_bert, tmp_path_factory):
    """A shop with the runs and indexes that the guides expect."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    folder = tmp_path_factory.mktemp("docs") / "shop"
    write_shop(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mine = "--use_peft --train_file pairs.csv --output_dir runs/mine --learning_rate 1e-2"
        faq = "--use_peft --config faq --train_file faq.jsonl --checkpointing_steps 1"
        build = (
            "build --model runs/mine --catalog products.csv --text_template '{title} {brand}' --index_dir "
        )
        for script, line in (
            ("train_peft.py", mine),
            ("train_peft.py", faq),
            ("infer_index.py", build + "runs/mine-index"),
            ("infer_index.py", build + "runs/other-index"),
        ):
            assert run(script, shlex.split(line), tiny_bert) == 0, line
    return folder


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_go_through(page, shop, tiny_bert, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    if page.name == "esci.md":
        write_esci(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "offline")
    if page.name == "adapt-queries.md":  # a version to go back to, should the adapter not be kept
        assert run("aisle", ["upsert", "--index_dir", "runs/mine-index", "--catalog", "changed.csv"], "") == 0
    for script, arguments in RUN[page]:
        assert arguments[0] != "serve", "a server does not end; name it in a sentence"
        monkeypatch.setattr("sys.stdin", io.StringIO("red sofa\n"))
        code = run(script, arguments, tiny_bert)
        assert code == 0, f"{script} {shlex.join(arguments)}\n{capfd.readouterr().err[-3000:]}"


def test_every_command_of_ours_that_needs_no_gpu_is_on_a_page_that_is_run():
    others = [page for page in (ROOT / "docs").rglob("*.md") if page not in PAGES]
    unrun = [
        words for page in others for block in blocks_on(page) for words in commands_of(block) if ours(words)
    ]
    # It is run from a wheel by tests/commands/test_sample_and_quickstart.py.
    assert [words for words in unrun if words != ["aisle", "quickstart"]] == []
