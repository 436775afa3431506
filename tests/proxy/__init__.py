"""The proxy as a process of its own: `keyguard proxy` on loopback, with real clients before it and the vendors' doubles behind it."""
