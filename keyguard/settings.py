"""Settings: the `KEYGUARD_*` environment in one table, policy files, and the default ledger's place."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import platformdirs
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from keyguard import context
from keyguard.errors import ConfigurationError
from keyguard.ledgers import Durability
from keyguard.model import Policy, Usd, is_vendor_name
from keyguard.rules import FORM
from keyguard.vendors import known_vendors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keyguard.fx import Rates


class Settings(BaseSettings):
    """
    What the environment says; arguments of `install()` win over it.

    Attributes:
        url: `KEYGUARD_URL`, the backend: "" = the user's default SQLite file.
        durability: `KEYGUARD_DURABILITY`: `power` (on disk before the send) or `process` (survives kill -9 only).
        key: `KEYGUARD_KEY`, a vault token that pays where no run is known.
        run_id: `KEYGUARD_RUN_ID`, names the run outside an orchestrator.
        fx_file: `KEYGUARD_FX_FILE`, a dated table of exchange rates (`keyguard.fx`); without it only US dollars are priced.
        resend_unit_usd: `KEYGUARD_RESEND_UNIT_USD`, what one recipient of an e-mail costs at Resend, in dollars (kept as micro-USD);
            without it the dated list price (0.0009, `vendors/resend_prices.json`).
        twilio_prices_file: `KEYGUARD_TWILIO_PRICES_FILE`, a dated price list (JSON or TOML) over the one that keyguard comes with
            (`vendors/twilio_prices.json`); `keyguard prices refresh twilio` writes one.
        copy_context: `KEYGUARD_COPY_CONTEXT`: `1` = threads and executors of the user's are part of the run that starts them, without
            `keyguard.wrap` (`keyguard.threads`); without it they are refused, or are of the only run of the process.
        state_poll_seconds: `KEYGUARD_STATE_POLL_SECONDS`, how often Prefect's API is asked whether a run that makes calls here was
            cancelled, in seconds (1): one request for all runs of the process. 0 = never, and nothing is watched: then only the runner's
            own signal and `keyguard revoke` stop a run.
        api_key: `KEYBRAKE_API_KEY` (or `KEYBRAKE_TOKEN`), the management secret of the proxy that `url` names: with it keys are issued.
        dialect: `KEYGUARD_DIALECT`, what that proxy speaks: `keyguard` (`keyguard proxy`), `vault` or `v1` (Keybrake's two public forms);
            `auto` = it is asked, and is `vault` where it does not say.
        keys_url: `KEYGUARD_KEYS_URL`, where keys are issued, where that is not below `url`: `https://api.example.com/v1/keys`.
        remote_seconds: `KEYGUARD_REMOTE_SECONDS`, how long the proxy may take to issue or revoke a key, in seconds (10).
        front_ledger: `KEYGUARD_FRONT_LEDGER`, the ledger in front of a proxy: "" = the user's default SQLite file.
        vendor_hosts: `KEYGUARD_VENDOR_HOSTS`, `stripe=127.0.0.1:8420,…`: stand-ins and proxies treated as the vendor's own.
    """

    model_config = SettingsConfigDict(env_prefix="KEYGUARD_", frozen=True)

    url: str = ""
    durability: Durability = "power"
    key: SecretStr | None = None
    run_id: str | None = None
    fx_file: Path | None = None
    resend_unit_usd: Usd | None = None
    twilio_prices_file: Path | None = None
    copy_context: bool = False
    state_poll_seconds: float = Field(default=1.0, ge=0, le=3600)
    api_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("api_key", "KEYBRAKE_API_KEY", "KEYBRAKE_TOKEN"))
    dialect: Literal["auto", "keyguard", "vault", "v1"] = "auto"
    keys_url: str = ""
    remote_seconds: float = Field(default=10.0, gt=0, le=600)
    front_ledger: str = ""
    vendor_hosts: Annotated[dict[str, str], NoDecode] = Field(default_factory=dict[str, str])

    @property
    def unit_prices(self) -> Mapping[str, int]:
        """What one unit of a vendor costs where it is set here: vendor → micro-USD."""
        return {} if self.resend_unit_usd is None else {"resend": self.resend_unit_usd}

    @property
    def price_files(self) -> Mapping[str, Path]:
        """The price lists that are named here: vendor → file."""
        return {} if self.twilio_prices_file is None else {"twilio": self.twilio_prices_file}

    @field_validator("twilio_prices_file")
    @classmethod
    def _check_prices(cls, value: Path | None) -> Path | None:
        """Read the list at once: a call that nobody can price would be refused much later."""
        if value is not None:
            from keyguard.vendors._twilio_prices import loaded

            loaded(value)
        return value

    @field_validator("vendor_hosts", mode="before")
    @classmethod
    def _parse_hosts(cls, value: object) -> object:
        """Read `vendor=host[:port]` pairs into host → vendor."""
        if not isinstance(value, str):
            return value
        hosts: dict[str, str] = {}
        for item in filter(None, (part.strip() for part in value.split(","))):
            vendor, equals, host = item.partition("=")
            # Not only known ones: a vendor may be registered later, or only in another process that has the same environment.
            if not equals or not host or "/" in host or not is_vendor_name(vendor):
                raise ValueError(f"expected vendor=host[:port] with a vendor such as {', '.join(known_vendors())}, got {item!r}")
            hosts[host.lower()] = vendor
        return hosts


def load_settings() -> Settings:
    """
    Read the environment.

    Raises:
        ConfigurationError: a setting that cannot be read; says which and what is allowed.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise ConfigurationError(f"bad KEYGUARD_* setting: {_explained(error)}") from None


def pinned_rates(settings: Settings, table: str | os.PathLike[str] | Mapping[str, Any] | Rates | None) -> Rates | None:
    """
    Return the exchange rates of an argument, else of the environment's file; None = none are pinned.

    Raises:
        ConfigurationError: a table that cannot be read, or has no date.
    """
    found = settings.fx_file if table is None else table
    if found is None:
        return None
    # The reader of rates is not for those who pin none.
    from keyguard.fx import load_rates

    try:
        return load_rates(found)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def put_in_force(settings: Settings) -> None:
    """Let what concerns each call hold for the process: whose hosts are whose, prices, how often a run's state is read."""
    context.set_vendor_hosts(settings.vendor_hosts)
    context.set_unit_prices(settings.unit_prices)
    context.set_price_files(settings.price_files)
    context.set_state_poll(settings.state_poll_seconds)


def is_proxy(url: str) -> bool:
    """Say whether a backend's URL is a proxy's, and not a ledger's."""
    return url.partition("://")[0] in {"http", "https"}


def default_url() -> str:
    """Return the URL of the user's default SQLite ledger."""
    return f"sqlite:///{platformdirs.user_data_path('keyguard') / 'ledger.db'}"


def load_policy(policy: str | os.PathLike[str] | Mapping[str, Any] | Policy | None, fields: Mapping[str, Any]) -> Policy:
    """
    Make a policy from a TOML file, a mapping or a Policy, overlaid with single fields.

    Raises:
        ConfigurationError: unknown field, bad value, a rule for what no operation has, or a file that cannot be read; lists what is known.
    """
    found = _loaded(policy, fields)
    if found.rules:
        # The tables of all vendors' parameters are not for those who have no rules.
        from keyguard.vendors._ruled import check_rules

        check_rules(found)
    return found


def _loaded(policy: str | os.PathLike[str] | Mapping[str, Any] | Policy | None, fields: Mapping[str, Any]) -> Policy:
    if isinstance(policy, Policy):
        base: Mapping[str, Any] = {name: getattr(policy, name) for name in policy.model_fields_set}
        if not fields:
            return policy
        # Values of a Policy are parsed already (micro-USD); only the overlay is still in dollars.
        return policy.model_copy(update={name: getattr(_validated(fields), name) for name in fields})
    base = _from_file(Path(policy)) if isinstance(policy, str | os.PathLike) else policy or {}
    return _validated({**base, **fields})


def _validated(fields: Mapping[str, Any]) -> Policy:
    try:
        return Policy(**fields)
    except ValidationError as error:
        raise ConfigurationError(f"bad policy: {_explained(error)}. Known fields: {', '.join(Policy.model_fields)}") from None


def _from_file(path: Path) -> Mapping[str, Any]:
    # The reader of TOML is not for those who have no file.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        raise ConfigurationError(f"policy file {str(path)!r} does not exist (looked from {str(Path.cwd())!r})") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"policy file {str(path)!r} cannot be read: {error}") from None


def _explained(error: ValidationError) -> str:
    """Say what was wrong without repeating a value that could be a secret."""
    parts: list[str] = []
    for problem in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = f"unknown condition; expected {FORM}" if where.startswith("rules.") else "unknown field"
        parts.append(f"{where}: {text}")
    return "; ".join(parts)
