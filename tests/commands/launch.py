"""Scripts in several processes on CPU, which gloo connects over the loopback interface.

`torchrun` starts them as a user does. `start_ranks` sets the same variables and saves the imports; it is for
tests of what ranks do. Without a GPU no flag selects the CPU, as when a user types torchrun.
"""

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
ON_CPU = {
    **({"ACCELERATE_USE_CPU": "true"} if torch.accelerator.is_available() else {}),
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


def free_port():
    """Return a port on which no program listens, as text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def accelerate_environment(file, *, processes, **options):
    """Return the variables that `accelerate launch` sets from a configuration file and options."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = ["--config_file", file, "--num_processes", processes, "--main_process_port", free_port()]
    words += [word for name, value in options.items() for word in (f"--{name}", value)]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args([*map(str, words), "script"]))
    found = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in found.items() if os.environ.get(name) != value}


def torchrun_command(processes, script, *arguments):
    """Return the command line that starts a script in several processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    launcher += ["--master_port", free_port()]
    return [sys.executable, *launcher, str(ROOT / script), *map(str, arguments)]


def torchrun(processes, script, *arguments, check=True, timeout=300, env=None):
    """Run a script in several processes and return the result; processes that hang are ended."""
    command = torchrun_command(processes, script, *arguments)
    with subprocess.Popen(
        command,
        env={**os.environ, **ON_CPU, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        try:
            stdout, stderr = launcher.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # terminated, torchrun ends its processes; killed, it would leave them
            stdout, stderr = launcher.communicate(timeout=60)
            pytest.fail(f"no end within {timeout} s\n{stdout[-1500:]}\n{stderr[-1500:]}")
    done = subprocess.CompletedProcess(command, launcher.returncode, stdout, stderr)
    assert done.returncode == 0 or not check, done.stderr[-3000:]
    return done


@functools.cache
def rank_server():
    """Start the program that forks ranks; it ends with the tests."""
    modules = [
        "aisle.commands.train.run",
        "datasets",
        "sklearn.metrics",
        "transformers.models.bert.modeling_bert",
    ]
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("rank_server.py"), *modules],
        env={**os.environ, **ON_CPU, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    @atexit.register
    def end():
        server.communicate()

    return server


def start_ranks(processes, script, *arguments, check=True, timeout=300):
    """Run a script in several processes and return how it ended; processes that hang are ended in time."""
    server, command = rank_server(), [str(ROOT / script), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        output = [str(Path(folder) / name) for name in ("stdout", "stderr")]
        asked = {"processes": processes, "command": command, "port": free_port(), "output": output}
        server.stdin.write(json.dumps({**asked, "env": {**os.environ, **ON_CPU}}) + "\n")
        server.stdin.flush()
        answered, _, _ = select.select([server.stdout], [], [], timeout)
        if not answered:
            rank_server.cache_clear()
            os.killpg(server.pid, signal.SIGKILL)
        stdout, stderr = (Path(path).read_text(encoding="utf-8") for path in output)
    if not answered:
        pytest.fail(f"no end within {timeout} s\n{stdout[-1500:]}\n{stderr[-1500:]}")
    done = subprocess.CompletedProcess(command, int(server.stdout.readline()), stdout, stderr)
    assert done.returncode == 0 or not check, done.stderr[-3000:]
    return done
