"""The routes of those who hold an admin token: issue, show, change, revoke, audit. What a key may do is the ledger's to keep."""

from __future__ import annotations

import json
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from keyguard.cli.figures import row
from keyguard.drivers import whole
from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.model import to_money
from keyguard.proxy.denials import denial, plain
from keyguard.proxy.issuing import read_json, wanted
from keyguard.proxy.limits import ClientGone, read_body
from keyguard.proxy.routing import Misdirected
from keyguard.proxy.showing import CAPABILITIES, LAST_ROW, MOST_ROWS, day_of, handle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from keyguard.model import Policy, VaultKey
    from keyguard.proxy.admins import Admins
    from keyguard.proxy.backend import MintedBackend
    from keyguard.proxy.limits import Room
    from keyguard.proxy.secrets import Secrets
    from keyguard.proxy.settings import ProxySettings

    Answering = Callable[[Request, str], Awaitable[Response]]

_CODES = {400: "bad_request", 401: "unauthorized", 404: "not_found", 408: "timeout", 413: "too_large", 422: "invalid", 503: "busy"}


class Vault:
    """
    The routes.

    Args:
        backend: The ledger's keeper.
        admins: Who may.
        secrets: For which vendors keys can be issued.
        settings: Limits.
        room: As of the forwarder.
    """

    def __init__(self, backend: MintedBackend, admins: Admins, secrets: Secrets, settings: ProxySettings, room: Room) -> None:
        self._backend, self._admins, self._secrets, self._settings, self._room = backend, admins, secrets, settings, room

    def routes(self) -> list[Route]:
        """Return them, in both dialects."""
        found: list[Route] = []
        for keys in ("/vault/keys", "/v1/keys"):
            one = keys + "/{key_id}"
            found += [
                Route(keys, self._guarded(self._issue), methods=["POST"]),
                Route(keys, self._guarded(self._list), methods=["GET"]),
                Route(keys, self._guarded(self._revoke_many), methods=["DELETE"]),
                Route(one, self._guarded(self._show), methods=["GET"]),
                Route(one, self._guarded(self._change), methods=["PATCH"]),
                Route(one, self._guarded(self._revoke), methods=["DELETE"]),
            ]
        return [*found, Route("/audit", self._guarded(self._audit), methods=["GET"])]

    def _guarded(self, answering: Answering) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            who = self._admins.named(request.headers.get("authorization", ""))
            if who is None:
                response = plain(401, "unauthorized", "this needs an admin token: Authorization: Bearer ... (a vault key is none)")
                return _closing(response, authenticate=True)
            try:
                return await answering(request, who)
            except Misdirected as error:
                return _closing(plain(error.status, _CODES[error.status], str(error), may_retry=error.status == 503))
            except ClientGone:
                return Response(status_code=400)
            except ConfigurationError as error:
                return plain(404, "not_found", str(error))
            except KeyguardError as error:
                return denial(error, may_retry=True)

        return guarded

    async def _body(self, request: Request) -> dict[str, Any]:
        body = await read_body(request.receive, request.scope["headers"], self._settings, self._room)
        self._room.give(len(body))
        return read_json(body)

    async def _issue(self, request: Request, who: str) -> Response:
        asked = wanted(await self._body(request), self._secrets.vendors, run_id=request.headers.get("x-agent-run-id"))
        said, status = await whole(partial(self._issued, asked.policy, asked.run_id, who))
        return JSONResponse(said, status, headers={"Cache-Control": "no-store"})

    def _issued(self, policy: Policy, run_id: str | None, who: str) -> tuple[dict[str, Any], int]:
        is_new = run_id is None or self._backend.ledger.key(run_id=run_id) is None
        key, warnings = self._backend.issue(policy, run_id)
        token = self._backend.ledger.mint(key.key_id, by=who)
        said = {
            "vault_key": token,
            "token": token,
            **handle(key, self._backend.ledger.now()),
            "warnings": list(warnings),
            "capabilities": CAPABILITIES,
        }
        return said, 201 if is_new else 200

    async def _list(self, request: Request, _who: str) -> Response:
        limit = _number(request, "limit", 50, most=MOST_ROWS)
        ledger = self._backend.ledger

        def read() -> list[dict[str, Any]]:
            self._backend.sweep(always=True)
            now = ledger.now()
            return [{**handle(key, now), **row(key, usage, now)} for key, usage in ledger.runs(limit)]

        return JSONResponse({"keys": await whole(read)})

    async def _show(self, request: Request, _who: str) -> Response:
        return JSONResponse(await whole(partial(self._shown, self._key_id(request))))

    def _shown(self, key_id: str) -> dict[str, Any]:
        key = self._known(key_id)
        usage = self._backend.usage(key.scope)
        assert usage is not None, "a key has a budget"
        day = self._backend.ledger.usage(f"policy:{key.policy_name}") if key.policy.daily_usd_cap is not None else None
        now = self._backend.ledger.now()
        return {**handle(key, now), **row(key, usage, now), "day": None if day is None else day_of(day), "capabilities": CAPABILITIES}

    async def _change(self, request: Request, who: str) -> Response:
        body = await self._body(request)
        if set(body) != {"run_usd_cap"}:
            raise Misdirected("run_usd_cap, in US dollars, is what can be changed of a key", status=422)
        try:
            cap = to_money(body["run_usd_cap"])
        except ValueError as error:
            raise Misdirected(f"run_usd_cap: {error}", status=422) from None
        if not cap:
            raise Misdirected("run_usd_cap: an amount above 0 US dollars; to allow nothing, revoke the key", status=422)
        key_id = self._key_id(request)

        def change() -> dict[str, Any]:
            self._known(key_id)
            self._backend.ledger.raise_cap(None, cap, by=who, key_id=key_id)
            return self._shown(key_id)

        return JSONResponse(await whole(change))

    async def _revoke(self, request: Request, who: str) -> Response:
        key_id = self._key_id(request)

        def revoke() -> dict[str, Any]:
            self._known(key_id)
            return {
                "revoked": self._backend.ledger.revoke(key_id=key_id, by=who),
                **handle(self._known(key_id), self._backend.ledger.now()),
            }

        return JSONResponse(await whole(revoke))

    async def _revoke_many(self, request: Request, who: str) -> Response:
        named = {"run_id": "run_id", "agent_run_id": "run_id", "label": "label", "agent_run_label": "label", "policy": "policy"}
        given = [(named.get(name), value) for name, value in request.query_params.multi_items()]
        if len(given) != 1 or given[0][0] is None or not given[0][1]:
            raise Misdirected(f"say which keys, by one of {', '.join(named)}", status=422)
        target: dict[str, Any] = {given[0][0]: given[0][1]}
        count = await whole(partial(self._backend.ledger.revoke, by=who, **target))
        if not count:
            raise Misdirected(f"no key of that {next(iter(target))} is here", status=404)
        return JSONResponse({"revoked": count, **target})

    async def _audit(self, request: Request, _who: str) -> Response:
        after, limit = _number(request, "after", 0, most=LAST_ROW, least=0), _number(request, "limit", 100, most=MOST_ROWS)
        named = {name: request.query_params[name] for name in ("key_id", "run_id") if name in request.query_params}
        if len(named) > 1 or "" in named.values():
            # An empty name is no wish to see everybody's.
            raise Misdirected("key_id, run_id: one of them at most, and not empty", status=422)
        scope = await whole(partial(self._scope, **named))

        def read() -> list[dict[str, Any]]:
            return list(islice(self._backend.ledger.entries(scope, after=after), limit))

        entries = [
            {name: value.hex() if isinstance(value, bytes) else value for name, value in entry.items()} for entry in await whole(read)
        ]
        return Response(
            json.dumps({"entries": entries, "next": entries[-1]["seq"] if len(entries) == limit else None}), media_type="application/json"
        )

    def _scope(self, key_id: str | None = None, run_id: str | None = None) -> str | None:
        return self._known(key_id).scope if key_id else f"run:{run_id}" if run_id else None

    def _known(self, key_id: str) -> VaultKey:
        key = self._backend.ledger.key(key_id=key_id)
        if key is None:
            raise ConfigurationError(f"there is no key {key_id[:80]!r} here")
        return key

    @staticmethod
    def _key_id(request: Request) -> str:
        found: str = request.path_params["key_id"]
        return found


def _number(request: Request, name: str, default: int, *, most: int, least: int = 1) -> int:
    said = request.query_params.get(name)
    if said is None:
        return default
    if not said.isascii() or not said.isdigit() or not least <= int(said) <= most:
        raise Misdirected(f"{name}: a number from {least} to {most}", status=422)
    return int(said)


def _closing(response: Response, *, authenticate: bool = False) -> Response:
    """Let a connection end of whose request not all may have been read."""
    response.headers["connection"] = "close"
    if authenticate:
        response.headers["www-authenticate"] = 'Bearer realm="keyguard"'
    return response
