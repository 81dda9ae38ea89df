"The how-tos run."
import os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
import pytest
from nbdev.config import get_config
from test_notebooks import RUN

cfg = get_config()
howtos = sorted((cfg.nbs_path/'howto').glob('*.ipynb'))

@pytest.fixture(scope='module')
def runs(request):
    "All how-tos that were asked for, each in its own process, as many at a time as there are cores"
    wanted = [o.callspec.params['nb'] for o in request.session.items if o.name.startswith('test_howto[')]
    env = os.environ | dict(OMP_NUM_THREADS='1', MPLBACKEND='agg')
    def run(nb): return subprocess.run([sys.executable, '-c', RUN, str(nb)], capture_output=True, text=True, env=env, cwd=cfg.config_path)
    with ThreadPoolExecutor(os.cpu_count()) as pool: yield {nb: pool.submit(run, nb) for nb in wanted}

@pytest.mark.parametrize('nb', howtos, ids=lambda p: p.stem)
def test_howto(nb, runs):
    "Runs as a reader would run it, and tells where to read on"
    r = runs[nb].result()
    assert r.returncode==0, r.stdout[-2000:] + r.stderr[-4000:]
    assert '## Where next?' in nb.read_text('utf-8')
