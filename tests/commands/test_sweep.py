"""`aisle sweep`: three tiny trials, their files, and the settings of trials."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml

from aisle.cli import main
from aisle.commands.output import Output
from aisle.commands.sweep import COMMAND, final_model, query_split, run
from aisle.commands.sweep.final_model import Measured
from aisle.commands.sweep.metric_choice import choose_selection
from aisle.commands.sweep.searched_settings import (
    losses_to_try,
    search_space,
    settings_of_trial,
    starting_points,
)
from aisle.commands.sweep.settings import SweepSettings, train_settings
from aisle.commands.sweep.sweep_report import Report
from aisle.commands.train.settings import TrainSettings
from aisle.config.load import parse_settings
from aisle.data.files import iter_rows
from aisle.data.pairs import PairColumns, query_key, read_pairs
from aisle.errors import ConfigError, EvaluationError, ModelError, TrainingError
from aisle.sweep.duration import duration_of, shown_duration
from aisle.sweep.search_space import Range, SearchSpace
from aisle.sweep.study import STUDY, Study
from tests.commands.conftest import QUERIES, judged_rows, write_rows
from tests.doc_commands import blocks_run_by, commands_of


def settings_of(*flags):
    given = ["--train_file", "pairs.csv", "--output_dir", "sweep", *map(str, flags)]
    return parse_settings(SweepSettings, given, prog="sweep")


def pairs_of(path):
    return read_pairs(iter_rows([path]), columns=PairColumns(), label_map=None, on_bad_row="error").pairs


@pytest.fixture(scope="module")
def swept(tiny_bert, tmp_path_factory):
    """The folder of a sweep of three trials, and its flags."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    folder = tmp_path_factory.mktemp("sweep")
    queries = [f"{query} {number}" for number in range(3) for query in QUERIES]
    data = write_rows(folder / "judged.csv", ["query", "product", "relevance"], judged_rows(queries))
    (block,) = blocks_run_by(__file__)
    ((_, *words),) = commands_of(block)
    names = {"all-MiniLM-L6-v2": tiny_bert, "64": 16, "pairs.csv": data, "sweeps/pairs": folder / "out"}
    flags = [names.get(word, word) for word in words[1:]]
    flags += ["--most_epochs", 1, "--validation_share", 0.3, "--unseen_share", 0.3]
    flags += ["--learning_rate", "1e-3", "--keep_runs", 2, "--no_average_runs"]
    assert main(["sweep", *map(str, flags), "--trials", "3"]) == 0
    return folder / "out", list(map(str, flags))


def test_results_name_the_winner_and_its_recipe_trains(swept):
    folder, _ = swept
    document = json.loads((folder / "sweep.json").read_text())
    assert [one["state"] for one in document["trials"]] == ["complete"] * 3
    assert document["trials"][0]["start"] == "as given"
    assert document["trials"][1]["start"] == "--loss auto"
    best = max(document["trials"], key=lambda one: one["value"])
    recipe = yaml.safe_load((folder / "best.yaml").read_text())
    assert recipe["loss"] == best["values"]["loss"]
    assert recipe["learning_rate"] == best["values"]["learning_rate"]
    assert recipe["lora_alpha"] == 2 * recipe["lora_rank"] == 2 * best["values"]["lora_rank"]
    parse_settings(
        TrainSettings, ["--config", str(folder / "best.yaml"), "--output_dir", "run"], prog="train"
    )
    page = (folder / "sweep.md").read_text()
    assert f"| {best['number']} | {best['value']:.4f} |" in page
    assert (folder / "sweep.png").stat().st_size > 1000
    winner = document["models"][0]
    assert (winner["name"], winner["validation"]) == (f"trial {best['number']}", best["value"])
    assert document["models"][-1]["name"] == "before training"
    assert all(one["unseen"] is not None for one in document["models"])
    assert document["measured_times"] == 1


def test_unseen_queries_are_in_no_other_part(swept):
    folder, _ = swept
    parts = {
        name: set(map(query_key, pairs_of(folder / "data" / f"{name}.parquet").queries))
        for name in ("train", "validation", "unseen")
    }
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 24
    assert min(map(len, parts.values())) >= 4


def test_a_run_of_a_trial_is_an_ordinary_run_with_the_reported_figure(swept):
    folder, _ = swept
    document = json.loads((folder / "sweep.json").read_text())
    kept = sorted(path.name for path in (folder / "trials").iterdir() if path.is_dir())
    ranked = sorted(document["trials"], key=lambda one: (-one["value"], one["number"]))
    assert kept == sorted({"0000", *(f"{one['number']:04d}" for one in ranked[:2])})
    metrics = json.loads((folder / "trials" / "0000" / "metrics.json").read_text())
    assert metrics["best"]["roc_auc"] == document["trials"][0]["value"]


