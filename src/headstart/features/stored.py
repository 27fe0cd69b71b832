"""Features that earlier runs stored."""

import json
from typing import Any

from headstart.data.images import decoding
from headstart.data.manifest import Split
from headstart.features.store import Array, FeatureStore, Key

# Parts of a key that are absent where images are read in the usual way.
OPTIONAL = {"readings", "max_pixels", "truncated", "plugins"}


def stored_features(
    store: FeatureStore, splits: dict[str, Split], transform: dict[str, Any]
) -> dict[str, Array] | None:
    """Features of all `splits` with one `transform` and one backbone, stored by earlier runs; None: there are none.

    Only of backbones whose key says that they have features for photographs.
    """
    keys = {name: _keys(store, split, {"transform": transform}) for name, split in splits.items()}
    of_backbone: dict[str, dict[str, Array]] = {}
    for name, found in keys.items():
        for key in found:
            if not key.values["backbone"]["has_photo_features"]:
                continue
            shared = {part: value for part, value in key.values.items() if part not in ("data", "readings")}
            rest = json.dumps(shared, sort_keys=True)
            if (matrix := store.read(key, view=0)) is not None:
                of_backbone.setdefault(rest, {})[name] = splits[name].own(matrix)
    return next((features for features in of_backbone.values() if len(features) == len(splits)), None)


def features_by_content(
    store: FeatureStore, splits: dict[str, Split], transform: dict[str, Any], backbone: dict[str, Any]
) -> dict[str, Array]:
    """The stored features (embedding_dim) of each image, by the SHA-256 of its file."""
    found: dict[str, Array] = {}
    for split in splits.values():
        for key in _keys(store, split, {"transform": transform, "backbone": backbone}):
            if (matrix := store.read(key, view=0)) is not None:
                found |= dict(zip(split.stored.contents, matrix, strict=True))
    return found


def _keys(store: FeatureStore, split: Split, values: dict[str, Any]) -> list[Key]:
    """Those of a split's images, read as they are today and with the settings of this process."""
    found = store.find(values | {"data": split.stored.fingerprint})
    readings = {"readings": list(split.stored.readings)} if split.stored.readings else {}
    optional = readings | decoding()
    return [key for key in found if {part: key.values[part] for part in OPTIONAL & key.values.keys()} == optional]
