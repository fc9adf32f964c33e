import os
import signal
import subprocess
import sys
import threading

import pytest

from aisle.training.stop_signals import GracefulStop

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def noted_elsewhere(number, frame):
    """Stand for the handler of whoever embeds us."""


@pytest.fixture(autouse=True)
def handlers():
    """Handlers of our own before the context, whatever the test's own process was started with."""
    previous = {number: signal.signal(number, noted_elsewhere) for number in SIGNALS}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_raises_nothing(number):
    with GracefulStop() as stop:
        assert stop.requested is None
        os.kill(os.getpid(), number)
        assert stop.requested == number.name


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_interrupts_at_once_and_the_first_stays_noted(first):
    with GracefulStop() as stop:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == first.name


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_sigterm_ends_the_process_as_it_would_without_us(first):
    code = f"""
import os, signal
from aisle.training.stop_signals import GracefulStop
signal.signal(signal.SIGINT, signal.default_int_handler)
with GracefulStop() as stop:
    os.kill(os.getpid(), {int(first)})
    print(stop.requested, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
"""

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout, ran.stderr) == (-signal.SIGTERM, f"{first.name}\n", "")


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_handlers_from_before_are_put_back(interrupted):
    with GracefulStop():
        assert all(signal.getsignal(number) is not noted_elsewhere for number in SIGNALS)
        if interrupted:
            os.kill(os.getpid(), signal.SIGTERM)

    assert all(signal.getsignal(number) is noted_elsewhere for number in SIGNALS)


def test_the_handlers_from_before_are_put_back_after_an_error():
    with pytest.raises(ZeroDivisionError), GracefulStop():
        1 / 0  # noqa: B018 - the error is the point

    assert all(signal.getsignal(number) is noted_elsewhere for number in SIGNALS)


def test_a_stop_can_be_entered_again_and_has_forgotten_the_last_time():
    stop = GracefulStop()
    with stop:
        os.kill(os.getpid(), signal.SIGTERM)

    with stop:
        assert stop.requested is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == "SIGINT"


def test_a_signal_that_the_process_ignores_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    with GracefulStop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested is None

    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_than_the_main_one_leaves_the_handlers_alone():
    seen = []

    def work():
        with GracefulStop() as stop:
            seen.append((stop.requested, [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == [(None, [noted_elsewhere, noted_elsewhere])]
