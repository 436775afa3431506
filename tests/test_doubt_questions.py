"""How vendors are asked: where to, with which secret, how often; by a real client at a server on loopback."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

import keyguard
from keyguard.doubts._asking import Questions
from keyguard.errors import ConfigurationError
from keyguard.identity import principal_of
from keyguard.model import Policy
from keyguard.vendors import vendor_named
from keyguard.vendors._inquiry import document
from tests.support_inquiries import doubt_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.vendors import Inquiring

STRIPE: Inquiring = vendor_named("stripe").inquiring  # type: ignore[attr-defined]  # -- what a plug may offer
TWILIO: Inquiring = vendor_named("twilio").inquiring  # type: ignore[attr-defined]  # -- what a plug may offer
DOUBT = doubt_of("stripe", "payment_intents.create", principal=principal_of("sk_1"))
SECRETS = {"STRIPE_SECRET_KEY": "sk_1", "OTHER": "sk_2", "TWILIO_AUTH_TOKEN": "t", "TWILIO_ACCOUNT_SID": "AC1"}


class Server(ThreadingHTTPServer):
    """Answers from a list of (status, headers), the last one for ever, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = [(200, {})]
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def host(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer the next one."""
        answers = self.server.answers
        status, headers = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.asked.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "2"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Be silent."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of its own."""
    found = Server()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def questions(server: Server, policy: Policy | None = None, **options: Any) -> Questions:
    return Questions({server.host: "stripe"}, lambda _key_id: policy, environ=SECRETS, **options)


def ask(asking: Questions, path: str = "/v1/events") -> Any:
    with asking:
        return asking.drive(document(path), DOUBT, STRIPE)


def test_a_question_is_a_get_with_the_secret(server: Server) -> None:
    """A listed stand-in on loopback is asked over http, with the secret of the environment and the account of the call."""
    with questions(server) as asking:
        asking.drive(document("/v1/events?limit=1"), doubt_of("stripe", "x", account="acct_1"), STRIPE)

    ((method, path, headers),) = server.asked
    assert (method, path) == ("GET", "/v1/events?limit=1")
    assert (headers["authorization"], headers["stripe-account"]) == ("Bearer sk_1", "acct_1")


def test_the_policy_says_where_the_secret_is(server: Server) -> None:
    """`secret='env:NAME'` of the key's policy wins over the vendor's own variable."""
    ask(questions(server, Policy(secret="env:OTHER")))

    assert server.asked[0][2]["authorization"] == "Bearer sk_2"


def test_the_same_question_is_asked_once(server: Server) -> None:
    """Doubts of one time share the list; another account's are asked for apart."""
    with questions(server) as asking:
        for account in ("", "", "acct_1"):
            asking.drive(document("/v1/events"), doubt_of("stripe", "x", account=account), STRIPE)

    assert len(server.asked) == 2


def test_a_redirect_is_not_followed(server: Server) -> None:
    """The secret goes to no host that an answer names: what is elsewhere is not shown."""
    other = Server()
    threading.Thread(target=other.serve_forever, daemon=True).start()
    server.answers = [(302, {"Location": f"http://{other.host}/v1/events"})]
    with pytest.raises(Exception, match="302"):
        ask(questions(server))
    other.shutdown()
    other.server_close()

    assert other.asked == []


@pytest.mark.parametrize(("answers", "pauses"), [([429, 429, 200], [2.0, 2.0]), ([429, 200], [2.0]), ([200], [])])
def test_too_many_requests_are_waited_for(server: Server, answers: list[int], pauses: list[float]) -> None:
    """Asked too often, it waits for as long as it is told, twice at most."""
    server.answers = [(status, {"Retry-After": "2"} if status == 429 else {}) for status in answers]
    waited: list[float] = []

    ask(questions(server, sleep=waited.append))

    assert waited == pauses


@pytest.mark.parametrize("pause", ["60", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_long_pause_is_left_to_another_time(server: Server, pause: str) -> None:
    """Whoever is told to come back much later is told so, and nothing waits."""
    server.answers = [(429, {"Retry-After": pause})]
    waited: list[float] = []
    with pytest.raises(Exception, match="try again later"):
        ask(questions(server, sleep=waited.append))

    assert (waited, len(server.asked)) == ([], 1)


def test_nobody_there_is_no_answer() -> None:
    """A refused connection is told as such."""
    closed = Server()
    closed.server_close()
    with pytest.raises(Exception, match="could not be reached"):
        ask(questions(closed))


def test_an_armed_process_lets_its_own_questions_pass(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The questions are keyguard's own traffic: no allowlist, no budget and no run is asked for."""
    monkeypatch.setenv("KEYGUARD_VENDOR_HOSTS", f"stripe={server.host}")
    keyguard.install("sqlite://", allowed_endpoints=["POST /v1/nothing"], max_calls=1)

    ask(questions(server))

    assert len(server.asked) == 1


@pytest.mark.parametrize("secrets", [{}, {"STRIPE_SECRET_KEY": ""}, {"STRIPE_SECRET_KEY": "vault_key_x"}])
def test_without_the_real_secret_nothing_is_asked(server: Server, secrets: dict[str, str]) -> None:
    """No secret, or a vault token in its place, is an error that names the variable, and nobody is asked."""
    with (
        Questions({server.host: "stripe"}, lambda _: None, environ=secrets) as asking,
        pytest.raises(ConfigurationError, match="STRIPE_SECRET_KEY"),
    ):
        asking.drive(document("/v1/events"), DOUBT, STRIPE)

    assert server.asked == []


def test_of_several_stand_ins_none_is_picked(server: Server) -> None:
    """Which of two listed hosts a call went to is not known: it is an error that names them."""
    hosts = {server.host: "stripe", "127.0.0.1:1": "stripe"}
    with Questions(hosts, lambda _: None, environ=SECRETS) as asking, pytest.raises(ConfigurationError, match=server.host):
        asking.drive(document("/v1/events"), DOUBT, STRIPE)

    assert server.asked == []


@pytest.mark.parametrize(
    ("host", "base"),
    [("proxy.example", "https://proxy.example"), ("10.0.0.1:80", "https://10.0.0.1:80"), ("localhost:1", "http://localhost:1")],
)
def test_the_secret_leaves_the_machine_only_over_https(host: str, base: str) -> None:
    """A listed host that is not this machine is asked over https, whatever its port."""
    with Questions({host: "stripe"}, lambda _: None, environ=SECRETS) as asking:
        assert str(asking.client("stripe", STRIPE).base_url).rstrip("/") == base


def test_without_a_stand_in_the_vendor_itself_is_asked() -> None:
    """The plug's own host, over https."""
    with Questions({"127.0.0.1:1": "twilio"}, lambda _: None, environ=SECRETS) as asking:
        assert asking.client("stripe", STRIPE).base_url == "https://api.stripe.com"


def test_a_proxy_of_the_environment_gets_nothing_of_this_machine(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY does not see what goes to a stand-in on loopback, secret and all."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")

    ask(questions(server))

    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("principal", "is_owner"),
    [
        (principal_of("sk_1"), True),
        (principal_of("env:STRIPE_SECRET_KEY"), False),
        (principal_of("sk_2"), False),
        (principal_of("env:OTHER"), False),
        ("", False),
    ],
)
def test_the_owner_is_who_sent_it(server: Server, principal: str, *, is_owner: bool) -> None:
    """The secret itself, and not the variable that it is in; nobody known is nobody."""
    assert questions(server).is_owner(doubt_of("stripe", "x", principal=principal), STRIPE) is is_owner


@pytest.mark.parametrize(("account", "is_owner"), [("AC1", True), ("", False)])
def test_where_the_path_names_the_account_any_credential_that_may_read_it_is_right(server: Server, account: str, *, is_owner: bool) -> None:
    """Twilio's questions are about the account in their path, whichever of its keys asks."""
    assert questions(server).is_owner(doubt_of("twilio", "messages.create", account=account), TWILIO) is is_owner
