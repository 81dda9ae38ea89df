"""Set-up: once, again when its sources change, afresh after an interruption

A stand-in for Python notes how it is called.
"""
import os
import subprocess
from shutil import copy, copytree

import pytest
from nbdev.config import get_config

root = get_config().config_path
SOURCES = ['constraints.txt', 'settings.ini', 'setup.py', 'pyproject.toml']
STUB = r'''#!/bin/bash
echo "$*" >> calls
case "$1 $2" in
  "-m venv")
    rm -rf .venv
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python;;
  "-m pip")
    echo "Collecting a"
    [ "$FAKE" != no_index ] || { echo "ERROR: no such package"; exit 1; }
    echo "Installing collected packages: a"
    [ "$FAKE" != killed ] || kill -9 $PPID
    [ "$FAKE" != full ] || exit 1;;
esac
'''


class Checkout:
    "What `make` needs, in a folder of its own"

    def __init__(self, folder):
        self.folder = folder
        for name in ('Makefile', *SOURCES):
            copy(root/name, folder)
        copytree(root/'tools', folder/'tools')
        (folder/'python').write_text(STUB)
        (folder/'python').chmod(0o755)

    def make(self, *targets, **env):
        "Run it; the result says how often pip and venv were called"
        (self.folder/'calls').write_text('')
        inherited = {name: value for name, value in os.environ.items() if not name.startswith('MAKE')}
        result = subprocess.run(['make', *targets], cwd=self.folder, env=inherited | env,
                                capture_output=True, text=True)
        calls = (self.folder/'calls').read_text()
        result.installs, result.venvs = calls.count('-m pip '), calls.count('-m venv ')
        return result


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.fixture
def ready(checkout):
    "A checkout that is set up"
    result = checkout.make('setup', 'PYTHON=./python')
    assert (result.returncode, result.installs, result.venvs) == (0, 1, 1), result.stdout + result.stderr
    return checkout


def test_lists_targets(checkout):
    result = checkout.make()
    assert result.returncode == 0, result.stderr
    for target in ('setup', 'demo', 'test', 'lab', 'docs', 'bench', 'measures', 'notebooks'):
        assert f'make {target}' in result.stdout


def test_second_call_starts_at_once(ready):
    assert ready.make('setup').installs == 0


@pytest.mark.parametrize('source', SOURCES)
def test_a_change_installs_again(ready, source):
    os.utime(ready.folder/source, (2e9, 2e9))
    result = ready.make('setup')
    assert (result.installs, result.venvs) == (1, 0), result.stdout + result.stderr


def test_a_moved_folder_installs_again(ready):
    (ready.folder/'.venv/.ready').write_text('/elsewhere')
    assert ready.make('setup').installs == 1


def test_killed_while_unpacking_starts_afresh(checkout):
    assert checkout.make('setup', 'PYTHON=./python', FAKE='killed').returncode != 0
    assert (checkout.folder/'.venv/.installing').exists()
    assert not (checkout.folder/'.venv/.ready').exists()
    result = checkout.make('setup', 'PYTHON=./python')
    assert (result.returncode, result.installs, result.venvs) == (0, 1, 1), result.stdout + result.stderr


# before anything was unpacked, the environment is still whole
@pytest.mark.parametrize('fault, venvs', [('no_index', 0), ('full', 1)])
def test_failed_install(checkout, fault, venvs):
    result = checkout.make('setup', 'PYTHON=./python', FAKE=fault)
    assert result.returncode != 0
    assert 'The installation failed' in result.stderr
    assert not (checkout.folder/'.venv/.ready').exists()
    result = checkout.make('setup', 'PYTHON=./python')
    assert (result.returncode, result.installs, result.venvs) == (0, 1, venvs), result.stdout + result.stderr


def test_progress_is_shown(checkout):
    result = checkout.make('setup', 'PYTHON=./python')
    assert 'Creating .venv with ./python' in result.stdout
    assert 'unpacking 1 packages' in result.stdout


def test_no_python(checkout):
    result = checkout.make('setup', 'PYTHON=./nothing')
    assert result.returncode != 0 and result.installs == 0
    assert 'No working Python 3.12 or 3.11 with venv found at ./nothing' in result.stderr
    assert len(result.stderr.splitlines()) <= 2  # the line, and make's own
