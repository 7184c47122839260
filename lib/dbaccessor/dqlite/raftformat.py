"""The names and the binary shapes of the files that raft keeps in a data directory; nodedir.py has the table."""

from __future__ import annotations

import re
import struct
from typing import Final

CLOSED: Final = re.compile(r"(\d{16,20})-(\d{16,20})")
OPEN: Final = re.compile(r"open-(\d{1,20})")
SNAPSHOT: Final = re.compile(r"snapshot-(\d{1,20})-(\d{1,20})-(\d{1,20})")
META_SUFFIX = ".meta"

FORMAT = 1
WORD: Final = struct.Struct("<Q")
CHECKSUMS: Final = struct.Struct("<II")
ENTRY: Final = struct.Struct("<QB3xI")
# Format, version, term, vote.
METADATA: Final = struct.Struct("<4Q")
# Of one batch, far more than the library ever writes at once: more is damage. An entry may have any size, and a segment
# is as long as its entries need; 8 MiB is only how long the library makes it beforehand.
MAX_ENTRIES = 1 << 21
