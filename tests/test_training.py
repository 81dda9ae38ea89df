"The learner on CPUs and GPUs: recipes, compiled trunks, evaluation."
import pytest
import torch

from fer_nr.augment import augmentation
from fer_nr.backbone import fer_model
from fer_nr.data import face_dls, synthetic
from fer_nr.hybrids import BranchLoss
from fer_nr.loss import CrossEntropy, SoftVoteCE
from fer_nr.resizer import NeuralResizer
from fer_nr.training import Callback, bf16_callbacks, fer_learner, get_recipe


@pytest.fixture(scope='module')
def faces():
    return synthetic(n=200, seed=0)


def tiny(faces, path=None, target='labels', recipe='clean', augment='none', **kwargs):
    "A learner with a transformer of one block; keywords of the recipe, and of `fer_learner`"
    torch.manual_seed(0)
    resizer = NeuralResizer(up='bilinear', down='none', in_chans=1, up_size=32, size=32)
    model = fer_model('vit_tiny_patch16_224', resizer, head='linear', depth=1,
                      augment=augmentation(augment))
    loss = SoftVoteCE() if target == 'votes' else CrossEntropy()
    own = {name: kwargs.pop(name) for name in ('cbs', 'compiled', 'meta', 'key') if name in kwargs}
    dls = face_dls(faces, bs=16, target=target, device='cpu')
    return fer_learner(dls, model, loss, get_recipe(recipe, **kwargs), path, seconds=0, **own)


def test_only_the_released_evaluation_is_random(faces):
    "Recipe `authors` evaluates on augmented images, `clean` on the images as they are"
    for recipe, same in dict(authors=False, clean=True).items():
        learn = tiny(faces, recipe=recipe, augment='authors')
        with learn.no_bar():
            losses = {learn.validate()[0] for _ in range(2)}
        assert (len(losses) == 1) == same


def equal(weights, others):
    same = map(torch.equal, weights.values(), others.values())
    return weights.keys() == others.keys() and all(same)


class Stop(Callback):
    order = 99

    def after_batch(self):
        if self.training and self.train_iter == 6:
            raise KeyboardInterrupt


class CtrlC(Callback):
    "Ctrl-C in the middle of a forward pass: of the first batch in training, or in validation"
    def __init__(self, training):
        self.wanted = training

    def before_fit(self):
        self.hook = self.model.register_forward_hook(self.interrupt) if self.wanted else None

    def interrupt(self, module, args, out):
        raise KeyboardInterrupt

    def before_validate(self):
        if not self.wanted:
            raise KeyboardInterrupt


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('ema', [0., .9])
def test_an_interrupted_fit_leaves_the_next_alone(faces, training, ema):
    "Ctrl-C, then the same learner again: the very model trains, once, and outside nothing is bf16"
    learn = tiny(faces, ema=ema, bf16=False)
    learn.add_cbs(bf16_callbacks('cpu'))
    model, interrupt = learn.model, CtrlC(training)
    with pytest.raises(KeyboardInterrupt), learn.added_cbs([interrupt]), learn.no_bar():
        learn.fit_recipe(1)
    if training:
        interrupt.hook.remove()
    assert learn.model is model and not torch.is_autocast_enabled('cpu')
    assert not model._forward_hooks and not model._forward_pre_hooks
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with learn.no_bar():
        learn.fit_recipe(1)
    assert not equal(model.state_dict(), before)
    assert not torch.is_autocast_enabled('cpu') and not model._forward_hooks


@pytest.mark.parametrize('target', ['labels', 'votes'])
def test_mixed_training_continues_to_the_same_bits(faces, tmp_path, target):
    same = dict(target=target, augment='modern', mixup=.4, ema=.9)
    whole = tiny(faces, tmp_path/'whole', **same)
    whole.fit_recipe(2)
    cut = tiny(faces, tmp_path/'cut', cbs=Stop(), **same)
    with pytest.raises(KeyboardInterrupt):
        cut.fit_recipe(2)
    assert cut.loss_func is not cut.mix_up.lf, 'the loss is what it was, also after an interruption'
    again = tiny(faces, tmp_path/'cut', **same)
    again.fit_recipe(2)
    assert equal(again.model.state_dict(), whole.model.state_dict())
    plain = tiny(faces, **same | dict(mixup=0.))
    with plain.no_bar(), plain.no_logging():
        plain.fit_recipe(2)
    assert not torch.equal(plain.model.head.weight, whole.model.head.weight)


def test_validating_leaves_a_training_alone(faces, tmp_path):
    "validate, get_preds and lr_find neither write checkpoints nor put one back"
    learn = tiny(faces, tmp_path, ema=.9)
    learn.fit_recipe(2)
    files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    weights = {name: value.clone() for name, value in learn.model.state_dict().items()}
    record = learn.checkpoint.history[learn.checkpoint.best['epoch']-1]
    assert learn.validate()[1] == pytest.approx(record['top1'])
    learn.get_preds()
    learn.lr_find(num_it=8, show_plot=False)
    assert {path: path.read_bytes() for path in files} == files
    assert equal(learn.model.state_dict(), weights)


def test_label_state_wants_one_process(faces):
    from fer_nr.distributed import ShareDL
    shared = ShareDL(face_dls(faces, bs=16, device='cpu').train, 0, 2)
    with pytest.raises(ValueError, match='expected one process'):
        shared.positions


class Answers(torch.nn.Module):
    "Says the same of every face"
    def forward(self, x):
        return torch.arange(8.).expand(len(x), 8)


def test_teachers_reach_each_process(faces):
    "A process's share of a batch has the mixture of votes and answers, not the votes"
    from fer_nr.distributed import ShareDL
    from fer_nr.relabel import TeacherTargets
    learn = tiny(faces, target='votes')
    learn.dls.loaders = [ShareDL(loader, 1, 2) for loader in learn.dls.loaders]
    taught = TeacherTargets(lambda: [Answers()], share=1.)
    learn.add_cb(taught)
    taught.before_fit()
    taught.before_train()
    _, targets = next(iter(learn.dls.train))
    expected = torch.arange(8.).softmax(0).expand(8, 8)  # of 16 faces, 8
    torch.testing.assert_close(torch.as_tensor(targets).as_subclass(torch.Tensor), expected)


def test_several_processes_refuse_unlike_batch_norms(faces):
    "Each would take over the statistics of other faces"
    from fer_nr import distributed
    from fer_nr.face_trunks import UnfoldedBatchNorm
    learn = tiny(faces)
    learn.model.extra = UnfoldedBatchNorm(3)
    with pytest.raises(ValueError, match='statistics of its first batch.*expected one process'):
        distributed.share_training(learn)


def test_mixup_with_branches():
    "PSR answers three times in training; MixUp weighs the loss of each image"
    branches = BranchLoss(CrossEntropy())
    logits, target = torch.randn(4, 3, 8), torch.tensor([0, 3, 5, 7])
    mean = branches(logits, target)
    branches.reduction = 'none'
    assert branches(logits, target).shape == (4,)
    torch.testing.assert_close(branches(logits, target).mean(), mean)
    by_hand = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.repeat_interleave(3))
    torch.testing.assert_close(mean, by_hand)
