"""Subnets, spaces and who has which address: what network-get answers. Pure; network.py makes it real."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ALPHA = "alpha"
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BadNetwork(Exception):
    """A CIDR, space or address that cannot be; the text says why."""


@dataclass
class Subnet:
    cidr: Network
    space: str
    number: int  # Of its bridge: br<number>.

    @property
    def bridge(self) -> str:
        return f"br{self.number}"

    @property
    def gateway(self) -> Interface:
        """The address the run's own namespace has on this subnet."""
        return ipaddress.ip_interface(f"{self.cidr.network_address + 1}/{self.cidr.prefixlen}")


@dataclass
class Device:
    """One network card of a machine, on one subnet."""

    name: str
    mac: str
    subnet: Subnet
    addresses: list[Interface] = field(default_factory=list)


@dataclass
class Topology:
    """All subnets and, per machine number, its devices."""

    subnets: list[Subnet] = field(default_factory=list)
    devices: dict[int, list[Device]] = field(default_factory=dict)

    def spaces(self) -> list[str]:
        return sorted({ALPHA, *(s.space for s in self.subnets)})

    def add_subnet(self, cidr: str, space: str) -> Subnet:
        """A new subnet, or a known one moved to another space."""
        try:
            network = ipaddress.ip_network(cidr)
        except ValueError as error:
            raise BadNetwork(f"{cidr!r} is not a subnet: {error}") from None
        for known in self.subnets:
            if known.cidr == network:
                known.space = space
                return known
            if known.cidr.version == network.version and known.cidr.overlaps(network):
                raise BadNetwork(f"{network} overlaps {known.cidr}")
        subnet = Subnet(network, space, len(self.subnets))
        self.subnets.append(subnet)
        return subnet

    def add_address(self, machine: int, cidr: str) -> tuple[Device, Interface]:
        """Give a machine an address: a device on the subnet that holds it, which is made (in alpha) if there is none.

        A subnet instead of an address picks the machine's usual place in it (10 + its number).
        """
        try:
            interface = ipaddress.ip_interface(cidr)
        except ValueError as error:
            raise BadNetwork(f"{cidr!r} is not an address with its prefix: {error}") from None
        subnet = next((s for s in self.subnets if interface.ip in s.cidr), None)
        if subnet is None:
            subnet = self.add_subnet(str(interface.network), ALPHA)
        if interface.ip == interface.network.network_address:
            interface = self._usual(subnet, machine)
        wanted = ipaddress.ip_interface(f"{interface.ip}/{subnet.cidr.prefixlen}")
        if wanted in self._taken(subnet):
            raise BadNetwork(f"{wanted.ip} is already in use")
        cards = self.devices.setdefault(machine, [])
        device = next((d for d in cards if d.subnet is subnet), None)
        if device is None:
            index = len(cards)
            mac = f"00:16:3e:{machine >> 8 & 255:02x}:{machine & 255:02x}:{index:02x}"
            device = Device(f"eth{index}", mac, subnet)
            cards.append(device)
        device.addresses.append(wanted)
        return device, wanted

    def add_address_among(self, machine: int, places: range) -> str:
        """Give a new machine the first free one of these places in the first subnet; return the address."""
        subnet = self.subnets[0]
        taken = {a.ip for a in self._taken(subnet)}
        for place in places:
            ip = subnet.cidr.network_address + place
            if ip in subnet.cidr and ip not in taken:
                self.add_address(machine, f"{ip}/{subnet.cidr.prefixlen}")
                return str(ip)
        raise BadNetwork(f"all {len(places)} places for machines in {subnet.cidr} are taken")

    def _taken(self, subnet: Subnet) -> set[Interface]:
        used = {a for cards in self.devices.values() for d in cards if d.subnet is subnet for a in d.addresses}
        return used | {subnet.gateway}

    def _usual(self, subnet: Subnet, machine: int) -> Interface:
        taken = self._taken(subnet)
        for host in (10 + machine, *range(10, min(subnet.cidr.num_addresses - 1, 65536))):
            if host >= subnet.cidr.num_addresses - 1:
                continue
            candidate = ipaddress.ip_interface(f"{subnet.cidr.network_address + host}/{subnet.cidr.prefixlen}")
            if candidate not in taken:
                return candidate
        raise BadNetwork(f"{subnet.cidr} has no address left")

    def first_address(self, machine: int) -> str:
        for device in self.devices.get(machine, []):
            for address in device.addresses:
                return str(address.ip)
        return ""

    def bound(self, machine: int, space: str) -> list[Device]:
        """The machine's devices that a binding to *space* sees; alpha, the default, sees all of them."""
        cards = self.devices.get(machine, [])
        return cards if space == ALPHA else [d for d in cards if d.subnet.space == space]

    def missing(self, machine: int, space: str) -> str:
        """Juju's own words for a machine without an address in a space; "" if it has one."""
        if any(d.addresses for d in self.bound(machine, space)):
            return ""
        names = sorted({d.subnet.space for d in self.devices.get(machine, []) if d.addresses})
        only = ", ".join(f'"{n}"' for n in names)
        return f'machine "{machine}" has no devices in space "{space}", only spaces {only}'


def network_info(devices: list[Device]) -> dict[str, Any]:
    """network-get's answer for these devices."""
    bind_addresses: list[Mapping[str, Any]] = []
    ingress: list[str] = []
    egress: list[str] = []
    for device in devices:
        addresses: list[dict[str, str]] = []
        for a in device.addresses:
            ip = str(a.ip)
            # The subnet, not the address with its prefix: ops refuses a cidr that has host bits.
            addresses.append({"hostname": "", "value": ip, "address": ip, "cidr": str(a.network)})
            ingress.append(ip)
            egress.append(f"{ip}/{a.ip.max_prefixlen}")
        bind_addresses.append(
            {"mac-address": device.mac, "interface-name": device.name, "addresses": addresses or None}
        )
    return {"bind-addresses": bind_addresses, "egress-subnets": egress[:1], "ingress-addresses": ingress}
