# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Numbers for the class names of detections."""

from __future__ import annotations


class ClassNames:
    """Numbers for the classes of detections, in the order in which they are met.

    A detector that sends numbers as class ids keeps them where they are free.

    Attributes
    ----------
    names: by number, without the classes whose number is their name.

    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self._labels: dict[str, int] = {}
        self._taken: set[int] = set()
        self._next = 0

    def label(self, class_id: str) -> int:
        """Return the number of a class, -1 for the empty one."""
        if not class_id:
            return -1
        if class_id not in self._labels:
            own = int(class_id) if class_id.isdecimal() and len(class_id) < 10 else -1
            if str(own) != class_id:  # '007' is a name: as 7 it would come out another
                own = -1
            if own < 0 or own in self._taken:
                while self._next in self._taken:
                    self._next += 1
                own = self._next
                self.names[own] = class_id
            self._taken.add(own)
            self._labels[class_id] = own
        return self._labels[class_id]
