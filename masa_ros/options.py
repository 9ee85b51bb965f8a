# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One text for an option: ROS parameter, command-line argument, line of YAML, row of the docs.

Options are the fields of frozen dataclasses, made by ``option``. Such a class may hold others:
``group`` takes one in whole, ``variants`` the one that another option chooses (the options of the
chosen association, of the chosen method), so that those of the others stay out of the way.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from masa_ros.errors import ConfigError

T = TypeVar('T')
_KEY = 'masa_ros.options'


@dataclasses.dataclass(frozen=True)
class Option:
    """One option.

    Attributes
    ----------
    name: of the ROS parameter; the argument is '--' and the name with dashes.
    default, text: as declared.
    limits: smallest and largest value of a number.
    special: a number beside the limits and what it stands for, as (-1, "the model's own").
    choices: allowed values of a string.
    live: may be changed while a node runs; the others are read when it is configured.

    """

    name: str
    default: Any
    text: str
    limits: tuple[float, float] | None = None
    special: tuple[float, str] | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def check(self, value: Any) -> None:
        """Raise ConfigError, naming the option, for a value that means nothing."""
        if self.choices and value not in self.choices:
            listed = ', '.join(self.choices)
            raise ConfigError(f"{self.name} is '{value}'; it must be one of: {listed}")
        if not self.limits or (self.special and value == self.special[0]):
            return
        low, high = self.limits
        if not (math.isfinite(value) and low <= value <= high):
            beside = f', or {self.special[0]:g} ({self.special[1]})' if self.special else ''
            raise ConfigError(
                f'{self.name} is {value:g}; it must be in {low:g} .. {high:g}{beside}'
            )

    @property
    def range(self) -> tuple[float, float] | None:
        """Smallest and largest number that is allowed, the special one included."""
        if not self.limits or not self.special:
            return self.limits
        return min(self.limits[0], self.special[0]), max(self.limits[1], self.special[0])

    @property
    def described(self) -> str:
        """The text with what the special number stands for."""
        if self.special is None:
            return self.text
        return f'{self.text}; {self.special[0]:g}: {self.special[1]}'


def option(
    default: Any,
    text: str,
    low: float | None = None,
    high: float | None = None,
    *,
    special: tuple[float, str] | None = None,
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] = (),
    live: bool = False,
) -> Any:
    """Declare an option as a field of a dataclass; ``choices`` may be asked for when needed."""
    limits = None if low is None or high is None else (low, high)
    made = Option('', default, text, limits, special, () if callable(choices) else choices, live)
    later = choices if callable(choices) else None
    return dataclasses.field(
        default_factory=lambda: copy.copy(default), metadata={_KEY: (made, later)}
    )


class Variant(NamedTuple):
    """A class of options that may be chosen, a prefix for their names, and what it is told."""

    kind: type
    prefix: str = ''
    fixed: Mapping[str, Any] = {}


def group(kind: type[T], prefix: str = '') -> T:
    """Declare all options of another class as a field, with a prefix for their names."""
    made: Any = dataclasses.field(default_factory=kind, metadata={_KEY: Variant(kind, prefix)})
    return made  # type: ignore[no-any-return]


def variants(selector: str, kinds: Callable[[], Mapping[str, Variant]]) -> Any:
    """Declare a field that holds the options of the variant that ``selector`` names."""

    def default() -> Any:
        first = next(iter(kinds().values()))
        return first.kind(**first.fixed)

    return dataclasses.field(default_factory=default, metadata={_KEY: (selector, kinds)})


class _Place(NamedTuple):
    """An option or a part of a class, with what it is called there."""

    field: str
    option: Option | None
    part: Variant | None
    selector: str = ''


def _places(kind: type, prefix: str, value: Callable[[str], Any], every: bool) -> Iterator[_Place]:
    """Give the fields of a class of options; ``value`` tells what selectors are set to."""
    for field in dataclasses.fields(kind):
        declared = field.metadata.get(_KEY)
        if declared is None:
            continue
        if isinstance(declared, Variant):
            yield _Place(field.name, None, declared._replace(prefix=prefix + declared.prefix))
        elif isinstance(declared[0], Option):
            made, later = declared
            choices = later() if later else made.choices
            named = dataclasses.replace(made, name=prefix + field.name, choices=choices)
            yield _Place(field.name, named, None)
        else:
            selector, kinds = declared
            known, chosen = kinds(), value(prefix + selector)
            for name, part in known.items():
                if name == chosen or (every and part.kind is not known.get(chosen, part).kind):
                    yield _Place(
                        field.name, None, part._replace(prefix=prefix + part.prefix), selector
                    )


