"What reads records and makes tables of them, on its way to `results` and `sweep`"
import itertools, json, sys, warnings
from pathlib import Path

import numpy as np, pandas as pd, yaml
from scipy.stats import binom

from .evaluation import holm, wilson
from .locks import wait_for_trainer, is_running
from .registry import unknown as _unknown
from .runs import run, status
from .spec import RunSpec, spec_from

def read_record(path:Path|str # a record's file
               )->dict:
    "A record; raises `ValueError` if the file is damaged or lacks what a record has"
    try: r = json.loads(Path(path).read_text(encoding='utf-8'))
    except ValueError as e: raise ValueError(f'{path} is not JSON ({e}): expected a record') from None
    lacks = [k for k in ('id','spec','data','metrics','predictions','labels') if not isinstance(r, dict) or k not in r]
    if lacks: raise ValueError(f"{path} is not a record: it lacks {', '.join(lacks)}")
    return r

def records(*folders:Path|str # folders with `*.json` records or with run folders; none: results and runs
           )->list[dict]:
    "All records below the folders, each id once; a damaged file is named in a warning and left out"
    found = {}
    for folder in map(Path, folders or ('results','runs')):
        for f in sorted([*folder.glob('*.json'), *folder.glob('*/record.json')]):
            try: r = read_record(f)
            except ValueError as e: warnings.warn(f'left out: {e}'); continue
            found.setdefault(r['id'], r)
    return list(found.values())

def _grid(row):
    "The rows of a row with a `grid` (field -> values), one for each combination: named, and compared, by it"
    if 'grid' not in row: return [row]
    if not isinstance(row['grid'], dict) or not all(isinstance(v, list) and v for v in row['grid'].values()): raise ValueError(f"grid of {row.get('name')!r}: expected a list of values for each field")
    combos = [dict(zip(row['grid'], vs)) for vs in itertools.product(*row['grid'].values())]
    tags = [', '.join(f'{k} {v:g}' if isinstance(v, float) else f'{k} {v}' for k,v in c.items()) for c in combos]
    return [{k:v for k,v in row.items() if k!='grid'}|dict(name=f"{row['name']}, {t}", spec=row.get('spec', {})|c, tag=t) for c,t in zip(combos, tags)]

def _row(row, base, names, change):
    "A row with its `RunSpec` (None: a published number) and the full name of its baseline"
    if not isinstance(row.get('spec', {}), dict): raise ValueError(f"row {row['name']!r}: spec is {row['spec']!r}: expected a mapping of fields")
    if 'spec' not in row and 'paper' not in row: raise KeyError('spec')
    spec = spec_from(base|row['spec']|change) if 'spec' in row else None
    b = row.get('baseline'); b = f"{b}, {row['tag']}" if f"{b}, {row.get('tag')}" in names else b
    if b is not None and b not in names: raise ValueError(f"baseline of row {row['name']!r}: "+_unknown('row', b, names))
    return {k:v for k,v in row.items() if k!='tag'}|dict(spec=spec)|({} if b is None else dict(baseline=b))

def load_table(path:Path|str, # YAML: title, base, rows (name, spec, grid, paper, baseline), notes
               change:dict|None=None # fields to change in every row
              )->dict:
    "A table's definition with a `RunSpec` in each row; raises `ValueError` for what it does not know"
    try: d = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except yaml.YAMLError as e: raise ValueError(f'{path} is not YAML: {str(e).splitlines()[0]}') from None
    if not isinstance(d, dict) or not isinstance(d.get('rows'), list): raise ValueError(f'{path}: expected a mapping with `title`, `base` and a list of `rows`')
    try:
        rows = [o for r in d['rows'] for o in _grid(r)]
        names = [r['name'] for r in rows]
        if twice := {o for o in names if names.count(o)>1}: raise ValueError(f"two rows are named {', '.join(sorted(twice))}: expected a name of its own for each")
        rows = [_row(r, d.get('base', {}), names, change or {}) for r in rows]
    except KeyError as e: raise ValueError(f'{path}: a row lacks {e}: expected `name` and `spec`, or `name` and `paper`') from None
    except (TypeError, ValueError) as e: raise ValueError(f'{path}: {e}') from None
    title = d.get('title', Path(path).stem)+(f" ({', '.join(f'{k}={v}' for k,v in change.items())})" if change else '')
    return d|dict(title=title, rows=rows)

