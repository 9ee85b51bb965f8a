# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Words: how they are written, what answers to them, and tracks when they change."""

import numpy as np
import pytest

from masa_ros.errors import ConfigError
from masa_ros.methods.deva import DevaConfig
from masa_ros.methods.masa import MasaConfig
from masa_ros.methods.sam_track import SamTrackConfig
from masa_ros.methods.seeking import Object, lost
from masa_ros.methods.sought import SoughtConfig, Word, answering, words_of
from masa_ros.types import Instances


class Reader:
    """Finds what it is told, by numbers."""

    takes_words, class_names = True, {0: 'person', 1: 'red cup', 2: 'picture', 3: 'its own'}

    def check_words(self, words):
        if 'unicorn' in words or not words:
            raise ConfigError(f'words: {words}')


def found(labels, scores):
    boxes = np.tile(np.array([0, 0, 9, 9], np.float32), (len(labels), 1))
    return Instances(boxes, np.array(scores, np.float32), np.array(labels, np.int32))


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('person. red  cup.', [Word('person'), Word('red cup')]),
        ('person', [Word('person')]),
        ('cup:0.4. hat : .25 .', [Word('cup', 0.4), Word('hat', 0.25)]),
        ('cup:1. not picture. cup.', [Word('cup'), Word('picture', 0.0, False)]),
        ('7.62 mm. notebook.', [Word('7.62 mm'), Word('notebook')]),
        ('cup. not  picture:0.5', [Word('cup'), Word('picture', 0.5, False)]),
    ],
)
def test_words_are_read(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    ('text', 'message'), [('', 'empty'), (' . .', 'empty'), ('not a.', 'only')]
)
def test_words_that_say_nothing(text, message):
    with pytest.raises(ConfigError, match=message):
        words_of(text)


def test_what_answers_to_words():
    seen = found([0, 1, 1, 2, 3, 9], [0.3, 0.5, 0.3, 0.9, 0.1, 0.1])
    words = words_of('person. red cup:0.4. not picture.')
    kept = answering(seen, Reader(), words)
    assert kept.labels.tolist() == [0, 1, 3, 9] and kept.scores[1] == 0.5
    assert answering(seen, Reader(), ()) is seen


def test_what_cannot_be_looked_for_is_refused():
    blind = Reader()
    blind.takes_words = False
    with pytest.raises(ConfigError, match='takes none'):
        SoughtConfig(find='words', words='cup').fits(blind)
    for find, words in (('words', 'unicorn.'), ('everything', ''), ('words', '')):
        with pytest.raises(ConfigError, match='words'):
            SoughtConfig(find=find, words=words).fits(Reader())
    SoughtConfig(find='words', words='cup. unicorns:0.1.').fits(Reader())
    SoughtConfig(find='nothing').fits(Reader())
    SoughtConfig().fits(blind)


def test_every_method_has_the_same_options_and_its_own_default():
    defaults = [kind().find for kind in (MasaConfig, DevaConfig, SamTrackConfig)]
    assert defaults == ['everything', 'everything', 'nothing']


def test_other_words_keep_what_still_answers():
    objects = {
        i: Object(label, 0.5, 0, pointed_at)
        for i, (label, pointed_at) in enumerate([(0, False), (1, False), (1, True), (-1, False)])
    }
    names = Reader.class_names
    assert lost(dict(objects), SamTrackConfig(find='everything'), names) == set()
    words = SamTrackConfig(find='words', words='person. not red cup.')
    assert lost(objects, words, names) == {1}
    assert set(objects) == {0, 2, 3}
    objects[0].unseen = objects[2].unseen = 7
    assert lost(objects, SamTrackConfig(forget_after=7), names) == {0}
