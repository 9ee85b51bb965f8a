# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The errors a user can cause. Their text says what is wrong, where, and what to do."""


class MasaError(Exception):
    """Base class: commands print its text and exit with 2, the node logs it and goes on."""


class ImageError(MasaError):
    """An image cannot be used.

    Attributes
    ----------
    cause: 'encoding', 'size', 'step', 'data' or 'image', and of a video 'without_key_frame',
        'broken_video' or 'without_picture'; what diagnostics count by.

    """

    def __init__(self, text: str, cause: str = 'image') -> None:
        super().__init__(text)
        self.cause = cause


class ConfigError(MasaError):
    """A parameter or option has a value that cannot be used."""


class WeightsError(MasaError):
    """A weights file is missing, corrupt, or belongs to another model."""


class EngineError(MasaError):
    """A stage of a network cannot be compiled, or what was compiled does not run."""


class SourceError(MasaError):
    """A recording (bag, video, folder, tracks file) cannot be read."""


class PromptError(MasaError):
    """A prompt cannot be followed: nothing is there, or no track has its id."""
