# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The detector inside ``gdino_masa.pth``: Grounding DINO (Liu et al. 2024) finds what is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
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
from masa_ros.errors import ConfigError
from masa_ros.models.configs import ModelConfig
from masa_ros.models.files import VOCABULARY_FILE, locate
from masa_ros.models.heads import clip_boxes
from masa_ros.models.masks import View
from masa_ros.models.swin import Swin
from masa_ros.models.zoo import model_config
from masa_ros.options import option
from masa_ros.types import Instances

if TYPE_CHECKING:
    from masa_ros.models.grounding_dino import GroundingDino
    from masa_ros.models.grounding_text import Caption, Tokenizer, Tokens

_MOST = 300  # boxes that are looked at further; the released code returns as many
MOST_PASSES = 4
"""Captions that an image is looked through for: each takes the time of one."""


@dataclasses.dataclass(frozen=True)
class GroundingDinoConfig:
    """Options of Grounding DINO; raises ConfigError naming one that is wrong."""

    words: str = option(
        '',
        "what is to be found, with full stops between: 'person . red car'; for methods that "
        'have no words of their own',
    )
    weights: str = option('', 'path of gdino_masa.pth; empty: the one fetched')
    input_size: int = option(
        0, "long side of the network's input, pixels", 1, 4096, special=(0, "the model's own")
    )
    score_threshold: float = option(0.2, 'detections below this score are dropped', 0, 1)
    nms_iou: float = option(
        0.5, 'of two boxes that overlap more the better one stays, whatever they are called', 0, 1
    )
    max_instances: int = option(100, 'at most that many detections', 1, _MOST)
    released: bool = option(
        False,
        'exactly what the released code does: noun phrases by NLTK, features of the first words '
        'for all later ones, NaN for words beyond 256 tokens, 300 boxes of whatever score',
    )

    def __post_init__(self) -> None:
        """Check every value by itself."""
        options.check(self)


class Question(NamedTuple):
    """Words as the network is asked for them.

    Attributes
    ----------
    parts: captions, as tokens.
    labels: for each caption the labels of its names.

    """

    parts: list[Tokens]
    labels: list[list[int]]


