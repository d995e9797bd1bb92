"""Data sets: castssl's own, and the names that a plugin imports to add another, see :class:`DataSet`."""

from castssl.contracts import DataSet, LabelMaps, Listing, Source
from castssl.datasets.file_names import is_image
from castssl.datasets.folder import Files, classes_of, look_through, same_depth
from castssl.datasets.label_maps import class_table
from castssl.datasets.many_labels import many_labels, multi_hot
from castssl.datasets.split_folders import find_split
from castssl.datasets.text import read_text
from castssl.errors import DataError, NoSplit
from castssl.feed import Feed, Item, Turn, Unreadable
from castssl.labels import LabelTree

__all__ = [
    "DataError",
    "DataSet",
    "Feed",
    "Files",
    "Item",
    "LabelMaps",
    "LabelTree",
    "Listing",
    "NoSplit",
    "Source",
    "Turn",
    "Unreadable",
    "class_table",
    "classes_of",
    "find_split",
    "is_image",
    "look_through",
    "many_labels",
    "multi_hot",
    "read_text",
    "same_depth",
]
