"""Run the benchmarks of this machine and print their tables: `python -m tools.bench`
"""
import os
import sys
from pathlib import Path

import papermill

# glibc would give memory back to the system after each batch and ask for it again
KEEP_MEMORY = dict(MALLOC_MMAP_MAX_='0', MALLOC_TRIM_THRESHOLD_='10000000000')


def main():
    "Execute benchmarks.ipynb and print what its cells show"
    os.environ.update(KEEP_MEMORY)  # read by the kernel when it starts
    Path('runs').mkdir(exist_ok=True)
    executed = 'runs/benchmarks.ipynb'
    parameters = dict(pair.split('=', 1) for pair in sys.argv[1:])
    notebook = papermill.execute_notebook(
        'nbs/experiments/benchmarks.ipynb', executed, parameters, cwd='nbs/experiments',
        kernel_name='python3', progress_bar=False)
    for cell in notebook.cells:
        for output in cell.get('outputs', []):
            if 'data' in output:
                print(output['data']['text/plain'], end='\n\n')
    print('notebook:', executed)


if __name__ == '__main__':
    main()
