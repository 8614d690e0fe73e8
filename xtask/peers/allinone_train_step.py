#!/usr/bin/env python3
"""Times one All-in-one training step in PyTorch, for comparison with `meltr bench train-step`.

A step is the forward pass of the two losses of retrieval (mlm, ind_itc), the backward pass of
their sum, global gradient clipping and a BertAdam update, in f32 on the CPU unless flags say otherwise.

Set-up and use (Python 3.9 or later)
    pip install torch timm safetensors
    python xtask/peers/allinone_train_step.py --config FILE.json --batch 8 --words 24 --frames 3
    python xtask/peers/allinone_train_step.py --check DIR

The transformer is timm's `VisionTransformer` with its patch embedding and its blocks, whose
attention is PyTorch's fused one. The text embeddings and BertAdam are those of
`univl_train_step.py` beside this file.

Equal to meltr: the sizes, the parameters (the pooler is among them, although no loss reads it), and
what is computed. Frames are embedded once; masked words go through the blocks beside each frame,
words alone once a text, frames alone once a frame; patches stand in a random order and move in time
before every block where words stand beside them; the last block is computed for the tokens that
are read, and heads see those only. Dropout and stochastic depth act in the same places.
Not equal: the draws of random inputs, initial values, dropout and stochastic depth; and timm
projects query, key and value in one product, but for the last block, where meltr takes three.

Output: one JSON document on stdout, with
    step_seconds       seconds of each timed step
    forward_seconds    seconds of each timed forward pass without gradients. Dropout stays on,
                       as in a step; a config with `"dropout": 0` times it without.
    losses_first_step  each loss in the first step, before any update
    peak_rss_bytes     largest resident memory of this process up to the end of the steps
    peak_device_bytes  largest memory of tensors on a GPU up to there; null on the CPU

With --check the losses are compared in f64 with a reference directory (config.json,
weights.safetensors, inputs.safetensors, expected.safetensors), and losses that must not depend on
an order of patches with themselves; the exit status is 1 if any differs by more than 1e-5.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from placement import Placement, add_flags
from univl_train_step import (
    CHECK_TOLERANCE,
    CLS,
    MASK,
    MASK_PROBABILITY,
    SEP,
    BertAdam,
    Pooler,
    Predictions,
    TextEmbeddings,
    diagonal_cross_entropy,
    padding_scores,
    peak_rss_bytes,
    timed,
)

LOSSES = ["mlm", "ind_itc"]
FOLD_DIVISOR = 8  # one token in this many moves forward in time, and as many move backward
OF_TEXT, OF_FRAMES = 0, 1  # rows of the table of token types


# --- network --------------------------------------------------------------------------


def roll(x, first_token, n_frames):
    """Tokens of `[B * T, L, D]` that change places with those of neighboring frames.

    Of the tokens from `first_token` on the first stays, the next eighth comes from the frame
    before, the last eighth from the frame after; time is circular.
    """
    fold = (x.shape[1] - first_token) // FOLD_DIVISOR
    if n_frames < 2 or fold == 0:
        return x
    x = x.unflatten(0, (-1, n_frames))
    start = first_token + 1
    parts = [
        x[:, :, :start],
        x[:, :, start : start + fold].roll(1, dims=1),
        x[:, :, start + fold : -fold],
        x[:, :, -fold:].roll(-1, dims=1),
    ]
    return torch.cat(parts, dim=2).flatten(0, 1)


def first_outputs(block, x, scores, n_outputs):
    """What timm's `block` makes of the first tokens; the others are keys and values alone."""
    attention = block.attn
    d_model = x.shape[-1]
    weight, bias = attention.qkv.weight, attention.qkv.bias
    keys = block.norm1(x)
    query = F.linear(keys[:, :n_outputs], weight[:d_model], bias[:d_model])
    key, value = F.linear(keys, weight[d_model:], bias[d_model:]).chunk(2, dim=-1)
    heads = [
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in (query, key, value)
    ]
    attended = F.scaled_dot_product_attention(*heads, attn_mask=scores)
    attended = attention.proj_drop(attention.proj(attended.transpose(1, 2).flatten(2)))
    x = x[:, :n_outputs] + block.drop_path1(attended)
    return x + block.drop_path2(block.mlp(block.norm2(x)))


