"""The recogniser: odd inputs, broken files, the command, and what a light import loads."""
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib.cbook as cbook
import numpy as np
import pandas as pd
import pytest
import torch
from nbdev.config import get_config
from PIL import Image

import fer_nr
from fer_nr.backbone import fer_model, save_weights
from fer_nr.onnx_export import Shares, export_onnx, shipped_model
from fer_nr.photographs import FaceDetector, cut_face, face_square, find_sources, read_picture
from fer_nr.recognize import BEFORE, Recognizer, fer_nr_predict
from fer_nr.resizer import NeuralResizer

VOCAB = ('neutral', 'happiness', 'surprise')
HOPPER = cbook.get_sample_data('grace_hopper.jpg', asfileobj=False)


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    "A model of one block, as save_weights writes it"
    torch.manual_seed(0)
    resizer = NeuralResizer('bilinear', down='none', in_size=48, up_size=64, size=64, in_chans=1)
    model = fer_model('vit_tiny_patch16_224', resizer, len(VOCAB), depth=1)
    path = tmp_path_factory.mktemp('model')/'tiny.safetensors'
    save_weights(model, path, dict(vocab=VOCAB, temperature=1.5))
    return path


@pytest.fixture(scope='session')
def recognize(tiny):
    return Recognizer(tiny, threads=2)


