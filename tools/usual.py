"""What people would write instead, to measure ours against: `python -m tools.usual NAME`

Each name is a training by itself, in a process of its own, which prints one line of JSON: images per
second and peak memory. The benchmarks notebook puts them beside each other.
"""
import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from fer_nr.data import synthetic
from fer_nr.resizer import NeuralResizer
from fer_nr.runs import build_learner
from fer_nr.spec import RunSpec
from fer_nr.training import throughput

ARCH = 'vit_tiny_patch16_224'
FACES = 2000  # drawn; a share of them is for evaluation
OURS = {'bilinear': {}, 'SR + LTR': dict(up='sr', down='ltr')}


class Pictures(Dataset):
    "Picture files and labels, as a first notebook reads them"

    def __init__(self, files, labels, transform):
        self.files, self.labels, self.transform = files, labels, transform

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return self.transform(Image.open(self.files[i]).convert('RGB')), self.labels[i]


def write_pictures(faces, folder, size):
    "The faces as PNG files of `size` px"
    files = []
    for i, image in enumerate(faces.images.numpy()):
        picture = Image.fromarray(image[0])
        if picture.width != size:
            picture = picture.resize((size, size), Image.Resampling.BICUBIC)
        files.append(Path(folder)/f'{i}.png')
        picture.save(files[-1])
    return files


def train(model, loader, optimiser, batches, warmup=2):
    "Images per second of the plain loop of a tutorial"
    model.train()
    done = 0
    while True:
        for x, y in loader:
            if done == warmup:
                start = time.perf_counter()
            loss = F.cross_entropy(model(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
            if done == warmup + batches:
                return batches*loader.batch_size/(time.perf_counter() - start)


def tutorial(faces, folder, size, batches):
    "torchvision's transforms on PIL images, DataLoader with 2 workers, timm's model, AdamW, float32"
    transform = T.Compose([
        T.Resize((size, size)), T.RandomHorizontalFlip(),
        T.RandomAffine(15, (.07, .07), (.87, 1.15), 5), T.ColorJitter(.25, .25, .25),
        T.ToTensor(), T.Normalize(.5, .5), T.RandomErasing(.5)])
    files = write_pictures(faces.train, folder, 48)
    pictures = Pictures(files, faces.train.labels.tolist(), transform)
    loader = DataLoader(pictures, 64, shuffle=True, num_workers=2, drop_last=True)
    model = timm.create_model(ARCH, num_classes=8, img_size=size)
    return train(model, loader, torch.optim.AdamW(model.parameters(), 5e-4), batches)


def released(faces, folder, size, batches):
    "As the paper's release: super-resolved files of 384 px, 4 workers, the downscaler, Adam, float32"
    mean, std = (.485, .456, .406), (.229, .224, .225)
    transform = T.Compose([
        T.RandomHorizontalFlip(), T.RandomRotation(45), T.RandomAffine(15, scale=(1.2, 1.2)),
        T.ColorJitter(.4, .4, .4), T.ToTensor(), T.Normalize(mean, std)])
    files = write_pictures(faces.train, folder, 384)
    pictures = Pictures(files, faces.train.labels.tolist(), transform)
    loader = DataLoader(pictures, 64, shuffle=True, num_workers=4, drop_last=True)
    resizer = NeuralResizer('images', down='ltr', in_size=384, up_size=384, size=size, in_chans=3)
    backbone = timm.create_model(ARCH, num_classes=8, img_size=size)
    model = torch.nn.Sequential(resizer, backbone)
    return train(model, loader, torch.optim.Adam(model.parameters(), 1e-4), batches)


def our_learner(name, faces, size, compiled=False):
    "A training of ours on the same faces"
    spec = RunSpec(data='synthetic', arch=ARCH, img_size=size, up_size=192, loss='ce', **OURS[name])
    return build_learner(spec, faces, compiled=compiled)


def ours(name, compiled=False):
    "A function that measures a training of ours"
    def measure(faces, folder, size, batches):
        learn = our_learner(name, faces, size, compiled)
        return throughput(learn, batches, warmup=2)
    return measure


ROWS = {'tutorial': tutorial, 'released': released}
ROWS |= {name: ours(name) for name in OURS}
ROWS |= {f'{name}, compiled': ours(name, compiled=True) for name in OURS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('name', choices=ROWS)
    parser.add_argument('--size', type=int, default=112, help='pixels that the backbone sees')
    parser.add_argument('--batches', type=int, default=6)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    faces = synthetic(FACES)
    with tempfile.TemporaryDirectory() as folder:
        speed = ROWS[arguments.name](faces, folder, arguments.size, arguments.batches)
    kinds = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    memory = sum(resource.getrusage(kind).ru_maxrss for kind in kinds)/2**10
    print(json.dumps(dict(images_per_s=speed, peak_memory_mb=memory)))


if __name__ == '__main__':
    main()
