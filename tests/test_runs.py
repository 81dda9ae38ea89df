"Whole runs by command and papermill: progress, record, resume after `kill -9`, bad input."
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from fer_nr.ablation import RunSpec, build_learner, fer_nr_run, is_running, load_faces, make_record
from fer_nr.ablation import load_table, records, run, status, table
from fer_nr.checkpoint import load_state
from fer_nr.commands import parser
from fer_nr.locks import claim, commanding
from fer_nr.progress import progress, progress_line
from fer_nr.registry import parts
from fer_nr.sweep import unpublished
from fer_nr.synthetic import write_ferplus

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
ENV = os.environ | dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
TINY = dict(
    data='synthetic', limit=300, arch='swin_tiny_patch4_window7_224',
    arch_args=dict(window_size=4, embed_dim=16, depths=[1, 1], num_heads=[1, 2]), img_size=64,
    up='sr', up_size=96, down='ltr', head='linear', loss='fpdls', lr=2e-3, layer_decay=1., ema=.9,
    epochs=2, bs=32)
SMALLEST = dict(data='synthetic', limit=300, arch='vit_tiny_patch16_224', arch_args=dict(depth=1),
                img_size=32, bs=16, epochs=1, augment='none', ema=0)


def hear_ctrl_c():
    "What runs in a shell's background ignores Ctrl-C; a terminal's command does not"
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*args):
    return subprocess.Popen([BIN / 'fer_nr_run', *map(str, args)], cwd=ROOT, env=ENV, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                            preexec_fn=hear_ctrl_c)


def command(*args):
    "(exit code, stdout, stderr) of `fer_nr_run`"
    process = start(*args)
    out, err = process.communicate()
    return process.returncode, out, err


def lines_of(stderr):
    "What the command itself said"
    return [line for line in stderr.splitlines() if line.startswith('fer_nr:')]


def record_of(folder):
    return records(folder)[0]


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    "(folder, what the winner printed, what the loser printed) of two commands for one tiny run"
    folder = tmp_path_factory.mktemp('tiny')
    (folder / 'tiny.yaml').write_text(yaml.safe_dump(TINY))
    args = (folder / 'tiny.yaml', '--runs', folder / 'runs', '--results', folder / 'results')
    first, ended = start(*args), {}
    lock = folder / 'runs' / RunSpec(**TINY).id / 'command.lock'
    while not lock.exists() and first.poll() is None:
        time.sleep(.05)
    second = start(*args)
    for name, process in dict(winner=first, loser=second).items():
        out, err = process.communicate()
        ended[name] = (process.returncode, out, err)
    assert ended['winner'][0] == 0, ended['winner'][2]
    return folder, ended['winner'], ended['loser'], first.pid


def test_run_leaves_everything(tiny):
    folder, (_, out, err), _, _ = tiny
    run_folder = folder / 'runs' / RunSpec(**TINY).id
    assert {file.name for file in run_folder.iterdir()} == {
        'train.ipynb', 'record.json', 'logits.safetensors', 'best.safetensors',
        'checkpoint.safetensors', 'progress.json', 'lock', 'command.lock'}
    record = record_of(folder / 'results')
    assert record == json.loads((run_folder / 'record.json').read_text())
    assert record['id'] == run_folder.name
    for name in ('spec', 'data', 'parameters', 'versions', 'device', 'seconds', 'images_per_s',
                 'peak_memory_mb', 'history', 'selected_epoch', 'metrics', 'predictions'):
        assert record[name], name
    n = record['data']['images']['test']
    assert len(record['history']) == 2
    assert len(record['predictions']['test']) == record['metrics']['test']['n'] == n
    assert 'train.ipynb' in out
    assert re.search(r'epoch \d/2, batch \d+/\d+, loss', err), 'progress also when stderr is a file'


