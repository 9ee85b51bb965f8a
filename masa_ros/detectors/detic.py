# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The detector inside ``detic_masa.pth``: Detic (Zhou et al. 2022) finds classes, or words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor

from masa_ros import options
from masa_ros.detectors.masa import MasaDetector
from masa_ros.detectors.on_swin import (
    SwinDetector,
    best,
    in_image,
    own_backbone,
    read_published,
    told,
    weights_path,
)
from masa_ros.detectors.words import Labels, separated, wanted
from masa_ros.errors import ConfigError, WeightsError
from masa_ros.models.clip_text import ClipText
from masa_ros.models.coco import COCO_CLASSES
from masa_ros.models.configs import ModelConfig
from masa_ros.models.detic import Detic, as_words, paste
from masa_ros.models.lvis import LVIS_CLASSES
from masa_ros.models.masks import View
from masa_ros.models.swin import Swin
from masa_ros.models.zoo import model_config
from masa_ros.options import option
from masa_ros.types import Instances

_PER_CLASS = 100_000  # from so many pairs on the released code suppresses within classes only
_RELEASED_MOST, _RELEASED_SCORE, _RELEASED_IOU = 50, 0.02, 0.5


@dataclasses.dataclass(frozen=True)
class DeticConfig:
    """Options of Detic; raises ConfigError naming one that is wrong."""

    words: str = option(
        '',
        "what is to be found, with full stops between: 'person . red car'; empty: the 1203 "
        'classes of LVIS. Words that are none of those need the text encoder',
    )
    weights: str = option('', 'path of detic_masa.pth; empty: the one fetched')
    text_encoder: str = option(
        'openai/clip-vit-base-patch32',
        'CLIP, whose text encoder reads words: a name on the hub, or a folder',
    )
    input_size: int = option(
        0, "long side of the network's input, pixels", 1, 4096, special=(0, "the model's own")
    )
    masks: bool = option(True, 'draw masks')
    score_threshold: float = option(0.3, 'detections below this score are dropped', 0, 1)
    nms_iou: float = option(
        0.5, 'of two boxes that overlap more the better one stays, whatever they are called', 0, 1
    )
    max_instances: int = option(100, 'at most that many detections', 1, 1000)
    released: bool = option(
        False,
        "exactly what the released code does: 'car .' at the end of the words is a name, every "
        'name goes through the text encoder, 50 boxes from a score of 0.02 on, from 100,000 '
        'pairs of a box and a class on one box has several classes',
    )

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)


class Vocabulary(NamedTuple):
    """Words as the network is asked for them: unit columns (E, K), and their labels."""

    words: Tensor
    labels: list[int]


