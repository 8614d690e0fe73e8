#!/usr/bin/env python3
"""Times MELTR's hypergradient through a small transformer in PyTorch, on the CPU.

With backbone weights w, task losses l(w) on a training batch, the loss transformer g_phi and
the primary loss l_0 on a validation batch:

    v             = grad_w l_0(validation)
    hypergradient = - d/dphi < grad_w g_phi(l(train)), v >
                  = - d/dphi  sum_t (dg_phi/dl_t) c_t,     c_t = < grad_w l_t(train), v >

The second line holds since phi reaches w through the T losses only.

Set-up and use (Python 3.9 or later)
    pip install torch==2.9.0 safetensors
    pip install betty-ml==0.2.1                 (for --method betty_darts only)
    python xtask/peers/aid_transformer.py --data FILE.safetensors --method official \\
        --heads 4 --repeats 21 --warmup 3 --threads 2

Methods
    official               the first line as the released code takes it: a gradient with a graph
                           through the backbone, then the gradient of its product with v
    loss_space_exact       the second line; T reverse passes for c, two gradients through phi
    loss_space_difference  the second line; c = (l(w + e v) - l(w - e v)) / 2e by two forward
                           passes without a graph, e = 1e-4 |w| / |v|; l is their mean
    betty_darts            `darts` of betty-ml, called directly: gradients for phi at w + e v
                           and w - e v, by default with e = 0.01 / |v|, w moved in place

Attention is written out in all of them (no fused kernel of PyTorch has a second derivative),
and there is no dropout.

FILE holds (weights [out, in]; the sizes are read from it)
    x_train, x_val [B, S, D]; target_train.{t}, target_val.{t} [B, E]
    layer.{i}.attention.{query,key,value,output,norm}.{weight,bias}
    layer.{i}.ffn.{in,out,norm}.{weight,bias}; head.{t}.{weight,bias}
    phi.*    the loss transformer under its published names; eight heads
A layer is that of BERT; loss t is the mean squared error of head t, on the mean over the S
tokens, to target t.

Output: the line FIRST on stderr after the first hypergradient, and one JSON document on stdout:
    import_seconds   seconds of importing PyTorch (and Betty, and what `official` has it import)
    first_seconds    seconds of the first hypergradient; data are loaded, nothing has run yet
    seconds          seconds of each timed one: v, both forward passes and all gradients
    import_rss_bytes, peak_rss_bytes
                     largest resident memory of this process after imports and loading; at the
                     end of the repeats
    losses           the T training losses
With --output the first hypergradient is written under the names of phi's tensors; where a
method has no gradient (`encoder.norm2.bias`), it is zero.
"""

import argparse
import importlib
import json
import math
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace

IMPORT_START = time.perf_counter()

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

IMPORT_SECONDS = time.perf_counter() - IMPORT_START

DTYPES = {"f32": torch.float32, "f64": torch.float64}
BACKBONE_NORM_EPS = 1e-12
PHI_NORM_EPS = 1e-5
PHI_HEADS = 8
PRIMARY = 0
RELATIVE_STEP = 1e-4


# --- networks, as functions of named tensors ------------------------------------------


def linear(x, tensors, name):
    return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def layer_norm(x, tensors, name, eps):
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps)


def attend(query, key, value, n_heads):
    """Attention of `[B, S, D]` before the output projection."""
    query, key, value = (
        x.unflatten(-1, (n_heads, -1)).transpose(1, 2) for x in (query, key, value)
    )
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)


class Backbone:
    """The task losses as a function of the weights."""

    def __init__(self, names, n_heads):
        self.n_heads = n_heads
        self.layers = sum(name.endswith(".attention.query.weight") for name in names)

    def pooled(self, w, x):
        for i in range(self.layers):
            name = f"layer.{i}.attention"
            query, key, value = (
                linear(x, w, f"{name}.{part}") for part in ("query", "key", "value")
            )
            attended = linear(attend(query, key, value, self.n_heads), w, f"{name}.output")
            x = layer_norm(x + attended, w, f"{name}.norm", BACKBONE_NORM_EPS)
            name = f"layer.{i}.ffn"
            fed = linear(F.gelu(linear(x, w, f"{name}.in")), w, f"{name}.out")
            x = layer_norm(x + fed, w, f"{name}.norm", BACKBONE_NORM_EPS)
        return x.mean(dim=1)

    def losses(self, w, x, targets, tasks=None):
        """The losses `tasks`, by default all, as a vector."""
        pooled = self.pooled(w, x)
        tasks = range(len(targets)) if tasks is None else tasks
        return torch.stack(
            [F.mse_loss(linear(pooled, w, f"head.{t}"), targets[t]) for t in tasks]
        )


