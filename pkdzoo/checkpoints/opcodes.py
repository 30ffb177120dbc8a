"""A check of a pickle's instructions before any of them is executed.

A pickle is a program for a stack machine. A few bytes of it can reserve gigabytes (a memo index of 2^28), crash the
process (tuples nested a million deep) or run for years (a dictionary key that contains one tuple in 2^60 places). The
check follows the program without making its objects. It keeps one number for each value on the stack, its weight: 0 for
a number or a string, 1 for a list, a dictionary or an object, and 1 + the weights of its items for a tuple. The weight
of a tuple bounds its depth and the time that it takes to hash it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from typing import IO, Any

MAX_OPCODES = 5_000_000
MAX_WEIGHT = 10_000  # of a tuple
MAX_KEYS = 1_000  # keys that are tuples or numbers of more than 64 bits, whose hashes a file can choose to collide

# Instructions by their effect on the stack.
REFUSED = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
NOTHING = {"PROTO", "FRAME", "STOP"}
CONTAINERS = {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "EMPTY_TUPLE", "PERSID"}
SAVES = {"PUT", "BINPUT", "LONG_BINPUT"}
LOADS = {"GET", "BINGET", "LONG_BINGET"}
REPLACES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "BINPERSID": 1}
REMOVES = {"APPEND": 1, "BUILD": 1, "SETITEM": 2}
TO_MARK = {"APPENDS", "SETITEMS", "ADDITEMS", "POP_MARK", "LIST", "DICT", "TUPLE", "FROZENSET", "INST", "OBJ"}
KEYS = {"SETITEM": 2, "SETITEMS": 2, "DICT": 2, "ADDITEMS": 1, "FROZENSET": 1}  # every n-th value is hashed
PUSHES_SUM = {"TUPLE", "FROZENSET", "INST", "OBJ"}
PUSHES_ONE = {"LIST", "DICT"}


def check_opcodes(file: IO[bytes]) -> None:
    """Read a pickle up to its end without executing it; the file is then at the byte after the pickle.

    Args:
        file: at the start of the pickle; its ``read`` must return at most the bytes that are left.

    Raises:
        ValueError: for a pickle that is damaged, or would take much memory or time; the message says which.
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count >= MAX_OPCODES:
            raise ValueError(f"its pickle has more than {MAX_OPCODES} instructions: remove logs and lists of numbers")
        try:
            machine.step(opcode.name, argument, count)
        except IndexError:
            raise ValueError(f"its pickle takes a value from an empty stack ({opcode.name})") from None


class _Machine:
    """The stack, the marks and the memo of a pickle, with weights in place of values."""

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.marks: list[int] = []
        self.memo: dict[int, int] = {}
        self.keys = 0

    def step(self, name: str, argument: Any, count: int) -> None:
        """Apply one instruction; IndexError for an empty stack."""
        stack = self.stack
        if name in SAVES or name == "MEMOIZE":
            self._save(len(self.memo) if name == "MEMOIZE" else argument, count)
        elif name in LOADS:
            if argument not in self.memo:
                raise ValueError("its pickle refers to a value that it did not store")
            stack.append(self.memo[argument])
        elif name in REPLACES:
            stack.append(1 + sum(self._pop(REPLACES[name])))
            self._check_weight()
        elif name in TO_MARK:
            self._to_mark(name)
        elif name in REMOVES:
            values = self._pop(REMOVES[name])
            self._check_keys(name, values)
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "STACK_GLOBAL":
            self._pop(2)
            stack.append(0)
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP":
            if self.marks and self.marks[-1] == len(stack):
                self.marks.pop()
            else:
                stack.pop()
        elif name in REFUSED:
            raise ValueError(f"its pickle has the instruction {name}, which torch.save does not write")
        elif name not in NOTHING:
            stack.append(1 if name in CONTAINERS or _is_long(argument) else 0)

    def _pop(self, number: int) -> list[int]:
        if len(self.stack) < number + (self.marks[-1] if self.marks else 0):
            raise IndexError
        values = self.stack[-number:]
        del self.stack[-number:]
        return values

    def _to_mark(self, name: str) -> None:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        self._check_keys(name, values)
        if name in PUSHES_SUM:
            self.stack.append(1 + sum(values))
            self._check_weight()
        elif name in PUSHES_ONE:
            self.stack.append(1)

    def _save(self, index: int, count: int) -> None:
        if not 0 <= index <= count:  # pickle numbers its values one by one
            raise ValueError("its pickle stores a value under an index that is far too high")
        self.memo[index] = self.stack[-1]

    def _check_weight(self) -> None:
        if self.stack[-1] > MAX_WEIGHT:
            raise ValueError("its pickle has a tuple that is nested too deep or holds too many tuples")

    def _check_keys(self, name: str, values: Sequence[int]) -> None:
        if name in KEYS:
            self.keys += sum(weight > 0 for weight in values[:: KEYS[name]])
            if self.keys > MAX_KEYS:
                raise ValueError(f"its pickle has more than {MAX_KEYS} keys that are tuples or very long numbers")


def _is_long(argument: Any) -> bool:
    return isinstance(argument, int) and not -(1 << 63) <= argument < 1 << 63
