"""The requests seam: vendors by host, each request and each try where it leaves, foreign hosts untouched."""

from __future__ import annotations

import base64
import copy
import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests
import requests.adapters
import requests.auth
import urllib3

import keyguard
from keyguard.errors import EndpointNotAllowed
from keyguard.patches.requests import patch
from tests.doors.vendors import STRIPE, Vendor
from tests.support_json_server import Answer, JsonServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


USD = 1_000_000  # micro-USD
FORM = {"amount": "100", "currency": "usd", "confirm": "true"}
AUTH = {"Authorization": "Bearer sk_test_real"}
SETTLED, DOUBT, NOTHING = (USD, 0, 0), (0, 0, USD), (0, 0, 0)


@pytest.fixture
def vendor() -> Vendor:
    """What Stripe executed."""
    return Vendor(STRIPE)


@pytest.fixture
def server(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> Iterator[JsonServer]:
    """Its loopback server, listed as Stripe's own."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_test_real")
    with JsonServer(vendor.answer) as found:
        monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={found.host}")
        yield found


@pytest.fixture
def nobody() -> Iterator[JsonServer]:
    """A host that is no vendor's."""
    with JsonServer(lambda _: Answer(200, {})) as found:
        yield found


@pytest.fixture
def url(server: JsonServer) -> str:
    """Where a charge goes."""
    return f"{server.url}/v1/payment_intents"


@pytest.fixture
def run(server: JsonServer) -> Iterator[Callable[..., keyguard.Installation]]:
    """Install a run's guard."""
    with keyguard.run("run-1"):
        yield lambda **policy: keyguard.install(**{"run_usd_cap": 10, **policy})


def counted(installed: keyguard.Installation) -> tuple[int, int, int]:
    """Return spent, held and doubt in micro-USD."""
    usage = installed.usage()
    return usage.spent, usage.held, usage.doubt


def retrying(total: int = 2, **how: Any) -> requests.Session:
    """Return a session that tries every method again."""
    session = requests.Session()
    retries = urllib3.Retry(total, **{"status_forcelist": [500, 503], "allowed_methods": None, "backoff_factor": 0, **how})
    session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
    return session


# -- what is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [{"data": FORM}, {"data": "amount=100&currency=usd&confirm=true"}, {"data": b"amount=100&currency=usd&confirm=true"}]
)
def test_a_charge_is_settled_from_its_answer(run: Any, url: str, vendor: Vendor, body: dict[str, Any]) -> None:
    """A form in any of its writings; the answer is the caller's, read as ever."""
    installed = run()
    response = requests.post(url, headers=AUTH | {"Content-Type": "application/x-www-form-urlencoded"}, timeout=9, **body)

    assert type(response) is requests.Response
    assert response.json()["id"] == "pi_1"
    assert (counted(installed), vendor.executed) == (SETTLED, 1)


def test_a_body_that_only_the_wire_reads_is_refused_and_not_consumed(run: Any, url: str, server: JsonServer) -> None:
    """A generator's amount is not known: nothing is sent, nothing is taken from it."""
    run()
    body = iter([b"amount=100"])
    with pytest.raises(keyguard.errors.Refused, match="could not be read"):
        requests.post(url, data=body, headers=AUTH, timeout=9)

    assert list(body) == [b"amount=100"]
    assert server.requests == []


def test_a_body_that_its_header_cuts_is_not_known(run: Any, url: str, server: JsonServer) -> None:
    """A Content-Length below the body's makes the vendor read another call than was written."""
    run()
    prepared = requests.Request("POST", url, data=FORM, headers=AUTH).prepare()
    prepared.headers["Content-Length"] = "10"
    with pytest.raises(keyguard.errors.Refused, match="could not be read"), requests.Session() as session:
        session.send(prepared)

    assert server.requests == []


def test_the_key_in_the_address_is_a_credential(run: Any, url: str, server: JsonServer) -> None:
    """`https://key@host`, as curl users write it: a token there is replaced, and the host is read behind it."""
    installed = run()
    requests.post(url.replace("://", f"://{installed.key.token}:@"), data=FORM, timeout=9)

    assert base64.b64decode(server.requests[0].headers["authorization"].removeprefix("Basic ")) == b"sk_test_real:"
    assert counted(installed) == SETTLED


