# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Foreign bytes: whatever is in a file or a parameter gives a value or a clear refusal."""

import copy
import json
import string

import numpy as np
import pytest
import torch
from conftest import scene
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masa_ros import options
from masa_ros.errors import ConfigError, ImageError, SourceError, WeightsError
from masa_ros.models import checkpoints, official
from masa_ros.models.network import MasaNetwork
from masa_ros.models.zoo import model_config
from masa_ros.nodes.parameters import NodeConfig
from masa_ros.recordings.bags import IMAGE_TYPE, BagWriter
from masa_ros.recordings.sources import open_source
from masa_ros.recordings.tracks_file import TrackedFrame, read_tracks, write_tracks
from masa_ros.types import Frame, Instances, Mask

fuzz = settings(
    max_examples=150,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def damage(draw, size):
    """What to do to ``size`` bytes: a few changes of place, kind and content."""
    places = st.integers(0, max(size - 1, 0))
    change = st.tuples(places, st.sampled_from(('set', 'cut', 'insert')), st.binary(max_size=9))
    return draw(st.lists(change, min_size=1, max_size=4))


def damaged(data, changes):
    out = bytearray(data)
    for place, kind, content in changes:
        if kind == 'set':
            out[place : place + len(content)] = content
        elif kind == 'insert':
            out[place:place] = content
        else:
            del out[place:]
    return bytes(out)


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp('bag') / 'bag.mcap'
    with BagWriter(path, '/camera/image_raw', IMAGE_TYPE) as writer:
        for number in range(3):
            writer.write_image(scene()[:8, :8], number, 'camera')
    return path.read_bytes()


@fuzz
@given(st.data())
def test_damaged_bags(bag, tmp_path, data):
    path = tmp_path / 'bag.mcap'
    path.write_bytes(damaged(bag, data.draw(damage(len(bag)))))
    try:
        items = list(open_source(path))
    except SourceError:
        return
    assert all(isinstance(item.frame, (Frame, ImageError)) for item in items)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(string.printable, max_size=8),
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.text(string.printable, max_size=6), values, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    """Paths to everything inside a document."""
    yield path
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in list(pairs):
            yield from places(inner, (*path, key))


@pytest.fixture(scope='module')
def tracks(tmp_path_factory):
    path = tmp_path_factory.mktemp('tracks') / 'tracks.json'
    two = Instances(
        np.array([(1, 1, 5, 5), (2, 2, 7, 7)], np.float32),
        masks=(Mask(1, 1, np.ones((4, 4), bool)), None),
        track_ids=np.array([1, 2]),
    )
    write_tracks(path, 'test', [TrackedFrame(i, f'{i}', i, 8, 8, two) for i in range(2)])
    return json.loads(path.read_text())


@fuzz
@given(st.data())
def test_tracks_files_with_other_values(tracks, tmp_path, data):
    document = copy.deepcopy(tracks)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(sorted(filter(None, places(document)), key=str)))
        inside = document
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = data.draw(JSON)
    (tmp_path / 'tracks.json').write_text(json.dumps(document))
    try:
        frames = read_tracks(tmp_path / 'tracks.json')
    except SourceError:
        return
    for frame in frames:
        for mask in frame.instances.masks or ():
            assert mask is None or mask.pixels.shape == (mask.height, mask.width)


@pytest.fixture(scope='module')
def shipped():
    path = model_config('masa_nano').shipped_weights
    return path.read_bytes(), MasaNetwork(model_config('masa_nano').network)


@settings(fuzz, max_examples=60)
@given(st.data())
def test_damaged_weights(shipped, tmp_path, data):
    whole, network = shipped
    header = int.from_bytes(whole[:8], 'little') + 8  # where damage does most
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(damaged(whole[:header], data.draw(damage(header))) + whole[header:])
    try:
        checkpoints.load(network, path, model_config('masa_nano'))
    except WeightsError as error:
        assert 'weights.safetensors' in str(error)


@fuzz
@given(st.data())
def test_damaged_checkpoints(tmp_path, data):
    path = tmp_path / 'model.pth'
    torch.save({'state_dict': {'a': torch.zeros(3), 'b': torch.ones(2, 2)}}, path)
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, data.draw(damage(len(whole)))))
    try:
        tensors = official.read(path)
    except WeightsError:
        return
    assert all(isinstance(value, torch.Tensor) for value in tensors.values())


OPTIONS = options.listed(NodeConfig, every=True)


@fuzz
@given(st.data())
def test_any_values_of_parameters(data):
    values = {each.name: each.default for each in OPTIONS}
    kinds = {
        bool: st.booleans(),
        int: st.integers(-(2**63), 2**63 - 1),
        float: st.floats(),
        str: st.text(max_size=12),
        list: st.lists(st.text(max_size=5), max_size=3),
    }
    chosen = data.draw(st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=4))
    for each in chosen:
        values[each.name] = data.draw(kinds[type(each.default)])
    try:
        config = options.build(NodeConfig, values)
    except ConfigError as error:
        assert str(error)
        return
    assert options.values_of(config).items() <= values.items()
