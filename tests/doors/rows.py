"""The doors: SDKs over each of their HTTP libraries, and raw clients in each of their styles. A further one is a further line."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio
import requests
import requests.adapters
import resend
import stripe
import urllib3
from twilio.base.exceptions import TwilioRestException
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client as TwilioClient

from tests.doors import Door
from tests.doors.vendors import RESEND, STRIPE, TWILIO
from tests.support_libraries import HTTPX
from tests.support_twilio_clients import MESSAGE, pointed
from tests.support_twilio_server import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.doors import Ask

_FORM = {"amount": "100", "currency": "usd", "confirm": "true"}
_PARAMETERS: Any = {"amount": 100, "currency": "usd", "confirm": True}
_TEXT = {"To": MESSAGE["to"], "From": MESSAGE["from_"], "Body": MESSAGE["body"]}
_MAIL: Any = {"from": "me@example.com", "to": ["ann@example.com"], "subject": "s", "html": "h"}


def _run(backend: str, call: Callable[[Ask], Awaitable[Any]]) -> Callable[[Ask], Any]:
    return lambda ask: anyio.run(call, ask, backend=backend)


# -- Stripe's SDK ------------------------------------------------------------------------------------


def _options(ask: Ask) -> dict[str, Any]:
    return {"idempotency_key": ask.key} if ask.key else {}


def _client(ask: Ask, own: stripe.HTTPClient) -> stripe.StripeClient:
    return stripe.StripeClient(ask.credential, base_addresses={"api": ask.base}, http_client=own, max_network_retries=ask.retries)


def _stripe(make: Callable[[], stripe.HTTPClient]) -> Callable[[Ask], Any]:
    def call(ask: Ask) -> Any:
        own = make()
        try:
            return _client(ask, own).v1.payment_intents.create(_PARAMETERS, _options(ask))  # type: ignore[arg-type]  # -- a dict
        finally:
            own.close()  # type: ignore[no-untyped-call]  # -- stripe's own

    return call


def _astripe(make: Callable[[], stripe.HTTPClient], backend: str = "asyncio") -> Callable[[Ask], Any]:
    async def call(ask: Ask) -> Any:
        own = make()
        try:
            return await _client(ask, own).v1.payment_intents.create_async(_PARAMETERS, _options(ask))  # type: ignore[arg-type]  # -- a dict
        finally:
            await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own

    return _run(backend, call)


def _legacy(ask: Ask) -> Any:
    before = stripe.api_base, stripe.default_http_client, stripe.max_network_retries
    stripe.api_base, stripe.max_network_retries = ask.base, ask.retries
    stripe.default_http_client = own = stripe.RequestsClient()
    try:
        return stripe.PaymentIntent.create(**_PARAMETERS, api_key=ask.credential, **_options(ask))
    finally:
        own.close()  # type: ignore[no-untyped-call]  # -- stripe's own
        stripe.api_base, stripe.default_http_client, stripe.max_network_retries = before


def _raw_request(ask: Ask) -> Any:
    own = stripe.RequestsClient()
    try:
        return _client(ask, own).raw_request("post", "/v1/payment_intents", **_PARAMETERS, **_options(ask))
    finally:
        own.close()  # type: ignore[no-untyped-call]  # -- stripe's own


# -- Resend's SDK ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _at_resend(ask: Ask) -> Iterator[None]:
    before = resend.api_url, resend.api_key
    resend.api_url, resend.api_key = ask.base, ask.credential
    try:
        yield
    finally:
        resend.api_url, resend.api_key = before


def _resend(ask: Ask) -> Any:
    with _at_resend(ask):
        return resend.Emails.send(_MAIL, _options(ask))  # type: ignore[arg-type]  # -- a dict


async def _aresend(ask: Ask) -> Any:
    with _at_resend(ask):
        return await resend.Emails.send_async(_MAIL, _options(ask))  # type: ignore[arg-type]  # -- a dict


# -- Twilio's SDK ------------------------------------------------------------------------------------


def _twilio(ask: Ask) -> Any:
    # It mounts its retries for https alone, and none for a POST.
    return pointed(TwilioClient(ACCOUNT, ask.credential), api=ask.base).messages.create(**MESSAGE)


async def _atwilio(ask: Ask) -> Any:
    async with AsyncTwilioHttpClient(max_retries=1 + ask.retries if ask.retries else None) as http_client:
        client = pointed(TwilioClient(ACCOUNT, ask.credential, http_client=http_client), api=ask.base)
        return await client.messages.create_async(**MESSAGE)


class _Stubborn(TwilioHttpClient):  # type: ignore[misc]  # -- the SDK has no types
    """A client of the user's own, which tries again."""

    def __init__(self, retries: int) -> None:
        super().__init__()
        self._left = retries

    def request(self, *args: Any, **options: Any) -> Any:
        """Send, and send again."""
        while (answer := super().request(*args, **options)).status_code >= 429 and self._left:
            self._left -= 1
        return answer


def _stubborn(ask: Ask) -> Any:
    return pointed(TwilioClient(ACCOUNT, ask.credential, http_client=_Stubborn(ask.retries)), api=ask.base).messages.create(**MESSAGE)


def _http_client(ask: Ask) -> Any:
    return _created(TwilioHttpClient().request("POST", f"{ask.base}{TWILIO.path}", data=_TEXT, auth=(ACCOUNT, ask.credential)))


async def _ahttp_client(ask: Ask) -> Any:
    async with AsyncTwilioHttpClient() as http_client:
        return _created(await http_client.request("POST", f"{ask.base}{TWILIO.path}", data=_TEXT, auth=(ACCOUNT, ask.credential)))