def listed(
    kind: type, values: Mapping[str, Any] | None = None, *, every: bool = False, prefix: str = ''
) -> list[Option]:
    """Return the options of a class by their full names, those of its parts included.

    Parameters
    ----------
    kind: class of options.
    values: what selectors are set to, where they are not at their defaults.
    every: list the options of all variants, once each.
    prefix: of all names.

    """
    found: dict[str, Option] = {}
    values = values or {}

    def value(name: str) -> Any:
        return values.get(name, found[name].default)

    for place in _places(kind, prefix, value, every):
        if place.option is not None:
            found[place.option.name] = place.option
        elif place.part is not None:
            inner = listed(place.part.kind, values, every=every, prefix=place.part.prefix)
            found |= {each.name: each for each in inner if each.name not in found}
    return list(found.values())


def selectors(kind: type) -> list[str]:
    """Return the names of the options that choose which others there are."""
    found = []
    for field in dataclasses.fields(kind):
        declared = field.metadata.get(_KEY)
        if isinstance(declared, Variant):
            found += [declared.prefix + name for name in selectors(declared.kind)]
        elif declared is not None and not isinstance(declared[0], Option):
            found.append(declared[0])
    return found


def build(kind: type[T], values: Mapping[str, Any], *, prefix: str = '') -> T:
    """Make options of their values by name; what is not named keeps its default.

    Raises
    ------
    ConfigError
        Naming an option whose value means nothing.

    """
    made: dict[str, Any] = {}
    for place in _places(kind, prefix, lambda name: _value_of(kind, values, prefix, name), False):
        if place.option is not None:
            name = place.option.name
            value = values.get(name, copy.copy(place.option.default))
            place.option.check(value)
            made[place.field] = value
        elif place.part is not None:
            part: Any = build(place.part.kind, values, prefix=place.part.prefix)
            if place.part.fixed:
                part = dataclasses.replace(part, **place.part.fixed)
            made[place.field] = part
    return kind(**made)


def _value_of(kind: type, values: Mapping[str, Any], prefix: str, name: str) -> Any:
    """Return what a selector is set to, or its default."""
    if name in values:
        return values[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    return fields[name.removeprefix(prefix)].metadata[_KEY][0].default


def values_of(config: Any, *, prefix: str = '') -> dict[str, Any]:
    """Return the values of options by their full names, as ``build`` takes them."""
    found: dict[str, Any] = {}
    for place in _places(type(config), prefix, found.__getitem__, False):
        if place.option is not None:
            found[place.option.name] = getattr(config, place.field)
        elif place.part is not None:
            found |= values_of(getattr(config, place.field), prefix=place.part.prefix)
    return found


def replace(config: T, **values: Any) -> T:
    """Return options with other values of some, named in full; unknown names are ignored."""
    now = values_of(config)
    known = {name: value for name, value in values.items() if name in now}
    return build(type(config), now | known)


def check(config: Any) -> None:
    """Raise ConfigError naming an option of the class's own that means nothing."""
    for place in _places(type(config), '', lambda name: getattr(config, name), False):
        if place.option is not None:
            place.option.check(getattr(config, place.field))


def add_arguments(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    kind: type,
    values: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Declare an argument for every option of a class.

    Parameters
    ----------
    parser: parser, or a group of one.
    kind: class of options.
    values: what selectors are set to.
    defaults: defaults of the command where they are not those of the options.

    """
    for each in listed(kind, values):
        name = '--' + each.name.replace('_', '-').replace('.', '-')
        default = (defaults or {}).get(each.name, each.default)
        common: dict[str, Any] = {'dest': each.name, 'default': default}
        text = each.described.replace('%', '%%')
        if isinstance(each.default, bool):
            made = parser.add_argument(name, action=argparse.BooleanOptionalAction, **common)
            made.help = f'{text} ({"on" if default else "off"})'  # Python 3.10 would add to it
            continue
        common['help'] = f'{text} (%(default)s)' if default != '' else text
        if each.choices:
            common['choices'] = each.choices
        else:
            common['metavar'] = name.rpartition('-')[2].upper()
        parser.add_argument(name, type=type(each.default), **common)


def from_arguments(kind: type[T], arguments: argparse.Namespace) -> T:
    """Return the options that a command line sets; raises ConfigError naming one."""
    return build(kind, vars(arguments))


def peek(arguments: list[str], *names: str) -> dict[str, str]:
    """Return the values of some options in a command line that is not parsed yet."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        parser.add_argument('--' + name.replace('_', '-'), dest=name, default=argparse.SUPPRESS)
    try:
        return vars(parser.parse_known_args(arguments)[0])
    except argparse.ArgumentError:  # told when it is parsed
        return {}
