"""Writes a safetensors file with numpy alone, for the scripts that make golden files."""
import json
import struct

import numpy as np

KINDS = {"float32": "F32", "int32": "I32"}


def save(path, tensors, notes):
    """tensors: name -> array, stored as float32, or int32 where it holds integers. notes: str -> str."""
    arrays = {}
    for name, value in tensors.items():
        kind = "<i4" if np.asarray(value).dtype.kind in "iu" else "<f4"
        arrays[name] = np.array(value, dtype=kind, order="C")       # (ascontiguousarray would make scalars 1-d)
    header, at = {"__metadata__": dict(notes, format="pt")}, 0
    for name in sorted(arrays):
        a = arrays[name]
        header[name] = {"dtype": KINDS[a.dtype.name], "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(arrays):
            f.write(arrays[name].tobytes())
    print("%s: %d tensors, %d bytes" % (path, len(arrays), 8 + len(text) + at))


def load(path):
    """Returns (tensors, notes); the inverse of save, for checks."""
    blob = open(path, "rb").read()
    size = struct.unpack("<Q", blob[:8])[0]
    header = json.loads(blob[8:8 + size])
    notes = header.pop("__metadata__", {})
    kinds = {"F32": "<f4", "I32": "<i4"}
    return {name: np.frombuffer(blob[8 + size + e["data_offsets"][0]:8 + size + e["data_offsets"][1]],
                                kinds[e["dtype"]]).reshape(e["shape"]) for name, e in header.items()}, notes
