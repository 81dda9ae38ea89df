"""Today's parts, registered here until they register themselves where they are defined; then this module goes."""
from . import data, loss, registry
from .augment import augmentation
from .training import get_recipe, recipes

__all__ = []


def register(kind, name, build, uses=(), **facts):
    "Register a part unless it is"
    if name not in registry.parts(kind):
        registry.part(kind, name, uses, **facts)(build)


def ferplus(path, votes='label', **kwargs):
    return data.ferplus(path, votes=votes, **kwargs)


def synthetic(path=None, limit=0):
    return data.synthetic(n=limit or 4000, seed=0)


register('data', 'ferplus', ferplus, uses=('votes',), fixed=True, shape=(1, 48))
register('data', 'rafdb', data.rafdb, fixed=True, shape=(3, 100))
register('data', 'affectnet', data.affectnet, fixed=True)
register('data', 'image_folder', data.image_folder)
register('data', 'synthetic', synthetic, uses=('limit',), fixed=True, shape=(1, 48))

register('loss', 'ce', loss.CrossEntropy)
register('loss', 'pdls', loss.PDLS, uses=('prior', 'alpha'))
register('loss', 'fpdls', loss.FPDLS, uses=('prior', 'alpha', 'gamma'))
register('loss', 'compfpdls', loss.CompFPDLS, uses=('prior', 'alpha'))
register('loss', 'smoothing', loss.UniformSmoothing, uses=('alpha',))
register('loss', 'focal', loss.FocalLoss, uses=('gamma',))
register('loss', 'votes', loss.SoftVoteCE, target='votes')


def train(faces, data_path=None):
    return loss.label_prior(faces.train)


def released(faces, data_path=None):
    from pathlib import Path
    prior = loss.released_prior(Path(data_path or 'ferplus') / 'fer2013new.csv')
    return loss.map_prior(prior, data.FERPLUS, faces.vocab)


def flat(faces, data_path=None):
    return loss.flat_prior(train(faces))


for build in (train, released, flat):
    register('prior', build.__name__, build)


def named(kind, name, build, uses=()):
    def make(*args):
        return build(name)(*args) if args else build(name)
    make.__qualname__ = f'{kind}.{name}'
    register(kind, name, make, uses)


for name in ('bilinear', 'bicubic', 'sr', 'conv', 'images'):
    named('up', name, str)
for name in ('none', 'ltr', 'ltr0', 'bilinear', 'bicubic'):
    named('down', name, str, () if name == 'none' else ('up_size',))
for name in ('mlp', 'linear'):
    named('head', name, str)
for name in ('none', 'authors', 'modern'):
    named('augment', name, augmentation)
for name in recipes:
    named('recipe', name, get_recipe)


def by_protocol(name):
    return lambda faces: data.protocol(faces, name)


for name in ('clean', 'literature', 'poster', 'authors', 'dedup'):
    named('protocol', name, by_protocol)
