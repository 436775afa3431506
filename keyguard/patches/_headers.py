"""The Authorization header: which credential it carries, and the same header with another one. Knows no client."""

from __future__ import annotations

import base64
import binascii


def credential_of(authorization: str) -> str:
    """Return the secret or token of a Bearer header, or the user of a Basic one; "" for what cannot be read."""
    scheme, _, value = authorization.partition(" ")
    return _pair(value)[0] if scheme.lower() == "basic" else value.strip()


def with_credential(authorization: str, secret: str) -> str:
    """Return the header with another secret, in the scheme that it had: some vendors read only one of the two."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return f"Bearer {secret}"
    return "Basic " + base64.b64encode(f"{secret}:{_pair(value)[1]}".encode()).decode()


def is_carrying(value: str, mark: str) -> bool:
    """Say whether a header's value has the mark in it, in clear or as either half of Basic."""
    scheme, _, encoded = value.partition(" ")
    return mark in value or (scheme.lower() == "basic" and any(mark in half for half in _pair(encoded)))


def _pair(value: str) -> tuple[str, str]:
    try:
        user, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return user, password
