"""vcrpy while it replays: every request is answered from a cassette that was recorded before anything was guarded."""

from __future__ import annotations

from tests.neighbours.cassette import Cassette

neighbour = Cassette(mode="none")
