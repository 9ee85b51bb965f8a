# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the bytes of a video packet tell before they are decoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_START = b'\0\0\1'  # of a NAL unit in an Annex B stream
_HEAD = 256  # bytes of a NAL unit that are looked at; parameter sets and slice headers are shorter

# Profiles of H.264 whose sequence parameters name the chroma format (ITU-T H.264, 7.3.2.1.1).
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}


class Look(NamedTuple):
    """What a packet is.

    Attributes
    ----------
    picture: it holds a picture, or nothing that is known here; not parameters alone.
    key: decoding can begin with it.
    gap: a packet that it builds on did not come.

    """

    picture: bool
    key: bool = False
    gap: bool = False


class _Bits:
    """Reads the bits of a NAL unit; raises ValueError at its end."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b'\0\0\3', b'\0\0')  # emulation prevention
        self._value, self._left = int.from_bytes(data, 'big'), 8 * len(data)

    def take(self, count: int = 1) -> int:
        """Return the next ``count`` bits as a number."""
        self._left -= count
        if self._left < 0:
            raise ValueError('the NAL unit ends too early')
        return (self._value >> self._left) & ((1 << count) - 1)

    def golomb(self) -> int:
        """Return an Exp-Golomb number: ue(v); of se(v) only its length is right."""
        zeros = 0
        while not self.take():
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


class _Numbering(NamedTuple):
    """How an H.264 stream numbers its frames."""

    bits: int
    planes: bool  # a slice names the colour plane it belongs to
    gaps: bool  # numbers may be left out, as by an encoder of temporal layers


class Bitstream:
    """Looks at the packets of one stream, in their order.

    FFmpeg says of H.265 and VP9 that a picture is missing that another one builds on. Of H.264 it
    does not: it shows a picture made of others. So the frame numbers in the slices are read here.

    Parameters
    ----------
    codec: 'h264', 'hevc', 'vp9' or 'av1'.

    Attributes
    ----------
    parameters: the decoder has been given what it needs besides a key frame.

    """

    def __init__(self, codec: str) -> None:
        looks = {'h264': self._h264, 'hevc': self._hevc, 'vp9': _vp9, 'av1': _av1}
        self._look = looks[codec]
        self.parameters = codec in ('vp9', 'av1')  # part of their key frames
        self._numbering: _Numbering | None = None
        self._last: int | None = None  # number of the last frame that others build on

    def look(self, data: bytes) -> Look:
        """Say what a packet is; whatever cannot be read is left to the decoder."""
        return self._look(data)

    def _h264(self, data: bytes) -> Look:
        key, known = False, False
        for at in _nal_units(data):
            kind, known = data[at] & 31, True
            if kind == 7:
                self._numbering, self.parameters = _numbering(data[at + 1 : at + _HEAD]), True
            elif kind == 6:
                key |= data[at + 1 : at + 2] == b'\6'  # a recovery point: streams without IDR
            elif kind in (1, 2, 5):
                key = (key or kind == 5) and self.parameters
                gap = self._gap(data[at + 1 : at + _HEAD], bool(data[at] & 0x60))
                return Look(True, key, gap and not key)
        return Look(not known)

    def _gap(self, header: bytes, reference: bool) -> bool:
        """Whether frames are missing before a slice (ITU-T H.264, 7.4.3, frame_num)."""
        known = self._numbering
        if known is None:
            return False
        bits = _Bits(header)
        try:
            for _ in range(3):  # first macroblock, type, parameter set
                bits.golomb()
            number = bits.take(2 * known.planes + known.bits) & ((1 << known.bits) - 1)
        except ValueError:
            return False
        last, self._last = self._last, number if reference else self._last
        if last is None or known.gaps:
            return False
        return number not in (last, (last + 1) % (1 << known.bits))

    def _hevc(self, data: bytes) -> Look:
        known = False
        for at in _nal_units(data):
            kind, known = (data[at] >> 1) & 63, True
            self.parameters |= kind == 33
            if kind < 32:
                return Look(True, 16 <= kind <= 23 and self.parameters)
        return Look(not known)


def _nal_units(data: bytes) -> Iterator[int]:
    """Give where the NAL units of an Annex B stream begin."""
    at = data.find(_START)
    while 0 <= at < len(data) - len(_START):
        yield at + len(_START)
        at = data.find(_START, at + len(_START))


def _numbering(parameters: bytes) -> _Numbering | None:
    """Read how frames are numbered from sequence parameters (ITU-T H.264, 7.3.2.1.1)."""
    bits = _Bits(parameters)
    planes = False
    try:
        profile = bits.take(24) >> 16
        bits.golomb()
        if profile in _HIGH_PROFILES:
            chroma = bits.golomb()
            planes = chroma == 3 and bool(bits.take())
            bits.golomb()  # bit depths
            bits.golomb()
            bits.take()
            if bits.take():  # scaling matrices: differences follow that would have to be summed
                return None
        length = 4 + bits.golomb()
        order = bits.golomb()
        if order == 0:
            bits.golomb()
        elif order == 1:
            bits.take()
            bits.golomb()
            bits.golomb()
            for _ in range(bits.golomb()):
                bits.golomb()
        bits.golomb()  # number of reference frames
        return _Numbering(length, planes, bool(bits.take()))
    except ValueError:
        return None


def _vp9(data: bytes) -> Look:
    # Two bits of marker and two of the profile; of the highest profile one more.
    rest = data[0] << (data[0] & 0x30 == 0x30)
    return Look(True, rest & 0x0C == 0)  # neither shown again nor predicted


def _av1(data: bytes) -> Look:
    at, key = 0, False
    while at < len(data):
        kind, has_size = (data[at] >> 3) & 15, data[at] & 2
        at += 2 if data[at] & 4 else 1
        key |= kind == 1  # a sequence header comes with every key frame
        if kind in (3, 6) or not has_size:
            return Look(True, key)
        size = shift = 0
        while at < len(data):
            size |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 128:
                break
        at += size
    return Look(False)
