# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which of two forms of an operation runs: the fastest for eager torch, or the one that converts.

Both give the same numbers, with one exception: ``sampling.RoIAlign`` with a sample count that
depends on the boxes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

_PORTABLE = ContextVar('masa_ros_portable_forms', default=False)


@contextlib.contextmanager
def portable_forms() -> Iterator[None]:
    """Run plain aten operations that every compiler converts, in this thread."""
    token = _PORTABLE.set(True)
    try:
        yield
    finally:
        _PORTABLE.reset(token)


def portable() -> bool:
    """Tell whether ``portable_forms`` is in force."""
    return _PORTABLE.get()


def static() -> bool:
    """Tell whether no operation may depend on values: portable, or traced by torch.compile."""
    return portable() or torch.compiler.is_compiling()
