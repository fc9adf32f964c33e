"""A CPU without VNNI instructions is recognised from the list of the system."""

import pytest

from aisle.system import cpu_features
from aisle.system.cpu_features import why_int8_saturates

CASCADE_LAKE = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\nbugs\t: x\n"
ALDER_LAKE = "processor\t: 0\nflags\t\t: fpu avx2 avx_vnni\n"
ZEN_3 = "processor\t: 0\nflags\t\t: fpu avx2 sha_ni\n\nprocessor\t: 1\nflags\t\t: fpu avx2 sha_ni\n"


@pytest.fixture
def faked(tmp_path, monkeypatch):
    """Return a function that gives this machine another CPU."""

    def fake(cpuinfo, machine="x86_64"):
        path = tmp_path / "cpuinfo"
        path.unlink(missing_ok=True)
        if cpuinfo is not None:
            path.write_text(cpuinfo)
        monkeypatch.setattr(cpu_features, "CPUINFO", path)
        monkeypatch.setattr("platform.machine", lambda: machine)

    return fake


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "reason"),
    [
        (CASCADE_LAKE, "x86_64", None),
        (ALDER_LAKE, "AMD64", None),
        (ZEN_3, "x86_64", "this CPU has no VNNI instructions"),
        ("Features\t: fp asimd asimddp\n", "aarch64", None),
        (None, "arm64", None),
        (None, "x86_64", "cpuinfo does not list the instructions of this CPU, which must include VNNI"),
        ("", "x86_64", "cpuinfo does not list the instructions of this CPU, which must include VNNI"),
    ],
)
def test_cpus_on_which_sums_of_products_may_saturate(cpuinfo, machine, reason, faked):
    faked(cpuinfo, machine)

    found = why_int8_saturates()

    assert found == reason if reason is None else found.endswith(reason)