class GroundingDinoDetector(SwinDetector):
    """Find what words name; see ``SwinDetector``.

    Words whose tokens do not fit into one caption are asked for in several, one pass each.

    Parameters
    ----------
    network: the part behind the backbone.
    tokenizer: for its text encoder.
    backbone: its own, or the network that embeds, whose backbone it reads.
    config: see there.
    device: where it runs.

    """

    published = 'masa_gdino'

    def __init__(
        self,
        network: GroundingDino,
        tokenizer: Tokenizer,
        backbone: Swin | MasaDetector,
        config: GroundingDinoConfig,
        device: str = 'cpu',
        model: ModelConfig | None = None,
    ) -> None:
        super().__init__(
            model or model_config(self.published), network, backbone, device, config.input_size
        )
        self.config, self.tokenizer = config, tokenizer
        self._labels = Labels()
        self.class_names: Mapping[int, str] = self._labels.names
        self._asked: tuple[tuple[str, ...], Question] | None = None
        self._first: list[int] | None = None
        self._text = _modules()[1]

    @classmethod
    def _load(
        cls, config: GroundingDinoConfig, device: str, eye: MasaDetector | None
    ) -> GroundingDinoDetector:
        networks, text = _modules()
        model = model_config(cls.published)
        path = weights_path(model, config.weights)
        tokenizer = text.Tokenizer.of_file(locate(VOCABULARY_FILE, beside=path))
        tensors = read_published(path)
        network = networks.GroundingDino()
        network.read(tensors, f'{path} does not hold Grounding DINO')
        backbone = eye or own_backbone(model, tensors, path)
        detector = cls(network, tokenizer, backbone, config, device)
        detector.weights = told(path)
        return detector

    def ask(self, words: Sequence[str]) -> Question:
        """Make captions of words; raises ConfigError where there are none, or too many."""
        key = tuple(words)
        if self._asked is None or self._asked[0] != key:
            made = self._released(words) if self.config.released else self._captions(words)
            self._asked = key, made
        return self._asked[1]

    def _captions(self, words: Sequence[str]) -> Question:
        names = wanted(words, self.config.words)
        labels = self._labels.of(names)
        made = self.tokenizer.captions(names, MOST_PASSES)
        return Question(
            [tokens for tokens, _ in made], [[labels[i] for i in part] for _, part in made]
        )

    def _released(self, words: Sequence[str]) -> Question:
        """Ask as the released code does, its cache of the text included."""
        tokens, names = self.released_tokens(words)
        self.class_names = dict(enumerate(names))
        if self._first is None:
            self._first = tokens.ids
        return Question([tokens], [list(range(len(tokens.labels)))])

    def released_tokens(self, words: Sequence[str]) -> tuple[Tokens, list[str]]:
        """Return the tokens and names of a list of names, or of the option's sentence."""
        text, caption = self._text, self.config.words
        if words:
            made: Caption = text.caption_of(text.released_names(words))
        elif separated(caption):
            dotted = caption if caption.endswith('.') else f'{caption}. '
            made = text.released_caption(caption, text.noun_phrases(dotted))
        else:
            wanted((), '')
        return self.tokenizer(made), made.names

    def look(self, maps: Sequence[Tensor], view: View, words: Sequence[str] = ()) -> Instances:
        """See ``SwinDetector``."""
        fresh = self._asked is None or self._asked[0] != tuple(words)
        question = self.ask(words)
        scores, boxes, labels = [], [], []
        for tokens, named in zip(question.parts, question.labels):
            ids = tokens.ids
            if self.config.released and not fresh and self._first is not None:
                ids = self._first  # upstream's cache holds the first words for ever
            found = self.network(
                maps, (view.rows, view.columns), self.padded(view), _column(ids, self.device)
            )
            scores.append(label_scores(found.logits, tokens.labels))
            boxes.append(corners(found.boxes, view))
            labels.append(torch.tensor(named, device=self.device))
        return self._chosen(scores, boxes, labels, view)

    def _chosen(
        self, scores: list[Tensor], boxes: list[Tensor], labels: list[Tensor], view: View
    ) -> Instances:
        """Take the best pairs of a query and a label of all captions."""
        many = torch.cat([each.flatten() for each in scores])
        where = torch.cat([b.repeat_interleave(s.shape[1], 0) for s, b in zip(scores, boxes)])
        which = torch.cat([label.repeat(len(s)) for s, label in zip(scores, labels)])
        top, index = many.topk(min(_MOST, len(many)))
        seen = where[index], top, which[index]
        if not self.config.released:
            config = self.config
            seen = best(*seen, config.score_threshold, config.nms_iou, config.max_instances)
        return Instances(
            boxes=in_image(seen[0], view),
            scores=seen[1].cpu().numpy(),
            labels=seen[2].int().cpu().numpy(),
        )


def label_scores(logits: Tensor, labels: Sequence[Sequence[int]]) -> Tensor:
    """Return (Q, L) scores of labels: the mean over their tokens, of logits (Q, T).

    A label without tokens has NaN. Tokens that the logits do not reach count as nothing.
    """
    tokens = logits.sigmoid()
    columns = []
    for label in labels:
        inside = [i for i in label if i < tokens.shape[1]]
        columns.append(tokens[:, inside].sum(1) / (len(label) or float('nan')))
    return torch.stack(columns, 1)


def corners(boxes: Tensor, view: View) -> Tensor:
    """Boxes (N, 4) cx cy w h as shares of the image to xyxy in network pixels, inside it."""
    centre, size = boxes[:, :2], boxes[:, 2:]
    shares = torch.cat((centre - size / 2, centre + size / 2), 1)
    scale = boxes.new_tensor([view.columns, view.rows] * 2)
    return clip_boxes(shares * scale, view.rows, view.columns)


def _column(ids: Sequence[int], device: str) -> Tensor:
    return torch.tensor(ids, dtype=torch.long, device=device)


def _modules() -> tuple[Any, Any]:
    """Return network and text; raises ConfigError where transformers is not installed."""
    try:
        from masa_ros.models import grounding_dino, grounding_text
    except ImportError as error:
        raise ConfigError(
            'the detector grounding_dino needs the package transformers: '
            f'pip install transformers ({error})'
        ) from error
    return grounding_dino, grounding_text