def test_a_netrc_entry_is_a_credential(run: Any, url: str, server: JsonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What requests takes from a file is replaced where it is a token."""
    installed = run()
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {installed.key.token} password x\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    requests.post(url, data=FORM, timeout=9)

    assert base64.b64decode(server.requests[0].headers["authorization"].removeprefix("Basic ")) == b"sk_test_real:x"


def test_a_listed_proxys_prefix_is_not_the_vendors_path(run: Any, server: JsonServer, vendor: Vendor) -> None:
    """Behind `http://proxy/stripe` a raw call is the vendor's, and a question goes behind the prefix too."""
    installed = run()
    server.scripted = [
        Answer(200, {**STRIPE.answer(9), "status": "requires_confirmation", "amount_received": 0}),
        Answer(200, STRIPE.answer(9)),
    ]
    requests.post(f"{server.url}/stripe/v1/payment_intents/pi_9/confirm", headers=AUTH | {"Idempotency-Key": "k"}, timeout=9)

    assert [arrived.path for arrived in server.requests] == ["/stripe/v1/payment_intents/pi_9", "/stripe/v1/payment_intents/pi_9/confirm"]
    assert "idempotency-key" not in server.requests[0].headers
    assert (counted(installed), installed.usage().calls) == (SETTLED, 1)


# -- tries and hops ----------------------------------------------------------------------------------


def test_a_retry_mounted_by_the_user_is_decided_try_by_try(run: Any, url: str, server: JsonServer, vendor: Vendor) -> None:
    """urllib3 would send a charge again unseen; without an idempotency key each send has its own reservation, and the caller's history."""
    installed = run()
    server.scripted = [Answer(503, {}), Answer(500, {})]
    with retrying() as session:
        response = session.post(url, data=FORM, headers=AUTH)

    assert (response.json()["id"], len(server.requests)) == ("pi_1", 3)
    assert response.raw.retries is not None
    assert [tried.status for tried in response.raw.retries.history] == [503, 500]
    assert counted(installed) == (USD, 0, 2 * USD)


def test_an_answer_that_was_lost_before_a_retry_is_in_doubt(run: Any, url: str, server: JsonServer) -> None:
    """Hung up on, then answered: one may have been executed, the other was."""
    installed = run()
    server.scripted = [Answer(0)]
    with retrying() as session:
        session.post(url, data=FORM, headers=AUTH)

    assert counted(installed) == (USD, 0, USD)


def test_a_retry_that_gives_up_raises_what_it_ever_did(run: Any, url: str, server: JsonServer) -> None:
    """The last error is requests' own."""
    installed = run()
    server.scripted = [Answer(503, {})] * 3
    with retrying() as session, pytest.raises(requests.exceptions.RetryError, match="too many 503 error responses"):
        session.post(url, data=FORM, headers=AUTH)

    assert (counted(installed), len(server.requests)) == ((0, 0, 3 * USD), 3)


def test_tries_that_never_connected_are_urllib3s_own_and_prove_it(run: Any, url: str, server: JsonServer) -> None:
    """Refused three times: nothing left, however often it was tried; the money is given back."""
    installed = run()
    server.__exit__()
    try:
        with retrying() as session, pytest.raises(requests.ConnectionError) as raised:
            session.post(url, data=FORM, headers=AUTH)
    finally:
        server.__enter__()

    assert "Max retries exceeded" in str(raised.value)
    assert (counted(installed), installed.usage().calls) == (NOTHING, 0)


def test_a_users_own_kind_of_retry_goes_on_working(run: Any, url: str, server: JsonServer) -> None:
    """What it counts and keeps from try to try is kept."""

    class Counting(urllib3.Retry):
        waited: list[int] = []  # noqa: RUF012 -- one for all tries

        def sleep(self, response: Any = None) -> None:
            self.waited.append(response.status)

    installed = run()
    server.scripted = [Answer(503, {}), Answer(503, {})]
    with requests.Session() as session:
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=Counting(3, status_forcelist=[503], allowed_methods=None)))
        response = session.post(url, data=FORM, headers=AUTH | {"Idempotency-Key": "k"})

    assert (Counting.waited, isinstance(response.raw.retries, Counting)) == ([503, 503], True)
    assert counted(installed) == SETTLED


def test_a_number_of_retries_that_was_set_later_is_watched_too(run: Any, server: JsonServer) -> None:
    """urllib3 makes its own Retry of it, by which a DELETE is sent again."""
    installed = run(unpriced="1.00")
    server.scripted = [Answer(0), Answer(200, {})]
    with requests.Session() as session:
        adapter: Any = session.get_adapter("http://")
        adapter.max_retries = 2
        session.delete(f"{server.url}/v1/invented/x_1", headers=AUTH)

    assert (len(server.requests), counted(installed)) == (2, (USD, 0, USD))


