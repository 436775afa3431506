"""The OpenAPI document and the spans, of an application in this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.routing import Mount, Route

from keyguard import telemetry
from keyguard.proxy import tracing
from keyguard.proxy.app import create_app
from keyguard.proxy.issuing import ALIASES
from keyguard.proxy.openapi import document
from keyguard.proxy.settings import RESERVED, load_proxy_settings
from keyguard.vendors import known_vendors
from tests.proxy.support import ADMIN, PAY, STRIPE_SECRET

if TYPE_CHECKING:
    from pathlib import Path

    from keyguard.testing.double import VendorDouble
    from tests.proxy.support import Proxy

METHODS = {"get", "post", "put", "patch", "delete"}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def schema(reference: Any) -> dict[str, Any]:
    """Return a schema that a reference names, with what it is made of put together; of alternatives, the proxy's own."""
    reference = reference.get("anyOf", [reference])[0]
    found = document()["components"]["schemas"][reference["$ref"].rpartition("/")[2]] if "$ref" in reference else reference
    parts = [schema(part) for part in found.get("allOf", [])]
    return {
        "required": [*found.get("required", []), *(name for part in parts for name in part["required"])],
        "properties": {**found.get("properties", {}), **{name: of for part in parts for name, of in part["properties"].items()}},
    }


def check(answer: httpx.Response, path: str, method: str) -> None:
    """Assert that an answer is one of those that the document has for an operation, with all that it must have."""
    said = document()["paths"][path][method]["responses"]

    assert str(answer.status_code) in said, (path, method, answer.status_code, answer.text)
    wanted = schema(said[str(answer.status_code)]["content"]["application/json"]["schema"])
    assert [name for name in wanted["required"] if name not in answer.json()] == []


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, double: VendorDouble) -> None:
    """What an application in this process is told."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", STRIPE_SECRET)
    monkeypatch.setenv("KEYGUARD_PROXY_ADMIN_TOKENS", ADMIN)
    monkeypatch.setenv("KEYGUARD_PROXY_LEDGER", f"sqlite:///{tmp_path / 'l.db'}")
    monkeypatch.setenv("KEYGUARD_PROXY_UPSTREAMS", f"stripe={double.url}")


@pytest.mark.usefixtures("environment")
def test_document_has_the_routes() -> None:
    """Each route and method that is served is in the document, and nothing else is; the rest goes to the vendors."""
    routes = create_app(load_proxy_settings()).routes
    served = {
        (route.path, method.lower()) for route in routes if isinstance(route, Route) for method in route.methods or () if method != "HEAD"
    }
    said = {(path, method) for path, item in document()["paths"].items() for method in item if method in METHODS}

    assert served == {(path, method) for path, method in said if not path.endswith("/{path}")}
    assert {path for path, _ in said if path.endswith("/{path}")} == {f"/{vendor}/{{path}}" for vendor in known_vendors()}
    assert [type(route) for route in routes if not isinstance(route, Route)] == [Mount]
    assert {path.split("/")[1] for path, _ in served} == RESERVED


def test_document_has_the_fields() -> None:
    """Each name that a request for a key may have is in the document."""
    found = document()["components"]["schemas"]["Wanted"]

    assert set(found["properties"]) == {name for names in ALIASES.values() for name in names}
    assert found["additionalProperties"] is False


def test_answers_are_the_documents(proxy: Proxy) -> None:
    """What is answered has the form that the document gives it, in success and in failure."""
    key = proxy.issue(run_id="documented")
    one = "/vault/keys/{key_id}"

    check(proxy.ask("POST", "/vault/keys", {"daily_usd_cap": 1}), "/vault/keys", "post")
    check(proxy.ask("POST", "/v1/keys", {"run_usd_cap": 100, "run_id": "documented"}), "/v1/keys", "post")
    check(proxy.ask("POST", "/vault/keys", {}), "/vault/keys", "post")
    check(proxy.ask("POST", "/vault/keys", {}, token=""), "/vault/keys", "post")
    check(proxy.ask("GET", "/vault/keys"), "/vault/keys", "get")
    check(proxy.ask("DELETE", "/vault/keys?label=nobody-at-all"), "/vault/keys", "delete")
    check(proxy.ask("PATCH", f"/vault/keys/{key['key_id']}", {"run_usd_cap": 5}), one, "patch")
    check(proxy.ask("GET", f"/vault/keys/{key['key_id']}"), one, "get")
    check(proxy.ask("DELETE", f"/vault/keys/{key['key_id']}"), one, "delete")
    check(proxy.ask("DELETE", "/vault/keys/nobody"), one, "delete")
    check(proxy.ask("GET", "/audit?limit=1"), "/audit", "get")
    check(proxy.ask("GET", "/healthz"), "/healthz", "get")
    check(proxy.ask("GET", "/readyz"), "/readyz", "get")
    check(proxy.call(key["token"], "GET", "/stripe/v1/customers/c"), "/stripe/{path}", "get")
    assert proxy.ask("GET", "/openapi.json").json() == document()


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/vault/keys", "DELETE, GET, HEAD, POST"),
        ("POST", "/v1/keys/x", "DELETE, GET, HEAD, PATCH"),
        ("TRACE", "/healthz", "GET, HEAD"),
        ("TRACE", "/stripe/v1/charges", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
    ],
)
def test_methods_that_are_not_there(proxy: Proxy, method: str, path: str, allowed: str) -> None:
    """A method that a path does not have is 405, and is told which there are; nothing is forwarded."""
    answer = proxy.ask(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.usefixtures("environment")
def test_span_joins_the_callers_trace(double: VendorDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SERVER span is the child of the `traceparent` that came; below it is the call's; and the vendor hears of neither."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("keyguard.proxy"))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("keyguard"))

    async def ask() -> int:
        app = create_app(load_proxy_settings())
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://proxy") as client,
        ):
            made = await client.post("/vault/keys", json={"run_usd_cap": 5}, headers={"authorization": f"Bearer {ADMIN}"})
            traced = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "tracestate": "a=b,junk"}
            headers = {"authorization": f"Bearer {made.json()['token']}", **traced}
            return (await client.post("/stripe/v1/payment_intents", data={**PAY, "confirm": "true"}, headers=headers)).status_code

    assert asyncio.run(ask()) == 200
    below, server = exporter.get_finished_spans()[-2:]
    assert (server.name, server.kind, server.parent is not None and server.parent.span_id) == (
        "POST /stripe",
        trace.SpanKind.SERVER,
        0xB7AD6B7169203331,
    )
    assert (below.name, below.parent is not None and below.parent.span_id) == ("stripe payment_intents.create", server.context.span_id)
    assert f"{server.context.trace_id:032x}" == TRACE
    assert dict(server.attributes or {}) == {"http.request.method": "POST", "http.route": "/stripe", "http.response.status_code": 200}
    assert [name for name in double.requests()[-1]["headers"] if name.startswith("trace")] == []
    assert STRIPE_SECRET not in "".join(span.to_json() for span in exporter.get_finished_spans())