def test_the_same_command_only_measures_again_and_other_settings_are_refused(swept, capsys):
    folder, flags = swept
    before = json.loads((folder / "sweep.json").read_text())["trials"]
    assert main(["sweep", *flags, "--trials", "3"]) == 0
    assert json.loads((folder / "sweep.json").read_text())["trials"] == before
    assert "the unseen queries were used 2 times" in capsys.readouterr().out
    assert main(["sweep", *flags, "--seed", "7"]) == 2
    assert "holds a sweep with other settings: seed was 42 and is now 7" in capsys.readouterr().err


def split(data, folder, *flags):
    settings = train_settings(settings_of("--train_file", data, "--validation_share", 0.3, *flags))
    return query_split.split_queries(settings, folder, unseen_share=0.3, log=lambda _: None)


def test_changed_data_is_read_again_before_the_first_trial_and_refused_after_it(tmp_path):
    columns, rows = ["query", "product", "relevance"], list(judged_rows(QUERIES))
    data = write_rows(tmp_path / "pairs.csv", columns, rows)
    split(data, tmp_path)
    write_rows(data, columns, [(query, f"new {product}", label) for query, product, label in rows])
    assert all(text.startswith("new ") for text in split(data, tmp_path).train.products)
    (tmp_path / STUDY).touch()
    split(data, tmp_path)
    with pytest.raises(ConfigError, match="seed was 42 and is now 7"):
        split(data, tmp_path, "--seed", 7)
    write_rows(data, columns, rows)
    with pytest.raises(ConfigError, match=r"pairs\.csv has changed since; .* give another folder"):
        split(data, tmp_path)


def test_processes_that_start_together_read_the_data_once(tmp_path, monkeypatch):
    data = write_rows(tmp_path / "a.csv", ["query", "product", "relevance"], judged_rows(QUERIES))
    waits, reads = [], []
    second_came = threading.Event()
    read, wait = query_split.read_training_data, query_split.wait_for_lock

    def counted(called, function, *given, **named):
        called.append(given)
        if len(called) == 2:
            second_came.set()
        return function(*given, **named)

    with ThreadPoolExecutor() as pool:
        others = []

        def reading(*given, **named):
            if not reads:
                others.append(pool.submit(split, data, tmp_path / "out"))
                reads.append(given)
                second_came.wait(120)
                return read(*given, **named)
            return counted(reads, read, *given, **named)

        monkeypatch.setattr(query_split, "read_training_data", reading)
        monkeypatch.setattr(query_split, "wait_for_lock", lambda path: counted(waits, wait, path))
        (tmp_path / "out").mkdir()
        first = split(data, tmp_path / "out")
    assert others[0].result().train.queries == first.train.queries
    assert len(reads) == 1


def test_a_process_without_a_complete_trial_leaves_the_report_to_another_that_goes_on(tmp_path, capsys):
    study = Study(tmp_path, SearchSpace({"learning_rate": Range(1e-4, 1e-3)}), seed=0, identity={})
    trial = study.next_trial()
    finish = partial(run._finish, settings_of(), None, None, study, tmp_path, (), "roc_auc", Output())
    assert finish() is None
    assert "another process goes on with this sweep" in capsys.readouterr().out
    trial.prune("the budget is spent")
    with pytest.raises(TrainingError, match="no trial was complete"):
        finish()


def test_a_metric_that_is_undefined_is_found_before_the_first_trial(tmp_path):
    columns = ["query", "product", "relevance"]
    rows = [(f"{query} {number}", f"a {query}", 1) for number in range(3) for query in QUERIES]
    alike = split(write_rows(tmp_path / "pairs.csv", columns, rows), tmp_path)
    lines = []
    assert choose_selection(None, alike, log=lines.append) == "retrieval"
    assert "roc_auc is undefined: there are only positives in the labels" in lines[0]
    with pytest.raises(ConfigError, match=r"--selection roc_auc: is undefined: .*; use retrieval"):
        choose_selection("roc_auc", alike, log=lines.append)
    judged = list(judged_rows(QUERIES))
    mixed = split(write_rows(tmp_path / "mixed.csv", columns, judged), tmp_path)
    assert choose_selection(None, mixed, log=lines.append) == "roc_auc"
    one_class = replace(mixed, unseen=alike.unseen)
    assert choose_selection(None, one_class, log=lines.append) == "retrieval"
    assert "pairs to measure the winner on" in lines[-1]
    worthless = write_rows(tmp_path / "none.csv", columns, [(*row[:2], 0) for row in judged])
    none = split(worthless, tmp_path)
    with pytest.raises(ConfigError, match="there is no positive"):
        choose_selection(None, none, log=lines.append)


