"""Every hook command, juju-exec, systemctl and journalctl: one client under many names. It only asks and prints.

Run by the machine's own python with -IS, so it imports nothing that costs time, pathlib included: some sixteen of these
run in a hook. A message is its length, then fields, each with its length; lengths are four bytes.
"""

import _socket  # The plain C module: `socket` alone would double the start-up time.
import os
import sys

_AGENT = "/var/lib/juju/agent.socket"
_SUPERVISOR = "/run/systemd/localjuju.socket"


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _receive(sock: "_socket.socket", count: int) -> bytes:
    parts = []
    while count:
        part = sock.recv(min(count, 65536))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


def _arguments(argv: list[str]) -> tuple[list[bytes], bytes]:
    """The arguments, with files that are named in them read here, where their paths mean something."""
    arguments, stdin, take = [], b"", False
    for word in argv:
        key, found, path = word.partition("#file=")
        if found:
            word_bytes = key.encode() + b"=" + _read(path)
        else:
            word_bytes = os.fsencode(word)
        if take or word.startswith("--file="):
            stdin = _read(word.removeprefix("--file="))
        take = word == "--file"
        arguments.append(word_bytes)
    return arguments, stdin


def main() -> int:
    name = os.path.basename(sys.argv[0])  # noqa: PTH119
    environ = os.environ
    if name in ("systemctl", "journalctl"):
        address = _SUPERVISOR
    else:
        address = environ.get("JUJU_AGENT_SOCKET_ADDRESS") or _AGENT
    try:
        arguments, stdin = _arguments(sys.argv[1:])
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        sock.connect(address)
        folder = os.fsencode(os.getcwd())  # noqa: PTH109
        head = [environ.get("JUJU_CONTEXT_ID", "").encode(), folder, stdin, name.encode()]
        message = b"".join(map(_field, head + arguments))
        sock.sendall(_field(message))
        code, out, err = (_receive(sock, int.from_bytes(_receive(sock, 4), "big")) for _ in range(3))
    except (OSError, EOFError) as error:
        print(f"ERROR {name}: {str(error) or 'the agent went away'}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(out)
    sys.stdout.flush()
    sys.stderr.buffer.write(err)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
