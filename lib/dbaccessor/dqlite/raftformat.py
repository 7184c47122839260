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
# The library makes segments of 8 MiB, and an entry takes at least four words.
MAX_SEGMENT_BYTES = 64 << 20
MAX_ENTRIES = MAX_SEGMENT_BYTES // 32
