"Synthetic faces: the files against the real ones, a writer that is stopped, the pictures as a whole"
import re
import numpy as np, pandas as pd, pytest
from fer_nr import synthetic
from fer_nr.synthetic import ACTION_UNITS, EXPRESSIONS, LAYERS, Canvas, render, sample_faces, write_ferplus

FOLDERS = ('FER2013Train', 'FER2013Valid', 'FER2013Test')

@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    p = tmp_path_factory.mktemp('drawn')
    write_ferplus(p, 400, seed=2)
    return p

def _shape(line): return re.sub(r'\d+', '0', line) # digits apart, two lines of one format are equal

def test_files_are_written_as_the_real_ones(drawn, fer2013):
    for f in ('fer2013new.csv', *(f'{d}/label.csv' for d in FOLDERS)):
        ours,real = (p.joinpath(f).read_bytes().decode() for p in (drawn, fer2013))
        assert {_shape(l) for l in ours.splitlines()} <= {_shape(l) for l in real.splitlines()}, f
        assert ours.endswith('\n') and '\r' not in ours, f
    with open(fer2013/'fer2013.csv', newline='') as f: real = [next(f) for _ in range(2)]
    with open(drawn/'fer2013.csv', newline='') as f: ours = [next(f) for _ in range(2)]
    assert ours[0]==real[0] and _shape(ours[1])==_shape(real[1])

def test_rows_names_and_splits(drawn):
    a,b = (pd.read_csv(drawn/f) for f in ('fer2013.csv', 'fer2013new.csv'))
    assert len(a)==len(b)==400 and (a.Usage==b.Usage).all()
    assert a.Usage.drop_duplicates().tolist()==['Training', 'PublicTest', 'PrivateTest']
    assert (a.Usage.value_counts()[['Training', 'PublicTest', 'PrivateTest']]==[320, 40, 40]).all()
    named = b['Image name'].notna()
    assert b['Image name'][named].is_unique and (~named).any() and (b.NF[~named]==10).all()
    assert (b.drop(columns=['Usage', 'Image name']).sum(axis=1)==10).all()
    assert sum(len(list((drawn/d).glob('*.png'))) for d in FOLDERS)==named.sum()
    evaluated = set(a.pixels[a.Usage!='Training'])
    assert (a.pixels[a.Usage=='Training'].isin(evaluated)).sum()==7*80//100 # the copies in train

def test_a_stopped_writer_leaves_no_half_file(tmp_path, monkeypatch):
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(synthetic.Path, 'replace', stop)
    with pytest.raises(KeyboardInterrupt): write_ferplus(tmp_path, 40)
    assert not list(tmp_path.rglob('*.csv'))

@pytest.mark.parametrize('size', (24, 48, 192))
def test_the_same_face_at_any_size(size):
    faces = sample_faces(None, 24, seed=7).assign(noise=0, blur=0)
    big = render(faces, 192).reshape(24, 48, 4, 48, 4).mean((2, 4))
    ours = render(faces, size)
    small = ours if size==48 else np.repeat(np.repeat(ours, 2, 1), 2, 2) if size==24 else big
    assert np.abs(small-big).mean() < (12 if size==24 else 4) # of 255: antialiasing only

def test_every_unit_moves_something():
    still = sample_faces('neutral', seed=4).assign(**{u:0. for u in ACTION_UNITS}, noise=0, hand=0, hat=0, fringe=0, yaw=0, pitch=0)
    base = render(still).astype(int)
    moved = {u:np.abs(render(still.assign(**{u:1.}))-base).max() for u in ACTION_UNITS}
    assert all(v>20 for v in moved.values()), moved

def test_extremes_are_drawn():
    faces = sample_faces(list(EXPRESSIONS)*4, seed=1)
    wild = faces.assign(yaw=80, pitch=-60, roll=170, zoom=.3, dx=1.5, dy=-1.5)
    assert render(wild).shape==(32, 48, 48)
    with np.errstate(divide='raise', invalid='raise', over='raise'): # in this thread: `render` has its own
        c = Canvas(faces.assign(**{u:1.2 for u in ACTION_UNITS}))
        for layer in LAYERS: layer(c)
    assert np.isfinite(c.img).all()
