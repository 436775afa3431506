"""The columns: the vendors' SDKs over each of their HTTP libraries, and raw clients of each vendor. A further one is a further line."""

from __future__ import annotations

import base64
import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import requests
import requests.adapters
import resend
import stripe
import urllib3
from twilio.http.async_http_client import AsyncTwilioHttpClient
from twilio.http.http_client import TwilioHttpClient

from tests.endings import PATIENCE, Ask, Client, Kind
from tests.endings.driving import crowded, crowded_sync, run
from tests.support_libraries import HTTPX
from tests.support_twilio_clients import MESSAGE, client_for
from tests.support_twilio_server import ACCOUNT, INVALID, TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MESSAGES = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
# A text to the US: keyguard adds what carriers add, the double does not.
STRIPE = Kind("stripe", "/v1/payment_intents", 1_000_000, 1_000_000, "sk_test_12345", wrong=400, declined=402, keeps_refusals=True)
TWILIO = Kind("twilio", _MESSAGES, 14_800, 8_300, TOKEN, wrong=400, declined=400, keeps_keys=False)
RESEND = Kind("resend", "/emails", 900, 900, "re_12345", wrong=422, declined=403)
KINDS = (STRIPE, TWILIO, RESEND)


# -- Stripe's SDK ------------------------------------------------------------------------------------


def _payment(ask: Ask) -> dict[str, Any]:
    method = "pm_card_chargeDeclined" if ask.is_declined else "pm_card_visa"
    if ask.intent:
        return {"payment_method": method}
    # Fifty cents are the least that Stripe takes.
    return {"amount": 10 if ask.is_wrong else 100, "currency": "usd", "confirm": True, "payment_method": method}


def _asked(ask: Ask, own: stripe.HTTPClient, suffix: str = "") -> Any:
    client = stripe.StripeClient(STRIPE.secret, base_addresses={"api": ask.base}, http_client=own, max_network_retries=ask.retries)
    method = getattr(client.v1.payment_intents, f"{'confirm' if ask.intent else 'create'}{suffix}")
    options = {"idempotency_key": ask.key} if ask.key else {}
    return method(*([ask.intent] if ask.intent else []), _payment(ask), options)


def _options(kind: Callable[..., stripe.HTTPClient], ask: Ask) -> dict[str, Any]:
    """Return what a client of the SDK is made with: the user's own session, which may try again unseen, where that is asked for."""
    if ask.hides:
        return {"session": _retrying(1) if kind is stripe.RequestsClient else aiohttp.ClientSession(middlewares=(_passing,))}
    # Spare httpx the reading of all root certificates where none is needed.
    return {"verify_ssl_certs": False} if kind is stripe.HTTPXClient and not ask.base.startswith("https") else {}


