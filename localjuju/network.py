"""The run's network for real: a bridge for each subnet, a cable to each host's devices, and cuts between them.

Everything lives in the run's network namespace, which has no route out. A cut is a silent DROP on the bridge, as a
broken network is, so established connections hang instead of being refused.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from localjuju import spaces

# A unit's machine number, or this for the run's own namespace: what `shell` and clients in it use.
OUTSIDE = -1

_RULES = """
table bridge localjuju {
 set between { type ifname . ifname; }
 set inward { type ifname; }
 set outward { type ifname; }
 chain forwarding {
  type filter hook forward priority 0; policy accept;
  iifname . oifname @between counter drop
 }
 chain incoming {
  type filter hook input priority 0; policy accept;
  iifname @inward counter drop
 }
 chain outgoing {
  type filter hook output priority 0; policy accept;
  oifname @outward counter drop
 }
}
"""


class NetworkFailed(Exception):
    """ip or nft refused; the text is theirs."""


@dataclass(frozen=True)
class Cut:
    """Packets from any of `sources` to any of `targets` are dropped; targets None means every unit not in sources."""

    sources: frozenset[int]
    targets: frozenset[int] | None
    one_way: bool = False

    def pairs(self, machines: set[int]) -> set[tuple[int, int]]:
        """Ordered (from, to) pairs that this cut drops, among the machines there are now."""
        targets = machines - self.sources if self.targets is None else self.targets
        there = {(s, t) for s in self.sources for t in targets if s != t}
        return there if self.one_way else there | {(t, s) for s, t in there}

    def without(self, machine: int) -> Cut | None:
        """What is left of this cut once a machine is healed."""
        sources = self.sources - {machine}
        targets = None if self.targets is None else self.targets - {machine}
        return Cut(sources, targets, self.one_way) if sources and (targets is None or targets) else None


async def command(*argv: str, stdin: str = "") -> str:
    """Run a program of the machine with a deadline. Raises NetworkFailed with what it said."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(20):
            out, _ = await process.communicate(stdin.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise NetworkFailed(f"{' '.join(argv)} did not answer in 20 s") from None
    text = out.decode(errors="replace").strip()
    if process.returncode:
        raise NetworkFailed(f"{' '.join(argv)}: {text or process.returncode}")
    return text


class Network:
    """Makes a Topology real. One caller at a time (the lock is held here)."""

    def __init__(self, topology: spaces.Topology) -> None:
        self._topology = topology
        self._lock = asyncio.Lock()
        self._bridges: set[str] = set()
        self._wired: dict[int, set[str]] = {}
        self.cuts: list[Cut] = []

    async def start(self) -> None:
        # In this order: on Linux 6.18 a bridge table made before the first bridge never sees a packet.
        await self.sync_subnets()
        await command("nft", "-f", "-", stdin=_RULES)

    async def sync_subnets(self) -> None:
        """Make the bridges that are missing."""
        async with self._lock:
            lines = []
            for subnet in self._topology.subnets:
                bridge = subnet.bridge
                if bridge in self._bridges:
                    continue
                dad = " nodad" if subnet.cidr.version == 6 else ""
                lines += [
                    f"link add {bridge} type bridge forward_delay 0 mcast_snooping 0",
                    f"addr add {subnet.gateway} dev {bridge}{dad}",
                    f"link set {bridge} up",
                ]
                self._bridges.add(bridge)
            if lines:
                await command("ip", "-batch", "-", stdin="\n".join(lines) + "\n")

    async def connect(self, machine: int, pid: int) -> None:
        """Plug a freshly booted host (its pid 1 is *pid*) into all its subnets."""
        await self.sync_subnets()
        async with self._lock:
            for port in self._wired.pop(machine, set()):
                # The old host's namespace may still be on its way out and hold the other end.
                await _remove(port)
        await self.sync_devices(machine, pid)

    async def sync_devices(self, machine: int, pid: int) -> None:
        """Give a running host the devices and addresses it lacks."""
        await self.sync_subnets()
        async with self._lock:
            wired = self._wired.setdefault(machine, set())
            outer, inner = [], []
            for device in self._topology.devices.get(machine, []):
                port = port_name(machine, device)
                if port not in wired:
                    outer += [
                        f"link add {port} type veth peer name {device.name} address {device.mac} netns {pid}",
                        f"link set {port} master {device.subnet.bridge} up",
                    ]
                    wired.add(port)
                for address in device.addresses:
                    dad = " nodad" if address.version == 6 else ""
                    inner.append(f"addr replace {address} dev {device.name}{dad}")
                inner.append(f"link set {device.name} up")
            if outer:
                await command("ip", "-batch", "-", stdin="\n".join(outer) + "\n")
            if inner:
                enter = ("nsenter", "--target", str(pid), "--net", "--")
                await command(*enter, "ip", "-batch", "-", stdin="\n".join(inner) + "\n")
            await self._apply()

    async def disconnect(self, machine: int) -> None:
        """The host is gone for good; what was cut from it is forgotten."""
        async with self._lock:
            for port in self._wired.pop(machine, set()):
                await _remove(port)
            self.cuts = [left for c in self.cuts if (left := c.without(machine))]
            await self._apply()

    async def cut(self, cut: Cut) -> None:
        async with self._lock:
            self.cuts.append(cut)
            await self._apply()

    async def heal(self, machines: set[int] | None) -> None:
        """Undo every cut, or those that the named machines are in."""
        async with self._lock:
            kept = [] if machines is None else self.cuts
            for machine in machines or ():
                kept = [left for c in kept if (left := c.without(machine))]
            self.cuts = kept
            await self._apply()

    async def _apply(self) -> None:
        """Render all cuts anew, in one transaction: a device that came after a cut is cut, too."""
        ports = {m: sorted(wired) for m, wired in self._wired.items()}
        dropped = {p for c in self.cuts for p in c.pairs(set(ports))}
        between = {f'"{s}" . "{t}"' for a, b in dropped for s in ports.get(a, ()) for t in ports.get(b, ())}
        inward = {f'"{p}"' for a, b in dropped if b == OUTSIDE for p in ports.get(a, ())}
        outward = {f'"{p}"' for a, b in dropped if a == OUTSIDE for p in ports.get(b, ())}
        text = ""
        for name, elements in (("between", between), ("inward", inward), ("outward", outward)):
            text += f"flush set bridge localjuju {name}\n"
            if elements:
                text += f"add element bridge localjuju {name} {{ {', '.join(sorted(elements))} }}\n"
        await command("nft", "-f", "-", stdin=text)


def port_name(machine: int, device: spaces.Device) -> str:
    """The bridge's end of a device's cable; the kernel allows 15 characters."""
    return f"u{machine}e{device.name.removeprefix('eth')}"


async def _remove(port: str) -> None:
    """See to it that the device is gone. The kernel removes it too, at a moment of its own, once the host has ended."""
    try:
        await command("ip", "link", "delete", port)
    except NetworkFailed:
        if await _exists(port):
            raise


async def _exists(port: str) -> bool:
    try:
        await command("ip", "link", "show", port)
    except NetworkFailed:
        return False
    return True
