"""The proxy's settings: `KEYGUARD_PROXY_*` in one table with units, and what cannot be served. Opens nothing."""

from __future__ import annotations

import importlib
import ipaddress
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from keyguard.errors import ConfigurationError
from keyguard.model import TOKEN_PREFIX
from keyguard.proxy.secrets import check_source
from keyguard.vendors import known_vendors, vendor_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# First segments of the proxy's own paths: no vendor can be reached under these names.
RESERVED = frozenset({"audit", "healthz", "openapi.json", "readyz", "v1", "vault"})
_SHORTEST_TOKEN = 16
_HASHED = "sha256:"
Sources = Annotated[dict[str, str], NoDecode]


class ProxySettings(BaseSettings):
    """
    What the proxy is told by its environment; options of the command win over it. Seconds and bytes throughout.

    Attributes:
        imports: Modules to import first, with commas: those that make vendors of yours known by `keyguard.vendors.register`.
        host, port: Where it listens; port 0 = any that is free.
        workers: Processes that serve, all on one ledger.
        ledger: `KEYGUARD_PROXY_LEDGER`, else `KEYGUARD_URL`, else the user's default SQLite file.
        admin_tokens: `KEYGUARD_PROXY_ADMIN_TOKENS` (else `KEYBRAKE_API_KEY`): who may issue and revoke, separated by commas or white
            space. Each is a token of at least 16 characters, or `sha256:` and the hex digits of its hash, so that none need be here.
        admin_tokens_file: A file with more of them, one a line.
        secrets: Where each vendor's real secret is: `stripe=env:NAME,twilio=file:/path,resend=command:...`, or the same as a JSON object
            (a command may have commas). A vendor that is not named has its usual variable, where that is set.
        secret_seconds: How long a secret that was read from a file or a command is used before it is read again.
        upstreams: Stand-ins, `stripe=http://127.0.0.1:8420,...`: where a vendor's requests go instead. https, or http on loopback.
        tls_cert, tls_key: Files (PEM); with them it serves https.
        allow_plain: Serve http on an address that others can reach: something in front of it does TLS.
        max_connections: Open connections of one worker; further ones are closed at once.
        max_requests: Requests of one worker that are under way; further ones are told 503, and may come again.
        max_head_bytes, max_body_bytes: Of one request.
        max_buffered_bytes: Of all requests of one worker that are under way.
        head_seconds: For the head of a request to arrive, from the connection's beginning or the answer before it.
        body_seconds: For its body.
        connect_seconds, answer_seconds: For a vendor to accept a connection, and to send each part of an answer.
        write_seconds: For a client to take each part of an answer.
        settle_seconds: For the rest of an answer that says what a call cost, when its client is gone.
        drain_seconds: For calls under way to end, when the proxy is told to stop.
        max_upstream_connections: Connections to vendors of one worker.
    """

    model_config = SettingsConfigDict(env_prefix="KEYGUARD_PROXY_", frozen=True, populate_by_name=True, hide_input_in_errors=True)

    # First: the others are looked at with the vendors that it makes known.
    imports: Annotated[tuple[str, ...], NoDecode] = ()
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8420
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    ledger: str = ""
    admin_tokens: SecretStr = Field(
        default=SecretStr(""), validation_alias=AliasChoices("admin_tokens", "KEYGUARD_PROXY_ADMIN_TOKENS", "KEYBRAKE_API_KEY")
    )
    admin_tokens_file: Path | None = None
    secrets: Sources = Field(default_factory=dict[str, str])
    secret_seconds: Annotated[float, Field(ge=0)] = 30.0
    upstreams: Sources = Field(default_factory=dict[str, str])
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow_plain: bool = False
    max_connections: Annotated[int, Field(gt=0)] = 1024
    max_requests: Annotated[int, Field(gt=0)] = 512
    max_head_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024
    max_body_bytes: Annotated[int, Field(gt=0)] = 24 * 1024 * 1024
    max_buffered_bytes: Annotated[int, Field(gt=0)] = 256 * 1024 * 1024
    head_seconds: Annotated[float, Field(gt=0)] = 15.0
    body_seconds: Annotated[float, Field(gt=0)] = 60.0
    connect_seconds: Annotated[float, Field(gt=0)] = 10.0
    answer_seconds: Annotated[float, Field(gt=0)] = 80.0
    write_seconds: Annotated[float, Field(gt=0)] = 60.0
    settle_seconds: Annotated[float, Field(gt=0)] = 30.0
    drain_seconds: Annotated[float, Field(gt=0)] = 90.0
    max_upstream_connections: Annotated[int, Field(gt=0)] = 256

    @field_validator("imports", mode="before")
    @classmethod
    def _import(cls, value: object) -> object:
        found = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
        import_all(cast("Iterable[str]", found))
        return found

    @field_validator("secrets", "upstreams", mode="before")
    @classmethod
    def _parse_pairs(cls, value: object) -> object:
        """Read `vendor=text` pairs, or a JSON object."""
        if not isinstance(value, str):
            return value
        if value.strip().startswith("{"):
            return json.loads(value)
        pairs = [item.strip().partition("=") for item in value.split(",") if item.strip()]
        if not all(equals and text for _, equals, text in pairs):
            raise ValueError("expected vendor=value pairs with commas between them, or a JSON object")
        return {vendor.strip(): text.strip() for vendor, _, text in pairs}

    @field_validator("secrets")
    @classmethod
    def _check_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for vendor, source in value.items():
            _check_vendor(vendor)
            check_source(vendor, source)
        return value

    @field_validator("upstreams")
    @classmethod
    def _check_upstreams(cls, value: dict[str, str]) -> dict[str, str]:
        for vendor, url in value.items():
            _check_vendor(vendor)
            parts = urlsplit(url)
            if parts.username or parts.query or parts.fragment or not parts.hostname:
                raise ValueError(f"the upstream of {vendor} is a URL of scheme, host, port and path alone")
            if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
                raise ValueError(
                    f"the upstream of {vendor} is not https, and not http on loopback: the vendor's secret would go there in clear"
                )
        return value

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each vendor's secret is: what is set here, and the usual variables that are there."""
        usual = {name: vendor_named(name).secret_env for name in known_vendors() if name not in RESERVED}
        return {**{name: f"env:{variable}" for name, variable in usual.items() if variable and os.environ.get(variable)}, **self.secrets}

    def tokens(self) -> tuple[str, ...]:
        """
        Return the admin tokens as they are configured.

        Raises:
            ConfigurationError: none, one that is too short, or a file that cannot be read.
        """
        said = self.admin_tokens.get_secret_value()
        if self.admin_tokens_file is not None:
            try:
                said += "\n" + self.admin_tokens_file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"KEYGUARD_PROXY_ADMIN_TOKENS_FILE cannot be read: {type(error).__name__}") from None
        found = tuple(dict.fromkeys(said.replace(",", " ").split()))
        if not found:
            raise ConfigurationError(
                "no admin token is configured, so nobody could issue a key: set KEYGUARD_PROXY_ADMIN_TOKENS (or KEYBRAKE_API_KEY), for "
                "example to what `openssl rand -hex 32` prints"
            )
        if any(len(token.removeprefix(_HASHED)) < _SHORTEST_TOKEN or token.startswith(TOKEN_PREFIX) for token in found):
            raise ConfigurationError(f"an admin token has at least {_SHORTEST_TOKEN} characters, and is no vault key")
        return found

    def check(self) -> None:
        """
        Say what cannot be served.

        Raises:
            ConfigurationError: no admin token, no secret, half of TLS, or plain http where others can reach it.
        """
        self.tokens()
        if not self.sources:
            usual = ", ".join(sorted(filter(None, (vendor_named(name).secret_env for name in known_vendors()))))
            raise ConfigurationError(
                f"no vendor's secret is configured, so nothing could be forwarded: set {usual}, or "
                "KEYGUARD_PROXY_SECRETS=stripe=file:/run/secrets/stripe"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigurationError("TLS needs both KEYGUARD_PROXY_TLS_CERT and KEYGUARD_PROXY_TLS_KEY")
        if self.tls_cert is None and not is_loopback(self.host) and not self.allow_plain:
            raise ConfigurationError(
                f"{self.host} can be reached by others, who could read the vault keys that go over it in clear: give --tls-cert and "
                "--tls-key, or say --allow-plain where something in front of the proxy does TLS"
            )


def import_all(modules: Iterable[str]) -> None:
    """
    Import the operator's modules.

    Raises:
        ValueError: one cannot be imported.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            # Whatever a module of somebody else's raises.
            raise ValueError(f"the module {module} cannot be imported: {type(error).__name__}: {error}") from error


def _check_vendor(name: str) -> None:
    if name not in known_vendors() or name in RESERVED:
        raise ValueError(f"unknown vendor {name!r}; known: {', '.join(known_vendors())}")


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def load_proxy_settings(**options: Any) -> ProxySettings:
    """
    Read the environment, under the options that were given (None = not given).

    Raises:
        ConfigurationError: a setting that cannot be read, or that nobody knows: of a limit with a letter too many nobody may believe
            that it holds.
    """
    prefix, known = ProxySettings.model_config.get("env_prefix", ""), {name.upper() for name in ProxySettings.model_fields}
    strange = sorted(name for name in os.environ if name.startswith(prefix) and name.removeprefix(prefix).upper() not in known)
    if strange:
        raise ConfigurationError(f"unknown setting {', '.join(strange)}; known: {', '.join(sorted(prefix + name for name in known))}")
    try:
        return ProxySettings(**{name: value for name, value in options.items() if value is not None})
    except (ValidationError, ValueError) as error:
        raise ConfigurationError(f"bad KEYGUARD_PROXY_* setting: {_explained(error)}") from None


def _explained(error: ValueError) -> str:
    """Say what was wrong without the value: it may be a secret."""
    if not isinstance(error, ValidationError):
        return f"it cannot be read ({type(error).__name__})"
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg'].removeprefix('Value error, ')}" for one in found)