def test_the_loser_of_a_race_leaves_nothing(tiny):
    "It says in one line who trains, or waits and finds the run done"
    folder, _, (code, _, err), pid = tiny
    said = lines_of(err)
    assert 'Traceback' not in err
    if code:
        assert len(said) == 1 and f'is being trained by process {pid}' in said[0]
    notebook = json.loads((folder / 'runs' / RunSpec(**TINY).id / 'train.ipynb').read_text())
    assert notebook['metadata']['papermill']['exception'] is None


def test_finished_run_is_not_run_twice(tiny):
    "And what is left of a kernel that was killed when the record was there is tidied up"
    folder = tiny[0]
    connection = folder / 'runs' / RunSpec(**TINY).id / 'kernel.json'
    connection.write_text('{}')
    file = folder / 'runs' / RunSpec(**TINY).id / 'record.json'
    before = file.stat().st_mtime_ns
    code, _, err = command(folder / 'tiny.yaml', '--runs', folder / 'runs', 'seed=0')
    assert code == 0 and 'Already done' in err
    assert file.stat().st_mtime_ns == before and not connection.exists()


def test_killed_run_ends_at_the_same_numbers(tiny, tmp_path):
    "The command and its kernel die in the middle; the same command continues"
    args = (tiny[0] / 'tiny.yaml', '--runs', tmp_path)
    spec = RunSpec(**TINY)
    process = start(*args)
    while not (tmp_path / spec.id / 'progress.json').exists() and process.poll() is None:
        time.sleep(.05)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert status(spec, tmp_path, tmp_path) in ('partial', 'missing', 'running')
    code, _, err = command(*args)
    assert code == 0, err
    one, other = record_of(tiny[0] / 'results'), record_of(tmp_path)
    for name in ('predictions', 'metrics', 'selected_epoch'):
        assert one[name] == other[name]
    assert not (tmp_path / spec.id / 'kernel.json').exists()


