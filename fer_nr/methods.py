"""A method is what a run trains: the plain backbone, or a published method around one."""
from torch import nn

from .backbone import fer_model
from .registry import part

__all__ = ['Method']


@part('method', 'plain')
class Method:
    """The backbone as it is, and the base of the methods that do more.

    The arguments of a method's constructor are the `method_args` of a run.
    """

    def build(self, arch: str, resizer: nn.Module, n_classes: int, **kwargs) -> nn.Module:
        "The model, with the arguments of `fer_model`"
        return fer_model(arch, resizer, n_classes, **kwargs)

    def wrap_loss(self, loss: nn.Module) -> nn.Module:
        "The loss that is trained with, given the run's own"
        return loss

    def callbacks(self, epochs: int) -> list:
        "fastai callbacks for a training of so many epochs"
        return []