def combine(phi, losses):
    """The loss transformer in evaluation mode: `[T]` to a scalar."""
    tokens = linear(F.relu(linear(losses[:, None], phi, "loss_fc1")), phi, "loss_fc2")
    x = (tokens + phi["task_embedding.weight"])[None]
    packed = F.linear(
        x, phi["encoder.self_attn.in_proj_weight"], phi["encoder.self_attn.in_proj_bias"]
    )
    attended = attend(*packed.chunk(3, dim=-1), PHI_HEADS)
    attended = linear(attended, phi, "encoder.self_attn.out_proj")
    x = layer_norm(x + attended, phi, "encoder.norm1", PHI_NORM_EPS)
    fed = linear(F.relu(linear(x, phi, "encoder.linear1")), phi, "encoder.linear2")
    x = layer_norm(x + fed, phi, "encoder.norm2", PHI_NORM_EPS)
    return F.linear(x.mean(dim=1), phi["fc1.weight"]).squeeze()


# --- the problem and its hypergradient ------------------------------------------------


class Problem:
    def __init__(self, path, n_heads, dtype):
        tensors = {name: value.to(dtype) for name, value in load_file(path).items()}
        self.x_train, self.x_val = tensors.pop("x_train"), tensors.pop("x_val")
        n_tasks = sum(name.startswith("target_train.") for name in tensors)
        self.target_train = [tensors.pop(f"target_train.{t}") for t in range(n_tasks)]
        self.target_val = [tensors.pop(f"target_val.{t}") for t in range(n_tasks)]
        self.phi, self.w = {}, {}
        for name, value in tensors.items():
            value.requires_grad_()
            if name.startswith("phi."):
                self.phi[name[len("phi.") :]] = value
            else:
                self.w[name] = value
        self.backbone = Backbone(self.w, n_heads)

    def primary_loss(self):
        return self.backbone.losses(self.w, self.x_val, self.target_val, [PRIMARY])[0]

    def train_losses(self, w=None):
        return self.backbone.losses(
            self.w if w is None else w, self.x_train, self.target_train
        )

    def primary_gradient(self):
        """v: None where the primary loss reads nothing, as in the heads of other tasks."""
        return torch.autograd.grad(
            self.primary_loss(), list(self.w.values()), allow_unused=True
        )

    def negated(self, gradients):
        """Gradients for phi, negated, by name."""
        return {
            name: torch.zeros_like(value) if gradient is None else -gradient
            for (name, value), gradient in zip(self.phi.items(), gradients)
        }


def official(problem):
    w, phi = list(problem.w.values()), list(problem.phi.values())
    primary = problem.primary_loss()
    combined = combine(problem.phi, problem.train_losses())
    # The released code keeps the graph of the primary loss, too.
    v = torch.autograd.grad(primary, w, retain_graph=True, allow_unused=True)
    gradient = torch.autograd.grad(combined, w, create_graph=True, allow_unused=True)
    used = [(g, a) for g, a in zip(gradient, v) if a is not None]
    mixed = torch.autograd.grad(
        [g for g, _ in used], phi, grad_outputs=[a for _, a in used], allow_unused=True
    )
    return problem.negated(mixed)


def from_loss_space(problem, losses, c):
    """The hypergradient from the losses and their derivatives along v."""
    losses = losses.detach().requires_grad_()
    (slopes,) = torch.autograd.grad(combine(problem.phi, losses), losses, create_graph=True)
    mixed = torch.autograd.grad(slopes @ c, list(problem.phi.values()), allow_unused=True)
    return problem.negated(mixed)


def loss_space_exact(problem):
    gradient = problem.primary_gradient()
    used = [(p, a) for p, a in zip(problem.w.values(), gradient) if a is not None]
    parameters = [p for p, _ in used]
    losses = problem.train_losses()
    c = []
    for t, loss in enumerate(losses):
        gradients = torch.autograd.grad(
            loss, parameters, retain_graph=t + 1 < len(losses), allow_unused=True
        )
        c.append(sum(torch.sum(g * a) for g, (_, a) in zip(gradients, used) if g is not None))
    return from_loss_space(problem, losses, torch.stack(c))


