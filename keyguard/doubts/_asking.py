"""How vendors are asked: by GET alone, over https or at a stand-in that the settings list, with the secret of the environment.

Keyguard's own traffic: it passes every seam. A question is asked once in a pass; a secret goes to no host that an answer names.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import httpx

from keyguard import context
from keyguard.errors import ConfigurationError, ProxyUnavailable
from keyguard.identity import principal_of
from keyguard.model import TOKEN_PREFIX, Reply
from keyguard.vendors import vendor_named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from keyguard.doubts._through import Through
    from keyguard.model import Doubt, Policy
    from keyguard.vendors import Inquiring
    from keyguard.vendors._inquiry import Asking

_T = TypeVar("_T")
_TIMEOUT = 30.0  # seconds
_TOO_MANY = 429
_TRIES = 3
# Resend lets a team ask twice a second, Stripe a test account 25 times; whoever asks for longer pauses is asked another time.
_LONGEST_PAUSE = 10.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1", "[::1]"})


class Questions:
    """
    One pass of questions.

    Args:
        hosts: Stand-ins and proxies: host[:port] → vendor.
        policy_of: Returns the policy of a key, whose `secret` names where the vendor's real one is.
        environ: Where the secrets are.
        sleep: Waits some seconds.
        seconds_left: How long questions may take from now on; None = as long as they do.
        through: The proxies that calls went through; None = there are none.
        bases: Where a vendor is asked instead of at its own address: vendor → URL.
    """

    def __init__(
        self,
        hosts: Mapping[str, str],
        policy_of: Callable[[str], Policy | None],
        *,
        environ: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        seconds_left: Callable[[], float] | None = None,
        through: Through | None = None,
        bases: Mapping[str, str] | None = None,
    ) -> None:
        self._through, self._bases = through, bases or {}
        self._hosts, self._policy_of, self._sleep = hosts, policy_of, sleep
        self._seconds_left = seconds_left or (lambda: _TIMEOUT)
        self._environ: Mapping[str, str] = os.environ if environ is None else environ
        self._clients: dict[str, httpx.Client] = {}
        self._answers: dict[tuple[str, str, str, str], Reply] = {}

    def __enter__(self) -> Questions:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        for client in self._clients.values():
            client.close()
        if self._through is not None:
            self._through.__exit__(None, None, None)

    def is_owner(self, doubt: Doubt, inquiring: Inquiring) -> bool:
        """
        Say whether questions about a doubt show what its call did, or would have done.

        Raises:
            ConfigurationError: there is no secret to ask with; says where to put it.
        """
        if self._is_through(doubt):
            # Whose the secret is that the proxy keeps, the proxy answers for.
            return bool(doubt.account) or not inquiring.is_by_account
        _, secret = self._secret(doubt)
        if inquiring.is_by_account:
            return bool(doubt.account)
        _, owner = inquiring.signed(doubt, secret, self._environ)
        return doubt.principal == principal_of(owner)

    def owners(self, doubt: Doubt) -> frozenset[str]:
        """
        Return the principals by whom the identity of a call may be named: who sent it, or the variable that a vault token stood for.

        Raises:
            ConfigurationError: as `is_owner`.
        """
        if self._is_through(doubt):
            return frozenset({doubt.principal})
        return frozenset({doubt.principal, principal_of(f"env:{self._secret(doubt)[0]}")})

    def _is_through(self, doubt: Doubt) -> bool:
        return self._through is not None and self._through.goes(doubt)

    def drive(self, asking: Asking[_T], doubt: Doubt, inquiring: Inquiring) -> _T:
        """
        Ask what a plug wants to know.

        Raises:
            ConfigurationError: there is no secret to ask with, or no host; says what to set.
        """
        answer: Any = None
        while True:
            try:
                question = asking.send(answer)
            except StopIteration as stop:
                found: _T = stop.value
                return found
            answer = self._answer(question.path, doubt, inquiring)

    def _answer(self, path: str, doubt: Doubt, inquiring: Inquiring) -> Reply:
        try:
            way = None if self._through is None else self._through.way(doubt, inquiring.base)
        except ProxyUnavailable:
            return Reply(0)
        secret = self._secret(doubt)[1] if way is None else way.token
        headers, owner = inquiring.signed(doubt, secret, self._environ)
        known = (doubt.vendor, doubt.account, f"{owner}/{secret}" if way is not None else owner, path)
        if known not in self._answers:
            base = self._bases.get(doubt.vendor) if way is None else way.base
            client = self.client(doubt.vendor, inquiring) if base is None else self._client_at(base)
            self._answers[known] = self._asked(path, headers, client)
        return self._answers[known]

    def _asked(self, path: str, headers: Mapping[str, str], client: httpx.Client) -> Reply:
        for _ in range(_TRIES - 1):
            found = self._got(client, path, headers)
            pause = _pause(found.headers.get("retry-after", "1"))
            if found.status != _TOO_MANY or pause > min(_LONGEST_PAUSE, self._seconds_left()):
                return found
            self._sleep(pause)
        return self._got(client, path, headers)

    def _got(self, client: httpx.Client, path: str, headers: Mapping[str, str]) -> Reply:
        """Ask once; without any answer the status is 0."""
        seconds = min(_TIMEOUT, self._seconds_left())
        if seconds <= 0:
            return Reply(0)
        try:
            with context.own_traffic():
                found = client.get(path, headers=dict(headers), timeout=seconds)
        except httpx.HTTPError:
            return Reply(0)
        return Reply(found.status_code, {name.lower(): value for name, value in found.headers.items()}, found.content)

    def _client_at(self, base: str) -> httpx.Client:
        """Return the client by which a proxy is asked, or a stand-in."""
        if base not in self._clients:
            is_here = urlsplit(base).hostname in _LOOPBACK
            self._clients[base] = httpx.Client(base_url=base, timeout=_TIMEOUT, trust_env=not is_here)
        return self._clients[base]

    def client(self, vendor: str, inquiring: Inquiring) -> httpx.Client:
        """
        Return the client by which a vendor is asked: of its stand-in, where one is listed.

        Raises:
            ConfigurationError: several are.
        """
        if vendor not in self._clients:
            listed = [host for host, name in self._hosts.items() if name == vendor]
            if len(listed) > 1:
                raise ConfigurationError(
                    f"KEYGUARD_VENDOR_HOSTS lists {len(listed)} hosts for {vendor} ({', '.join(listed)}), and nobody knows "
                    "which of them the call went to: leave the one to be asked"
                )
            base, is_here = inquiring.base, False
            if listed:
                is_here = listed[0].rpartition(":")[0] in _LOOPBACK or listed[0] in _LOOPBACK
                base = f"{'http' if is_here else 'https'}://{listed[0]}"
            # A proxy of the environment must not get what is for this machine.
            self._clients[vendor] = httpx.Client(base_url=base, timeout=_TIMEOUT, trust_env=not is_here)
        return self._clients[vendor]

    def _secret(self, doubt: Doubt) -> tuple[str, str]:
        """Return the name of the environment variable with the vendor's secret, and the secret."""
        policy = self._policy_of(doubt.key_id)
        name = policy.secret.partition(":")[2] if policy is not None and policy.secret else vendor_named(doubt.vendor).secret_env
        secret = self._environ.get(name, "")
        if not secret or secret.startswith(TOKEN_PREFIX):
            raise ConfigurationError(f"set {name}: with the secret that the call was sent with")
        return name, secret


def _pause(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        # A date, which is surely later.
        return float("inf")
