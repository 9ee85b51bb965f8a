# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Models of the library transformers, from a folder or from the hub, with clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from masa_ros.errors import ConfigError, WeightsError


def library(purpose: str) -> Any:
    """Return the package transformers; raises ConfigError where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f'{purpose} needs the package transformers: pip install transformers ({error})'
        ) from error
    return transformers


def from_hub(kind: Any, name: str, what: str) -> Any:
    """Make a part of a model by name, or by the folder that it was saved in.

    Only safetensors are read: a file of pickles may run code.

    Parameters
    ----------
    kind: class of transformers with ``from_pretrained``.
    name: on the hub, as OWNER/NAME, or a folder.
    what: for the error: 'processor', 'model'.

    Raises
    ------
    WeightsError
        When it is in no folder and the hub cannot be reached, has no such model, or has none of
        the kind.

    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        source, options = str(folder), {'local_files_only': True}
    elif name.count('/') == 1 and not name.startswith(('/', '.', '~')):
        source, options = name, {}
    else:
        raise WeightsError(f'{what}: there is no folder {name}, and no OWNER/NAME of the hub')
    if what == 'model':
        options['use_safetensors'] = True
    library(what).logging.disable_progress_bar()  # lines of a log have no room for them
    try:
        return kind.from_pretrained(source, **options)
    except Exception as error:  # the library raises whatever its parts raise
        where = f'in {source}' if options.get('local_files_only') else f"'{source}' from the hub"
        raise WeightsError(f'no {what} {where}: {_reason(error)}') from error


def tokenizer_from_hub(kind: Any, name: str) -> Any:
    """Make a tokenizer; raises WeightsError where it is missing, as ``from_hub`` does."""
    made = from_hub(kind, name, 'tokenizer')
    if len(made) <= len(made.all_special_tokens):  # the library makes one of no files at all
        raise WeightsError(f'no tokenizer in {name}: tokenizer.json is missing')
    return made


def _reason(error: Exception) -> str:
    """Return an error of the library in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = ' '.join(lines)[:300] if lines else type(error).__name__
    return text.rstrip('.')
