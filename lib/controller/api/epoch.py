"""Flow 3: which forced reconfiguration of the cluster a controller belongs to, and whether to believe it. Pure.

An epoch is a number and a random tag. Who has seen a newer one refuses a controller of an older: that one was left
behind, and does not know it yet. Equal numbers with different tags are two clusters; neither is right by itself, so
one stays with the one it knows, and says so.
"""

from __future__ import annotations

import enum

from controller.api.messages import Epoch


class Verdict(enum.Enum):
    """What an offered epoch is to one who knows another."""

    SAME = "same"
    NEWER = "newer"
    OLDER = "older"
    RIVAL = "rival"


def text_of(epoch: Epoch) -> str:
    """Return number:tag, which `parse` reads."""
    return f"{epoch.number}:{epoch.tag}"


def parse(text: str) -> Epoch | None:
    """Return the epoch that number:tag says; None for anything else, as for no epoch at all."""
    number, colon, tag = text.partition(":")
    if not (colon and tag and number.isascii() and number.isdigit()):
        return None
    return Epoch(int(number), tag)


def judge(known: Epoch | None, offered: Epoch | None) -> Verdict:
    """Say what `offered` is to somebody who has seen `known`. Who has seen none believes any.

    A controller that names no epoch is older than every epoch that was ever seen.
    """
    if known == offered:
        return Verdict.SAME
    if known is None:
        return Verdict.NEWER
    if offered is None or offered.number < known.number:
        return Verdict.OLDER
    return Verdict.NEWER if offered.number > known.number else Verdict.RIVAL
