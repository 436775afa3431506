"""Twilio's own OpenAPI files beside the plug's tables: no write and no read of theirs is missing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from keyguard.vendors import _twilio_paths as paths
from tests.support_node import Missing, skip_or_fail, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.peers

_VERBS = frozenset({"get", "post", "put", "patch", "delete"})
_ID = re.compile(r"\{[^}]*\}")


@pytest.fixture(scope="module")
def specified() -> set[tuple[str, str, str]]:
    """Return method, product and path of every operation of every file of @twilio/cli-core."""
    try:
        folder = unpacked("@twilio/cli-core") / "src" / "services" / "twilio-api"
    except Missing as missing:
        skip_or_fail(missing)
    documents = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]

    assert len(documents) >= 55
    return {operation for document in documents for operation in _operations(document)}


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for path, item in document["paths"].items():
        for server in item.get("servers") or document["servers"]:
            product = re.fullmatch(r"https://([a-z-]+)\.twilio\.com", server["url"])

            assert product is not None
            for verb in _VERBS & set(item):
                yield verb.upper(), product[1], _ID.sub("*", path).removesuffix(".json")


def test_every_write_of_the_specification_is_classified(specified: set[tuple[str, str, str]]) -> None:
    """A new version of the files with a write that no row names fails here."""
    writes = {operation for operation in specified if operation[0] != "GET"}

    assert len(writes) >= 750
    assert sorted(writes - set(paths.writes())) == []


def test_every_read_of_the_specification_has_a_name(specified: set[tuple[str, str, str]]) -> None:
    """Names of reads come from the second table, which misses none."""
    reads = {operation for operation in specified if operation[0] == "GET"}

    assert len(reads) >= 700
    assert sorted(reads - set(paths.reads())) == []
