# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The notebooks: what is stored with them, and that they run."""

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

nbformat = pytest.importorskip('nbformat', reason='nbformat is not installed: see make setup-dev')

FOLDER = Path(__file__).resolve().parents[1] / 'notebooks'
NAMES = sorted(file.stem for file in FOLDER.glob('*.ipynb'))
LARGEST = 600 * 1024  # bytes


def stored(name):
    return nbformat.read(FOLDER / f'{name}.ipynb', as_version=4)


def code(book):
    return [cell for cell in book.cells if cell.cell_type == 'code']


def pictures(cell):
    """The pictures (H, W, 3) that a cell shows."""
    found = [
        output.data['image/jpeg']
        for output in cell.outputs
        if 'image/jpeg' in output.get('data', {})
    ]
    return [cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), 1) for text in found]


def printed(book):
    return ''.join(
        output.text
        for cell in code(book)
        for output in cell.outputs
        if output.output_type == 'stream'
    )


def figure(text, pattern):
    match = re.search(pattern, text)
    assert match, f'{pattern} is not in:\n{text}'
    return float(match[1])


def check(book):
    """Every cell ran without complaint, pictures came out, the first cell's is one of tracks."""
    cells = code(book)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in (output for cell in cells for output in cell.outputs):
        assert output.output_type != 'error'
        assert output.get('name') != 'stderr', output.text
    shown = [picture for cell in cells for picture in pictures(cell)]
    assert len(shown) >= 3
    assert all(min(picture.shape[:2]) >= 100 and picture.std() > 10 for picture in shown)
    (first,) = pictures(cells[0])
    vivid = cv2.cvtColor(first, cv2.COLOR_BGR2HSV)[:, :, 1] > 100  # the ground is dull
    assert vivid.mean() > 0.05


def check_track_a_video(text, stored_text):
    tracks, frames, longest = (
        int(value)
        for value in re.search(
            r'(\d+) tracks in (\d+) frames; track \d+ is in (\d+)', text
        ).groups()
    )
    assert frames == 64
    assert 4 <= tracks <= 30
    assert 32 <= longest <= frames
    assert re.search(r'^ *\d+  (tracked|coasted) +[01]\.\d\d +\d\.\d s  \[', text, re.MULTILINE)
    for name in ('overlay.mp4', 'tracks.json', 'tracks.mcap'):
        assert figure(text, rf'{name} +(\d+) KiB') > 10


def check_evaluate_and_look(text, stored_text):
    assert figure(text, r'frames +(\d+)') == 64
    assert figure(text, r'objects +(\d+)') == 6
    # Processors round differently, which moves a figure a little.
    for name in ('hota', 'deta', 'assa', 'idf1', 'j'):
        value = figure(text, rf'\b{name} +([\d.]+)\n')
        assert 0.5 < value < 1
        assert value == pytest.approx(figure(stored_text, rf'\b{name} +([\d.]+)\n'), abs=0.1)
    assert len(re.findall(r'in view in .* frames, followed in', text)) == 6
    assert figure(text, r'flower .*followed in *(\d+)%') > 80
    assert len(re.findall(r'frame \d+: \d+ missed, \d+ false', text)) == 4
    assert figure(text, r'the same id +([\d.]+)% of') > 80
    assert figure(text, r'evaluation.html: (\d+) KiB') > 100


@pytest.mark.parametrize('name', NAMES)
def test_what_is_stored_is_whole_small_and_names_no_machine(name):
    file = FOLDER / f'{name}.ipynb'
    book = stored(name)
    nbformat.validate(book)
    check(book)
    assert file.stat().st_size < LARGEST
    texts = [cell.source for cell in book.cells] + [printed(book)]
    for text in texts:
        assert not re.search(r'/(home|root|tmp|work|Users)/', text)
    for target in re.findall(r'\]\(([^)#:]+)\)', '\n'.join(texts)):
        assert (FOLDER / target).exists(), target


@pytest.mark.timeout(900)  # under a minute on two idle cores
@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip('nbclient', reason='nbclient is not installed')
    pytest.importorskip('ipykernel', reason='ipykernel is not installed')
    # The kernel inherits both; other tests need the cores too.
    monkeypatch.setenv('OMP_WAIT_POLICY', 'PASSIVE')
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
    book = stored(name)
    before = printed(book)
    for cell in code(book):
        cell.outputs, cell.execution_count = [], None
    folder = tmp_path / 'here'
    folder.mkdir()
    nbclient.NotebookClient(
        book,
        kernel_name='python3',
        timeout=600,
        resources={'metadata': {'path': str(folder)}},
    ).execute()
    check(book)
    assert not list(folder.iterdir()), 'it leaves files where it is opened'
    globals()[f'check_{name}'](printed(book), before)
