"The names of runs: every published one survives; one form before hashing; what a spec refuses."
import hashlib
import json
from pathlib import Path

import pytest
import yaml

from fer_nr.ablation import load_table, spec_from

ROOT = Path(__file__).parent.parent
PARAMS = ROOT / 'nbs/experiments/params'
PUBLISHED = json.loads((Path(__file__).parent / 'published_ids.json').read_text())


def key(spec):
    "A hash of all that decides a run, with weight files by their names: no file is needed"
    text = json.dumps(spec.canonical('name'), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def id_or_none(spec):
    "The id of a spec, None where its weight files are not at hand"
    try:
        return spec.id
    except FileNotFoundError:
        return None


def test_demo_keeps_its_id():
    assert spec_from(yaml.safe_load((PARAMS / 'demo.yaml').read_text())).id == PUBLISHED['demo']


def test_published_records_keep_their_ids():
    "The runs of `results/` bear the ids that their specs have today"
    found = {}
    for file in (ROOT / 'results').glob('*.json'):
        record = json.loads(file.read_text())
        spec = spec_from(record['spec'])
        assert record['id'] == file.stem
        assert id_or_none(spec) in (record['id'], None)
        found[record['id']] = key(spec)
    assert found
    assert found.items() <= PUBLISHED['records'].items()


@pytest.mark.parametrize('table', PUBLISHED['rows'])
def test_rows_of_tables_keep_their_ids(table):
    rows = {row['name']: row['spec'] for row in load_table(PARAMS / f'{table}.yaml')['rows']}
    for name, (published_id, published_key) in PUBLISHED['rows'][table].items():
        assert key(rows[name]) == published_key, name
        assert id_or_none(rows[name]) in (published_id, None), name
