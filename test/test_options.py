# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One text for an option: what is declared once is the same everywhere."""

import argparse
import dataclasses

import pytest

from masa_ros import options
from masa_ros.errors import ConfigError
from masa_ros.options import Variant, group, option, variants


@dataclasses.dataclass(frozen=True)
class Slow:
    patience: float = option(2.0, 'seconds', 0, 10)


@dataclasses.dataclass(frozen=True)
class Fast:
    kind: str = 'none'
    speed: int = option(3, 'in hurries', 1, 9, special=(-1, 'light'), live=True)


@dataclasses.dataclass(frozen=True)
class Inner:
    names: list = option(['a'], 'of things')
    loud: bool = option(False, 'tell everything')

    def __post_init__(self):
        options.check(self)


KINDS = {
    'slow': Variant(Slow),
    'fast': Variant(Fast, 'fast.', {'kind': 'fast'}),
    'faster': Variant(Fast, 'fast.', {'kind': 'faster'}),
}


@dataclasses.dataclass(frozen=True)
class Outer:
    pace: str = option('slow', 'how', choices=lambda: tuple(KINDS))
    chosen: object = variants('pace', lambda: KINDS)
    inner: Inner = group(Inner)


def names(*arguments, **more):
    return [each.name for each in options.listed(Outer, *arguments, **more)]


def test_the_options_of_what_is_not_chosen_stay_out_of_the_way():
    assert names() == ['pace', 'patience', 'names', 'loud']
    assert names({'pace': 'faster'}) == ['pace', 'fast.speed', 'names', 'loud']
    assert names(every=True) == ['pace', 'patience', 'fast.speed', 'names', 'loud']


def test_options_survive_the_way_through_their_values():
    made = options.build(Outer, {'pace': 'faster', 'fast.speed': -1, 'names': ['b', 'c']})
    assert made == Outer('faster', Fast('faster', -1), Inner(['b', 'c'], False))
    assert options.build(Outer, options.values_of(made)) == made
    assert options.replace(made, loud=True, unknown=3).inner.loud
    assert options.build(Outer, {}) == Outer()


def test_lists_are_not_shared():
    Outer().inner.names.append('mine')
    assert Outer().inner.names == ['a']


@pytest.mark.parametrize(
    'values, words',
    [
        ({'pace': 'walk'}, "pace is 'walk'; it must be one of: slow, fast, faster"),
        ({'patience': float('nan')}, r'patience is nan; it must be in 0 .. 10'),
        ({'patience': 11.0}, r'patience is 11; it must be in 0 .. 10'),
        ({'pace': 'fast', 'fast.speed': 0}, r'fast.speed is 0.* or -1 \(light\)'),
    ],
)
def test_a_value_that_means_nothing_is_named(values, words):
    with pytest.raises(ConfigError, match=words):
        options.build(Outer, values)


def test_command_lines():
    def parse(*arguments):
        parser = argparse.ArgumentParser()
        chosen = options.peek(list(arguments), *options.selectors(Outer))
        options.add_arguments(parser, Outer, chosen, {'loud': True})
        return options.from_arguments(Outer, parser.parse_args(arguments)), parser.format_help()

    made, text = parse('--pace', 'fast', '--fast-speed', '9', '--no-loud')
    assert made == Outer('fast', Fast('fast', 9), Inner(['a'], False))
    assert 'in hurries; -1: light' in text and 'patience' not in text
    assert parse()[0].inner.loud, 'the default of the command'
    with pytest.raises(SystemExit):
        parse('--fast-speed', '9')
