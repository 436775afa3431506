"""A word from the process of a flow to others of its machine that its body was left: they run tasks of it, and hear nothing else for long.

A flow that SIGTERM ends waits for its pool's tasks before Prefect learns that it crashed; until then the API says that it runs. So a file
stands in a folder of this user's, named after the run and this entry of its body, for as long as the flow waits; what looks for it are the
threads that watch runs (keyguard.prefect.polling). A machine without such a folder stops those tasks when Prefect's API knows.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyguard.prefect import labels

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def said(flow_run: Any, how: str) -> Iterator[None]:
    """Let other processes of this machine know for the length of the block how a flow run ends; never raises, "" = says nothing."""
    place = _place(str(flow_run.id), flow_run) if how else None
    with contextlib.suppress(OSError):
        if place is not None:
            place.parent.mkdir(mode=0o700, exist_ok=True)
            if not _is_ours(place.parent):
                place = None
            else:
                place.write_text(how, encoding="utf-8")
    try:
        yield
    finally:
        if place is not None:
            with contextlib.suppress(OSError):
                place.unlink()


def heard(run_id: str, flow_run: Any) -> str:
    """
    Return how a flow run ends, in the words of its own process; "" where nothing was said.

    Args:
        run_id: That of the run itself, or of one that it was called in.
        flow_run: Prefect's object, as it came to this process: its labels name the entry of the root's body.
    """
    place = _place(run_id, flow_run)
    try:
        if place is None or not place.exists() or not _is_ours(place.parent):
            return ""
        # Made before it is filled.
        return place.read_text(encoding="utf-8") or "is ending"
    except (OSError, UnicodeDecodeError):
        return ""


def _place(run_id: str, flow_run: Any) -> Path | None:
    marks = labels.read(getattr(flow_run, "labels", None))
    if marks is None or not marks.execution or not hasattr(os, "getuid"):
        return None
    return Path(tempfile.gettempdir()) / f"keyguard-{os.getuid()}" / f"{run_id}.{marks.execution}"


def _is_ours(folder: Path) -> bool:
    """Say whether nobody else can write there: names in a shared folder can be taken by anybody."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
