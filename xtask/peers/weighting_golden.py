#!/usr/bin/env python3
"""Writes reference weights of loss-weighting methods, from TorchJD, as one JSON document.

Set-up and use (Python 3.11)
    pip install torch==2.9.0 torchjd==0.18.0 qpsolvers quadprog cvxpy clarabel ecos scipy
    python xtask/peers/weighting_golden.py > crates/meltr-core/tests/golden/weighting.json

Matrices: seeded task gradients J, one row a task, rounded to three decimals (six for the small
ones) so that the document states them exactly. For each of them, all in float64,
    up_grad             UPGradWeighting with its defaults (norm_eps = reg_eps = 1e-4)
    up_grad_fine        the same with reg_eps = 1e-9
    ca_grad             CAGradWeighting, c = 0.5, with Clarabel at its tightest tolerances
    ca_grad_torchjd     the same as TorchJD calls it
    pc_grad             PCGradWeighting, every random order replaced by 0, 1, 2, ...
    mgda                the minimum-norm point by enumeration of the faces of the simplex
    mgda_torchjd        MGDAWeighting(epsilon=1e-15, max_iters=20000), which converges slowly
    nash                K a = 1 / a solved by scipy, then scaled to |J'a| <= 1; null where there is
                        no solution
    nash_torchjd        NashMTL with its defaults, which stops before it has converged
Sequences: losses before and after each step, and
    uncertainty, famo   UW with torch.optim.Adam, FAMO: the derivative by the losses, and the
                        logits or log variances at the end
    dwa                 DWA, three batches an epoch
    tchebycheff         the derivative of STCH by the losses
    grad_norm           GradNorm's objective by autograd with torch.optim.Adam (TorchJD has none)
"""

import importlib.metadata
import itertools
import json
import re
import sys
import warnings

import cvxpy as cp
import numpy as np
import scipy.optimize
import torch
from torchjd.aggregation import (
    CAGradWeighting,
    MGDAWeighting,
    NashMTL,
    PCGradWeighting,
    UPGradWeighting,
)
from torchjd.linalg import QuadprogProjector
from torchjd.scalarization import DWA, FAMO, STCH, UW


def matrices():
    """Named lists of task gradients."""
    rng = np.random.default_rng(20240607)
    named = {}
    for n_tasks in (2, 3, 5):
        named[f"random_{n_tasks}"] = rng.normal(size=(n_tasks, 7))
        # Rows of very different lengths.
        scales = np.geomspace(0.05, 20.0, n_tasks)[:, None]
        named[f"scaled_{n_tasks}"] = rng.normal(size=(n_tasks, 7)) * scales
        # Every row but the first points away from the first.
        rows = rng.normal(size=(n_tasks, 7))
        for i in range(1, n_tasks):
            overlap = rows[i] @ rows[0] / (rows[0] @ rows[0])
            rows[i] -= (overlap + 0.4 + 0.2 * i) * rows[0]
        named[f"conflicting_{n_tasks}"] = rows
    rows = rng.normal(size=(3, 7))
    rows[1] = 0.0
    named["zero_row_3"] = rows
    rows = rng.normal(size=(3, 7))
    rows[2] = rows[0]
    named["equal_rows_3"] = rows
    named = {name: np.round(rows, 3) for name, rows in named.items()}
    # A trace below TorchJD's norm_eps.
    named["small_3"] = np.round(rng.normal(size=(3, 7)) * 0.001, 6)
    return named


def min_norm_point(gramian):
    """Weights on the simplex with the least `w' K w`: the best of the faces' own minima."""
    n_tasks = len(gramian)
    best, least = None, np.inf
    for size in range(1, n_tasks + 1):
        for face in itertools.combinations(range(n_tasks), size):
            bordered = np.ones((size + 1, size + 1))
            bordered[:size, :size] = gramian[np.ix_(face, face)]
            bordered[size, size] = 0.0
            if np.linalg.matrix_rank(bordered) <= size:
                continue
            w = np.zeros(n_tasks)
            w[list(face)] = np.linalg.solve(bordered, np.eye(size + 1)[size])[:size]
            if w.min() >= 0.0 and w @ gramian @ w < least - 1e-14:
                best, least = w, w @ gramian @ w
    return best


def nash_point(gramian, max_norm=1.0):
    """The positive solution of `K a = 1 / a`, scaled to a direction of at most `max_norm`."""
    norms = np.sqrt(np.diag(gramian))
    if not norms.all():
        return None
    correlation = gramian / np.outer(norms, norms)
    # In the logarithms, so that every iterate is positive: first the convex potential, whose
    # minimum is the solution, then the equations.
    start = scipy.optimize.minimize(
        lambda y: np.exp(y) @ correlation @ np.exp(y) / 2.0 - y.sum(),
        np.zeros(len(norms)),
        jac=lambda y: correlation @ np.exp(y) * np.exp(y) - 1.0,
        method="BFGS",
    )
    solution = scipy.optimize.root(
        lambda y: correlation @ np.exp(y) * np.exp(y) - 1.0, start.x, tol=1e-14
    )
    if np.abs(solution.fun).max() > 1e-10:
        return None
    a = np.exp(solution.x) / norms
    return a * min(1.0, max_norm / np.sqrt(a @ gramian @ a))


