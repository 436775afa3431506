"""The cassettes: which scenarios there are, and how vcrpy writes and matches them. Starts nothing and asserts nothing.

What is kept of a request or reply is listed here, so that nothing unforeseen gets into a file; ids, client secrets
and instants are renamed one for one, so that a new recording of the same traffic is the same file.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import stripe
import vcr  # type: ignore[import-untyped]  # -- it has no types
import yaml  # type: ignore[import-untyped]  # -- it has no types
from vcr.serializers import yamlserializer  # type: ignore[import-untyped]  # -- it has no types

if TYPE_CHECKING:
    from collections.abc import Callable

Answer: TypeAlias = "stripe.StripeObject | stripe.StripeError"

FOLDER = Path(__file__).parents[1] / "cassettes"
# RFC 2606 reserves `.invalid`: it resolves nowhere, and nobody can take it for Stripe's own host.
HOST = "localstripe.invalid"
API_KEY = "sk_test_12345"
_REQUEST_HEADERS = ("Content-Type", "Stripe-Version")
_REPLY_HEADERS = ("Content-Length", "Content-Type")
_ID = re.compile(r"\b(ch|pi|pm|re|txn)_[A-Za-z0-9]{14}(?![A-Za-z0-9])")
_CLIENT_SECRET = re.compile(r"_secret_[A-Za-z0-9]{16}")
_INSTANT = re.compile(r'("(?:created|date)": )[0-9]{10}\b')


# -- scenarios -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    What is asked of the Stripe SDK, in order; its cassette has the same name.

    Attributes:
        name: The file's stem.
        play: Makes the calls with a client and a card; returns what the SDK returned or raised.
        card: The payment method, as the cassette names it.
        number: Of the card to make at the stand-in before recording; "" where the stand-in knows `card` itself.
    """

    name: str
    play: Callable[[stripe.StripeClient, str], list[Answer]]
    card: str = "pm_card_visa"
    number: str = ""

    @property
    def path(self) -> Path:
        """Its committed cassette."""
        return FOLDER / f"{self.name}.yaml"


def _success(client: stripe.StripeClient, card: str) -> list[Answer]:
    return [client.v1.payment_intents.create({"amount": 2000, "currency": "usd", "payment_method": card, "confirm": True})]


def _decline(client: stripe.StripeClient, card: str) -> list[Answer]:
    try:
        return _success(client, card)
    except stripe.CardError as declined:
        return [declined]


def _manual_capture(client: stripe.StripeClient, card: str) -> list[Answer]:
    intents = client.v1.payment_intents
    made = intents.create({"amount": 3000, "currency": "usd", "payment_method": card, "capture_method": "manual"})
    return [made, intents.confirm(made.id), intents.capture(made.id)]


def _partial_refund(client: stripe.StripeClient, card: str) -> list[Answer]:
    (paid,) = _success(client, card)
    assert isinstance(paid, stripe.PaymentIntent)
    return [paid, client.v1.refunds.create({"payment_intent": paid.id, "amount": 500})]


def _jpy(client: stripe.StripeClient, card: str) -> list[Answer]:
    # Zero-decimal: 500 is five hundred yen, not five.
    return [client.v1.payment_intents.create({"amount": 500, "currency": "jpy", "payment_method": card, "confirm": True})]


SCENARIOS = (
    Scenario("success", _success),
    Scenario("decline", _decline, card="pm_card_chargeCustomerFail"),
    Scenario("manual_capture", _manual_capture),
    Scenario("partial_refund", _partial_refund),
    Scenario("jpy", _jpy),
    # Stripe's public test card that always asks for 3D Secure.
    Scenario("requires_action", _success, card="pm_00000000000001", number="4000000000003220"),
)


def client(api_base: str) -> stripe.StripeClient:
    """Return a client that asks once, with a transport of its own."""
    return stripe.StripeClient(API_KEY, base_addresses={"api": api_base}, max_network_retries=0)


# -- vcrpy -----------------------------------------------------------------------------------------


def player(**options: Any) -> Any:
    """Return a VCR that keeps and matches what these cassettes hold; the host and port never matter."""
    found = vcr.VCR(
        serializer="readable",
        match_on=("method", "scheme", "path", "query", "body"),
        before_record_request=_kept_request,
        before_record_response=_kept_reply,
        **options,
    )
    found.register_serializer("readable", Readable)
    return found


def _kept_request(request: Any) -> Any:
    """Name no host of the recording, and keep the listed headers; also applied to what is matched."""
    request.uri = urlsplit(request.uri)._replace(netloc=HOST).geturl()
    kept = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
    request.headers = {"Authorization": "REDACTED", **kept}
    return request


def _kept_reply(reply: dict[str, Any]) -> dict[str, Any]:
    reply["headers"] = {name: reply["headers"][name] for name in _REPLY_HEADERS if name in reply["headers"]}
    return reply


def renaming() -> Callable[[Any, dict[str, Any]], tuple[Any, dict[str, Any]]]:
    """Return the hook that renames one cassette's ids by their order, its client secrets and its instants; lengths stay."""
    names: dict[str, str] = {}
    numbers: Counter[str] = Counter()

    def name(found: re.Match[str]) -> str:
        if found[0] not in names:
            numbers[found[1]] += 1
            names[found[0]] = f"{found[1]}_{numbers[found[1]]:014d}"
        return names[found[0]]

    def renamed(text: str) -> str:
        return _INSTANT.sub(r"\g<1>1795000000", _CLIENT_SECRET.sub(f"_secret_{0:016d}", _ID.sub(name, text)))

    def rename(request: Any, reply: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        request.uri = renamed(request.uri)
        if request.body is not None:
            request.body = renamed(request.body.decode())
        reply["body"]["string"] = renamed(reply["body"]["string"].decode()).encode()
        return request, reply

    return rename


def origin(recorded_on: str) -> dict[str, str]:
    """Say where a recording comes from, in the recording itself."""
    return {
        "recorded_against": f"localstripe {version('localstripe')}, a stand-in on a loopback port; no live Stripe took part",
        "recorded_with": f"stripe {version('stripe')}, vcrpy {version('vcrpy')}",
        "recorded_on": recorded_on,
        "changed": "ids, client secrets and instants renamed; host replaced; headers cut down; authorization redacted",
    }


class Readable:
    """vcrpy's YAML with the origin on top and bodies as blocks of text, so that people can read a diff of it."""

    deserialize = staticmethod(yamlserializer.deserialize)

    @staticmethod
    def serialize(cassette: dict[str, Any]) -> str:
        """Write one cassette."""
        top, rest = {"metadata": cassette["metadata"]}, {key: cassette[key] for key in ("interactions", "version")}
        # Two dumps of block mappings make one document.
        return "".join(yaml.dump(part, Dumper=_Blocks, width=140, sort_keys=part is rest) for part in (top, rest))


class _Blocks(yaml.SafeDumper):  # type: ignore[misc]  # -- its base has no types
    """Writes text of several lines as a block."""


def _text(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Blocks.add_representer(str, _text)
