# SPDX-License-Identifier: Apache-2.0
#
# Answers of a real daemon, by the tables of docs/kvtierctl.md that describe them. Lists of tiers, arenas and sessions
# stand for themselves there.
import os

from kvtierd import Daemon


def collect(daemon: Daemon):
    """A list of answers for each table, and whole ones by the name of their schema."""
    whole = []

    def ask(*arguments):
        answer = daemon.json(*arguments)
        whole.append(answer)
        return answer

    for verb in ("status", "tiers", "arenas", "sessions", "events", "heat", "plan"):
        ask(verb)
    ask("arenas", "--audit")
    ask("top", "--interval", "0.2")
    ask("doctor")
    ask("config", "show")
    ask("config", "check", daemon.config)
    ask("page", "0")
    ask("unpin", "0")
    ask("topology")
    ask("calibrate", "--bytes", str(2 << 20), "--repetitions", "1", "--no-keep")
    ask("policy", "show")
    ask("policy", "set", "cooldown_ms=1")
    ask("drain", "hbm0", "--undo")
    ask("resize", "default", "dram", "all")
    ask("tier", "add", "spare", "bytes=1MiB")
    ask("tier", "remove", "spare")
    ask("arena", "create", "chat", "page_bytes=32KiB", "bytes.hbm0=0")
    ask("arena", "delete", "chat", "--yes")
    ask("record", "--out", os.path.join(daemon.folder, "now.rec"), "--seconds", "0.1")
    # Nobody has attached: these are refused, in words.
    for arguments in (("explain", "0"), ("pin", "0"), ("move", "0", "dram"), ("evict-session", "7", "--yes"), ("page", "9999999")):
        answer = ask(*arguments)
        assert not answer["ok"], answer
    return whole
