# SPDX-License-Identifier: Apache-2.0
"""The machines that the guests are: what QEMU is told, and what the guest has to find."""

from dataclasses import dataclass, field


# What QEMU's device says of itself; the way to it, by the generic port, is faster.
CXL_READ_GBS = 16.0


@dataclass(frozen=True)
class Node:
    """One NUMA node; its place in Topology.nodes is its OS index."""

    mib: int  # 0: a place in the tables that has neither memory nor CPUs
    cpus: str = ""  # list text as the kernel prints it; empty: memory only
    initiator: int = 0  # node whose CPUs are nearest; of no meaning without HMAT
    kind: str = "dram"  # what kvtier is to take it for


@dataclass(frozen=True)
class Topology:
    nodes: tuple[Node, ...]
    smp: str = "4,sockets=2,cores=2,threads=1"
    distances: dict[tuple[int, int], int] = field(default_factory=dict)  # of unequal nodes, one direction
    # (initiator, target) -> nanoseconds and GiB/s. QEMU's "400G" is 400 GiB/s, and the kernel shows 409600 MB/s.
    latency_ns: dict[tuple[int, int], int] = field(default_factory=dict)
    bandwidth_gib: dict[tuple[int, int], int] = field(default_factory=dict)

    # The tiers that follow, as (kind, OS indices of the nodes), fastest first.
    tiers: tuple[tuple[str, tuple[int, ...]], ...] = ()
    # A CXL memory device, behind the generic port that is the last of `nodes`. Its host bridge has two windows, the
    # kernel keeps a node number for each, and the scenario puts the device into the second: the numbers have a hole.
    cxl_mib: int = 0
    # A module that was plugged into a node of its own, the next after `nodes`: offline until the scenario brings it online.
    module_mib: int = 0

    def found(self) -> dict[int, Node]:
        """The nodes that the guest has in the end, by OS index."""
        nodes = {index: node for index, node in enumerate(self.nodes) if node.mib}
        if self.cxl_mib:
            nodes[len(self.nodes)] = Node(self.cxl_mib, kind="cxl")
        return nodes

    @property
    def hmat(self) -> bool:
        return bool(self.bandwidth_gib)

    def best_latency_ns(self, target: int) -> float | None:
        """As the nearest CPUs see it. None: QEMU was told nothing of it."""
        return min((value for (_, to), value in self.latency_ns.items() if to == target), default=None)

    def best_read_gbs(self, target: int) -> float | None:
        """10^9 bytes a second, as the kernel counts: it takes the GiB for 1024 of its MB."""
        if self.cxl_mib and target == len(self.nodes):
            return CXL_READ_GBS
        best = max((value for (_, to), value in self.bandwidth_gib.items() if to == target), default=None)
        return None if best is None else best * 1.024

    def qemu_arguments(self) -> list[str]:
        machine = "q35" + (",hmat=on" if self.hmat else "") + (",cxl=on" if self.cxl_mib else "")
        arguments = ["-machine", machine, "-smp", self.smp, "-m", f"{sum(node.mib for node in self.nodes)}M" +
                     (",slots=1,maxmem=4G" if self.module_mib else "")]
        if len(self.nodes) == 1:
            return arguments  # as most machines are: no NUMA tables at all
        for index, node in enumerate(self.nodes):
            if node.mib == 0:
                arguments += ["-numa", f"node,nodeid={index}"]
                continue
            arguments += ["-object", f"memory-backend-ram,id=m{index},size={node.mib}M"]
            numa = f"node,nodeid={index},memdev=m{index}"
            if node.cpus:
                numa += f",cpus={node.cpus}"
            if self.hmat:
                numa += f",initiator={node.initiator}"
            arguments += ["-numa", numa]
        if self.module_mib:
            arguments += ["-numa", f"node,nodeid={len(self.nodes)}",
                          "-object", f"memory-backend-ram,id=module,size={self.module_mib}M",
                          "-device", f"pc-dimm,memdev=module,node={len(self.nodes)}"]
        for (source, target), value in self.distances.items():
            arguments += ["-numa", f"dist,src={source},dst={target},val={value}"]
        for (initiator, target), value in self.latency_ns.items():
            arguments += ["-numa", f"hmat-lb,initiator={initiator},target={target},hierarchy=memory,"
                                   f"data-type=access-latency,latency={value}"]
        for (initiator, target), value in self.bandwidth_gib.items():
            arguments += ["-numa", f"hmat-lb,initiator={initiator},target={target},hierarchy=memory,"
                                   f"data-type=access-bandwidth,bandwidth={value}G"]
        if self.cxl_mib:
            arguments += ["-object", f"memory-backend-ram,id=cxl,size={self.cxl_mib}M",
                          "-device", "pxb-cxl,bus_nr=12,bus=pcie.0,id=cxl.1",
                          "-object", f"acpi-generic-port,id=port,pci-bus=cxl.1,node={len(self.nodes) - 1}",
                          "-device", "cxl-rp,port=0,bus=cxl.1,id=rp0,chassis=0,slot=2",
                          "-device", "cxl-type3,bus=rp0,volatile-memdev=cxl,id=expander",
                          "-machine", "cxl-fmw.0.targets.0=cxl.1,cxl-fmw.0.size=1G,"
                                      "cxl-fmw.1.targets.0=cxl.1,cxl-fmw.1.size=1G"]
        return arguments


