"""Figures, attention and the lab under the names that they had in one module

New code imports them from where they are.
"""
from .attention import (attention_figure, attention_maps, attention_views, class_attention,
                        grad_cam, rollout)
from .figures import (ORDERS, disagreement, faces_figure, find_faces, four_losses, loss_figure,
                      loss_lines, minimiser, resizing_figure, resizing_views, spectrum)
from .lab import (Explorer, explore_attention, explore_faces, explore_loss, explore_resizer,
                  explore_runs, run_folders, run_logits, run_model)
from .lab import own_face as read_picture
from .run_figures import (confusion_figure, curves_figure, differing, differing_figure,
                          pair_figure, recall_figure, reliability_figure, run_names, runs_table)

__all__ = ['ORDERS', 'disagreement', 'find_faces', 'faces_figure', 'run_folders', 'run_logits',
           'run_model', 'spectrum', 'resizing_views', 'resizing_figure', 'read_picture',
           'minimiser', 'loss_lines', 'four_losses', 'loss_figure', 'runs_table', 'run_names',
           'curves_figure', 'confusion_figure', 'recall_figure', 'reliability_figure', 'differing',
           'pair_figure', 'differing_figure', 'attention_maps', 'rollout', 'class_attention',
           'grad_cam', 'attention_views', 'attention_figure', 'Explorer', 'explore_faces',
           'explore_resizer', 'explore_loss', 'explore_runs', 'explore_attention']
