"What the notebook 00_data cannot show: the real FERPlus, kills and races, what is read and what is not, other trees and formats"
import os, pickle, re, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from fastai.distributed import DistributedDL
from fer_nr import data as D
from fer_nr.data import FERPLUS, affectnet, audit, duplicates, face_dls, ferplus, fleiss_kappa, image_folder, majority, protocol, rafdb, vote_entropy
from fer_nr.synthetic import write_ferplus

@pytest.fixture(scope='session')
def demo(tmp_path_factory):
    "A folder of synthetic faces in FERPlus's formats"
    p = tmp_path_factory.mktemp('demo')/'fer2013'
    write_ferplus(p, n=300, seed=3)
    return p

@pytest.fixture(scope='session')
def faces(demo): return ferplus(demo)

# --- the real data set -------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='session')
def cache(tmp_path_factory): return tmp_path_factory.mktemp('cache')

@pytest.fixture(scope='session')
def real(fer2013, cache): return ferplus(fer2013, cache=cache)

@pytest.fixture(scope='session')
def new(fer2013): return pd.read_csv(fer2013/'fer2013new.csv', keep_default_na=False)

def sizes(f): return [len(o) for o in f.splits.values()]

def test_real_counts(real, fer2013, cache):
    assert sizes(real)==[25045,3191,3137]
    assert real.train.counts().tolist()==[8733,7284,3136,3022,2098,116,536,120]
    assert real.valid.counts().tolist()==[1180,862,411,348,289,25,60,16]
    assert real.test.counts().tolist()==[1083,892,394,382,269,16,86,15]
    assert sizes(ferplus(fer2013, votes='new', cache=cache))==[25060,3199,3153]
    assert [len(protocol(real, 'literature').train), len(protocol(real, 'poster').test), len(protocol(real, 'authors').valid)]==[28236,3191,3137]

def test_real_both_roads(real, fer2013, cache):
    if not (fer2013/'FER2013Train/fer0000000.png').exists(): pytest.skip('no png files beside the label files')
    assert ferplus(fer2013, source='folders', cache=cache).fingerprint==real.fingerprint
    csv,png = (ferplus(fer2013, votes='new', source=s, cache=cache) for s in ('csv','folders'))
    for s,o in csv.splits.items(): assert o.names==png.splits[s].names and torch.equal(o.votes, png.splits[s].votes)
    differ = {s:(o.images!=png.splits[s].images).flatten(1).any(1) for s,o in csv.splits.items()} # two rows of which a folder keeps no picture
    assert {s:[csv.splits[s].names[i] for i in d.nonzero()[:,0]] for s,d in differ.items()}=={'train':['fer0006953.png'],'valid':[],'test':['fer0033120.png']}

def test_real_rows(new, fer2013, cache):
    "fer2013new.csv is joined by row: pixels against an independent reading of the csv"
    assert new['Image name'][32298]=='fer0032220.png' and (new['Image name']=='').sum()==173
    names = new['Image name'][new['Image name']!='']
    assert sorted(set(names[names.duplicated()]))==['fer0006953.png','fer0008403.png','fer0011785.png','fer0033120.png']
    kept = np.flatnonzero((majority(new[list(D.VOTES)])>=0) & (new['Image name']!=''))
    f = ferplus(fer2013, votes='new', cache=cache)
    images = torch.cat([o.images for o in f.splits.values()])
    assert len(kept)==len(images)
    pick = set(kept[::211])|{5274,33200,32298}&set(kept)
    with open(fer2013/'fer2013.csv') as csv:
        for row,line in zip(range(-1,len(new)), csv):
            if row in pick: assert images[np.searchsorted(kept, row)].flatten().tolist()==[int(p) for p in line.split(',')[1].split()], row

def test_real_label_files(new, fer2013):
    lab = pd.concat([D._label_votes(fer2013, s) for s in ('train','valid','test')])
    assert len(lab)==35710 and (majority(lab[list(D.VOTES)])<0).sum()==4337
    both = lab.merge(new.rename(columns={'Image name':'name'}).drop_duplicates('name', keep='last'), on='name', suffixes=('','_new'))
    assert (both[list(D.VOTES)].to_numpy()!=both[[f'{v}_new' for v in D.VOTES]].to_numpy()).any(1).sum()==1602

