#!/usr/bin/env python3
"""Times MELTR's hypergradient through UniVL in PyTorch, for `meltr bench meta-step --python`.

The released algorithm, written from the formulas, with the identity for the inverse Hessian: w
are UniVL's weights, l(w) the losses of --losses on the inner batch, g_phi the loss transformer
and l_0 the loss of --primary on the outer batch;

    v             = grad_w l_0(outer)
    hypergradient = - d/dphi < grad_w g_phi(l(inner)), v >

by a gradient with a graph through the whole model, and the gradient of its product with v. The
network is that of `univl_train_step.py`, the loss transformer and the two gradients are those
of `aid_transformer.py`. Dropout is off. Attention is written out, since the fused kernel of
PyTorch has no second derivative.

Set-up and use (Python 3.9 or later)
    pip install torch==2.9.0 safetensors
    python xtask/peers/univl_meta_step.py --config FILE.json --data FILE.safetensors \\
        --losses joint,align --primary align --sparse-pairs --sparse-heads --threads 2

FILE.safetensors, which `meltr bench meta-step` writes, holds
    model.*            the weights under published names, tied ones once
    phi.{T}.*          the loss transformer for T losses
    outer.*, inner.*   two batches under the names of `random_batch` in `univl_train_step.py`

Output: one JSON document on stdout, with
    seconds          seconds of each timed hypergradient: v, both forward passes, all gradients
    peak_rss_bytes   largest resident memory of this process up to the end of these
    losses           the losses on the inner batch
With --output the last hypergradient is written under the names of phi's tensors, preceded by
`phi.`; a tensor without a gradient is zero there.
"""

import argparse
import importlib
import json
import math
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import univl_train_step as univl
from aid_transformer import DTYPES, Problem, official
from placement import Placement

# `official` has PyTorch import this (and SymPy) on first use; it is no part of a hypergradient.
importlib.import_module("torch.fx.experimental.symbolic_shapes")


def attention(self, queries, keys, scores):
    """`Attention.forward` of `univl_train_step.py` without the fused kernel or dropout."""
    query = self.heads(self.query(queries))
    key, value = self.heads(self.key(keys)), self.heads(self.value(keys))
    products = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + scores
    return (products.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


class UniVlProblem(Problem):
    """The problem of `aid_transformer.py` with UniVL in place of its backbone."""

    def __init__(self, args, placement):
        dtype = DTYPES[args.dtype]
        config = json.loads(args.config.read_text())
        model = univl.UniVl(config, args.sparse_pairs, args.sparse_heads).to(dtype).eval()
        prefix = f"phi.{len(args.losses)}."
        self.phi, batches = {}, {"outer": {}, "inner": {}}
        # One tensor at a time: the file is not to count for the peak of the memory.
        with safe_open(args.data, "pt") as file, torch.no_grad():
            names = set(file.keys())
            for name, value in model.state_dict().items():
                value.copy_(file.get_tensor(f"model.{name}"))
                names.remove(f"model.{name}")
            for name in sorted(names):
                if name.startswith("model."):
                    raise ValueError(f"`{name}` is no tensor of the network")
                tensor = file.get_tensor(name)
                if tensor.is_floating_point():
                    tensor = tensor.to(dtype)
                if name.startswith(prefix):
                    self.phi[name[len(prefix) :]] = placement.put(tensor)
                role, _, key = name.partition(".")
                if role in batches:
                    batches[role][key] = placement.put(tensor)
        if not self.phi:
            raise ValueError(f"there is no loss transformer for {len(args.losses)} losses")
        for value in self.phi.values():
            value.requires_grad_()
        self.model = placement.put(model)
        self.w = dict(self.model.named_parameters())
        self.outer, self.inner = batches["outer"], batches["inner"]
        self.names, self.primary = args.losses, args.primary

    def primary_loss(self):
        return self.model(self.outer, [self.primary])[0]

    def train_losses(self, w=None):
        return self.model(self.inner, self.names)


def benchmark(args):
    univl.Attention.forward = attention
    placement = Placement(args)
    problem = UniVlProblem(args, placement)
    placement.make_default()
    last = {}

    def step():
        last.update(official(problem))

    seconds = univl.timed(step, args.warmup, args.steps, placement)
    peak = univl.peak_rss_bytes()
    if args.output:
        named = {f"phi.{name}": value.cpu().contiguous() for name, value in last.items()}
        save_file(named, args.output)
    with torch.no_grad():
        losses = problem.train_losses().tolist()
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "peak_rss_bytes": peak,
        "losses": dict(zip(args.losses, losses)),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="sizes")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE", help="see above")
    parser.add_argument(
        "--losses", type=univl.loss_names, default=univl.LOSSES, metavar="A,B,..."
    )
    parser.add_argument("--primary", choices=univl.LOSSES, default="align")
    parser.add_argument("--steps", type=int, default=5, help="timed (default: 5)")
    parser.add_argument("--warmup", type=int, default=1, help="untimed (default: 1)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its choice)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0 (default: cpu)")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--sparse-pairs", action="store_true", help="see univl_train_step.py")
    parser.add_argument("--sparse-heads", action="store_true", help="see univl_train_step.py")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the hypergradient")
    parser.set_defaults(bf16=False)
    args = parser.parse_args()
    if args.warmup + args.steps < 1:
        parser.error("at least one hypergradient is needed")

    if args.threads:
        torch.set_num_threads(args.threads)
    print(json.dumps(benchmark(args)))


if __name__ == "__main__":
    sys.exit(main())
