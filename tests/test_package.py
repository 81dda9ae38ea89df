"""The exported package as others install it

A plain wheel beside the newest fastai (fastcore 2), where this workbook needs fastcore 1. The
second environment sees the libraries of this one, so that 6 GB of torch are not fetched again.
"""
import ast
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
from nbdev.config import get_config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

config = get_config()
root = config.config_path
files = sorted(config.lib_path.glob('*.py'))
modules = [path.stem for path in files if path.stem not in ('__init__', '_modidx')]
LIGHT = ['resizer', 'loss', 'backbone', 'registry', 'files', 'text', 'recognize', 'comparators']
IMPORT = 'import sys, importlib\nfor o in sys.argv[1:]: importlib.import_module(f"fer_nr.{o}")\n'


def call(*command, env=None, **kwargs):
    "Run a command without this checkout on its path"
    clean = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    env = clean | dict(PYTHONWARNINGS='ignore') | (env or {})
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, env=env, **kwargs)


def pip(*words):
    "Run pip, or skip where it does not reach the package index"
    result = call(sys.executable, '-m', 'pip', *words)
    if re.search(r'Connection|from versions: none', result.stderr):
        last = result.stderr.strip().splitlines()[-1]
        pytest.skip(f'pip does not reach the package index: {last}')
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    source = tmp_path_factory.mktemp('src')  # a copy: an earlier build/ would get into the wheel
    for name in ('setup.py', 'settings.ini', 'pyproject.toml', 'README.md'):
        copy(root/name, source)
    for folder in (config.lib_path, root/'tools'):
        copytree(folder, source/folder.name, ignore=ignore_patterns('__pycache__'))
    pip('wheel', '-q', '--no-deps', '-w', source/'dist', source)
    return next((source/'dist').glob('*.whl'))


@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    "Interpreter of an environment with the wheel and the newest fastai"
    environment = tmp_path_factory.mktemp('env')
    venv.create(environment, symlinks=True, with_pip=False)
    interpreter = environment/'bin/python'
    where = 'import sysconfig; print(sysconfig.get_paths()["purelib"])'
    site = Path(call(interpreter, '-c', where).stdout.strip())
    # only libraries: .pth files in there, the editable install among them, do not count
    (site/'shared.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')
    pip('--python', interpreter, 'install', '-q', '--upgrade', 'fastai', 'fastcore', wheel)
    return interpreter


def test_wheel(wheel):
    "Every module and the models are in the wheel, and nothing else: neither tools nor tests"
    names = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
    expected = [*files, *(root/'fer_nr').glob('models/*')]
    assert names == {path.relative_to(root).as_posix() for path in expected}



def test_imports(python, tmp_path):
    code = IMPORT + 'import fastcore, fer_nr\nprint(fastcore.__version__, fer_nr.__file__)'
    result = call(python, '-c', code, *modules, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    version, file = result.stdout.split()
    assert int(version.split('.')[0]) >= 2
    assert Path(file).is_relative_to(python.parent.parent), result.stdout


TRAIN = '''
import torch
from fer_nr.backbone import fer_model
from fer_nr.data import face_dls, synthetic
from fer_nr.evaluation import evaluate, predict
from fer_nr.loss import FPDLS, label_prior
from fer_nr.resizer import NeuralResizer
from fer_nr.training import fer_learner
if __name__ == '__main__':
    torch.manual_seed(0)
    faces = synthetic(100)
    resizer = NeuralResizer(up='sr', up_size=64, down='ltr', size=32)
    model = fer_model('vit_tiny_patch16_224', resizer, n_classes=8, img_size=32, depth=2)
    before = [p.detach().clone() for p in model.resizer.parameters()]
    learn = fer_learner(face_dls(faces, bs=32), model, FPDLS(label_prior(faces.train)))
    with learn.no_bar(), learn.no_logging():
        learn.fit_recipe(1)
    assert any((p.cpu() != q).any() for p, q in zip(model.resizer.parameters(), before))
    print(evaluate(predict(learn.model, faces.test), faces.test.labels, n_boot=10)['n'])
'''


def test_trains(python, tmp_path):
    (tmp_path/'train.py').write_text(TRAIN)
    result = call(python, tmp_path/'train.py', cwd=tmp_path, env=dict(CUDA_VISIBLE_DEVICES=''))
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.split()[-1]) > 0


COMMANDS = [line.split('=')[0] for line in config.d['console_scripts'].split()]


@pytest.mark.parametrize('command', COMMANDS)
def test_commands(python, command, tmp_path):
    result = call(python.parent/command, '--help', cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f'usage: {command}' in result.stdout


def imported(path):
    "Top-level names that a module imports from other packages"
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split('.')[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split('.')[0]


@pytest.mark.parametrize('module', modules)
def test_requirements(module):
    "What a module imports is required by name: nothing comes along by luck"
    texts = [config.d[f'{kind}requirements'] for kind in ('', 'recognize_', 'onnx_')]
    declared = {canonicalize_name(Requirement(o).name) for o in ' '.join(texts).split()}
    distributions = packages_distributions()
    imports = set(imported(config.lib_path/f'{module}.py'))
    for name in imports - sys.stdlib_module_names - {'fer_nr'}:
        found = {canonicalize_name(distribution) for distribution in distributions[name]}
        assert declared & found, f'{module} imports {name}: put it into requirements of settings.ini'


def test_quiet():
    "No module warns when it is imported, about itself or about what it uses"
    env = dict(PYTHONWARNINGS='default::FutureWarning')
    result = call(sys.executable, '-c', IMPORT, *modules, cwd=root, env=env)
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')


HEAVY = ('fastai', 'fastcore', 'IPython', 'matplotlib', 'nbdev', 'pandas')


@pytest.mark.parametrize('module', [module for module in LIGHT if module in modules])
def test_light(module):
    "The parts for somebody else's code load without the workbook's tools"
    code = IMPORT + f'print([name for name in {HEAVY} if name in sys.modules])'
    result = call(sys.executable, '-c', code, module, cwd=root)
    own = {'pandas', 'fastcore'} if module == 'recognize' else set() # it answers with a table
    loaded = set(ast.literal_eval(result.stdout or '["nothing"]')) - own
    assert not loaded, f'fer_nr.{module} loads {loaded}{result.stderr}'
