import os
import signal
import subprocess
import sys
import threading

import pytest

from aisle.training.stop_signals import GracefulStop

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def noted_elsewhere(number, frame):
    """Handler of a program that embeds aisle."""


@pytest.fixture(autouse=True)
def handlers():
    """Install known handlers before the context, however the test's process was started."""
    previous = {number: signal.signal(number, noted_elsewhere) for number in SIGNALS}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_recorded_and_raises_nothing(number):
    with GracefulStop() as stop:
        assert stop.requested is None
        os.kill(os.getpid(), number)
        assert stop.requested == number.name


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_interrupts_at_once_and_the_first_signal_stays_recorded(first):
    with GracefulStop() as stop:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == first.name


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_sigterm_ends_the_process_by_the_default_handler(first):
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
def test_the_earlier_handlers_are_restored(interrupted):
    with GracefulStop():
        assert all(signal.getsignal(number) is not noted_elsewhere for number in SIGNALS)
        if interrupted:
            os.kill(os.getpid(), signal.SIGTERM)

    assert all(signal.getsignal(number) is noted_elsewhere for number in SIGNALS)


def test_the_earlier_handlers_are_restored_after_an_error():
    with pytest.raises(ZeroDivisionError), GracefulStop():
        1 / 0  # noqa: B018 - to raise an error

    assert all(signal.getsignal(number) is noted_elsewhere for number in SIGNALS)


def test_a_context_entered_again_starts_without_a_request():
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


def test_outside_the_main_thread_handlers_are_not_changed():
    seen = []

    def work():
        with GracefulStop() as stop:
            seen.append((stop.requested, [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == [(None, [noted_elsewhere, noted_elsewhere])]
