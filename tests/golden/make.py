"""Makes the golden caches of format version 1 in this folder: python tests/golden/make.py

They were made once, and are never made again for that version: whatever changes, they must open, and read as the .json
beside them says.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from cache_builder import build, metadata, sizes  # noqa: E402

from cache_schema import convert_cache, open_cache  # noqa: E402

LAYOUTS = {
    "v1": sizes(keep="heads"),
    "v1-detached": sizes(keep="layers", task="multi_label", with_features=False),
}

if __name__ == "__main__":
    for name, layout in LAYOUTS.items():
        given = {**metadata(layout), "software": {"numpy": "2.4.6", "zarr": "3.1.6"}}
        path, _ = build(HERE / f"{name}.zarr", layout, given)
        for suffix in (".h5", ".zip"):
            convert_cache(path, HERE / f"{name}{suffix}")
        cache = open_cache(path)
        content = {array: cache.read(array).tolist() for array in cache.specs}
        (HERE / f"{name}.json").write_text(json.dumps({"metadata": cache.metadata, "content": content}) + "\n")
