#!/usr/bin/env python3
# Copyright 2026 The masa_ros contributors
# SPDX-License-Identifier: Apache-2.0
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
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 10), (3, 14))  # first and last that the ROS wheels are built for


class SetupError(Exception):
    """Something the user must mend; the text says what."""


def say(text: str) -> None:
    """Tell what happens."""
    print(f'set-up: {text}', flush=True)


def digest(paths: list[Path], extra: str = '') -> str:
    """Content hash over files and their names."""
    sha = hashlib.sha256(extra.encode())
    for path in sorted(paths):
        sha.update(str(path.relative_to(ROOT)).encode() + b'\0' + path.read_bytes() + b'\0')
    return sha.hexdigest()


def check_machine() -> None:
    """Refuse to start half a set-up on a machine where it cannot end."""
    first, last = PYTHONS
    if not first <= sys.version_info[:2] <= last:
        raise SetupError(
            f'this is Python {platform.python_version()}; ROS 2 is on the package index for '
            f'{first[0]}.{first[1]} to {last[0]}.{last[1]}: make demo PYTHON=python3.12'
        )
    if (sys.platform, platform.machine()) != ('linux', 'x86_64'):
        raise SetupError(
            f'ROS 2 is on the package index for Linux on x86-64, this is {sys.platform} on '
            f'{platform.machine()}. With a ROS 2 installation: the README, "In a ROS 2 '
            'workspace". Without: pip install ".[replay,evaluation]" in an environment of its '
            'own, and masa_ros replay'
        )
    missing = [tool for tool in ('cmake', 'gcc', 'g++') if shutil.which(tool) is None]
    if missing:
        raise SetupError(
            f'not found: {", ".join(missing)}. On Debian and Ubuntu: '
            'sudo apt install cmake gcc g++ python3-venv python3-dev'
        )


