"""The program as SageMaker and Lambda run it: an unpacked model.tar.gz, `serve`, and their calls."""

import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager

import httpx2
import numpy as np
import pytest

from aisle.cli import main
from aisle.commands.serve_container import container_arguments
from aisle.errors import IndexIntegrityError
from aisle.service.http.sagemaker import MAX_BODY_BYTES

SECONDS = 60
PROGRAM = """
import pathlib, sys, time
from aisle.service.pairs import served_pair

gate, load = pathlib.Path(sys.argv[1]), served_pair.load_pair

def load_pair(*arguments, **options):
    while not gate.exists():
        time.sleep(0.01)
    return load(*arguments, **options)

served_pair.load_pair = load_pair
from aisle.cli import main

code = main(["serve"])
print("torch" in sys.modules)
sys.exit(code)
"""
"""`aisle serve` that loads its model once a file exists, as a large model would take long to load."""


@pytest.fixture(scope="module")
def archive(shop, tmp_path_factory):
    """A model.tar.gz."""
    path = tmp_path_factory.mktemp("package") / "model.tar.gz"
    flags = ["--index_dir", shop.index_dir, "--model", shop.bundle, "--output", path, "--sagemaker"]
    assert main(["package", *map(str, flags)]) == 0
    return path


def unpack(archive, folder):
    """Unpack as SageMaker does before it starts the container."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


class Container:
    """A running container.

    Args:
        process: The process.
        port: Port that it listens on.
        gate: File that lets the model load.
        home: Folder of the process.
    """

    def __init__(self, process, port, gate, home):
        self.process, self.port, self.gate, self.home = process, port, gate, home
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS)

    def wait_until_it_listens(self):
        until = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except ConnectionError:
                assert self.process.poll() is None, self.process.stderr.read()
                assert time.monotonic() < until
                time.sleep(0.01)

    def ping(self):
        """Ask as SageMaker does: connect within 250 ms, answer within 2 s."""
        socket.create_connection(("127.0.0.1", self.port), timeout=0.25).close()
        return self.client.get("/ping", timeout=2).status_code

    def wait_until_ready(self, ask):
        """Ask every 10 ms, as the Lambda Web Adapter does; return the statuses that were answered."""
        statuses, until = [], time.monotonic() + SECONDS
        while not statuses or not 200 <= statuses[-1] <= 399:
            statuses.append(ask())
            assert time.monotonic() < until
            time.sleep(0.01)
        return statuses

    def invoke(self, body, path="/invocations"):
        # SageMaker adds headers that a container has to ignore.
        headers = {
            "X-Amzn-SageMaker-Custom-Attributes": "trace=1",
            "X-Amzn-SageMaker-Target-Model": "a.tar.gz",
        }
        return self.client.post(path, json=body, headers=headers)

    def stop(self):
        """Send SIGTERM, which SageMaker follows with SIGKILL after 30 s; return exit status and output."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output


