"""Labelling on many machines, by Ray: its actors, its restarts, its data sets.

A replica is an actor that has loaded the model once. It labels slices of a collection,
each by itself, as a single machine would: what a slice gives is a function of the model
and the images, and Ray may ask for it as often as it needs to.
"""

from keras_mixer.serving.cluster.connection import connect
from keras_mixer.serving.cluster.label import label_slices, predict_dataset

__all__ = ["connect", "label_slices", "predict_dataset"]
