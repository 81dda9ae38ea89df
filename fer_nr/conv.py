"""`F.conv2d`, faster on a CPU where the image or the result has few channels.

CPU kernels compute 16 output channels at a time. Where there are only 1 or 3 (the last
convolution of a resizer, the gradient of the first one with respect to its grey image), the
others are computed and thrown away. The cure is to make more of them: a block of `s`×`s`
neighbouring pixels is computed as `s`² channels of one pixel, by a convolution of stride `s`
whose kernels are the old one at `s`² offsets in a window that is `s-1` larger. `F.pixel_shuffle`
lays the blocks out. For one channel `s=4` fills the 16 lanes, for three `s=2` uses twelve.
nbs/01_resizer shows that results are equal and what is gained.
"""
import math

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

__all__ = ['conv2d', 'conv2d_to_few', 'shifted_kernels']

LANES = 16  # output channels that a CPU kernel computes together
FEW = 4  # channels up to which blocks of pixels pay


def conv2d(x: torch.Tensor,  # (B, C, H, W)
           weight: torch.Tensor,  # (O, C, k, k)
           bias: torch.Tensor | None,  # (O,)
           padding: int,  # zeros at each side
           ) -> torch.Tensor:  # (B, O, H+2*padding-k+1, W+2*padding-k+1), on a CPU channels-last
    "`F.conv2d(x, weight, bias, padding=padding)`, by blocks of pixels where that is faster"
    if x.device.type != 'cpu' or _watched(x, weight):
        return F.conv2d(x, weight, bias, padding=padding)
    # channels-last weights make the result, and all that follows, channels-last: better on a CPU
    weight = weight.clone(memory_format=torch.channels_last)
    if len(weight) <= FEW:
        return conv2d_to_few(x, weight, bias, padding)
    if x.shape[1] <= FEW and x.requires_grad:
        return _FromFew.apply(x, weight, bias, padding)
    return F.conv2d(x, weight, bias, padding=padding)


def _watched(*tensors) -> bool:
    "Whether a tracer, a compiler, `torch.func` or forward mode records or rewrites the operations"
    return (torch.compiler.is_compiling() or torch.jit.is_tracing()
            or torch._C._are_functorch_transforms_active()
            or any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors))


def shifted_kernels(weight: torch.Tensor,  # (O, C, k, k)
                    block: int,  # side of a block of pixels
                    ) -> torch.Tensor:  # (O*block², C, k+block-1, k+block-1)
    "Each kernel at all `block`×`block` offsets in a larger window"
    shifted = []
    for top in range(block):
        for left in range(block):
            shifted.append(F.pad(weight, (left, block-1-left, top, block-1-top)))
    return torch.stack(shifted, 1).flatten(0, 1)


def conv2d_to_few(x: torch.Tensor,  # (B, C, H, W)
                  weight: torch.Tensor,  # (O, C, k, k) with few O
                  bias: torch.Tensor | None,  # (O,)
                  padding: int,  # zeros at each side
                  ) -> torch.Tensor:  # (B, O, H+2*padding-k+1, W+2*padding-k+1)
    "`F.conv2d` to few channels, by blocks of pixels where the result can be cut into such blocks"
    block = math.isqrt(LANES//len(weight))
    grown = 2*padding - weight.shape[-1] + 1
    if (x.shape[-2]+grown) % block or (x.shape[-1]+grown) % block:
        return F.conv2d(x, weight, bias, padding=padding)
    if bias is not None:
        bias = bias.repeat_interleave(block**2)
    y = F.conv2d(x, shifted_kernels(weight, block), bias, stride=block, padding=padding)
    return F.pixel_shuffle(y, block)


class _FromFew(torch.autograd.Function):
    "`F.conv2d` from few channels; their gradient is a convolution to few, with flipped kernels"
    @staticmethod
    def forward(ctx, x, weight, bias, padding):
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.has_bias = padding, bias is not None
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx, grad):
        # under autocast the gradient is in half precision, and what was saved is not
        x, weight = (saved.to(grad.dtype) for saved in ctx.saved_tensors)
        flipped = weight.transpose(0, 1).flip(2, 3)
        grad_x = conv2d_to_few(grad, flipped, None, weight.shape[-1]-1-ctx.padding)
        _, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, weight, bias_sizes=[len(weight)], stride=[1, 1], padding=[ctx.padding]*2,
            dilation=[1, 1], transposed=False, output_padding=[0, 0], groups=1,
            output_mask=[False, True, ctx.has_bias])
        return grad_x, grad_weight, grad_bias, None
