# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The values that travel: what may be asked of them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masa_ros.types import Frame, Instances, Mask, Prompt


def some(count, masks=True):
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    window = np.ones((2, 3), bool)
    return Instances(
        boxes, masks=tuple(Mask(i, i, window) for i in range(count)) if masks else None
    )


def test_instances_are_equal_when_all_their_values_are():
    assert some(3) == some(3)
    assert some(3) != some(2) and some(3) != some(3, masks=False) and some(1) != 'other'
    assert some(2) != dataclasses.replace(some(2), labels=np.array([1, 2], np.int32))
    other = (Mask(0, 0, np.ones((2, 3), bool)), Mask(1, 1, np.zeros((2, 3), bool)))
    assert some(2) != dataclasses.replace(some(2), masks=other)


def test_masks_survive_the_joining_of_instances():
    for parts in ((some(2, masks=False), some(1)), (some(1), some(2, masks=False))):
        joined = Instances.concatenate(parts)
        assert sum(mask is not None for mask in joined.masks) == 1
        assert [m is not None for m in joined.masks] == [
            mask is not None for part in parts for mask in part.masks or (None,) * len(part)
        ]
    assert Instances.concatenate((some(2, masks=False),) * 2).masks is None
    nothing = Instances.empty(7)
    assert Instances.concatenate((nothing, some(2))) == some(2)
    assert len(Instances.concatenate((nothing, nothing))) == 0


masks = st.builds(
    Mask,
    st.integers(0, 9),
    st.integers(0, 9),
    arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))),
)


@given(masks, st.integers(1, 14), st.integers(1, 14))
def test_a_mask_that_is_cut_to_an_image_is_the_same_there(mask, height, width):
    cut = mask.clipped(height, width)
    assert cut.x + cut.width <= width and cut.y + cut.height <= height
    np.testing.assert_array_equal(cut.full(height, width), mask.full(30, 30)[:height, :width])


@given(masks, st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from([1.0, 2.0, 4.0]))
def test_a_mask_grows_with_its_image(mask, x, y):
    grown = mask.scaled(x, y).full(int(30 * y), int(30 * x))
    expected = np.repeat(np.repeat(mask.full(30, 30), int(y), 0), int(x), 1)
    np.testing.assert_array_equal(grown, expected)


@given(masks, st.floats(0.05, 5), st.floats(0.05, 5))
def test_a_mask_may_be_scaled_by_anything(mask, x, y):
    assert mask.scaled(x, y).pixels.dtype == bool


def test_prompts_say_what_they_are_made_of():
    point = np.zeros((1, 2), np.float32)
    assert Prompt(0, points=point, text='cup').kinds == {'point', 'text'}
    assert Prompt(0, points=point).positive.tolist() == [True]
    with pytest.raises(ValueError, match='1 points with 2 signs'):
        Prompt(0, points=point, positive=np.array([True, False]))


def test_a_frame_knows_its_shape():
    assert Frame(np.zeros((4, 6, 3), np.uint8), 0).shape == (4, 6)
