"""Every public name of the experiment layer, in the place where it has always been"""
from .locks import claim, is_running
from .progress import progress, progress_line
from .results import outcome, paired, read_record, records, runs_of, summary, table
from .runs import (build_learner, build_loss, build_model, environment, fer_nr_run, find_notebook,
                   load_faces, make_record, run, status)
from .spec import RunSpec, file_hash, read_params, spec_from, weight_file
from .sweep import sweep, unpublished
from .tables import load_table

__all__ = [
    'RunSpec', 'spec_from', 'file_hash', 'weight_file', 'load_faces', 'build_loss', 'build_model',
    'build_learner', 'environment', 'make_record', 'claim', 'is_running', 'read_record', 'status',
    'progress', 'progress_line', 'find_notebook', 'run', 'records', 'load_table', 'paired',
    'runs_of', 'table', 'read_params', 'summary', 'fer_nr_run', 'outcome', 'unpublished', 'sweep']
