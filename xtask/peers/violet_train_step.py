#!/usr/bin/env python3
"""Times one VIOLET training step in PyTorch, for comparison with `meltr bench train-step`.

A step is the forward pass of the three losses of retrieval (vtm, mtm, mvm), the backward pass of
their sum, global gradient clipping and a BertAdam update, in f32 on the CPU unless flags say otherwise.

Set-up and use (Python 3.9 or later)
    pip install torch torchvision safetensors
    python xtask/peers/violet_train_step.py --config FILE.json --batch 4 --words 24 --frames 4 \\
        --side 96
    python xtask/peers/violet_train_step.py --check DIR

The frame encoder is torchvision's `SwinTransformer3d`, its blocks, windows and merging untouched,
with the published patch embedding (stride 1 in time) in the place of torchvision's. The cross
encoder, the text embeddings and BertAdam are those of `univl_train_step.py` beside this file;
attention of the cross encoder is PyTorch's fused one.

Equal to meltr: the sizes, the parameters, and what is computed. Clean and masked frames go through
the frame encoder once each, clean and masked texts are embedded once each, all B x B pairs of clean
texts and clean frames go through the cross encoder, whose last layer is computed for the first
token only, and B pairs of masked texts and masked frames go through it whole; heads see masked
positions only. Dropout and stochastic depth act in the same places.
Not equal: the draws of random inputs, initial values, dropout and stochastic depth; and torchvision
projects query, key and value in one product where meltr takes three.

Output: one JSON document on stdout, with
    step_seconds       seconds of each timed step
    forward_seconds    seconds of each timed forward pass without gradients. Dropout stays on,
                       as in a step; a config with `"dropout": 0` times it without.
    losses_first_step  each loss in the first step, before any update
    peak_rss_bytes     largest resident memory of this process up to the end of the steps
    peak_device_bytes  largest memory of tensors on a GPU up to there; null on the CPU

With --check the losses are compared in f64 with a reference directory of the variant `retrieval`
(config.json, weights.safetensors, inputs.safetensors, expected.safetensors), where the masked
frames feed every loss; the exit status is 1 if any differs by more than 1e-5.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.video.swin_transformer import PatchEmbed3d, SwinTransformer3d

from placement import Placement, add_flags
from univl_train_step import (
    CHECK_TOLERANCE,
    CLS,
    MASK,
    MASK_PROBABILITY,
    SEP,
    BertAdam,
    BertEncoder,
    Predictions,
    TextEmbeddings,
    diagonal_cross_entropy,
    every_pair_of_text,
    every_pair_of_video,
    padding_scores,
    peak_rss_bytes,
    timed,
)

LOSSES = ["vtm", "mtm", "mvm"]
PATCH = [2, 4, 4]  # frames, rows and columns of pixels that become one token
FRAME_STEP = 32  # pixels a side of a patch after the merging
COLOR_MEAN, COLOR_DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


# --- network --------------------------------------------------------------------------


class PatchEmbed(PatchEmbed3d):
    """Patches that overlap in time by a frame; a frame of zeros follows the last one."""

    def __init__(self, patch_size, embed_dim, norm_layer):
        super().__init__(patch_size, embed_dim=embed_dim, norm_layer=norm_layer)
        self.proj.stride = (1, *patch_size[1:])

    def forward(self, x):
        x = self.proj(F.pad(x, (0, 0, 0, 0, 0, 1)))
        return self.norm(x.permute(0, 2, 3, 4, 1))


class FrameEncoder(nn.Module):
    def __init__(self, config, d_model):
        super().__init__()
        swin = config["swin"]
        self.emb_cls = nn.Parameter(torch.zeros(1, 1, 1, d_model))
        self.emb_pos = nn.Parameter(torch.zeros(1, 1, 1 + config["max_patches"], d_model))
        self.emb_len = nn.Parameter(torch.zeros(1, config["max_frames"], 1, d_model))
        self.swin = SwinTransformer3d(
            patch_size=PATCH,
            embed_dim=swin["embed_dim"],
            depths=swin["depths"],
            num_heads=swin["n_heads"],
            window_size=swin["window"],
            stochastic_depth_prob=swin["drop_path"],
            patch_embed=PatchEmbed,
        )
        # Of the classifier nothing is left.
        self.swin.avgpool = self.swin.head = nn.Identity()
        self.norm = nn.LayerNorm(d_model, eps=1e-5)

    def forward(self, frames):
        """Normalized frames `[B, T, 3, H, W]` to `[B, T * (1 + h * w), D]`."""
        batch_size, n_frames = frames.shape[:2]
        x = self.swin.patch_embed(frames.transpose(1, 2))
        x = self.swin.norm(self.swin.features(x)).flatten(2, 3)
        x = torch.cat([self.emb_cls.expand(batch_size, n_frames, -1, -1), x], dim=2)
        places = self.emb_pos[:, :, : x.shape[2]] + self.emb_len[:, :n_frames]
        return self.norm(x + places).flatten(1, 2)


def normalize(frames, hidden):
    """Frames in [0, 1] to ImageNet's normalization; `hidden` patches become black before it."""
    if hidden is not None:
        keep = (~hidden).to(frames.dtype)
        keep = keep.repeat_interleave(FRAME_STEP, -1).repeat_interleave(FRAME_STEP, -2)
        frames = frames * keep[:, :, None]
    color = [frames.new_tensor(values)[:, None, None] for values in (COLOR_MEAN, COLOR_DEVIATION)]
    return (frames - color[0]) / color[1]