@pytest.fixture
def album(tmp_path):
    "A photograph, one that is cut off, one of nobody, and files that are no pictures"
    photograph = Image.open(HOPPER)
    photograph.save(tmp_path/'a.jpg')
    content = (tmp_path/'a.jpg').read_bytes()
    (tmp_path/'broken.jpg').write_bytes(content[:len(content)//2])
    (tmp_path/'empty.png').touch()
    Image.new('RGB', (200, 100)).save(tmp_path/'nobody.png')
    (tmp_path/'notes.txt').write_text('no picture')
    return tmp_path


def quietly(recognize, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return recognize(*args, **kwargs)


def test_a_face_is_found_where_it_is(recognize):
    face = recognize(HOPPER).iloc[0]
    assert 100 < face['x'] < 200 and 80 < face['y'] < 140
    down = face[['y', 'left_eye_y', 'nose_y', 'mouth_left_y']].tolist()
    down.append(face['y'] + face['height'])
    assert down == sorted(down)
    assert face['right_eye_x'] < face['left_eye_x']  # the person's right eye is on the left
    assert not face['small']


def test_one_row_a_face_in_order(recognize, album):
    photograph = Image.open(HOPPER)
    two = Image.new('RGB', (1024, 600))
    two.paste(photograph, (0, 0))
    two.paste(photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (512, 0))
    faces = quietly(recognize, [two, album, photograph])
    assert len(faces) == 4
    assert faces['source'].tolist()[:2] == ['picture 0']*2
    assert faces['x'][0] < 512 < faces['x'][1]
    broken, empty = faces.attrs['problems']
    assert 'broken.jpg' in broken and 'empty.png' in empty
    np.testing.assert_allclose(faces[list(VOCAB)].sum(axis=1), 1, atol=1e-5)


def test_batches_and_threads_change_nothing(tiny, album):
    tables = [quietly(Recognizer(tiny, bs=bs, threads=threads), [album, HOPPER, HOPPER])
              for bs, threads in ((64, 1), (1, 4))]
    pd.testing.assert_frame_equal(*tables, atol=1e-5)


def test_entropy_and_expression_follow_from_the_shares(recognize):
    faces = recognize([HOPPER, np.asarray(Image.open(HOPPER).convert('L'))])
    shares = faces[list(VOCAB)].to_numpy().astype(float)
    np.testing.assert_allclose(faces['entropy'], -(shares*np.log2(shares)).sum(1), atol=1e-5)
    assert faces['expression'].tolist() == [VOCAB[i] for i in shares.argmax(1)]


def test_every_way_in_gives_the_same_face(recognize, tmp_path):
    picture = Image.open(HOPPER).convert('RGB')
    pixels = np.array(picture)
    Image.fromarray(pixels).save(tmp_path/'a.png')
    exif = Image.Exif()
    exif[0x112] = 3
    picture.transpose(Image.Transpose.ROTATE_180).save(tmp_path/'turned.png', exif=exif)
    transparent = picture.copy()
    transparent.putalpha(Image.new('L', picture.size, 255))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    ways = [tmp_path/'a.png', str(tmp_path/'*.png'), picture, transparent, pixels, tensor,
            tensor/255, pixels.astype(np.float32), pixels.astype(np.uint16)*257, tensor[None],
            [pixels]]
    expected = recognize(picture).drop(columns='source')
    for way in ways:
        faces = recognize(way).drop(columns='source').iloc[:1]
        pd.testing.assert_frame_equal(faces, expected, atol=1e-4, obj=str(type(way)))
    bgr = recognize(pixels[:, :, ::-1], bgr=True).drop(columns='source')
    pd.testing.assert_frame_equal(bgr, expected, atol=1e-4)


def test_grey_pictures_of_16_bits(recognize, tmp_path):
    grey = np.asarray(Image.open(HOPPER).convert('L'))
    Image.fromarray(grey.astype(np.uint16)*257).save(tmp_path/'deep.png')
    expected = recognize(grey).drop(columns='source')
    pd.testing.assert_frame_equal(recognize(tmp_path/'deep.png').drop(columns='source'), expected)


def test_cut_faces_are_the_models_own_pixels(tiny):
    "A 48 px grey face goes to the model bit by bit"
    recognize = Recognizer(tiny)
    face = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    shares = recognize([face], detect=False)[list(VOCAB)].to_numpy()
    model = recognize.shares.model
    with torch.no_grad():
        logits = model(torch.from_numpy(face)[None, None]/255)
    np.testing.assert_allclose(shares, (logits/1.5).softmax(1), atol=1e-5)


def test_small_faces_are_marked(recognize):
    photograph = Image.open(HOPPER)
    tiny = photograph.resize((100, 117))
    assert recognize(tiny)['small'].tolist() == [True]


def test_a_small_face_in_a_large_picture_is_found(recognize):
    scene = Image.new('RGB', (3000, 2000), 'grey')
    scene.paste(Image.open(HOPPER).resize((170, 200)), (2200, 1500))
    face, = recognize(scene)[['x', 'y', 'height']].to_numpy()
    assert 2240 < face[0] < 2320 and 1520 < face[1] < 1560 and 60 < face[2] < 90


def test_a_face_of_24_pixels_is_found_by_the_second_look(recognize):
    wall = Image.new('RGB', (200, 150), 'grey')
    wall.paste(Image.open(HOPPER).resize((60, 70)), (30, 40))
    detector = FaceDetector()
    face, = detector(wall)
    x, y = face[:2] + face[2:4]/2
    assert 20 < face[3] < 32 and abs(x - 61) < 4 and abs(y - 67) < 4


def test_cutting_is_exact_where_nothing_is_to_be_resized():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    picture = Image.fromarray(pixels)
    np.testing.assert_array_equal(cut_face(picture, (10, 5, 48)), pixels[5:53, 10:58])
    beyond = cut_face(picture, (40, 30, 48))  # 18 px beyond at both sides
    np.testing.assert_array_equal(beyond[:30, :30], pixels[30:, 40:])
    assert (beyond[30:, :30] == pixels[-1, 40:]).all()
    half = cut_face(picture, (10, 5, 24), size=12)
    box = picture.crop((10, 5, 34, 29)).resize((12, 12), Image.Resampling.BILINEAR)
    assert np.abs(half.astype(int) - np.asarray(box)).max() <= 1


@pytest.mark.parametrize('values, line', [
    (np.zeros((2, 3, 4, 5, 6)), 'an array of shape (2, 3, 4, 5, 6)'),
    (np.zeros((0, 5, 3), np.uint8), 'an array of shape (0, 5, 3)'),
    (np.full((5, 5), np.nan), 'float64 from nan to nan'),
    (np.full((5, 5), 300.), 'float64 from 300 to 300'),
    (np.ones((5, 5), int), 'pixels are int64 from 1 to 1'),
    (np.array([['a']]), 'pixels are <U1'),
])
def test_arrays_that_are_no_pictures_get_one_line(values, line):
    with pytest.raises(ValueError) as error:
        read_picture(values)
    assert line in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('content', [b'', b'<html>404', b'\xff\xd8\xff\xe0 cut off', b'%!PS-Adobe'])
def test_files_that_are_no_pictures_get_one_line(content, tmp_path):
    path = tmp_path/'face.jpg'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='face.jpg is no whole picture') as error:
        read_picture(path)
    assert '\n' not in str(error.value)
    assert 'truncated' in str(error.value).lower() or 'found none of' in str(error.value)


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path/'pipe.jpg')
    with pytest.raises(ValueError, match='no regular file'):
        read_picture(tmp_path/'pipe.jpg')


def test_names_that_lead_nowhere(tmp_path):
    for what in (tmp_path, tmp_path/'none.jpg', str(tmp_path/'*.png')):
        with pytest.raises(FileNotFoundError, match='no picture and no video'):
            find_sources(what)


def test_models_of_every_kind(tiny, recognize, tmp_path):
    expected = recognize(HOPPER)
    shares = recognize.shares
    export_onnx(tiny, tmp_path/'tiny.onnx')
    for model in (shares, tmp_path/'tiny.onnx', str(tiny)):
        pd.testing.assert_frame_equal(Recognizer(model)(HOPPER), expected, atol=1e-4)
    named = Recognizer(shares.model, vocab=['one', 'two', 'three'])
    assert {'one', 'two', 'three'} <= set(named(HOPPER).columns)
    with pytest.raises(ValueError, match="a class is called 'score'"):
        Recognizer(shares.model, vocab=['one', 'two', 'score'])


def test_bfloat16_is_close_and_leaves_the_model_alone(recognize):
    model = recognize.shares.model
    half = Shares(model, VOCAB, 1.5, dtype='bfloat16')
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    np.testing.assert_allclose(half.answer(faces), recognize.shares.answer(faces), atol=.02)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_models_that_cannot_be_used(tiny, tmp_path):
    (tmp_path/'a.onnx').write_bytes(b'no model')
    model = Recognizer(tiny).shares.model
    model.meta = {}
    for wrong, line in ((tmp_path/'a.onnx', 'not a whole ONNX file'), (tmp_path, 'record.json'),
                        (model, 'does not name its classes')):
        with pytest.raises((ValueError, FileNotFoundError), match=line):
            Recognizer(wrong)


def run_command(capsys, *args, **kwargs):
    "Exit code, output, errors"
    try:
        fer_nr_predict(*args, **kwargs)
        code = 0
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_names_what_is_broken_and_goes_on(capsys, album, tiny, tmp_path_factory):
    seen = tmp_path_factory.mktemp('seen')
    code, out, err = run_command(capsys, [str(album)], csv=str(album/'out'/'faces.csv'),
                                 annotate=str(seen), model=str(tiny))
    assert code == 1
    assert err.count('\n') == 2 and 'broken.jpg' in err and 'empty.png' in err
    assert 'a.jpg' in out and 'Traceback' not in err
    assert len(pd.read_csv(album/'out'/'faces.csv')) == 1
    assert Image.open(seen/'a.jpg').size == Image.open(HOPPER).size


def test_the_command_without_faces(capsys, album, tiny):
    code, out, err = run_command(capsys, [str(album/'nobody.png')], model=str(tiny))
    assert (code, out, err) == (0, 'no face found\n', '')


def test_the_command_says_what_is_wrong_in_one_line(capsys, album, tiny):
    for args in (dict(photos=['none.jpg'], model=str(tiny)),
                 dict(photos=[str(album/'a.jpg')], model='none.safetensors'),
                 dict(photos=[str(album/'broken.jpg')], model=str(tiny)),
                 dict(photos=['two\nlines.jpg'], model=str(tiny)),
                 dict(photos=[str(album/'a.jpg')], model=str(tiny), csv='/dev/null/faces.csv')):
        code, out, err = run_command(capsys, **args)
        assert (code, out) == (1, '') and err.startswith('fer_nr: ') and err.count('\n') == 1


def test_each_broken_file_has_one_line(capsys, album, tiny):
    (album/'two\nlines.jpg').touch()
    code, out, err = run_command(capsys, [str(album)], model=str(tiny))
    lines = err.splitlines()
    assert code == 1 and len(lines) == 3 and all(line.startswith('fer_nr: ') for line in lines)
    assert 'two lines.jpg' in err


def test_a_wrong_option_is_not_taken_for_a_parameter(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['fer_nr_predict', 'a.jpg', '--detect', 'x'])
    code, out, err = run_command(capsys)
    assert (code, out) == (2, '') and err.count('\n') == 1
    assert 'unrecognized arguments: --detect' in err and 'VALUE' not in err


@pytest.fixture(scope='module')
def predicted(tmp_path_factory):
    "The command in a process of its own, with the shipped model and a photograph; its folder"
    folder = tmp_path_factory.mktemp('predicted')
    words = [Path(sys.executable).parent/'fer_nr_predict', HOPPER, '--csv', 'faces.csv',
             '--annotate', 'seen']
    env = os.environ | dict(PYTHONPATH=str(get_config().config_path), OMP_NUM_THREADS='1')
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True), folder