class DeticDetector(SwinDetector):
    """Find the classes of LVIS, or what words name, with masks; see ``SwinDetector``.

    A word that is a class of LVIS is compared by the embedding that comes with the weights.

    Parameters
    ----------
    network: the part behind the backbone.
    backbone: its own, or the network that embeds, whose backbone it reads.
    config: see there.
    device: where it runs.
    encode: texts to embeddings (N, E); by default loaded when it is first needed.

    """

    published = 'masa_detic'

    def __init__(
        self,
        network: Detic,
        backbone: Swin | MasaDetector,
        config: DeticConfig,
        device: str = 'cpu',
        model: ModelConfig | None = None,
        encode: Callable[[Sequence[str]], Tensor] | None = None,
    ) -> None:
        super().__init__(
            model or model_config(self.published), network, backbone, device, config.input_size
        )
        self.config, self._encode = config, encode
        self._labels = Labels()
        self.class_names: Mapping[int, str] = self._labels.names
        self._asked: tuple[tuple[str, ...], Vocabulary] | None = None

    @classmethod
    def _load(cls, config: DeticConfig, device: str, eye: MasaDetector | None) -> DeticDetector:
        model = model_config(cls.published)
        path = weights_path(model, config.weights)
        tensors = read_published(path)
        network = Detic()
        network.read(tensors, f'{path} does not hold Detic')
        backbone = eye or own_backbone(model, tensors, path)
        detector = cls(network, backbone, config, device)
        detector.weights = told(path)
        if config.words:
            detector.ask(())  # words that cannot be read are told of now
        return detector

    def ask(self, words: Sequence[str]) -> Vocabulary:
        """Make a vocabulary of words; raises ConfigError where that fails."""
        key = tuple(words)
        if self._asked is None or self._asked[0] != key:
            made = self._released(words) if self.config.released else self._vocabulary(words)
            self._asked = key, made
        return self._asked[1]

    def _vocabulary(self, words: Sequence[str]) -> Vocabulary:
        network = self._detic
        if not words and not separated(self.config.words):
            return Vocabulary(network.vocabulary, self._labels.of(LVIS_CLASSES))
        names = wanted(words, self.config.words)
        known = [_LVIS.get(_plain(name)) for name in names]
        new = [name for name, column in zip(names, known) if column is None]
        made = iter(self.embed(new).T if new else ())
        stored = network.vocabulary.T
        columns = [next(made) if column is None else stored[column] for column in known]
        return Vocabulary(torch.stack(columns, 1), self._labels.of(names))

    def _released(self, words: Sequence[str]) -> Vocabulary:
        if not words and not self.config.words:
            self.class_names = dict(enumerate(LVIS_CLASSES))
            return Vocabulary(self._detic.vocabulary, list(range(len(LVIS_CLASSES))))
        names = list(words) or released_names(self.config.words)
        self.class_names = dict(enumerate(names))
        return Vocabulary(self.embed(names), list(range(len(names))))

    def embed(self, names: Sequence[str]) -> Tensor:
        """Return unit columns (E, K) of names, by CLIP."""
        if self._encode is None:
            try:
                self._encode = ClipText(self.config.text_encoder)
            except WeightsError as error:
                raise ConfigError(
                    f"words: '{names[0]}' is no class of LVIS, and text_encoder: {error}"
                ) from error
        columns = as_words(self._encode([f'a {name}' for name in names])).to(self.device)
        if len(columns) != len(self._detic.vocabulary):
            raise ConfigError(
                f'text_encoder: {self.config.text_encoder} makes {len(columns)} numbers of a '
                f'text, Detic compares {len(self._detic.vocabulary)}'
            )
        return columns

    @property
    def _detic(self) -> Detic:
        assert isinstance(self.network, Detic)
        return self.network

    def look(self, maps: Sequence[Tensor], view: View, words: Sequence[str] = ()) -> Instances:
        """See ``SwinDetector``."""
        network, vocabulary = self._detic, self.ask(words)
        levels = network.neck(maps)
        boxes, scores = network.propose(*network.rpn_head(levels))
        seen = network.refine(levels, boxes, scores, vocabulary.words, (view.rows, view.columns))
        kept, score, column = self.choose(seen.boxes, seen.scores)
        found = Instances(
            boxes=in_image(kept, view),
            scores=score.cpu().numpy(),
            labels=torch.tensor(vocabulary.labels)[column.cpu()].int().numpy(),
        )
        if not self.config.masks:
            return found
        masks = paste(network.draw(levels, kept), found.boxes, view)
        return dataclasses.replace(found, masks=masks)

    def choose(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best boxes (M, 4), scores and columns, of boxes (N, 4), scores (N, K)."""
        config = self.config
        if config.released:
            return released_choice(boxes, scores, _RELEASED_SCORE, _RELEASED_IOU, _RELEASED_MOST)
        score, column = scores.max(1)
        whole = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
        return best(
            boxes[whole],
            score[whole],
            column[whole],
            config.score_threshold,
            config.nms_iou,
            config.max_instances,
        )


def released_choice(
    boxes: Tensor, scores: Tensor, threshold: float, nms_iou: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose among all pairs of a box and a class, as the released code does.

    With 100,000 pairs or more it suppresses within classes alone, and says nothing.
    """
    row, column = torch.nonzero(scores > threshold, as_tuple=True)
    pairs, found = scores[row, column], boxes[row]
    if len(pairs) < _PER_CLASS:
        return best(found, pairs, column, threshold, nms_iou, most)
    kept = torchvision.ops.batched_nms(found, pairs, column, nms_iou)[:most]
    return found[kept], pairs[kept], column[kept]


def released_names(text: str) -> list[str]:
    """Return the classes that the released code makes of a text: 'a . b .' are 'a' and 'b .'."""
    if text in _NAMED:
        return list(_NAMED[text])
    dotted = text if text.endswith('.') else f'{text} . '
    return [name for name in dotted.split(' . ') if name]


def _plain(name: str) -> str:
    return '_'.join(name.lower().split())


_LVIS = {_plain(name): i for i, name in enumerate(LVIS_CLASSES)}
_NAMED = {
    'coco': COCO_CLASSES,
    'lvis': LVIS_CLASSES,
    'voc': (
        *('aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow'),
        *('diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep'),
        *('sofa', 'train', 'tvmonitor'),
    ),
    'cityscapes': (*('person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'),),
}