def test_real_audit(real):
    a = audit(duplicates(real))
    assert a['test images in train']==232 and a['valid images in train']==231 and a['with conflicting labels']==87
    assert audit(duplicates(protocol(real, 'dedup')))['test images in train']==0

def test_real_near_copies(real):
    "Pairs that the perceptual hash finds, and how many of them are one photograph"
    sets = list(real.splits.values())
    h = D._hashes(sets)
    i,j = D._near(h, 8).T
    d = np.bitwise_count(h[i]^h[j])
    split = np.repeat(['train','valid','test'], sizes(real))
    near = (d<=4) & (split[i]=='train')
    assert [len(set(j[near & (split[j]==s)])) for s in ('valid','test')]==[353,360]
    x = torch.cat([o.images for o in sets]).flatten(1).float()
    x = (x-x.mean(1, keepdim=True))/x.std(1, keepdim=True).clamp(min=1e-6)
    same = ((x[i]*x[j]).mean(1)>.9).numpy()
    share = [same[d==k].mean() for k in range(0,9,2)]
    assert share==pytest.approx([1,.89,.71,.49,.12], abs=.02)

def test_real_agreement(real):
    assert .55<fleiss_kappa(real.train.votes)<.65
    h = vote_entropy(real.train.votes)
    mean = [h[real.train.labels==k].mean().item() for k in range(8)]
    assert min(mean)==mean[FERPLUS.index('happiness')] and max(mean)==mean[FERPLUS.index('disgust')]

OPENED = '''import sys
opened = []
sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e=='open' else None)
from fer_nr.data import ferplus
print(ferplus(sys.argv[1], cache=sys.argv[2]).fingerprint)
print(sum(o.endswith('fer2013.csv') for o in opened))'''

def fresh(code, *args): # in a new interpreter
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *map(str,args)], capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    return r.stdout.split()

def test_warm_start_leaves_the_csv_alone(demo, tmp_path, faces):
    cold,warm = fresh(OPENED, demo, tmp_path),fresh(OPENED, demo, tmp_path)
    assert cold[0]==warm[0]==faces.fingerprint
    assert int(cold[1])>0 and warm[1]=='0'

# --- kills, races, places --------------------------------------------------------------------------------------------------------------

SLOW = '''import sys, time
from fer_nr import data as D
quick = D._image
def slow(*a, **kw): time.sleep(.05); return quick(*a, **kw)
D._image = slow
D.ferplus(sys.argv[1], source='folders', cache=sys.argv[2])'''

def test_killed_while_decoding(demo, tmp_path, faces):
    p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', SLOW, str(demo), str(tmp_path)], stderr=subprocess.DEVNULL)
    end = time.time()+120
    while not list(tmp_path.glob('*.tmp')) and time.time()<end: time.sleep(.05)
    time.sleep(1)
    workers = [int(c) for c in Path(f'/proc/{p.pid}/task/{p.pid}/children').read_text().split()] if Path('/proc').exists() else []
    p.send_signal(signal.SIGKILL); p.wait()
    assert not list(tmp_path.glob('*.safetensors')) and list(tmp_path.glob('*.tmp'))
    assert ferplus(demo, source='folders', cache=tmp_path).fingerprint==faces.fingerprint
    old, = tmp_path.glob('*.tmp')
    os.utime(old, (1,1)); next(tmp_path.glob('*.safetensors')).unlink()
    ferplus(demo, source='folders', cache=tmp_path)
    assert not list(tmp_path.glob('*.tmp')) # what was left is swept away
    def alive(c): return Path(f'/proc/{c}/stat').exists() and Path(f'/proc/{c}/stat').read_text().rsplit(')')[-1].split()[0]!='Z'
    while any(map(alive, workers)) and time.time()<end: time.sleep(.2)
    assert not any(map(alive, workers)), 'workers outlive a killed parent'

