"""Unlabelled images wherever they lie: files, folders, shards, buckets."""

from keras_mixer.data.collections.listing import Collection
from keras_mixer.data.collections.records import IMAGE_SUFFIXES, Record
from keras_mixer.data.collections.storage import read as read_file

__all__ = ["IMAGE_SUFFIXES", "Collection", "Record", "read_file"]