def tight_clarabel(solve):
    """`Problem.solve` with the solver at its tightest: its defaults leave errors of 1e-5."""
    tight = {name: 1e-14 for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas")}

    def solve_tightly(problem, solver):
        return solve(problem, solver, **tight)

    return solve_tightly


def of_matrix(name, rows):
    """The reference weights of one matrix."""
    jacobian = torch.tensor(rows, dtype=torch.float64)
    gramian = jacobian @ jacobian.T
    n_tasks = len(rows)
    listed = torch.randperm
    torch.randperm = lambda n, **_: torch.arange(n)
    pc_grad = PCGradWeighting()(gramian).tolist()
    torch.randperm = listed
    nash = nash_point(gramian.numpy())
    finer = UPGradWeighting(projector=QuadprogProjector(reg_eps=1e-9))
    ca_grad_torchjd = CAGradWeighting(c=0.5)(gramian).tolist()
    solve = cp.Problem.solve
    cp.Problem.solve = tight_clarabel(solve)
    ca_grad = CAGradWeighting(c=0.5)(gramian).tolist()
    cp.Problem.solve = solve
    peer_nash = NashMTL(n_tasks=n_tasks).weighting
    return {
        "name": name,
        "rows": rows.tolist(),
        "up_grad": UPGradWeighting()(gramian).tolist(),
        "up_grad_fine": finer(gramian).tolist(),
        "ca_grad": ca_grad,
        "ca_grad_torchjd": ca_grad_torchjd,
        "pc_grad": pc_grad,
        "mgda": min_norm_point(gramian.numpy()).tolist(),
        "mgda_torchjd": MGDAWeighting(epsilon=1e-15, max_iters=20_000)(gramian).tolist(),
        "nash": None if nash is None else nash.tolist(),
        "nash_torchjd": peer_nash(jacobian).tolist(),
    }


def derivative(scalarizer, losses):
    """Derivative of a scalarization by the losses, which are its weights."""
    values = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    scalarizer(values).backward()
    return values.grad.tolist()


def uncertainty(before):
    """UW with Adam: the log variances move in the step whose weights they gave."""
    scalarizer = UW(len(before[0])).double()
    optimizer = torch.optim.Adam(scalarizer.parameters(), lr=0.05)
    weights = []
    for losses in before:
        optimizer.zero_grad()
        weights.append(derivative(scalarizer, losses))
        optimizer.step()
    return {"weights": weights, "log_variances": scalarizer.log_var.tolist()}


def famo(before, after):
    """FAMO with TorchJD's defaults."""
    scalarizer = FAMO(len(before[0])).double()
    weights = []
    for losses, new_losses in zip(before, after, strict=True):
        weights.append(derivative(scalarizer, losses))
        scalarizer.update(torch.tensor(new_losses, dtype=torch.float64))
    return {"weights": weights, "logits": scalarizer._w.tolist()}


def dwa(before):
    """DWA, temperature 2, three batches an epoch."""
    scalarizer = DWA()
    weights = []
    for batch, losses in enumerate(before):
        weights.append(derivative(scalarizer, losses))
        if batch % 3 == 2:
            scalarizer.step()
    return {"batches": 3, "weights": weights}


def tchebycheff(before):
    """STCH, with equal preferences and no reference, and with both given."""
    preference, reference = [0.2, 0.5, 0.3], [0.1, 0.0, 0.05]
    given = STCH(
        mu=0.1,
        weights=torch.tensor(preference, dtype=torch.float64),
        reference=torch.tensor(reference, dtype=torch.float64),
    )
    return {
        "plain": [derivative(STCH(mu=0.5), losses) for losses in before],
        "preference": preference,
        "reference": reference,
        "given": [derivative(given, losses) for losses in before],
    }


def grad_norm(before, rows, alpha=1.5, learning_rate=0.025):
    """GradNorm (Chen et al., ICML 2018), Algorithm 1; the gradients are those of one matrix."""
    norms = torch.tensor(np.linalg.norm(rows, axis=1))
    w = torch.ones(len(rows), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=learning_rate)
    first = torch.tensor(before[0], dtype=torch.float64)
    weights = []
    for losses in before:
        weights.append(w.tolist())
        ratio = torch.tensor(losses, dtype=torch.float64) / first
        rate = ratio / ratio.mean()
        norm = w * norms
        target = (norm.mean() * rate**alpha).detach()
        optimizer.zero_grad()
        (norm - target).abs().sum().backward()
        optimizer.step()
        with torch.no_grad():
            w *= len(rows) / w.sum()
    return {"alpha": alpha, "learning_rate": learning_rate, "weights": weights}


def main():
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    named = matrices()
    rng = np.random.default_rng(7)
    decay = 0.93 ** np.arange(12)[:, None] ** np.array([[1.0, 0.6, 0.2]])
    noise = rng.uniform(0.9, 1.1, size=(12, 3))
    before = np.round(np.array([[2.5, 0.4, 7.0]]) * decay * noise, 4).tolist()
    after = np.round(np.array(before) * rng.uniform(0.9, 1.02, size=(12, 3)), 4).tolist()
    document = {
        "made_by": "xtask/peers/weighting_golden.py",
        "torchjd": importlib.metadata.version("torchjd"),
        "torch": torch.__version__,
        "matrices": [of_matrix(name, rows) for name, rows in named.items()],
        "sequences": {
            "before": before,
            "after": after,
            "uncertainty": uncertainty(before),
            "famo": famo(before, after),
            "dwa": dwa(before),
            "tchebycheff": tchebycheff(before),
            "grad_norm": grad_norm(before, named["conflicting_3"]),
        },
    }
    # One short list a line: easy on the eye in a diff.
    text = json.dumps(document, indent=1)
    text = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found.group().split()), text)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
