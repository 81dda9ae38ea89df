"""Faces, votes, labels, splits and loaders in one import.

The public names of `faces`, `datasets`, `splits` and `loader`: notebooks 00, 00b, 00c and 00d.
"""
from .datasets import (AFFECTNET, FER2013, RAFDB, affectnet, fer2013, ferplus, image_folder, load,
                       rafdb, synthetic)
from .faces import (FERPLUS, VOTES, Faces, FaceSet, fleiss_kappa, majority, show_faces,
                    vote_entropy)
from .loader import FaceDL, face_dls
from .splits import audit, duplicates, protocol

__all__ = ['FERPLUS', 'VOTES', 'FER2013', 'RAFDB', 'AFFECTNET', 'majority', 'vote_entropy',
           'fleiss_kappa', 'show_faces', 'FaceSet', 'Faces', 'load', 'ferplus', 'fer2013', 'rafdb',
           'affectnet', 'image_folder', 'synthetic', 'protocol', 'duplicates', 'audit', 'FaceDL',
           'face_dls']