def test_the_base_model_is_measured_at_its_revision(tmp_path, monkeypatch):
    measured = {}

    def measure(model, settings, *, revision):
        measured[model] = revision
        return {"mrr": 0.5}

    monkeypatch.setattr(final_model, "measure_model", measure)
    monkeypatch.setattr(final_model, "with_data", lambda settings, split, part: settings)
    given = train_settings(settings_of("--model_name_or_path", "org/base", "--model_revision", "abc"))
    one = final_model.Measure(given, None, metric="mrr")
    assert (one("org/base", "unseen"), one("runs/0000", "unseen")) == (0.5, 0.5)
    assert measured == {"org/base": "abc", "runs/0000": None}
    with pytest.raises(EvaluationError, match="roc_auc is undefined on the unseen queries"):
        final_model.Measure(given, None, metric="roc_auc")("org/base", "unseen")


def test_a_teacher_is_for_the_trials_of_a_loss_that_learns_from_it(tmp_path):
    judged = pairs_of(write_rows(tmp_path / "a.csv", ["query", "product", "relevance"], judged_rows(QUERIES)))
    given = settings_of("--loss", "margin_mse", "--teacher", "ce", "--search", "loss")
    losses = search_space(given, judged, all_layers=False).settings["loss"].values
    assert {"margin_mse", "cosent"} <= set(losses)
    plain = train_settings(given)
    assert settings_of_trial(plain, {"loss": "margin_mse"}, layers=()).distillation.teacher == "ce"
    assert settings_of_trial(plain, {"loss": "cosent"}, layers=()).distillation.teacher is None


def test_a_report_without_unseen_figures_has_the_reason_in_their_place():
    models = (Measured("trial 1", "a", 0.8), Measured("before training", "b", 0.5))
    report = Report("mrr", (), models, 1.0, 2.0, 1, {"train": 9, "validation": 5, "unseen": 2})
    assert report.selection_bias() == [
        "gain over before training: +0.3000 on the 5 queries that chose it; mrr could not be measured on the "
        "2 queries that took no part"
    ]


def test_runs_join_the_average_only_if_it_gets_better(tmp_path, monkeypatch):
    figures = {("a", "b"): 0.7, ("a", "c"): 0.85, ("a", "c", "d"): 0.8}
    joined = []

    def average(runs, weights):
        joined.append(tuple(runs))
        if "e" in runs:
            raise ModelError("has another base model")
        return runs

    def write(model, target, **_):
        target.mkdir()
        (target / "runs").write_text(" ".join(model))

    monkeypatch.setattr(final_model, "average_runs", average)
    monkeypatch.setattr(final_model, "write_model", write)
    lines = []
    found = final_model.average_best(
        [
            Measured(f"trial {name}", name, value)
            for name, value in zip("abecd", (0.8, 0.79, 0.78, 0.77, 0.76), strict=True)
        ],
        tmp_path / "average",
        lambda model, part: figures[tuple((Path(model) / "runs").read_text().split())],
        log=lines.append,
    )
    assert joined == [("a", "b"), ("a", "e"), ("a", "c"), ("a", "c", "d")]
    assert (found.name, found.validation) == ("average of trial a, trial c", 0.85)
    assert (tmp_path / "average" / "runs").read_text() == "a c"
    assert lines == ["no average with trial e: has another base model"]


def test_space_and_starts_follow_labels_and_settings(tmp_path):
    judged = pairs_of(write_rows(tmp_path / "a.csv", ["query", "product", "relevance"], judged_rows(QUERIES)))
    positives = pairs_of(
        write_rows(tmp_path / "b.csv", ["query", "product"], [(q, f"a {q}") for q in QUERIES])
    )
    lora = settings_of("--use_peft")
    assert losses_to_try(lora, judged)[0] == "cosent"
    assert losses_to_try(lora, positives) == ("in_batch",)
    names = [name for name, _ in starting_points(lora, judged)]
    assert names == ["as given", "--loss auto", "recipe walmart_amazon", "recipe wdc", "recipe quickstart"]
    assert [name for name, _ in starting_points(lora, positives)] == ["as given", "--loss auto", "recipe faq"]
    full = search_space(settings_of(), judged, all_layers=False).settings
    assert not {"lora_rank", "lora_target_modules"} & full.keys()
    assert full["learning_rate"].high == 2e-4
    chosen = settings_of("--use_peft", "--search", "loss", "--search_losses", "cosent", "listwise")
    assert {
        name: one.values for name, one in search_space(chosen, judged, all_layers=True).settings.items()
    } == {"loss": ("cosent", "listwise")}


