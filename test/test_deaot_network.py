# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""DeAOT's network: attention, identities, weights files, and the numbers of the original."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from masa_ros.errors import ConfigError, WeightsError
from masa_ros.models.aot import weights
from masa_ros.models.aot.attention import (
    GatedPropagation,
    LocalGatedPropagation,
    Written,
    to_map,
    to_positions,
    window_index,
)
from masa_ros.models.aot.network import AotSizes, DeAotNetwork, ImageMaps
from masa_ros.models.aot.stages import aot_stages
from masa_ros.models.files import DEAOT_FILE
from masa_ros.propagators import PROPAGATORS
from masa_ros.propagators.deaot import DeaotPropagatorConfig
from masa_ros.propagators.deaot.placement import Placement

SHARED = Path(os.environ.get('MASA_ROS_SHARED', Path(__file__).parents[2] / 'shared'))
TOOLS = Path(__file__).parents[1] / 'tools'
TINY = AotSizes(stem=8, depths=(1, 1, 1), embed=32, layers=2, reach=2)


def written(count, key=6, value=8):
    return Written(torch.randn(count, key), torch.randn(count, value), torch.randn(count, value))


def tiny():
    torch.manual_seed(0)
    return DeAotNetwork(TINY).eval()


@torch.no_grad()
def test_several_frames_are_read_as_one():
    torch.manual_seed(0)
    layer, size = GatedPropagation(8, 4), (3, 4)
    query, gate = torch.randn(12, 6), torch.randn(12, 16)
    frames = [written(12), written(12), written(12)]
    joined = Written(*(torch.cat(parts) for parts in zip(*frames)))
    found = layer(query, frames, gate, size)
    assert found.shape == (12, 8)
    torch.testing.assert_close(found, layer(query, [joined], gate, size))
    values = torch.cat((joined.value, joined.identity), 1)
    read = (query @ joined.key.T / 6**0.5).softmax(1) @ values * gate
    spread = to_positions(layer.dw_conv.conv(to_map(read, size)))
    torch.testing.assert_close(found, layer.projection(spread))


@torch.no_grad()
def test_the_short_term_memory_looks_around_the_same_place():
    """As windows that are cut out of a padded map give it."""
    torch.manual_seed(0)
    reach, size = 2, (4, 7)
    layer = LocalGatedPropagation(6, 8, 4, reach)
    query, frame, gate = torch.randn(28, 6), written(28), torch.randn(28, 16)
    found = layer(query, frame, gate, size, window_index(size, reach, query.device))

    def windows(x):
        cut = F.unfold(to_map(x, size), 2 * reach + 1, padding=reach)
        return cut[0].unflatten(0, (x.shape[1], -1))  # (C, window, T)

    scores = torch.einsum('tc,cwt->tw', query / 6**0.5, windows(frame.key))
    scores += to_positions(layer.relative_emb_k(to_map(query, size)))
    scores[windows(torch.ones(28, 1))[0].T == 0] = -torch.inf
    values = windows(torch.cat((frame.value, frame.identity), 1))
    read = torch.einsum('tw,cwt->tc', scores.softmax(1), values) * gate
    spread = to_positions(layer.dw_conv.conv(to_map(read, size)))
    torch.testing.assert_close(found, layer.projection(spread))


@torch.no_grad()
def test_identities_are_those_of_their_patch():
    network = tiny()
    labels = torch.zeros(49, 65, dtype=torch.uint8)
    nobody = network.identities(labels)
    assert nobody.shape == (4 * 5, 32)
    labels[:8, :8] = 10
    changed = (network.identities(labels) != nobody).any(1)
    assert changed.nonzero().flatten().tolist() == [0]
    labels[:8, :8] = 11
    other = network.identities(labels)
    assert not torch.equal(other[0], nobody[0]), 'an identity that does not exist is nobody at all'


@torch.no_grad()
def test_maps_keep_their_corners():
    network = tiny()
    maps = ImageMaps(*aot_stages(network)['image'](torch.randn(2, 3, 49, 65)))
    assert [tuple(x.shape[-2:]) for x in maps] == [(13, 17), (7, 9), (4, 5), (4, 5)]
    labels = torch.zeros(49, 65, dtype=torch.uint8)
    passed = network.LSTT(maps.embedding[:1], network.identities(labels))
    assert passed.final.shape == (1, 64, 4, 5) and len(passed.seen) == 2
    one = type(maps)(*(x[:1] for x in maps))
    assert network.decoder(one, passed.final).shape == (11, 13, 17)


