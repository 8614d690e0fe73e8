"""Reads the event file of a run with TensorBoard and compares it with the run's log.

    pip install tensorboard
    python read_events.py runs/my-run

Prints one JSON document: for every tag the number of its points and the last value. Ends with
status 1 if TensorBoard reads other points than `metrics.jsonl` gives, naming the tags.

The log does not name the tasks: their names are taken from `summary.json`, or from --tasks for a
run that has not ended. Values are compared as f32, which is what an event file holds; what is
`null` in the log was not finite.
"""

import argparse
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

EVENT_FILE = "events.out.tfevents.0.meltr"


def task_names(run, given):
    if given:
        return given.split(",")
    summary = run / "summary.json"
    if not summary.exists():
        sys.exit(f"`{run}` has no summary.json, so the tasks have no names; give --tasks A,B,...")
    return json.loads(summary.read_text())["tasks"]


def records(run):
    """The records of the log; a last line that was cut off is left out."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            if number < len(lines):
                sys.exit(f"metrics.jsonl line {number} is damaged")


def scalars(record, tasks):
    """The scalars that an event file should have of a record, by tag."""

    def by_task(group, values):
        return {f"{group}/{task}": value for task, value in zip(tasks, values)}

    kind = record["kind"]
    if kind == "train":
        return by_task("loss", record["task_losses"]) | {
            "loss/combined": record["combined_loss"],
            "learning_rate": record["learning_rate"],
            "gradient_norm": record["gradient_norm"],
            "time": record["seconds"],
        }
    if kind == "weights":
        return by_task("weight", record["weights"])
    if kind == "meta":
        certificate = record["certificate"]
        found = by_task("sensitivity", record["sensitivities"]) | {
            "outer_objective": record["outer_objective"],
            "hypergradient/norm": record["hypergradient_norm"],
        }
        for tag, key in [
            ("hypergradient/error", "audited_error"),
            ("hypergradient/estimated_error", "estimated_error"),
        ]:
            if certificate[key] is not None:
                found[tag] = certificate[key]
        return found
    if kind == "eval":
        split = record["split"]
        return {f"eval/{split}/{name}": value for name, value in record["metrics"].items()}
    return {}


def is_same(expected, read):
    """Whether two points are the same: step and value."""
    if expected[0] != read[0]:
        return False
    if expected[1] is None:
        return not math.isfinite(read[1])
    return np.float32(expected[1]) == np.float32(read[1])


def as_json(value):
    return value if math.isfinite(value) else None


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="directory of the run")
    parser.add_argument("--tasks", help="names of the tasks, in their order, separated by commas")
    arguments = parser.parse_args()
    run = arguments.run
    tasks = task_names(run, arguments.tasks)

    expected = defaultdict(list)
    for record in records(run):
        for tag, value in scalars(record, tasks).items():
            expected[tag].append((record["iteration"], value))

    # 0: every point is kept, not a sample of them.
    accumulator = EventAccumulator(str(run / EVENT_FILE), size_guidance={"scalars": 0})
    accumulator.Reload()
    read = {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }

    differing = sorted(
        tag
        for tag in expected.keys() | read.keys()
        if len(expected.get(tag, [])) != len(read.get(tag, []))
        or not all(map(is_same, expected[tag], read[tag]))
    )
    document = {
        "run": str(run),
        "tags": {
            tag: {"count": len(points), "last": as_json(points[-1][1])}
            for tag, points in sorted(read.items())
        },
        "differing": differing,
    }
    print(json.dumps(document, indent=2))
    for tag in differing:
        print(
            f"{tag}: {len(expected.get(tag, []))} points in the log, "
            f"{len(read.get(tag, []))} in the event file, or other values",
            file=sys.stderr,
        )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
