# SPDX-License-Identifier: Apache-2.0
"""What calls return that is more than a number: named tuples, and the numbers of kvtier.h by name."""

import enum
from typing import TYPE_CHECKING, NamedTuple, Tuple

import numpy

if TYPE_CHECKING:
    import numpy.typing

    from kvtier import _kvtier


def page_index(page: int) -> int:
    """The index of a page in its arena: the lower half of its handle."""
    return int(page) & 0xFFFFFFFF


class State(enum.IntEnum):
    """State of a page."""

    FREE = 0
    FILLING = 1
    SEALED = 2
    EVICTING = 3


class Publish(enum.IntEnum):
    """Outcome of publishing a page."""

    PUBLISHED = 1
    PRESENT = 2


class Reserve(enum.IntEnum):
    """Who stores a key."""

    NEW = 1
    PRESENT = 2
    PENDING = 3
    FULL = 4


class Advice(enum.IntEnum):
    """What is said of pages by advise()."""

    PREFETCH = 1
    DEMOTE = 2


class Window(NamedTuple):
    """The frames of one tier: first_frame .. first_frame+frames-1."""

    name: str
    first_frame: int
    frames: int
    emulated: bool  # ordinary memory that stands for this tier's kind
    column: int  # the only column that is served from it, or -1 for all
    read_bytes_per_second: int  # as its consumer reads it, by profile or measurement
    device: bool  # memory of a GPU, which a CPU cannot read
    reachable: bool  # mapped in this session


class Geometry(NamedTuple):
    """The arena as mapped in this process: frame f begins at base + f*stride."""

    base: int
    stride: int
    page_bytes: int
    pages: int
    frames: int
    block_tokens: int
    planes: int
    columns: int
    column: int  # this session's
    scratch_frame: int  # always 0: padding of block tables
    read_only: bool
    session_id: int
    member: int
    windows: Tuple[Window, ...]


class Stats(NamedTuple):
    """Counters: moves and evictions of the arena since it was made, the rest of this process."""

    epoch: int
    steps: int
    allocated: int
    lookups: int
    lookup_hits: int
    moves_promoted: int
    moves_demoted_copy: int
    moves_demoted_free: int
    moves_aborted: int
    evictions: int
    reconnects: int
    connected: bool
    offers_taken: int
    bytes_staged: int


class PageInfo(NamedTuple):
    """What the arena table says of a page."""

    page: int
    state: State
    tier: int  # in this session's column
    frame: int
    shadow_frame: int  # NO_FRAME: none
    keyed: bool
    group: int
    key: Tuple[int, int]  # lo, hi
    owner_session: int
    parent: int
    own_holds: int


class Published(NamedTuple):
    """Outcome of Session.publish() for each page."""

    results: "numpy.typing.NDArray[numpy.int32]"  # Publish, or a negative code
    present: "numpy.typing.NDArray[numpy.uint64]"  # the page that has the key, where PRESENT


class Reservation(NamedTuple):
    """Outcome of Session.reserve() for each key."""

    results: "numpy.typing.NDArray[numpy.uint8]"  # Reserve
    hold: "_kvtier.Hold"  # NO_PAGE where PENDING or FULL
