"""Scripts in several processes on CPU, which gloo connects over the loopback interface.

`torchrun` starts them as a user does. `start_ranks` sets the same variables and saves the imports; it is for
tests of what ranks do, and of runs that are killed. Without a GPU no flag selects the CPU, as when a user
types torchrun.
"""

import atexit
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


MODULES = [
    "aisle.commands.train.run",
    "datasets",
    "sklearn.metrics",
    "transformers.models.bert.modeling_bert",
]
"""Modules that a server of ranks imports."""


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


class RankServer:
    """A program that has imported the libraries and forks the processes of a script from itself.

    Args:
        environment: Its variables. What libraries read when they are imported holds for all its scripts.
    """

    def __init__(self, environment):
        self._environment = environment
        self._program = None

    def run(self, processes, script, *arguments, environment, check=True, timeout=300):
        """Run a script in several processes and return the result; processes that hang are ended in time.

        Args:
            processes: Number of processes; None for one that no launcher started.
            script: Path of the script, absolute or in the project.
            arguments: Arguments of the script.
            environment: Variables of the processes.
            check: Whether an exit code other than 0 fails the test.
            timeout: Seconds after which the processes are ended and the test fails.
        """
        program, command = self._started(), [str(ROOT / script), *map(str, arguments)]
        with tempfile.TemporaryDirectory() as folder:
            output = [str(Path(folder) / name) for name in ("stdout", "stderr")]
            asked = {"processes": processes, "command": command, "port": free_port(), "output": output}
            program.stdin.write(json.dumps({**asked, "env": environment}) + "\n")
            program.stdin.flush()
            answered, _, _ = select.select([program.stdout], [], [], timeout)
            if not answered:
                self._program = None
                os.killpg(program.pid, signal.SIGKILL)
            stdout, stderr = (Path(path).read_text(encoding="utf-8") for path in output)
        if not answered:
            pytest.fail(f"no end within {timeout} s\n{stdout[-1500:]}\n{stderr[-1500:]}")
        done = subprocess.CompletedProcess(command, int(program.stdout.readline()), stdout, stderr)
        assert done.returncode == 0 or not check, done.stderr[-3000:]
        return done

    def end(self):
        """End the program; a later script would start it again."""
        if self._program is not None:
            self._program.communicate()
            self._program = None

    def _started(self):
        if self._program is None:
            self._program = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("rank_server.py"), *MODULES],
                cwd=ROOT,
                env={**self._environment, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        return self._program


SERVER = RankServer({**os.environ, **ON_CPU})
atexit.register(SERVER.end)


def start_ranks(processes, script, *arguments, check=True, timeout=300):
    """Run a script in several processes as `RankServer.run` does, on CPU and with the tests' variables."""
    environment = {**os.environ, **ON_CPU}
    return SERVER.run(processes, script, *arguments, environment=environment, check=check, timeout=timeout)
