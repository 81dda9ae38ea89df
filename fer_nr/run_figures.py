"""Pictures of runs: each is a function that takes records and gives a figure
"""
import numpy as np
import pandas as pd
import torch

from .evaluation import decode_classes, mcnemar, plot_confusion, plot_recall, reliability
from .figures import Picture, faces_figure, legend_below, new_picture, page_slice
from .text import figure_text, one_line

__all__ = ['runs_table', 'run_names', 'answers', 'curves_figure', 'confusion_figure',
           'recall_figure', 'reliability_figure', 'differing', 'pair_figure', 'differing_figure']


def run_row(record: dict, on: str) -> dict:
    "A row of `runs_table`; what the record lacks is left out"
    spec = record['spec']
    resizer = [spec['up'], 'STN' if spec['stn'] else 'none', spec['down']]
    row = dict(
        id=record['id'],
        data=record['data']['name'],
        backbone=spec['arch'].split('_patch')[0],
        px=spec['img_size'],
        resizer=' + '.join(part for part in resizer if part != 'none'),
        loss=spec['loss'],
        epochs=spec['epochs'],
        seed=spec['seed'],
        hours=record['seconds'] / 3600)
    metrics = record['metrics'].get(on)
    if metrics:
        row |= dict(
            n=metrics['n'],
            top1=100 * metrics['top1']['value'],
            low=100 * metrics['top1']['low'],
            high=100 * metrics['top1']['high'],
            mean_class=100 * metrics['mean_class_accuracy']['value'],
            macro_f1=100 * metrics['macro_f1']['value'],
            ece=metrics['ece'])
    return row


def runs_table(
    recs,  # records, as from `records`
    sort: str = 'top1',  # a column
    ascending: bool = False,
    on: str = 'test',  # evaluation set
) -> pd.DataFrame:  # a row per run; accuracies in percent
    "The record store, sorted; raises `ValueError` for a column that it lacks"
    table = pd.DataFrame([run_row(record, on) for record in recs])
    if table.empty:
        return table
    if sort not in table:
        raise ValueError(f"no column {sort!r}: expected one of {', '.join(table)}")
    return table.sort_values(sort, ascending=ascending, ignore_index=True)


def field_text(field: str, value) -> str:
    "What a field of a spec adds to the name of a run"
    return value.split('_patch')[0] if isinstance(value, str) else f'{field} {value}'


def run_names(
    recs,  # records
) -> list[str]:
    "Short names of runs: what differs between their specs, or the id where nothing does"
    if not recs:
        return []
    specs = [record.get('canonical', record['spec']) for record in recs]
    told = [field for field in recs[0]['spec'] if field not in ('arch_args', 'up_size', 'prior')]
    differ = [field for field in told if len({repr(spec.get(field)) for spec in specs}) > 1]
    names = []
    for spec in specs:
        set_fields = [field for field in differ if spec.get(field, 'none') != 'none']
        names.append(', '.join(field_text(field, spec[field]) for field in set_fields))
    telling = len(set(names)) == len(recs) and all(names)
    return names if telling else [record['id'] for record in recs]


def metrics_on(record: dict, on: str) -> dict:
    "Metrics of a record on one evaluation set; raises `ValueError` if it has none"
    found = [name for name, metrics in record['metrics'].items() if 'confusion' in metrics]
    if on not in found:
        raise ValueError(f"{record['id']} was not evaluated on {on!r}: "
                         f"expected one of {', '.join(found)}")
    return record['metrics'][on]


def answers(
    record: dict,  # a record
    on: str = 'test',  # evaluation set
) -> tuple:  # labels and predictions, int (N,)
    "What a run said about each image; raises `ValueError` if it was not evaluated there"
    metrics_on(record, on)
    return decode_classes(record['labels'][on]), decode_classes(record['predictions'][on])


def drawn_names(recs, longest: int = 70) -> list[str]:
    "`run_names` for a figure"
    return [figure_text(name, longest) for name in run_names(recs)]


