"""urllib3's unread answer, in the hands of a caller of requests: passes each part on, and tells the tail when it ends."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyguard.patches._tail import Tail


class Raw(wrapt.ObjectProxy[Any]):
    """
    What a response has as `raw`.

    Args:
        raw: urllib3's own.
        tail: Keeps what is passed on.
        is_packed: The body has a content encoding; what is passed on without undoing it is not kept.
    """

    def __init__(self, raw: Any, tail: Tail, is_packed: bool) -> None:  # noqa: FBT001 -- by position, as the two others
        super().__init__(raw)
        self._self_tail, self._self_is_packed = tail, is_packed

    def stream(self, amt: int = 2**16, decode_content: bool | None = None) -> Iterator[bytes]:  # noqa: FBT001 -- urllib3's signature
        """Yield the parts."""
        return self._self_parts(self.__wrapped__.stream(amt, decode_content=decode_content), decode_content)

    def read_chunked(self, amt: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:  # noqa: FBT001 -- as above
        """Yield the chunks."""
        return self._self_parts(self.__wrapped__.read_chunked(amt, decode_content=decode_content), decode_content)

    def __iter__(self) -> Iterator[bytes]:
        """Yield lines, as urllib3 does: unpacked."""
        return self._self_parts(iter(self.__wrapped__), decode_content=True)

    def read(self, amt: int | None = None, decode_content: bool | None = None, **more: Any) -> bytes:  # noqa: FBT001 -- as above
        """Read some of it, or the rest."""
        with self._self_failing():
            part: bytes = self.__wrapped__.read(amt, decode_content=decode_content, **more)
        self._self_kept(part, decode_content)
        if amt is None or (amt and not part):
            self._self_tail.end()
        return part

    def read1(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:  # noqa: FBT001 -- as above
        """Read what has come."""
        with self._self_failing():
            part: bytes = self.__wrapped__.read1(amt, decode_content=decode_content)
        self._self_kept(part, decode_content)
        if not part and amt != 0:
            self._self_tail.end()
        return part

    def readinto(self, b: Any) -> int:
        """Read into a buffer, as `io` does."""
        part = self.read(len(b))
        b[: len(part)] = part
        return len(part)

    def readline(self, *size: Any) -> bytes:
        """Read a line, as `io` does."""
        with self._self_failing():
            line: bytes = self.__wrapped__.readline(*size)
        self._self_kept(line, None)
        if not line:
            self._self_tail.end()
        return line

    def readlines(self, *hint: Any) -> list[bytes]:
        """Read lines, as `io` does."""
        return list(self) if not hint else list(iter(self.readline, b""))

    @property
    def data(self) -> Any:
        """All of it."""
        return self.read(cache_content=True) if not self.__wrapped__.closed else self.__wrapped__.data

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        try:
            self.__wrapped__.close()
        finally:
            self._self_tail.end()

    def release_conn(self) -> None:
        """Give the connection back."""
        try:
            self.__wrapped__.release_conn()
        finally:
            self._self_tail.end()

    def _self_parts(self, parts: Iterator[bytes], decode_content: bool | None) -> Iterator[bytes]:  # noqa: FBT001 -- handed on
        with self._self_failing():
            for part in parts:
                self._self_kept(part, decode_content)
                yield part
        self._self_tail.end()

    @contextlib.contextmanager
    def _self_failing(self) -> Iterator[None]:
        # An answer that breaks has ended, whoever keeps it.
        try:
            yield
        except Exception:
            self._self_tail.end()
            raise

    def _self_kept(self, part: bytes, decode_content: bool | None) -> None:  # noqa: FBT001 -- handed on
        # What is passed on packed cannot be read as JSON, which makes it unknown: so it is.
        if not self._self_is_packed or decode_content or (decode_content is None and self.__wrapped__.decode_content):
            self._self_tail.keep(part)
