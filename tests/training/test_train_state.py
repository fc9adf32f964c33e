import pytest

from aisle.training.train_state import Throughput, TrainState


def test_the_highest_value_is_the_best_and_ties_keep_the_first():
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
    work = Throughput(seconds=2.0, pairs=10)
    work.add_step(loss=0.5, real_tokens=20, read_tokens=30)
    work.add_step(loss=0.1, real_tokens=40, read_tokens=50)
    assert work.mean_loss == pytest.approx(0.3)
    assert work.rates() == {"pairs_per_second": 5.0, "tokens_per_second": 30.0, "padding_share": 0.25}


def test_a_state_survives_a_round_trip_through_its_dictionary():
    state = TrainState(step=3, base={"roc_auc": 0.5}, best={"step": 2})
    state.total.add(Throughput(1.5, steps=2, pairs=4, real_tokens=5, read_tokens=6, loss=0.5))
    state.window.add_step(loss=0.25, real_tokens=3, read_tokens=4)
    other = TrainState()
    other.load_state_dict(state.state_dict())
    assert other == state


def test_evaluations_without_gain_are_counted_until_a_better_one():
    state = TrainState()
    counts = []
    for step, value in enumerate([0.7, 0.7, 0.6, 0.8, 0.5]):
        state.record({"step": step, "roc_auc": value}, metric="roc_auc")
        counts.append(state.evaluations_without_gain)
    assert counts == [0, 1, 2, 0, 1]


def test_an_undefined_metric_never_counts_as_without_gain():
    state = TrainState()
    for step in range(3):
        state.record({"step": step, "roc_auc": None}, metric="roc_auc")
        state.record({"step": step}, metric=None)
    assert state.evaluations_without_gain == 0


def test_remaining_patience_and_early_stop_survive_a_round_trip_through_the_dictionary():
    state = TrainState(stopped_early=True)
    for step, value in enumerate([0.7, 0.6, 0.5]):
        state.record({"step": step, "roc_auc": value}, metric="roc_auc")
    other = TrainState()
    other.load_state_dict(state.state_dict())
    assert (other.evaluations_without_gain, other.stopped_early) == (2, True)


def test_a_state_from_before_a_field_existed_can_be_loaded():
    older = TrainState(step=7).state_dict()
    del older["evaluations_without_gain"], older["stopped_early"]
    state = TrainState()
    state.load_state_dict(older)
    assert state == TrainState(step=7)


def test_a_closed_window_is_added_to_the_total_and_the_next_starts_empty():
    state = TrainState()
    for loss in (0.5, 0.25):
        state.window.add_step(loss=loss, real_tokens=3, read_tokens=4)
    state.window.seconds = 2.0
    assert state.close_window() == Throughput(2.0, steps=2, real_tokens=6, read_tokens=8, loss=0.75)
    assert state.last_loss == 0.375
    state.window.add_step(loss=0.1, real_tokens=1, read_tokens=1)
    state.close_window()
    assert state.total == Throughput(2.0, steps=3, real_tokens=7, read_tokens=9, loss=0.85)
    assert state.window == Throughput()


def test_the_range_of_losses_widens_step_by_step():
    state = TrainState()
    ranges = []
    for loss in (0.5, 0.7, 0.2, 0.6):
        state.note_loss(loss)
        ranges.append(state.loss_range)
    assert ranges == [(0.5, 0.5), (0.5, 0.7), (0.2, 0.7), (0.2, 0.7)]
