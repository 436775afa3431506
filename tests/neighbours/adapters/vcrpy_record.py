"""vcrpy while it records: every request reaches the wire and the cassette."""

from __future__ import annotations

from tests.neighbours.cassette import Cassette

neighbour = Cassette(mode="all")
