"A few seeded tries of each part of the campaign; `python -m tools.campaign` makes hundreds."
import subprocess
import sys
from collections import Counter

import pytest

from tools import campaign, damaged_inputs

WRONG = set(campaign.WRONG)


def check(counts):
    "Nothing was lost, left, silent or unclear"
    assert counts
    assert not [name for name in counts if WRONG & set(name.replace(':', '').split())], counts


def test_killed_trainings(tmp_path):
    check(campaign.trainings(6, 0, tmp_path))


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "(spec, its faces, what its training comes to, its bytes)"
    folder = tmp_path_factory.mktemp('small')
    spec, faces, expected, _ = campaign.undisturbed(folder)
    files = [path for path in folder.rglob('*') if path.is_file()]
    return spec, faces, expected, sum(path.stat().st_size for path in files)


@pytest.fixture
def disk(tmp_path):
    "A folder that can become a disk of its own; a skip where nobody may mount one"
    try:
        campaign.mount(tmp_path, 'size=1m')
    except OSError as error:
        pytest.skip(str(error))
    subprocess.run(['umount', tmp_path], check=True)
    return tmp_path


@pytest.mark.parametrize('share', [.02, .4, .9])
def test_full_disk(small, share, disk):
    "One line, and with room the same numbers"
    spec, faces, expected, size = small
    counts = Counter()
    campaign.full_once(disk, lambda work: campaign.attempt(work, spec, faces),
                       campaign.is_one_line, int(share*size/1024), expected, counts)
    check(counts)
    assert counts == {'full: one line': 1, 'equal numbers': 1}


def test_two_sweeps(tmp_path):
    "By command, over one folder: no run is lost, done twice or left marked as failed"
    counts = Counter()
    campaign.race_of_sweeps(tmp_path, counts, seeds=1)
    check(counts)


def test_damaged_inputs(tmp_path):
    "Of every kind a few: one line or the right answer"
    counts = damaged_inputs.inputs(70, 0, tmp_path)
    check(counts)
    assert {name.split(':')[0] for name in counts} == set(damaged_inputs.KINDS)


def test_damages_are_judged():
    "What is silent, refused without need or unclear has its word"
    judge = damaged_inputs.judge
    assert judge('refuse', ('answer', 1), 1) == 'SILENT'
    assert judge('same', ('answer', 2), 1) == 'SILENT'
    assert judge('same', ('line', 'x'), 1) == 'REFUSED'
    assert judge('any', ('traceback', 'x'), 1) == 'TRACEBACK'
    assert judge('any', ('answer', 2), 1) == 'accepted'


def test_unclear_ends_are_noticed(tmp_path):
    "An orphan, a file that stays, a traceback"
    environment = campaign.marked(campaign.prepare(tmp_path), 'orphan')
    orphan = subprocess.Popen([sys.executable, '-c', 'input()'], env=environment,
                              stdin=subprocess.PIPE)
    assert campaign.processes('orphan') == [orphan.pid] and not campaign.gone('orphan', .3)
    campaign.kill_all([orphan.pid])
    orphan.communicate()
    assert campaign.gone('orphan')
    assert not campaign.said_one_line('Traceback (most recent call last):\nfer_nr: x')
    assert not campaign.said_one_line('') and campaign.said_one_line('Epoch 1\nfer_nr: stopped')
    (tmp_path/'runs/id').mkdir(parents=True)
    (tmp_path/'runs/id/.best.safetensors.x.tmp').write_text('')
    (tmp_path/'tmp/torchinductor_root').mkdir()
    assert campaign.leftovers(tmp_path) == ['.best.safetensors.x.tmp']
