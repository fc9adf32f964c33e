"""Speed and memory of encoders that serve on a CPU: aisle's bundles, sentence-transformers and fastembed.

    aisle export all-MiniLM-L6-v2 --output_dir runs/fp32
    aisle export all-MiniLM-L6-v2 --output_dir runs/int8 --precision int8
    python benchmarks/runtime.py --fp32 runs/fp32 --int8 runs/int8
    python benchmarks/runtime.py --fp32 runs/fp32 --int8 runs/int8 --fastembed_python ENV/bin/python

Every contender is a process of its own. They take turns: in each round, each answers `--queries` single
queries and then embeds the 4,250 questions and answers of the FAQ validation file. Prints, per contender, the
median and the 99th percentile of a query in milliseconds, texts per second in the median round, the median
ratio to sentence-transformers' default of the same round, the time from the start of the process to the first
embedding, the resident memory afterwards, and the cosine to sentence-transformers' embeddings.

sentence-transformers is measured with its defaults, and with settings that may be faster on a CPU: large
batches, bf16, and torch.compile. Its ONNX and OpenVINO backends need optimum, which does not install beside
transformers 5. fastembed computes the same weights in a graph of the usual form, with padded texts; it may
need an environment of its own (`--fastembed_python`). The data folder is ../shared/data, or AISLE_BENCH_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("AISLE_BENCH_DATA", ROOT.parent / "shared" / "data"))
PEER = "sentence-transformers"
PEER_SETTINGS = {
    PEER: {},
    f"{PEER}, batches of 256": {"batch_size": 256},
    f"{PEER}, bf16": {"batch_size": 256, "dtype": "bfloat16"},
    f"{PEER}, torch.compile": {"batch_size": 256, "compile": True},
}


def faq_texts() -> list[str]:
    """The distinct questions and answers of the FAQ validation file."""
    lines = (DATA / "cloud_faq" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return list(dict.fromkeys(row[field] for field in ("question", "answer") for row in rows))


def aisle_encoder(bundle):
    import aisle

    encoder = aisle.load_encoder(bundle)
    return lambda texts: encoder.encode_products(texts)


def peer_encoder(folder, *, batch_size=32, dtype="float32", compile=False):  # noqa: A002 (torch's name)
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
    if compile:
        model[0].auto_model = torch.compile(model[0].auto_model, dynamic=True)
    return lambda texts: model.encode(texts, batch_size=batch_size, normalize_embeddings=True)


def fastembed_encoder(folder):
    import numpy as np
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="local/model",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(url="https://localhost/none"),
        dim=json.loads((Path(folder) / "config.json").read_text())["hidden_size"],
        model_file="model.onnx",
    )
    model = TextEmbedding("local/model", specific_model_path=folder, threads=os.cpu_count())
    return lambda texts: np.array(list(model.embed(texts)), dtype=np.float32)


ENCODERS = {"aisle": aisle_encoder, "peer": peer_encoder, "fastembed": fastembed_encoder}


def work(kind, source, options, answers):
    """Answer the driver's requests: a line of JSON in, a line of JSON out."""
    import numpy as np

    encode = ENCODERS[kind](source, **options)
    encode(["a first query"])
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        milliseconds = []
        for query in request["queries"]:
            started = time.perf_counter()
            encode([query])
            milliseconds.append(1e3 * (time.perf_counter() - started))
        started = time.perf_counter()
        embeddings = encode(request["texts"])
        seconds = time.perf_counter() - started
        if request["save"]:
            np.save(request["save"], np.asarray(embeddings, dtype=np.float32))
        memory = _resident_mib()
        answer = {"milliseconds": milliseconds, "seconds": seconds, "memory": memory}
        print(json.dumps(answer), file=answers, flush=True)


def _resident_mib():
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Contender:
    """A process with an encoder."""

    def __init__(self, name, kind, source, options=None, python=sys.executable):
        self.name = name
        command = [python, str(Path(__file__).resolve()), "--worker", kind, "--source", str(source)]
        command += ["--options", json.dumps(options or {})]
        started = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        self._read()
        self.start_seconds = time.perf_counter() - started
        self.rounds = []

    def round(self, queries, texts, save=None):
        """Answer queries one by one, and embed texts; `save` names a file for their embeddings."""
        request = {"queries": queries, "texts": texts, "save": save}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: its process ended with exit code {self._process.wait()}")
        return json.loads(line)


