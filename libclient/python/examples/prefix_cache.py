# SPDX-License-Identifier: Apache-2.0
"""A prefix cache: each request holds the blocks of its prompt that are there, computes and publishes the others, and
decodes with a block table that follows the daemon's moves.

    python3 prefix_cache.py [DECODE_STEPS]

Needs a running kvtierd; KVTIER_SOCKET_DIR names its folder where that is not /run/kvtier."""

import hashlib
import sys
from typing import Optional

import kvtier
import numpy as np

SALT = b"this model: equal keys must mean equal KV data"


def keys_of(tokens: np.ndarray, block_tokens: int) -> np.ndarray:
    """The key of each block: a hash of its tokens and of the key before, so that equal keys are equal prefixes."""
    keys = []
    key = hashlib.blake2b(SALT, digest_size=16).digest()
    for at in range(0, len(tokens) - block_tokens + 1, block_tokens):
        key = hashlib.blake2b(key + tokens[at : at + block_tokens].tobytes(), digest_size=16).digest()
        keys.append(key)
    return np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2)


class BlockTable:
    """Where each held page of a running sequence is in the current step."""

    def __init__(self, session: kvtier.Session, pages: kvtier.Hold):
        self.pages = pages
        self.slot_of = np.full(session.geometry.pages, -1)  # by page index
        self.slot_of[pages.pages.astype(np.uint32)] = np.arange(len(pages))
        self.cursor: Optional[int] = None
        self.frames = np.zeros(len(pages), dtype=np.uint32)
        self.moves = 0

    def update(self, step: kvtier.Step) -> np.ndarray:
        """Frames by slot, good until `step` ends. Only what has moved since the last step is looked at."""
        while self.cursor is not None:
            try:
                self.cursor, changes = step.changes(self.cursor)
            except kvtier.Overrun:  # too far behind
                break
            if len(changes) == 0:
                return self.frames
            slots = self.slot_of[changes["index"]]
            mine = slots >= 0
            self.frames[slots[mine]] = changes["frame"][mine]
            self.moves += int(mine.sum())
        self.cursor = step.changes_begin()  # first the cursor, then the frames
        self.frames = step.resolve(self.pages)
        return self.frames


def first_words(step: kvtier.Step, frames: np.ndarray) -> np.ndarray:
    """Stands for the attention kernel, which takes frames as block ids: the first word of each block."""
    return np.array([page.view(np.uint64)[0] for page in step.pages_at(frames) if page is not None])


def serve(session: kvtier.Session, name: str, prompt: np.ndarray, decode_steps: int) -> bool:
    """Serves one request; true when every block that its decode steps read was the right one."""
    arena = session.geometry
    keys = keys_of(prompt, arena.block_tokens)
    with session.hold_keys(keys) as blocks:
        hits = len(blocks)
        if hits < len(keys):
            blocks.append(session.allocate(len(keys) - hits))
            fresh = blocks.pages[hits:]
            for page, key in zip(fresh, keys[hits:]):
                session.data(page).view(np.uint64)[:] = key[0]  # stands for prefill
            before = blocks.pages[hits - 1] if hits else kvtier.NO_PAGE
            session.publish(fresh, keys[hits:], chain=True, parents=before)

        right = True
        table = BlockTable(session, blocks)
        for _ in range(decode_steps):
            with session.step() as step:
                right &= np.array_equal(first_words(step, table.update(step)), keys[:, 0])
                session.touch(blocks)
        print(f"{name}: {len(keys)} blocks, {hits} of them from the cache, {table.moves} moves followed")
        return right
    # The holds are given back; what was published stays for the next request.


def main() -> int:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with kvtier.attach() as session:
        block = session.geometry.block_tokens
        shared = np.full(8 * block, 7)  # a system prompt
        longer = np.concatenate([shared, np.full(4 * block, 11)])
        right = serve(session, "first", shared, steps) and serve(session, "second", longer, steps)
    if not right:
        print("a block was not the right one")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
