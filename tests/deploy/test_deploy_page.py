"""The commands of the how-to name targets, files and variables of deploy/."""

import re
from itertools import pairwise

import pytest

from tests.deploy.test_terraform import Module, texts_of
from tests.doc_commands import ROOT, blocks_of, commands_of

PAGE = ROOT / "docs" / "how-to" / "deploy.md"
COMMANDS = [words for block in blocks_of(PAGE.read_text("utf-8"), PAGE.name) for words in commands_of(block)]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")


def values_of(words, flag):
    return [after for word, after in pairwise(words) if word == flag]


@pytest.mark.parametrize("words", [words for words in COMMANDS if words[:2] == ["docker", "build"]])
def test_an_image_is_built_from_a_target_of_the_dockerfile(words):
    assert values_of(words, "-f") == ["deploy/Dockerfile"]
    for target in values_of(words, "--target"):
        assert re.search(rf"^FROM \S+ AS {target}$", DOCKERFILE, re.MULTILINE)
    for argument in values_of(words, "--build-arg"):
        assert re.search(rf"^ARG {argument.partition('=')[0]}\b", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize(
    "words", [words for words in COMMANDS if words[0] == "terraform" and "apply" in words]
)
def test_a_module_gets_the_variables_that_it_requires(words):
    folder = words[1].removeprefix("-chdir=deploy/terraform/")
    variables = Module(texts_of(folder)).variables

    given = {value.partition("=")[0] for value in values_of(words, "-var")}

    assert given == {name for name, variable in variables.items() if "default" not in variable}


def test_the_page_has_commands_for_every_target_and_module():
    joined = "\n".join(" ".join(words) for words in COMMANDS)

    assert re.findall(r"--target (\w+)", joined) == ["sagemaker", "lambda"]
    assert re.findall(r"-chdir=deploy/terraform/(\w+) apply", joined) == ["sagemaker", "lambda"]
