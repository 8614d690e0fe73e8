#!/usr/bin/env python3
"""Times one hypergradient of a bilevel problem in Python libraries, on the CPU.

The hypergradient is taken at a given inner solution: no inner solver runs. The objectives are
plain functions, and each library differentiates them with its own means.

Set-up and use (Python 3.10 or later; betty-ml declares Python below 3.11 but runs on it)
    pip install torch==2.9.0 numpy safetensors torchopt==0.7.3 hypergrad==0.0.1
    pip install --ignore-requires-python betty-ml==0.2.1
    pip install jax jaxopt==0.8.5 optimistix==0.1.0 safetensors    # another environment is fine
    python xtask/peers/aid_peer.py --list
    python xtask/peers/aid_peer.py --problem quadratic --method torchopt_cg \\
        --data FILE.safetensors --products 20 --repeats 21 --warmup 3 --threads 2

Only the library of the chosen method is imported. --products K is the number of
Hessian-vector products or of iterations. A Neumann series of K products has K + 1 terms; it
takes the step --alpha. For `hypergrad_nystrom` K is the rank. --damping D adds D times the
identity to the Hessian: by the library where it can, otherwise by a term of the inner
objective (the field `note` says which). The exact answer of a file is for a damping of its own.

Problems, as tensors of the file
    quadratic  A [n,n], C [n,m], b [n], f [n], x0 [m], z_star [n]. Inner objective
               z'Az/2 + (Cx+b)'z, outer objective z'z/2 + f'z + 0.05 x'x, at z_star and x0.
               Exact answer (optional): `hypergradient` or `hypergrad.exact` [m].
    mlp        Reweighted samples: x_train [N,d], y_train [N], x_val [M,d], y_val [M],
               inner.fc{1,2,3}.{weight,bias}, outer.fc{1,2}.{weight,bias}, and `l2` as a tensor
               [1] or as metadata. Logits are fc3(tanh(fc2(tanh(fc1 x)))), l_i the cross-entropy
               of sample i, and its weight s_i = sigmoid(fc2(tanh(fc1 l_i))) of the outer
               network, where l_i is not detached. Inner objective mean(s_i l_i) + l2/2 |w|^2,
               outer objective the mean cross-entropy of the validation samples.
               Exact answer (optional): `hypergradient.outer.fc1.weight` and so on.

Output: the line FIRST on stderr as soon as the first hypergradient exists, and at the end one
JSON document on stdout, with
    import_seconds    from the start of this script until the library is imported
    first_seconds     from the start of this script to the first hypergradient
    seconds           of each timed hypergradient, from scratch: the graph is built anew. With
                      JAX the function is compiled by the first call, outside these times.
    import_rss_bytes  largest resident memory up to the end of the imports
    peak_rss_bytes    largest resident memory up to the end of the timed hypergradients
    relative_error    |h - exact| / |exact|, and `cosine`; null without an exact answer or
                      where the hypergradient is not finite
With --output the hypergradient is written under the names of the exact answer.
The exit status is 2 if a package or a tensor is missing, with a message on stderr.
"""

import time

START = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402

INNER_NAMES = [f"inner.fc{i}.{part}" for i in (1, 2, 3) for part in ("weight", "bias")]
OUTER_NAMES = [f"outer.fc{i}.{part}" for i in (1, 2) for part in ("weight", "bias")]
PROXIMAL = "damping by a term damping/2 |w - w0|^2 of the inner objective"
NO_INNER_SOLVER = "the inner solver returns the stored solution"
# Residuals below this, relative to the right-hand side, gain nothing. A tolerance of zero
# would end in 0/0 once the residual underflows.
TIGHT = {"f32": 1e-8, "f64": 1e-15}
LARGEST_DENSE = 10_000


class PeerError(Exception):
    """A message for the user."""


# --- problems in PyTorch --------------------------------------------------------------


