"""The proxy's parts that need no proxy: where a target leads, what covers a secret, where secrets are read, which headers pass."""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import context
from keyguard.errors import (
    ConfigurationError,
    KeyExpired,
    KeyguardError,
    KeyRevoked,
    LedgerUnavailable,
    Refused,
    SpendCapExceeded,
    UnknownKey,
)
from keyguard.proxy.admins import Admins
from keyguard.proxy.denials import InDoubt, denial
from keyguard.proxy.headers import downwards, upwards
from keyguard.proxy.issuing import wanted
from keyguard.proxy.masking import Mask
from keyguard.proxy.routing import Misdirected, destination
from keyguard.proxy.secrets import Secrets, check_source
from keyguard.proxy.settings import load_proxy_settings
from keyguard.vendors import claimant

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "sk_live_0123456789"


# -- masking -----------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([b"a", b"sk_", SECRET.encode(), SECRET[:9].encode(), SECRET[9:].encode(), b"sk_live_", b"\xff"]), max_size=12),
    st.data(),
)
def test_secret_is_covered_wherever_it_is_cut(pieces: list[bytes], data: Any) -> None:
    """However an answer is cut into parts, the secret comes down in none, the length is the same, and all else is as it was."""
    text = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    mask, parts = Mask([SECRET]), []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        parts.append(mask.part(text[start:end]))
    passed = b"".join([*parts, mask.rest()])

    assert SECRET.encode() not in passed
    assert passed == text.replace(SECRET.encode(), b"*" * len(SECRET))


# By which a client knows that the vendor has given an answer.
FORWARDED = (b"x-keyguard-forwarded", b"1")


def test_mask_holds_back_nothing_else() -> None:
    """A part is held back only as far as it may be the beginning of the secret."""
    mask = Mask([SECRET])

    assert (mask.part(b"data: 1\n\n"), mask.part(b"data: sk_l"), mask.part(b"ow\n\n")) == (b"data: 1\n\n", b"data: ", b"sk_low\n\n")
    assert SECRET not in repr(mask)


# -- routing -----------------------------------------------------------------------------------------


@given(st.text(st.sampled_from("/.%25eEfF\\@:?#stripe"), max_size=24), st.sampled_from([b"", b"a=b"]))
def test_every_target_stays_at_the_vendor(text: str, query: bytes) -> None:
    """Whatever the target: it is an error, or a path of a host that the vendor claims, and another reader of URLs finds the same."""
    try:
        found = destination("GET", b"/stripe/" + text.encode(), query)
    except Misdirected:
        return
    parts = urlsplit(found.url)

    assert claimant(found.host) == "stripe"
    assert (parts.scheme, parts.netloc, parts.path) == ("https", found.host, found.path)
    assert not {".", ".."} & set(found.path.split("/"))


# -- secrets -----------------------------------------------------------------------------------------


class Clock:
    """A clock that is told the time."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_secrets_are_read_again_when_they_are_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, a file or a command; after a while anew, so that a rotation needs no restart."""
    clock, path = Clock(), tmp_path / "secret"
    path.write_text("from-file\n")
    monkeypatch.setenv("MY_SECRET", "from-env")
    command = f"{sys.executable} -c \"print('from-command'); print('more')\""
    secrets = Secrets({"resend": "env:MY_SECRET", "stripe": f"file:{path}", "twilio": f"command:{command}"}, 30, clock=clock)

    assert [secrets.of(vendor) for vendor in secrets.vendors] == ["from-env", "from-file", "from-command"]
    path.write_text("rotated")
    clock.now = 29.9
    assert secrets.of("stripe") == "from-file"
    clock.now = 30.1
    assert secrets.of("stripe") == "rotated"


def test_secrets_show_themselves_nowhere(tmp_path: Path) -> None:
    """Neither repr nor pickle has what was read."""
    (tmp_path / "secret").write_text(SECRET)
    secrets = Secrets({"stripe": f"file:{tmp_path / 'secret'}"}, 30)
    secrets.of("stripe")

    assert SECRET not in repr(secrets)
    assert SECRET.encode() not in pickle.dumps(secrets)
    assert pickle.loads(pickle.dumps(secrets)).of("stripe") == SECRET


@pytest.mark.parametrize(
    "source",
    [
        "env:NOT_SET_ANYWHERE",
        "file:/no/such/file",
        "command:false",
        "command:/no/such/command",
        "file:/dev/null",
        "command:echo vault_key_x",
        "command:printf 'a\\001b'",
    ],
)
def test_secrets_that_cannot_be_read(source: str) -> None:
    """Where there is none the call is refused, and what was found, or looked for, is not repeated."""
    with pytest.raises(ConfigurationError, match="nothing was sent") as caught:
        Secrets({"stripe": source}, 30).of("stripe")

    assert source.partition(":")[2] not in str(caught.value)
    assert caught.value.__cause__ is None


