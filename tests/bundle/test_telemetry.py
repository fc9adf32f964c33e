"""ONNX Runtime neither identifies the machine nor sends events to its maker."""

import os
import subprocess
import sys

import pytest

from tests.bundle.small_bundle import write_small_bundle

CODE = """
import sys
from aisle.bundle.onnx_encoder import load_bundle
load_bundle(sys.argv[1]).encode_queries(["red sofa"])
"""


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME"])
def test_a_bundle_leaves_no_files_in_the_home_folder(name, minilm_dir, tmp_path):
    """ONNX Runtime 1.32 writes a device id and a database of events, and sends them by default."""
    write_small_bundle(tmp_path / "bundle", minilm_dir)
    home = tmp_path / "home"
    home.mkdir()
    # It sends nothing where CI is set, so that would hide what users get.
    environment = {
        key: value for key, value in os.environ.items() if key not in {"CI", "ORT_DISABLE_TELEMETRY"}
    }

    subprocess.run(
        [sys.executable, "-c", CODE, tmp_path / "bundle"], env={**environment, name: str(home)}, check=True
    )

    assert list(home.rglob("*")) == []
