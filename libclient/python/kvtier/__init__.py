# SPDX-License-Identifier: Apache-2.0
"""KV-cache pages that kvtierd owns, shared by all inference processes of a host.

A page is FILLING (its session writes it), then sealed for good; the daemon moves it between memory tiers while it is
read. A page is named by its handle, an integer; where its bytes are, its frame, is good inside one step only.

    with kvtier.attach(arena="default") as session:
        with session.hold_keys(keys) as pages, session.step() as step:
            frames = step.resolve(pages)    # block ids for a paged-attention kernel
            arrays = step.pages(pages)      # the bytes, without a copy
            session.touch(pages)

docs/python.md says what arrays of pages mean; docs/integrate.md how an engine uses all this. After os.fork() the child
has no session: calls raise Forked, and arrays of pages read as zeros there.
"""

from kvtier._errors import (
    Again,
    Closed,
    Ended,
    Error,
    Forked,
    Full,
    Invalid,
    Limit,
    Mismatch,
    NoMemory,
    NotFound,
    NotHeld,
    Overrun,
    Permission,
    Protocol,
    Stale,
    System,
    WrongState,
)
from kvtier._kvtier import (
    NO_FRAME,
    NO_PAGE,
    CopyJob,
    DeviceArray,
    DeviceMap,
    DeviceTouches,
    Hold,
    Sequence,
    Session,
    Step,
    __version__,
    attach,
    join,
)
from kvtier._records import (
    Advice,
    Geometry,
    PageInfo,
    Publish,
    Published,
    Reservation,
    Reserve,
    State,
    Stats,
    Window,
    page_index,
)

__all__ = [
    "Advice",
    "Again",
    "Closed",
    "CopyJob",
    "DeviceArray",
    "DeviceMap",
    "DeviceTouches",
    "Ended",
    "Error",
    "Forked",
    "Full",
    "Geometry",
    "Hold",
    "Invalid",
    "Limit",
    "Mismatch",
    "NO_FRAME",
    "NO_PAGE",
    "NoMemory",
    "NotFound",
    "NotHeld",
    "Overrun",
    "PageInfo",
    "Permission",
    "Protocol",
    "Publish",
    "Published",
    "Reservation",
    "Reserve",
    "Sequence",
    "Session",
    "Stale",
    "State",
    "Stats",
    "Step",
    "System",
    "Window",
    "WrongState",
    "__version__",
    "attach",
    "join",
    "page_index",
]
