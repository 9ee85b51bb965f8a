# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``masa_ros engines``."""

import pytest
from engine_kit import SHAPE, detector, engines_of, registered

from masa_ros.cli import main
from masa_ros.engines import prepare
from masa_ros.errors import EngineError
from masa_ros.models.stages import Eager

runtime = pytest.fixture(name='runtime')(registered)
ONE_STAGE = ['image', 'embeddings', 'masks']


class Negated(Eager):
    def __call__(self, **tensors):
        return {name: -value for name, value in super().__call__(**tensors).items()}


def test_the_command_lists_and_clears(runtime, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('MASA_ROS_ENGINES', str(tmp_path))
    assert main(['engines', 'list']) == 0
    assert 'no engines' in capsys.readouterr().out
    engines_of(detector(), tmp_path)[0].prepare(SHAPE)
    (tmp_path / 'broken.engine').write_bytes(b'nothing')
    assert main(['engines', 'list']) == 0
    listed = capsys.readouterr().out
    assert listed.count('masa_nano2') == 4 and 'broken.engine: damaged' in listed
    assert main(['engines', 'clear', '--model', 'masa_nano']) == 0
    assert len(list(tmp_path.glob('*.engine'))) == 5  # those of masa_nano2 are another's
    assert main(['engines', 'clear', '--model', 'masa_nano2']) == 0
    assert [f.name for f in tmp_path.glob('*.engine')] == ['broken.engine']
    assert main(['engines', 'clear']) == 0
    assert not list(tmp_path.iterdir())


def test_the_command_builds_and_verifies(runtime, tmp_path, monkeypatch, capsys, seeded_weights):
    monkeypatch.setenv('MASA_ROS_ENGINES', str(tmp_path))
    monkeypatch.setattr(prepare, 'choose', lambda name, device: (runtime,))
    options = ['--weights', str(seeded_weights), '--camera-size', '320x240']
    assert main(['engines', 'build', *options, '--input-size', '256', '--device', 'cpu']) == 0
    printed = capsys.readouterr().out
    assert 'embedding cosine' in printed and f'kept in {tmp_path}' in printed
    assert main(['engines', 'verify', *options, '--input-size', '256', '--device', 'cpu']) == 0
    assert capsys.readouterr().out.count('(limit') == 12
    assert runtime.built == ONE_STAGE


def broken(**tensors):
    raise EngineError('TensorRT failed to run the engine')


@pytest.mark.parametrize('wrap', [lambda run: Negated(run.stage, run.dtype), lambda run: broken])
def test_the_command_tells_engines_that_do_not_run_as_they_were_built(
    runtime, tmp_path, monkeypatch, capsys, seeded_weights, wrap
):
    monkeypatch.setenv('MASA_ROS_ENGINES', str(tmp_path))
    monkeypatch.setattr(prepare, 'choose', lambda name, device: (runtime,))
    options = ['--weights', str(seeded_weights), '--input-size', '256', '--device', 'cpu']
    assert main(['engines', 'verify', *options]) == 0
    assert 'not there before, built now: image, embeddings' in capsys.readouterr().out
    runtime.wrap = wrap
    assert main(['engines', 'verify', *options]) == 1
    printed = capsys.readouterr().out
    assert 'DISAGREES' in printed or 'given up' in printed


def test_the_command_says_why_nothing_can_be_built(capsys, seeded_weights):
    options = ['--weights', str(seeded_weights), '--device', 'cpu']
    assert main(['engines', 'build', *options]) == 2
    assert 'TensorRT needs a CUDA device' in capsys.readouterr().err
