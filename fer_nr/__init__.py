"Facial expressions from small faces: a Neural Resizer in front of a vision transformer"
__version__ = "0.1.0"

import sys
import warnings

# fastai's, whenever it is imported
warnings.filterwarnings('ignore', '`torch.jit.script` is deprecated', FutureWarning)


def _stopped_while_loading(kind, error, traceback):
    "Ctrl-C before a command has begun: one line"
    if issubclass(kind, KeyboardInterrupt):
        print('fer_nr: stopped', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


if '/fer_nr_' in sys.argv[0]:
    sys.excepthook = _stopped_while_loading
