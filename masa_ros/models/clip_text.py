# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""CLIP's text encoder (Radford et al. 2021) by transformers: how Detic reads words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from masa_ros.errors import ConfigError
from masa_ros.models.hub import from_hub, library, tokenizer_from_hub

_MOST = 256  # texts at once


class ClipText:
    """Texts in, embeddings out, in float32 on the CPU: it runs once for new words.

    Parameters
    ----------
    name: of the model on the hub, or the folder that it was saved in.

    Raises
    ------
    ConfigError
        When the package transformers is not there.
    WeightsError
        When the model is not there.

    """

    def __init__(self, name: str) -> None:
        kinds = library('words for Detic')
        self._tokenizer = tokenizer_from_hub(kinds.CLIPTokenizer, name)
        self._network = from_hub(kinds.CLIPTextModelWithProjection, name, 'model').float().eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings (N, E), not normalised; raises ConfigError for a text too long."""
        limit = self._network.config.max_position_embeddings
        parts = []
        for start in range(0, len(texts), _MOST):
            some = list(texts[start : start + _MOST])
            made = self._tokenizer(some, padding=True, return_tensors='pt')
            if made.input_ids.shape[1] > limit:
                longest = max(some, key=lambda text: len(self._tokenizer(text).input_ids))
                raise ConfigError(f"words: '{longest[:40]} ...' is longer than {limit} tokens")
            parts.append(self._network(**made).text_embeds)
        return torch.cat(parts)
