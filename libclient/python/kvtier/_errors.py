# SPDX-License-Identifier: Apache-2.0
"""Exceptions: one class for each code of kvtier.h."""

from typing import Dict, Type


class Error(Exception):
    """What a call of libkvtier answered. `code` is its KVT_E_ number."""

    code: int = 0


class Invalid(Error, ValueError):
    """An argument is out of its range."""

    code = -1


class Closed(Invalid):
    """The session is closed."""


class Again(Error):
    """The daemon is away, or did not answer in time. Reading and steps go on; try later."""

    code = -2


class NotFound(Error, LookupError):
    """No arena of that name, or no page under that key."""

    code = -3


class Permission(Error):
    """The arena does not let this process in, or the session may only read."""

    code = -4


class Mismatch(Error):
    """Version, geometry or fingerprint differ from the arena's."""

    code = -5


class Stale(Error):
    """The handle's page is gone."""

    code = -6


class WrongState(Error):
    """The page is not in the state that the call needs, such as writing to a sealed one."""

    code = -7


class NotHeld(Error):
    """Released without a hold."""

    code = -8


class Full(Error):
    """No page can be had within the arena's quota."""

    code = -9


class Limit(Error):
    """A limit of the session is reached: steps, holds, members, sequences, copy jobs."""

    code = -10


class Overrun(Error):
    """More has changed than the change log keeps: resolve everything again."""

    code = -11


class NoMemory(Error, MemoryError):
    """This process could not get memory or address space."""

    code = -12


class System(Error):
    """A system call failed; the text has its name and errno."""

    code = -13


class Ended(Error):
    """The session has ended on the daemon's side: close it, and attach again."""

    code = -14


class Forked(Error):
    """This is a forked child of the process that attached."""

    code = -15


class Protocol(Error):
    """The daemon answered something that this library does not understand."""

    code = -16


_BY_CODE: Dict[int, Type[Error]] = {kind.code: kind for kind in Error.__subclasses__()}


def error_of(code: int, text: str) -> Error:
    """The exception of a code, also of one that this package does not know."""
    error = _BY_CODE.get(code, Error)(text)
    error.code = code
    return error