TOPOLOGIES = {
    # Two packages and an expander: node 2 has no CPU, is slow, and nearer to package 0.
    "three_nodes": Topology(
        nodes=(Node(512, "0-1", 0), Node(512, "2-3", 1), Node(512, "", 0, "cxl")),
        distances={(0, 1): 21, (0, 2): 17, (1, 2): 28},
        latency_ns={(0, 0): 90, (0, 1): 150, (0, 2): 250, (1, 0): 150, (1, 1): 90, (1, 2): 330},
        bandwidth_gib={(0, 0): 400, (0, 1): 120, (0, 2): 60, (1, 0): 120, (1, 1): 300, (1, 2): 40},
        tiers=(("dram", (0,)), ("dram", (1,)), ("cxl", (2,))),
    ),
    # Unequal sizes and unequal numbers of CPUs, and no HMAT: what the table does not say is unknown.
    "asymmetric": Topology(
        nodes=(Node(256, "0-2"), Node(384, "3"), Node(128, "", kind="unknown")),
        smp="4,sockets=4,cores=1,threads=1",
        distances={(0, 1): 32, (0, 2): 20, (1, 2): 40},
        tiers=(("dram", (0, 1)), ("unknown", (2,))),
    ),
    "one_node": Topology(nodes=(Node(512, "0-1"),), smp="2", tiers=(("hbm", (0,)), ("dram", (0,)))),
    # As many nodes as a daemon may have tiers; half of them have no CPU.
    "eight_nodes": Topology(
        nodes=tuple(Node(320 if i == 0 else 128, str(i)) for i in range(4)) + 4 * (Node(128, kind="unknown"),),
        smp="4,sockets=4,cores=1,threads=1",
        distances={(i, j): 20 if i + 4 == j else 30 for i in range(8) for j in range(i + 1, 8)},
        tiers=(("dram", (0, 1, 2, 3)), ("unknown", (4, 5, 6, 7))),
    ),
    "hotplug": Topology(nodes=(Node(448, "0-1"), Node(384, "2-3")), module_mib=256),
    # The three nodes, a generic port, and behind it a CXL device that is node 4 once it is online.
    "cxl": Topology(
        nodes=(Node(320, "0-1", 0), Node(256, "2-3", 1), Node(128, "", 0, "cxl"), Node(0)),
        distances={(0, 1): 21, (0, 2): 17, (1, 2): 28, (0, 3): 20, (1, 3): 30, (2, 3): 30},
        latency_ns={(0, 0): 90, (0, 1): 150, (0, 2): 250, (0, 3): 80,
                    (1, 0): 150, (1, 1): 90, (1, 2): 330, (1, 3): 160},
        bandwidth_gib={(0, 0): 400, (0, 1): 120, (0, 2): 60, (0, 3): 32,
                       (1, 0): 120, (1, 1): 300, (1, 2): 40, (1, 3): 24},
        tiers=(("dram", (0,)), ("dram", (1,)), ("cxl", (2,)), ("cxl", (4,))),
        cxl_mib=256,
    ),
}
