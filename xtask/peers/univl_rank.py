#!/usr/bin/env python3
"""Times UniVL's cross encoder over all texts x videos in PyTorch, for `meltr bench rank`.

Every text and every video is encoded once; then one chunk of texts at a time is scored against
one chunk of videos, without gradients. The network is that of `univl_train_step.py`, and pairs
are computed as there with --sparse-pairs: of the last layer of the cross encoder nothing but the
first token, with keys and values projected once per text and once per video of a chunk.

Set-up and use (Python 3.9 or later)
    pip install torch==2.9.0 safetensors
    python xtask/peers/univl_rank.py --config FILE.json --data FILE.safetensors --items 500 \\
        --chunk 64 --threads 2

FILE.safetensors, which `meltr bench rank` writes, holds
    model.*                             the weights under published names, tied ones once
    input_ids, attention_mask [N, L]    texts; masks are 1 where there is something
    video [N, F, Dv], video_mask [N, F] videos

Output: one JSON document on stdout, with
    seconds          seconds from ids and features to all scores, after a chunk that does not count
    peak_rss_bytes   largest resident memory of this process up to there
With --output the scores are written as `scores` [N, N], rows are texts.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from placement import Placement
from univl_train_step import UniVl, peak_rss_bytes

INPUTS = ("input_ids", "attention_mask", "video", "video_mask")


def load(args):
    """The network and the inputs; one tensor of the file at a time."""
    model = UniVl(json.loads(args.config.read_text()), sparse_pairs=True).eval()
    with safe_open(args.data, "pt") as file, torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(file.get_tensor(f"model.{name}"))
        inputs = {name: file.get_slice(name)[: args.items] for name in INPUTS}
    return model, inputs


@torch.inference_mode()
def rank(model, inputs, n_items, chunk):
    """Scores `[N, N]` of the first `n_items` texts with as many videos."""
    texts, videos = [], []
    for start in range(0, n_items, chunk):
        part = {name: value[start : min(start + chunk, n_items)] for name, value in inputs.items()}
        frames = model.normalize_video["visual_norm2d"](part["video"])
        text, text_scores, video, video_scores = model.encode(part["input_ids"], frames, part)
        texts.append((text, text_scores))
        videos.append((video, video_scores))
    scores = torch.empty(n_items, n_items, device="cpu")
    for row, text in enumerate(texts):
        for column, video in enumerate(videos):
            pooled = model.cross.pooled_pairs_sparse(*text, *video)
            top, left = row * chunk, column * chunk
            height, width = pooled.shape[:2]
            scores[top : top + height, left : left + width] = model.similarity_dense(
                pooled
            ).squeeze(-1)
    return scores


def benchmark(args):
    placement = Placement(args)
    model, inputs = load(args)
    model, inputs = placement.put(model), placement.put(inputs)
    placement.make_default()
    rank(model, inputs, min(args.chunk, args.items), args.chunk)
    placement.synchronize()
    start = time.perf_counter()
    scores = rank(model, inputs, args.items, args.chunk)
    placement.synchronize()
    seconds = time.perf_counter() - start
    peak = peak_rss_bytes()
    if args.output:
        save_file({"scores": scores}, args.output)
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "peak_rss_bytes": peak,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="sizes")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="see above")
    parser.add_argument("--items", type=int, required=True, metavar="N", help="texts, and videos")
    parser.add_argument("--chunk", type=int, default=64, help="at a time (default: 64)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its choice)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0 (default: cpu)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the scores")
    parser.set_defaults(bf16=False)
    args = parser.parse_args()
    if args.items < 1 or args.chunk < 1:
        parser.error("at least one item, and one at a time, is needed")

    if args.threads:
        torch.set_num_threads(args.threads)
    print(json.dumps(benchmark(args)))


if __name__ == "__main__":
    sys.exit(main())