class Environment:
    """A virtual environment with ROS 2, the package and what else was asked for.

    Parameters
    ----------
    folder: of the environment.
    requirements: files with the pins of its packages.
    behind: another environment, whose packages are found where this one has none of that name.

    """

    def __init__(
        self, folder: Path, requirements: list[Path], behind: Environment | None = None
    ) -> None:
        self.folder, self._behind = folder, behind
        self._requirements = requirements
        self._python = folder / 'bin' / 'python'
        self._stamp = folder / 'masa_ros_setup.json'
        self.done: dict[str, str | bool] = {}
        if self._stamp.is_file():
            self.done = json.loads(self._stamp.read_text())

    def set_up(self, dev: bool, engines: bool) -> None:
        """Take the steps whose inputs have changed; ``dev``: also what the tests need."""
        if not self._python.exists():
            say(f'creating {self.folder.name}')
            try:
                venv.create(self.folder, with_pip=True)
            except subprocess.CalledProcessError as error:
                raise SetupError(
                    f'python3 -m venv failed; python3-venv missing? {error}'
                ) from error
        files = list(self._requirements)
        if dev and self._behind is None:
            files.append(ROOT / 'requirements-dev.txt')
        wanted = digest(files, f'{sys.version_info[:2]}')
        if self.done.get('packages') != wanted:
            self._install(files)
            self._remember(packages=wanted, dev=dev, engines='', build='', interfaces='')
        if engines:
            file = ROOT / 'requirements-engines.txt'
            files.append(file)
            if self.done.get('engines') != digest([file]):
                say('installing OpenVINO and TensorRT-RTX (a minute)')
                self._pip('--no-deps', '--no-build-isolation', '-r', str(file), log='pip-engines')
                self._remember(engines=digest([file]))
        self._check_pins(files)
        self._build_package()
        if dev:
            self._build_interfaces()

    def _remember(self, **steps: str | bool) -> None:
        self.done |= steps
        self._stamp.write_text(json.dumps(self.done))

    def _run(self, *command: str | Path, log: str) -> None:
        """Run a command quietly, but for a sign of life; on failure show the end of its output."""
        path = self.folder / f'{log}.log'
        with path.open('w') as file:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._variables(),
            )
            start = told = time.monotonic()
            while process.poll() is None:
                time.sleep(0.1)
                if time.monotonic() - told > 15:
                    told = time.monotonic()
                    say(f'  {told - start:3.0f} s: {_last_line(path)}')
        if process.returncode:
            tail = '\n'.join(path.read_text(errors='replace').splitlines()[-30:])
            raise SetupError(
                f'{log} failed (exit {process.returncode}); the whole output is in {path}\n{tail}'
            )

    def _variables(self) -> dict[str, str]:
        """Return environment variables under which CMake finds ROS here and nowhere else."""
        here = str(self.folder)
        path = f'{self.folder / "bin"}{os.pathsep}{os.environ["PATH"]}'
        return os.environ | {
            'AMENT_PREFIX_PATH': here,
            'CMAKE_PREFIX_PATH': here,
            'PATH': path,
        }

    def _pip(self, *options: str, log: str) -> None:
        quiet = ('--disable-pip-version-check', '--no-input', '--progress-bar', 'off')
        self._run(self._python, '-m', 'pip', 'install', *quiet, *options, log=log)

    def _ask(self, code: str, question: object = None) -> object:
        """Return what a program prints as JSON in the environment."""
        answer = subprocess.run(
            [self._python, '-c', code], input=json.dumps(question), capture_output=True, text=True
        )
        if answer.returncode:
            raise SetupError(
                f'{self._python} does not run; delete {self.folder} and start again\n'
                f'{answer.stderr}'
            )
        return json.loads(answer.stdout)

    def _install(self, files: list[Path]) -> None:
        """Install the pinned packages."""
        behind = self._behind.site_packages() if self._behind else None
        link = self.site_packages() / 'masa_ros_behind.pth'
        link.unlink(missing_ok=True)  # pip shall not see them
        if behind is None:
            say('installing the pinned packages: 7 GB, most of it torch; some minutes')
        else:
            say(f'installing {self.folder.name} in front of {behind.parents[2].name}: a minute')
        self._pip(*(part for file in files for part in ('-r', str(file))), log='pip')
        if behind is not None:
            link.write_text(f'{behind}\n')
        self._fix_cmake_paths()

    def site_packages(self) -> Path:
        """Return the folder of the installed packages."""
        version = '.'.join(map(str, sys.version_info[:2]))
        return self.folder / 'lib' / f'python{version}' / 'site-packages'

    def _check_pins(self, files: list[Path]) -> None:
        """Compare what is installed with the pins: pip may have been used by hand since."""
        pins = [
            line
            for file in files
            for line in file.read_text().splitlines()
            if line and not line.startswith('#')
        ]
        wrong = self._ask(
            'import json, sys\n'
            'from importlib.metadata import PackageNotFoundError, version\n'
            'from pip._vendor.packaging.requirements import Requirement\n'
            'wrong = []\n'
            'for line in json.load(sys.stdin):\n'
            '    pin = Requirement(line)\n'
            '    if pin.marker and not pin.marker.evaluate(): continue\n'
            '    try: found = version(pin.name)\n'
            '    except PackageNotFoundError: found = "missing"\n'
            '    if found == "missing" or not pin.specifier.contains(found):\n'
            '        wrong.append(f"{pin.name} is {found}, pinned is {pin.specifier}")\n'
            'print(json.dumps(wrong))',
            pins,
        )
        assert isinstance(wrong, list)
        if wrong:
            raise SetupError('the environment differs from the pins: ' + '; '.join(wrong))

    def _fix_cmake_paths(self) -> None:
        """Replace the paths of the machine that built the ROS wheels by this environment's.

        The wheels' CMake files name the include and site-packages folders of their own build.
        Doing it again changes nothing.
        """
        names = self._ask(
            'import json, sys, sysconfig, numpy\n'
            'print(json.dumps([sysconfig.get_path("include"), sysconfig.get_path("purelib"), '
            'numpy.get_include()]))',
        )
        assert isinstance(names, list)
        include, purelib, numpy_include = names
        major, minor = sys.version_info[:2]
        built_on = f'/opt/python/cp{major}{minor}-cp{major}{minor}'
        packages = f'{built_on}/lib/python{major}.{minor}/site-packages'
        replacements = {  # in this order
            f'{packages}/numpy/_core/include': numpy_include,
            f'{packages}/numpy/core/include': numpy_include,
            packages: purelib,
            f'{built_on}/include/python{major}.{minor}': include,
        }
        for path in sorted((self.folder / 'share').rglob('*.cmake')):
            text = path.read_text()
            fixed = text
            for old, new in replacements.items():
                fixed = fixed.replace(old, new)
            if '/opt/python/' in fixed:
                raise SetupError(
                    f'{path} names a folder below /opt/python that this set-up does not know: '
                    'the layout of the ROS wheels has changed, _fix_cmake_paths in '
                    'tools/setup_wheels.py must follow it'
                )
            if fixed != text:
                path.write_text(fixed)
        if not Path(include, 'Python.h').is_file():
            raise SetupError(f'{include}/Python.h is missing: install python3-dev')

    def _cmake(self, source: Path, name: str, *options: str) -> None:
        """Configure, build and install a package into the environment."""
        build = self.folder / f'{name}_build'  # the environment links into that of the package
        self._run(
            'cmake',
            '-S',
            source,
            '-B',
            build,
            f'-DCMAKE_INSTALL_PREFIX={self.folder}',
            f'-DPython3_EXECUTABLE={self._python}',
            '-DBUILD_TESTING=OFF',
            *options,
            log=f'cmake-{name}',
        )
        self._run('cmake', '--build', build, '--parallel', log=f'cmake-{name}-build')
        for before in self.site_packages().parent.glob(f'site-packages/{name}'):
            shutil.rmtree(before)  # modules that are gone must not stay importable
        self._run('cmake', '--install', build, log=f'cmake-{name}-install')

    def _build_package(self) -> None:
        """Build the messages and link the package; edited sources take effect at once."""
        interface = [ROOT / 'CMakeLists.txt', ROOT / 'package.xml', *ROOT.glob('scripts/*')]
        interface += [path for kind in ('msg', 'srv') for path in ROOT.glob(f'{kind}/*.{kind}')]
        # Sources are linked one by one, so that only a new or removed file needs another build.
        linked = [
            str(path.relative_to(ROOT))
            for folder in ('masa_ros', 'launch', 'config', 'include')
            for path in sorted((ROOT / folder).rglob('*'))
            if path.is_file() and path.suffix != '.pyc'
        ]
        wanted = digest(interface, '\n'.join(linked))
        if self.done.get('build') == wanted:
            return
        say('building the messages')
        self._cmake(
            ROOT, 'masa_ros', '-DCMAKE_BUILD_TYPE=Release', '-DAMENT_CMAKE_SYMLINK_INSTALL=1'
        )
        command = self.folder / 'bin' / 'masa_ros'
        command.unlink(missing_ok=True)
        command.symlink_to('../lib/masa_ros/masa_ros')
        self._remember(build=wanted)

    def _build_interfaces(self) -> None:
        """Build the interface packages of the tests, see test/interfaces/README.md."""
        source = ROOT / 'test' / 'interfaces'
        wanted = digest([path for path in source.rglob('*') if path.is_file()])
        if self.done.get('interfaces') == wanted:
            return
        packages = sorted(path for path in source.iterdir() if path.is_dir())
        for package in packages:
            say(f'building {package.name} for the tests')
            copy = self.folder / 'interfaces' / package.name
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(package, copy)
            for template in source.glob('*.in'):
                text = template.read_text().replace('@PACKAGE@', package.name)
                (copy / template.stem).write_text(text)
            self._cmake(copy, package.name)
        self._remember(interfaces=wanted)