class Transformer(VisionTransformer):
    """timm's vision transformer, with embeddings of frame numbers and a forward pass of ours."""

    def __init__(self, config):
        super().__init__(
            img_size=config["image_size"],
            patch_size=config["patch_size"],
            num_classes=0,
            global_pool="token",
            embed_dim=config["d_model"],
            depth=config["n_layers"],
            num_heads=config["n_heads"],
            mlp_ratio=config["d_ff"] / config["d_model"],
            pos_drop_rate=config["dropout"],
            proj_drop_rate=config["dropout"],
            drop_path_rate=config["drop_path"],
        )
        table = torch.zeros(1, config["n_frames"], config["d_model"])
        self.temporal_embed = nn.Parameter(table)

    def embed(self, frames, order):
        """Frames `[B, T, 3, S, S]` to `[B * T, 1 + P, D]`; `order` is `[B * T, P]` or `None`."""
        batch_size, n_frames = frames.shape[:2]
        x = self.patch_embed(frames.flatten(0, 1))  # [B * T, P, D]
        times = self.temporal_embed[0, :n_frames].repeat(batch_size, 1)[:, None]
        x = x + (self.pos_embed[:, 1:] + times)
        if order is not None:
            x = x[torch.arange(len(x))[:, None], order]
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self.pos_drop(torch.cat([cls, x], dim=1))

    def forward(self, x, n_outputs, scores=None, rolling=None):
        """`[N, L, D]` to `[N, n_outputs, D]`; `rolling` has the arguments of `roll`."""
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            if rolling is not None:
                x = roll(x, *rolling)
            if index == last:
                x = first_outputs(block, x, scores, n_outputs)
            else:
                x = block(x, attn_mask=scores)
        return self.norm(x)


class AllInOne(nn.Module):
    def __init__(self, config):
        super().__init__()
        d_model = config["d_model"]
        self.text_embeddings = TextEmbeddings(config)
        self.token_type_embeddings = nn.Embedding(2, d_model)
        self.transformer = Transformer(config)
        self.pooler = Pooler(d_model)
        self.mlm_score = Predictions(d_model, config["vocab_size"])
        self.mlm_score.decoder = nn.Linear(d_model, config["vocab_size"], bias=False)
        self.txt_proj = nn.Linear(d_model, config["d_shared"])
        self.vid_proj = nn.Linear(d_model, config["d_shared"])
        self.temperature = config["temperature"]
        self.apply(initialize)

    def forward(self, batch):
        """The losses, `[2]`."""
        kinds = self.token_type_embeddings.weight
        n_frames = batch["frames"].shape[1]
        frames = self.transformer.embed(batch["frames"], batch["patch_order"]) + kinds[OF_FRAMES]
        scores = padding_scores(batch["attention_mask"], frames.dtype)
        masked = self.text_embeddings(batch["masked_input_ids"]) + kinds[OF_TEXT]
        words = self.word_loss(masked, scores, frames, n_frames, batch)
        text = self.text_embeddings(batch["input_ids"]) + kinds[OF_TEXT]
        return torch.stack([words, self.contrastive_loss(text, scores, frames, n_frames)])

    def word_loss(self, text, scores, frames, n_frames, batch):
        length = text.shape[1]
        text = text.repeat_interleave(n_frames, dim=0)
        scores = scores.repeat_interleave(n_frames, dim=0)
        scores = F.pad(scores, (0, frames.shape[1]))  # no token of a frame is padding
        x = torch.cat([text, frames], dim=1)
        x = self.transformer(x, length, scores, (length, n_frames))
        x = x.unflatten(0, (-1, n_frames)).mean(dim=1).flatten(0, 1)[batch["predict_words"]]
        logits = self.mlm_score(x, self.mlm_score.decoder.weight)
        return F.cross_entropy(logits, batch["word_targets"])

    def contrastive_loss(self, text, scores, frames, n_frames):
        """Both directions added."""
        text = self.txt_proj(self.transformer(text, 1, scores).squeeze(1))
        video = self.transformer(frames, 1).squeeze(1)
        video = self.vid_proj(video.unflatten(0, (-1, n_frames)).mean(dim=1))
        cosine = F.normalize(text, dim=-1) @ F.normalize(video, dim=-1).T / self.temperature
        return diagonal_cross_entropy(cosine) + diagonal_cross_entropy(cosine.T)


