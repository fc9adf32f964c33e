"""`aisle answer` and `aisle rag` with a tiny random generator."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import aisle
from aisle.cli import main
from aisle.index import read_manifest
from aisle.models.generator import load_generator
from tests.commands.conftest import write_rows

DOCUMENTS = [
    f"the {noun} is {colour}" for noun in ("sofa", "lamp", "desk") for colour in ("red", "blue", "old")
]
QUESTIONS = [(f"which colour has the {text.split()[1]}?", text.split()[-1]) for text in DOCUMENTS]
INPUT = "question: {} context: {}"


@pytest.fixture(scope="module")
def shop(tiny_model, tmp_path_factory):
    """An index of documents, a tiny BART, and a file of questions with answers."""
    from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

    folder = tmp_path_factory.mktemp("rag")
    encoder = tiny_model("bert")
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    sizes = {
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
    }
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    tokens = {"pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102, "decoder_start_token_id": 101}
    for name, positions in {"bart": 128, "short": 8}.items():
        heads["max_position_embeddings"] = positions
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = BartConfig(
                vocab_size=30_522, init_std=0.3, forced_eos_token_id=None, **sizes, **heads, **tokens
            )
            BartForConditionalGeneration(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = [(f"d{number}", text) for number, text in enumerate(DOCUMENTS)]
    catalog = write_rows(folder / "documents.csv", ["product_id", "title"], rows)
    arguments = ["--model", encoder, "--catalog", catalog, "--index_dir", folder / "index"]
    assert main(["build", *map(str, arguments)]) == 0
    questions = write_rows(folder / "questions.csv", ["question", "answer"], QUESTIONS)
    return SimpleNamespace(
        index=str(folder / "index"),
        generator=str(folder / "bart"),
        short=str(folder / "short"),
        questions=str(questions),
        encoder=str(encoder),
    )


def by_hand(generator, text, answer):
    """Return log p(answer | text) of a pair, a token at a time."""
    inputs = generator.tokenizer(text, return_tensors="pt")
    read = generator.tokenizer(answer)["input_ids"]
    written, total = [generator.model.config.decoder_start_token_id], 0.0
    for token in read:
        with torch.no_grad():
            logits = generator.model(**inputs, decoder_input_ids=torch.tensor([written])).logits
        total += float(logits[0, -1].log_softmax(-1)[token])
        written.append(token)
    return total


def test_the_likelihood_of_an_answer_is_that_of_its_tokens_whatever_the_batch(shop):
    generator = load_generator(shop.generator)
    pairs = [("a long question about a red sofa", "red"), ("lamp", "the lamp is blue")]
    found = generator.log_probs(*map(list, zip(*pairs, strict=True)))
    assert found.tolist() == pytest.approx([by_hand(generator, *pair) for pair in pairs], abs=1e-3)


def test_an_answer_has_the_likelihood_of_the_formula_and_its_sources(shop, capsys):
    question = QUESTIONS[0][0]
    arguments = [
        "--index_dir",
        shop.index,
        "--generator",
        shop.generator,
        "--top_k",
        "3",
        "--max_new_tokens",
        "4",
    ]
    assert main(["answer", *arguments, question, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)

    hits = aisle.open_searcher(shop.index).search([question], 3)[0]
    assert [source["product_id"] for source in found["sources"]] == [hit.product_id for hit in hits]
    generator = load_generator(shop.generator)
    weights = np.exp(np.array([hit.score for hit in hits]) / 0.05)
    inputs = [INPUT.format(question, hit.text) for hit in hits]

    def shares_of(answer):
        return weights / weights.sum() * [math.exp(by_hand(generator, text, answer)) for text in inputs]

    candidates = {answer: shares_of(answer).sum() for answer in generator.generate(inputs, max_new_tokens=4)}
    assert found["answer"] == max(candidates, key=candidates.get)
    each = shares_of(found["answer"])
    assert found["log_likelihood"] == pytest.approx(math.log(each.sum()), abs=1e-3)
    assert [source["share"] for source in found["sources"]] == pytest.approx(each / each.sum(), abs=1e-3)

    assert main(["answer", *arguments, question]) == 0
    shown = capsys.readouterr().out
    assert question in shown
    assert hits[0].product_id in shown


def test_a_generator_with_few_positions_reads_the_start_of_long_texts(shop, capsys):
    long = "which colour has the sofa, please? " * 5
    assert main(["answer", "--index_dir", shop.index, "--generator", shop.short, long, long]) == 0
    said = "reads at most 8 tokens of a question with its document, and at most 8 of an answer"
    assert " ".join(capsys.readouterr().out.split()).count(said) == 1
    generator = load_generator(shop.short)
    found = generator.log_probs([long, INPUT.format("sofa", "red")], [long, "red"])
    start = generator.tokenizer.decode(generator.tokenizer(long)["input_ids"][1:7])
    assert found.tolist()[0] == pytest.approx(float(generator.log_probs([start], [start])), abs=1e-3)


def test_questions_of_another_file_choose_the_epoch_and_bad_rows_can_be_left_out(shop, tmp_path, capsys):
    train = write_rows(tmp_path / "train.csv", ["question", "answer"], [*QUESTIONS[:6], ("why?", " ")])
    held_out = write_rows(tmp_path / "held_out.csv", ["question", "answer"], QUESTIONS[5:])
    arguments = ["--index_dir", shop.index, "--generator", shop.generator, "--train_file", str(train)]
    arguments += ["--validation_file", str(held_out), "--output_dir", str(tmp_path / "run")]
    assert main(["rag", *arguments]) == 2
    assert "row 7 (line 8): answer is blank" in capsys.readouterr().err
    arguments += ["--on_bad_row", "skip", "--learning_rate", "1e-3", "--top_k", "2", "--json"]
    assert main(["rag", *arguments]) == 0
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert (record["questions"], record["held_out_questions"]) == (6, 4)
    assert "1 of 7 rows are bad" in shown.err
    assert "warning: 1 validation questions are training questions too" in shown.err


def test_the_query_tower_is_trained_and_the_index_stays_valid(shop, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ["--index_dir", shop.index, "--generator", shop.generator, "--train_file", shop.questions]
    options = [
        "--top_k",
        "3",
        "--learning_rate",
        "1e-3",
        "--validation_share",
        "0.4",
        "--output_dir",
        str(run),
    ]
    assert main(["rag", *arguments, *options, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["held_out_loss"] < record["held_out_loss_before"]
    assert record["questions"] + record["held_out_questions"] == len(QUESTIONS)

    tuned, before = aisle.load_encoder(run), aisle.load_encoder(shop.encoder)
    assert tuned.fingerprint == read_manifest(shop.index).fingerprint
    assert tuned.query_fingerprint != before.query_fingerprint
    assert np.array_equal(tuned.encode_products(DOCUMENTS), before.encode_products(DOCUMENTS))
    questions = [question for question, _ in QUESTIONS]
    assert not np.allclose(tuned.encode_queries(questions), before.encode_queries(questions), atol=1e-4)
    assert main(["query", "--index_dir", shop.index, "--model", str(run), questions[0], "--json"]) == 0
    (answered,) = json.loads(capsys.readouterr().out)
    assert answered["results"]
    assert {hit["product_id"] for hit in answered["results"]} <= {
        f"d{number}" for number in range(len(DOCUMENTS))
    }

    assert main(["rag", *arguments, *options]) == 2  # the folder has a run
    assert str(run) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        (
            "answer",
            ["--generator_input", "only {question}", "why?"],
            "--generator_input 'only {question}': must contain",
        ),
        ("answer", ["--generator", "ENCODER", "why?"], "cannot be loaded as a sequence-to-sequence model"),
        ("rag", ["--learning_rate", "1e-30"], "did not become likelier"),
        ("answer", [" "], "a question is missing or blank"),
        ("rag", ["--answer_column", "reply"], "there is no column 'reply'"),
    ],
)
def test_what_cannot_work_is_one_message(shop, tmp_path, capsys, command, given, message):
    arguments = ["--index_dir", shop.index, "--generator", shop.generator]
    if command == "rag":
        arguments += ["--train_file", shop.questions, "--output_dir", str(tmp_path / "run")]
        arguments += ["--num_train_epochs", "1"]
    given = [shop.encoder if word == "ENCODER" else word for word in given]
    assert main([command, *arguments, *given]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