async def _passing(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    return await handler(request)


def _stripe(kind: Callable[..., stripe.HTTPClient], **more: Any) -> Callable[[Ask], int]:
    def call(ask: Ask) -> int:
        options = _options(kind, ask)
        own = kind(timeout=ask.timeout, **options, **more)
        try:
            _asked(ask, own)
        finally:
            own.close()  # type: ignore[no-untyped-call]  # -- stripe's own
            if "session" in options:
                options["session"].close()
        return 200

    return call


def _astripe(kind: Callable[..., stripe.HTTPClient]) -> Callable[[Ask], int]:
    async def call(ask: Ask) -> int:
        options = _options(kind, ask)
        own = kind(timeout=ask.timeout, **options)
        try:
            await _asked(ask, own, "_async")
        finally:
            await own.close_async()  # type: ignore[no-untyped-call]  # -- stripe's own
            if "session" in options:
                await options["session"].close()
        return 200

    return run(call)


# -- Twilio's SDK ------------------------------------------------------------------------------------


def _message(ask: Ask) -> dict[str, Any]:
    return MESSAGE | ({"to": INVALID} if ask.is_wrong else {})


def _twilio(ask: Ask) -> int:
    client_for(ask.base, http_client=TwilioHttpClient(timeout=ask.timeout)).messages.create(**_message(ask))
    return 200


async def _atwilio(ask: Ask) -> int:
    async with AsyncTwilioHttpClient(max_retries=1 + ask.retries if ask.retries else None) as http_client:
        client = client_for(ask.base, http_client=http_client)
        if ask.timeout == PATIENCE:
            await client.messages.create_async(**_message(ask))
        else:
            # The awaited client has no timeout of its own: it hands on what a request is given.
            await client.request_async("POST", f"{ask.base}{_MESSAGES}", data=_text(ask), timeout=ask.timeout)
    return 200


# -- Resend's SDK ------------------------------------------------------------------------------------


def _mail(ask: Ask) -> Any:
    return {"from": "me@example.com", "to": ["ann@example.com"], "html": "h", **({} if ask.is_wrong else {"subject": "s"})}


@contextmanager
def _at_resend(ask: Ask) -> Iterator[Any]:
    """Point the SDK, whose settings are the module's, to a base; yields a call's options."""
    module: Any = resend
    names = ("api_url", "api_key", "default_http_client", "default_async_http_client")
    before = {name: getattr(module, name) for name in names}
    seconds: Any = ask.timeout
    here = dict(zip(names, (ask.base, RESEND.secret, resend.RequestsClient(seconds), resend.HTTPXClient(seconds)), strict=True))
    for name, value in here.items():
        setattr(module, name, value)
    try:
        yield {"idempotency_key": ask.key} if ask.key else {}
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def _resend(ask: Ask) -> int:
    with _at_resend(ask) as options:
        resend.Emails.send(_mail(ask), options)
    return 200


async def _aresend(ask: Ask) -> int:
    with _at_resend(ask) as options:
        await resend.Emails.send_async(_mail(ask), options)
    return 200


# -- raw clients -------------------------------------------------------------------------------------


def _text(ask: Ask) -> dict[str, str]:
    return {"To": _message(ask)["to"], "From": MESSAGE["from_"], "Body": MESSAGE["body"]}


def _raw(kind: Kind, ask: Ask) -> dict[str, Any]:
    """Return a request as each of the libraries takes it."""
    basic = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    headers = {"Authorization": f"Basic {basic}" if kind is TWILIO else f"Bearer {kind.secret}"}
    if ask.key:
        headers["Idempotency-Key"] = ask.key
    path = f"{kind.path}/{ask.intent}/confirm" if ask.intent else kind.path
    form = {name: str(value).lower() if value is True else str(value) for name, value in _payment(ask).items()}
    body = {"json": _mail(ask)} if kind is RESEND else {"data": _text(ask) if kind is TWILIO else form}
    return {"url": f"{ask.base}{path}", "headers": headers, **body}


def _retrying(retries: int) -> requests.Session:
    """Return a session as the web's snippets make it: every method is tried again."""
    session = requests.Session()
    if retries:
        tries = urllib3.Retry(retries, allowed_methods=None, backoff_factor=0)
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=tries))
    return session


def _requests(kind: Kind, ask: Ask) -> int:
    with _retrying(ask.retries) as session:
        return session.post(**_raw(kind, ask), timeout=ask.timeout).status_code


def _settings(library: Any, ask: Ask) -> dict[str, Any]:
    limits = {} if ask.pool is None else {"limits": library.Limits(max_connections=1)}
    timeout = library.Timeout(ask.timeout, pool=ask.timeout if ask.pool is None else ask.pool)
    return {"timeout": timeout, "verify": ask.base.startswith("https"), **limits}


