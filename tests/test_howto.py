"The how-tos run."
import pytest
from nbdev.config import get_config

howtos = sorted((get_config().nbs_path/'howto').glob('*.ipynb'))


@pytest.mark.parametrize('running', howtos, ids=lambda notebook: notebook.stem)
def test_howto(running, runs):
    "Runs as a reader would run it, and tells where to read on"
    result = runs[running].result()
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert '## Where next?' in running.read_text('utf-8')