def test_the_command_on_a_photograph(predicted):
    done, folder = predicted
    assert (done.returncode, done.stderr) == (0, '')
    faces = pd.read_csv(folder/'faces.csv')
    vocab = Recognizer().vocab
    assert list(faces) == [*BEFORE, *vocab, 'expression', 'entropy', 'small']
    face, = faces.to_dict('records')
    assert face['source'] == HOPPER and not face['small']
    assert 150 < face['x'] < 200 and 90 < face['y'] < 140 and 200 < face['height'] < 250
    shares = faces.loc[0, list(vocab)].astype(float)
    assert abs(shares.sum() - 1) < 1e-4 and face['expression'] == shares.idxmax() == 'neutral'
    assert os.listdir(folder/'seen') == ['grace_hopper.jpg']
    assert Image.open(folder/'seen'/'grace_hopper.jpg').size == Image.open(HOPPER).size


def test_the_readme_prints_what_the_command_prints(predicted):
    readme = (get_config().config_path/'README.md').read_text('utf-8')
    block = readme.split('it prints\n\n```\n')[1].split('```')[0]
    assert block == predicted[0].stdout


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('photos, output, line', [
    (['a.jpg'], dict(csv='a.jpg'), 'a.jpg is to be read'),
    (['.'], dict(csv='nobody.png'), 'nobody.png is to be read'),
    (['table.csv'], dict(csv='sub/../table.csv'), 'table.csv is to be read'),
    (['a.jpg'], dict(csv='film.avi'), 'does not end in .csv'),
    (['a.jpg'], dict(csv='notes.txt'), 'does not end in .csv'),
    (['a.jpg'], dict(csv='sub'), 'sub is a folder'),
    (['a.jpg'], dict(annotate='.'), '. is where a.jpg lies'),
    (['a.jpg', 'sub/b.jpg'], dict(annotate='sub'), 'sub is where sub/b.jpg lies'),
    (['*/b.jpg'], dict(annotate='sub'), 'sub is where sub/b.jpg lies'),
    (['link.jpg'], dict(annotate='sub'), 'sub is where link.jpg lies'),
    (['sub'], dict(annotate='sub/seen'), 'sub/seen lies in sub'),
    (['a.jpg'], dict(annotate='other'), 'other holds a.jpg, which is no annotated copy')])
