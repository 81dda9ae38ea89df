"""Put a trained run into the package: float16 weights, classes, temperature, numbers in one file.

    python tools/ship_model.py runs/ID [--record results/ID.json] [--data fer2013]

The file itself is measured: the temperature of its votes on the validation faces, its metrics on
the test faces. Afterwards the notebooks that show it, the model card among them, are run again.
"""
import argparse
import os
import subprocess
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient

from fer_nr.backbone import fer_model, load_model, save_weights
from fer_nr.data import ferplus
from fer_nr.evaluation import ece, evaluate, predict, temperature
from fer_nr.files import cores, load_tensors, read_json, read_metadata
from fer_nr.resizer import NeuralResizer

ROOT = Path(__file__).parents[1]
TARGET = ROOT/'fer_nr'/'models'/'fer_nr_vit_tiny.safetensors'
NOTEBOOKS = ('08_photographs', '08_recognize', '08a_card', 'howto/08_photographs', 'howto/09_onnx',
             'experiments/peers')
LIMIT = 12_000_000  # bytes


def read_model(weights, record):
    "The model of a run: a file of `save_weights`, or bare tensors together with the run's record"
    if read_metadata(weights, 'fer_nr') is not None:
        return load_model(weights)
    tensors, _ = load_tensors(weights)
    spec = record['spec'] if record else {}
    patches = tensors['trunk.pos_embed'].shape[1] - 1
    size = spec.get('img_size', 16*round(patches**.5))
    down = spec.get('down', 'none')
    resizer = NeuralResizer(spec.get('up', 'bilinear'), stn=spec.get('stn', False), down=down,
                            up_size=size if down == 'none' else spec['up_size'], size=size,
                            in_size=48, in_chans=1)
    classes = len(tensors['head.weight' if 'head.weight' in tensors else 'head.4.weight'])
    model = fer_model(spec.get('arch', 'vit_tiny_patch16_224'), resizer, classes,
                      head=spec.get('head', 'mlp'), **spec.get('arch_args', {}))
    missing, left = model.load_state_dict(tensors, strict=False)
    if missing or left:
        raise ValueError(f'{weights} does not fit its record: missing {missing}, left over {left}')
    return model


def rounded(model):
    "The model with weights that float16 can hold: what is measured is what is shipped"
    return model.half().float().eval()


def share_error(shares, votes):
    "What the share of the answer is worth: beside the annotators' who gave it, both (N, K)"
    answers = shares.argmax(1, keepdim=True)
    return dict(answer_share=float(shares.gather(1, answers).mean()),
                answer_votes=float(votes.gather(1, answers).mean()),
                share_error=ece(shares, votes))


def measure(model, faces, record):
    "What is written beside the weights"
    valid = predict(model, faces.valid)
    test = predict(model, faces.test)
    warmth = temperature(valid, faces.valid.votes)
    metrics = {}
    for name, logits, split in (('valid', valid, faces.valid), ('test', test, faces.test)):
        metrics[name] = evaluate(logits/warmth, split.labels, split.votes, split.vocab)
        metrics[name] |= share_error((logits/warmth).softmax(1), split.vote_dist())
    keep = ('id', 'spec', 'commit', 'device', 'seconds')
    about = {key: record[key] for key in keep if key in record}
    return dict(vocab=list(faces.vocab), temperature=warmth, grey=True, run=about, metrics=metrics,
                train=len(faces.train), parameters=sum(p.numel() for p in model.parameters()))


def run_notebook(path):
    "Execute a notebook in place and clean it"
    notebook = nbformat.read(path, 4)
    client = NotebookClient(notebook, timeout=1800, kernel_name='python3',
                            resources={'metadata': {'path': str(path.parent)}})
    client.execute()
    nbformat.write(notebook, path)
    subprocess.run(['nbdev_clean', '--fname', str(path)], check=True)


def ship(run, record=None, data='fer2013', target=TARGET):
    "Write the package's model file from a run's folder; gives what was written beside the weights"
    run = Path(run)
    record_file = Path(record or run/'record.json')
    record = read_json(record_file, 'a record') if record_file.is_file() else {}
    model = rounded(read_model(run/'best.safetensors', record))
    about = measure(model, ferplus(data), record)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_weights(model.half(), target, about)
    size = target.stat().st_size
    if size > LIMIT:
        target.unlink()
        raise ValueError(f'{size:,} bytes: the package takes at most {LIMIT:,}')
    return about


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('run', help="a run's folder, with best.safetensors")
    parser.add_argument('--record', help='its record; without it the one in the folder, if any')
    parser.add_argument('--data', default=os.environ.get('FER_NR_DATA', 'fer2013'), help='FERPlus')
    parser.add_argument('--no-notebooks', action='store_true', help='leave the notebooks alone')
    arguments = parser.parse_args()
    torch.set_num_threads(cores())
    about = ship(arguments.run, arguments.record, arguments.data)
    test = about['metrics']['test']
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")
    print(f"{test['correct']} of {test['n']} test faces right")
    if not arguments.no_notebooks:
        for name in NOTEBOOKS:
            path = ROOT/'nbs'/f'{name}.ipynb'
            if path.is_file():
                run_notebook(path)
                print(f'ran {path.relative_to(ROOT)}')


if __name__ == '__main__':
    main()
