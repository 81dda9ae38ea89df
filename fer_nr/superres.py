"""Super-resolution networks from their weight files: RFDN, and any other that `spandrel` knows.
"""
import math
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from fer_nr.files import read_weights

__all__ = ['RFDN', 'SpatialAttention', 'DistillationBlock', 'read_weights', 'read_network',
           'network_of', 'rfdn_network', 'spandrel_network']


class SpatialAttention(nn.Module):
    "Enhanced spatial attention (RFDN, Liu et al. 2020, section 3.4)"
    def __init__(self, features:int):
        super().__init__()
        few = features//4
        self.conv1 = nn.Conv2d(features, few, 1)
        self.conv_f = nn.Conv2d(few, few, 1)
        self.conv4 = nn.Conv2d(few, features, 1)
        self.conv2 = nn.Conv2d(few, few, 3, stride=2)
        self.conv_max = nn.Conv2d(few, few, 3, padding=1)
        self.conv3 = nn.Conv2d(few, few, 3, padding=1)
        self.conv3_ = nn.Conv2d(few, few, 3, padding=1)

    def forward(self, x):
        c = self.conv1(x)                            # (B, features/4, H, W)
        m = F.max_pool2d(self.conv2(c), 7, stride=3) # about H/6, W/6
        m = F.relu(self.conv_max(m))
        m = self.conv3_(F.relu(self.conv3(m)))
        m = F.interpolate(m, x.shape[-2:], mode='bilinear', align_corners=False)
        return x*torch.sigmoid(self.conv4(m + self.conv_f(c)))


class DistillationBlock(nn.Module):
    "Residual feature distillation block (RFDN, Liu et al. 2020, section 3.3)"
    def __init__(self, features:int):
        super().__init__()
        kept = features//2
        self.c1_d = nn.Conv2d(features, kept, 1)
        self.c2_d = nn.Conv2d(features, kept, 1)
        self.c3_d = nn.Conv2d(features, kept, 1)
        self.c1_r = nn.Conv2d(features, features, 3, padding=1)
        self.c2_r = nn.Conv2d(features, features, 3, padding=1)
        self.c3_r = nn.Conv2d(features, features, 3, padding=1)
        self.c4 = nn.Conv2d(features, kept, 3, padding=1)
        self.c5 = nn.Conv2d(4*kept, features, 1)
        self.esa = SpatialAttention(features)

    def forward(self, x):
        distilled = []
        steps = (self.c1_d, self.c1_r), (self.c2_d, self.c2_r), (self.c3_d, self.c3_r)
        for distil,refine in steps:
            distilled.append(F.leaky_relu(distil(x), .05)) # (B, features/2, H, W)
            x = F.leaky_relu(refine(x) + x, .05)           # (B, features, H, W)
        distilled.append(F.leaky_relu(self.c4(x), .05))
        return self.esa(self.c5(torch.cat(distilled, 1)))


class RFDN(nn.Module):
    "Residual feature distillation network (Liu et al. 2020), named as its weights, for 0..255"
    def __init__(self,
                 nf:int=50,     # features
                 scale:int=4,   # factor
                 in_chans:int=3 # of image and result
                ):
        super().__init__()
        self.fea_conv = nn.Conv2d(in_chans, nf, 3, padding=1)
        self.B1 = DistillationBlock(nf)
        self.B2 = DistillationBlock(nf)
        self.B3 = DistillationBlock(nf)
        self.B4 = DistillationBlock(nf)
        self.c = nn.Sequential(nn.Conv2d(4*nf, nf, 1), nn.LeakyReLU(.05))
        self.LR_conv = nn.Conv2d(nf, nf, 3, padding=1)
        last = nn.Conv2d(nf, in_chans*scale**2, 3, padding=1)
        self.upsampler = nn.Sequential(last, nn.PixelShuffle(scale))

    def forward(self, x:torch.Tensor # (B, in_chans, H, W), sides >= 15
               )->torch.Tensor: # (B, in_chans, scale*H, scale*W)
        if min(x.shape[-2:])<15:
            raise ValueError(f'RFDN takes images of at least 15 px, found {tuple(x.shape[-2:])}')
        first = z = self.fea_conv(x)
        outputs = []
        for block in (self.B1, self.B2, self.B3, self.B4):
            z = block(z)
            outputs.append(z)
        return self.upsampler(self.LR_conv(self.c(torch.cat(outputs, 1))) + first)


def rfdn_network(tensors:dict # of `RFDN`
                )->dict:      # arguments of `FrozenUpscale`
    "The `RFDN` that the shapes of its tensors describe"
    nf,channels = tensors['fea_conv.weight'].shape[:2]
    scale = math.isqrt(len(tensors['upsampler.0.bias'])//channels)
    net = RFDN(nf, scale, channels)
    net.load_state_dict(tensors)
    return dict(net=net, scale=scale, white=255., in_chans=channels)


def spandrel_network(tensors:dict # of a network for single images
                    )->dict:      # arguments of `FrozenUpscale`
    "The network that `spandrel` recognises; raises `ValueError` for none, or for another purpose"
    import spandrel
    try:
        tensors = spandrel.canonicalize_state_dict(tensors)
        model = spandrel.ModelLoader().load_from_state_dict(tensors)
    except spandrel.UnsupportedModelError:
        raise ValueError(f'it begins with {next(iter(tensors), "nothing")!r}') from None
    if model.purpose not in ('SR', 'Restoration'):
        found = f'{model.architecture.name} is for {model.purpose}'
        raise ValueError(f'{found}, expected super-resolution of single images')
    return dict(net=model.model, scale=model.scale, in_chans=model.input_channels,
                multiple_of=model.size_requirements.multiple_of)


def read_network(path:Path|str # .safetensors or .pth
                )->dict:       # arguments of `FrozenUpscale`
    "A network from its file; raises `FileNotFoundError` or `ValueError` in one line"
    return network_of(read_weights(path), path)


def network_of(tensors:dict, # name -> tensor
               source        # where they are from, for the error
              )->dict:       # arguments of `FrozenUpscale`
    "The network that fits its weights; raises `ValueError` in one line if none does"
    known,network = 'RFDN or any network that spandrel knows',spandrel_network
    if 'B1.c1_d.weight' in tensors:
        known,network = 'RFDN',rfdn_network
    try:
        return network(tensors)
    except ImportError:
        raise
    except Exception as error:
        reason = ' '.join(str(error).split())[:160]
        if isinstance(error, KeyError):
            reason = f'no tensor {error}'
        raise ValueError(f'{source} does not fit {known}: {reason}') from error