def test_secrets_are_not_read_on_the_event_loop(tmp_path: Path) -> None:
    """A file or a command is read in a worker thread: on the loop's own, who asks is told that it would block."""
    (tmp_path / "secret").write_text(SECRET)
    secrets = Secrets({"stripe": f"file:{tmp_path / 'secret'}"}, 30)
    with context.without_blocking(), pytest.raises(context.WouldBlock):
        secrets.of("stripe")
    with pytest.raises(ConfigurationError, match="has no secret of twilio"):
        secrets.of("twilio")


@pytest.mark.parametrize("source", [SECRET, "env:", "vault:x", "command:'"])
def test_sources_of_another_form(source: str) -> None:
    """A source of another form (somebody may have put the secret itself there) is refused without being repeated."""
    with pytest.raises(ValueError) as caught:
        check_source("stripe", source)

    assert SECRET not in str(caught.value)


def test_settings_show_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """`KEYBRAKE_API_KEY` is an admin token too; no repr has it."""
    monkeypatch.setenv("KEYBRAKE_API_KEY", "kb-0123456789abcdef")
    settings = load_proxy_settings(port=1)

    assert (settings.tokens(), settings.port) == (("kb-0123456789abcdef",), 1)
    assert "kb-0123456789abcdef" not in repr(settings)


# -- admins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["", "Bearer", "Bearer ", "Basic one", "Bearer onE", "Bearer one two", "one", "Bearer \udcff"])
def test_admins_of_another_name(said: str) -> None:
    """Only the very token, as a bearer's, is an admin's."""
    admins = Admins(["one", "two"])

    assert admins.named(said) is None
    assert (admins.named("Bearer one"), admins.named("bearer  two")) != (None, None)
    assert "one" not in repr(admins)


# -- headers -----------------------------------------------------------------------------------------


def test_headers_of_one_connection() -> None:
    """What `Connection` names goes no further, in either direction."""
    headers = [(b"connection", b"X-One, close"), (b"x-one", b"1"), (b"x-two", b"2"), (b"keep-alive", b"5")]

    assert upwards(headers) == [(b"x-two", b"2"), (b"accept-encoding", b"identity")]
    assert downwards([(name.title(), value) for name, value in headers]) == [(b"x-two", b"2"), FORWARDED]


def test_vendor_cannot_say_that_keyguard_refused() -> None:
    """The header by which a refusal is known comes from the proxy alone: a vendor that sends it is not passed on."""
    assert downwards([(b"X-Keyguard-Refusal", b"{}"), (b"X-Request-Id", b"r")]) == [(b"x-request-id", b"r"), FORWARDED]


# -- denials -----------------------------------------------------------------------------------------


def classes(of: type[KeyguardError]) -> list[type[KeyguardError]]:
    """Return a class and all below it."""
    return [of, *(found for below in of.__subclasses__() for found in classes(below))]


@pytest.mark.parametrize("kind", classes(Refused), ids=lambda kind: kind.__name__)
def test_no_refusal_is_retried_or_taken_for_a_declined_card(kind: type[Refused]) -> None:
    """Every refusal is 401, 403 or 429, says that it must not be tried again, and can be written in one line of ASCII."""
    response = denial(kind("naïve\r\nX-Injected: 1"))
    expected = 401 if issubclass(kind, UnknownKey | KeyRevoked | KeyExpired) else 429 if issubclass(kind, SpendCapExceeded) else 403

    assert response.status_code == expected
    assert response.headers["stripe-should-retry"] == response.headers["x-should-retry"] == "false"
    assert "retry-after" not in response.headers
    assert all(value.isascii() and value.isprintable() for value in response.headers.values())


@pytest.mark.parametrize(
    ("error", "status", "may_retry"), [(LedgerUnavailable("x"), 503, True), (InDoubt("x"), 502, False), (InDoubt("x"), 502, True)]
)
def test_who_cannot_decide_says_so(error: KeyguardError, status: int, may_retry: bool) -> None:
    """Nobody who decides is 503; an answer that was lost is 502, to be tried again where the vendor executes it once."""
    response = denial(error, may_retry=may_retry)

    assert (response.status_code, response.headers["stripe-should-retry"]) == (status, str(may_retry).lower())


# -- issuing -----------------------------------------------------------------------------------------


def test_expiry_as_an_instant() -> None:
    """An `expires_at`, in either form and any zone, is the time until then."""
    at = [wanted({"daily_usd_cap": 1, "expires_at": instant}, (), clock=lambda: 1_000_000_000.0).policy.expires_in
          for instant in ("2001-09-09T01:47:40Z", "2001-09-09T03:47:40+02:00", "2001-09-09T01:47:40", 1_000_000_060)]  # fmt: skip

    assert at == [60.0] * 4