@contextmanager
def running_container(tmp_path, **variables):
    """Start the program as in the image: the argument `serve`, no flags, and variables."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home, gate = tmp_path / "home", tmp_path / "gate"
    (home / "tmp").mkdir(parents=True)
    # Without CI and its like, libraries behave as on a user's machine.
    left_out = ("AISLE_", "SAGEMAKER_", "CI", "ORT_")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(left_out)},
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SAGEMAKER_BIND_TO_PORT": str(port),
        **{name: str(value) for name, value in variables.items()},
    }
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, gate],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    container = Container(process, port, gate, home)
    try:
        container.wait_until_it_listens()
        yield container
    finally:
        container.client.close()
        process.kill()
        process.communicate()


def files_below(*folders):
    return {path for folder in folders for path in folder.rglob("*")}


def test_a_model_is_pinged_asked_and_stopped_as_by_sagemaker(archive, shop, tmp_path):
    model_dir = unpack(archive, tmp_path / "opt" / "ml" / "model")

    with running_container(tmp_path, AISLE_PACKAGE=model_dir) as container:
        before = files_below(model_dir, container.home)
        while_it_loads = [container.ping() for _ in range(5)]
        refused = container.invoke({"query": "sofa"})
        container.gate.touch()
        statuses = container.wait_until_ready(container.ping)
        search = container.invoke({"query": "red sofa", "top_k": 3})
        texts = ["blue sofa", "red sofa"]
        scores = container.invoke({"query_from_app": "red sofa", "actual_queries": texts})
        embedded = container.invoke({"inputs": ["red sofa"]})
        largest = b'{"query": "red sofa"}'.ljust(MAX_BODY_BYTES)
        sizes = [
            container.client.post("/invocations", content=body).status_code
            for body in (largest, largest + b" ")
        ]
        after = files_below(model_dir, container.home)
        stopped = container.stop()

    assert while_it_loads == [503] * 5
    assert (refused.status_code, refused.json()["error"]["type"]) == (503, "not_ready")
    assert set(statuses) <= {503, 200}
    expected = shop.pair().searcher.search(["red sofa"], 3)[0]
    assert [hit["id"] for hit in search.json()["hits"]] == [hit.product_id for hit in expected]
    query, blue = shop.encoder.encode_queries(["red sofa", "blue sofa"])
    (first, cosine), (second, other) = scores.json()["Scores"]
    assert (first, second) == ("red sofa", "blue sofa")
    np.testing.assert_allclose([cosine, other], [1, query @ blue], atol=1e-6)
    np.testing.assert_allclose(embedded.json(), [query], atol=1e-6)
    assert sizes == [200, 413]
    assert after == before  # it wrote nothing: in Lambda only /tmp can be written
    assert stopped == (0, "False\n")  # and loaded no torch


def test_lambdas_adapter_forwards_requests_once_the_model_is_loaded(archive, tmp_path):
    model_dir = unpack(archive, tmp_path / "model")

    with running_container(tmp_path, AISLE_PACKAGE=model_dir) as container:

        def ask():
            return container.client.get("/ready").status_code

        first = ask()
        container.gate.touch()
        statuses = container.wait_until_ready(ask)
        answered = container.client.post("/search", json={"query": "sofa"})

    assert first == 503
    assert set(statuses) <= {503, 200}
    assert answered.status_code == 200


def test_several_models_are_loaded_asked_and_unloaded_as_by_sagemaker(archive, tmp_path):
    models = {name: unpack(archive, tmp_path / "models" / name / "model") for name in ("a", "b")}
    (models["b"] / "serve.yaml").write_text("max_queries: 1\n")
    (tmp_path / "gate").touch()

    with running_container(
        tmp_path, SAGEMAKER_MULTI_MODEL="true", AISLE_PACKAGE="/opt/ml/model"
    ) as container:
        pinged = container.ping()
        loaded = [
            container.client.post("/models", json={"model_name": name, "url": str(url)}).status_code
            for name, url in (*models.items(), ("a", models["a"]), ("c", tmp_path / "none"))
        ]
        two = {"queries": ["sofa", "lamp"]}
        answered = [container.invoke(two, f"/models/{name}/invoke").status_code for name in "abc"]
        listed = [model["modelName"] for model in container.client.get("/models").json()["models"]]
        deleted = [container.client.delete(f"/models/{name}").status_code for name in "aa"]
        after = [container.client.get(f"/models/{name}").status_code for name in "ab"]
        stopped = container.stop()

    assert pinged == 200
    assert loaded == [200, 200, 409, 422]
    assert answered == [200, 422, 404]  # the settings of b allow one query in a request
    assert listed == ["a", "b"]
    assert deleted == [200, 404]
    assert after == [404, 200]
    assert stopped[0] == 0


def test_a_model_that_is_damaged_ends_the_container_with_a_message(archive, tmp_path):
    model_dir = unpack(archive, tmp_path / "model")
    (model_dir / "bundle" / "tower.onnx").write_bytes(b"damaged")

    with running_container(tmp_path, AISLE_PACKAGE=model_dir) as container:
        container.gate.touch()
        _, log = container.process.communicate(timeout=SECONDS)

    assert container.process.returncode == 2
    assert f"{model_dir / 'bundle' / 'tower.onnx'}: truncated or altered" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("given", "variables", "expected"),
    [
        ([], {}, []),
        (["--index_dir", "x"], {"AISLE_PACKAGE": "{package}"}, ["--index_dir", "x"]),
        (["--index-dir=x"], {"SAGEMAKER_MULTI_MODEL": "true"}, ["--index-dir=x"]),
        (["--help"], {"AISLE_PACKAGE": "{package}"}, ["--help"]),
        (["--follow", "x"], {"AISLE_PACKAGE": "{package}"}, ["--follow", "x"]),
        (
            ["--mode", "lexical"],
            {"AISLE_PACKAGE": "{package}"},
            [
                *("--sagemaker", "--index_dir", "{package}/index", "--model", "{package}/bundle"),
                *("--config", "{package}/serve.yaml", "--host", "0.0.0.0", "--port", "8080"),
                *("--allow_anonymous", "--mode", "lexical"),
            ],
        ),
        (
            ["--api_key_file", "keys"],
            {"SAGEMAKER_MULTI_MODEL": "TRUE", "SAGEMAKER_BIND_TO_PORT": "9000", "AISLE_PACKAGE": "/none"},
            ["--multi_model", "--host", "0.0.0.0", "--port", "9000", "--api_key_file", "keys"],
        ),
    ],
)
def test_variables_stand_for_the_flags_that_a_container_cannot_be_given(
    given, variables, expected, archive, tmp_path
):
    package = unpack(archive, tmp_path / "model")

    found = container_arguments(
        given, {name: value.format(package=package) for name, value in variables.items()}
    )

    assert found == [word.format(package=package) for word in expected]


def test_a_folder_without_a_package_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(IndexIntegrityError, match="must be the folder of a package"):
        container_arguments([], {"AISLE_PACKAGE": str(tmp_path)})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--index_dir: give the index, or --follow FILE"),
        (["--multi_model", "--index_dir", "x"], "--index_dir: give the index, or --follow FILE"),
        (["--multi_model", "--api_key_file", "x"], "SageMaker sends no keys"),
    ],
)
def test_settings_that_cannot_work_are_refused(flags, message, monkeypatch, capsys):
    monkeypatch.delenv("AISLE_PACKAGE", raising=False)

    assert main(["serve", *flags]) == 2

    assert message in capsys.readouterr().err
