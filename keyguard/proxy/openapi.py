"""The proxy's OpenAPI document: written by hand, held against the routes and their answers by tests. Answers nothing."""

from __future__ import annotations

from typing import Any

from keyguard import __version__
from keyguard.model import LARGEST_USD
from keyguard.proxy.issuing import ALIASES
from keyguard.proxy.showing import LAST_ROW, MOST_ROWS
from keyguard.vendors import known_vendors

_USD: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": LARGEST_USD, "description": "US dollars, with six decimals at most."}
_CAP: dict[str, Any] = {**_USD, "minimum": 0.000001}
_FIELDS: dict[str, dict[str, Any]] = {
    "vendor": {"type": "string", "description": "The only vendor that the key is for; without it, any that the proxy has a secret of."},
    "daily_usd_cap": {**_CAP, "description": "US dollars that keys of this name (else of this label) may spend in one UTC day."},
    "run_usd_cap": {**_CAP, "description": "US dollars that the run, or without a run the key, may spend."},
    "call_usd_cap": {**_USD, "description": "US dollars that one call may cost."},
    "refund_usd_cap": {**_USD, "description": "US dollars of own charges that may be refunded; without it, what was charged."},
    "max_calls": {"type": "integer", "minimum": 1},
    "max_emails": {"type": "integer", "minimum": 1},
    "allowed_endpoints": {
        "type": "array", "items": {"type": "string"},
        "description": "`METHOD /path` (`*` = one segment, `**` = many), a path, or an operation's name; all else is refused.",
    },
    "rules": {"type": "object", "description": "What the fields of an operation's requests may say, by operation and field."},
    "expires_in": {"oneOf": [{"type": "string"}, {"type": "number"}], "description": "`30m`, `4h`, `7d`, or seconds."},
    "expires_at": {"oneOf": [{"type": "string", "format": "date-time"}, {"type": "number"}], "description": "ISO 8601 or POSIX seconds."},
    "agent_run_label": {"type": "string", "maxLength": 200},
    "run_id": {"type": "string", "maxLength": 200, "description": "Keys of one run draw on one budget."},
    "name": {"type": "string", "maxLength": 200, "description": "Whose day's cap it is."},
    "mode": {"enum": ["enforce", "observe"]},
    "unpriced": {"oneOf": [{"enum": ["refuse", "allow"]}, _USD]},
    "on_doubt": {"enum": ["resend", "refuse"]},
    "idempotency": {"enum": ["derive", "off"]},
}  # fmt: skip
_KEY_ID = {"name": "key_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_TEXT = {"type": ["string", "null"]}
_AMOUNT = {"type": ["number", "null"]}
_HANDLE: dict[str, Any] = {
    "type": "object",
    "required": ["key_id", "id", "state", "expires_at", "policy_in_force"],
    "properties": {
        "key_id": {"type": "string"}, "id": {"type": "string"}, "run_id": _TEXT, "vendor": _TEXT, "agent_run_label": _TEXT,
        "state": {"enum": ["active", "expired", "revoked", "closed"]}, "expires_at": _TEXT, "daily_usd_cap": _AMOUNT,
        "run_usd_cap": _AMOUNT, "policy_in_force": {"type": "object"},
    },
}  # fmt: skip
_SCHEMAS: dict[str, Any] = {
    "Wanted": {
        "type": "object",
        "additionalProperties": False,
        "properties": {alias: _FIELDS[concept] for concept, aliases in ALIASES.items() for alias in aliases},
        "anyOf": [{"required": [name]} for concept in ("daily_usd_cap", "run_usd_cap") for name in ALIASES[concept]],
    },
    "Handle": _HANDLE,
    "Issued": {
        "allOf": [
            {"$ref": "#/components/schemas/Handle"},
            {
                "type": "object",
                "required": ["vault_key", "token", "warnings", "capabilities"],
                "properties": {
                    "vault_key": {"type": "string", "pattern": "^vault_key_"}, "token": {"type": "string", "pattern": "^vault_key_"},
                    "warnings": {"type": "array", "items": {"type": "string"}}, "capabilities": {"type": "object"},
                },
            },
        ]
    },
    "Figures": {
        "allOf": [
            {"$ref": "#/components/schemas/Handle"},
            {
                "type": "object",
                "required": ["cap_usd", "spent_usd", "held_usd", "in_doubt_usd", "remaining_usd"],
                "properties": dict.fromkeys(("cap_usd", "spent_usd", "held_usd", "in_doubt_usd", "remaining_usd"), _AMOUNT),
            },
        ]
    },
    "Problem": {
        "type": "object",
        "required": ["error", "message", "status", "keyguard"],
        "properties": {
            "error": {
                "type": "object", "required": ["type", "code", "message"],
                "properties": {name: {"type": "string"} for name in ("type", "code", "message")},
            },
            "message": {"type": "string"}, "code": {"type": "integer"}, "status": {"type": "integer"}, "name": {"type": "string"},
            "keyguard": {"type": "object", "required": ["error", "reason"]},
        },
    },
}  # fmt: skip


_CHANGE = {"type": "object", "additionalProperties": False, "required": ["run_usd_cap"], "properties": {"run_usd_cap": _CAP}}
# What the vendors read; others are forwarded as well.
_MEDIA = ("application/x-www-form-urlencoded", "application/json")
_DENIALS = {
    400: "not forwardable", 401: "no vault key, or an unknown, revoked or expired one", 403: "refused by the policy", 408: "too slow",
    413: "too long", 429: "a cap would be passed", 431: "too long a head", 502: "the vendor did not answer: in doubt",
    503: "nobody can decide, or too much is under way",
}  # fmt: skip


_QUERIES: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST_ROWS},
    "after": {"type": "integer", "minimum": 0, "maximum": LAST_ROW},
}


