"""Logical charges in a SQLite ledger: which number and reservation each has, and the attempts of a reservation. Knows no money."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from keyguard._values import frozen

if TYPE_CHECKING:
    from keyguard.ledgers._sqlite_holds import Hold
    from keyguard.ledgers._sqlite_log import Log
    from keyguard.model import Identity, Order

Ended = Literal["U", "S", "X"]
_SLOT = "execution, unit, task, persists, fingerprint, hold, generation"


@frozen
class Slot:
    """What one execution of a run knows of a charge; `hold` and `generation` are the charge's own, the same in all its slots."""

    execution: str
    unit: str
    task: str
    persists: int
    fingerprint: str
    hold: str | None
    generation: int


@frozen
class Place:
    """
    Where a request belongs.

    Attributes:
        n: Its charge's number.
        slot: What is known of the charge; None = this is its first request.
        is_ours: The request's own execution has asked for it before.
    """

    n: int
    slot: Slot | None = None
    is_ours: bool = False


class Charges:
    """The rows of `slots` and `attempts`."""

    def __init__(self, log: Log, owner: str) -> None:
        self._log, self._owner = log, owner

    # -- numbers ----------------------------------------------------------------------------------

    def place(self, identity: Identity) -> Place:
        """Find a request's charge: the number it came with, or the next one that no other unit of its execution has taken."""
        n = identity.n
        while True:
            slots = self._slots(identity.request, n)
            ours = next((slot for slot in slots if slot.execution == identity.execution), None)
            if ours is None or ours.unit == identity.unit:
                return Place(n, ours or (slots[-1] if slots else None), ours is not None)
            n += 1

    def _slots(self, request: str, n: int) -> list[Slot]:
        query = f"SELECT {_SLOT} FROM slots WHERE identity = ? AND n = ?"
        rows = self._log.execute(query, (request, n)).fetchall()
        if not rows:
            self._begin_slots(request, n)
            rows = self._log.execute(query, (request, n)).fetchall()
        return [Slot(*cast("Any", row)) for row in rows]

    def _begin_slots(self, request: str, n: int) -> None:
        """Give a charge its first slot, of whom its first reservation is, where it has a reservation and no slot yet."""
        self._log.execute(
            f"INSERT OR IGNORE INTO slots (identity, n, {_SLOT}) SELECT identity, n, execution, unit, task, persists, fingerprint, id, 0 "
            "FROM holds WHERE identity = ? AND n = ? AND generation = 0",
            (request, n),
        )

    def is_ambiguous(self, identity: Identity, place: Place) -> bool:
        """
        Say whether a request may be another charge than the settled one whose number it comes to.

        In an earlier execution its unit may be skipped in this one, because its result was kept. Then the request is of another
        unit: one of another name, or another one that had sent the same.
        """
        slot = place.slot
        if slot is None or place.is_ours or not slot.persists:
            return False
        if slot.task != identity.task:
            return True
        found = self._log.execute(
            "SELECT count(*) FROM (SELECT unit FROM slots WHERE identity = ? AND execution = ? "
            "UNION SELECT unit FROM holds WHERE identity = ? AND n >= 0 AND execution = ?)",
            (identity.request, slot.execution, identity.request, slot.execution),
        ).fetchone()
        return found is not None and cast("int", found[0]) > 1

    def take(self, identity: Identity, n: int, hold_id: str, generation: int) -> None:
        """Say that this execution has asked for a charge, and which reservation it has; for all executions where it is a later one."""
        if generation:
            self._log.execute(
                "UPDATE slots SET hold = ?, generation = ? WHERE identity = ? AND n = ?", (hold_id, generation, identity.request, n)
            )
        self._log.execute(
            "INSERT INTO slots VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT DO UPDATE SET "
            "hold = excluded.hold, generation = excluded.generation, persists = excluded.persists, fingerprint = excluded.fingerprint",
            (
                identity.request, n, identity.execution, identity.unit, identity.task, identity.persists, identity.fingerprint, hold_id,
                generation,
            ),
        )  # fmt: skip

    def move(self, hold: Hold, to: str) -> None:
        """Give a charge another reservation of the same generation, and its attempts with it; `leave` comes before."""
        self._log.execute("UPDATE slots SET hold = ? WHERE identity = ? AND n = ? AND hold = ?", (to, hold.identity, hold.n, hold.id))
        self._log.execute("UPDATE attempts SET hold = ? WHERE hold = ?", (to, hold.id))
        self._log.execute("UPDATE unanswered SET hold = ? WHERE hold = ?", (to, hold.id))

    def leave(self, hold: Hold) -> None:
        """Take a reservation from its charge, whose place it would keep from another one of the same generation."""
        self._log.execute("UPDATE holds SET n = -1 WHERE id = ?", (hold.id,))

    def end_generation(self, hold: Hold) -> None:
        """Let the charge's next request be a new try: compared with the reservation that has just been released."""
        if hold.n >= 0:
            self._begin_slots(hold.identity, hold.n)
            self._log.execute("UPDATE slots SET hold = NULL WHERE identity = ? AND n = ? AND hold = ?", (hold.identity, hold.n, hold.id))

    def leave_unanswered(self, hold: Hold) -> None:
        """Remember that the vendor keeps an error as its answer to every request of a charge."""
        self._log.execute("INSERT OR IGNORE INTO unanswered VALUES (?)", (hold.id,))

    def is_unanswered(self, hold: Hold) -> bool:
        """Say whether a further request of a charge can bring nothing but the error that the vendor keeps."""
        return self._log.execute("SELECT 1 FROM unanswered WHERE hold = ?", (hold.id,)).fetchone() is not None

    def lookalike(self, order: Order) -> tuple[str, float] | None:
        """Return a reservation in doubt of the same unit, operation, payee and amount, and its time, for a request of another identity."""
        identity = order.identity
        if identity is None or identity.attempt <= 1:
            return None
        row: Any = self._log.execute(
            "SELECT id, at FROM holds WHERE scope = ? AND state = 'U' AND operation = ? AND amount = ? AND payee = ? AND identity <> ? "
            "AND ((execution = ? AND unit = ?) OR EXISTS (SELECT 1 FROM slots s WHERE s.identity = holds.identity AND s.n = holds.n "
            "AND s.execution = ? AND s.unit = ?))",
            (order.scope, order.operation, order.quote.amount, order.payee, identity.request, *(identity.execution, identity.unit) * 2),
        ).fetchone()
        return None if row is None else (str(row[0]), float(row[1]))

    # -- attempts ---------------------------------------------------------------------------------

    def add_attempt(self, attempt_id: str, hold: Hold, first: str) -> None:
        """Add a call to a reservation; with the second one the first gets its row, in the state `first`."""
        if hold.tries == 1:
            self._log.execute("INSERT OR IGNORE INTO attempts SELECT id, id, owner, ?, at FROM holds WHERE id = ?", (first, hold.id))
        self._log.execute("INSERT INTO attempts VALUES (?,?,?,'R',?)", (attempt_id, hold.id, self._owner, self._log.at))

    def attempt(self, attempt_id: str) -> tuple[str, str] | None:
        """Return the reservation of an attempt, and the attempt's state."""
        row = self._log.execute("SELECT hold, state FROM attempts WHERE id = ?", (attempt_id,)).fetchone()
        return None if row is None else (str(row[0]), str(row[1]))

    def end_attempt(self, attempt_id: str, state: Ended) -> None:
        """Say how an attempt ended."""
        self._log.execute("UPDATE attempts SET state = ? WHERE id = ?", (state, attempt_id))

    def others(self, hold: Hold, attempt_id: str) -> set[str]:
        """Return the states of a reservation's other attempts that are open or in doubt."""
        rows = self._log.execute(
            "SELECT DISTINCT state FROM attempts WHERE hold = ? AND id <> ? AND state IN ('R', 'U')", (hold.id, attempt_id)
        )
        return {str(state) for (state,) in rows}

    def end_doubts(self, hold: Hold, state: Ended) -> None:
        """Say from outside how all attempts of a reservation in doubt ended."""
        self._log.execute("UPDATE attempts SET state = ? WHERE hold = ? AND state IN ('R', 'U')", (state, hold.id))

    def left_by(self, owner: str) -> list[str]:
        """Return the attempts that a process began and did not end."""
        return [
            str(found) for (found,) in self._log.execute("SELECT id FROM attempts WHERE owner = ? AND state = 'R'", (owner,)).fetchall()
        ]
