"""A seeded simulator of whole fleets, in the manner of TigerBeetle's VOPR: `python -m keyguard.testing.simulator`. Holds no code."""
