"""Flow 3, hop 1: this machine's interfaces and their addresses, asked of the kernel, and which of them are whose.

The kernel is asked over netlink, with plain sockets. `ip -j addr` would say the same, and needs a program that minimal
images leave out, and a process each second; /proc has no IPv4 addresses of interfaces, and /sys has none at all.

Two questions are answered: which addresses another machine may dial (a controller reports those), and which networks
exist only inside of this machine, on the bridges of its containers (an agent must not dial a controller there: every
machine has its own 10.0.3.1).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from controller.api import scopes

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Own = ipaddress.IPv4Interface | ipaddress.IPv6Interface

# By the names that LXD, Incus, LXC, Docker, Podman, libvirt, multipass and the CNI plugins give their bridges, and
# Juju its fans. A bridge that somebody made for the machine's own network (br0, br-eth0) has another name, and stays.
_BRIDGE = re.compile(
    r"(?:lxdbr|incusbr|lxcbr|docker|podman|cni-podman|cni|cbr|nerdctl|virbr|mpqemubr|fan-)\d+"
    r"|docker_gwbridge|kube-bridge|br-[0-9a-f]{12}|flannel\.\d+"
)

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR, _DONE, _NEWLINK, _GETLINK, _NEWADDR, _GETADDR = 2, 3, 16, 18, 20, 22
_REQUEST_DUMP = 0x301
_IFLA_IFNAME = 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_UP = 0x1
# Of an address: temporary (IPv6; as a flag it means "secondary" for IPv4), not yet or never unique, running out.
_TEMPORARY, _DUPLICATE, _DEPRECATED, _TENTATIVE = 0x01, 0x08, 0x20, 0x40
_ASK_SECONDS = 2.0
_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class Interface:
    """One interface that is up, and its addresses with their networks."""

    name: str
    addresses: tuple[Own, ...]

    @property
    def is_container_bridge(self) -> bool:
        return _BRIDGE.fullmatch(self.name) is not None


def current() -> tuple[Interface, ...]:
    """Return this network namespace's interfaces that are up. Raises OSError when the kernel does not answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_ASK_SECONDS)
        netlink.bind((0, 0))
        links = list(_dump(netlink, _GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)))
        addresses = list(_dump(netlink, _GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)))
    return parse(links, addresses)


def parse(links: Iterable[bytes], addresses: Iterable[bytes]) -> tuple[Interface, ...]:
    """Return the interfaces that these messages of the kernel describe, without those that are down. Pure."""
    names = dict(found for message in links if (found := _link(message)) is not None)
    own: dict[int, list[Own]] = {index: [] for index in names}
    for message in addresses:
        index, address = _address(message)
        if address is not None and index in own:
            own[index].append(address)
    return tuple(Interface(names[index], tuple(found)) for index, found in own.items())


def dialled_from_afar(interfaces: Iterable[Interface]) -> tuple[str, ...]:
    """Return the addresses at which another machine may find this one, sorted; none of a container bridge."""
    found = {str(a.ip) for i in interfaces if not i.is_container_bridge for a in i.addresses}
    return tuple(sorted(address for address in found if scopes.can_be_dialled(address)))


def inside_only(interfaces: Iterable[Interface]) -> tuple[Network, ...]:
    """Return the networks of the container bridges: whoever dials there never leaves this machine."""
    return tuple(sorted({a.network for i in interfaces if i.is_container_bridge for a in i.addresses}, key=str))


def _dump(netlink: socket.socket, kind: int, body: bytes) -> Iterator[bytes]:
    """Ask for all there is of one kind; yield the body of each message."""
    netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_DUMP, kind, 0) + body)
    while True:
        data = netlink.recv(_MOST_BYTES)
        while len(data) >= _HEADER.size:
            length, answer, _, _, _ = _HEADER.unpack_from(data)
            if answer == _DONE:
                return
            if answer == _ERROR:
                (number,) = struct.unpack_from("=i", data, _HEADER.size)
                raise OSError(-number, os.strerror(-number))
            if answer in (_NEWLINK, _NEWADDR):
                yield data[_HEADER.size : length]
            data = data[_aligned(max(length, _HEADER.size)) :]


def _link(message: bytes) -> tuple[int, str] | None:
    _, _, index, flags, _ = _LINK.unpack_from(message)
    name = _attributes(message[_LINK.size :]).get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    return (index, name) if flags & _UP and name else None


def _address(message: bytes) -> tuple[int, Own | None]:
    family, prefix, flags, _, index = _ADDRESS.unpack_from(message)
    attributes = _attributes(message[_ADDRESS.size :])
    if _IFA_FLAGS in attributes:  # All 32 of them.
        (flags,) = struct.unpack("=I", attributes[_IFA_FLAGS])
    # On a point-to-point link IFA_ADDRESS is the other end.
    packed = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
    unusable = _DUPLICATE | _DEPRECATED | _TENTATIVE | (_TEMPORARY if family == socket.AF_INET6 else 0)
    if packed is None or flags & unusable or family not in (socket.AF_INET, socket.AF_INET6):
        return index, None
    return index, ipaddress.ip_interface((ipaddress.ip_address(packed), prefix))


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3
