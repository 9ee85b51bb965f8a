# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
import array
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import scene
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.image import message_to_cvimage

from masa_ros.errors import ImageError
from masa_ros.images import SUPPORTED_ENCODINGS, rgb_from_compressed, rgb_from_image

RGB = scene()
HEIGHT, WIDTH = RGB.shape[:2]
GREY = cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY)


def message(pixels, encoding, bigendian=False, padding=0, height=HEIGHT, width=WIDTH):
    """A sensor_msgs/Image whose lines end in ``padding`` bytes of rubbish."""
    pixels = np.ascontiguousarray(pixels)
    if bigendian != (sys.byteorder == 'big'):
        pixels = pixels.byteswap()
    lines = pixels.view(np.uint8).reshape(pixels.shape[0], -1)
    rubbish = np.full((len(lines), padding), 0xA5, np.uint8)
    data = np.hstack((lines, rubbish))
    return SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=data.shape[1],
        is_bigendian=int(bigendian),
        data=array.array('B', data.tobytes()),
    )


def wide(pixels):
    return pixels.astype(np.uint16) * 257 + 60


EXACT = {
    'rgb8': RGB,
    'bgr8': RGB[:, :, ::-1],
    '8UC3': RGB[:, :, ::-1],
    'rgba8': np.dstack((RGB, GREY)),
    'bgra8': np.dstack((RGB[:, :, ::-1], GREY)),
    '8UC4': np.dstack((RGB[:, :, ::-1], GREY)),
    'rgb16': wide(RGB),
    'bgr16': wide(RGB[:, :, ::-1]),
    'rgba16': wide(np.dstack((RGB, GREY))),
    'bgra16': wide(np.dstack((RGB[:, :, ::-1], GREY))),
}
GREYS = {'mono8': GREY, '8UC1': GREY, 'mono16': wide(GREY), '16UC1': wide(GREY)}


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', EXACT)
@pytest.mark.parametrize('views', [False, True])
def test_colour_images_come_out_exactly(encoding, padding, views):
    pixels = rgb_from_image(message(EXACT[encoding], encoding, padding=padding), views)
    np.testing.assert_array_equal(pixels, RGB)


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', GREYS)
@pytest.mark.parametrize('views', [False, True])
def test_grey_images_come_out_exactly(encoding, padding, views):
    pixels = rgb_from_image(message(GREYS[encoding], encoding, padding=padding), views)
    np.testing.assert_array_equal(pixels, np.dstack([GREY] * 3))


# rosbags-image does not know how many colours 8UC1 and 8UC4 have, takes 8UC3 for RGB where
# everything made by OpenCV is BGR, and counts the chroma of nv12 and nv21 as image rows.
OUR_OWN = {'8UC1', '8UC3', '8UC4', '16UC1', 'nv12', 'nv21'}


@pytest.mark.parametrize('bigendian', [0, 1])
@pytest.mark.parametrize('encoding', sorted(set(SUPPORTED_ENCODINGS) - OUR_OWN))
def test_conversions_are_those_of_rosbags_image_bit_for_bit(encoding, bigendian):
    rng = np.random.default_rng(0)
    step = 32 * bytes_of_a_pixel(encoding)
    image = SimpleNamespace(
        **{'encoding': encoding, 'height': 24, 'width': 32, 'step': step},
        **{'is_bigendian': bigendian, '__msgtype__': 'sensor_msgs/msg/Image'},
        data=rng.integers(0, 256, 24 * step, np.uint8),
    )
    np.testing.assert_array_equal(rgb_from_image(image), message_to_cvimage(image, 'rgb8'))


def bytes_of_a_pixel(encoding):
    if 'yu' in encoding or 'yv' in encoding:
        return 2
    colours = {'rgb': 3, 'bgr': 3, 'rgba': 4, 'bgra': 4}.get(encoding.rstrip('0168'), 1)
    return colours * (2 if encoding.endswith('16') else 1)


@pytest.mark.parametrize('encoding', ['rgb16', 'mono16', 'bgra16'])
def test_both_byte_orders(encoding):
    source = (EXACT | GREYS)[encoding]
    little = rgb_from_image(message(source, encoding))
    np.testing.assert_array_equal(
        rgb_from_image(message(source, encoding, bigendian=True)), little
    )


def test_rgb8_is_a_view_of_the_message():
    source = message(RGB, 'rgb8')
    pixels = rgb_from_image(source)
    assert np.shares_memory(pixels, np.frombuffer(source.data, np.uint8))
    tensor = torch.from_numpy(pixels)
    assert tensor.data_ptr() == pixels.ctypes.data


