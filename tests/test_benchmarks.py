"""The scripts of benchmarks/: each imports, and its command line explains itself."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.fixture
def script(monkeypatch):
    """A function that imports a script as if Python had started it; its modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in SCRIPTS:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_imports_and_has_help_if_it_is_a_command(script, name, monkeypatch, capsys):
    module = script(name)

    if hasattr(module, "main"):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
        with pytest.raises(SystemExit) as caught:
            module.main()
        assert caught.value.code == 0
        assert f"usage: {name}.py" in capsys.readouterr().out


def test_index_speed_names_a_library_that_is_not_installed_before_it_embeds(script, monkeypatch):
    module = script("index_speed")
    monkeypatch.setitem(sys.modules, "faiss", None)  # importing it raises ModuleNotFoundError
    monkeypatch.setattr(module, "load_encoder", lambda _: pytest.fail("loaded"))
    monkeypatch.setattr(sys, "argv", ["index_speed.py", "--output_dir", "unused"])

    with pytest.raises(SystemExit, match="faiss is not installed: pip install faiss-cpu usearch"):
        module.main()