class WordHead(nn.Module):
    """BERT's masked-word head with a matrix of its own."""

    def __init__(self, d_model, vocab_size):
        super().__init__()
        self.predictions = Predictions(d_model, vocab_size)
        self.predictions.decoder = nn.Linear(d_model, vocab_size, bias=False)

    def forward(self, hidden):
        return self.predictions(hidden, self.predictions.decoder.weight)


def mlp_head(d_model, n_outputs, dropout):
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(d_model, 2 * d_model),
        nn.ReLU(),
        nn.Linear(2 * d_model, n_outputs),
    )


class Violet(nn.Module):
    def __init__(self, config):
        super().__init__()
        d_model = config["swin"]["embed_dim"] * 8
        sizes = {**config, "d_model": d_model}
        self.enc_img = FrameEncoder(config, d_model)
        self.enc_txt = nn.ModuleDict({"emb_txt": TextEmbeddings(sizes)})
        self.trsfr = BertEncoder(config["n_layers"], sizes)
        self.fc = mlp_head(d_model, 1, config["dropout"])
        self.fc_mtm = WordHead(d_model, config["vocab_size"])
        self.fc_mvm = mlp_head(d_model, config["n_visual_tokens"], config["dropout"])
        self.temperature = config["temperature"]
        self.primary_frames = config["primary_frames"]
        self.apply(initialize)

    def forward(self, batch):
        """The losses, `[3]`."""
        scores = padding_scores(batch["attention_mask"], batch["frames"].dtype)
        masked_video = self.enc_img(normalize(batch["frames"], batch["hidden_patches"]))
        if self.primary_frames == "masked":
            video = masked_video
        else:
            video = self.enc_img(normalize(batch["frames"], None))
        text = self.enc_txt["emb_txt"](batch["input_ids"])
        masked_text = self.enc_txt["emb_txt"](batch["masked_input_ids"])
        matching = self.matching_loss(text, scores, video)

        # No token of a video is padding. The text stands first; no positions are added.
        hidden = torch.cat([masked_text, masked_video], dim=1)
        hidden = self.trsfr(hidden, torch.cat([scores, video_scores(masked_video)], dim=-1))
        length = masked_text.shape[1]
        words = self.fc_mtm(hidden[:, :length].flatten(0, 1)[batch["predict_words"]])
        words = F.cross_entropy(words, batch["word_targets"])
        patches = self.fc_mvm(hidden[:, length:].flatten(0, 1)[batch["predict_tokens"]])
        patches = F.cross_entropy(patches, batch["token_targets"])
        return torch.stack([matching, words, patches])

    def matching_loss(self, text, text_scores, video):
        """Each video has to find its text among all of them."""
        n_items = text.shape[0]
        text, text_scores = every_pair_of_text(text, text_scores, n_items)
        video, of_video = every_pair_of_video(video, video_scores(video), n_items)
        x = torch.cat([text, video], dim=1)
        scores = torch.cat([text_scores, of_video], dim=-1)
        *before, last = self.trsfr.layer
        for layer in before:
            x = layer(x, scores)
        logits = self.fc(last.first(x, scores)).unflatten(0, (n_items, n_items)).squeeze(-1)
        return diagonal_cross_entropy(logits.T / self.temperature)


def video_scores(video):
    return video.new_zeros(video.shape[0], 1, 1, video.shape[1])


