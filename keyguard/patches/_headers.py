"""What seams read of HTTP texts: the Authorization header, names of headers in any case, bodies. Knows no client."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias, cast
from urllib.parse import unquote_plus

from keyguard.model import TOKEN_PREFIX

# No token is shorter: it has an id and a signature behind its prefix. Nor is it in Basic. Most headers of most requests are.
SHORTEST = 20

Pairs: TypeAlias = "tuple[tuple[str, str], ...]"


@lru_cache(maxsize=512)
def lowered(name: object) -> str:
    """Return a header's name in lower case; remembered, because a client writes the same ten names on every request."""
    return str(name).lower()


def credential_of(authorization: str) -> str:
    """Return the secret or token of a header, behind whatever scheme it names, of Basic that of its halves; "" for what cannot be read."""
    scheme, blank, value = authorization.strip().partition(" ")
    return credential_of_pair(*_pair(value)) if scheme.lower() == "basic" else value.strip() if blank else scheme


def credential_of_pair(user: str, password: str) -> str:
    """Return the half of Basic that is a vault token, else the user: Stripe's secret is the user, Twilio's the password."""
    return password if _is_token(password) and not _is_token(user) else user


def with_credential(authorization: str, secret: str) -> str:
    """Return the header with the real secret in the place of a vault token, in the scheme that it had; without one, as it is."""
    scheme, blank, value = authorization.strip().partition(" ")
    if not _is_token(credential_of(authorization)):
        return authorization
    if scheme.lower() == "basic":
        return "Basic " + base64.b64encode(":".join(pair_with_secret(*_pair(value), secret)).encode()).decode()
    return f"{scheme} {secret}" if blank else secret


def pair_with_secret(user: str, password: str, secret: str) -> tuple[str, str]:
    """Return the halves of Basic with the real secret in the place of a vault token; the other half stays."""
    return secret if _is_token(user) else user, secret if _is_token(password) else password


def with_vault_key(authorization: str, token: str) -> str:
    """Return the header with a proxy's vault key in the place of whatever credential it has, in the scheme that it had."""
    scheme, blank, value = authorization.strip().partition(" ")
    if scheme.lower() != "basic":
        return f"{scheme} {token}" if blank else token
    return "Basic " + base64.b64encode(":".join(pair_with_vault_key(*_pair(value), token)).encode()).decode()


def pair_with_vault_key(user: str, password: str, token: str) -> tuple[str, str]:
    """Return the halves of Basic with a vault key in the place of the secret one, whatever that is."""
    if _is_token(user) or _is_token(password):
        return pair_with_secret(user, password, token)
    # Stripe's secret is the user, with nothing behind it; Twilio's the password.
    return (user, token) if password else (token, password)


def is_hiding(value: str | bytes) -> bool:
    """Say whether a token may be in base64, as one half of Basic: it begins at one of three places of a group of bytes."""
    text = value if isinstance(value, str) else value.decode("latin-1")
    return any(hidden in text for hidden in _HIDDEN)


def _in_base64(text: str, at: int) -> str:
    """Return those characters that the base64 of a text has, wherever it stands, `at` bytes behind the beginning of a group."""
    return base64.b64encode(bytes(at) + text.encode()).decode()[-(-8 * at // 6) : 8 * (at + len(text)) // 6]


_HIDDEN = tuple(_in_base64(TOKEN_PREFIX, at) for at in range(3))


def is_carrying(value: str, mark: str) -> bool:
    """Say whether a header's value has the mark in it, in clear or as either half of Basic."""
    scheme, _, encoded = value.partition(" ")
    return mark in value or (scheme.lower() == "basic" and any(mark in half for half in _pair(encoded)))


class Lowered(Mapping[str, str]):
    """The headers of a reply under lower-cased names; looked at only when asked, since most are never asked for."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Mapping[str, str]) -> None:
        self._raw = raw

    def get(self, name: str, default: Any = None) -> Any:
        """Return a header, or the default; the last of several spellings counts, as in a dictionary made of them all."""
        found = default
        for given, value in self._raw.items():
            if lowered(given) == name:
                found = str(value)
        return found

    def __getitem__(self, name: str) -> str:
        found: str | None = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter({lowered(name): None for name in self._raw})

    def __len__(self) -> int:
        return len({lowered(name) for name in self._raw})

    def __repr__(self) -> str:
        return f"<{len(self)} headers>"


def form_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Return a form's pairs, as `urllib.parse.parse_qsl` with blank values kept; four times as fast where nothing is encoded."""
    # A partition without its middle is the pair; one comprehension, as each is a function call before Python 3.12.
    pairs: list[Any] = [pair.partition("=")[::2] for pair in text.split("&") if pair]
    if "%" in text or "+" in text:
        return tuple([(unquote_plus(name), unquote_plus(value)) for name, value in pairs])
    return tuple(pairs)


def read_body(content: str | bytes | None, content_type: str) -> tuple[Pairs | None, Any]:
    """
    Return a body's pairs and, for JSON, its parsed document; (None, None) for what cannot be read strictly.

    A JSON object that names one member twice is not readable: two readers of it need not agree which one counts.
    """
    if content is None:
        return None, None
    if not content:
        return (), None
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return form_pairs(text), None
    if kind == "application/json" or kind.endswith("+json"):
        return _json(text)
    return None, None


def _json(text: str) -> tuple[Pairs | None, Any]:
    try:
        document = json.loads(text, parse_float=Decimal, parse_constant=_refuse, object_pairs_hook=_object)
        return document_pairs(document), document
    except (ValueError, RecursionError):
        return None, None


def document_pairs(document: Any) -> Pairs:
    """Return the leaves of a parsed JSON body under the names that a form would give them: `to[0]`, `amount[value]`."""
    return tuple(_leaves("", document))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            yield from _leaves(f"{name}[{key}]" if name else str(key), item)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(cast("list[Any]", value)):
            yield from _leaves(f"{name}[{number}]", item)
    elif name:
        yield name, "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is named twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _is_token(text: str) -> bool:
    return text.startswith(TOKEN_PREFIX)


def _pair(value: str) -> tuple[str, str]:
    try:
        user, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password
