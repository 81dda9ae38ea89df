"""The exported package as others install it: a plain wheel beside the newest fastai (fastcore 2), where this workbook needs fastcore 1.
The second environment sees the libraries of this one, so that the 6 GB of torch are not fetched again."""
import ast, os, re, subprocess, sys, sysconfig, venv, zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
import pytest
from nbdev.config import get_config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

cfg = get_config()
root = cfg.config_path
modules = sorted(p.stem for p in cfg.lib_path.glob('*.py') if p.stem not in ('__init__', '_modidx', 'docs', 'measures')) # docs and measures need nbdev: the dev extra

def call(*cmd, **kwargs):
    env = {k: v for k,v in os.environ.items() if k!='PYTHONPATH'} | dict(PYTHONWARNINGS='ignore') | kwargs.pop('env', {})
    return subprocess.run([str(o) for o in cmd], capture_output=True, text=True, env=env, **kwargs)

@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    src = tmp_path_factory.mktemp('src') # a copy: setuptools would put files from an earlier build/ into the wheel
    for o in ('setup.py', 'settings.ini', 'pyproject.toml', 'README.md'): copy(root/o, src)
    copytree(cfg.lib_path, src/cfg.lib_path.name, ignore=ignore_patterns('__pycache__'))
    r = call(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', src/'dist', src)
    if re.search('No matching distribution|Connection|Could not find a version', r.stderr): pytest.skip(f'pip does not reach the package index: {r.stderr.strip().splitlines()[-1]}')
    assert r.returncode==0, r.stderr
    return next((src/'dist').glob('*.whl'))

@pytest.fixture(scope='module')
def python(wheel, tmp_path_factory):
    "Interpreter of an environment with the wheel and the newest fastai"
    env = tmp_path_factory.mktemp('env')
    venv.create(env, symlinks=True, with_pip=False)
    py = env/'bin/python'
    site = Path(call(py, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])').stdout.strip())
    (site/'shared.pth').write_text(sysconfig.get_paths()['purelib']+'\n') # only its libraries: .pth files in there, the editable install among them, do not count
    r = call(sys.executable, '-m', 'pip', '--python', py, 'install', '-q', '--upgrade', 'fastai', 'fastcore', wheel)
    if re.search('No matching distribution|Connection', r.stderr): pytest.skip(f'pip does not reach the package index: {r.stderr.strip().splitlines()[-1]}')
    assert r.returncode==0, r.stderr
    return py

def test_wheel(wheel):
    "Every module and the models are in the wheel, and nothing else"
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = [*cfg.lib_path.glob('*.py'), *cfg.lib_path.glob('models/*')]
    expected = {path.relative_to(cfg.lib_path.parent).as_posix() for path in expected}
    assert {name for name in names if name.startswith('fer_nr/')} == expected

def test_imports(python, tmp_path):
    code = 'import sys, importlib, fastcore, fer_nr\nfor o in sys.argv[1:]: importlib.import_module(f"fer_nr.{o}")\nprint(fastcore.__version__, fer_nr.__file__)'
    r = call(python, '-c', code, *modules, cwd=tmp_path)
    assert r.returncode==0, r.stderr
    version,file = r.stdout.split()
    assert int(version.split('.')[0]) >= 2 and Path(file).is_relative_to(python.parent.parent), r.stdout

TRAIN = '''
import torch
from fer_nr.backbone import fer_model
from fer_nr.data import face_dls, synthetic
from fer_nr.evaluation import evaluate, predict
from fer_nr.loss import FPDLS, label_prior
from fer_nr.resizer import NeuralResizer
from fer_nr.training import fer_learner
if __name__=='__main__':
    torch.manual_seed(0)
    faces = synthetic(100)
    model = fer_model('vit_tiny_patch16_224', NeuralResizer(up='sr', up_size=64, down='ltr', size=32), n_classes=8, img_size=32, depth=2)
    before = [p.detach().clone() for p in model.resizer.parameters()]
    learn = fer_learner(face_dls(faces, bs=32), model, FPDLS(label_prior(faces.train)))
    with learn.no_bar(), learn.no_logging(): learn.fit_recipe(1)
    assert any((p.cpu()!=q).any() for p,q in zip(model.resizer.parameters(), before))
    print(evaluate(predict(learn.model, faces.test), faces.test.labels, n_boot=10)['n'])
'''

def test_trains(python, tmp_path):
    (tmp_path/'train.py').write_text(TRAIN)
    r = call(python, tmp_path/'train.py', cwd=tmp_path, env=dict(CUDA_VISIBLE_DEVICES=''))
    assert r.returncode==0 and int(r.stdout.split()[-1]) > 0, r.stdout+r.stderr

@pytest.mark.parametrize('command', [o.split('=')[0] for o in cfg.d['console_scripts'].split()])
def test_commands(python, command, tmp_path):
    r = call(python.parent/command, '--help', cwd=tmp_path)
    assert r.returncode==0 and f'usage: {command}' in r.stdout, r.stdout+r.stderr

def imported(path):
    "Top-level names that a module imports, from other packages"
    for o in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(o, ast.Import): yield from (a.name.split('.')[0] for a in o.names)
        elif isinstance(o, ast.ImportFrom) and not o.level: yield o.module.split('.')[0]

@pytest.mark.parametrize('module', modules)
def test_requirements(module):
    "What a module imports is required by name: nothing comes along by luck"
    texts = [cfg.d[f'{kind}requirements'] for kind in ('', 'recognize_', 'onnx_')]
    declared = {canonicalize_name(Requirement(o).name) for o in ' '.join(texts).split()}
    dists = packages_distributions()
    for name in set(imported(cfg.lib_path/f'{module}.py')) - sys.stdlib_module_names - {'fer_nr'}:
        assert declared & {canonicalize_name(d) for d in dists[name]}, f'{module} imports {name}: put it into requirements of settings.ini'

def test_quiet():
    "No module warns when it is imported, about itself or about what it uses"
    r = call(sys.executable, '-c', 'import sys, importlib\nfor o in sys.argv[1:]: importlib.import_module(f"fer_nr.{o}")', *modules, cwd=root, env=dict(PYTHONWARNINGS='default::FutureWarning'))
    assert (r.returncode, r.stdout, r.stderr)==(0, '', '')

@pytest.mark.parametrize('module', ['resizer', 'loss', 'backbone'])
def test_light(module):
    "The parts for somebody else's code load without the workbook's tools"
    r = call(sys.executable, '-c', f'import sys, fer_nr.{module}; print([o for o in ("fastai", "fastcore", "IPython", "matplotlib", "nbdev", "pandas") if o in sys.modules])', cwd=root)
    assert r.stdout.strip()=='[]', f'fer_nr.{module} loads {r.stdout}{r.stderr}'
