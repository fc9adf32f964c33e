"""`aisle serve`: answer searches over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from aisle.commands.command import Command
from aisle.commands.serve_container import container_arguments, package_arguments
from aisle.commands.shared_settings import (
    AdapterBase,
    ConfigFile,
    Count,
    IndexModel,
    TrustRemoteCode,
)
from aisle.config.annotations import Help
from aisle.types.choices import SearchMode

if TYPE_CHECKING:
    from aisle.service.api_keys import ApiKeys
    from aisle.service.pairs.served_pair import PairSource
    from aisle.service.running_service import RunningService
    from aisle.service.service_limits import ServiceLimits

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServeSettings:
    """Answer searches over HTTP, from an index and its model.

    POST /search searches; POST /embed and POST /v1/embeddings embed texts, as Text Embeddings Inference and
    OpenAI do; POST /rerank and POST /v2/rerank rank texts with a reranker, as Text Embeddings Inference and
    Cohere do; GET /info, /health, /ready and /metrics describe the server. When a new version of the index
    is current, the server loads and checks it in the background and switches to it; POST /admin/reload does
    so at once.
    """

    index_dir: Annotated[
        str | None,
        Help(
            "Directory of the index. In a container, the index of the package in the folder that the "
            "variable AISLE_PACKAGE names."
        ),
    ] = None
    model: IndexModel = None
    follow: str | None = None
    """Pointer file that `aisle publish` writes, instead of --index_dir and --model: the server answers with
    the pair that it names, and switches when it names another."""
    watch_seconds: Annotated[float, Interval(gt=0, le=3600)] = 2.0
    """Seconds between two looks at the current version of the index, or at the pointer file, and at the files
    of the model."""
    base_model: AdapterBase = None
    trust_remote_code: TrustRemoteCode = False
    mode: SearchMode = "dense"
    """How requests without a mode are searched: by embeddings (dense), by words with BM25 (lexical), or by
    both (hybrid). With lexical no model is loaded."""
    window: Annotated[int, Interval(ge=1, le=10_000)] = 1000
    """Most best products of a query that pages, facets and groups come from. A larger window counts further
    and searches longer."""
    reranker: str | None = None
    """Reranker (a cross-encoder) for texts of POST /rerank, and for searches that ask for it: the folder of
    a run of `aisle train-reranker`, or a registered name. If not given, they are answered with 501."""
    host: str = "127.0.0.1"
    """Address to listen on. Any other than this machine's own (127.0.0.1, ::1, localhost) needs
    --api_key_file or --allow_anonymous."""
    port: Annotated[int, Interval(ge=0, le=65535)] = 8080
    """Port to listen on; 0 takes a free one."""
    api_key_file: str | None = None
    """File with the API keys that requests must have, a key on each line. /health and /ready need none."""
    allow_anonymous: bool = False
    """Let everyone who reaches the address search without a key."""
    workers: Count | None = None
    """Threads that embed and search. If not given: one per processor with a bundle, 1 with torch, which
    itself uses all processors."""
    batch_tokens: Count = 2048
    """Most tokens to embed at a time; a longer request is embedded by itself."""
    max_waiting: Count = 256
    """Most requests that wait for a thread; further ones are answered with 429."""
    max_queries: Count = 32
    """Most queries, or texts to embed, in a request."""
    max_rerank_texts: Count = 256
    """Most texts to rerank in a request."""
    max_body_bytes: Count = 2_000_000
    """Most bytes in the body of a request."""
    timeout_ms: Annotated[int, Interval(ge=1, le=60_000)] = 10_000
    """Milliseconds after which a request is answered with 504, unless it has its own timeout_ms."""
    log_queries: bool = False
    """Log the texts of searches. If not given, no text of a request is logged."""
    sagemaker: bool = False
    """Answer SageMaker's calls too: GET /ping, and POST /invocations with any request in a body of at most
    6 MB. --max_body_bytes does not apply."""
    multi_model: bool = False
    """Serve packages that SageMaker loads and unloads (POST /models, DELETE /models/NAME), instead of an
    index."""
    demo: bool = False
    """Serve a search page for the browser at /demo/."""
    compare_index_dir: str | None = None
    """Index of the same catalogue by the base model, which answers requests with "pair": "base". The demo
    page shows its products beside the others."""
    compare_model: str | None = None
    """Folder or Hub id of the base model, if the index of --compare_index_dir does not record it."""
    config: ConfigFile = None


def serve_problems(settings: ServeSettings) -> list[str]:
    """Return a message for each combination of settings that cannot work."""
    problems = []
    sources = [settings.index_dir is not None, settings.follow is not None, settings.multi_model]
    if sum(sources) != 1:
        problems.append(
            "--index_dir: give the index, or --follow FILE for the pair that aisle publish names, or "
            "--multi_model to load packages on demand"
        )
    if settings.follow is not None and settings.model is not None:
        problems.append("--model: the file of --follow names the model; leave --model out")
    if settings.multi_model and settings.api_key_file is not None:
        problems.append("--multi_model: SageMaker sends no keys; leave --api_key_file out")
    if settings.host not in LOOPBACK and settings.api_key_file is None and not settings.allow_anonymous:
        problems.append(
            f"--host {settings.host}: others could search without a key; add --api_key_file FILE, or "
            "--allow_anonymous if a proxy checks who asks"
        )
    if settings.allow_anonymous and settings.api_key_file is not None:
        problems.append("--allow_anonymous: --api_key_file asks for keys; leave one of them out")
    if settings.compare_model is not None and settings.compare_index_dir is None:
        problems.append("--compare_model: needs --compare_index_dir, the index that this model made")
    if settings.multi_model and settings.reranker is not None:
        problems.append("--reranker: --multi_model serves packages, which have no reranker; leave it out")
    if settings.multi_model and (settings.demo or settings.compare_index_dir is not None):
        problems.append("--multi_model: has no search page; leave --demo and --compare_index_dir out")
    return problems


def serve(settings: ServeSettings) -> None:
    """Serve an index, or packages that are loaded on demand, until a signal stops the process.

    Raises:
        AisleError: The address cannot be used, the key file is not valid, or the index or the model cannot
            be loaded.
    """
    from aisle.service.worker_threads import ending_without_workers

    with ending_without_workers():
        if settings.multi_model:
            _serve_models(settings)
        else:
            _serve_index(settings)


def _serve_index(settings: ServeSettings) -> None:
    """Serve an index, or the pair that a pointer file names."""
    from aisle.commands.output import Output
    from aisle.commands.served_source import usable_source
    from aisle.search.rerank_stage import dropped_note, rerank_stage
    from aisle.search.rerankers import load_reranker
    from aisle.service.api_keys import read_api_keys
    from aisle.service.engine import Engine
    from aisle.service.http.app import create_app
    from aisle.service.http.demo_routes import DEMO_PAGE
    from aisle.service.http.server import HttpServer, listening_socket
    from aisle.service.pairs.swap import PairSwapper, followed_pointer, watched_index

    source = _pair_source(settings)
    if settings.follow is None:
        watched = watched_index(source)
    else:
        watched = followed_pointer(Path(settings.follow).resolve(), source)
    limits = _limits(settings, usable_source(watched))
    keys = None if settings.api_key_file is None else read_api_keys(Path(settings.api_key_file))
    failures: list[BaseException] = []

    def stop(error: BaseException) -> None:
        failures.append(error)
        server.stop()

    base = None
    if settings.compare_index_dir is not None:
        base = _base_service(settings, limits, keys, stop)
    reranker = None if settings.reranker is None else load_reranker(settings.reranker)
    if reranker is not None and rerank_stage(reranker, settings.mode) is None:
        Output().log(dropped_note(reranker))
    engine = Engine(reranker=reranker)
    app = create_app(
        engine,
        limits=limits,
        keys=keys,
        log_queries=settings.log_queries,
        sagemaker=settings.sagemaker,
        swapper=PairSwapper(engine, watched, poll_seconds=settings.watch_seconds, on_failure=stop),
        base=base,
        demo=settings.demo,
    )
    server = HttpServer(app)
    server.run(listening_socket(settings.host, settings.port), page=DEMO_PAGE if settings.demo else None)
    if failures:
        raise failures[0]


def _base_service(
    settings: ServeSettings,
    limits: ServiceLimits,
    keys: ApiKeys | None,
    on_failure: Callable[[BaseException], None],
) -> RunningService:
    """Return the service of the base model and its index; it loads them once it is started."""
    from aisle.commands.served_source import usable_source
    from aisle.service.engine import Engine
    from aisle.service.pairs.swap import PairSwapper, watched_index
    from aisle.service.running_service import RunningService

    compared = replace(
        settings, index_dir=settings.compare_index_dir, model=settings.compare_model, base_model=None
    )
    watched = watched_index(_pair_source(compared))
    usable_source(watched)
    engine = Engine()
    swapper = PairSwapper(engine, watched, poll_seconds=settings.watch_seconds, on_failure=on_failure)
    return RunningService(engine, limits, keys, settings.log_queries, swapper)


def _serve_models(settings: ServeSettings) -> None:
    """Serve packages that are loaded on demand."""
    from aisle.service.http.multi_model_app import create_multi_model_app
    from aisle.service.http.sagemaker import MAX_BODY_BYTES
    from aisle.service.http.server import HttpServer, listening_socket
    from aisle.service.packages.loaded_models import LoadedModels

    app = create_multi_model_app(LoadedModels(_start_package), max_body_bytes=MAX_BODY_BYTES)
    HttpServer(app).run(listening_socket(settings.host, settings.port))


def _start_package(folder: Path) -> RunningService:
    """Load a package, and start its service with the package's own settings."""
    from aisle.commands.served_source import check_source
    from aisle.config.load import parse_settings
    from aisle.service.engine import Engine
    from aisle.service.pairs.served_pair import load_pair
    from aisle.service.running_service import RunningService

    settings = parse_settings(ServeSettings, package_arguments(folder), prog="aisle serve")
    source = check_source(_pair_source(settings))
    limits = _limits(settings, source)
    service = RunningService(Engine(load_pair(source)), limits, None, settings.log_queries)
    service.start()
    return service


