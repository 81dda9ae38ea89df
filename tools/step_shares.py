"""Where a training step spends its time: `python -m tools.step_shares NAME`

Prints one line of JSON: per cent of the step in each kind of operation, by PyTorch's profiler. In a
process of its own because the profiler talks to stderr.
"""
import argparse
import json
import re

import torch
from torch.profiler import ProfilerActivity, profile

from fer_nr.data import synthetic
from fer_nr.training import throughput
from tools.usual import FACES, OURS, our_learner

KINDS = {'matrix products': r'aten::(mm|addmm|bmm|baddbmm)$|attention',
         'convolutions': 'convolution',
         'copies': r'aten::(copy_|cat|clone|fill_)$',
         'activations': 'gelu|relu|softmax|sigmoid|threshold_backward',
         'normalisation': 'layer_norm|batch_norm',
         'resampling': 'upsample|grid_sampler|pixel_(un)?shuffle',
         'optimiser': 'adamw|Optimizer|lerp|vector_norm'}


def kind(operation):
    "Which of the kinds an operation of the profiler is"
    found = [name for name, pattern in KINDS.items() if re.search(pattern, operation, re.I)]
    return found[0] if found else 'the rest'


def shares(learn, batches):
    "Per cent of the time of `batches` training steps in each kind of operation"
    throughput(learn, 1, warmup=1)  # what happens only once is over then
    cuda = torch.cuda.is_available()
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        throughput(learn, batches, warmup=1)
    timed = 'self_device_time_total' if cuda else 'self_cpu_time_total'
    times = dict.fromkeys([*KINDS, 'the rest'], 0.)
    for event in profiler.key_averages():
        times[kind(event.key)] += getattr(event, timed)
    return {name: 100*time/sum(times.values()) for name, time in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('name', choices=OURS)
    parser.add_argument('--size', type=int, default=112, help='pixels that the backbone sees')
    parser.add_argument('--batches', type=int, default=3)
    arguments = parser.parse_args()
    learn = our_learner(arguments.name, synthetic(FACES), arguments.size)
    print(json.dumps(shares(learn, arguments.batches)))


if __name__ == '__main__':
    main()
