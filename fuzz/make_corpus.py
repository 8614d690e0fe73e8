#!/usr/bin/env python3
"""Writes the small files that the fuzz targets start from; needs numpy and PyTorch.

    pip install numpy torch
    python fuzz/make_corpus.py
"""

import collections
import pickle
from pathlib import Path

import numpy as np
import torch

CORPUS = Path(__file__).parent / "corpus"


def write(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def pickles():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    values = {
        "features": {"a": array, "b": np.asfortranarray(array), "c": array.astype(">f8")},
        "objects": {"a": {"start": np.array([0.5, np.float64(2)], object), "text": ["x", "é"]}},
        "plain": [None, True, -1, 1 << 40, 2.5, "text", b"bytes", (1, 2), {3}, {"k": []}],
        "odd": [np.float32(1), np.zeros((0, 4)), np.array(["ab", "c"]), np.array([b"x"]), array, array],
    }
    for name, value in values.items():
        for protocol in range(6):
            write("pickle", f"{name}.p{protocol}", pickle.dumps(value, protocol))


def arrays():
    import io

    def saved(save, *args, **kwargs):
        buffer = io.BytesIO()
        save(buffer, *args, **kwargs)
        return buffer.getvalue()

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    for name, value in {
        "f4": array,
        "fortran": np.asfortranarray(array),
        "i8": np.arange(3),
        "text": np.array(["ab", "é"]),
        "scalar": np.array(3.5),
        "object": np.array({"a": array}, object),
    }.items():
        write("npy", f"{name}.npy", saved(np.save, value, allow_pickle=True))
    write("npy", "stored.npz", saved(np.savez, a=array, b=np.arange(3)))
    write("npy", "deflated.npz", saved(np.savez_compressed, a=array, b=np.arange(3)))


def checkpoints():
    import io

    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    state = collections.OrderedDict(w=weight, t=weight.t(), half=weight.half(), n=torch.tensor(3))
    for name, value in {"state": state, "nested": {"epoch": 1, "state_dict": state}}.items():
        for is_zip in (True, False):
            buffer = io.BytesIO()
            torch.save(value, buffer, _use_new_zipfile_serialization=is_zip)
            write("checkpoint", f"{name}.{'zip' if is_zip else 'legacy'}", buffer.getvalue())


def tables():
    for name, text in {
        "plain": "video_id,feature_file\na,b\nc,d\n",
        "quoted": 'video_id,sentence\na,"x, ""y"""\nb,"two\nlines"\n',
        "crlf": "\ufeffvideo_id,b\r\n\r\n1,2\r\n",
        "tabs": "id\ttext\n1\thello\n",
    }.items():
        write("csv", name, text.encode())


pickles()
arrays()
checkpoints()
tables()
