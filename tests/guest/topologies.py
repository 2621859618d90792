# SPDX-License-Identifier: Apache-2.0
"""The machines that the guests are: what QEMU is told, and what the guest has to find."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Node:
    """One NUMA node; its place in Topology.nodes is its OS index."""

    mib: int
    cpus: str = ""  # list text as the kernel prints it; empty: memory only
    initiator: int = 0  # node whose CPUs are nearest; of no meaning without HMAT


@dataclass(frozen=True)
class Topology:
    nodes: tuple[Node, ...]
    smp: str = "4,sockets=2,cores=2,threads=1"
    distances: dict[tuple[int, int], int] = field(default_factory=dict)  # of unequal nodes, one direction
    # (initiator, target) -> nanoseconds and GiB/s. QEMU's "400G" is 400 GiB/s, and the kernel shows 409600 MB/s.
    latency_ns: dict[tuple[int, int], int] = field(default_factory=dict)
    bandwidth_gib: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def hmat(self) -> bool:
        return bool(self.bandwidth_gib)

    def best_latency_ns(self, target: int) -> int:
        return min(value for (_, to), value in self.latency_ns.items() if to == target)

    def best_bandwidth_gib(self, target: int) -> int:
        return max(value for (_, to), value in self.bandwidth_gib.items() if to == target)

    def qemu_arguments(self) -> list[str]:
        arguments = ["-machine", "q35,hmat=on" if self.hmat else "q35", "-smp", self.smp]
        arguments += ["-m", f"{sum(node.mib for node in self.nodes)}M"]
        if len(self.nodes) == 1:
            return arguments  # as most machines are: no NUMA tables at all
        for index, node in enumerate(self.nodes):
            arguments += ["-object", f"memory-backend-ram,id=m{index},size={node.mib}M"]
            numa = f"node,nodeid={index},memdev=m{index}"
            if node.cpus:
                numa += f",cpus={node.cpus}"
            if self.hmat:
                numa += f",initiator={node.initiator}"
            arguments += ["-numa", numa]
        for (source, target), value in self.distances.items():
            arguments += ["-numa", f"dist,src={source},dst={target},val={value}"]
        for (initiator, target), value in self.latency_ns.items():
            arguments += ["-numa", f"hmat-lb,initiator={initiator},target={target},hierarchy=memory,"
                                   f"data-type=access-latency,latency={value}"]
        for (initiator, target), value in self.bandwidth_gib.items():
            arguments += ["-numa", f"hmat-lb,initiator={initiator},target={target},hierarchy=memory,"
                                   f"data-type=access-bandwidth,bandwidth={value}G"]
        return arguments


TOPOLOGIES = {
    # Two packages and an expander: node 2 has no CPU, is slow, and nearer to package 0.
    "three_nodes": Topology(
        nodes=(Node(512, "0-1", 0), Node(512, "2-3", 1), Node(512, "", 0)),
        distances={(0, 1): 21, (0, 2): 17, (1, 2): 28},
        latency_ns={(0, 0): 90, (0, 1): 150, (0, 2): 250, (1, 0): 150, (1, 1): 90, (1, 2): 330},
        bandwidth_gib={(0, 0): 400, (0, 1): 120, (0, 2): 60, (1, 0): 120, (1, 1): 300, (1, 2): 40},
    ),
    # Unequal sizes and unequal numbers of CPUs, and no HMAT: what the table does not say is unknown.
    "asymmetric": Topology(
        nodes=(Node(320, "0-2"), Node(768, "3"), Node(128, "")),
        distances={(0, 1): 32, (0, 2): 20, (1, 2): 40},
    ),
    "one_node": Topology(nodes=(Node(512, "0-1"),), smp="2"),
    # As many nodes as a daemon may have tiers; half of them have no CPU.
    "eight_nodes": Topology(
        nodes=tuple(Node(320 if i == 0 else 128, str(i) if i < 4 else "") for i in range(8)),
        smp="4,sockets=4,cores=1,threads=1",
        distances={(i, j): 20 if i + 4 == j else 30 for i in range(8) for j in range(i + 1, 8)},
    ),
}
