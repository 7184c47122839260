"""A test that fails is the only one that is blamed for it."""

from __future__ import annotations

import contextlib
import gc
import sys
import warnings
from collections.abc import Generator

import pytest

_FAILED = pytest.StashKey[bool]()


def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    node.stash[_FAILED] = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Free what a failed test left open before the next one begins.

    Its databases and connections, which nobody has closed, are still in the frames of its traceback. They would be
    collected in the midst of another test, and each of them warns: that test failed as well.
    """
    try:
        return (yield)
    finally:
        if item.stash.get(_FAILED, False):
            for name in ("last_type", "last_value", "last_traceback", "last_exc"):  # Kept there for debuggers.
                with contextlib.suppress(AttributeError):
                    delattr(sys, name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
