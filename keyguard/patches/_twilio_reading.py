"""What one request of the Twilio SDK says: address, form and credential, as its HTTP library will write them. Part of the twilio plug."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlencode, urlsplit

from keyguard.patches._headers import credential_of, credential_of_pair, form_pairs, read_body
from keyguard.vendors import claimant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from keyguard.model import Pairs

# By the SDK's own comparison, which is exact; anything else goes out as a form (9.13, read November 2026).
JSON = frozenset({"application/json", "application/scim+json"})


def is_awaited(http_client: Any) -> bool:
    """Say whether what an HTTP client returns must be awaited."""
    return bool(getattr(http_client, "is_async", False)) or iscoroutinefunction(getattr(http_client, "request", None))


def address(uri: str, params: Any, *, is_async: bool) -> tuple[str, Pairs]:
    """
    Return the vendor's own path and the query as the HTTP library will write them: the wire seam must know the call again.

    Raises:
        ValueError: no URL that the library would take.
    """
    prepared = sys.modules["requests"].PreparedRequest()
    prepared.prepare_url(uri, params)
    parts = urlsplit(prepared.url)
    yarl = sys.modules.get("yarl")
    path: str = yarl.URL(uri).raw_path if is_async and yarl is not None else parts.path
    if path.startswith("/twilio/") and claimant(parts.hostname or "") is None:
        # What a proxy puts before the vendor's path, as the wire seams read it.
        path = path.removeprefix("/twilio")
    return path, form_pairs(parts.query)


def body_of(instance: Any, data: Any, kind: str | None) -> tuple[Pairs | None, Any]:
    """Return a body's pairs and document as the SDK's clients write them; None for what they do not write as a form or as JSON."""
    if kind not in JSON:
        return _form(data), None
    if data is None:
        return (), None
    # From 9 on; before, nothing was written as JSON.
    kept = instance.copy_non_none_values(data) if hasattr(instance, "copy_non_none_values") else data
    try:
        return read_body(json.dumps(kept, allow_nan=False), "application/json")
    except (ValueError, TypeError, RecursionError):
        return None, None


def _form(data: Any) -> Pairs | None:
    if data is None:
        return ()
    if isinstance(data, str | bytes):
        return form_pairs(text(data))
    if isinstance(data, Mapping):
        return _pairs(data.items())
    return _pairs(cast("Iterable[Any]", data)) if isinstance(data, list | tuple) else None


def _pairs(items: Iterable[Any]) -> Pairs | None:
    """Return pairs as `urlencode` writes them: a list is the field repeated, None is none."""
    try:
        return tuple((text(name), text(value)) for name, values in items for value in _each(values) if value is not None)
    except (TypeError, ValueError):
        return None


def _each(values: Any) -> Iterator[Any]:
    if isinstance(values, str | bytes) or not hasattr(values, "__iter__"):
        yield values
    elif isinstance(values, list | tuple | set | frozenset | Mapping):
        yield from cast("Iterable[Any]", values)
    else:
        raise ValueError("it can be read once, and that is the library's")


def text(value: Any) -> str:
    """Return a value as it is written into a form or a header."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def basic(auth: Any) -> tuple[str, str] | None:
    """Return user and password of an `auth`; None for what is no pair."""
    if not isinstance(auth, list | tuple) or len(cast("Any", auth)) != 2:
        return None
    user, password = cast("Any", auth)
    return text(user), text(password)


def credential(instance: Any, auth: Any, headers: Mapping[str, str]) -> str:
    """Return the secret or token that will be sent, by the SDK's own order; a provider's is known only when it was asked."""
    if getattr(instance, "credential_provider", None):
        return ""
    if instance.username is not None and instance.password is not None:
        pair = basic(instance.get_auth(auth))
        return credential_of_pair(*pair) if pair is not None else ""
    return credential_of(next((text(value) for name, value in headers.items() if name.lower() == "authorization"), ""))


def completed(data: Any, added: Pairs) -> Any:
    """Return a form, of the kind that it was, with what the policy adds to it."""
    if data is None or isinstance(data, Mapping):
        return {**cast("Mapping[str, Any]", data or {}), **dict(added)}
    if isinstance(data, str | bytes):
        return "&".join(filter(None, (text(data), urlencode(added))))
    return [*data, *added]
