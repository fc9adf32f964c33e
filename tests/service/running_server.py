"""`aisle serve` in a process, as an operator runs it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx2

PROGRAM = """
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules, flush=True))
from aisle.cli import main
sys.exit(main(["serve", "--port", "0", *sys.argv[1:]]))
"""
SECONDS = 120


class RunningServer:
    """A server's process, and a client of it.

    Args:
        process: The process.
        url: Address of the server.
        lines: Lines that it has logged so far.
    """

    def __init__(self, process, url, lines):
        self.process = process
        self.url = url
        self.lines = lines
        self.client = httpx2.Client(base_url=url, timeout=SECONDS)

    @property
    def log(self):
        """What the server has logged."""
        return "".join(self.lines)

    def wait_until(self, holds):
        """Wait until a function of the server holds."""
        until = time.monotonic() + SECONDS
        while not holds(self):
            assert self.process.poll() is None, self.log
            assert time.monotonic() < until, self.log
            time.sleep(0.02)

    def wait_until_ready(self):
        self.wait_until(lambda server: server.client.get("/ready").status_code == 200)

    @contextmanager
    def paused(self):
        """Stop the process with SIGSTOP meanwhile."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self):
        """Send SIGTERM; return the exit status and what the process printed."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS), self.process.stdout.read()


@contextmanager
def running_server(*flags, setup=""):
    """Start a server on a free port, after the code in `setup`; kill it at the end if it still runs."""
    command = [sys.executable, "-c", setup + PROGRAM, *map(str, flags)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    lines, listens = [], threading.Event()

    def read():
        for line in process.stderr:
            lines.append(line)
            if "listening on" in line:
                listens.set()
        listens.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert listens.wait(SECONDS)
        found = re.search(r"listening on (http://\S+)", "".join(lines))
        assert found, "".join(lines)
        server = RunningServer(process, found[1], lines)
        with server.client:
            yield server
    finally:
        process.kill()
        process.wait()
        reader.join(SECONDS)
        process.stdout.close()
        process.stderr.close()