class TorchProblem:
    """Stored parameters and two objectives, functions of two tuples of tensors."""

    def __init__(self, inner_parameters, outer_parameters, inner, outer):
        self.inner_parameters, self.outer_parameters = inner_parameters, outer_parameters
        self.inner, self.outer = inner, outer

    def leaves(self):
        """Fresh leaf tensors, so that nothing of an earlier call remains."""
        return tuple(
            tuple(t.detach().clone().requires_grad_() for t in tensors)
            for tensors in (self.inner_parameters, self.outer_parameters)
        )

    def add_proximal_term(self, damping):
        """Adds `damping` to the diagonal of the Hessian; gradients at the solution stay."""
        if damping == 0.0:
            return
        inner, stored = self.inner, self.inner_parameters

        def damped(w, phi):
            distance = sum(((p - p0) ** 2).sum() for p, p0 in zip(w, stored))
            return inner(w, phi) + 0.5 * damping * distance

        self.inner = damped


def torch_quadratic(tensors):
    A, C, b, f = (tensors[name] for name in ("A", "C", "b", "f"))

    def inner(w, phi):
        (z,), (x,) = w, phi
        return 0.5 * (z @ (A @ z)) + (C @ x + b) @ z

    def outer(w, phi):
        (z,), (x,) = w, phi
        return 0.5 * (z @ z) + f @ z + 0.05 * (x @ x)

    return TorchProblem((tensors["z_star"],), (tensors["x0"],), inner, outer)


def torch_mlp(tensors):
    import torch
    from torch.nn import functional

    x_train, y_train = tensors["x_train"], tensors["y_train"]
    x_val, y_val = tensors["x_val"], tensors["y_val"]
    l2 = float(tensors["l2"])

    def logits(w, x):
        w1, b1, w2, b2, w3, b3 = w
        x = torch.tanh(functional.linear(x, w1, b1))
        x = torch.tanh(functional.linear(x, w2, b2))
        return functional.linear(x, w3, b3)

    def inner(w, phi):
        w1, b1, w2, b2 = phi
        losses = functional.cross_entropy(logits(w, x_train), y_train, reduction="none")
        hidden = torch.tanh(functional.linear(losses.unsqueeze(1), w1, b1))
        weights = torch.sigmoid(functional.linear(hidden, w2, b2)).squeeze(1)
        return (weights * losses).mean() + 0.5 * l2 * sum((p * p).sum() for p in w)

    def outer(w, phi):
        return functional.cross_entropy(logits(w, x_val), y_val)

    return TorchProblem(
        tuple(tensors[name] for name in INNER_NAMES),
        tuple(tensors[name] for name in OUTER_NAMES),
        inner,
        outer,
    )


TORCH_PROBLEMS = {"quadratic": torch_quadratic, "mlp": torch_mlp}


def outer_gradients(problem, w, phi):
    """The gradient of the outer objective: `(by w, by phi)`."""
    import torch

    gradients = torch.autograd.grad(
        problem.outer(w, phi), [*w, *phi], allow_unused=True, materialize_grads=True
    )
    return gradients[: len(w)], gradients[len(w) :]


# --- betty-ml -------------------------------------------------------------------------


class BettyProblem:
    """What the hypergradient functions of betty read of a `Problem`."""

    paths = ()
    cur_batch = None
    _strategy = "default"

    def __init__(self, parameters, loss=None, config=None):
        self._parameters, self._loss, self.config = list(parameters), loss, config

    def parameters(self):
        return self._parameters

    trainable_parameters = meta_trainable_parameters = parameters

    def training_step_exec(self, batch):
        return self._loss()


def betty(kind):
    def prepare(args):
        import betty.hypergradient
        from betty.configs import Config

        approximate = betty.hypergradient.jvp_fn_mapping[kind]
        config = Config(
            type=kind,
            cg_iterations=args.products,
            cg_alpha=1.0,
            neumann_iterations=args.products,
            neumann_alpha=args.alpha,
        )
        notes = ["its hypergradient function is called directly, without its Engine"]
        if kind == "darts":
            notes.append(
                f"one central difference, darts_alpha {config.darts_alpha}: products and "
                "damping are not used"
            )
        elif args.damping:
            notes.append(PROXIMAL)

        def build(problem):
            if kind != "darts":
                problem.add_proximal_term(args.damping)

            def hypergradient():
                w, phi = problem.leaves()
                vector, direct = outer_gradients(problem, w, phi)
                current = BettyProblem(w, lambda: problem.inner(w, phi), config)
                implicit = approximate(vector, current, BettyProblem(phi), False)
                return [d + i for d, i in zip(direct, implicit)]

            return hypergradient

        return build, notes

    return prepare


