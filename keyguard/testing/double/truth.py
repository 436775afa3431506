"""
The truth file: one line of JSON for each execution, in the order of execution. It judges ledgers, so it imports nothing of
keyguard's, and reading is adding up.

A line is written with one `os.write` to a descriptor opened with O_APPEND, before the vendor's answer leaves: a process that
is killed afterwards, with any signal, has left the line with the kernel. (A loss of power may still take it.)
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class TruthWriter:
    """
    Appends executions to a file, which is made if it is not there. One writer a file at a time; not for several threads at once.

    Attributes:
        rows: How many lines there are.
        last_request: The highest number of a request in the file, as it was found; 0 in an empty one.

    Raises:
        ValueError: A line of the file that is not the last is unreadable.
    """

    def __init__(self, path: str | Path) -> None:
        rows, whole = _read(Path(path))
        self.rows, self.last_request = len(rows), max((int(row["request"]) for row in rows), default=0)
        self._length = whole
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # A torn last line was never answered for; what comes after it must not be glued to it.
        os.ftruncate(self._descriptor, whole)

    def record(self, execution: DataclassInstance) -> None:
        """
        Write one line: the execution's fields, and `seq`, its place from 1.

        Raises:
            OSError: It could not be written whole; nothing of it is left, and the vendor must not execute.
        """
        line = json.dumps({"seq": self.rows + 1, **asdict(execution)}).encode() + b"\n"
        if os.write(self._descriptor, line) != len(line):
            os.ftruncate(self._descriptor, self._length)
            raise OSError("the truth file took only a part of a line")
        self.rows += 1
        self._length += len(line)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Truth:
    """
    Reads a truth file, anew at each question; while it is being written too.

    A torn last line counts as not written. Amounts are millionths of a currency's unit, micro-USD where none is named.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def rows(self, kind: str = "", vendor: str = "", account: str = "") -> list[dict[str, Any]]:
        """
        Return the rows in order, of one kind, vendor or account where named (see `Execution` for the fields).

        Raises:
            ValueError: A line that is not the last is unreadable.
        """
        wanted = {name: value for name, value in (("kind", kind), ("vendor", vendor), ("account", account)) if value}
        return [row for row in _read(self.path)[0] if all(row[name] == value for name, value in wanted.items())]

    def charged(self, currency: str = "usd", vendor: str = "", account: str = "") -> int:
        """Return what was charged, refunds not taken off."""
        return _sum(self.rows("charge", vendor, account), currency)

    def refunded(self, currency: str = "usd", vendor: str = "", account: str = "") -> int:
        """Return what went back, as a positive figure."""
        return -_sum(self.rows("refund", vendor, account), currency)

    def charges_by(self, field: str) -> Counter[str]:
        """Count the charges by a field: `customer`, `key`, `object`, `parent`, `account`, `operation`, `vendor`."""
        return Counter(str(row[field]) for row in self.rows("charge"))

    def executions_of(self, key: str) -> int:
        """Return how many requests with this idempotency key executed, whatever came of it; over all accounts."""
        return len({row["request"] for row in self.rows() if row["key"] == key})


def _sum(rows: list[dict[str, Any]], currency: str) -> int:
    return sum(int(row["micros"]) for row in rows if row["currency"] == currency)


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the rows, and the length of the lines that are whole; a file that is not there is empty."""
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    return [json.loads(line) for line in content[:whole].splitlines()], whole