def norm(tensors):
    """The norm of all entries of a list of tensors, as a number."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors))).item()


def loss_space_difference(problem):
    v = problem.primary_gradient()
    with torch.no_grad():
        size = norm([p.detach() for p in problem.w.values()])
        step = RELATIVE_STEP * size / norm([a for a in v if a is not None])

        def shifted(step):
            return {
                name: p if a is None else torch.add(p, a, alpha=step)
                for (name, p), a in zip(problem.w.items(), v)
            }

        plus, minus = (problem.train_losses(shifted(e)) for e in (step, -step))
        c = (plus - minus) / (2.0 * step)
    return from_loss_space(problem, 0.5 * (plus + minus), c)


def betty_darts(darts, config):
    """A method that has Betty's function do the work, with stand-ins for its two levels."""

    def method(problem):
        w, phi = list(problem.w.values()), list(problem.phi.values())
        v = [
            torch.zeros_like(p) if a is None else a
            for p, a in zip(w, problem.primary_gradient())
        ]
        inner = SimpleNamespace(
            config=config,
            _strategy="default",
            cur_batch=None,
            meta_trainable_parameters=lambda: w,
            training_step_exec=lambda _: combine(problem.phi, problem.train_losses()),
        )
        outer = SimpleNamespace(trainable_parameters=lambda: phi)
        # Betty puts the sign in by itself: this is the difference at minus, less that at plus.
        return dict(zip(problem.phi, darts(v, inner, outer, False)))

    return method


METHODS = {
    "official": official,
    "loss_space_exact": loss_space_exact,
    "loss_space_difference": loss_space_difference,
    "betty_darts": None,  # imported when asked for
}
NOTES = {
    "official": "second-order graph through the backbone, as released",
    "loss_space_exact": "T reverse passes, for the tensors that the primary loss reads",
    "loss_space_difference": f"two forward passes without a graph, step {RELATIVE_STEP} |w| / |v|",
}


# --- timing ---------------------------------------------------------------------------


def peak_rss_bytes():
    """Largest resident memory of this process.

    `getrusage` alone would not do on Linux: its maximum survives `exec`, so it may be that of
    the program that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def benchmark(args):
    import_seconds = IMPORT_SECONDS
    method, note = METHODS[args.method], NOTES.get(args.method)
    package, version = "torch", torch.__version__
    if args.method == "betty_darts":
        start = time.perf_counter()
        import betty
        from betty.configs import Config
        from betty.hypergradient.darts import darts

        import_seconds += time.perf_counter() - start
        config = Config(type="darts")
        method = betty_darts(darts, config)
        package, version = "betty-ml", betty.__version__
        note = (
            f"on torch {torch.__version__}; called without Betty's engine; "
            f"step {config.darts_alpha} / |v|"
        )

    if args.method == "official":
        # `grad_outputs` has PyTorch import this (and SymPy) on first use: half a second and
        # 35 MB that are no part of the hypergradient, so they are counted as an import.
        start = time.perf_counter()
        importlib.import_module("torch.fx.experimental.symbolic_shapes")

        import_seconds += time.perf_counter() - start

    problem = Problem(args.data, args.heads, DTYPES[args.dtype])
    import_rss = peak_rss_bytes()

    start = time.perf_counter()
    first = method(problem)
    first_seconds = time.perf_counter() - start
    print("FIRST", file=sys.stderr, flush=True)

    seconds = []
    for _ in range(args.warmup + args.repeats):
        start = time.perf_counter()
        method(problem)
        seconds.append(time.perf_counter() - start)
    peak = peak_rss_bytes()

    if args.output:
        save_file(
            {f"phi.{name}": value.contiguous() for name, value in first.items()}, args.output
        )
    with torch.no_grad():
        losses = problem.train_losses().tolist()
    return {
        "method": args.method,
        "package": package,
        "version": version,
        "threads": torch.get_num_threads(),
        "import_seconds": import_seconds,
        "first_seconds": first_seconds,
        "seconds": seconds[args.warmup :],
        "peak_rss_bytes": peak,
        "import_rss_bytes": import_rss,
        "losses": losses,
        "note": note,
    }


# --- command line ---------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--heads", type=int, required=True, help="heads of the backbone")
    parser.add_argument("--repeats", type=int, default=21, help="timed (default: 21)")
    parser.add_argument("--warmup", type=int, default=3, help="untimed (default: 3)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its choice)")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the hypergradient")
    args = parser.parse_args()

    if args.threads:
        torch.set_num_threads(args.threads)
    print(json.dumps(benchmark(args)))


if __name__ == "__main__":
    sys.exit(main())
