#!/usr/bin/env python3
"""Times reading of data in Python: frames of videos by PyAV, features of a pickle into tensors.

    pip install numpy torch av
    python xtask/peers/data_peer.py frames --threads 2 --repeats 3 CLIP...
    python xtask/peers/data_peer.py write FILE --megabytes 200 --protocol 4
    python xtask/peers/data_peer.py pickle --repeats 3 FILE

`frames` decodes each clip from its first frame to its last, keeps the frames floor((i + 0.5) N / 8)
as RGB, and works on as many clips at a time as there are threads (PyAV releases the interpreter's
lock while it decodes), each on one thread of the decoder. N is counted by demultiplexing first, as
the loaders of these fields do. `write` writes a dictionary of float32 arrays [n, 1024]. `pickle`
loads it, makes a tensor of each array and looks for values that are not finite.

Output: one JSON document on stdout with `seconds` of each repeat, `items` and `peak_rss_bytes`.
"""

import argparse
import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FRAMES = 8
WIDTH = 1024


def peak_rss_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def timed(repeats, action):
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        items = action()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "items": items, "peak_rss_bytes": peak_rss_bytes()}


def opened(clip):
    import av

    # Some files have bytes in their metadata that are no UTF-8, at which PyAV would stop.
    return av.open(clip, metadata_errors="replace")


def frames_of(clip):
    with opened(clip) as container:
        stream = container.streams.video[0]
        count = sum(1 for packet in container.demux(stream) if packet.size)
    wanted = {int((i + 0.5) * count / FRAMES) for i in range(FRAMES)}
    kept = []
    with opened(clip) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        decoded = 0
        for frame in container.decode(stream):
            if decoded in wanted:
                kept.append(frame.to_ndarray(format="rgb24"))
            decoded += 1
    return decoded


def frames(args):
    def action():
        with ThreadPoolExecutor(args.threads) as pool:
            return sum(pool.map(frames_of, args.clips))

    return timed(args.repeats, action)


def write(args):
    import numpy

    rows = 30
    count = args.megabytes * 1_000_000 // (4 * WIDTH * rows)
    stream = numpy.random.default_rng(0)
    data = {
        f"video{i}": stream.standard_normal((rows, WIDTH), dtype=numpy.float32)
        for i in range(count)
    }
    with open(args.file, "wb") as file:
        pickle.dump(data, file, protocol=args.protocol)
    return {"items": count}


def load(args):
    import torch

    def action():
        with open(args.file, "rb") as file:
            data = pickle.load(file)
        tensors = {name: torch.from_numpy(array) for name, array in data.items()}
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
        return len(tensors)

    return timed(args.repeats, action)


parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
commands = parser.add_subparsers(required=True)
command = commands.add_parser("frames")
command.add_argument("--threads", type=int, default=1)
command.add_argument("--repeats", type=int, default=3)
command.add_argument("clips", nargs="+")
command.set_defaults(run=frames)
command = commands.add_parser("write")
command.add_argument("file")
command.add_argument("--megabytes", type=int, default=200)
command.add_argument("--protocol", type=int, default=4)
command.set_defaults(run=write)
command = commands.add_parser("pickle")
command.add_argument("--repeats", type=int, default=3)
command.add_argument("file")
command.set_defaults(run=load)
args = parser.parse_args()
print(json.dumps(args.run(args)))