def _ref(name: str) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}}


def _does(
    summary: str, answers: dict[str, Any], *, body: Any = None, parameters: Any = (), statuses: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Write one operation of an admin: what it answers, and what it refuses."""
    said: dict[str, Any] = {"summary": summary, "security": [{"admin": []}], "parameters": list(parameters)}
    problems = {str(status): {"description": "why not", **_ref("Problem")} for status in (401, 503, *statuses)}
    said["responses"] = {**{status: {"description": "done", **answer} for status, answer in answers.items()}, **problems}
    return said if body is None else {**said, "requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}


def _query(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "schema": _QUERIES.get(name, {"type": "string", "minLength": 1})} for name in names]


def document() -> dict[str, Any]:
    """Return the document."""
    anything = {"content": {"application/json": {"schema": {"type": "object"}}}}
    unread = (400, 408, 413, 422)
    keys = {
        "post": _does("Issue a key, or find a run's again", {"201": _ref("Issued"), "200": _ref("Issued")},
                      body={"$ref": "#/components/schemas/Wanted"}, statuses=unread),
        "get": _does("The latest keys, with their figures", {"200": anything}, parameters=_query("limit"), statuses=(400, 422)),
        "delete": _does("Revoke by run, label or policy, of which one is named", {"200": anything},
                        parameters=_query("run_id", "agent_run_id", "label", "agent_run_label", "policy"), statuses=(400, 404, 422)),
    }  # fmt: skip
    key = {
        "parameters": [_KEY_ID],
        "get": _does("One key, with its figures", {"200": _ref("Figures")}, statuses=(400, 404)),
        "patch": _does("Raise or lower its run_usd_cap", {"200": _ref("Figures")}, statuses=(*unread, 404),
                       body=_CHANGE),
        "delete": _does("Revoke it; doing it again changes nothing", {"200": _ref("Handle")}, statuses=(400, 404)),
    }  # fmt: skip
    audit = {
        "get": _does(
            "The audit log, oldest first",
            {"200": anything},
            parameters=_query("after", "limit", "key_id", "run_id"),
            statuses=(400, 404, 422),
        )
    }
    plain = {"200": {"description": "yes", **anything}}
    paths: dict[str, Any] = {
        "/vault/keys": keys, "/vault/keys/{key_id}": key, "/v1/keys": keys, "/v1/keys/{key_id}": key, "/audit": audit,
        "/healthz": {"get": {"summary": "Is the process alive", "security": [], "responses": plain}},
        "/readyz": {"get": {"summary": "Can it decide", "security": [], "responses": {**plain, "503": {"description": "no", **anything}}}},
        "/openapi.json": {"get": {"summary": "This document", "security": [], "responses": plain}},
    }  # fmt: skip
    for vendor in known_vendors():
        paths[f"/{vendor}/{{path}}"] = _forwarding(vendor)
    return {
        "openapi": "3.1.0",
        "info": {"title": "keyguard proxy", "version": __version__, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "admin": {"type": "http", "scheme": "bearer", "description": "An admin token."},
                "vault_key": {"type": "http", "scheme": "bearer", "description": "A vault key; as the user or the password of Basic too."},
                "vault_key_basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def _forwarding(vendor: str) -> dict[str, Any]:
    """Describe the forwarding of a vendor's calls: its path is the vendor's own, `HOST/...` where that is another than the main one."""
    path = {
        "name": "path", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}, "x-greedy": True,
        "description": "Its slashes are slashes: dot segments, and encoded dots, slashes and backslashes, are 400.",
    }  # fmt: skip
    either = {"anyOf": [{"$ref": "#/components/schemas/Problem"}, {"description": "What the vendor itself says with this status."}]}
    responses = {
        str(status): {"description": f"{text}; or the vendor's own answer", "content": {"application/json": {"schema": either}}}
        for status, text in _DENIALS.items()
    }
    one = {
        "summary": f"Forward a call to {vendor}", "security": [{"vault_key": []}, {"vault_key_basic": []}],
        "responses": {"default": {"description": "the vendor's own answer, untouched"}, **responses},
    }  # fmt: skip
    written = {**one, "requestBody": {"content": {media: {"schema": {"type": "object"}} for media in _MEDIA}}}
    return {"parameters": [path], **dict.fromkeys(("get", "delete"), one), **dict.fromkeys(("post", "put", "patch"), written)}
