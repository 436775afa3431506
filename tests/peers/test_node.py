"""The peers from npm can be had, start on loopback and stop with their block."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support_node import Missing, node_peer, skip_or_fail, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.peers, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def specs() -> Iterator[Path]:
    """The folder of Twilio's OpenAPI files."""
    try:
        yield unpacked("@twilio/cli-core") / "src" / "services" / "twilio-api"
    except Missing as missing:
        skip_or_fail(missing)


def test_a_peer_runs_while_its_block_does(specs: Path) -> None:
    """Prism answers by the specification on a free port, and is gone after the block."""
    try:
        with node_peer("@stoplight/prism-cli", ["mock", "-h", "127.0.0.1", "-p", "{port}", str(specs / "twilio_pricing_v1.json")]) as peer:
            answer = httpx.get(f"{peer.url}/v1/Messaging/Countries", auth=("AC", "x"))
    except Missing as missing:
        skip_or_fail(missing)

    assert answer.status_code == 200
    assert "countries" in answer.json()
    assert peer.process.returncode is not None
    with pytest.raises(httpx.ConnectError):
        httpx.get(peer.url)