@pytest.mark.parametrize(
    'size, longest, expected',
    [
        ((480, 854), 1040, (481, 849)),
        ((720, 1280), 1040, (577, 1041)),
        ((1280, 720), 1040, (1041, 577)),
        ((33, 47), 1040, (33, 49)),
        ((1080, 1920), 0, (1073, 1921)),
        ((1080, 1920), 320, (177, 321)),
        ((9, 26), 1040, (1, 33)),  # halves go to the even multiple
        ((1, 1), 1040, (1, 1)),
    ],
)
def test_sizes(size, longest, expected):
    assert Placement.of(*size, longest) == (*size, *expected)


def test_a_frame_that_fits_is_taken_as_it_is():
    place = Placement.of(33, 49, 1040)
    image = np.arange(33 * 49 * 3, dtype=np.uint8).reshape(33, 49, 3)
    assert place.image_in(image) is image
    labels = torch.randint(0, 300, (33, 49))
    assert torch.equal(place.labels_in(labels), labels)
    assert Placement.of(40, 60, 1040).image_in(np.zeros((40, 60, 3), np.uint8)[:, ::-1]).any() == 0


@pytest.mark.parametrize('form', ['bare', 'state_dict', 'model', 'parallel', 'safetensors'])
def test_weights_are_read(tmp_path, form):
    torch.manual_seed(1)
    state = DeAotNetwork(TINY).state_dict()
    kept = {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}
    path = tmp_path / ('deaot.safetensors' if form == 'safetensors' else 'deaot.pth')
    if form == 'safetensors':
        save_file(kept, path)
    elif form == 'bare':
        torch.save(kept, path)
    elif form == 'parallel':
        named = {f'module.{k}': v for k, v in kept.items()}
        torch.save({'state_dict': named, 'optimizer': {'step': 3}}, path)
    else:
        torch.save({form: kept}, path)
    network = tiny()
    weights.load(network, path)
    for name, value in kept.items():
        assert torch.equal(network.state_dict()[name], value)
    kept['extra'] = kept.pop('decoder.conv_out.bias')
    torch.save(kept, tmp_path / 'other.pth')
    text = '2 differences: decoder.conv_out.bias is missing; extra is unknown'
    with pytest.raises(WeightsError, match=text):
        weights.load(network, tmp_path / 'other.pth')


def test_weights_of_another_network_are_refused(tmp_path, seeded_weights, monkeypatch):
    def load(path):
        return PROPAGATORS['deaot'].load(DeaotPropagatorConfig(weights=str(path)), 'cpu')

    with pytest.raises(WeightsError, match="does not fit DeAOT's network"):
        load(seeded_weights)
    narrow = AotSizes(stem=8, embed=32)
    save_file(DeAotNetwork(narrow).state_dict(), tmp_path / 'tiny.safetensors')
    with pytest.raises(WeightsError, match=r'has shape \(.*\), expected \('):
        load(tmp_path / 'tiny.safetensors')
    (tmp_path / 'broken.pth').write_bytes(b'PK and then nothing')
    with pytest.raises(WeightsError, match=r'broken\.pth'):
        load(tmp_path / 'broken.pth')
    with pytest.raises(WeightsError, match=r'there is no file .*absent\.pth'):
        load(tmp_path / 'absent.pth')
    monkeypatch.setenv('MASA_ROS_WEIGHTS', str(tmp_path))
    with pytest.raises(WeightsError, match=f'masa_ros weights fetch {DEAOT_FILE}'):
        load('')
    with pytest.raises(ConfigError, match='device'):
        PROPAGATORS['deaot'].load(DeaotPropagatorConfig(), 'abacus')


def test_numbers_of_the_original(monkeypatch):
    folder = SHARED / 'parity' / 'sam_track'
    if not (folder / 'network.npz').is_file():
        pytest.skip(f'the numbers of the original code are not at {folder}')
    monkeypatch.syspath_prepend(str(TOOLS))
    from parity_checks import report, sam_track

    fixtures = report.Fixtures(folder, report.load_seeded(folder.parent))
    lines = report.Report()
    arrays = fixtures.arrays('network.npz')
    with torch.inference_mode():
        propagator = sam_track.load_propagator(fixtures, arrays)
        sam_track.compare_clip(lines, propagator, arrays, frames=2)
        sam_track.compare_preprocessing(lines, arrays)
    assert lines.lines > 45 and not lines.failed
