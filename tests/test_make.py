"Set-up: once, again when its sources change, afresh after an interruption; with a stand-in for Python that notes how it is called."
import os, subprocess
from shutil import copy
import pytest
from nbdev.config import get_config

root = get_config().config_path
STUB = r'''#!/bin/bash
echo "$*" >> calls
case "$1 $2" in
  "-m venv") rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
  "-m pip") echo "Collecting a"; [ "$FAKE" != no_index ] || { echo "ERROR: no such package"; exit 1; }
            echo "Installing collected packages: a"; [ "$FAKE" != killed ] || kill -9 $PPID; [ "$FAKE" != full ] || exit 1;;
esac
'''

@pytest.fixture
def make(tmp_path):
    for o in ('Makefile', 'constraints.txt', 'settings.ini', 'setup.py', 'pyproject.toml'): copy(root/o, tmp_path)
    (tmp_path/'python').write_text(STUB); (tmp_path/'python').chmod(0o755)
    def run(*args, **env):
        (tmp_path/'calls').write_text('')
        env = {k: v for k,v in os.environ.items() if not k.startswith('MAKE')} | env # this may run under make test
        r = subprocess.run(['make', *args], cwd=tmp_path, env=env, capture_output=True, text=True)
        r.installs,r.venvs = ((tmp_path/'calls').read_text().count(f'-m {o} ') for o in ('pip', 'venv'))
        return r
    run.at = tmp_path
    return run

def test_lists_targets(make):
    r = make()
    assert r.returncode==0 and all(f'make {o}' in r.stdout for o in ('setup', 'demo', 'test', 'lab', 'docs')), r.stdout+r.stderr

def test_second_call_starts_at_once(make):
    r = make('setup', 'PYTHON=./python')
    assert (r.returncode, r.installs, r.venvs)==(0, 1, 1), r.stdout+r.stderr
    assert make('setup').installs==0

@pytest.mark.parametrize('source', ['constraints.txt', 'settings.ini', 'setup.py', 'pyproject.toml'])
def test_a_change_installs_again(make, source):
    make('setup', 'PYTHON=./python')
    os.utime(make.at/source, (2e9, 2e9))
    r = make('setup')
    assert (r.installs, r.venvs)==(1, 0), r.stdout+r.stderr

def test_a_moved_folder_installs_again(make):
    make('setup', 'PYTHON=./python')
    (make.at/'.venv/.ready').write_text('/elsewhere')
    assert make('setup').installs==1

def test_killed_while_unpacking_starts_afresh(make):
    assert make('setup', 'PYTHON=./python', FAKE='killed').returncode!=0
    assert (make.at/'.venv/.installing').exists() and not (make.at/'.venv/.ready').exists()
    r = make('setup', 'PYTHON=./python')
    assert (r.returncode, r.installs, r.venvs)==(0, 1, 1), r.stdout+r.stderr

@pytest.mark.parametrize('fault,venvs', [('no_index', 0), ('full', 1)]) # before anything was unpacked, the environment is still whole
def test_failed_install(make, fault, venvs):
    r = make('setup', 'PYTHON=./python', FAKE=fault)
    assert r.returncode!=0 and 'The installation failed' in r.stderr and not (make.at/'.venv/.ready').exists()
    r = make('setup', 'PYTHON=./python')
    assert (r.returncode, r.installs, r.venvs)==(0, 1, venvs), r.stdout+r.stderr

def test_no_python(make):
    r = make('setup', 'PYTHON=./nothing')
    assert r.returncode!=0 and 'No working Python 3.12 or 3.11 with venv found at ./nothing' in r.stderr and r.installs==0
