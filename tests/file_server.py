"""A real HTTP server on the loopback, with the faults that servers have."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served, and how.

    Attributes:
        files: content by name.
        url: address of the folder of files.
        sends_parts: whether Range requests are answered with the part.
        sends_versions: whether there are ETags.
        sends_length: whether there is a Content-Length.
        is_chunked: whether bodies come in chunks, in place of a length.
        content_type: of all files.
        shift: bytes by which a part begins later than asked for, as its Content-Range says.
        cuts: for each of the next answers, how many bytes to send before the connection breaks.
        stalls: likewise, before nothing more comes and the connection stays open.
        statuses: of the next answers, in place of files.
        ranges: the Range header of each request so far.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    sends_parts: bool = True
    sends_versions: bool = True
    sends_length: bool = True
    is_chunked: bool = False
    content_type: str = "application/octet-stream"
    shift: int = 0
    cuts: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)


@contextmanager
def serve_files(**files: bytes) -> Iterator[FileServer]:
    """Serves files by name, until the context ends."""
    served = FileServer(files)
    is_over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.ranges.append(self.headers["Range"])
            content = served.files.get(self.path.removeprefix("/"))
            if served.statuses or content is None:
                self.send_error(served.statuses.pop(0) if served.statuses else 404)
                return
            self._send(content)

        def _send(self, content: bytes) -> None:
            etag = f'"{hashlib.md5(content).hexdigest()}"'
            start = 0
            wanted = self.headers["Range"]
            if wanted and served.sends_parts and self.headers["If-Range"] == etag:
                start = int(wanted.removeprefix("bytes=").removesuffix("-")) + served.shift
                if start >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            if served.sends_versions:
                self.send_header("ETag", etag)
            self.send_header("Content-Type", served.content_type)
            if served.is_chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif served.sends_length:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            body = content[start:]
            if served.is_chunked:
                body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            if served.stalls:
                self.wfile.write(body[: served.stalls.pop(0)])
                is_over.wait()
            else:
                self.wfile.write(body[: served.cuts.pop(0)] if served.cuts else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serve(Handler) as served.url:
        try:
            yield served
        finally:
            is_over.set()


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address at which a handler answers while the context lasts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
