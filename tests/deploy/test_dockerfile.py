"""The images: what reaches their build, what they run, and as which user."""

import fnmatch
import json
import platform
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from tests.skip_reasons import NOT_X86

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@pytest.fixture(scope="module")
def stages():
    """Stage to its (instruction, value) pairs, with those of the stage that it starts from."""
    found, before = {}, []
    for line in DockerfileParser(str(DOCKERFILE), cache_content=True).structure:
        name, value = line["instruction"], " ".join(line["value"].split())
        if name == "FROM":
            source, _, stage = value.split()
            found[stage] = list(found.get(source, []))
        elif name == "ARG" and not found:
            before.append(value)
        elif name != "COMMENT":
            found[stage].append((name, value))
    assert [value.partition("=")[0] for value in before] == ["PYTHON_IMAGE"]
    return found


def last(stage, name):
    """Return the value of the last instruction of a kind, which is the one that counts."""
    return [value for instruction, value in stage if instruction == name][-1]


def environment(stage):
    """Return the variables of a stage."""
    words = [word for name, value in stage if name == "ENV" for word in shlex.split(value)]
    return dict(word.split("=", 1) for word in words)


@pytest.mark.skipif(platform.machine() != "x86_64", reason=NOT_X86)
@pytest.mark.skipif(sys.platform != "linux", reason="hadolint is installed on Linux only")
def test_hadolint_finds_nothing():
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"

    ran = subprocess.run([hadolint, "--format", "json", DOCKERFILE], capture_output=True, text=True)

    assert json.loads(ran.stdout) == []
    assert ran.returncode == 0


def test_sagemakers_argument_serve_reaches_the_program_and_so_does_sigterm(stages):
    for name in ("sagemaker", "lambda", "service"):
        assert json.loads(last(stages[name], "ENTRYPOINT")) == ["aisle"]  # the exec form: no shell between
        assert json.loads(last(stages[name], "CMD")) == ["serve"]
        assert last(stages[name], "EXPOSE") == "8080"
        assert environment(stages[name])["AISLE_PACKAGE"] == "/opt/ml/model"


def test_images_do_not_run_as_root_except_for_sagemaker_which_requires_it(stages):
    users = {name: last(stages[name], "USER") for name in ("sagemaker", "lambda", "service")}

    assert users == {"sagemaker": "0", "lambda": "10001:10001", "service": "10001:10001"}
    assert list(stages)[-1] == "service"  # built if no target is named


def test_the_image_has_no_torch_and_no_compiler(stages):
    install = next(value for name, value in stages["build"] if "pip install" in value)
    assert re.search(r"'\.\[(.*)\]'", install)[1] == "onnx,serve"
    assert "-c constraints.txt" in install
    for name in ("runtime", "sagemaker", "lambda", "service"):
        assert not any(instruction == "RUN" for instruction, _ in stages[name])


def test_hnswlib_is_not_compiled_for_the_processor_of_the_build_machine(stages):
    set_before = [name for name, value in stages["build"] if "HNSWLIB_NO_NATIVE=1" in value]
    assert set_before == ["ENV"]
    names = [value for _, value in stages["build"]]
    assert names.index("HNSWLIB_NO_NATIVE=1") < next(
        number for number, value in enumerate(names) if "pip install" in value
    )


def test_a_base_image_and_the_adapter_have_a_version():
    text = DOCKERFILE.read_text()

    images = re.findall(r"^ARG PYTHON_IMAGE=(\S+)", text, re.MULTILINE)
    images += re.findall(r"--from=(\S*/\S+)", text)
    assert len(images) == 2
    for image in images:
        assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+:\d+\.\d+[\w.-]*", image), image


def test_the_readiness_of_the_lambda_function_is_that_of_the_pair(stages):
    variables = {
        name: value for name, value in environment(stages["lambda"]).items() if name.startswith("AWS_LWA_")
    }

    assert variables == {
        "AWS_LWA_PORT": "8080",
        "AWS_LWA_READINESS_CHECK_PATH": "/ready",
        "AWS_LWA_READINESS_CHECK_HEALTHY_STATUS": "200-399",
        "AWS_LWA_ASYNC_INIT": "true",
    }
    assert ("COPY", "${PACKAGE} /opt/ml/model") in stages["lambda"]
    assert environment(stages["lambda"])["HOME"] == "/tmp"


def test_the_image_for_sagemaker_has_the_labels_of_its_capabilities(stages):
    labels = dict(word.split("=") for word in shlex.split(last(stages["sagemaker"], "LABEL")))

    assert labels == {
        "com.amazonaws.sagemaker.capabilities.multi-models": "true",
        "com.amazonaws.sagemaker.capabilities.accept-bind-to-port": "true",
    }


def test_every_file_that_is_copied_exists_and_reaches_the_build(stages):
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert "*" in ignored
    copied = [value.split()[:-1] for name, value in stages["build"] if name == "COPY"]
    sources = [source for line in copied for source in line if not source.startswith("--")]

    assert sources == ["pyproject.toml", "constraints.txt", "README.md", "LICENSE", "src"]
    assert all((ROOT / source).exists() for source in sources)
    assert all(any(fnmatch.fnmatch(source, pattern) for pattern in kept) for source in sources)
    package = next(value for name, value in stages["lambda"] if name == "ARG" and "PACKAGE" in value)
    assert package.partition("=")[2].split("/")[0] in kept
