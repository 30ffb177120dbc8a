"""Reads a large JSON file one record at a time: a sliding buffer around the standard library's decoder.

Keys may come in any order, with any white space. Memory holds one element of an array and a mebibyte of text. Files of
strangers are read here as well, so the size and depth of a value are limited, a key may occur once in an object, and
nothing may follow the end of the JSON text: other readers would disagree about what such a file says.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

CHUNK = 1 << 20  # bytes read at a time; a record longer than the buffer doubles it
LIMIT = 1 << 28  # characters of a single value that is decoded at once; decoded, they take ten times the memory
_SPACE = re.compile(r"[ \t\n\r]*")


class InvalidJson(ValueError):
    """Raised by the decoder for JSON that more text cannot repair."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members, for ``object_pairs_hook``; ``json`` itself keeps the last of equal keys.

    Raises:
        InvalidJson: a key occurs twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise InvalidJson(f"the key {twice[:40]!r} occurs twice in one object")
    return content


class JsonStream:
    """Iterates over the members of one JSON object, and over the elements of its arrays.

    Args:
        file: open for reading bytes.
        name: name of the file in messages.
        cut: pattern of text that is removed before decoding, for long values that are not needed. A match must be a
            whole JSON value with its key, which is replaced by ``"segmentation":null``. The pattern must take linear
            time on any text.
        chunk: bytes to read at a time.
        limit: characters of a single value.
    """

    def __init__(
        self, file: BinaryIO, name: str, cut: re.Pattern[str] | None = None, chunk: int = CHUNK, limit: int = LIMIT
    ) -> None:
        self.file, self.name, self.cut, self.chunk, self.limit = file, name, cut, chunk, limit
        self._to_text = codecs.getincrementaldecoder("utf-8-sig")().decode  # editors on Windows write a byte order mark
        self._decode = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode
        self._text, self._position, self._at_end = "", 0, False

    def _error(self, message: str) -> ValueError:
        return ValueError(f"{self.name} is not a JSON file: {message} (near byte {self.file.tell() - self._unread()})")

    def _unread(self) -> int:
        return len(self._text) - self._position

    def _read_more(self) -> bool:
        """Drop the decoded text and read at least as many bytes as are still unread; False at the end of the file."""
        if self._at_end:
            return False
        if self._unread() > self.limit:
            raise self._error(f"one of its values is longer than {self.limit / 2**20:g} MiB")
        data = self.file.read(max(self.chunk, self._unread()))
        self._at_end = not data
        try:
            new_text = self._to_text(data, self._at_end)
        except UnicodeDecodeError as error:
            raise self._error(f"its text is not UTF-8 ({error.reason})") from None
        text = self._text[self._position :] + new_text
        self._text, self._position = text if self.cut is None else self.cut.sub('"segmentation":null', text), 0
        return True

    def peek(self) -> str:
        """The next character that is not white space, without reading it; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._position)
            assert space is not None  # it also matches an empty text
            self._position = space.end()
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more():
                return ""

    def take(self, expected: str) -> str:
        """Read one character, which must be one of ``expected``."""
        character = self.peek()
        if not character or character not in expected:
            actual = f"found {character!r}" if character else "the file ends"
            raise self._error(f"{actual} where {' or '.join(repr(c) for c in expected)} was expected")
        self._position += 1
        return character

    def end(self) -> None:
        """Check that only white space follows.

        Raises:
            ValueError: there is more text.
        """
        if self.peek():
            raise self._error(f"found {self.peek()!r} behind its end: a file holds one object or list")

    def value(self) -> Any:
        """Decode the next value."""
        self.peek()
        while True:
            value, end, problem = self._try_to_decode()
            # A number may continue in the next chunk: "1e+" decodes as 1 as long as the exponent is not read.
            if (problem or len(self._text) - end < 3) and self._read_more():
                continue
            if problem:
                raise self._error(problem)
            self._position = end
            return value

    def _try_to_decode(self) -> tuple[Any, int, str]:
        """The next value, the position of its end, and the problem where more text may be needed.

        Raises:
            ValueError: no further text would make it valid.
        """
        try:
            return *self._decode(self._text, self._position), ""
        except json.JSONDecodeError as error:
            return None, 0, error.msg
        except RecursionError:
            problem = "its values are nested too deeply"
        except MemoryError:
            problem = "one of its values does not fit into memory"
        except ValueError as error:  # equal keys, and integers of thousands of digits
            problem = str(error).partition(";")[0]
        raise self._error(problem)  # outside of the except clause, which would keep the memory of the deep stack

    def members(self) -> Iterator[str]:
        """Keys of the object; the caller must read each value before it takes the next key."""
        self.take("{")
        if self.peek() == "}":
            self._position += 1
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
            self._position += 1
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def skip(self) -> None:
        """Skip a value; of an array one element at a time is in memory."""
        if self.peek() == "[":
            for _ in self.elements():
                pass
        else:
            self.value()
