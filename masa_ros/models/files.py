# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The published weights files: names, licences, check sums, and where they are looked for."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from masa_ros.errors import WeightsError


class WeightsFile(NamedTuple):
    """One published file.

    Attributes
    ----------
    name: of the file.
    url: where its authors keep it.
    size: bytes, 0 where unknown.
    sha256: hexadecimal, '' where its authors publish none.
    licence: of the weights.
    what: it is.

    """

    name: str
    url: str
    size: int
    sha256: str
    licence: str
    what: str


_MASA = 'https://huggingface.co/dereksiyuanli/masa/resolve/main/'
_SAM = 'https://dl.fbaipublicfiles.com/segment_anything/'
# Kept in the repository of its authors, who publish no check sum: size and sum below are those
# that several copies of the file elsewhere have.
_MOBILE_SAM = 'https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt'
_DEVA = 'https://github.com/hkchengrex/Tracking-Anything-with-DEVA/releases/download/v1.0/'
# Of the model zoo at https://github.com/yoxu515/aot-benchmark. Its authors publish no check sum:
# size and sum below are those that several copies of the file elsewhere have.
_DEAOT = (
    'https://drive.usercontent.google.com/download'
    '?id=1QoChMkTVxdYZ_eBlZhK2acq9KMQZccPJ&export=download&confirm=t'
)

PUBLISHED = {
    file.name: file
    for file in (
        WeightsFile(
            'masa_r50.pth', _MASA + 'masa_r50.pth', 0, '', 'Apache-2.0', 'MASA on ResNet-50'
        ),
        WeightsFile(
            'sam_vitb_masa.pth',
            _MASA + 'sam_vitb_masa.pth',
            558_882_875,
            '441c05bf9519632fead1afd5200bb6a4f13b4a41c58f4428024490b4c2bd777c',
            'Apache-2.0',
            'MASA on SAM ViT-B',
        ),
        WeightsFile(
            'sam_vith_masa.pth',
            _MASA + 'sam_vith_masa.pth',
            0,
            '',
            'Apache-2.0',
            'MASA on SAM ViT-H',
        ),
        WeightsFile(
            'detic_masa.pth', _MASA + 'detic_masa.pth', 0, '', 'Apache-2.0', 'MASA on Detic'
        ),
        WeightsFile(
            'gdino_masa.pth',
            _MASA + 'gdino_masa.pth',
            0,
            '',
            'Apache-2.0',
            'MASA on Grounding DINO',
        ),
        WeightsFile(
            'sam_vit_b_01ec64.pth',
            _SAM + 'sam_vit_b_01ec64.pth',
            375_042_383,
            'ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912',
            'Apache-2.0',
            'SAM ViT-B',
        ),
        WeightsFile(
            'sam_vit_h_4b8939.pth',
            _SAM + 'sam_vit_h_4b8939.pth',
            2_564_550_879,
            'a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e',
            'Apache-2.0',
            'SAM ViT-H',
        ),
        WeightsFile(
            'mobile_sam.pt',
            _MOBILE_SAM,
            40_728_226,
            '6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f',
            'Apache-2.0',
            'MobileSAM: SAM on TinyViT',
        ),
        WeightsFile(
            'DEVA-propagation.pth',
            _DEVA + 'DEVA-propagation.pth',
            0,
            '',
            'CC-BY-NC-SA-4.0',
            "DEVA's propagation, for no commercial use",
        ),
        WeightsFile(
            'R50_DeAOTL_PRE_YTB_DAV.pth',
            _DEAOT,
            236_513_959,
            '7e8a8d83310739bac02817f6bf48b6bbe2bbd7d5325722f1084088eb3aee1e06',
            'BSD-3-Clause',
            "DeAOT-L on ResNet-50, SAM-Track's propagation",
        ),
        WeightsFile(
            'bert_vocab.txt',
            'https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt',
            231_508,
            '07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3',
            'Apache-2.0',
            'tokens of BERT, for the words of grounding_dino',
        ),
    )
}

MODEL_FILES = {
    'masa_r50': 'masa_r50.pth',
    'masa_sam_vitb': 'sam_vitb_masa.pth',
    'masa_sam_vith': 'sam_vith_masa.pth',
    'masa_sam_mobile': 'mobile_sam.pt',
    'masa_detic': 'detic_masa.pth',
    'masa_gdino': 'gdino_masa.pth',
}
SAM_FILES = {
    'masa_sam_vitb': 'sam_vit_b_01ec64.pth',
    'masa_sam_vith': 'sam_vit_h_4b8939.pth',
}
DEVA_FILE = 'DEVA-propagation.pth'
VOCABULARY_FILE = 'bert_vocab.txt'
DEAOT_FILE = 'R50_DeAOTL_PRE_YTB_DAV.pth'


def weights_folder() -> Path:
    """Folder of fetched weights: ``MASA_ROS_WEIGHTS``, or one in the user's cache."""
    return user_folder('MASA_ROS_WEIGHTS', 'weights')


def user_folder(variable: str, name: str) -> Path:
    """Folder that an environment variable chooses, or ``name`` in the user's cache."""
    chosen = os.environ.get(variable)
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(cache).expanduser() / 'masa_ros' / name


def locate(name: str, beside: Path | None = None) -> Path:
    """Find a published file beside another one or in the weights folder.

    Raises
    ------
    WeightsError
        When it is in neither; the text says how to get it.

    """
    folders = ([beside.parent] if beside else []) + [weights_folder()]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f'{name} is not in {" or ".join(map(str, folders))}; fetch it with '
        f"'masa_ros weights fetch {name}', or put the file there from {PUBLISHED[name].url}"
    )


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