# --- double backward in PyTorch, by hand ----------------------------------------------


def solve_cg(product, rhs, args):
    """Conjugate gradients from zero. The direction is built from the new residual, which is
    what the released betty-ml gets wrong."""
    x = rhs.new_zeros(rhs.shape)
    r, p = rhs.clone(), rhs.clone()
    rr = r.dot(r)
    for _ in range(args.products):
        hp = product(p)
        curvature = p.dot(hp)
        if rr.item() == 0.0 or curvature.item() == 0.0:
            break
        step = (rr / curvature).item()
        x.add_(p, alpha=step)
        r.sub_(hp, alpha=step)
        rr, rr_before = r.dot(r), rr
        p.mul_((rr / rr_before).item()).add_(r)
    return x


def solve_neumann(product, rhs, args):
    term, total = rhs, rhs.clone()
    for _ in range(args.products):
        term = term.sub(product(term), alpha=args.alpha)
        total.add_(term)
    return total.mul_(args.alpha)


def solve_identity(product, rhs, args):
    return rhs


def solve_dense(product, rhs, args):
    import torch

    if rhs.numel() > LARGEST_DENSE:
        raise PeerError(f"`torch_exact` takes at most {LARGEST_DENSE} inner parameters")
    basis = torch.eye(rhs.numel(), dtype=rhs.dtype)
    hessian = torch.stack([product(column) for column in basis], dim=1)
    return torch.linalg.solve(hessian, rhs)


def double_backward(solve, note):
    def prepare(args):
        import torch

        def build(problem):
            sizes = [p.numel() for p in problem.inner_parameters]

            def flat(tensors):
                return torch.cat([t.reshape(-1) for t in tensors])

            def like(vector, tensors):
                return [v.view_as(t) for v, t in zip(vector.split(sizes), tensors)]

            def hypergradient():
                w, phi = problem.leaves()
                vector, direct = outer_gradients(problem, w, phi)
                gradient = torch.autograd.grad(problem.inner(w, phi), w, create_graph=True)

                def product(p):
                    hp = flat(
                        torch.autograd.grad(
                            gradient, w, grad_outputs=like(p, w), retain_graph=True
                        )
                    )
                    return hp.add_(p, alpha=args.damping) if args.damping else hp

                inverse = solve(product, flat(vector), args)
                implicit = torch.autograd.grad(gradient, phi, grad_outputs=like(inverse, w))
                return [d - i for d, i in zip(direct, implicit)]

            return hypergradient

        notes = [f"PyTorch double backward, {note}"]
        if args.damping and solve is not solve_identity:
            notes.append("damping added to each product")
        return build, notes

    return prepare


# --- torchopt -------------------------------------------------------------------------


def torchopt(kind):
    def prepare(args):
        import torch
        from torchopt import linear_solve
        from torchopt.diff.implicit import custom_root

        options = {"maxiter": args.products, "ridge": args.damping or None}
        notes = [f"custom_root; {NO_INNER_SOLVER}"]
        if kind == "cg":
            rtol = TIGHT[args.dtype]
            solve = linear_solve.solve_cg(atol=0.0, rtol=rtol, **options)
            notes.append(
                f"rtol {rtol}: it may stop before K iterations; one product more for the first "
                "residual"
            )
        else:
            solve = linear_solve.solve_inv(ns=True, alpha=args.alpha, **options)
        if args.damping:
            notes.append("damping by its option ridge")

        def build(problem):
            optimality = torch.func.grad(problem.inner)

            def gradient(w, phi):
                return optimality(w, phi)

            @custom_root(gradient, argnums=1, solve=solve)
            def stored_solution(w, phi):
                return w

            def hypergradient():
                w, phi = problem.leaves()
                loss = problem.outer(stored_solution(w, phi), phi)
                return torch.autograd.grad(loss, phi)

            return hypergradient

        return build, notes

    return prepare


# --- hypergrad ------------------------------------------------------------------------