def paired(a:np.ndarray, # (S, n) bool: the baseline is right, of each of S seeds, on n images
           b:np.ndarray  # (S, n) bool: the row is right, same seeds and images
          )->float:      # two-sided p-value
    "Exact sign-flip test of two sets of models on the same images; of one seed McNemar's (McNemar 1947)"
    if a.shape!=b.shape or a.ndim!=2: raise ValueError(f'paired: shapes {a.shape} and {b.shape}: expected right or wrong (S, n) for the same seeds and images')
    d = b.sum(0, dtype=int)-a.sum(0, dtype=int)
    pmf = np.ones(1)                              # of the sum over images, from its least value on in steps of two
    for weight,count in zip(*np.unique(abs(d[d!=0]), return_counts=True)):
        coins = np.zeros(weight*count+1); coins[::weight] = binom.pmf(np.arange(count+1), count, .5)
        pmf = np.convolve(pmf, coins)
    sums = 2*np.arange(len(pmf))-abs(d).sum()
    return float(min(1, pmf[abs(sums)>=abs(d.sum())].sum()))

def _row_key(spec): return json.dumps({k:v for k,v in spec.canonical('name').items() if k!='seed'}, sort_keys=True)

def _correct(r, on='test'): return np.frombuffer(r['predictions'][on].encode(), np.uint8)==np.frombuffer(r['labels'][on].encode(), np.uint8)

def runs_of(definition:dict, # as from `load_table`
            recs:list[dict]  # records
           )->dict:          # name of the row -> seed -> record
    "The records of each row"
    found,keys = {},{} # most records differ in their seed alone
    for r in recs:
        raw = json.dumps({k:v for k,v in r['spec'].items() if k!='seed'}, sort_keys=True)
        try: keys[raw] = keys.get(raw) or _row_key(spec_from(r['spec']))
        except ValueError as e: warnings.warn(f"left out: record {r['id']}: {e}"); continue
        found.setdefault(keys[raw], {})[r['spec']['seed']] = r
    return {row['name']:dict(sorted(found.get(_row_key(row['spec']), {}).items())) if row['spec'] else {} for row in definition['rows']}

def table(definition:dict,        # as from `load_table`
          recs:list[dict]|None=None, # records; None: all of `records()`
          on:str='test'           # evaluation set
         )->pd.DataFrame:
    "The table's rows beside ours: mean and standard deviation over seeds, n, 95 % interval, paired test against the baseline"
    mine,rows = runs_of(definition, records() if recs is None else recs),[]
    for row in definition['rows']:
        right,base = ({s:_correct(r, on) for s,r in mine.get(name, {}).items()} for name in (row['name'], row.get('baseline')))
        acc,both = [100*o.mean() for o in right.values()],sorted(set(right)&set(base))
        n = len(next(iter(right.values()))) if right else None
        lo,hi = wilson(round(np.mean(acc)*n/100), n) if right else (np.nan, np.nan)
        a,b = (np.array([o[s] for s in both]) for o in (base, right))
        rows.append({'row':row['name'], 'paper':row.get('paper', np.nan), 'ours':np.mean(acc) if right else np.nan, 'std':np.std(acc, ddof=1) if len(acc)>1 else np.nan,
            'seeds':len(acc), 'n':n, 'low':100*lo, 'high':100*hi, 'difference':100*(b.mean()-a.mean()) if both else np.nan, 'p':paired(a, b) if both else np.nan})
    d = pd.DataFrame(rows).set_index('row')
    if d.p.notna().any(): d.loc[d.p.notna(), 'p'] = holm(d.p.dropna().tolist())
    return d

def outcome(r:dict # a record
           )->str:
    "A run in a few words"
    m = r['metrics']['test']['top1']
    return f"{100*m['value']:.2f} % of {r['metrics']['test']['n']:,} test images, after {r['seconds']/60:.1f} minutes"

def unpublished(specs:list[RunSpec],        # runs
                runs:Path|str='runs',       # folder of runs
                results:Path|str='results'  # folder of published records
               )->list[RunSpec]:
    "Those that are still to be run, or whose record is still to be published"
    return [s for s in specs if not (Path(results)/f'{s.id}.json').exists()]

def _is_taken(path):
    "Whether another process trains there, and not just one that is ending"
    try: wait_for_trainer(path, 5)
    except RuntimeError: return True
    return is_running(path)

def sweep(specs:list[RunSpec],     # what to run, in this order; what is named twice runs once
          runs:Path|str='runs',    # folder of runs
          results:Path|str='results', # folder of published records
          data_path=None,          # folder of the data set
          start=None,              # asked before each run: spec -> whether to start it; None: always
          **kwargs                 # for `run`
         )->dict[str,str]:         # id -> status afterwards
    "Run what is missing, one after the other; a run that fails is named and the others go on"
    specs = {s.id:s for s in specs}
    todo = unpublished(specs.values(), runs, results)
    for n,s in enumerate(todo, 1):
        if _is_taken(Path(runs)/s.id) or start and not start(s): continue
        name = f'run {n}/{len(todo)}, '
        try: print(f'{name}{s.id}: {outcome(run(s, runs, results, data_path, **dict(show=name)|kwargs))}', file=sys.stderr, flush=True)
        except (RuntimeError, ValueError, OSError) as e: print(f'fer_nr: {e}', file=sys.stderr, flush=True)
    return {i:status(s, runs, results) for i,s in specs.items()}