def write_usual_graph(folder: Path, model: str) -> None:
    """Write a graph of token vectors with an attention mask, and the files that fastembed reads."""
    import shutil

    import torch
    from transformers import AutoModel

    from aisle.models.model_source import find_model

    source = find_model(model).path
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)

    class TokenVectors(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = AutoModel.from_pretrained(source)

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.ones((2, 8), dtype=torch.int64)
    texts, tokens = torch.export.Dim("texts"), torch.export.Dim("tokens", max=512)
    torch.onnx.export(
        TokenVectors().eval(),
        (ids, ids.clone()),  # the same tensor twice would become a single input of the graph
        folder / "model.onnx",
        dynamo=True,
        input_names=["input_ids", "attention_mask"],
        output_names=["vectors"],
        dynamic_shapes=({0: texts, 1: tokens}, {0: texts, 1: tokens}),
        external_data=False,
        verbose=False,
    )


def contenders_of(arguments, folder):
    from aisle.models.model_source import find_model

    for precision in ("fp32", "int8"):
        bundle = getattr(arguments, precision)
        if bundle is not None:
            yield f"aisle, {precision} bundle", "aisle", bundle, {}, sys.executable
    for name in arguments.peers:
        options = PEER_SETTINGS[name]
        yield name, "peer", find_model(arguments.model).path, options, sys.executable
    if arguments.fastembed_python is not None:
        graph = folder / "graph"
        graph.mkdir()
        write_usual_graph(graph, arguments.model)
        yield "fastembed", "fastembed", graph, {}, arguments.fastembed_python


def measure(arguments, folder):
    import numpy as np

    texts = faq_texts()
    queries = [text for text in texts if len(text.split()) <= 12][: arguments.queries]
    started = []
    for name, *rest in contenders_of(arguments, folder):
        try:
            contender = Contender(name, *rest)
            contender.round(queries[:20], texts, save=str(folder / f"{len(started)}.npy"))  # warm-up
        except RuntimeError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
            continue
        started.append(contender)
    for _ in range(arguments.rounds):
        for contender in started:
            contender.rounds.append(contender.round(queries, texts))
    for contender in started:
        contender.close()
    names = [contender.name for contender in started]
    peer = started[names.index(PEER)]
    expected = np.load(folder / f"{names.index(PEER)}.npy")
    table = {}
    for number, contender in enumerate(started):
        rounds = contender.rounds
        milliseconds = [one for found in rounds for one in found["milliseconds"]]
        ratios = [
            theirs["seconds"] / ours["seconds"] for theirs, ours in zip(peer.rounds, rounds, strict=True)
        ]
        cosines = (np.load(folder / f"{number}.npy") * expected).sum(axis=1)
        table[contender.name] = {
            "query p50 ms": statistics.median(milliseconds),
            "query p99 ms": float(np.percentile(milliseconds, 99)),
            "texts/s": len(texts) / statistics.median(found["seconds"] for found in rounds),
            "times peer": statistics.median(ratios),
            "lowest ratio": min(ratios),
            "start s": contender.start_seconds,
            "memory MiB": rounds[-1]["memory"],
            "mean cosine": float(cosines.mean()),
            "min cosine": float(cosines.min()),
        }
    return len(texts), table


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fp32", type=Path, help="bundle in fp32")
    parser.add_argument("--int8", type=Path, help="bundle in int8")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="model that the bundles were made from")
    parser.add_argument("--fastembed_python", help="Python of an environment with fastembed")
    parser.add_argument("--peers", nargs="+", choices=PEER_SETTINGS, default=list(PEER_SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=100, help="single queries per round")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of a table")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--source", help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if PEER not in arguments.peers:
        parser.error(f"--peers: must have {PEER}, with which the others are compared")
    os.environ["HF_HUB_OFFLINE"] = "1"
    if arguments.worker:
        answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print
        work(arguments.worker, arguments.source, arguments.options, answers)
        return
    with tempfile.TemporaryDirectory() as folder:
        texts, table = measure(arguments, Path(folder))
    if arguments.json:
        print(json.dumps({"texts": texts, "contenders": table}, indent=2))
        return
    columns = list(next(iter(table.values())))
    print(f"{texts} texts\n| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, values in table.items():
        cells = [f"{values[one]:.4f}" if "cosine" in one else f"{values[one]:.2f}" for one in columns]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
