"""Short words for the double's tests: raw requests, forms, and Stripe's specification held against each answer. Asserts only that."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from keyguard.testing.double import _stripe_reads
from keyguard.testing.double.messages import Answer, Ids, Request, respond
from keyguard.testing.double.stripe import Stripe
from tests.support_stripe_spec import check, schema, stripe_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.testing.double.messages import Execution

KEY = "sk_test_double"
USD = 1_000_000
CHARGE = {"amount": 100, "currency": "usd", "source": "tok_visa"}
PAY = {"amount": 100, "currency": "usd", "confirm": "true", "payment_method": "pm_card_visa"}
_IDS = {"payment_intents": "{intent}", "charges": "{charge}", "refunds": "{refund}", "customers": "{customer}", "events": "{id}"}


def raw(
    host: str, method: str, target: str, form: Mapping[str, Any] | None = None, key: str = "", timeout: float = 30, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Ask over one connection of its own; returns status, headers in lower case, and the body."""
    sent = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/x-www-form-urlencoded", **headers}
    if key:
        sent["Idempotency-Key"] = key
    with closing(HTTPConnection(host, timeout=timeout)) as connection:
        connection.request(method, target, urlencode(form or {}), sent)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@dataclass
class Till:
    """
    A pure Stripe at a fixed time, each of whose answers is held against Stripe's specification.

    Attributes:
        now: Seconds since the epoch.
        executions: What it executed.
    """

    now: float = 1_795_600_000.0
    executions: list[Execution] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stripe = Stripe(self.executions.append, Ids())
        self._number = 0

    def request(self, method: str, target: str, form: Mapping[str, Any], key: str = "", **headers: str) -> Request:
        """Make a request."""
        self._number += 1
        sent = {"authorization": f"Bearer {KEY}", **({"idempotency-key": key} if key else {}), **headers}
        return Request(method, target, sent, urlencode(form).encode(), self._number)

    def ask(self, method: str, path: str, form: Mapping[str, Any] | None = None, key: str = "", **headers: str) -> Answer:
        """Ask, and check the answer."""
        target = f"{path}?{urlencode(form)}" if method == "GET" and form else path
        answer = respond(self.stripe, self.request(method, target, {} if method == "GET" else form or {}, key, **headers), self.now)
        conforms(method, path, answer)
        return answer

    def post(self, path: str, form: Mapping[str, Any], key: str = "", **headers: str) -> Any:
        """Ask for what must succeed; returns its body."""
        answer = self.ask("POST", path, form, key, **headers)

        assert answer.status == 200, answer.body
        return answer.body

    def get(self, path: str, **params: Any) -> Any:
        """Read what must be there; `__` in a name opens a bracket: `created__gte`."""
        named = {name.replace("__", "[") + ("]" if "__" in name else ""): value for name, value in params.items()}
        answer = self.ask("GET", path, named)

        assert answer.status == 200, answer.body
        return answer.body

    @property
    def rows(self) -> list[tuple[str, int]]:
        """Kind and micro-units of each execution."""
        return [(execution.kind, execution.micros) for execution in self.executions]


def template(path: str) -> str:
    """Return the specification's path of a request's."""
    _, version, resource, *rest = path.split("/")
    return "/".join(["", version, resource, *(_IDS[resource] if n == 0 else segment for n, segment in enumerate(rest))])


def conforms(method: str, path: str, answer: Answer) -> None:
    """Assert that an answer has the form that Stripe's specification gives this operation, or an error where it knows none."""
    operation = stripe_spec()["paths"].get(template(path), {}).get(method.lower()) if "/" in path else None
    if answer.status == 200:
        assert operation is not None, f"{method} {path} is not in the specification"
        _fits(answer.body, operation["responses"]["200"]["content"]["application/json"]["schema"], path)
    else:
        _fits(answer.body, schema("error"), path)


def _fits(value: Any, wanted: dict[str, Any], where: str) -> None:
    """Assert that a value fits a schema, and that no field in it is invented; free maps, and objects inside events, may hold anything."""
    check(value, wanted, where)
    wanted = schema(str(wanted["$ref"]).rpartition("/")[2]) if "$ref" in wanted else wanted
    fields = wanted.get("properties", {})
    if isinstance(value, dict) and fields:
        assert set(value) <= set(fields), f"{where} has {sorted(set(value) - set(fields))}, which the specification does not know"
        for name, item in value.items():
            if "anyOf" not in fields[name]:
                _fits(item, fields[name], f"{where}.{name}")
    elif isinstance(value, list):
        for item in value:
            _fits(item, wanted["items"], f"{where}[]")


def kinds() -> list[str]:
    """Return the kinds of objects that can be listed."""
    return list(_stripe_reads.FILTERS)


def loaded(body: bytes) -> Any:
    """Return JSON's value."""
    return json.loads(body)
