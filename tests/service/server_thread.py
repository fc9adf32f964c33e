"""The application on uvicorn, in a thread of the test."""

import threading
import time
from contextlib import contextmanager

from aisle.service.engine import Engine
from aisle.service.http.app import create_app
from aisle.service.http.server import HttpServer, listening_socket


@contextmanager
def server_thread(shop, *, engine=None, **options):
    """Serve the pair of a shop, and yield the port."""
    server = HttpServer(create_app(engine or Engine(shop.pair()), **options))
    listening = listening_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    thread = threading.Thread(target=server.run, args=(listening,))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield port
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()
