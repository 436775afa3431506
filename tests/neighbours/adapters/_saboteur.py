"""No library: takes keyguard's handler away while the seams stand, to show that the walk would notice."""

from __future__ import annotations

from tests.neighbours import Neighbour


class Saboteur(Neighbour):
    """Not in the table: its name begins with an underscore."""

    hooks = frozenset[str]()

    def install(self) -> None:
        """Disarm behind keyguard's back."""
        from keyguard import context

        context.set_handler(None)

    def remove(self) -> None:
        """Nothing was patched."""

    def seen(self) -> int:
        """See nothing."""
        return 0


neighbour = Saboteur()
