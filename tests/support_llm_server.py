"""The least of OpenAI's and Anthropic's APIs that their SDKs need, on loopback: completions and messages, whole or streamed, with usage."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from keyguard.testing._listening import answer_json

if TYPE_CHECKING:
    from collections.abc import Iterator

INPUT, OUTPUT = 12, 5
WORDS = ("Money", " is", " not", " free", ".")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no error of the stand-in."""


class LlmServer:
    """
    Listens on loopback.

    Attributes:
        requests: (path, headers in lower case) of everything that arrived.
        scripted: Statuses that are answered next, with an error, in place of a completion.
        patience: Set = a stream goes on by itself; cleared, it waits after its first word.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.scripted: list[int] = []
        self.patience = threading.Event()
        self.patience.set()

    @property
    def host(self) -> str:
        """Where it listens: `127.0.0.1:port`."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        """Its base."""
        return f"http://{self.host}"

    def __enter__(self) -> LlmServer:
        world = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                world.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                status = world.scripted.pop(0) if world.scripted else 200
                if status != 200:
                    answer_json(self, status, {"error": {"type": "scripted", "message": "scripted"}})
                elif asked.get("stream"):
                    self._streamed(_chunks(asked) if "completions" in self.path else _events())
                else:
                    answer_json(self, 200, _COMPLETION if "completions" in self.path else _MESSAGE)

            def _streamed(self, events: Iterator[str]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for number, event in enumerate(events):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event.encode()))
                    if number == 1:
                        world.patience.wait(30)
                self.wfile.write(b"0\r\n\r\n")

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.patience.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


_COMPLETION = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "".join(WORDS)}}],
    "usage": {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT},
}  # fmt: skip
_MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "".join(WORDS)}],
    "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": INPUT, "output_tokens": OUTPUT},
}  # fmt: skip


def _chunks(asked: dict[str, Any]) -> Iterator[str]:
    """Yield a completion as OpenAI streams it: usage comes last, where it was asked for."""
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    for word in WORDS:
        yield f"data: {json.dumps({**chunk, 'choices': [{'index': 0, 'delta': {'content': word}, 'finish_reason': None}]})}\n\n"
    if (asked.get("stream_options") or {}).get("include_usage"):
        yield f"data: {json.dumps({**chunk, 'choices': [], 'usage': _COMPLETION['usage']})}\n\n"
    yield "data: [DONE]\n\n"


def _events() -> Iterator[str]:
    """Yield a message as Anthropic streams it: the input first, the output so far with each delta of the message."""
    start = {**_MESSAGE, "content": [], "stop_reason": None, "usage": {"input_tokens": INPUT, "output_tokens": 1}}
    yield _event("message_start", message=start)
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for word in WORDS:
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
    yield _event("content_block_stop", index=0)
    yield _event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": OUTPUT})
    yield _event("message_stop")


def _event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"
