"""A chat endpoint on this machine that can misbehave in every way that real ones do."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = '{"label": "harmful", "complies": true}'
HANG = "hang"  # no answer until the client has given up
CUT = "cut"  # the connection ends in the middle of an answer

Reply = tuple[int, str] | tuple[int, str, dict[str, str]] | str
"""A status and a body, perhaps with headers, or one of HANG and CUT."""


def said(text: Any) -> Reply:
    """A chat completion with this text."""
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@dataclass
class Endpoint:
    """What the server was asked, and what it answers.

    Attributes:
        url: Its base URL.
        reply: Called with the user message; what to answer.
        requests: (path, headers, body) of each request.
        most_at_once: The largest number of requests that were open at the same time.
    """

    url: str = ""
    reply: Callable[[str], Reply] = lambda _: said(GOOD)
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    most_at_once: int = 0

    def script(self, *replies: Reply) -> None:
        """Answer with these in turn, and with the last one from then on."""
        left = list(replies)
        self.reply = lambda _: left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def running() -> Iterator[Endpoint]:
    """An endpoint that answers while the context lasts."""
    endpoint, lock, closing = Endpoint(), threading.Lock(), threading.Event()
    open_now = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal open_now
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            with lock:
                open_now += 1
                endpoint.most_at_once = max(endpoint.most_at_once, open_now)
                endpoint.requests.append((self.path, dict(self.headers), body))
                reply = endpoint.reply(body["messages"][-1]["content"])
            try:
                self.answer(reply)
            finally:
                with lock:
                    open_now -= 1

        def answer(self, reply: Reply) -> None:
            if reply == HANG:
                closing.wait(5)
                return
            if reply == CUT:
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                return
            assert not isinstance(reply, str)
            status, text, *headers = reply
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            for name, value in (headers[0] if headers else {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
