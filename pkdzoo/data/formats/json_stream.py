"""A large JSON file read one record at a time: a sliding buffer over the standard library's decoder.

Any order of keys, any white space, any nesting; memory holds one element of an array and a mebibyte of text.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

CHUNK = 1 << 20  # bytes read at a time; a record longer than the buffer doubles it
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonStream:
    """Walks the members of one JSON object, handing out the elements of its arrays one at a time.

    Args:
        file: open for reading bytes.
        name: of the file, for messages.
        cut: text to drop before anything is decoded, for values that are long and not wanted. What it
            matches has to be whole JSON values together with their keys; null takes their place.
        chunk: bytes to read at a time.
    """

    def __init__(self, file: BinaryIO, name: str, cut: re.Pattern[str] | None = None, chunk: int = CHUNK) -> None:
        self.file, self.name, self.cut, self.chunk = file, name, cut, chunk
        self._to_text = codecs.getincrementaldecoder("utf-8-sig")().decode  # Windows editors write the mark
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False

    def _fail(self, message: str) -> ValueError:
        return ValueError(f"{self.name} is not a JSON file: {message} (near byte {self.file.tell() - self._left()})")

    def _left(self) -> int:
        return len(self._text) - self._at

    def _more(self) -> bool:
        """Forget what has been read, and get at least as much again as is still unread; False at the end."""
        if self._ended:
            return False
        data = self.file.read(max(self.chunk, self._left()))
        self._ended = not data
        try:
            fresh = self._to_text(data, self._ended)
        except UnicodeDecodeError as error:
            raise self._fail(f"its text is not UTF-8 ({error.reason})") from None
        text = self._text[self._at :] + fresh
        self._text, self._at = text if self.cut is None else self.cut.sub('"":null', text), 0
        return True

    def peek(self) -> str:
        """The next character that is not white space, left unread; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None  # it matches nothing as well
            self._at = space.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, wanted: str) -> str:
        """Read one of the characters in ``wanted``."""
        found = self.peek()
        if not found or found not in wanted:
            told = f"{found!r} stands" if found else "the file ends"
            raise self._fail(f"{told} where {' or '.join(repr(c) for c in wanted)} was expected")
        self._at += 1
        return found

    def value(self) -> Any:
        """Decode the next value, whole."""
        self.peek()
        while True:
            try:
                found, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._more():
                    raise self._fail(error.msg) from None
                continue
            # A number may go on in the next chunk, and "1e+" decodes as 1 while its digits are not there yet.
            if len(self._text) - end < 3 and self._more():
                continue
            self._at = end
            return found

    def members(self) -> Iterator[str]:
        """Keys of the object; the caller reads each value before it asks for the next key."""
        self.take("{")
        if self.peek() == "}":
            return
        while True:
            if self.peek() != '"':
                self.take('"')
            key: str = self.value()
            self.take(":")
            yield key
            if self.take(",}") == "}":
                return

    def elements(self) -> Iterator[Any]:
        """Elements of the array, decoded one at a time."""
        self.take("[")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def skip(self) -> None:
        """Read a value nobody asked for without holding more of it than one element."""
        if self.peek() == "[":
            for _ in self.elements():
                pass
        else:
            self.value()
