# SPDX-License-Identifier: Apache-2.0
"""The life of a few KV blocks: write and publish them, find them by their keys as any process of this host can, and
read them inside a step. Needs a running kvtierd; KVTIER_SOCKET_DIR names its folder where that is not /run/kvtier."""

import sys
import time

import kvtier
import numpy as np

BLOCKS = 4


def store(session: kvtier.Session, keys: np.ndarray) -> None:
    """Writes each block and publishes it under its key."""
    with session.allocate(BLOCKS) as pages:
        for i, page in enumerate(pages.pages):
            session.data(page)[:] = ord("a") + i
        # chain: the block before is the parent, so that a prefix is evicted from its end.
        published = session.publish(pages, keys, chain=True)
        for i in np.flatnonzero(published.results == kvtier.Publish.PRESENT):
            print(f"block {i} was there already")
    # They stay for others, until room is needed.


def read_back(session: kvtier.Session, keys: np.ndarray) -> bool:
    """Finds the blocks by their keys, and reads each where it is now."""
    with session.hold_keys(keys) as pages:
        with session.step() as step:
            frames = step.resolve(pages)
            arrays = step.pages(pages)  # without a copy; while they live the step is open
            right = all(array is not None and (array == ord("a") + i).all() for i, array in enumerate(arrays))
            session.touch(pages)  # what is read often moves to faster memory
            del arrays
        for i, (page, frame) in enumerate(zip(pages.pages, frames)):
            print(f"block {i}: page {kvtier.page_index(page)}, frame {frame}")
        print(f"{len(pages)} of {BLOCKS} blocks found" + ("" if right else ", and not what was written"))
        return right and len(pages) == BLOCKS


def main() -> int:
    with kvtier.attach(arena="default") as session:
        arena = session.geometry
        print(f"arena of {arena.pages} pages of {arena.page_bytes} bytes")
        # An engine's keys are hashes of all tokens up to the end of the block. These are new in each run.
        keys = np.empty((BLOCKS, 2), dtype=np.uint64)
        keys[:, 0] = np.arange(1, BLOCKS + 1)
        keys[:, 1] = time.time_ns()
        store(session, keys)
        return 0 if read_back(session, keys) else 1


if __name__ == "__main__":
    sys.exit(main())
