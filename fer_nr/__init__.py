"Facial expression recognition from small faces: a Neural Resizer in front of pretrained vision transformers, trained with F-PDLS"
__version__ = "0.1.0"

import warnings
warnings.filterwarnings('ignore', '`torch.jit.script` is deprecated', FutureWarning) # of fastai's, whenever it is imported