def hypergrad(kind):
    def prepare(args):
        import torch
        from hypergrad import approx_hypergrad

        notes = ["its hypergradient function is called directly, without its solver classes"]
        if kind == "nystrom":
            if args.damping <= 0.0 or args.products < 1:
                raise PeerError("`hypergrad_nystrom` needs --damping and --products above 0")
            torch.manual_seed(0)
            approximate, last = approx_hypergrad.nystrom, args.damping
            notes.append("rank K; rho = damping; random columns, drawn anew for each call")
        elif kind == "cg":
            approximate, last = approx_hypergrad.conjugate_gradient, 1.0
        else:
            approximate, last = approx_hypergrad.neumann, args.alpha
        if args.damping and kind != "nystrom":
            notes.append(PROXIMAL)

        def build(problem):
            if kind != "nystrom":
                problem.add_proximal_term(args.damping)

            def hypergradient():
                w, phi = problem.leaves()
                gradients = approximate(
                    problem.inner, problem.outer, w, phi, args.products, last
                )
                return [g.detach() for g in gradients]

            return hypergradient

        return build, notes

    return prepare


# --- JAX ------------------------------------------------------------------------------


def jax_inner(z, x, data):
    A, C, b, _, z_stored, damping = data
    return 0.5 * z @ (A @ z) + (C @ x + b) @ z + 0.5 * damping * ((z - z_stored) ** 2).sum()


def jax_outer(z, x, data):
    return 0.5 * z @ z + data[3] @ z + 0.05 * x @ x


def jax_optimality(z, x, data):
    import jax

    return jax.grad(jax_inner)(z, x, data)


# optimistix takes global functions only.


def jax_stored_solution(inputs):
    return inputs[0], ()


def jax_residual(root, _, inputs):
    return jax_optimality(root, *inputs[1:3])


def jaxopt(kind):
    def prepare(args):
        from jaxopt import implicit_diff, linear_solve

        tol = TIGHT[args.dtype]
        library = {"cg": linear_solve.solve_cg, "normal_cg": linear_solve.solve_normal_cg}[kind]

        def solve(matvec, rhs):
            return library(matvec, rhs, tol=tol, atol=0.0, maxiter=args.products)

        @implicit_diff.custom_root(jax_optimality, solve=solve)
        def inner_solution(z, x, data):
            return z

        notes = [
            f"custom_root; {NO_INNER_SOLVER}",
            f"tol {tol}: it may stop before K iterations; one product more for the first residual",
        ]
        if kind == "normal_cg":
            notes.append("each of the K iterations takes two products")
        return inner_solution, notes

    return prepare


def optimistix(args):
    import lineax
    import optimistix as library

    solver = lineax.CG(rtol=0.0, atol=0.0, max_steps=args.products)
    adjoint = library.ImplicitAdjoint(linear_solver=solver)
    tags = frozenset({lineax.positive_semidefinite_tag})

    def inner_solution(z, x, data):
        root, _ = adjoint.apply(jax_stored_solution, jax_residual, (z, x, data), tags)
        return root

    notes = [
        "ImplicitAdjoint is applied to the stored solution, without a step of a root finder",
        "rtol = atol = 0: exactly K iterations, and a product more in every tenth for a fresh "
        "residual",
    ]
    return inner_solution, notes


def run_with_jax(prepare, args):
    """As `run_with_torch`."""
    # XLA sizes its thread pool by the processors that it may use.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    notes = []
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
        notes.append("threads by processor affinity")
    else:
        notes.append("the number of threads cannot be set here")

    import jax
    import jax.numpy as jnp
    import numpy
    from safetensors import safe_open
    from safetensors.numpy import save_file

    if args.dtype == "f64":
        jax.config.update("jax_enable_x64", True)
    inner_solution, more = prepare(args)
    imported = time.perf_counter() - START, peak_rss_bytes()

    tensors, exact = load(safe_open, "numpy", args)
    dtype = {"f32": jnp.float32, "f64": jnp.float64}[args.dtype]
    tensors = {name: jnp.asarray(value, dtype) for name, value in tensors.items()}
    z_star, x0 = tensors["z_star"], tensors["x0"]
    data = (*(tensors[name] for name in "ACbf"), z_star, jnp.asarray(args.damping, dtype))

    def outer_value(x, z, data):
        return jax_outer(inner_solution(z, x, data), x, data)

    compiled = jax.jit(jax.grad(outer_value))

    def hypergradient():
        return [compiled(x0, z_star, data).block_until_ready()]

    def finish(result):
        if args.output:
            save_file({"hypergradient": numpy.asarray(result[0])}, args.output)
        return [numpy.asarray(t, numpy.float64).ravel().tolist() for t in result]

    notes = [*more, *notes, "compiled by the first call"]
    if args.damping:
        notes.append(PROXIMAL)
    exact = exact and [t.astype(numpy.float64).ravel().tolist() for t in exact]
    return imported, hypergradient, finish, exact, notes


