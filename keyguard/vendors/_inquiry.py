"""What the inquiries of all vendor plugs share: the finding and its parts, one read, whole lists. Knows no vendor; asks nothing by itself.

An inquiry is a generator: it yields `Ask`, is told the `Reply`, and returns a `Finding`. It only reads.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from keyguard.vendors import Ask

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from keyguard.model import Outcome, Reply

# A list that is longer is not read to its end, and then proves nothing.
MOST_PAGES = 100
# The vendor's clock and ours need not agree: what it made may seem to be from before it was asked for.
SKEW = 900.0
# From so long before a call on whatever looks like what it made is looked at: our clock may have been ahead when it was sent.
AHEAD = 86_400.0
_REFUSED, _TOO_MANY, _SERVER_ERROR = frozenset({401, 403}), 429, 500

_T = TypeVar("_T")
Asking: TypeAlias = "Generator[Ask, Reply, _T]"
Document: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class Candidate:
    """
    An object at the vendor that looks like what a call in doubt would have made, and bears no mark of that call.

    Attributes:
        object_id: Its id; it settles one reservation at most.
        outcome: How the call ended, if this is what it made.
        at: When it was made, POSIX seconds by the vendor's clock.
    """

    object_id: str
    outcome: Outcome
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What an inquiry found out about one call in doubt; what follows from it is decided elsewhere (keyguard.doubts).

    Attributes:
        outcome: What the vendor shows by a mark of this very call (its key, its object); None where there is none.
        words: What was seen, for people, in words that follow "Stripe:"; what to do next where nothing was.
        candidates: Where there are no marks: whatever looks like it.
        is_whole: Everything that could show that it was executed was read, to the end.
        objects: The vendor objects that `outcome` rests on.
        needs_owner: Another account may show the same mark (a key of the caller's own choosing): it counts only for who sent the call.
    """

    outcome: Outcome | None = None
    words: str = ""
    candidates: tuple[Candidate, ...] = ()
    is_whole: bool = False
    objects: tuple[str, ...] = ()
    needs_owner: bool = False


Inquiry: TypeAlias = "Generator[Ask, Reply, Finding]"


class Unread(Exception):
    """
    The vendor did not answer a question so that it can be read; says why, and what to do.

    Attributes:
        is_missing: It answered that there is no such thing.
    """

    def __init__(self, words: str, *, is_missing: bool = False) -> None:
        super().__init__(words)
        self.is_missing = is_missing


def document(path: str) -> Asking[Document]:
    """
    Read one JSON object.

    Raises:
        Unread: whatever else the vendor answered.
    """
    reply = yield Ask(path)
    place = path.partition("?")[0]
    if not 200 <= reply.status < 300:
        raise Unread(_why(reply.status, place), is_missing=reply.status == 404)
    try:
        found = json.loads(reply.body or b"")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Unread(f"its answer to GET {place} cannot be read; try again later")
    return cast("Document", found)


def _why(status: int, place: str) -> str:
    if status in _REFUSED:
        return f"it refused to show {place} to this credential (HTTP {status}); use one that may read it"
    if status == _TOO_MANY:
        return "it was asked too often (HTTP 429); try again later"
    if not status:
        return f"it could not be reached (GET {place}); try again later"
    if status >= _SERVER_ERROR:
        return f"it could not answer GET {place} now (HTTP {status}); try again later"
    return f"it does not show {place} (HTTP {status})"


@dataclass(frozen=True, slots=True)
class Listing:
    """
    What was read of a list, newest first.

    Attributes:
        items: Its objects.
        is_whole: Read to the end, or to where nothing of interest can follow.
        why: Why it is not.
    """

    items: tuple[Document, ...] = ()
    is_whole: bool = True
    why: str = ""


def listing(
    first: str,
    items_in: Callable[[Document], object],
    following: Callable[[Document, Document], str | None],
    *,
    is_enough: Callable[[Document], bool] = lambda _item: False,
) -> Asking[Listing]:
    """
    Read a list page by page.

    Args:
        first: The path of its first page.
        items_in: Takes the items out of a page.
        following: Says where the next page is, by this one and its last item; None = this was the last one.
        is_enough: Says that nothing of interest follows this item.

    A page that cannot be read ends the list early: what was read before stays of use, but proves no absence.
    """
    found: list[Document] = []
    path = first
    for _ in range(MOST_PAGES):
        try:
            page = yield from document(path)
        except Unread as unread:
            return Listing(tuple(found), is_whole=False, why=str(unread))
        items = items_in(page)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in cast("list[object]", items)):
            return Listing(tuple(found), is_whole=False, why=f"its answer to GET {first.partition('?')[0]} is no list; try again later")
        known = cast("list[Document]", items)
        found += known
        place = following(page, known[-1] if known else {})
        if place is None or any(is_enough(item) for item in known):
            return Listing(tuple(found))
        path = place
    return Listing(tuple(found), is_whole=False, why=f"it lists more than {MOST_PAGES} pages; look for it by hand")