def initialize(module):
    if isinstance(module, (nn.Linear, nn.Embedding, nn.Conv3d)):
        nn.init.normal_(module.weight, std=0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


# --- random inputs --------------------------------------------------------------------


def random_batch(config, args, generator):
    """Pairs of `words` tokens and `frames` square frames.

    In every second text the last quarter is padding. 15 % of the words of a text are masked and
    15 % of the patches of a video are hidden.
    """

    def some_of(first, last):
        """15 % of `first..last`, at least one."""
        count = max(1, round(MASK_PROBABILITY * (last - first)))
        return first + torch.randperm(last - first, generator=generator)[:count]

    length, n_frames = args.words, args.frames
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

    grid = args.side // FRAME_STEP
    per_frame = grid * grid
    per_video = n_frames * per_frame
    patches = torch.cat([item * per_video + some_of(0, per_video) for item in range(args.batch)])
    hidden = torch.zeros(args.batch * per_video, dtype=torch.bool)
    hidden[patches] = True
    tokens = patches // per_frame * (1 + per_frame) + 1 + patches % per_frame
    return {
        "frames": torch.rand(
            args.batch, n_frames, 3, args.side, args.side, generator=generator
        ),
        "hidden_patches": hidden.view(args.batch, n_frames, grid, grid),
        "input_ids": ids,
        "attention_mask": mask,
        "masked_input_ids": masked_ids,
        "predict_words": words,
        "word_targets": ids.view(-1)[words],
        # Each frame's [CLS] stands before its patches.
        "predict_tokens": tokens,
        "token_targets": torch.randint(
            config["n_visual_tokens"], tokens.shape, generator=generator
        ),
    }


# --- comparison with a reference directory --------------------------------------------


def reference_config(config):
    """The config of a reference directory under the names of `--config`."""
    return {
        "swin": {
            "embed_dim": config["swin_embed_dim"],
            "depths": config["swin_depths"],
            "n_heads": config["swin_num_heads"],
            "window": config["swin_window_size"],
            "drop_path": 0.0,
        },
        "vocab_size": config["vocab_size"],
        "n_heads": config["num_attention_heads"],
        "d_ff": config["intermediate_size"],
        "n_layers": config["num_hidden_layers"],
        "max_text_positions": config["max_position_embeddings"],
        "max_frames": config["max_emb_len"],
        "max_patches": config["pos_grid"] ** 2,
        "n_visual_tokens": config["mvm_vocab_size"],
        "dropout": 0.0,
        "temperature": config["temperature"],
        "primary_frames": "masked",
    }


def torchvision_name(name):
    """The name in this file's network of a published parameter."""
    stage = re.match(r"enc_img\.swin\.layers\.(\d)\.(blocks\.|downsample\.)(.*)", name)
    if not stage:
        return name
    index, rest = 2 * int(stage[1]), stage[3]
    if stage[2] == "downsample.":
        return f"enc_img.swin.features.{index + 1}.{rest}"
    rest = rest.replace("mlp.fc1.", "mlp.0.").replace("mlp.fc2.", "mlp.3.")
    return f"enc_img.swin.features.{index}.{rest}"


def labelled(labels):
    """Flat positions and values of labels other than -1."""
    at = (labels.flatten() != -1).nonzero().squeeze(1)
    return at, labels.flatten()[at]


def check(folder):
    from safetensors.torch import load_file

    def tensors(name):
        return {
            key: value.double() if value.is_floating_point() else value
            for key, value in load_file(folder / f"{name}.safetensors").items()
        }

    model = Violet(reference_config(json.loads((folder / "config.json").read_text())))
    weights = tensors("weights")
    del weights["enc_txt.emb_txt.position_ids"]
    alias = "fc_mtm.predictions.decoder.bias"
    if not torch.equal(weights.pop(alias), weights["fc_mtm.predictions.bias"]):
        raise ValueError(f"`{alias}` differs from the tensor to which it is tied")
    model = model.double().eval()
    model.load_state_dict({torchvision_name(name): value for name, value in weights.items()})
    batch = tensors("inputs")
    predict_words, word_targets = labelled(batch["mtm_labels"])
    predict_tokens, token_targets = labelled(batch["mvm_labels"])
    with torch.no_grad():
        losses = model(
            {
                "frames": batch["image"],
                "hidden_patches": batch["patch_mask"].bool(),
                "input_ids": batch["input_ids"],
                "attention_mask": batch["attention_mask"],
                "masked_input_ids": batch["masked_input_ids"],
                "predict_words": predict_words,
                "word_targets": word_targets,
                "predict_tokens": predict_tokens,
                "token_targets": token_targets,
            }
        )
    error = (losses - tensors("expected")["losses"]).abs().max().item()
    return {
        "torch": torch.__version__,
        "losses": dict(zip(LOSSES, losses.tolist())),
        "largest_error": error,
        "ok": error <= CHECK_TOLERANCE,
    }


# --- command line ---------------------------------------------------------------------


def benchmark(args):
    config = json.loads(args.config.read_text())
    torch.manual_seed(args.seed)
    placement = Placement(args)
    model = placement.put(Violet(config).train())
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
    parser.add_argument("--batch", type=int, default=4, help="pairs (default: 4)")
    parser.add_argument("--words", type=int, default=24, help="tokens a text (default: 24)")
    parser.add_argument("--frames", type=int, default=4, help="frames a video (default: 4)")
    parser.add_argument("--side", type=int, default=96, help="pixels a side (default: 96)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default: 5)")
    parser.add_argument("--warmup", type=int, default=1, help="untimed steps (default: 1)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its choice)")
    parser.add_argument("--seed", type=int, default=0)
    add_flags(parser)
    args = parser.parse_args()
    if args.words < 4 or args.frames < 1 or args.batch < 1:
        parser.error("at least 4 words, 1 frame and 1 pair are needed")
    if args.side < FRAME_STEP or args.side % FRAME_STEP:
        parser.error(f"--side has to be a multiple of {FRAME_STEP}")

    if args.threads:
        torch.set_num_threads(args.threads)
    result = check(args.check) if args.check else benchmark(args)
    print(json.dumps(result))
    return 0 if result.get("ok", True) else 1


if __name__ == "__main__":
    sys.exit(main())
