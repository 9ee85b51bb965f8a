# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which detection continues which track, given how well each pair fits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Matrix = NDArray[np.floating]
Indices = NDArray[np.int64]


def optimal(score: Matrix, allowed: NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """Choose the most allowed pairs, and among such choices the one of the largest sum.

    Parameters
    ----------
    score: (D, T) in 0..1.
    allowed: (D, T).

    Returns
    -------
    Rows and columns of the chosen pairs.

    """
    rows, columns = np.nonzero(allowed)
    chosen = best_of(rows, columns, score[rows, columns])
    return rows[chosen], columns[chosen]


def best_of(rows: Indices, columns: Indices, scores: Matrix) -> Indices:
    """Do the same with a list of the allowed pairs: return which (P,) of them are chosen."""
    if not len(rows):
        return np.zeros(0, np.int64)
    # Most objects have one candidate, which is nobody else's: the solver is for the others.
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    chosen, contested = np.flatnonzero(alone), np.flatnonzero(~alone)
    if len(contested):
        i, j = (_numbered(index[contested]) for index in (rows, columns))
        pairs = np.full((i.max() + 1, j.max() + 1), -1)
        pairs[i, j] = contested
        # A forbidden pair costs more than any sum of scores could gain.
        worth = np.where(pairs >= 0, scores[pairs], -float(min(pairs.shape)))
        solved = pairs[linear_sum_assignment(worth, maximize=True)]
        chosen = np.concatenate((chosen, solved[solved >= 0]))
    return chosen


def _numbered(index: Indices) -> Indices:
    """Return the place of each among all different ones, in their order."""
    return (np.cumsum(np.bincount(index) > 0) - 1)[index]


def first_come(rows: Indices, columns: Indices, scores: Matrix) -> Indices:
    """Match the pairs (P,) in the order of the rows, each row to its best column that is left.

    Returns
    -------
    Which pairs are chosen.

    """
    chosen: dict[int, int] = {}  # by row
    taken: set[int] = set()
    for pair in np.lexsort((columns, -scores, rows)).tolist():
        row, column = int(rows[pair]), int(columns[pair])
        if row not in chosen and column not in taken:
            chosen[row] = pair
            taken.add(column)
    return np.array([*chosen.values()], np.int64)


def greedy(
    similarity: Matrix, taken_by: NDArray[np.bool_], threshold: float, able: NDArray[np.bool_]
) -> tuple[Indices, Matrix]:
    """Match rows to columns in the order of the rows, each to its best column.

    A column that a row has taken is worth 0 to all others; there is no second choice. Equal to a
    loop over the rows: all rows before the first one whose best column an earlier one takes are
    decided together, then the next round begins.

    Parameters
    ----------
    similarity: (D, T), is changed.
    taken_by: (T,) columns that can be taken.
    threshold: a row's best value must exceed it.
    able: (D,) rows that may take a column.

    Returns
    -------
    (D,) best column of each row when its turn came, and its value there.

    """
    count, columns = similarity.shape
    best, value = np.zeros(count, np.int64), np.zeros(count, similarity.dtype)
    column = similarity.argmax(axis=1)
    score = similarity[np.arange(count), column]
    begin = 0
    while begin < count:
        takes = (score[begin:] > threshold) & taken_by[column[begin:]] & able[begin:]
        rows = begin + np.flatnonzero(takes)
        # The first row that wants what an earlier one takes ends the round.
        first_taker = np.full(columns, count)
        first_taker[column[rows[::-1]]] = rows[::-1]
        late = np.flatnonzero(first_taker[column[begin:]] < np.arange(begin, count))
        end = begin + int(late[0]) if len(late) else count
        best[begin:end], value[begin:end] = column[begin:end], score[begin:end]
        own = rows[rows < end]
        similarity[end:, column[own]] = 0
        # Only rows whose best column is gone look again.
        again = end + np.flatnonzero(first_taker[column[end:]] < end)
        column[again] = similarity[again].argmax(axis=1)
        score[again] = similarity[again, column[again]]
        begin = end
    return best, value
