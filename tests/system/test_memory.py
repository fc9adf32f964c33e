"""Memory that is freed goes back to the system, or stays for the next tensors."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from aisle.system import memory
from tests.skip_reasons import NOT_GLIBC


@pytest.fixture(autouse=True)
def forget():
    memory._of_glibc.cache_clear()
    yield
    memory._of_glibc.cache_clear()


def own_pages():
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason=NOT_GLIBC)
def test_freed_blocks_between_others_go_back():
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    size = 100_000  # below the size at which every block is a mapping of its own
    blocks = [libc.malloc(size) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[::2]:
        libc.free(block)
    held = own_pages()

    memory.return_free_memory()

    # Half of the 200 MB were free, and nearly all of that must be gone.
    assert (held - own_pages()) * 4096 > 60e6
    for block in blocks[1::2]:
        libc.free(block)


@pytest.mark.parametrize("fault", [OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch, fault):
    def refused(name):
        raise fault("no such library")

    monkeypatch.setattr(memory.ctypes, "CDLL", refused)

    memory.return_free_memory()
    memory.keep_freed_memory()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason=NOT_GLIBC)
def test_large_blocks_are_kept_for_the_next_tensors():
    """In a process of its own, as the setting stays. A block of 16 MB has 4,096 pages."""
    program = """
import ctypes, resource
from aisle.system.memory import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
    ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
)
keep_freed_memory()
for number in range(11):
    if number == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(1 << 24)
    ctypes.memset(block, 1, 1 << 24)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400
