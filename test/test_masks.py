# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from masa_ros.masks import (
    coco_rle,
    crop,
    mask_from_coco_rle,
    mask_from_msg,
    msg_fields,
    pixels_from_coco_rle,
)
from masa_ros.types import Mask

windows = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(windows)
def test_counts_are_those_of_pycocotools(pixels):
    height, width = pixels.shape
    counts = Mask(0, 0, pixels).counts
    rle = coco.frPyObjects({'size': [height, width], 'counts': counts.tolist()}, height, width)
    np.testing.assert_array_equal(coco.decode(rle), pixels)


@given(windows, st.integers(0, 50), st.integers(0, 50))
def test_a_message_carries_a_mask_unchanged(pixels, x, y):
    message = SimpleNamespace(**msg_fields(Mask(x, y, pixels)))
    mask = mask_from_msg(message)
    assert (mask.x, mask.y) == (x, y)
    np.testing.assert_array_equal(mask.pixels, pixels)


@given(windows, st.integers(0, 5), st.integers(0, 5))
def test_a_file_carries_a_mask_unchanged(pixels, x, y):
    height, width = pixels.shape[0] + y + 3, pixels.shape[1] + x + 2
    mask = Mask(x, y, pixels)
    again = mask_from_coco_rle(coco_rle(mask, height, width))
    np.testing.assert_array_equal(again.full(height, width), mask.full(height, width))


def test_uncompressed_coco_is_read_too():
    mask = mask_from_coco_rle({'size': [2, 3], 'counts': [2, 3, 1]})
    np.testing.assert_array_equal(mask.full(2, 3), [[0, 1, 1], [0, 1, 0]])


@given(windows)
def test_run_lengths_and_pixels_are_the_same_mask(pixels):
    height, width = pixels.shape
    again = Mask.from_counts(3, 4, width, height, Mask(3, 4, pixels).counts)
    assert (again.x, again.y, again.width, again.height) == (3, 4, width, height)
    np.testing.assert_array_equal(again.pixels, pixels)


def test_no_mask():
    assert mask_from_msg(SimpleNamespace(**msg_fields(None))) is None
    assert crop(np.zeros((4, 5), bool)).pixels.size == 0


def test_runs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match='add up to 5'):
        Mask.from_counts(0, 0, 2, 2, np.array([2, 3]))
    with pytest.raises(ValueError, match='mask_encoding 9'):
        mask_from_msg(SimpleNamespace(mask_encoding=9))


@given(st.data())
def test_files_masks_are_those_of_pycocotools(data):
    height, width = (data.draw(st.integers(1, 40)) for _ in range(2))
    pixels = data.draw(arrays(np.bool_, (height, width)))
    pixels = np.kron(pixels, np.ones((7, 5), bool))
    rle = coco.encode(np.asfortranarray(pixels, dtype=np.uint8))
    np.testing.assert_array_equal(pixels_from_coco_rle(rle), pixels)


@pytest.mark.parametrize(
    'rle',
    [
        {'size': [8, 8], 'counts': '00'},
        {'size': [8, 8], 'counts': 'PPPPPPPP'},
        {'size': [8, 8], 'counts': [65]},
        {'size': [8, 8], 'counts': [-1, 65]},
        {'size': [1 << 20, 1 << 20], 'counts': [1 << 40]},
        {'size': [0, 0], 'counts': []},
    ],
)
def test_masks_of_files_that_do_not_add_up_are_refused(rle):
    with pytest.raises(ValueError, match='mask'):
        pixels_from_coco_rle(rle)