def curves_figure(
    recs,  # records
) -> Picture:
    "Learning curves: loss (training dotted, validation solid) and validation accuracy by epoch"
    picture, ((losses, accuracy),) = new_picture(7, 2.6, columns=2)
    for i, (record, name) in enumerate(zip(recs, drawn_names(recs))):
        history = pd.DataFrame(record['history']).set_index('epoch')
        style = dict(color=f'C{i}', marker='.')
        losses.plot(history.train_loss, ls=':', **style)
        losses.plot(history.valid_loss.astype(float), label=name, **style)
        if 'top1' in history:
            accuracy.plot(100 * history.top1.astype(float), **style)
    losses.set_title('loss: training dotted, validation solid', fontsize=9)
    accuracy.set_title('validation accuracy, %', fontsize=9)
    for axes in (losses, accuracy):
        axes.set_xlabel('epoch', fontsize=8)
        axes.tick_params(labelsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
    if recs:
        legend_below(picture, losses, len(recs))
    return picture


def confusion_figure(
    recs,  # one or two records
    on: str = 'test',  # evaluation set
    rates: bool = False,  # whole percent of the label's images instead of counts
) -> Picture:
    "Confusion matrices side by side; raises `ValueError` for more than two"
    if not 1 <= len(recs) <= 2:
        raise ValueError(f'{len(recs)} runs: expected one or two, '
                         'as more confusion matrices are not readable')
    metrics = [metrics_on(record, on) for record in recs]
    picture, axes = new_picture(3.7 * len(recs) + .3, 3.7, columns=len(recs))
    for panel, measured, name in zip(axes[0], metrics, drawn_names(recs)):
        vocab = [figure_text(label, 20) for label in measured['vocab']]
        plot_confusion(measured['confusion'], vocab, panel, rates)
        unit = '% of the label' if rates else 'images'
        panel.set_title(f'{name}\n{unit}, {on}', fontsize=8)
        panel.tick_params(labelsize=7)
        for text in (*panel.texts, panel.xaxis.label, panel.yaxis.label):
            text.set_fontsize(7)
    return picture


def recall_figure(
    recs,  # records
    on: str = 'test',  # evaluation set
) -> Picture:
    "Recall of each class with its 95 % Wilson interval, and how many images that is of"
    picture, ((axes,),) = new_picture(7, 3)
    named = zip(run_names(recs), recs)
    plot_recall({name: metrics_on(record, on)['recall'] for name, record in named}, axes)
    axes.set_title(f'recall on {on}; below a class the number of its images', fontsize=9)
    axes.grid(axis='y', lw=.3)
    legend_below(picture, axes, len(recs))
    return picture


def reliability_figure(
    recs,  # up to three records
    logits: dict,  # id -> split -> (N, K), what is at hand of them
    on: str = 'test',  # evaluation set
) -> Picture:
    "Reliability diagrams side by side; raises `ValueError` for more than three"
    if not 1 <= len(recs) <= 3:
        raise ValueError(f'{len(recs)} runs: expected one to three reliability diagrams')
    metrics = [metrics_on(record, on) for record in recs]
    picture, axes = new_picture(2.2 * len(recs) + .6, 2.7, columns=len(recs))
    for panel, record, name, measured in zip(axes[0], recs, drawn_names(recs, 40), metrics):
        kept = logits.get(record['id'], {}).get(on)
        if kept is None:
            missing = (f"ECE {measured['ece']:.3f}\n\n"
                       'no diagram: its logits\nare not in the folder of runs')
            panel.text(.5, .5, missing, ha='center', va='center', fontsize=7)
            panel.axis('off')
        else:
            reliability(kept, torch.from_numpy(answers(record, on)[0]), ax=panel)
        panel.set_title(f'{name}\n{panel.get_title()}', fontsize=7)
        panel.tick_params(labelsize=7)
    return picture


def differing(
    a,  # a record
    b,  # a record on the same images
    on: str = 'test',  # evaluation set
    faces=None,  # the `FaceSet` of it, for its names; None: not at hand
) -> pd.DataFrame:  # row, name, label, what each predicts, who is right
    "The images on which two runs differ; raises `ValueError` for runs on different images"
    labels, first = answers(a, on)
    labels_b, second = answers(b, on)
    if labels.tolist() != labels_b.tolist():
        raise ValueError(f"{a['id']} and {b['id']} were evaluated on different images: "
                         'a paired test needs the same ones')
    rows = np.flatnonzero(first != second)
    labels, first, second = labels[rows], first[rows], second[rows]
    vocab = np.array(a['data']['vocab'])
    names = '' if faces is None else [faces.names[row] for row in rows]
    right = np.select([first == labels, second == labels], ['first', 'second'], 'neither')
    return pd.DataFrame(dict(row=rows, name=names, label=vocab[labels], first=vocab[first],
                             second=vocab[second], right=right))


def pair_figure(
    a,  # a record
    b,  # a record on the same images
    on: str = 'test',  # evaluation set
) -> Picture:
    "Paired test of two runs: images that both, one alone, or neither gets right"
    other_answers = len(differing(a, b, on))
    labels, first = answers(a, on)
    first, second = labels == first, labels == answers(b, on)[1]
    test = mcnemar(first, second)
    counts = {'both right': (first & second).sum(), 'only the first': test['only_a'],
              'only the second': test['only_b'], 'both wrong': (~first & ~second).sum()}
    picture, ((axes,),) = new_picture(7, 2)
    bars = axes.barh(list(counts), list(counts.values()), color=['.8', 'C0', 'C1', '.5'])
    shares = [f'{count:,} ({count / len(labels):.1%})' for count in counts.values()]
    axes.bar_label(bars, shares, fontsize=8, padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(counts.values()))
    axes.tick_params(labelsize=8)
    axes.spines[['top', 'right']].set_visible(False)
    name_a, name_b = drawn_names([a, b])
    points = 100 * (second.mean() - first.mean())
    lines = [f'first: {name_a} ({first.mean():.2%})', f'second: {name_b} ({second.mean():.2%})',
             f"difference {points:+.2f} points, McNemar p = {test['p']:.2g}, n = {len(labels):,}; "
             f'different answers on {other_answers:,} images']
    axes.set_title('\n'.join(lines), fontsize=8, loc='left')
    return picture


def differing_figure(
    a,  # a record
    b,  # a record on the same images
    on: str = 'test',  # evaluation set
    faces=None,  # the `FaceSet` of it, or None
    page: int = 1,  # from 1
    per_page: int = 20,
) -> Picture:
    "The faces on which two runs differ, titled first → second; their rows without the faces"
    table = differing(a, b, on, faces)
    order = table.right.map({'first': 0, 'second': 1, 'neither': 2})
    table = table.iloc[order.argsort(kind='stable')]
    if faces is not None:
        pairs = zip(table['first'], table['second'])
        notes = [f'{first[:9]} → {second[:9]}' for first, second in pairs]
        return faces_figure(faces, table.row.to_numpy(), page, per_page, notes=notes)
    here = table.drop(columns='name').iloc[page_slice(len(table), page, per_page)]
    rows = here.map(lambda value: one_line(value, 20)).to_string(index=False)
    head = f'{len(table):,} images; the faces are not at hand, these are their rows in {on}'
    picture = Picture(figsize=(7, 4))
    style = dict(family='monospace', fontsize=7, va='top', parse_math=False)
    picture.text(.02, .97, f'{head}\n\n{rows}', **style)
    return picture