class _Hiding:
    """A transport of the user's own around the library's, which may try again unseen."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __enter__(self) -> Any:
        return self._inner.__enter__()

    def __exit__(self, *args: object) -> Any:
        return self._inner.__exit__(*args)

    async def __aenter__(self) -> Any:
        return await self._inner.__aenter__()

    async def __aexit__(self, *args: object) -> Any:
        return await self._inner.__aexit__(*args)


def _transport(ask: Ask, own: Callable[[], Any]) -> dict[str, Any]:
    return {"transport": _Hiding(own())} if ask.hides else {}


def _httpx(library: Any, kind: Kind, ask: Ask) -> int:
    with library.Client(**_settings(library, ask), **_transport(ask, library.HTTPTransport)) as client:
        return crowded_sync(ask, lambda: int(client.post(**_raw(kind, ask)).status_code))


async def _ahttpx(library: Any, kind: Kind, ask: Ask) -> int:
    async with library.AsyncClient(**_settings(library, ask), **_transport(ask, library.AsyncHTTPTransport)) as client:

        async def post() -> int:
            return int((await client.post(**_raw(kind, ask))).status_code)

        return await crowded(ask, post)


async def _aiohttp(kind: Kind, ask: Ask) -> int:
    waiting = aiohttp.ClientTimeout(total=None, sock_connect=ask.timeout, sock_read=ask.timeout, connect=ask.pool)
    connector = aiohttp.TCPConnector(limit=100 if ask.pool is None else 1)
    async with aiohttp.ClientSession(timeout=waiting, connector=connector) as session:

        async def post() -> int:
            async with session.post(**_raw(kind, ask)) as response:
                await response.read()
                return response.status

        return await crowded(ask, post)


_OWN_POOL = "each call has a client of its own, and with it a pool"
_NO_SETTING = "it has no setting for the size of its pool"
_NO_WAITING = "where its pool is full, it makes one more connection"
_UNMADE = "it tries again only where no connection was made"
_FOR_HTTPS = "it mounts its retries for https alone, and none for a POST"


def _sdk(name: str, kind: Kind, call: Callable[[Ask], int], no_pool: str, **more: Any) -> Client:
    return Client(name, kind, call, is_sdk=True, no_pool=no_pool, **more)


def _of_httpx(name: str, kind: Kind) -> tuple[Client, Client]:
    call, acall = functools.partial(_httpx, HTTPX[name], kind), functools.partial(_ahttpx, HTTPX[name], kind)
    return (
        Client(f"{name} to {kind.name}", kind, call, once=_UNMADE, hides=True),
        Client(f"{name} async to {kind.name}", kind, run(acall), is_async=True, once=_UNMADE, hides=True),
    )


CLIENTS = (
    _sdk("stripe requests", STRIPE, _stripe(stripe.RequestsClient), _NO_WAITING, hides=True),
    _sdk("stripe httpx", STRIPE, _stripe(stripe.HTTPXClient, allow_sync_methods=True), _NO_SETTING),
    _sdk("stripe httpx async", STRIPE, _astripe(stripe.HTTPXClient), _NO_SETTING, is_async=True),
    _sdk("stripe aiohttp", STRIPE, _astripe(stripe.AIOHTTPClient), _NO_SETTING, is_async=True, times_whole=True, hides=True),
    _sdk("twilio", TWILIO, _twilio, _NO_WAITING, once=_FOR_HTTPS),
    _sdk("twilio async", TWILIO, run(_atwilio), _NO_SETTING, is_async=True, again="5xx"),
    _sdk("resend", RESEND, _resend, _OWN_POOL, once="it tries once"),
    _sdk("resend async", RESEND, run(_aresend), _OWN_POOL, is_async=True, once="it tries once"),
    *(client for name in HTTPX for kind in KINDS for client in _of_httpx(name, kind)),
    *(Client(f"requests to {kind.name}", kind, functools.partial(_requests, kind), no_pool=_NO_WAITING) for kind in KINDS),
    *(
        Client(f"aiohttp to {kind.name}", kind, run(functools.partial(_aiohttp, kind)), is_async=True, once="it tries a POST once")
        for kind in KINDS
    ),
)
