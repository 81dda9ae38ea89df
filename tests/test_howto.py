"The how-tos run."
import pytest
from nbdev.config import get_config

howtos = sorted((get_config().nbs_path/'howto').glob('*.ipynb'))


@pytest.mark.parametrize('notebook_to_run', howtos, ids=lambda notebook: notebook.stem)
def test_howto(notebook_to_run, ran):
    "Runs as a reader would run it, and tells where to read on"
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    assert '## Where next?' in notebook_to_run.read_text('utf-8')