def _created(response: Any) -> Any:
    if response.status_code >= 300:
        raise TwilioRestException(response.status_code, "/")
    return response


def _twilio_raw(ask: Ask) -> Any:
    with _retrying(ask) as session:
        return _good(session.post(f"{ask.base}{TWILIO.path}", data=_TEXT, auth=(ACCOUNT, ask.credential)))


# -- raw clients -------------------------------------------------------------------------------------


def _raw(ask: Ask) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {ask.credential}", **({"Idempotency-Key": ask.key} if ask.key else {})}
    return {"url": f"{ask.base}/v1/payment_intents", "data": _FORM, "headers": headers}


def _retrying(ask: Ask) -> requests.Session:
    """Return a session as the web's snippets make it: every method is tried again."""
    session = requests.Session()
    retries = urllib3.Retry(ask.retries, status_forcelist=[429, 500, 503], allowed_methods=None, backoff_factor=0, raise_on_status=False)
    if ask.retries:
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
    return session


def _session(ask: Ask) -> Any:
    with _retrying(ask) as session:
        return _good(session.post(**_raw(ask)))


def _prepared(ask: Ask) -> Any:
    with _retrying(ask) as session:
        # As twilio's own client does it; the settings of the environment are asked for by hand.
        prepared = session.prepare_request(requests.Request("POST", **_raw(ask)))
        return _good(session.send(prepared, **session.merge_environment_settings(prepared.url, {}, stream=False, verify=None, cert=None)))


def _good(response: Any) -> Any:
    response.raise_for_status()
    return response.json()


def _httpx(library: Any, ask: Ask) -> Any:
    with library.Client(follow_redirects=True) as client:
        return _good(client.post(**_raw(ask)))


def _httpx_stream(library: Any, ask: Ask) -> Any:
    with library.Client(follow_redirects=True) as client, client.stream("POST", **_raw(ask)) as response:
        response.read()
        return _good(response)


async def _ahttpx(library: Any, ask: Ask) -> Any:
    async with library.AsyncClient(follow_redirects=True) as client:
        return _good(await client.post(**_raw(ask)))


async def _ahttpx_stream(library: Any, ask: Ask) -> Any:
    async with library.AsyncClient(follow_redirects=True) as client, client.stream("POST", **_raw(ask)) as response:
        await response.aread()
        return _good(response)


async def _aiohttp(ask: Ask) -> Any:
    async with aiohttp.ClientSession(trust_env=True) as session, session.post(**_raw(ask)) as response:
        response.raise_for_status()
        return await response.json()


async def _aiohttp_function(ask: Ask) -> Any:
    async with aiohttp.request("POST", **_raw(ask), raise_for_status=True) as response:
        return await response.json()


DOORS = (
    *(
        Door(f"stripe, {name}", STRIPE, call, follows, sees_hops=False, retries=True, has_key=True, knows_proxies=name != "aiohttp")
        for name, call, follows in (
            ("requests", _stripe(stripe.RequestsClient), True),
            ("httpx", _stripe(lambda: stripe.HTTPXClient(allow_sync_methods=True)), False),
            ("httpx asyncio", _astripe(stripe.HTTPXClient), False),
            ("httpx trio", _astripe(stripe.HTTPXClient, "trio"), False),
            ("aiohttp", _astripe(stripe.AIOHTTPClient), True),
            ("global api", _legacy, True),
            ("raw_request", _raw_request, True),
        )
    ),
    Door("stripe, urllib", STRIPE, _stripe(stripe.UrllibClient), False, sees_hops=False, retries=True, has_key=True, knows_proxies=False),
    Door("resend, requests", RESEND, _resend, sees_hops=False),
    Door("resend, httpx asyncio", RESEND, _run("asyncio", _aresend), follows=False, sees_hops=False, takes_any=True),
    Door("twilio, requests", TWILIO, _twilio, follows=False, sees_hops=False),
    Door("twilio, aiohttp", TWILIO, _run("asyncio", _atwilio), follows=False, sees_hops=False, retries=True, knows_proxies=False),
    Door("twilio, own client", TWILIO, _stubborn, follows=False, sees_hops=False, retries=True, repeats_429=True),
    Door("twilio, http_client", TWILIO, _http_client, follows=False),
    Door("twilio, async http_client", TWILIO, _run("asyncio", _ahttp_client), follows=False, knows_proxies=False),
    Door("twilio, raw requests", TWILIO, _twilio_raw, retries=True, repeats_429=True),
    Door("requests function", STRIPE, lambda ask: _good(requests.post(**_raw(ask)))),  # noqa: S113 -- on loopback
    Door("requests session", STRIPE, _session, retries=True, repeats_429=True),
    Door("requests prepared", STRIPE, _prepared, retries=True, repeats_429=True),
    *(
        Door(f"{name} {style}", STRIPE, call)
        for name, library in HTTPX.items()
        for style, call in (
            ("function", lambda ask, library=library: _good(library.post(**_raw(ask), follow_redirects=True))),
            ("client", functools.partial(_httpx, library)),
            ("stream", functools.partial(_httpx_stream, library)),
            ("asyncio", _run("asyncio", functools.partial(_ahttpx, library))),
            ("trio", _run("trio", functools.partial(_ahttpx, library))),
            ("async stream", _run("asyncio", functools.partial(_ahttpx_stream, library))),
        )
    ),
    Door("aiohttp session", STRIPE, _run("asyncio", _aiohttp)),
    Door("aiohttp function", STRIPE, _run("asyncio", _aiohttp_function), knows_proxies=False),
)
