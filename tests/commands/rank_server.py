"""Start the ranks of a run as torchrun does, but forked from a process that has imported the libraries.

Usage: rank_server.py MODULE...

Why: a rank imports for 6 s what it then uses for 1 s. This program imports the modules once. It answers each
line of its input, the arguments of its `start_ranks` as JSON, with the exit code of that run.
"""

import gc
import json
import os
import runpy
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

GRACE_SECONDS = 10


def start_ranks(processes, command, env, port, output):
    """Run a script in several processes; return 0, or the first other exit code, which ends the others.

    Args:
        processes: Number of processes; None for one that no launcher started.
        command: Path of the script, and its arguments.
        env: Environment of the processes, besides the variables that torchrun sets for ranks.
        port: Free port at which the processes meet.
        output: Files for standard output and standard error.
    """
    running = set()
    for rank in range(processes or 1):
        process_id = os.fork()
        if not process_id:
            os.environ.clear()
            os.environ.update(env if processes is None else env | of_torchrun(rank, processes, port))
            become(command, output)
        running.add(process_id)
    code = 0
    while running:
        ended, status = os.wait()
        running.discard(ended)
        if not code and (code := os.waitstatus_to_exitcode(status)):
            end_all(running)
    return code


def of_torchrun(rank, processes, port):
    """Return the variables that torchrun sets for a rank."""
    found = {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    found |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    return found | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))


def become(command, output):
    """Run a script in this process and exit."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for path, stream in zip(output, (1, 2), strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    runpy.run_path(command[0], run_name="__main__")
    sys.exit()


def end_all(running):
    """Ask processes to end, and kill those that still run after a while."""
    for process_id in running:
        os.kill(process_id, signal.SIGTERM)
    until = time.monotonic() + GRACE_SECONDS
    while running and time.monotonic() < until:
        running.discard(os.waitpid(-1, os.WNOHANG)[0])
        time.sleep(0.05)
    for process_id in running:
        os.kill(process_id, signal.SIGKILL)


if __name__ == "__main__":
    for module in sys.argv[1:]:
        import_module(module)
    # Otherwise each rank would spend 1.6 s at its end to collect what the modules left.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        sys.stdout.write(f"{start_ranks(**json.loads(line))}\n")
        sys.stdout.flush()
