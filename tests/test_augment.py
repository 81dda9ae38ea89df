"Augmentation: the authors' set against torchvision's random transforms; what training relies on"
import torch
from torchvision.transforms import v2

from fer_nr.augment import Augment, augmentation
from fer_nr.synthetic import render, sample_faces


def test_authors_set_has_torchvisions_distribution():
    "Mean and spread of each pixel over many random versions of a face"
    face = torch.from_numpy(render(sample_faces('happiness', seed=2)))[None]/255.
    bilinear = v2.InterpolationMode.BILINEAR
    theirs = v2.Compose([v2.RandomHorizontalFlip(.5), v2.RandomRotation(45, bilinear),
                         v2.RandomAffine(15, scale=(1.2, 1.2), interpolation=bilinear),
                         v2.ColorJitter(.4, .4, .4)])
    torch.manual_seed(0)
    n = 1000
    a = augmentation('authors')(face.expand(n, -1, -1, -1))
    b = torch.stack([theirs(face[0]) for _ in range(n)])
    assert (a.mean(0)-b.mean(0)).abs().mean() < .015
    assert (a.std(0)-b.std(0)).abs().mean() < .015


def test_large_faces_in_half_precision():
    "Coordinates in half precision would be off by a fifth of a pixel at 384"
    aug = augmentation('modern').train()
    x = torch.from_numpy(render(sample_faces(None, 4, seed=3), 96))[:, None]/255.
    params = aug.draw(4)
    difference = aug.transform(x.half(), params, 384).float()-aug.transform(x, params, 384)
    assert difference.abs().max() < 2e-3


def test_random_state_replays():
    "What a checkpoint relies on: the state of torch's default generator is all there is"
    aug, x = augmentation('modern').train(), torch.rand(8, 1, 48, 48)
    aug(x)
    state = torch.get_rng_state()
    first = [aug(x) for _ in range(3)]
    torch.set_rng_state(state)
    assert all(torch.equal(y, aug(x)) for y in first)


def test_modern_keeps_the_face():
    "No augmentation may hide more than a fifth, and the mean stays near the face's"
    x = torch.full((500, 1, 48, 48), .5)
    aug = Augment(rotate=(15,), scale=(.87, 1.15), translate=.07, shear=5., erasing=1.)
    torch.testing.assert_close(aug(x), x)  # nothing is added to an even picture
    torch.manual_seed(0)
    ramp = torch.linspace(.2, .8, 48).expand(500, 1, 48, 48)
    assert (augmentation('modern')(ramp).mean((1, 2, 3))-.5).abs().mean() < .1