def test_a_file_is_sent_again_from_its_beginning(run: Any, server: JsonServer) -> None:
    """A body that was read by the first try is whole in the second."""
    run(unpriced="1.00")
    server.scripted = [Answer(503, {})]
    with retrying() as session:
        session.post(f"{server.url}/v1/invented", data=io.BytesIO(b'{"a": 1}'), headers=AUTH)

    assert [arrived.document for arrived in server.requests] == [{"a": 1}, {"a": 1}]


def test_a_foreign_hosts_retries_are_nobodys_business(run: Any, nobody: JsonServer) -> None:
    """The same adapter, another host: it is tried again by urllib3 itself."""
    installed = run()
    nobody.scripted = [Answer(503, {}), Answer(0)]
    with retrying() as session:
        response = session.post(f"{nobody.url}/x", data=FORM)

    assert (response.status_code, len(nobody.requests)) == (200, 3)
    assert installed.usage().calls == 0


def test_digest_asks_again_under_one_charge(run: Any, url: str, server: JsonServer, vendor: Vendor) -> None:
    """A 401 gives its money back; what the hook then sends through the connection is decided too."""
    installed = run()
    server.scripted = [Answer(401, {}, {"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})]
    response = requests.post(url, data=FORM, auth=requests.auth.HTTPDigestAuth("u", "p"), timeout=9)

    assert (response.status_code, len(response.history), len(server.requests)) == (200, 1, 2)
    assert (counted(installed), vendor.executed) == (SETTLED, 1)


@pytest.mark.parametrize("way", ["connection", "session"])
def test_what_a_hook_sends_again_is_a_charge_of_its_own(run: Any, url: str, server: JsonServer, way: str) -> None:
    """After a 500 a hook of the user's repeats the request, and then a second time above the cap: refused as itself, not sent."""
    installed = run(run_usd_cap=2)
    server.scripted = [Answer(500, {})] * 3
    with requests.Session() as session:

        def again(response: Any, *_: Any, **kwargs: Any) -> Any:
            if response.status_code < 500:
                return response
            sender = response.connection if way == "connection" else session
            request = response.request.copy()
            request.hooks = {"response": [again]} if way == "session" else {"response": []}
            found = sender.send(request, **kwargs)
            return again(found, **kwargs) if way == "connection" else found

        with pytest.raises(keyguard.SpendCapExceeded):
            session.post(url, data=FORM, headers=AUTH, hooks={"response": again})

    # Held while the answers of the failed ones are still in hand.
    assert (sum(counted(installed)), len(server.requests)) == (2 * USD, 2)


def test_a_session_of_the_users_own_class_is_guarded(run: Any, url: str, server: JsonServer) -> None:
    """It sends twice by its own `send`, and each is a charge; its redirects go through it too."""

    class Twice(requests.Session):
        def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
            super().send(request, **kwargs)
            return super().send(request, **kwargs)

    installed = run()
    with Twice() as session:
        session.post(url, data=FORM, headers=AUTH)

    assert (counted(installed), len(server.requests)) == ((2 * USD, 0, 0), 2)


def test_an_adapter_of_the_users_own_is_guarded_and_its_errors_prove_nothing(run: Any, url: str) -> None:
    """Mounted on a prefix; it may have tried before, so a refused connection of its is in doubt."""

    class Own(requests.adapters.BaseAdapter):
        def send(self, *_: Any, **__: Any) -> Any:
            raise requests.ConnectionError(ConnectionRefusedError())

        def close(self) -> None:
            pass

    installed = run()
    with requests.Session() as session:
        session.mount(url, Own())
        with pytest.raises(requests.ConnectionError):
            session.post(url, data=FORM, headers=AUTH)

    assert counted(installed) == DOUBT


def test_an_answer_that_an_adapter_has_read_already_is_settled(run: Any, url: str) -> None:
    """As adapters that answer from memory make them: without a stream, or with one that nobody needs to read."""

    class Memory(requests.adapters.BaseAdapter):
        def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> Any:
            response = requests.Response()
            response.status_code, response.request, response.url = 200, request, str(request.url)
            response._content = json.dumps(STRIPE.answer(1)).encode()
            return response

        def close(self) -> None:
            pass

    installed = run()
    with requests.Session() as session:
        session.mount("http://", Memory())
        session.post(url, data=FORM, headers=AUTH)

    assert counted(installed) == SETTLED


def test_a_client_made_before_install_is_guarded(run: Any, url: str) -> None:
    """The seam is on the class."""
    with requests.Session() as session:
        installed = run()
        session.post(url, data=FORM, headers=AUTH)

    assert counted(installed) == SETTLED


# -- answers as ever ---------------------------------------------------------------------------------


def test_an_answer_can_be_pickled_and_copied(run: Any, url: str) -> None:
    """Also one whose body is the caller's to read; its `raw` is urllib3's for whoever asks."""
    installed = run()
    with requests.Session() as session:
        response = session.post(url, data=FORM, headers=AUTH, stream=True)

        assert isinstance(response.raw, urllib3.HTTPResponse)
        copies = [pickle.loads(pickle.dumps(response)), copy.copy(response), pickle.loads(pickle.dumps(response.request))]

    assert copies[0].json() == copies[1].json() == response.json()
    assert copies[2].url == url
    assert counted(installed) == SETTLED


def test_next_is_the_hop_that_would_follow_and_has_no_secret(run: Any, url: str, server: JsonServer) -> None:
    """`allow_redirects=False` shows the next request, with the caller's own token in it; sending it is a call like any other."""
    installed = run()
    server.scripted = [Answer(307, {}, {"Location": url})]
    with requests.Session() as session:
        response = session.post(url, data=FORM, headers={"Authorization": f"Bearer {installed.key.token}"}, allow_redirects=False)
        following = response.next

        assert following is not None
        assert following.headers["Authorization"] == response.request.headers["Authorization"] == f"Bearer {installed.key.token}"
        assert (response.is_redirect, counted(installed)) == (True, NOTHING)
        session.send(following)

    assert [arrived.headers["authorization"] for arrived in server.requests] == ["Bearer sk_test_real"] * 2
    assert counted(installed) == SETTLED


# -- tokens ------------------------------------------------------------------------------------------


def test_a_token_is_replaced_on_every_hop_and_put_back(run: Any, url: str, server: JsonServer, nobody: JsonServer) -> None:
    """The vendor sees the secret; the requests that the caller keeps have the token; the host of nobody's sees neither."""
    installed = run()
    server.scripted = [Answer(308, {}, {"Location": url}), Answer(307, {}, {"Location": f"{nobody.url}/x"})]
    response = requests.post(url, data=FORM, headers={"Authorization": f"Bearer {installed.key.token}"}, timeout=9)

    assert [arrived.headers["authorization"] for arrived in server.requests] == ["Bearer sk_test_real"] * 2
    assert {one.request.headers["Authorization"] for one in response.history} == {f"Bearer {installed.key.token}"}
    assert "authorization" not in nobody.requests[0].headers
    assert counted(installed) == NOTHING


def _headers(token: str) -> list[dict[str, Any]]:
    pair = base64.b64encode(f"me:{token}".encode()).decode()
    return [{"Authorization": f"Bearer {token}"}, {"Authorization": f"Basic {pair}"}, {"X-Key": token}, {"X-Key": token.encode()}]


@pytest.mark.parametrize("number", range(4))
def test_a_token_to_a_foreign_host_is_refused(run: Any, nobody: JsonServer, server: JsonServer, number: int) -> None:
    """In any header, as text or bytes, in clear or in Basic; also at the end of a redirect from a host of nobody's."""
    token = run().key.token
    with requests.Session() as session:
        session.headers.update(_headers(token)[number])
        with pytest.raises(EndpointNotAllowed, match="vault token") as refusal:
            session.get(f"{nobody.url}/x")

    assert (nobody.requests, token in str(refusal.value)) == ([], False)


def test_a_token_in_a_header_that_redirects_keep_is_refused_at_the_foreign_hop(
    run: Any, url: str, server: JsonServer, nobody: JsonServer
) -> None:
    """requests takes Authorization away from a hop to another host, and no other header."""
    token = run().key.token
    server.scripted = [Answer(307, {}, {"Location": f"{nobody.url}/x"})]
    with pytest.raises(EndpointNotAllowed):
        requests.post(url, data=FORM, headers={"X-Key": token, **AUTH}, timeout=9)

    assert nobody.requests == []


def test_the_supported_versions_are_known() -> None:
    """The seam stands where we look from 2.25 on."""
    assert [patch.supports(version) for version in ("2.25.0", "2.34.2", "3.0", "2.24.9", "1.0", "unknown")] == [True] * 3 + [False] * 3


def test_many_threads_stop_at_one_cap(run: Any, url: str, vendor: Vendor) -> None:
    """One session, 8 threads, 60 charges wanted: 25 go through, and nobody is refused while there is money."""
    installed = run(run_usd_cap=25)

    def charge(_: int) -> bool:
        try:
            session.post(url, data=FORM, headers=AUTH).raise_for_status()
        except keyguard.SpendCapExceeded:
            return False
        return True

    with requests.Session() as session, ThreadPoolExecutor(8) as pool:
        charged = sum(pool.map(keyguard.wrap(charge), range(60)))

    assert (charged, vendor.executed, counted(installed)) == (25, 25, (25 * USD, 0, 0))
