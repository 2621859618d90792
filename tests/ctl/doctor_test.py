# SPDX-License-Identifier: Apache-2.0
#
# kvtierctl doctor on fake machines: a tree of files that is well, and one thing changed in each test.
import json
import os
import signal
import subprocess
import tempfile
import unittest

from kvtierd import CONFIG, KVTIERCTL, PATIENCE, Daemon

LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max open files            {files}                 {files}                files
Max locked memory         {memlock}              {memlock}              bytes
"""

WELL = {
    "proc/sys/kernel/osrelease": "6.1.0-18-amd64\n",
    "proc/sys/kernel/numa_balancing": "0\n",
    "proc/sys/vm/overcommit_memory": "0\n",
    "proc/sys/vm/zone_reclaim_mode": "0\n",
    "proc/meminfo": "MemTotal:       1000000 kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n",
    "proc/self/limits": LIMITS.format(files="65536", memlock="8388608"),
    "proc/self/cgroup": "0::/system.slice/kvtierd.service\n",
    "proc/self/status": "Name:\tcat\nMems_allowed_list:\t0-1\n",
    "sys/fs/cgroup/system.slice/kvtierd.service/memory.max": "max\n",
    "sys/fs/cgroup/system.slice/kvtierd.service/cpu.max": "max 100000\n",
    "sys/devices/system/node/online": "0-1\n",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "512\n",
    "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "512\n",
    "sys/kernel/mm/transparent_hugepage/shmem_enabled": "always within_size advise [never] deny force\n",
    "run/kvtier/control.sock": "",
}

SWAP = "MemTotal: 1000000 kB\nSwapTotal: 2048 kB\nSwapFree: 1024 kB\n"

# code, verdict, words of what is seen or to be done, files that differ (None: not there)
CASES = [
    ("kernel", "bad", "Linux 5.10.0", {"proc/sys/kernel/osrelease": "5.10.0-8-amd64"}),
    ("kernel", "ok", "Linux 5.14.0", {"proc/sys/kernel/osrelease": "5.14.0"}),
    ("kernel", "warn", "cannot be read", {"proc/sys/kernel/osrelease": None}),
    ("huge_pages", "ok", "512 of them free", {}),
    (
        "huge_pages",
        "warn",
        "vm.nr_hugepages",
        {
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "0",
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": "0",
        },
    ),
    (
        "huge_pages",
        "ok",
        "shared memory: advise",
        {
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages": None,
            "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": None,
            "sys/kernel/mm/transparent_hugepage/shmem_enabled": "always within_size [advise] never deny force",
        },
    ),
    ("memlock", "ok", "there is no swap", {}),
    ("memlock", "warn", "LimitMEMLOCK=infinity", {"proc/meminfo": SWAP}),
    (
        "memlock",
        "ok",
        "unlimited",
        {"proc/meminfo": SWAP, "proc/self/limits": LIMITS.format(files="65536", memlock="unlimited")},
    ),
    ("swap", "ok", "2 MiB of swap, 1 MiB used", {"proc/meminfo": SWAP}),
    ("descriptors", "warn", "LimitNOFILE", {"proc/self/limits": LIMITS.format(files="1024", memlock="0")}),
    ("numa_balancing", "warn", "sysctl kernel.numa_balancing=0", {"proc/sys/kernel/numa_balancing": "1"}),
    (
        "numa_balancing",
        "ok",
        "1 memory node",
        {"proc/sys/kernel/numa_balancing": "1", "sys/devices/system/node/online": "0"},
    ),
    ("overcommit", "warn", "overcommit_ratio", {"proc/sys/vm/overcommit_memory": "2"}),
    ("zone_reclaim", "warn", "zone_reclaim_mode=0", {"proc/sys/vm/zone_reclaim_mode": "1"}),
    ("clock", "warn", "clock source hpet", {"sys/devices/system/clocksource/clocksource0/current_clocksource": "hpet"}),
    ("nodes", "warn", "AllowedMemoryNodes of the unit, if tiers are to lie on node 2, 4", {"sys/devices/system/node/online": "0-2,4"}),
    (
        "cgroup",
        "ok",
        "memory.max of /system.slice/kvtierd.service is 1 GiB",
        {"sys/fs/cgroup/system.slice/kvtierd.service/memory.max": "1073741824"},
    ),
    ("cgroup", "warn", "memory.high of /system.slice is", {"sys/fs/cgroup/system.slice/memory.high": "1000000"}),
    ("cgroup", "warn", "no CPUQuota", {"sys/fs/cgroup/system.slice/kvtierd.service/cpu.max": "50000 100000"}),
    ("cgroup", "ok", "no cgroup of version 2", {"proc/self/cgroup": "4:memory:/x\n"}),
    ("gpu", "ok", "no NVIDIA GPU", {}),
    ("gpu", "bad", "no libcuda.so.1", {"proc/driver/nvidia/version": "NVRM version: 550.54.15\nGCC", "dev/nvidiactl": ""}),
    ("gpu", "bad", "modprobe nvidia", {"dev/nvidiactl": "", "usr/lib64/libcuda.so.1": ""}),
    ("gpu", "bad", "no /dev/nvidiactl", {"proc/driver/nvidia/version": "NVRM version: 550.54.15", "usr/lib64/libcuda.so.1": ""}),
    (
        "gpu",
        "ok",
        "NVRM version: 550.54.15; /usr/lib64/libcuda.so.1",
        {
            "proc/driver/nvidia/version": "NVRM version: 550.54.15\nGCC version",
            "usr/lib64/libcuda.so.1": "",
            "dev/nvidiactl": "",
        },
    ),
    ("sockets", "warn", "sockets of a kvtierd that has gone", {}),
    ("sockets", "warn", "there is no /run/kvtier", {"run/kvtier/control.sock": None}),
]


class FakeMachines(unittest.TestCase):
    def tree(self, changes):
        folder = tempfile.TemporaryDirectory(prefix="kvt-")
        self.addCleanup(folder.cleanup)
        for name, text in {**WELL, **changes}.items():
            if text is None:
                continue
            path = os.path.join(folder.name, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return folder.name

    def look(self, changes):
        root = self.tree(changes)
        ran = subprocess.run(
            [KVTIERCTL, "--json", "--socket-dir", "/run/kvtier", "doctor", "--fsroot", root],
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
        self.assertEqual(ran.stderr, "")
        answer = json.loads(ran.stdout)
        bad = [finding for finding in answer["findings"] if finding["verdict"] == "bad"]
        self.assertEqual(answer["ok"], not bad)
        self.assertEqual(ran.returncode, 1 if bad else 0)
        order = [["bad", "warn", "ok"].index(finding["verdict"]) for finding in answer["findings"]]
        self.assertEqual(order, sorted(order), "the worst come first")
        return {finding["code"]: finding for finding in answer["findings"]}

    def test_one_thing_each(self):
        for code, verdict, words, changes in CASES:
            with self.subTest(code=code, verdict=verdict, words=words):
                findings = self.look(changes)
                finding = findings[code]
                self.assertEqual(finding["verdict"], verdict, finding)
                self.assertIn(words, finding["seen"] + " " + finding["do"])
                self.assertNotEqual(finding["why"], "")
                if verdict != "ok":
                    self.assertNotEqual(finding["do"], "")
                for other, found in findings.items():
                    if other not in (code, "sockets", "swap", "memlock"):
                        self.assertEqual(found["verdict"], "ok", found)

    def test_a_folder_that_anybody_writes(self):
        root = self.tree({})
        os.chmod(os.path.join(root, "run/kvtier"), 0o777)
        shown = subprocess.run(
            [KVTIERCTL, "--socket-dir", "/run/kvtier", "doctor", "--fsroot", root],
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
        )
        self.assertEqual(shown.returncode, 1)
        self.assertTrue(shown.stdout.startswith("  BAD      sockets: /run/kvtier has mode 0777"), shown.stdout)
        self.assertIn("do: chmod 0755 /run/kvtier", shown.stdout)
        self.assertTrue(all(len(line) <= 80 for line in shown.stdout.splitlines()), shown.stdout)


class WithADaemon(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)

    def findings(self, *arguments):
        answer = self.daemon.json("doctor", *arguments)
        return {finding["code"]: finding for finding in answer["findings"]}

    def test_it_is_found_and_asked(self):
        findings = self.findings()
        self.assertEqual(findings["sockets"]["verdict"], "ok")
        self.assertIn(f"process {self.daemon.process.pid}", findings["sockets"]["seen"])
        self.assertEqual(findings["daemon.not_kept"]["verdict"], "ok")  # a note
        self.assertIn(f"of kvtierd (process {self.daemon.process.pid})", findings["memlock"]["seen"])
        self.assertEqual(findings["kernel"]["verdict"], "ok", findings["kernel"])

    def test_one_that_does_not_answer(self):
        self.daemon.process.send_signal(signal.SIGSTOP)
        finding = self.findings()["sockets"]
        self.assertEqual(finding["verdict"], "bad")
        self.assertIn(f"(process {self.daemon.process.pid}) has its lock and does not answer", finding["seen"])

    def test_configurations(self):
        running = self.findings("--config", self.daemon.config)["config"]
        self.assertEqual(running["verdict"], "ok", running)
        self.assertIn("is not asked", running["seen"])
        self.daemon.stop()
        fits = self.findings("--config", self.daemon.config)["config"]
        self.assertIn("it fits this machine now", fits["seen"])
        wrong = os.path.join(self.daemon.folder, "wrong.toml")
        with open(wrong, "w", encoding="utf-8") as file:
            file.write(CONFIG.replace('"16KiB"', '"15KiB"'))
        broken = self.findings("--config", wrong)["config"]
        self.assertEqual(broken["verdict"], "bad")
        self.assertIn("wrong.toml:", broken["seen"])
        with open(wrong, "w", encoding="utf-8") as file:
            file.write(CONFIG.replace('"17MiB"', '"1000TiB"'))
        large = self.findings("--config", wrong)["config"]
        self.assertEqual(large["verdict"], "bad", large)


if __name__ == "__main__":
    unittest.main(verbosity=2)