# --- methods --------------------------------------------------------------------------


def run_with_torch(prepare, args):
    """Imports, loads and returns
    `((import seconds, bytes), hypergradient, finish, exact, notes)`."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(args.threads)

    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    torch.set_num_threads(args.threads)
    build, notes = prepare(args)
    imported = time.perf_counter() - START, peak_rss_bytes()

    tensors, exact = load(safe_open, "pt", args)
    dtype = {"f32": torch.float32, "f64": torch.float64}[args.dtype]
    tensors = {
        name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in tensors.items()
    }
    hypergradient = build(TORCH_PROBLEMS[args.problem](tensors))

    def finish(result):
        if args.output:
            named = zip(exact_names(args.problem), result)
            save_file({name: t.detach().contiguous() for name, t in named}, args.output)
        return [t.detach().double().flatten().tolist() for t in result]

    exact = exact and [t.double().flatten().tolist() for t in exact]
    return imported, hypergradient, finish, exact, notes


BOTH, QUADRATIC = ["quadratic", "mlp"], ["quadratic"]
# Name: (package, problems, framework, preparation).
METHODS = {
    "betty_cg": ("betty-ml", BOTH, run_with_torch, betty("cg")),
    "betty_neumann": ("betty-ml", BOTH, run_with_torch, betty("neumann")),
    "betty_darts": ("betty-ml", BOTH, run_with_torch, betty("darts")),
    "betty_cg_fixed": ("torch", BOTH, run_with_torch, double_backward(solve_cg, "correct CG")),
    "torch_neumann": ("torch", BOTH, run_with_torch, double_backward(solve_neumann, "Neumann")),
    "torch_identity": (
        "torch",
        BOTH,
        run_with_torch,
        double_backward(solve_identity, "identity for the inverse: no products, no damping"),
    ),
    "torch_exact": (
        "torch",
        BOTH,
        run_with_torch,
        double_backward(solve_dense, "dense Hessian: a product for each inner parameter"),
    ),
    "torchopt_cg": ("torchopt", BOTH, run_with_torch, torchopt("cg")),
    "torchopt_ns": ("torchopt", BOTH, run_with_torch, torchopt("ns")),
    "hypergrad_cg": ("hypergrad", BOTH, run_with_torch, hypergrad("cg")),
    "hypergrad_neumann": ("hypergrad", BOTH, run_with_torch, hypergrad("neumann")),
    "hypergrad_nystrom": ("hypergrad", BOTH, run_with_torch, hypergrad("nystrom")),
    "jaxopt_cg": ("jaxopt", QUADRATIC, run_with_jax, jaxopt("cg")),
    "jaxopt_normal_cg": ("jaxopt", QUADRATIC, run_with_jax, jaxopt("normal_cg")),
    "optimistix_cg": ("optimistix", QUADRATIC, run_with_jax, optimistix),
}


# --- data, measures and command line --------------------------------------------------


def exact_names(problem):
    if problem == "quadratic":
        return ["hypergradient"]
    return [f"hypergradient.{name}" for name in OUTER_NAMES]


def load(safe_open, framework, args):
    """The tensors of the problem, and the exact answer or None."""
    needed = {
        "quadratic": ["A", "C", "b", "f", "x0", "z_star"],
        "mlp": ["x_train", "y_train", "x_val", "y_val", *INNER_NAMES, *OUTER_NAMES],
    }[args.problem]
    with safe_open(args.data, framework=framework) as file:
        names = set(file.keys())
        missing = [name for name in needed if name not in names]
        if missing:
            raise PeerError(f"{args.data} has no tensor `{missing[0]}`")
        tensors = {name: file.get_tensor(name) for name in needed}
        if args.problem == "mlp":
            l2 = (file.metadata() or {}).get("l2")
            if l2 is None and "l2" not in names:
                raise PeerError(f"{args.data} has `l2` neither as a tensor nor as metadata")
            tensors["l2"] = float(file.get_tensor("l2") if "l2" in names else l2)
        answer = exact_names(args.problem)
        if args.problem == "quadratic" and "hypergrad.exact" in names:
            answer = ["hypergrad.exact"]
        complete = all(name in names for name in answer)
        return tensors, [file.get_tensor(name) for name in answer] if complete else None


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


def compare(result, exact):
    """Relative error and cosine of two lists of lists; both None where they make no sense."""
    result = [value for part in result for value in part]
    exact = [value for part in exact for value in part]
    if len(result) != len(exact):
        raise PeerError(f"the exact answer has {len(exact)} values and not {len(result)}")
    error = math.dist(result, exact)
    size, exact_size = math.hypot(*result), math.hypot(*exact)
    # math.hypot of values that are not finite is not finite.
    if not math.isfinite(size) or size == 0.0 or exact_size == 0.0:
        return None, None
    cosine = sum(a / size * (b / exact_size) for a, b in zip(result, exact))
    return error / exact_size, cosine


def benchmark(args):
    package, _, run, prepare = METHODS[args.method]
    # Deprecation warnings of a library at each call are no part of the measurement.
    warnings.simplefilter("ignore")
    try:
        imported, hypergradient, finish, exact, notes = run(prepare, args)
    except ImportError as error:
        raise PeerError(
            f"`{args.method}` needs the package {package}: {error}. --help has the set-up."
        ) from error

    result = hypergradient()
    first_seconds = time.perf_counter() - START
    print("FIRST", file=sys.stderr, flush=True)

    seconds = []
    for _ in range(args.warmup + args.repeats):
        start = time.perf_counter()
        result = hypergradient()
        seconds.append(time.perf_counter() - start)
    peak = peak_rss_bytes()

    result = finish(result)
    if not all(math.isfinite(value) for part in result for value in part):
        notes.append("the hypergradient is not finite")
    relative_error, cosine = compare(result, exact) if exact else (None, None)

    from importlib.metadata import version

    backend = "torch" if run is run_with_torch else "jax"
    return {
        "method": args.method,
        "package": package,
        "version": version(package),
        "backend": f"{backend} {version(backend)}",
        "problem": args.problem,
        "products": args.products,
        "damping": args.damping,
        "alpha": args.alpha,
        "dtype": args.dtype,
        "threads": args.threads,
        "import_seconds": imported[0],
        "first_seconds": first_seconds,
        "seconds": seconds[args.warmup :],
        "peak_rss_bytes": peak,
        "import_rss_bytes": imported[1],
        "relative_error": relative_error,
        "cosine": cosine,
        "note": "; ".join(notes),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the methods as JSON")
    parser.add_argument("--problem", choices=BOTH)
    parser.add_argument("--method", choices=METHODS, metavar="METHOD", help="see --list")
    parser.add_argument("--data", type=Path, metavar="FILE", help="a safetensors file")
    parser.add_argument("--products", type=int, default=20, metavar="K", help="default: 20")
    parser.add_argument("--repeats", type=int, default=21, help="default: 21")
    parser.add_argument("--warmup", type=int, default=3, help="default: 3")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--damping", type=float, default=0.0, help="default: 0")
    parser.add_argument(
        "--alpha", type=float, default=1.0, help="step of a Neumann series (default: 1)"
    )
    parser.add_argument("--dtype", choices=["f32", "f64"], default="f64", help="default: f64")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the hypergradient")
    args = parser.parse_args()

    if args.list:
        listed = {
            name: {"package": package, "problems": problems}
            for name, (package, problems, _, _) in METHODS.items()
        }
        print(json.dumps(listed))
        return 0
    if not (args.problem and args.method and args.data):
        parser.error("--problem, --method and --data are needed")
    if args.problem not in METHODS[args.method][1]:
        parser.error(f"`{args.method}` is not available for the problem `{args.problem}`")
    if args.products < 0 or args.repeats < 1 or args.warmup < 0 or args.threads < 1:
        parser.error("at least 0 products, 1 repeat, 0 warm-ups and 1 thread are needed")
    if not args.data.is_file():
        parser.error(f"there is no file {args.data}")

    try:
        result = benchmark(args)
    except PeerError as error:
        print(f"aid_peer.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
