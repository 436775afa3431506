"""A seeded simulator of whole fleets in the manner of TigerBeetle's VOPR; loads nothing by itself. `python -m keyguard.testing.simulator`."""