def yuv_planes():
    """Y (H, W), U and V (H, W) of the picture, full range of none: BT.601 as cameras send it."""
    yuv = cv2.cvtColor(RGB, cv2.COLOR_RGB2YUV_I420).reshape(HEIGHT * 3 // 2, WIDTH)
    quarter = HEIGHT // 4
    y = yuv[:HEIGHT]
    u = yuv[HEIGHT : HEIGHT + quarter].reshape(HEIGHT // 2, WIDTH // 2)
    v = yuv[HEIGHT + quarter :].reshape(HEIGHT // 2, WIDTH // 2)
    return y, u, v


def packed(first):
    y, u, v = yuv_planes()
    colour = np.empty((HEIGHT, WIDTH), np.uint8)
    colour[:, 0::2], colour[:, 1::2] = u.repeat(2, axis=0), v.repeat(2, axis=0)
    return np.dstack((y, colour) if first == 'y' else (colour, y))


@pytest.mark.parametrize(
    'encoding, source',
    [
        ('uyvy', packed('u')),
        ('yuv422', packed('u')),
        ('yuyv', packed('y')),
        ('yuv422_yuy2', packed('y')),
    ],
)
@pytest.mark.parametrize('padding', [0, 4])
def test_packed_yuv(encoding, source, padding):
    pixels = rgb_from_image(message(source, encoding, padding=padding))
    assert np.abs(pixels.astype(int) - RGB).mean() < 3


@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
def test_planar_yuv(encoding):
    y, u, v = yuv_planes()
    first, second = (u, v) if encoding == 'nv12' else (v, u)
    chroma = np.dstack((first, second)).reshape(HEIGHT // 2, WIDTH)
    pixels = rgb_from_image(message(np.vstack((y, chroma)), encoding, padding=8))
    assert np.abs(pixels.astype(int) - RGB).mean() < 3


@pytest.mark.parametrize('depth', [8, 16])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer(pattern, depth):
    mosaic = np.empty((HEIGHT, WIDTH), np.uint8)
    for place, letter in enumerate(pattern):
        y, x = divmod(place, 2)
        mosaic[y::2, x::2] = RGB[y::2, x::2, 'rgb'.index(letter)]
    source = mosaic if depth == 8 else wide(mosaic)
    pixels = rgb_from_image(message(source, f'bayer_{pattern}{depth}'))
    assert np.abs(pixels.astype(int) - RGB).mean() < 3


def test_every_supported_encoding_is_tested_here():
    others = {'uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2', 'nv12', 'nv21'}
    bayer = {e for e in SUPPORTED_ENCODINGS if e.startswith('bayer')}
    assert set(SUPPORTED_ENCODINGS) == set(EXACT) | set(GREYS) | others | bayer


@pytest.mark.parametrize(
    'change, cause, words',
    [
        ({'encoding': 'hologram'}, 'encoding', "'hologram' is not supported"),
        ({'height': 0}, 'size', '320 x 0'),
        ({'width': 1 << 20}, 'size', '1048576'),
        ({'step': 100}, 'step', 'step is 100 bytes'),
        ({'data': array.array('B', b'abc')}, 'data', 'data has 3 bytes'),
        ({'data': array.array('B')}, 'data', 'data has 0 bytes'),
        ({'encoding': 'nv12', 'height': 3, 'width': 3}, 'size', 'even size'),
        ({'encoding': 'yuyv', 'width': 3}, 'size', 'even width'),
    ],
)
def test_what_cannot_be_used_says_why(change, cause, words):
    bad = message(RGB, 'rgb8')
    for name, value in change.items():
        setattr(bad, name, value)
    with pytest.raises(ImageError, match=words) as error:
        rgb_from_image(bad)
    assert error.value.cause == cause


@given(
    st.sampled_from([*SUPPORTED_ENCODINGS, '', 'x']),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 40),
    st.booleans(),
    st.binary(max_size=400),
)
@settings(max_examples=500)
def test_random_messages_give_pixels_or_an_image_error(encoding, height, width, step, big, data):
    wild = SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, is_bigendian=big, data=data
    )
    try:
        pixels = rgb_from_image(wild)
    except ImageError:
        return
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8


def test_compressed_images():
    png = cv2.imencode('.png', RGB[:, :, ::-1])[1].tobytes()
    good = SimpleNamespace(format='png', data=array.array('B', png))
    np.testing.assert_array_equal(rgb_from_compressed(good), RGB)
    for data in (b'', b'no picture', png[:30]):
        with pytest.raises(ImageError):
            rgb_from_compressed(SimpleNamespace(format='png', data=data))
    for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]):
        jpeg = cv2.imencode('.jpg', RGB[:, :, ::-1], options)[1].tobytes()
        for data in (jpeg, jpeg + bytes(100)):
            assert (
                rgb_from_compressed(SimpleNamespace(format='jpeg', data=data)).shape == RGB.shape
            )
        for data in (jpeg[:-2], jpeg[: len(jpeg) * 3 // 4]):
            with pytest.raises(ImageError, match='cut short'):
                rgb_from_compressed(SimpleNamespace(format='jpeg', data=data))
