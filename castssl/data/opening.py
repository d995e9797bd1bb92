"""How each kind of data that can be opened by index is listed: :data:`OPENERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from castssl.data import archives, folders
from castssl.data.aircraft import open_aircraft
from castssl.data.breeds import open_breeds
from castssl.data.cub import open_cub
from castssl.data.hub import Hub
from castssl.data.inat import open_inat
from castssl.data.label_table import open_table
from castssl.data.listing import Listing, Source, listing
from castssl.errors import DataError
from castssl.types import LabelTree


def open_demo(options: str, split: str) -> Listing:
    """The embedded demo data set; ``options`` as in ``size=96,per_class=300``."""
    from castssl.data import demo

    try:
        given = {
            key: int(value) for key, _, value in (pair.partition("=") for pair in options.split(",") if pair)
        }
        root = demo.root(**given)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"cannot make the demo data of {options!r}: {error}; expected demo, or something like"
            " demo:size=96,per_class=300,seed=0"
        ) from error
    return open_folder(str(root), split)


def open_folder(path: str, split: str) -> Listing:
    """Class folders; unlabelled, with a warning, if the images lie at different depths."""
    at = folders.find_split(Path(path).expanduser(), split)
    files, left_out = folders.look_through(at.folder)
    paths = folders.same_depth([tuple(name.split("/")[:-1]) for name in files])
    found = _spelt(folders.Files(at.folder, files), paths, folders.classes_of(at, paths))
    return found._replace(masks=at.masks, left_out=left_out)


def open_tree(path: str, split: str) -> Listing:
    """Class folders that must spell a tree, or a table of labels (``.csv``)."""
    place = Path(path).expanduser()
    if place.suffix.lower() == ".csv" and not place.is_dir():
        if not place.is_file():
            raise DataError(f"there is no table {place}; check the path after tree:")
        return open_table(place, split)
    at = folders.find_split(place, split)
    files, left_out = folders.look_through(at.folder)
    by_depth = {name.count("/"): name for name in files}
    if len(by_depth) > 1 or 0 in by_depth:
        examples = " and ".join(by_depth[depth] for depth in sorted(by_depth))
        raise DataError(
            f"the images in {at.folder} do not lie equally deep in class folders: {examples}; put each into"
            " as many folders as there are label levels, or give a table as tree:labels.csv"
        )
    paths = [tuple(name.split("/")[:-1]) for name in files]
    found = _spelt(folders.Files(at.folder, files), paths, folders.classes_of(at, paths))
    return found._replace(masks=at.masks, left_out=left_out)


def open_tar(path: str, split: str) -> Listing:
    """Class folders inside tar files; the classes are those of the train split."""
    place = Path(path).expanduser()
    source, members = archives.open_tar(place, split)
    paths = folders.same_depth(members)
    classes = set(paths)
    if folders.split_name(split) != "train":
        try:
            _, trained = archives.open_tar(place, "train")
        except folders.NoSplit:
            pass  # This split alone is there, and has the classes that it shows.
        else:
            called = f"the {split} split of {place}"
            classes = folders.known_classes(classes, set(folders.same_depth(trained)), called, "train")
    return _spelt(source, paths, classes)._replace(left_out=source.left_out)


def open_hub(name: str, split: str) -> Listing:
    """A data set of the Hugging Face Hub, by ``datasets``."""
    source = Hub(name, split)
    tree = LabelTree.flat(source.classes) if source.classes else LabelTree.none()
    return listing(source, source.targets.view(-1, 1)[:, : tree.levels], tree)


def _spelt(source: Source, paths: list[folders.ClassPath], classes: set[folders.ClassPath]) -> Listing:
    tree = LabelTree.from_paths(classes)
    return listing(source, tree.number(paths), tree)


OPENERS: Mapping[str, Callable[[str, str], Listing]] = {
    "demo": open_demo,
    "folder": open_folder,
    "tar": open_tar,
    "hfds": open_hub,
    "breeds": open_breeds,
    "cub": open_cub,
    "aircraft": open_aircraft,
    "inat21-mini": open_inat,
    "tree": open_tree,
}
"""Kind of data spec -> what lists a split of it, given the rest of the spec."""
