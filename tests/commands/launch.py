"""Scripts under torchrun, as processes on CPU; gloo uses the loopback interface.

Without a GPU no flag selects the CPU, as when a user types torchrun.
"""

import os
import socket
import subprocess
import sys
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


def torchrun_command(processes, script, *arguments):
    """Return the command line that starts a script in several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", port]
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