def _pair_source(settings: ServeSettings) -> PairSource:
    """Return where index and model are loaded from; with --follow, the options of each pair."""
    from aisle.service.pairs.served_pair import PairSource

    return PairSource(
        Path(settings.index_dir or "").resolve(),
        model=settings.model,
        base_model=settings.base_model,
        trust_remote_code=settings.trust_remote_code,
        mode=settings.mode,
        window=settings.window,
    )


def _limits(settings: ServeSettings, source: PairSource) -> ServiceLimits:
    from aisle.commands.served_source import computes_with_torch
    from aisle.service.http.sagemaker import MAX_BODY_BYTES
    from aisle.service.request_queue import QueueLimits
    from aisle.service.service_limits import ServiceLimits
    from aisle.system.processors import available_processors

    workers = settings.workers or (1 if computes_with_torch(source) else available_processors())
    return ServiceLimits(
        queue=QueueLimits(settings.max_waiting, settings.batch_tokens, workers),
        max_queries=settings.max_queries,
        max_rerank_texts=settings.max_rerank_texts,
        max_body_bytes=MAX_BODY_BYTES if settings.sagemaker else settings.max_body_bytes,
        timeout_ms=settings.timeout_ms,
    )


COMMAND = Command("serve", ServeSettings, serve, serve_problems, extra="serve", arguments=container_arguments)
