# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Words for Grounding DINO: one caption of several names, and which tokens belong to which."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers.implementations import BertWordPieceTokenizer

from masa_ros.errors import ConfigError, WeightsError

MOST_TOKENS = 256
"""Longest caption that the network reads."""

Span = tuple[int, int]


class Caption(NamedTuple):
    """A text with the characters of each name in it.

    Attributes
    ----------
    text: of names with full stops between them.
    spans: for each label the first character and the one after the last.
    names: of the labels.

    """

    text: str
    spans: list[Span]
    names: list[str]


class Tokens(NamedTuple):
    """A caption as the network reads it.

    Attributes
    ----------
    ids: of the tokens, ``MOST_TOKENS`` at most.
    labels: for each label the tokens that are its own.
    text: their spelling.

    """

    ids: list[int]
    labels: list[list[int]]
    text: list[str]


def caption_of(names: Sequence[str]) -> Caption:
    """Put names, as they are, into a caption."""
    text, spans = '', []
    for name in names:
        spans.append((len(text), len(text) + len(name)))
        text += f'{name}. '
    return Caption(text, spans, list(names))


def released_names(names: Sequence[str]) -> list[str]:
    """Clean names as the released code does: no brackets, spaces for underscores."""
    return [re.sub(r'\(.*\)', '', name).replace('_', ' ').replace('  ', ' ') for name in names]


def plain_names(names: Sequence[str]) -> list[str]:
    """Clean names: as released, and no full stops or spaces around them."""
    return [' '.join(name.split()).strip('. ') for name in released_names(names)]


def released_caption(text: str, phrases: Sequence[str]) -> Caption:
    """Caption of a sentence and the noun phrases in it, as the released demo makes it.

    Every place where a phrase is found, taken for a regular expression, is a label of its own. So
    there may be more labels than phrases, or none: then ConfigError is raised, where the released
    code ends with an exception of its own.
    """
    caption = text if text.endswith('.') else text + '. '
    spans = [match.span() for phrase in phrases for match in re.finditer(phrase, caption.lower())]
    if not spans:
        raise ConfigError(
            f"words: none of the noun phrases {list(phrases)} is found in '{text}'; "
            "write names with ' . ' between them, or set released to false"
        )
    return Caption(caption, spans, list(phrases))


def noun_phrases(text: str) -> list[str]:
    """Return what NLTK takes for noun phrases, as the released demo asks it.

    Raises
    ------
    ConfigError
        When NLTK or its data are not there.

    """
    try:
        import nltk

        tagged = nltk.pos_tag(nltk.word_tokenize(text.lower(), preserve_line=True))
    except (ImportError, LookupError) as error:
        reason = next(line for line in str(error).splitlines() if line.strip(' *')).strip()
        raise ConfigError(
            'words as a sentence, and released: noun phrases are found by NLTK, which is not '
            'ready: pip install nltk, python -m nltk.downloader averaged_perceptron_tagger_eng '
            f'({reason})'
        ) from error
    tree = nltk.RegexpParser('NP: {<DT>?<JJ.*>*<NN.*>+}').parse(tagged)
    found = [
        ' '.join(word for word, _ in part.leaves())
        for part in tree.subtrees(lambda part: part.label() == 'NP')
    ]
    cleaned = [re.sub(r'[|:;@()\[\]{}^\'"’`?$%#!&*+,.]', '', phrase).strip() for phrase in found]
    return [phrase for phrase in cleaned if phrase]


class Tokenizer:
    """WordPiece tokens of BERT, as Grounding DINO reads them.

    Parameters
    ----------
    encode: from a text to what the package tokenizers calls an Encoding, with a token each for
        beginning and end.

    """

    def __init__(self, encode: Callable[[str], Any]) -> None:
        self._encode = encode

    @classmethod
    def of_file(cls, vocabulary: Path) -> Tokenizer:
        """Make the one of bert-base-uncased; raises WeightsError for a file of anything else."""
        try:
            return cls(BertWordPieceTokenizer(str(vocabulary), lowercase=True).encode)
        except Exception as error:  # the package raises bare ones
            raise WeightsError(f'{vocabulary} is no vocabulary of BERT: {error}') from error

    def __call__(self, caption: Caption) -> Tokens:
        """Cut a caption into tokens.

        A label reaches from the token of its first character to that of its last one (where this
        is a space: that of the next two). What lies beyond ``MOST_TOKENS`` is cut off.
        """
        made = self._encode(caption.text)
        labels = []
        for first, end in caption.spans:
            begin = _token(made, first, (1, 2))
            last = _token(made, end - 1, (-1, -2))
            whole = range(begin, last + 1) if begin is not None and last is not None else ()
            labels.append([i for i in whole if i < MOST_TOKENS])
        return Tokens(made.ids[:MOST_TOKENS], labels, made.tokens[:MOST_TOKENS])

    def count(self, name: str) -> int:
        """Return how many tokens a name takes in a caption, its full stop included."""
        return len(self._encode(f'{name}. ').ids) - 2

    def captions(self, names: Sequence[str], most: int) -> list[tuple[Tokens, list[int]]]:
        """Put names into captions that are short enough, ``most`` at most.

        Returns the tokens of each, and which of the names are in it.

        Raises
        ------
        ConfigError
            For a name without a letter, one that is too long by itself, and for too many.

        """
        plain = plain_names(names)
        if bad := [name for name, cleaned in zip(names, plain) if not cleaned]:
            raise ConfigError(f"words: '{bad[0]}' names nothing")
        parts = self._parts(plain)
        if len(parts) > most:
            raise ConfigError(
                f'words: {len(names)} words are {len(parts)} passes over every image, '
                f'{most} are allowed; name fewer'
            )
        return [(self(caption_of([plain[i] for i in part])), part) for part in parts]

    def _parts(self, names: Sequence[str]) -> list[list[int]]:
        found: list[list[int]] = [[]]
        room = MOST_TOKENS - 2  # beginning and end are tokens, too
        for i, name in enumerate(names):
            need = self.count(name)
            if need > MOST_TOKENS - 2:
                raise ConfigError(
                    f"words: '{name[:40]} ...' is {need} tokens long, {MOST_TOKENS - 2} at most"
                )
            if need > room:
                found.append([])
                room = MOST_TOKENS - 2
            found[-1].append(i)
            room -= need
        return found


def _token(made: Any, at: int, beside: tuple[int, int]) -> int | None:
    """Return the token of a character, or of one beside it where that is a space."""
    for offset in (0, *beside):
        token: int | None = made.char_to_token(at + offset) if at + offset >= 0 else None
        if token is not None:
            return token
    return None