def test_cold_starts_at_once(demo, tmp_path, faces):
    with ThreadPoolExecutor(2) as ex: res = [o.result()[0] for o in [ex.submit(fresh, OPENED, demo, tmp_path) for _ in range(2)]]
    assert set(res)=={faces.fingerprint}
    assert len(list(tmp_path.glob('*.safetensors')))==1 and not list(tmp_path.glob('*.tmp'))

def test_changed_csv_is_noticed(demo, tmp_path, faces):
    from shutil import copytree
    d = copytree(demo, tmp_path/'copy', ignore=lambda *_: ['.fer_nr'])
    assert ferplus(d).fingerprint==faces.fingerprint
    text = (d/'fer2013.csv').read_text(); stat = os.stat(d/'fer2013.csv')
    lines,row = text.split('\n'),pd.read_csv(d/'fer2013new.csv')['Image name'].tolist().index(faces.train.names[0])
    e,p,u = lines[row+1].split(',')
    lines[row+1] = ','.join([e,' '.join(reversed(p.split())),u])
    (d/'fer2013.csv').write_text('\n'.join(lines)); os.utime(d/'fer2013.csv', ns=(stat.st_atime_ns, stat.st_mtime_ns)) # same size, same time
    got = ferplus(d)
    assert torch.equal(got.train.images[0].flatten(), faces.train.images[0].flatten().flip(0))
    assert torch.equal(got.train.images[1:], faces.train.images[1:])

