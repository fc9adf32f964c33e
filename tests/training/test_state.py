from aisle.training.state import Throughput, TrainState


def test_the_highest_value_is_the_best_and_the_first_of_equals_stays():
    state = TrainState()
    values = [0.7, 0.8, 0.8, 0.6]
    kept = [state.record({"step": n, "roc_auc": v}, metric="roc_auc") for n, v in enumerate(values)]
    assert kept == [True, True, False, False]
    assert state.best == {"step": 1, "roc_auc": 0.8}


def test_an_undefined_metric_keeps_the_latest_evaluation():
    state = TrainState()
    assert [state.record({"step": n, "roc_auc": None}, metric="roc_auc") for n in range(3)] == [True] * 3
    assert state.best == {"step": 2, "roc_auc": None}


def test_a_defined_value_beats_an_undefined_one():
    state = TrainState()
    state.record({"step": 0, "roc_auc": None}, metric="roc_auc")
    assert state.record({"step": 1, "roc_auc": 0.1}, metric="roc_auc")
    assert not state.record({"step": 2, "roc_auc": None}, metric="roc_auc")
    assert state.best == {"step": 1, "roc_auc": 0.1}


def test_rates_are_per_second_and_padding_is_a_share():
    work = Throughput()
    work.add(seconds=2.0, pairs=10, real_tokens=60, padded_tokens=80)
    assert work.rates() == {"pairs_per_second": 5.0, "tokens_per_second": 30.0, "padding_share": 0.25}


def test_a_state_survives_its_dictionary():
    state = TrainState(step=3, base={"roc_auc": 0.5}, best={"step": 2})
    state.total.add(seconds=1.5, pairs=4, real_tokens=5, padded_tokens=6)
    other = TrainState()
    other.load_state_dict(state.state_dict())
    assert other == state