def _last_line(path: Path) -> str:
    """Return the end of a log, short enough for a line of a terminal."""
    lines = path.read_text(errors='replace').split('\n')
    dull = ('WARNING', 'Attempting', 'Found', 'Uninstalling', 'Successfully')
    told = (line.strip() for line in reversed(lines) if not line.lstrip().startswith(dull))
    return next((line[:70] for line in told if line), '')


def main() -> int:
    """Run the steps whose inputs changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--dev', action='store_true', help='also what tests and linters need')
    parser.add_argument('--engines', action='store_true', help='also what builds engines')
    parser.add_argument(
        '--jazzy', action='store_true', help='also .venv-jazzy, a second environment for the tests'
    )
    arguments = parser.parse_args()
    try:
        check_machine()
        main_one = Environment(ROOT / '.venv', [ROOT / 'requirements.txt'])
        # What was asked for once stays: `make demo` after `make test` takes nothing away.
        dev = arguments.dev or arguments.jazzy or bool(main_one.done.get('dev'))
        main_one.set_up(dev, arguments.engines or bool(main_one.done.get('engines')))
        if arguments.jazzy:
            jazzy = Environment(
                ROOT / '.venv-jazzy', [ROOT / 'requirements-jazzy.txt'], behind=main_one
            )
            jazzy.set_up(dev=True, engines=False)
    except SetupError as error:
        print(f'set-up: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