def test_cache_falls_back_to_the_users(demo, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert D._cache_dir(demo/'fer2013.csv')==tmp_path/'fer_nr' # a place where no folder can be made

def test_jobs_can_be_sent_to_a_fresh_interpreter(demo):
    "Where processes are not forked, jobs travel pickled"
    shape,jobs = D._csv_plan(demo/'fer2013.csv', pd.read_csv(demo/'fer2013new.csv').Usage.tolist())
    n,f,a = pickle.loads(pickle.dumps(jobs[0]))
    assert f(*a).shape==(n,1,48,48)

def test_one_line_errors_through_processes(demo, tmp_path):
    from shutil import copytree
    d = copytree(demo, tmp_path/'copy', ignore=lambda *_: ['.fer_nr'])
    png = sorted((d/'FER2013Train').glob('*.png'))[200]
    png.write_bytes(png.read_bytes()[:100])
    with pytest.raises(ValueError, match=re.escape(str(png))) as e: ferplus(d, source='folders')
    assert '\n' not in str(e.value) and e.value.__cause__ is None
    assert not list((d/'.fer_nr').glob('*.safetensors')) and not list((d/'.fer_nr').glob('*.tmp'))
    Image.new('L', (64,64)).save(png)
    with pytest.raises(ValueError, match='64×64 pixels, expected 48×48'): ferplus(d, source='folders')

# --- other data sets -------------------------------------------------------------------------------------------------------------------

def test_super_resolved_folders(demo, tmp_path, faces):
    "The authors' way: FERPlus's folders with larger pictures in them"
    for p in demo.glob('FER2013*/*'):
        q = tmp_path/p.relative_to(demo); q.parent.mkdir(exist_ok=True)
        Image.open(p).resize((96,96)).convert('RGB').save(q) if p.suffix=='.png' else q.write_bytes(p.read_bytes())
    large = ferplus(tmp_path, size=96)
    assert large.train.images.shape[1:]==(1,96,96) and large.test.names==faces.test.names and torch.equal(large.train.labels, faces.train.labels)

def rafdb_tree(root, lst='EmoLabel/list_patition_label.txt', images='Image/aligned'):
    for p in (root/lst, root/images/'x'): p.parent.mkdir(parents=True, exist_ok=True)
    rows = [(f'{s}_{i:05}',i%7+1) for s in ('train','test') for i in range(1,29)]
    for n,y in rows: Image.new('RGB', (100,100), (30*y,0,255-30*y)).save(root/images/(f'{n}_aligned.jpg' if 'aligned' in images else f'{n}.jpg'))
    (root/lst).write_text(''.join(f'{n}.jpg {y}\n' for n,y in rows))

@pytest.mark.parametrize('lst', ['EmoLabel/list_patition_label.txt','list_patition_label.txt','Image/aligned/list_patition_label.txt'])
def test_rafdb_places(tmp_path, lst):
    rafdb_tree(tmp_path/'basic', lst)
    f = rafdb(tmp_path, valid=.25)
    assert sizes(f)==[21,7,28] and f.train.counts().tolist()==[3]*7 and f.valid.counts().tolist()==[1]*7
    assert f.vocab==('surprise','fear','disgust','happiness','sadness','anger','neutral')
    for o in f.splits.values(): assert (o.images[:,0].float().mean((1,2))-30*(o.labels+1)).abs().max()<4 # each picture has its own label
    assert sizes(protocol(f, 'literature'))==[28,28] and f.fingerprint!=rafdb(tmp_path, valid=.25, seed=1).fingerprint

def test_rafdb_faults(tmp_path):
    rafdb_tree(tmp_path)
    with pytest.raises(FileNotFoundError, match='original'): rafdb(tmp_path, kind='original')
    with pytest.raises(ValueError, match="'aligned' or 'original'"): rafdb(tmp_path, kind='cropped')
    (tmp_path/'Image/aligned/test_00003_aligned.jpg').unlink()
    with pytest.raises(FileNotFoundError, match='test_00003_aligned.jpg: not found'): rafdb(tmp_path)
    (tmp_path/'EmoLabel/list_patition_label.txt').unlink()
    with pytest.raises(FileNotFoundError, match='list of labels'): rafdb(tmp_path)

def affect_tree(root, n=40):
    for i in range(n):
        for p in ('images','annotations'): (root/f'{("val","train")[i%4>0]}_set'/p).mkdir(parents=True, exist_ok=True)
        d = root/f'{("val","train")[i%4>0]}_set'
        Image.new('RGB', (120,120), (20*(i%11),0,0)).save(d/f'images/{i}.jpg'); np.save(d/f'annotations/{i}_exp.npy', np.array(str(i%11)))

def test_affectnet_drops_and_maps(tmp_path):
    affect_tree(tmp_path)
    f = affectnet(tmp_path, size=32, valid=0)
    assert f.vocab==('neutral','happiness','sadness','surprise','fear','disgust','anger','contempt') and f.valid is None
    for o in f.splits.values(): assert (o.images[:,0].float().mean((1,2))-20*o.labels).abs().max()<4
    assert f.test.names[:3]==['0.jpg','4.jpg','12.jpg'] # 8 is dropped; in the order of the numbers
    assert f.train.images.untyped_storage().data_ptr()==f.test.images.untyped_storage().data_ptr() # both are views of one mapped file
    with pytest.raises(FileNotFoundError, match='7_exp.npy: not found'): (tmp_path/'train_set/annotations/7_exp.npy').unlink(); affectnet(tmp_path)

def test_affectnet_never_loads_a_pickle(tmp_path):
    affect_tree(tmp_path)
    np.save(tmp_path/'train_set/annotations/1_exp.npy', np.array([{'a':1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match='1_exp.npy: not an annotation'): affectnet(tmp_path)

def test_affectnet_faces_outside(tmp_path):
    (tmp_path/'images').mkdir(); Image.new('RGB', (50,50)).save(tmp_path/'images/a.jpg')
    head,row = 'subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n','a.jpg,{},0,30,30,,1,0,0\n'
    for n in ('training','validation'): (tmp_path/f'{n}.csv').write_text(head+row.format(-10))
    assert affectnet(tmp_path, size=20, valid=0).train.images.shape==(1,3,20,20) # a box that begins outside is cut
    (tmp_path/'training.csv').write_text(head+row.format(60))
    with pytest.raises(ValueError, match='lies outside of the 50×50 picture'): affectnet(tmp_path, size=20, valid=0)

@pytest.mark.parametrize('mode,ext', [('L','png'),('RGB','jpg'),('RGBA','png'),('P','gif'),('1','bmp'),('LA','png'),('CMYK','jpg')])
@pytest.mark.parametrize('grey', [True,False])
def test_image_folder_formats(tmp_path, mode, ext, grey):
    for k,v in (('calm',40),('wild',200)):
        (tmp_path/k).mkdir()
        for i in range(5): Image.new('L', (30+10*i,70-10*i), v).convert('RGB').convert(mode).save(tmp_path/k/f'{i}.{ext}')
    f = image_folder(tmp_path, size=24, grey=grey, valid=.2, test=.2)
    assert sizes(f)==[6,2,2] and f.vocab==('calm','wild') and f.train.images.shape[1:]==(1 if grey else 3,24,24)
    for o in f.splits.values(): assert (o.images.float().mean((1,2,3))-torch.where(o.labels==0, 40 if mode!='1' else 40, 200)).abs().max()<(60 if mode=='1' else 6)

def test_image_folder_turns_upright(tmp_path):
    (tmp_path/'a').mkdir(); (tmp_path/'b').mkdir()
    im = Image.new('L', (40,40)); im.paste(255, (0,0,40,20)) # bright above
    ex = Image.Exif(); ex[274] = 3 # the camera was upside down
    im.rotate(180).save(tmp_path/'a/1.jpg', exif=ex); im.save(tmp_path/'b/1.jpg')
    f = image_folder(tmp_path, size=40, grey=True, valid=0, test=0)
    assert (f.train.images[:,0,:18].float().mean((1,2))>240).all() and (f.train.images[:,0,22:].float().mean((1,2))<15).all()

# --- loaders ----------------------------------------------------------------------------------------------------------------------------

def test_two_ranks_share_an_epoch(faces):
    "fastai.distributed deals our batches out"
    dl = face_dls(faces, bs=16, device='cpu').valid.new(bs=16)
    class Two(DistributedDL):
        def _broadcast(self, t, rank): return list(t)
    parts = [torch.cat([y for _,y in Two(dl, rank=r, world_size=2)]) for r in (0,1)]
    n = len(faces.valid)
    assert torch.equal(torch.cat(parts)[:n], faces.valid.labels) and len(parts[0])==len(parts[1])

def test_order_survives_a_stop(faces):
    "Three epochs, and the same stopped in the second one and gone on with in another loader"
    whole = face_dls(faces, bs=16, device='cpu', seed=5).train
    want = [torch.cat([y for _,y in whole]) for _ in range(3)]
    stop = face_dls(faces, bs=16, device='cpu', seed=5).train
    got = [torch.cat([y for _,y in stop])]; it = iter(stop); part = [next(it)[1] for _ in range(4)]; it.close()
    assert (stop.epoch,stop.skip)==(1,0) # not complete
    again = face_dls(faces, bs=16, device='cpu', seed=5).train
    again.epoch,again.skip = 1,4
    got += [torch.cat(part+[y for _,y in again]), torch.cat([y for _,y in again])]
    assert all(map(torch.equal, want, got))

def test_no_python_per_image(faces, monkeypatch):
    "A batch is one indexing of the images"
    dl = face_dls(faces, bs=32, device='cpu').train
    calls = []
    batch = type(dl)._batch
    monkeypatch.setattr(type(dl), '_batch', lambda self,i: (calls.append(len(i)),batch(self,i))[1])
    n = len(list(dl))
    assert calls==[32]*n and n==len(faces.train)//32

def test_small_sets(faces):
    tiny = replace(faces, train=faces.train[:5], valid=None)
    dls = face_dls(tiny, bs=64, device='cpu')
    assert [len(y) for _,y in dls.train]==[5] and len(dls.valid)==0 and dls.train.bs==5
    no_votes = replace(tiny.train, votes=None)
    assert torch.equal(face_dls(replace(tiny, train=no_votes), target='votes', device='cpu').one_batch()[1].sum(1), torch.ones(5))
