"""Every ledger that keyguard ships keeps the ledger contract. One class a ledger; what only one ledger does is tested elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyguard.testing.ledger_contract import LedgerContract
from tests.support_ledgers import SqliteFile, SqliteMemory

if TYPE_CHECKING:
    from pathlib import Path

    from keyguard.testing.ledger_contract import LedgerPlace


class TestSqliteProcess(LedgerContract):
    """A SQLite file that survives kill -9."""

    def ledger_factory(self, folder: Path) -> LedgerPlace:
        """Return a file whose commits need no sync."""
        return SqliteFile(folder, "process")

    # The plain run has it in memory: the books are the same code.
    @pytest.mark.ci
    def test_ledger_behaves_like_the_plain_model(self, tmp_path: Path) -> None:
        """Whatever happens in whatever order, decisions and figures are those of a dict."""
        super().test_ledger_behaves_like_the_plain_model(tmp_path)


# The same code as of the other file, but for its syncs.
@pytest.mark.ci
class TestSqlitePower(LedgerContract):
    """A SQLite file that survives a power cut."""

    def ledger_factory(self, folder: Path) -> LedgerPlace:
        """Return a file whose reserves are synced before they are acknowledged."""
        return SqliteFile(folder, "power")

    # .ci/run has it on the file without syncs.
    @pytest.mark.slow
    def test_ledger_behaves_like_the_plain_model(self, tmp_path: Path) -> None:
        """Whatever happens in whatever order, decisions and figures are those of a dict."""
        super().test_ledger_behaves_like_the_plain_model(tmp_path)


class TestSqliteMemory(LedgerContract):
    """A SQLite ledger in memory."""

    def ledger_factory(self, folder: Path) -> LedgerPlace:
        """Return a ledger without a file."""
        return SqliteMemory()
