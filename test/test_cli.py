# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The command line as a stranger meets it: the help, and what is said about mistakes."""

import importlib
import re
import subprocess
import sys

import pytest

from masa_ros import cli, options
from masa_ros.methods import METHODS
from masa_ros.streams.stream import StreamConfig

SHORT = ('replay', 'evaluate', 'demo', 'train')  # whose help leaves options out
OTHERS = ('proposals', 'engines build', 'engines verify', 'weights fetch')


@pytest.fixture
def ended(monkeypatch, capsys, tmp_path):
    """Run a command line that ends at once; returns the exit code, what is said, and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '80')
    monkeypatch.setenv('NO_COLOR', '1')

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main(' '.join(words).split())
        return stop.value.code, *capsys.readouterr()

    return run


def names(text):
    """Return the options that a help lists."""
    lines = [line for line in text.splitlines() if re.match(r' {2}-', line)]
    return {name for line in lines for name in re.findall(r'--[a-z0-9-]+', line.split('   ')[0])}


@pytest.mark.parametrize('command', [*SHORT, *OTHERS, 'engines', 'engines list', 'weights'])
def test_a_mistake_shows_the_usage_of_the_command(ended, command):
    code, out, told = ended(command, '--nonsense x')
    assert code == 2 and not out
    assert told.startswith(f'usage: masa_ros {command} ')
    assert f'\nmasa_ros {command}: there is no option --nonsense' in told
    assert f'\nsee masa_ros {command} --help' in told
    assert len(told.splitlines()) <= 5
    assert ('--help-all' in told) == (command in SHORT)


@pytest.mark.parametrize(
    'line, words',
    [
        ('replay x --outptu y', 'no option --outptu; did you mean --output?'),
        ('replay x --output=y --assocation=tao', 'did you mean --association?'),
        ('replay x --output y --association tao --coast-seconds 1', 'of what is chosen exist'),
        ('replay x --output y --method nonsense --model k', 'argument --method: invalid choice'),
        ('replay x y --output z', "'y' is one argument too many"),
        ('replay x -o y', 'no option -o'),
        ('replay --score-threshold -1 - -- -x', 'required: --output'),
        ('replay --nms-iou much', 'argument --nms-iou: invalid float'),
        ('evaluate x --ground-truth y --model k', 'for --palindrome'),
        ('evaluate x --palindrom --modle k', 'did you mean --model?'),
        ('train --image x', 'required: --output'),
        ('engines build --modle k', 'did you mean --model?'),
        ('engines biuld', "invalid choice: 'biuld'"),
        ('--vesion replay --nonsense', 'did you mean --version?'),
        ('reply', "invalid choice: 'reply'"),
    ],
)
def test_a_mistake_is_named(ended, line, words):
    code, _, told = ended(line)
    assert code == 2 and words in told


@pytest.mark.parametrize('command', SHORT)
def test_the_help_is_short_and_complete_on_demand(ended, command):
    code, short, _ = ended(command, '--help')
    assert code == 0 and '--help-all' in short
    assert len(names(short)) <= 14 and len(short.splitlines()) <= 40
    code, full, _ = ended(command, '--help-all')
    assert code == 0 and names(short) < names(full)
    for name in names(full) - {'--help', '--help-all'}:
        # It may be used wrongly here; so that nothing runs, there are too many others.
        told = ended(command, '--palindrome' * (command == 'evaluate'), f'{name}= a b c')[2]
        assert 'there is no option' not in told, told
    (module,) = [module for name, _, module in cli._COMMANDS if name == command]
    common = importlib.import_module(module).COMMON
    stored = {name.strip('-').replace('-', '_') for name in names(short)} - {'help', 'help_all'}
    assert stored <= set(common) <= stored | {'source', 'tracks'}, 'COMMON names what is not there'


@pytest.mark.parametrize('method', METHODS)
def test_the_full_help_has_all_options_by_where_they_are_from(ended, method):
    full = ended(f'replay --method {method} --help-all')[1]
    known = [*options.listed(METHODS[method].options), *options.listed(StreamConfig)]
    assert {'--' + re.sub('[._]', '-', each.name) for each in known} <= names(full)
    parts = ('\noptions:', f'\nmethod {method}:', '\nstream:')
    assert [full.index(part) for part in parts] == sorted(full.index(part) for part in parts)
    clashing = [re.sub('[._]', '-', each.name) for each in known]
    assert len(set(clashing)) == len(clashing)


def test_options_of_what_is_not_chosen_are_not_there(ended):
    assert '--detection-every' not in ended('replay --help-all')[1]
    assert '--deva-size' in ended('replay --method deva --propagator deva --help-all')[1]
    assert '--coast-seconds' not in ended('replay --association tao --help-all')[1]


@pytest.mark.parametrize(
    'line', ['--help', 'train --help-all', 'proposals --help', 'weights list']
)
def test_what_needs_no_torch_does_not_load_it(line):
    code = (
        'import sys; from masa_ros import cli\n'
        f'try: cli.main({line.split()!r})\n'
        'except SystemExit: pass\n'
        'assert not {"torch", "rclpy", "cv2"} & set(sys.modules), "imported too much"'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd='/', stdout=subprocess.DEVNULL)