def test_killed_relabelling_ends_at_the_same_labels(tmp_path):
    "The command dies when a checkpoint holds labels that SCN has changed; the same command goes on"
    values = SMALLEST | dict(arch='resnet10t', arch_args={}, method='scn', loss='ce', epochs=6,
                             method_args=dict(relabel_from=0., delta2=.02))
    (tmp_path / 'scn.yaml').write_text(yaml.safe_dump(values))
    spec = RunSpec(**values)
    given = load_faces(spec).train.labels
    code, _, err = command(tmp_path / 'scn.yaml', '--runs', tmp_path / 'whole')
    assert code == 0, err
    args = (tmp_path / 'scn.yaml', '--runs', tmp_path / 'killed')
    whole, killed = (tmp_path / name / spec.id for name in ('whole', 'killed'))

    def labels(folder):
        return load_state(folder / 'checkpoint.safetensors')[0]['relabel.labels']
    process = start(*args)
    while process.poll() is None:
        if (killed / 'checkpoint.safetensors').exists() and (labels(killed) != given).any():
            break
        time.sleep(.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (killed / 'record.json').exists()
    _, left = load_state(killed / 'checkpoint.safetensors')
    assert 0 < left['epoch'] < spec.epochs
    code, _, err = command(*args)
    assert code == 0, err
    assert torch.equal(labels(killed), labels(whole))
    one, other = (json.loads((folder / 'record.json').read_text()) for folder in (whole, killed))
    for name in ('predictions', 'labels', 'metrics', 'selected_epoch', 'data', 'canonical'):
        assert one[name] == other[name], name
    clocks = ('seconds', 'images_per_s')
    rows = [[{k: v for k, v in row.items() if k not in clocks} for row in record['history']]
            for record in (one, other)]
    assert rows[0] == rows[1] and len(rows[0]) == spec.epochs


@pytest.mark.parametrize('protocol', parts('protocol'))
def test_every_protocol_runs_to_its_end(protocol, tmp_path):
    spec = RunSpec(**SMALLEST, protocol=protocol)
    faces = load_faces(spec)
    learn = build_learner(spec, faces, tmp_path)
    learn.fit_recipe(1)
    record = make_record(spec, faces, learn, tmp_path)
    assert record['metrics']['test']['n'] == len(faces.test)
    assert ('valid' in record['metrics']) == (protocol != 'literature')


def test_literature_by_papermill(tmp_path):
    "No valid images: measured, and what there is is drawn; text is read by the fields' types"
    values = [f'{name}={value}' for name, value in SMALLEST.items()]
    args = (*values, 'protocol=literature', 'mixup=.4', 'stn=false', '--runs', tmp_path)
    code, out, err = command(*args)
    assert code == 0, err
    [folder] = tmp_path.iterdir()
    record = json.loads((folder / 'record.json').read_text())
    assert record['spec']['mixup'] == .4 and record['spec']['stn'] is False
    assert set(record['metrics']) == {'test'} and record['selected_epoch'] == 1


def draw_folders(path, seed, n=12):
    "Class folders with noise"
    noise = torch.Generator().manual_seed(seed)
    for split in ('train', 'valid', 'test'):
        for name in ('happiness', 'sadness'):
            (path / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = torch.randint(0, 256, (24, 24), generator=noise, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(path / split / name / f'{i}.png')


def test_a_run_knows_its_faces(tmp_path, capfd):
    "Done with folder A: B is refused, and so is A with a picture more; without a folder it is read"
    draw_folders(tmp_path / 'A', 0)
    draw_folders(tmp_path / 'B', 1)
    spec = RunSpec(**SMALLEST | dict(data='image_folder', limit=0, bs=8))
    faces, folder = load_faces(spec, tmp_path / 'A'), tmp_path / 'runs' / spec.id
    learn = build_learner(spec, faces, folder)
    learn.fit_recipe(1)
    record = make_record(spec, faces, learn, folder)
    again = run(spec, tmp_path / 'runs', data_path=tmp_path / 'A')
    assert again == record and 'Already done' in capfd.readouterr().err
    with pytest.raises(ValueError, match='done already, with other faces'):
        run(spec, tmp_path / 'runs', data_path=tmp_path / 'B')
    (tmp_path / 'B/train/happiness/0.png').rename(tmp_path / 'A/train/happiness/more.png')
    with pytest.raises(ValueError, match="'train': 24.*'train': 25"):
        run(spec, tmp_path / 'runs', data_path=tmp_path / 'A')
    with pytest.raises((FileNotFoundError, ValueError)):
        run(spec, tmp_path / 'runs', data_path=tmp_path / 'gone')
    assert run(spec, tmp_path / 'runs') == record


def test_nothing_is_trained_that_cannot_end(tmp_path, monkeypatch):
    "Refused before the first step: no test images, too few for a batch, no votes"
    draw_folders(tmp_path / 'A', 0, n=3)
    spec = RunSpec(**SMALLEST | dict(data='image_folder', limit=0))
    with pytest.raises(ValueError, match='bs=16, but there are 6 training images'):
        build_learner(spec, load_faces(spec, tmp_path / 'A'))
    for loss in ('votes', 'fpdls'):
        other = replace(spec, loss=loss, bs=4)
        with pytest.raises(ValueError, match='has no votes'):
            build_learner(other, load_faces(other, tmp_path / 'A'))
    write_ferplus(tmp_path / 'ferplus', n=300, seed=0)
    monkeypatch.setenv('FER_NR_DATA', str(tmp_path / 'ferplus'))
    borrowed = replace(spec, loss='fpdls', bs=4, prior_data='ferplus')
    learn = build_learner(borrowed, load_faces(borrowed, tmp_path / 'A'))
    assert learn.loss_func.prior.shape == (2, 2)


def test_locks(tmp_path):
    "Who holds a folder is said; a loser writes nothing; the lock ends with its holder"
    with commanding(tmp_path / 'run'):
        before = {file: file.read_text() for file in (tmp_path / 'run').iterdir()}
        assert is_running(tmp_path / 'run')
        with pytest.raises(RuntimeError, match=f'run is being trained by process {os.getpid()} on'):
            with commanding(tmp_path / 'run', wait=0):
                pass
        assert {file: file.read_text() for file in (tmp_path / 'run').iterdir()} == before
    assert not is_running(tmp_path / 'run')
    code = f'from fer_nr.locks import claim; claim({str(tmp_path / "run")!r}); input()'
    holder = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, env=ENV,
                              cwd=ROOT)
    while not is_running(tmp_path / 'run'):
        time.sleep(.05)
    with pytest.raises(RuntimeError, match=f'trained by process {holder.pid} '):
        claim(tmp_path / 'run', wait=0)
    holder.kill()
    holder.wait()
    claim(tmp_path / 'run', wait=5)


@pytest.mark.parametrize('text', [
    '', '[]', '1', 'null', '{"epoch": 1}', '{"epoch": "1"}', '{', '\x00', '{"epoch": NaN}',
    '{"epoch":1,"epochs":0,"batch":0,"batches":0,"loss":1,"images_per_s":1,"time":1}',
    '{"epoch":1,"epochs":1,"batch":1,"batches":1,"loss":NaN,"images_per_s":1,"time":1}',
    '{"epoch":1,"epochs":1,"batch":true,"batches":1,"loss":1,"images_per_s":1,"time":1}',
    '{"epoch":1,"epochs":1,"batch":1,"batches":1,"loss":1,"images_per_s":1,"time":1,'
    '"seconds_left":"x"}'])
def test_odd_progress_is_none(text, tmp_path):
    (tmp_path / 'progress.json').write_text(text)
    assert progress(tmp_path) is None


def test_progress_in_words(tmp_path):
    report = dict(epoch=1, epochs=2, batch=3, batches=4, loss=.5, images_per_s=9.6, time=1)
    (tmp_path / 'progress.json').write_text(json.dumps(report | dict(seconds_left=61)))
    line = progress_line(progress(tmp_path))
    assert line == 'epoch 1/2, batch 3/4, loss 0.500, 10 images/s, 1:01 left'
    (tmp_path / 'progress.json').write_text(json.dumps(report))
    assert progress_line(progress(tmp_path)) == line.removesuffix(', 1:01 left')


def test_options_stand_anywhere(capfd):
    line = parser(fer_nr_run.__wrapped__)
    parsed = line.parse(['a.yaml', '--runs', 'r', 'seed=3', '--data-path=d', 'lr=1', '--compiled'])
    assert parsed['params'] == ['a.yaml', 'seed=3', 'lr=1']
    assert (parsed['runs'], parsed['data_path'], parsed['compiled']) == ('r', 'd', True)
    with pytest.raises(SystemExit):
        line.parse(['a.yaml', '--lr=0.1'])
    err = capfd.readouterr().err
    assert 'write lr=0.1' in err and err.count('\n') == 1


def test_table_from_records(tiny, tmp_path):
    "A row with records shows their mean; a row without stays empty"
    rows = [dict(name='here', spec={}, paper=50.),
            dict(name='not here', baseline='here', spec=dict(loss='ce'))]
    (tmp_path / 't.yaml').write_text(yaml.safe_dump(dict(title='T', base=TINY, rows=rows)))
    result = table(load_table(tmp_path / 't.yaml'), records(tiny[0] / 'results'))
    measured = record_of(tiny[0] / 'results')['metrics']['test']
    assert result.loc['here', 'ours'] == pytest.approx(100 * measured['correct'] / measured['n'])
    assert result.loc['here', 'seeds'] == 1
    assert result.loc['not here'].drop(['seeds', 'paper']).isna().all()


BAD = {  # what is wrong: (arguments, what the one line says)
    'no file': (['nowhere.yaml'], r'nowhere\.yaml is not there: expected a YAML file'),
    'not YAML': (['{tmp}/bad.yaml'], r'bad\.yaml: not YAML: line 2'),
    'twice': (['{tmp}/twice.yaml'], r'twice\.yaml: line 2: lr is there twice'),
    'control characters': (['\x1b[31m.yaml'], r'fer_nr: \?\[31m\.yaml is not there'),
    'unknown parameter': (['epoch=3'], r"parameter 'epoch' is unknown.*did you mean 'epochs'"),
    'unknown loss': (['loss=fpdl'], r"loss 'fpdl' is unknown.*did you mean 'fpdls'"),
    'not a number': (['lr=fast'], r"lr is 'fast': expected a number"),
    'out of range': (['ema=1.5'], r'ema is 1\.5: expected a number in \[0, 1\)'),
    'no weight file': (['data=synthetic', 'weights=gone.safetensors'],
                       r'weights=gone\.safetensors: no such weight file'),
    'unknown backbone': (['arch=vit_tinny_patch16_224'],
                         r'vit_tinny_patch16_224.*vit_tiny_patch16_224'),
}


@pytest.mark.parametrize('what', BAD)
def test_bad_input_is_one_line(what, tmp_path, capfd):
    "No traceback from a command: one line that says what, where and what was expected"
    (tmp_path / 'bad.yaml').write_text('a: [1\n')
    (tmp_path / 'twice.yaml').write_text('lr: 1\nlr: 2\n')
    args, expected = BAD[what]
    with pytest.raises(SystemExit) as error:
        fer_nr_run([arg.format(tmp=tmp_path) for arg in args], runs=str(tmp_path / 'runs'))
    err = capfd.readouterr().err
    assert error.value.code == 1 and err.count('\n') == 1 and re.search(expected, err), err
    assert not (tmp_path / 'runs').exists()


def test_failed_run_says_so_and_can_be_repeated(tmp_path, capfd):
    "A run that failed is marked, with its error; what cannot start leaves nothing"
    spec = RunSpec(data='ferplus')
    (tmp_path / 'empty').mkdir()
    for folder, stands in dict(gone='missing', empty='failed').items():
        with pytest.raises(SystemExit):
            fer_nr_run(['data=ferplus'], runs=str(tmp_path), data_path=str(tmp_path / folder))
        [line] = lines_of(capfd.readouterr().err)
        assert folder in line
        assert status(spec, tmp_path, tmp_path) == stands
    failed = json.loads((tmp_path / spec.id / 'failed.json').read_text())
    assert 'FileNotFoundError' in failed['error']


def test_a_run_is_believed_only_with_its_own_record(tmp_path):
    "Damaged, or another run's: not done, not published"
    spec = RunSpec(data='synthetic', limit=100, epochs=1)
    other = next((ROOT / 'results').glob('ferplus-*.json')).read_text()
    file = tmp_path / 'runs' / spec.id / 'record.json'
    file.parent.mkdir(parents=True)
    for text, said in (('{}', 'is not a record'), (other, f'expected that of {spec.id}')):
        file.write_text(text)
        assert status(spec, tmp_path / 'runs', tmp_path) == 'missing'
        with pytest.raises(ValueError, match=said):
            run(spec, tmp_path / 'runs', tmp_path / 'results')
        assert not (tmp_path / 'results').exists()
        published = tmp_path / f'{spec.id}.json'
        published.write_text(text)
        assert unpublished([spec], tmp_path) == [spec]


def test_ctrl_c_is_one_line(tmp_path):
    "While Python loads the package, and while the run trains"
    for wait_for in ('import', 'progress.json'):
        values = [f'{name}={value}' for name, value in (SMALLEST | dict(epochs=500)).items()]
        process = start(*values, '--runs', tmp_path)
        if wait_for == 'import':
            time.sleep(1.5)
        else:
            while not list(tmp_path.glob('*/progress.json')) and process.poll() is None:
                time.sleep(.05)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert 'Traceback' not in err and lines_of(err)[-1].startswith('fer_nr: stopped'), err
        assert process.returncode