def test_no_photograph_is_written_over(photos, output, line, capsys, album, tiny, monkeypatch):
    monkeypatch.chdir(album)
    (album/'sub').mkdir()
    (album/'other').mkdir()
    for name in ('table.csv', 'film.avi', 'sub/b.jpg', 'other/a.jpg'):
        Image.open(HOPPER).save(album/name, 'JPEG')
    (album/'link.jpg').symlink_to('sub/b.jpg')
    before = contents(album)
    code, out, err = run_command(capsys, photos, model=str(tiny), **output)
    assert (code, out) == (1, '') and line in err and err.count('\n') == 1
    assert contents(album) == before


def test_tables_and_copies_of_an_earlier_call_are_replaced(capsys, album, tiny, monkeypatch):
    monkeypatch.chdir(album)
    for _ in range(2):
        code, *_ = run_command(capsys, ['a.jpg'], csv='faces.CSV', annotate='seen', model=str(tiny))
        assert code == 0
    assert len(pd.read_csv('faces.CSV')) == 1 and os.listdir('seen') == ['a.jpg']


@pytest.fixture
def no_room():
    "Files can be made and stay empty, as on a disk that has run full"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('output', ['csv', 'annotate'])
def test_answers_are_printed_where_they_cannot_be_written(output, capsys, album, tiny, no_room):
    where = {output: str(album/'out'/'new')}
    code, out, err = run_command(capsys, [str(album/'a.jpg')], model=str(tiny), **where)
    assert code == 1 and 'could not be written' in err and err.count('\n') == 1
    assert 'a.jpg' in out and '173,11' in out


