"""Where the PyTorch side of `meltr bench train-step` computes: the CPU, or a GPU by name.

Used by the scripts `*_train_step.py`. Random numbers are drawn on the CPU whatever the device
is, so that a batch is the same everywhere.
"""

import contextlib

import torch


def add_flags(parser):
    """Adds the flags that choose device and precision."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0 (default: cpu)")
    parser.add_argument(
        "--bf16", action="store_true", help="autocast to bfloat16; parameters stay f32"
    )


class Placement:
    """The device of a measurement, and what is peculiar to it."""

    def __init__(self, args):
        self.device = torch.device(args.device)
        self.bf16 = args.bf16

    def put(self, value):
        """A module, a tensor, or tensors in containers, on the device."""
        if isinstance(value, dict):
            return {key: self.put(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.put(item) for item in value)
        return value.to(self.device) if hasattr(value, "to") else value

    def make_default(self):
        """Tensors that a forward pass makes are made there from now on."""
        torch.set_default_device(self.device)

    def computing(self):
        """The context of forward passes."""
        if self.bf16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def synchronize(self):
        """Waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_bytes(self):
        """Largest memory of tensors on a GPU so far; `None` on the CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return None