def initialize(module):
    if isinstance(module, (nn.Linear, nn.Embedding, nn.Conv2d)):
        nn.init.normal_(module.weight, std=0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


# --- random inputs --------------------------------------------------------------------


def random_batch(config, args, generator):
    """Pairs of `words` tokens and `frames` frames, the patches of every frame in random order.

    In every second text the last quarter is padding. 15 % of the words of a text are masked.
    """

    def some_of(first, last):
        """15 % of `first..last`, at least one."""
        count = max(1, round(MASK_PROBABILITY * (last - first)))
        return first + torch.randperm(last - first, generator=generator)[:count]

    length, n_frames, side = args.words, args.frames, config["image_size"]
    ids = torch.randint(
        MASK + 1, config["vocab_size"], (args.batch, length), generator=generator
    )
    mask = torch.ones_like(ids)
    mask[1::2, length - length // 4 :] = 0
    ids[:, 0] = CLS
    ends = mask.sum(dim=1)
    ids[torch.arange(args.batch), ends - 1] = SEP
    ids *= mask
    words = torch.cat(
        [item * length + some_of(1, end - 1) for item, end in enumerate(ends.tolist())]
    )
    masked_ids = ids.clone()
    masked_ids.view(-1)[words] = MASK
    n_patches = (side // config["patch_size"]) ** 2
    order = [torch.randperm(n_patches, generator=generator) for _ in range(args.batch * n_frames)]
    return {
        "frames": torch.randn(args.batch, n_frames, 3, side, side, generator=generator),
        "patch_order": torch.stack(order),
        "input_ids": ids,
        "attention_mask": mask,
        "masked_input_ids": masked_ids,
        "predict_words": words,
        "word_targets": ids.view(-1)[words],
    }


# --- comparison with a reference directory --------------------------------------------


def reference_config(config):
    """The config of a reference directory under the names of `--config`."""
    return {
        "vocab_size": config["vocab_size"],
        "d_model": config["hidden_size"],
        "n_heads": config["num_heads"],
        "d_ff": config["mlp_ratio"] * config["hidden_size"],
        "n_layers": config["num_layers"],
        "d_shared": config["shared_embedding_dim"],
        "image_size": config["image_size"],
        "patch_size": config["patch_size"],
        "n_frames": config["num_frames"],
        "max_text_positions": config["max_text_len"],
        "dropout": 0.0,
        "drop_path": 0.0,
        "temperature": config["temperature"],
    }


def check(folder):
    from safetensors.torch import load_file

    def tensors(name):
        return {
            key: value.double() if value.is_floating_point() else value
            for key, value in load_file(folder / f"{name}.safetensors").items()
        }

    model = AllInOne(reference_config(json.loads((folder / "config.json").read_text())))
    weights = tensors("weights")
    del weights["text_embeddings.position_ids"]
    model = model.double().eval()
    model.load_state_dict(weights)
    inputs = tensors("inputs")
    labels = inputs["text_labels_mlm"].flatten()
    at = (labels != -100).nonzero().squeeze(1)

    def losses(order):
        batch = {
            "frames": inputs["image"],
            "patch_order": order,
            "input_ids": inputs["text_ids"],
            "attention_mask": inputs["text_masks"],
            "masked_input_ids": inputs["text_ids_mlm"],
            "predict_words": at,
            "word_targets": labels[at],
        }
        with torch.no_grad():
            return model(batch)

    found = losses(None)
    error = (found - tensors("expected")["losses"]).abs().max()
    # Where nothing moves in time, the order of patches is of no influence.
    other_order = (losses(inputs["patch_order"]) - found)[1].abs()
    error = torch.maximum(error, other_order).item()
    return {
        "torch": torch.__version__,
        "losses": dict(zip(LOSSES, found.tolist())),
        "largest_error": error,
        "ok": error <= CHECK_TOLERANCE,
    }


# --- command line ---------------------------------------------------------------------


def benchmark(args):
    config = json.loads(args.config.read_text())
    torch.manual_seed(args.seed)
    placement = Placement(args)
    model = placement.put(AllInOne(config).train())
    generator = torch.Generator().manual_seed(args.seed)
    batch = placement.put(random_batch(config, args, generator))
    placement.make_default()
    optimizer = BertAdam(model.named_parameters())
    first_losses = []

    def step():
        model.zero_grad(set_to_none=True)
        with placement.computing():
            losses = model(batch)
        losses.sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if not first_losses:
            first_losses.extend(losses.detach().tolist())

    step_seconds = timed(step, args.warmup, args.steps, placement)
    peak = peak_rss_bytes()
    device_peak = placement.peak_bytes()
    with torch.no_grad(), placement.computing():
        forward_seconds = timed(lambda: model(batch), args.warmup, args.steps, placement)
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "step_seconds": step_seconds,
        "forward_seconds": forward_seconds,
        "losses_first_step": dict(zip(LOSSES, first_losses)),
        "peak_rss_bytes": peak,
        "peak_device_bytes": device_peak,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="sizes of the network")
    what.add_argument("--check", type=Path, metavar="DIR", help="compare with a reference")
    parser.add_argument("--batch", type=int, default=8, help="pairs (default: 8)")
    parser.add_argument("--words", type=int, default=24, help="tokens a text (default: 24)")
    parser.add_argument("--frames", type=int, default=3, help="frames a video (default: 3)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default: 5)")
    parser.add_argument("--warmup", type=int, default=1, help="untimed steps (default: 1)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its choice)")
    parser.add_argument("--seed", type=int, default=0)
    add_flags(parser)
    args = parser.parse_args()
    if args.words < 4 or args.frames < 1 or args.batch < 1:
        parser.error("at least 4 words, 1 frame and 1 pair are needed")

    if args.threads:
        torch.set_num_threads(args.threads)
    result = check(args.check) if args.check else benchmark(args)
    print(json.dumps(result))
    return 0 if result.get("ok", True) else 1


if __name__ == "__main__":
    sys.exit(main())