def test_the_first_trial_has_the_given_settings_whatever_the_usual_values_are(tmp_path):
    judged = pairs_of(write_rows(tmp_path / "a.csv", ["query", "product", "relevance"], judged_rows(QUERIES)))
    flags = ["--loss", "online_contrastive", "--learning_rate", 1e-2, "--per_device_train_batch_size", 8]
    flags += ["--lora_rank", 6, "--lora_alpha", 24, "--temperature", 0.5, "--dropout", 0.3]
    given = settings_of("--use_peft", *flags, "--num_train_epochs", 20, "--most_epochs", 20)
    space = search_space(given, judged, all_layers=True)
    ((name, point), *_) = starting_points(given, judged)
    assert name == "as given"
    (start,) = space.starts([point])
    first = settings_of_trial(train_settings(given), start, layers=("dense",))
    assert first == train_settings(given)
    assert space.settings["lora_rank"].values == (4, 8, 16, 32, 64, 6)
    assert space.settings["learning_rate"] == Range(1e-4, 1e-2, log=True)
    (problem,) = COMMAND.problems(settings_of("--num_train_epochs", 20))
    assert "--num_train_epochs 20: is more than --most_epochs 5" in problem
    losses = settings_of("--search", "loss", "--search_losses", "listwise")
    assert search_space(losses, judged, all_layers=False).starts([starting_points(losses, judged)[0][1]]) == [
        {"loss": "listwise"}
    ]


def test_settings_of_a_trial_are_those_given_with_its_values():
    given = train_settings(settings_of("--use_peft", "--max_length", 16, "--weight_decay", 0.1))
    values = {
        "loss": "cosent",
        "lora_rank": 32,
        "lora_target_modules": "all",
        "temperature": 0.1,
        "dropout": 0.12345,
    }
    values |= {"learning_rate": 2e-3, "per_device_train_batch_size": 16, "num_train_epochs": 2}
    made = settings_of_trial(given, values, layers=("dense", "query"))
    assert (made.lora.lora_rank, made.lora.lora_alpha) == (32, 64)
    assert made.lora.lora_target_modules == ("dense", "query")
    assert (made.objective.loss, made.objective.temperature, made.model.dropout) == ("cosent", 0.1, 0.123)
    optim = made.optim
    assert (optim.learning_rate, optim.per_device_train_batch_size, optim.num_train_epochs) == (2e-3, 16, 2)
    assert (made.model.max_length, optim.weight_decay) == (16, 0.1)
    # The temperature is left alone if the loss has none.
    other = settings_of_trial(given, {**values, "loss": "cosine_target"}, layers=())
    assert other.objective.temperature == given.objective.temperature


def test_flags_that_a_sweep_has_no_use_for_are_refused():
    flags = [
        "--push_to_hub",
        "--two_towers",
        "--keep",
        "last",
        "--max_train_steps",
        3,
        "--search_losses",
        "cosnet",
    ]
    problems = "\n".join(COMMAND.problems(settings_of(*flags)))
    for flag in (
        "--push_to_hub",
        "--two_towers",
        "--keep last",
        "--max_train_steps",
        "--search_losses cosnet",
    ):
        assert f"{flag}: " in problems


def test_a_launch_of_several_processes_is_refused_with_the_way_out(monkeypatch, capsys, judged_csv):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["sweep", "--train_file", str(judged_csv), "--output_dir", "o"]) == 2
    assert "start `aisle sweep` several times with the same --output_dir" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("60m", 3600), ("1.5h", 5400), ("1h30m", 5400)])
def test_durations_are_read_with_their_unit(text, seconds):
    assert duration_of(text) == seconds


@pytest.mark.parametrize("text", ["60", "m", "0m", "60 m", "an hour", "-5m"])
def test_durations_without_a_unit_are_refused(text, capsys):
    assert main(["sweep", "--train_file", "x.csv", "--output_dir", "o", f"--budget={text}"]) == 2
    assert "--budget" in capsys.readouterr().err


def test_durations_are_shown_in_the_unit_that_fits():
    assert [shown_duration(seconds) for seconds in (45, 700, 3900)] == ["45 s", "12 min", "1 h 05 min"]
