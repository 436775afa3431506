"""The answer that stands for a refusal (keyguard.refusals), as the response of each client's own library; imports none of them."""

from __future__ import annotations

import asyncio
import inspect
import io
import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from keyguard.refusals import REASON, STATUS, answer_of

if TYPE_CHECKING:
    from keyguard.errors import Refused


def of_httpx(library: str, request: Any, refusal: Refused) -> Any:
    """Return a response of httpx, or of a library with the same classes, as its own transport would have given it."""
    answer = answer_of(refusal)
    response = sys.modules[library].Response(STATUS, headers=dict(answer.headers), content=answer.body, request=request)
    response.elapsed = timedelta(0)
    return response


def of_requests(request: Any, refusal: Refused) -> Any:
    """Return a response of requests, as an adapter gives one to its session."""
    answer, response = answer_of(refusal), sys.modules["requests"].Response()
    response.status_code, response.reason, response.encoding = STATUS, REASON, "utf-8"
    response.headers.update(answer.headers)
    response.request, response.url = request, request.url
    response.raw = io.BytesIO(answer.body)
    response._content, response._content_consumed = answer.body, True  # noqa: SLF001 -- where a body that was read is kept
    return response


def of_aiohttp(session: Any, method: str, url: Any, headers: Any, refusal: Refused) -> Any:
    """Return a response of aiohttp, of the session's own class, whose body is there to be read."""
    library, multidict, answer, loop = sys.modules["aiohttp"], sys.modules["multidict"], answer_of(refusal), asyncio.get_running_loop()
    made_of: dict[str, Any] = {
        "writer": None, "continue100": None, "timer": None, "traces": [], "loop": loop, "session": session,
        "request_info": library.RequestInfo(url, method, multidict.CIMultiDictProxy(multidict.CIMultiDict(headers)), url),
        "stream_writer": SimpleNamespace(output_size=0),
    }  # fmt: skip
    # The last one came with 3.14, which wants it.
    known = inspect.signature(library.ClientResponse.__init__).parameters
    kind: Any = session._response_class  # noqa: SLF001 -- of the session alone
    response = kind(method, url, **{name: value for name, value in made_of.items() if name in known})
    response.version, response.status, response.reason = library.HttpVersion11, STATUS, REASON
    response._headers = multidict.CIMultiDictProxy(multidict.CIMultiDict(answer.headers))  # noqa: SLF001 -- what `headers` shows
    response._raw_headers = tuple((name.encode(), value.encode()) for name, value in answer.headers.items())  # noqa: SLF001 -- as above
    response.content = library.StreamReader(sys.modules["aiohttp.base_protocol"].BaseProtocol(loop), 2**16, loop=loop)
    response.content.feed_data(answer.body)
    response.content.feed_eof()
    return response