def test_folders_are_tried_before_the_work(capsys, album, tiny):
    photo = album/'a.jpg'
    for output in (dict(csv=str(photo/'faces.csv')), dict(annotate=str(photo/'seen')),
                   dict(annotate=str(album/'notes.txt'))):
        code, out, err = run_command(capsys, [str(photo)], model=str(tiny), **output)
        assert (code, out) == (1, '')
        assert 'nothing can be written there' in err and err.count('\n') == 1


def test_names_that_are_odd(capsys, album, tiny):
    "Not UTF-8, or with a new line: whole in the csv, and on one line in the terminal"
    names = [os.fsdecode(b'\xff.jpg'), 'b\nc.jpg']
    for name in names:
        os.link(album/'a.jpg', album/name)
    code, out, err = run_command(capsys, [str(album/name) for name in names], model=str(tiny),
                                 csv=str(album/'faces.csv'), annotate=str(album/'seen'))
    assert (code, err) == (0, '') and out.count('\n') == 3
    faces = pd.read_csv(album/'faces.csv', encoding_errors='surrogateescape')
    assert faces['source'].tolist() == [str(album/name) for name in names]
    assert sorted(os.listdir(album/'seen')) == sorted(names)


def test_a_video(recognize, tmp_path):
    cv2 = pytest.importorskip('cv2')
    jpegs = cv2.VideoWriter_fourcc(*'MJPG')
    writer = cv2.VideoWriter(str(tmp_path/'film.avi'), jpegs, 10, (512, 600))
    photograph = np.asarray(Image.open(HOPPER).convert('RGB'))[:, :, ::-1]
    for i in range(6):
        writer.write(np.ascontiguousarray(photograph * (i % 2 == 0)).astype(np.uint8))
    writer.release()
    faces = recognize(tmp_path/'film.avi', every=2)
    assert faces['frame'].tolist() == [0, 2, 4]
    np.testing.assert_allclose(faces['time'], [0, .2, .4], atol=.02)


def test_the_detector_is_opencvs():
    cv2 = pytest.importorskip('cv2')
    picture = Image.open(HOPPER).convert('RGB').resize((512, 608))
    model = str(Path(fer_nr.__file__).parent/'models'/'yunet.onnx')
    reference = cv2.FaceDetectorYN.create(model, '', picture.size, .3, .3)
    theirs = reference.detect(np.ascontiguousarray(np.asarray(picture)[:, :, ::-1]))[1]
    np.testing.assert_allclose(FaceDetector(score=.3).look(picture), theirs, atol=.05)


def test_the_square_is_around_the_box():
    left, top, side = face_square(np.array([10, 20, 30, 40.]))
    assert (left + side/2, top + side/2) == (10 + 30/2, 20 + 40/2)


def test_a_light_import():
    heavy = {'fastai', 'IPython', 'matplotlib', 'nbdev', 'cv2', 'onnx', 'onnxruntime'}
    code = 'import sys, fer_nr.recognize; print(*{name.split(".")[0] for name in sys.modules})'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert not heavy & set(out.stdout.split())


def test_the_shipped_model_is_what_its_card_says(fer2013):
    "With the real test images, the file in the package has exactly the accuracy that it states"
    from fer_nr.data import ferplus
    path = shipped_model()
    recognize = Recognizer(path)
    assert path.stat().st_size <= 12e6
    test = ferplus(fer2013).test
    faces = np.repeat(test.images.numpy().transpose(0, 2, 3, 1), 3, 3)
    predictions = recognize.answer([faces]).argmax(1)
    correct = int((predictions == test.labels.numpy()).sum())
    assert correct == recognize.shares.model.meta['metrics']['test']['correct']
