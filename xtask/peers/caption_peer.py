#!/usr/bin/env python3
"""Times caption metrics in Python: pycocoevalcap's tokenizer, BLEU, ROUGE-L, CIDEr and METEOR.

    pip install numpy pycocoevalcap     # and Java 8 or later on the search path
    python xtask/peers/caption_peer.py CORPUS --repeats 3 --meteor

CORPUS is a JSON object of {"refs": [text, ...], "hyp": text} by id. Texts are tokenized by the Penn
Treebank tokenizer first, as COCO's evaluation does. The tokenizer and METEOR are Java programs that
pycocoevalcap starts; their start is part of their time, as it is part of every evaluation.

Output: one JSON document on stdout with `seconds` (of each part, a list with one number a repeat;
`all` is their sum), `corpus` and `items` (scores by name) and `peak_rss_bytes` of this process,
without that of Java.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path


def peak_rss_bytes():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def floats(values):
    return [float(value) for value in values]


def tokenized(corpus):
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    references = {
        name: [{"caption": text} for text in texts["refs"]] for name, texts in corpus.items()
    }
    hypotheses = {name: [{"caption": texts["hyp"]}] for name, texts in corpus.items()}
    return tokenizer.tokenize(references), tokenizer.tokenize(hypotheses)


def bleu(references, hypotheses):
    from pycocoevalcap.bleu.bleu import Bleu

    corpus, items = Bleu(4).compute_score(references, hypotheses, verbose=0)
    names = [f"Bleu_{order}" for order in range(1, 5)]
    return dict(zip(names, floats(corpus))), dict(zip(names, map(floats, items)))


def one(name, scorer, references, hypotheses):
    corpus, items = scorer.compute_score(references, hypotheses)
    return {name: float(corpus)}, {name: floats(items)}


def rouge(references, hypotheses):
    from pycocoevalcap.rouge.rouge import Rouge

    return one("ROUGE_L", Rouge(), references, hypotheses)


def cider(references, hypotheses):
    from pycocoevalcap.cider.cider import Cider

    return one("CIDEr", Cider(), references, hypotheses)


def meteor(references, hypotheses):
    from pycocoevalcap.meteor.meteor import Meteor

    return one("METEOR", Meteor(), references, hypotheses)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--meteor", action="store_true")
    args = parser.parse_args()
    corpus = json.loads(Path(args.corpus).read_text(encoding="utf-8"))

    metrics = [("BLEU", bleu), ("ROUGE_L", rouge), ("CIDEr", cider)]
    if args.meteor:
        metrics.append(("METEOR", meteor))
    seconds = {}
    # What is imported once is not timed; the libraries print to stdout, which is for the document.
    with contextlib.redirect_stdout(sys.stderr):
        import numpy  # noqa: F401
        from pycocoevalcap.bleu import bleu as _bleu  # noqa: F401
        from pycocoevalcap.cider import cider as _cider  # noqa: F401
        from pycocoevalcap.meteor import meteor as _meteor  # noqa: F401
        from pycocoevalcap.rouge import rouge as _rouge  # noqa: F401

        for _ in range(args.repeats):
            whole = 0.0

            def timed(part, action, *inputs):
                nonlocal whole
                start = time.perf_counter()
                value = action(*inputs)
                taken = time.perf_counter() - start
                whole += taken
                seconds.setdefault(part, []).append(taken)
                return value

            references, hypotheses = timed("tokenizer", tokenized, corpus)
            of_corpus, of_items = {}, {}
            for part, metric in metrics:
                scores, items = timed(part, metric, references, hypotheses)
                of_corpus.update(scores)
                of_items.update(items)
            seconds.setdefault("all", []).append(whole)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "corpus": of_corpus,
                "items": of_items,
                "peak_rss_bytes": peak_rss_bytes(),
            }
        )
    )


main()
