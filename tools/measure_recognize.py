"""Measure the recogniser on real faces and write the numbers, never a face, to results/recognize/.

    python tools/measure_recognize.py framing|boxes|kinds|speed|scenes [--data FOLDER] [--limit N]

Each part writes one JSON file that says how its numbers were computed; the notebooks draw from these.
"""
import argparse
import hashlib
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fer_nr.data import ferplus
from fer_nr.evaluation import wilson
from fer_nr.files import write_json
from fer_nr.onnx_export import KINDS, export_onnx, load_shares, shipped_model
from fer_nr.photographs import FaceDetector, cut_face, face_square

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
    return hashlib.sha256(shipped_model().read_bytes()).hexdigest()[:16]


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
        found = detector.look(enlarged(train.images[i].numpy(), factor, margin), 10_000)
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
        face = detector.look(picture, 10_000)
        if len(face):
            pictures.append(picture)
            found.append(face[0])
            rows.append(i)
    labels = valid.labels[rows].numpy()

    def right(cut):
        cuts = np.stack([cut(picture, face) for picture, face in zip(pictures, found)])
        return answers(shares, cuts).argmax(1) == labels

    ways = {'the image itself': lambda p, f: cut_face(p, (96, 96, 192)),
            'height of the box': lambda p, f: cut_face(p, face_square(f)),
            'width of the box': lambda p, f: cut_face(p, scaled_square(f, 1.27, 0)),
            'eyes and mouth': lambda p, f: cut_face(p, landmark_square(f)),
            'height, turned upright': lambda p, f: cut_face(upright(p, f), face_square(f))}
    result = dict(how='validation images of FERPlus, enlarged 4 times with a margin (the border '
                      'repeated), found by YuNet, cut and resized to 48 px',
                  model=model_hash(), images=n, found=len(rows),
                  ways={name: proportion(right(cut)) for name, cut in ways.items()})
    rng = np.random.default_rng(0)
    errors = {}
    for share in (.05, .1, .2, .3):
        def shifted(picture, face):
            angle = rng.uniform(0, 2*np.pi)
            left, top, side = 96., 96., 192.
            return cut_face(picture, (left + share*side*np.cos(angle),
                                      top + share*side*np.sin(angle), side))

        def resized(factor):
            return lambda picture, face: cut_face(picture, (192 - 96*factor, 192 - 96*factor, 192*factor))

        errors[f'{share:.0%}'] = dict(moved=proportion(right(shifted)),
                                      larger=proportion(right(resized(1 + share))),
                                      smaller=proportion(right(resized(1 - share))))
    return result | dict(errors=errors)


def main():
    parts = dict(framing=measure_framing, boxes=measure_boxes)
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('part', choices=parts)
    parser.add_argument('--data', default=os.environ.get('FER_NR_DATA', 'fer2013'))
    parser.add_argument('--limit', type=int, default=0, help='images, fewer for a trial')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = parts[arguments.part](ferplus(arguments.data), arguments.limit)
    path = RESULTS/f'{arguments.part}.json'
    write_json(path, result)
    print(path)


if __name__ == '__main__':
    main()
