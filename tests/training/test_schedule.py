"""The steps after which a run is evaluated."""

import pytest

from aisle.training.schedule import Schedule


def evaluated(*, steps_per_epoch=2, total_steps=15, **settings):
    """Return the steps after which a run is evaluated."""
    schedule = Schedule(
        total_steps=total_steps,
        logging_steps=10,
        checkpointing_steps=None,
        checkpoints_to_keep=None,
        early_stopping_patience=None,
        **{"eval_steps": None, **settings},
    )
    return [
        step
        for step in range(1, total_steps + 1)
        if schedule.due(
            step, epoch=(step - 1) // steps_per_epoch, epoch_ends=step % steps_per_epoch == 0
        ).evaluation
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2, 4, 6, 8, 10, 12, 14, 15]),
        ({"eval_epochs": 3}, [6, 12, 15]),
        ({"eval_epochs": 3, "eval_steps": 5}, [5, 6, 10, 12, 15]),
        ({"eval_epochs": 100}, [15]),
    ],
)
def test_a_run_is_evaluated_at_the_end_of_epochs_between_them_and_at_its_end(settings, expected):
    assert evaluated(**settings) == expected
