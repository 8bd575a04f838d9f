"""A web server for the tests: files of a folder, with or without Range requests, and with faults to order."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """What a test sees of the server.

    Attributes:
        url: its address.
        served: the paths asked for with GET, in order.
        n_bytes: bytes sent of files.
        change: called with path and content, returns what is sent instead; None closes the connection halfway.
        refuse: called with the path, returns the status of an error to answer with, or None.
        etag: whether files come with one, of their content.
    """

    def __init__(self) -> None:
        self.url = ""
        self.served: list[str] = []
        self.n_bytes = 0
        self.change: Callable[[str, bytes], bytes | None] = lambda _, content: content
        self.refuse: Callable[[str], int | None] = lambda _: None
        self.etag = False


@contextlib.contextmanager
def file_server(folder: Path, ranges: bool = True) -> Iterator[Server]:
    """Serves the folder on loopback while the block runs."""
    state = Server()

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_args) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            state.served.append(self.path)
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            if refused := state.refuse(self.path):
                self.send_error(refused)
                return
            file = Path(self.translate_path(self.path))
            if not file.is_file():
                self.send_error(404)
                return
            content, total = file.read_bytes(), file.stat().st_size
            asked = self.headers.get("Range") if ranges else None
            if asked:
                first, last = asked.removeprefix("bytes=").split("-")
                start = int(first) if first else total - int(last)
                stop = min(int(last) + 1, total) if first and last else total
                content = content[start:stop]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{total}")
            else:
                self.send_response(200)
            if ranges:
                self.send_header("Accept-Ranges", "bytes")
            if state.etag:
                self.send_header("ETag", f'"{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not body:
                return
            changed = state.change(self.path, content)
            if changed is None:
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
            else:
                state.n_bytes += len(changed)
                self.wfile.write(changed)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)  # seconds to a shutdown
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
