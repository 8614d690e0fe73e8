#!/usr/bin/env python3
"""Times one UniVL training step in PyTorch, for comparison with `meltr bench train-step`.

A step is the forward pass of the chosen losses, the backward pass of their sum, global
gradient clipping and a BertAdam update, in f32 on the CPU unless flags say otherwise. The network and the losses are
those of the published UniVL with MELTR's eight losses; parameters carry the published names.

Set-up and use (Python 3.9 or later)
    pip install torch==2.9.0 safetensors
    python xtask/peers/univl_train_step.py --config FILE.json --batch 8 --words 48 --frames 48
    python xtask/peers/univl_train_step.py --check DIR

Two things may be computed in more than one way, with the same values (dropout aside):
    --sparse-pairs   The similarity of all B x B pairs. By default every concatenated pair runs
                     through the whole cross encoder, five texts at a time, as in the released
                     code. With the flag tokens are embedded once per text and once per video,
                     and the last layer is computed for the first token only; a single layer
                     also projects keys and values once per text and once per video.
    --sparse-heads   The heads of `mlm` and `mfm` at masked positions only, not at all positions.

Output: one JSON document on stdout, with
    step_seconds       seconds of each timed step
    forward_seconds    seconds of each timed forward pass without gradients. Dropout stays on,
                       as in a step; a config with `"dropout": 0` times it without.
    losses_first_step  each loss in the first step, before any update
    peak_rss_bytes     largest resident memory of this process up to the end of the steps
    peak_device_bytes  largest memory of tensors on a GPU up to there; null on the CPU

With --check the eight losses are compared in f64 with a reference directory (config.json,
weights.safetensors, inputs.safetensors, expected.safetensors) for every combination of the
two flags; the exit status is 1 if any differs by more than 1e-5.
"""

import argparse
import itertools
import json
import resource
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from placement import Placement, add_flags

LOSSES = ["joint", "align", "mlm", "mfm", "m_joint", "m_align", "decoder", "m_decoder"]
LAYER_NORM_EPS = 1e-12
MASKED_SCORE = -10_000.0
MASKED_FRAME_LOGIT = -1e8
TEXTS_AT_ONCE = 5
MASK_PROBABILITY = 0.15
CLS, SEP, MASK = 1, 2, 3  # ids of the random inputs; 0 is padding
CHECK_TOLERANCE = 1e-5

# Published names of tensors that are tied to another one.
TIED = {
    "decoder.embeddings.word_embeddings.weight": "bert.embeddings.word_embeddings.weight",
    "decoder.classifier.cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "decoder.embeddings.position_embeddings.weight": "bert.embeddings.position_embeddings.weight",
    "cls_visual.predictions.weight": "visual.embeddings.word_embeddings.weight",
}


# --- layers ---------------------------------------------------------------------------


def layer_norm(size):
    return nn.LayerNorm(size, eps=LAYER_NORM_EPS)


def padding_scores(mask, dtype):
    """A mask `[B, L]`, 1 = keep, to additive scores `[B, 1, 1, L]`."""
    return (1.0 - mask[:, None, None, :].to(dtype)) * MASKED_SCORE


def causal_scores(mask, dtype):
    """Additive scores `[B, 1, L, L]`: later positions and padded keys are out."""
    length = mask.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    keep = earlier & mask.bool()[:, None, None, :]
    return (~keep).to(dtype) * MASKED_SCORE


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        d_model = config["d_model"]
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.n_heads = config["n_heads"]
        self.dropout = config["dropout"]

    def heads(self, x):
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # [B, H, L, d]

    def forward(self, queries, keys, scores):
        attended = F.scaled_dot_product_attention(
            self.heads(self.query(queries)),
            self.heads(self.key(keys)),
            self.heads(self.value(keys)),
            attn_mask=scores,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return attended.transpose(1, 2).flatten(2)

    def pairwise(self, text, text_scores, video, video_scores):
        """The first token of each text attends to the text and to each video: `[Bt, Bv, D]`."""
        length = text.shape[1]
        query = self.query(text[:, 0]).unflatten(-1, (self.n_heads, -1))  # [Bt, H, d]
        query = query * query.shape[-1] ** -0.5
        text_key, text_value = self.heads(self.key(text)), self.heads(self.value(text))
        video_key, video_value = self.heads(self.key(video)), self.heads(self.value(video))
        to_text = torch.einsum("thd,thld->thl", query, text_key) + text_scores[:, 0]
        to_video = torch.einsum("thd,vhfd->tvhf", query, video_key) + video_scores[:, 0]
        to_text = to_text[:, None].expand(-1, video.shape[0], -1, -1)
        attention = torch.cat([to_text, to_video], dim=-1).softmax(dim=-1)
        attention = F.dropout(attention, self.dropout, self.training)
        from_text = torch.einsum("tvhl,thld->tvhd", attention[..., :length], text_value)
        from_video = torch.einsum("tvhf,vhfd->tvhd", attention[..., length:], video_value)
        return (from_text + from_video).flatten(2)


class ResidualOutput(nn.Module):
    def __init__(self, d_input, config):
        super().__init__()
        self.dense = nn.Linear(d_input, config["d_model"])
        self.LayerNorm = layer_norm(config["d_model"])
        self.dropout = nn.Dropout(config["dropout"])

    def forward(self, x, residual):
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class FeedForward(nn.Module):
    """The second half of a layer, as a base class: its names belong to the layer."""

    def __init__(self, config):
        super().__init__()
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config["d_model"], config["d_ff"])})
        self.output = ResidualOutput(config["d_ff"], config)

    def feed_forward(self, x):
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class BertLayer(FeedForward):
    def __init__(self, config):
        super().__init__(config)
        self.attention = nn.ModuleDict(
            {"self": Attention(config), "output": ResidualOutput(config["d_model"], config)}
        )

    def forward(self, x, scores):
        attended = self.attention["self"](x, x, scores)
        return self.feed_forward(self.attention["output"](attended, x))

    def first(self, x, scores):
        """The output of the first token only, `[B, D]`."""
        query = x[:, :1]
        attended = self.attention["self"](query, x, scores)
        return self.feed_forward(self.attention["output"](attended, query)).squeeze(1)

    def first_pairwise(self, text, text_scores, video, video_scores):
        """The output of the first token of every pair, `[Bt, Bv, D]`, without building pairs."""
        attended = self.attention["self"].pairwise(text, text_scores, video, video_scores)
        return self.feed_forward(self.attention["output"](attended, text[:, :1]))


class BertEncoder(nn.Module):
    def __init__(self, n_layers, config):
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(n_layers))

    def forward(self, x, scores):
        for layer in self.layer:
            x = layer(x, scores)
        return x


class Pooler(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.dense = nn.Linear(d_model, d_model)

    def forward(self, first):
        return torch.tanh(self.dense(first))


# --- encoders and decoder -------------------------------------------------------------


class TextEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        d_model = config["d_model"]
        self.word_embeddings = nn.Embedding(config["vocab_size"], d_model)
        self.position_embeddings = nn.Embedding(config["max_text_positions"], d_model)
        self.token_type_embeddings = nn.Embedding(2, d_model)
        self.LayerNorm = layer_norm(d_model)
        self.dropout = nn.Dropout(config["dropout"])

    def forward(self, ids):
        positions = self.position_embeddings.weight[: ids.shape[1]]
        kind = self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(self.word_embeddings(ids) + (positions + kind)))


class VideoEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        d_model = config["d_model"]
        self.word_embeddings = nn.Linear(config["video_dim"], d_model)
        self.position_embeddings = nn.Embedding(config["max_video_positions"], d_model)
        self.LayerNorm = layer_norm(d_model)
        self.dropout = nn.Dropout(config["dropout"])

    def forward(self, frames):
        positions = self.position_embeddings.weight[: frames.shape[1]]
        return self.dropout(self.LayerNorm(self.word_embeddings(frames) + positions))


class Encoder(nn.Module):
    """Text or video encoder; no loss reads its pooler, which is part of the published network."""

    def __init__(self, embeddings, n_layers, config):
        super().__init__()
        self.embeddings = embeddings
        self.encoder = BertEncoder(n_layers, config)
        self.pooler = Pooler(config["d_model"])

    def forward(self, inputs, scores):
        return self.encoder(self.embeddings(inputs), scores)


class CrossEmbeddings(nn.Module):
    def __init__(self, config):
        super().__init__()
        d_model = config["d_model"]
        self.position_embeddings = nn.Embedding(config["max_cross_positions"], d_model)
        self.token_type_embeddings = nn.Embedding(2, d_model)
        self.LayerNorm = layer_norm(d_model)
        self.dropout = nn.Dropout(config["dropout"])

    def forward(self, x, offset, kinds):
        """Tokens at positions from `offset` on; `kinds` is their type, or one type each."""
        positions = self.position_embeddings.weight[offset : offset + x.shape[1]]
        return self.dropout(
            self.LayerNorm(x + (positions + self.token_type_embeddings.weight[kinds]))
        )


class CrossEncoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embeddings = CrossEmbeddings(config)
        self.encoder = BertEncoder(config["cross_layers"], config)
        self.pooler = Pooler(config["d_model"])

    def forward(self, text, text_scores, video, video_scores):
        """Hidden states of matched pairs, `[B, L + F, D]`, and their scores."""
        kinds = torch.tensor([0] * text.shape[1] + [1] * video.shape[1])
        scores = torch.cat([text_scores, video_scores], dim=-1)
        x = self.embeddings(torch.cat([text, video], dim=1), 0, kinds)
        return self.encoder(x, scores), scores

    def pooled_pairs(self, text, text_scores, video, video_scores):
        """The pooled first token of every pair, `[Bt, Bv, D]`, by way of full pairs."""
        n_videos = video.shape[0]
        rows = []
        chunks = zip(text.split(TEXTS_AT_ONCE), text_scores.split(TEXTS_AT_ONCE))
        for texts, scores in chunks:
            n_texts = texts.shape[0]
            hidden, _ = self(
                *every_pair_of_text(texts, scores, n_videos),
                *every_pair_of_video(video, video_scores, n_texts),
            )
            rows.append(self.pooler(hidden[:, 0]).unflatten(0, (n_texts, n_videos)))
        return torch.cat(rows)

    def pooled_pairs_sparse(self, text, text_scores, video, video_scores):
        """As `pooled_pairs`, without what nobody reads."""
        n_texts, n_videos = text.shape[0], video.shape[0]
        video = self.embeddings(video, text.shape[1], 1)
        text = self.embeddings(text, 0, 0)
        *before, last = self.encoder.layer
        if not before:
            return self.pooler(last.first_pairwise(text, text_scores, video, video_scores))
        text, text_scores = every_pair_of_text(text, text_scores, n_videos)
        video, video_scores = every_pair_of_video(video, video_scores, n_texts)
        x = torch.cat([text, video], dim=1)
        scores = torch.cat([text_scores, video_scores], dim=-1)
        for layer in before:
            x = layer(x, scores)
        return self.pooler(last.first(x, scores)).unflatten(0, (n_texts, n_videos))


def every_pair_of_text(x, scores, n_videos):
    return x.repeat_interleave(n_videos, dim=0), scores.repeat_interleave(n_videos, dim=0)


def every_pair_of_video(x, scores, n_texts):
    return x.repeat(n_texts, 1, 1), scores.repeat(n_texts, 1, 1, 1)


class Predictions(nn.Module):
    def __init__(self, d_model, n_outputs):
        super().__init__()
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(d_model, d_model), "LayerNorm": layer_norm(d_model)}
        )
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, hidden, tied):
        hidden = self.transform["LayerNorm"](F.gelu(self.transform["dense"](hidden)))
        return F.linear(hidden, tied, self.bias)


class TiedHead(nn.Module):
    """A prediction head; its output matrix `[n_outputs, D]` is lent by an embedding."""

    def __init__(self, d_model, n_outputs):
        super().__init__()
        self.predictions = Predictions(d_model, n_outputs)

    def forward(self, hidden, tied):
        return self.predictions(hidden, tied)


class DecoderAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.att = Attention(config)
        self.output = ResidualOutput(config["d_model"], config)

    def forward(self, x, keys, scores):
        return self.output(self.att(x, keys, scores), x)


class DecoderLayer(FeedForward):
    def __init__(self, config):
        super().__init__(config)
        self.slf_attn = DecoderAttention(config)
        self.enc_attn = DecoderAttention(config)

    def forward(self, x, scores, encoded, encoded_scores):
        x = self.slf_attn(x, x, scores)
        return self.feed_forward(self.enc_attn(x, encoded, encoded_scores))


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        d_model = config["d_model"]
        self.embeddings = nn.ModuleDict({"LayerNorm": layer_norm(d_model)})
        layers = nn.ModuleList(DecoderLayer(config) for _ in range(config["decoder_layers"]))
        self.decoder = nn.ModuleDict({"layer": layers})
        self.classifier = nn.ModuleDict({"cls": TiedHead(d_model, config["vocab_size"])})
        self.dropout = nn.Dropout(config["dropout"])

    def forward(self, ids, mask, encoded, encoded_scores, words, positions):
        """Logits `[B, L, V]`; `words` and `positions` are the tables of the text encoder."""
        x = F.embedding(ids, words) + positions[: ids.shape[1]]
        x = self.dropout(self.embeddings["LayerNorm"](x))
        scores = causal_scores(mask, x.dtype)
        for layer in self.decoder["layer"]:
            x = layer(x, scores, encoded, encoded_scores)
        return self.classifier["cls"](x, words)


# --- losses ---------------------------------------------------------------------------


def mean_pool(hidden, mask):
    """Mean over the positions where `mask` is 1, of unit length, `[B, D]`."""
    mask = mask.to(hidden.dtype)
    total = torch.einsum("bl,bld->bd", mask, hidden)
    return F.normalize(total / mask.sum(dim=1, keepdim=True).clamp(min=1.0), dim=-1)


def max_margin(similarity, margin):
    diagonal = similarity.diagonal()
    by_text = F.relu(margin + similarity - diagonal[:, None])
    by_video = F.relu(margin + similarity - diagonal[None, :])
    return (by_text + by_video).mean()


def diagonal_cross_entropy(similarity):
    return F.cross_entropy(similarity, torch.arange(similarity.shape[0]))


class UniVl(nn.Module):
    def __init__(self, config, sparse_pairs=False, sparse_heads=False):
        super().__init__()
        d_model = config["d_model"]
        self.normalize_video = nn.ModuleDict({"visual_norm2d": layer_norm(config["video_dim"])})
        self.bert = Encoder(TextEmbeddings(config), config["text_layers"], config)
        self.visual = Encoder(VideoEmbeddings(config), config["visual_layers"], config)
        self.cross = CrossEncoder(config)
        self.decoder = Decoder(config)
        self.cls = TiedHead(d_model, config["vocab_size"])
        self.cls_visual = TiedHead(d_model, config["video_dim"])
        self.similarity_dense = nn.Linear(d_model, 1)
        self.margin = config["margin"]
        self.sparse_pairs = sparse_pairs
        self.sparse_heads = sparse_heads
        self.apply(initialize)

    def forward(self, batch, which):
        """The losses named in `which`, `[len(which)]`."""
        which_set = set(which)
        losses = {}
        frames = self.normalize_video["visual_norm2d"](batch["video"])
        if which_set & {"joint", "align", "decoder"}:
            pairs = self.encode(batch["input_ids"], frames, batch)
            if "joint" in which_set:
                losses["joint"] = self.joint_loss(pairs, batch)
            if "align" in which_set:
                losses["align"] = self.align_loss(pairs)
            if "decoder" in which_set:
                losses["decoder"] = self.caption_loss(*self.cross(*pairs), batch)
        if which_set & {"mlm", "mfm", "m_joint", "m_align", "m_decoder"}:
            masked_frames = self.normalize_video["visual_norm2d"](batch["masked_video"])
            pairs = self.encode(batch["masked_input_ids"], masked_frames, batch)
            if "m_joint" in which_set:
                losses["m_joint"] = self.joint_loss(pairs, batch)
            if "m_align" in which_set:
                losses["m_align"] = self.align_loss(pairs)
            if which_set & {"mlm", "mfm", "m_decoder"}:
                hidden, scores = self.cross(*pairs)
                length = batch["input_ids"].shape[1]
                if "mlm" in which_set:
                    losses["mlm"] = self.masked_word_loss(hidden[:, :length], batch)
                if "mfm" in which_set:
                    losses["mfm"] = self.masked_frame_loss(hidden[:, length:], frames, batch)
                if "m_decoder" in which_set:
                    losses["m_decoder"] = self.caption_loss(hidden, scores, batch)
        return torch.stack([losses[name] for name in which])

    def encode(self, ids, frames, batch):
        """Hidden states and scores of texts, then of videos."""
        text_scores = padding_scores(batch["attention_mask"], frames.dtype)
        video_scores = padding_scores(batch["video_mask"], frames.dtype)
        text, video = self.bert(ids, text_scores), self.visual(frames, video_scores)
        return text, text_scores, video, video_scores

    def joint_loss(self, pairs, batch):
        text, _, video, _ = pairs
        words = batch["attention_mask"].clone()
        words[:, 0] = 0
        similarity = mean_pool(text, words) @ mean_pool(video, batch["video_mask"]).T
        return max_margin(similarity, self.margin)

    def align_loss(self, pairs):
        cross = self.cross
        pooled_pairs = cross.pooled_pairs_sparse if self.sparse_pairs else cross.pooled_pairs
        return diagonal_cross_entropy(self.similarity_dense(pooled_pairs(*pairs)).squeeze(-1))

    def masked_word_loss(self, hidden, batch):
        hidden, labels = hidden.flatten(0, 1), batch["mlm_labels"].flatten()
        count = (labels != -1).sum().clamp(min=1)
        if self.sparse_heads:
            at = (labels != -1).nonzero().squeeze(1)
            hidden, labels = hidden[at], labels[at]
        logits = self.cls(hidden, self.bert.embeddings.word_embeddings.weight)
        return F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / count

    def masked_frame_loss(self, hidden, frames, batch):
        """Each masked frame is to be told from all frames of the batch."""
        hidden, frames = hidden.flatten(0, 1), frames.flatten(0, 1)
        masked = batch["mfm_labels"].flatten() != -1
        valid = batch["video_mask"].flatten().bool()
        targets = torch.where(masked, torch.arange(len(masked)), -1)
        rows = valid
        count = masked.sum().clamp(min=1)
        if self.sparse_heads:
            at = masked.nonzero().squeeze(1)
            hidden, targets, rows = hidden[at], targets[at], rows[at]
        predicted = self.cls_visual(hidden, self.visual.embeddings.word_embeddings.weight.T)
        logits = predicted @ frames.T
        logits = logits.masked_fill(~(rows[:, None] & valid[None, :]), MASKED_FRAME_LOGIT)
        return F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum") / count

    def caption_loss(self, hidden, scores, batch):
        """Padded positions count, with target 0, as published."""
        logits = self.decoder(
            batch["decoder_input_ids"],
            batch["decoder_mask"],
            hidden,
            scores,
            self.bert.embeddings.word_embeddings.weight,
            self.bert.embeddings.position_embeddings.weight,
        )
        targets = batch["decoder_output_ids"].flatten()
        return F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=-1)


def initialize(module):
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


# --- optimizer ------------------------------------------------------------------------


class BertAdam:
    """Adam without bias correction, with a clipping of its own for each parameter."""

    BETA1, BETA2, EPS, MAX_NORM = 0.9, 0.999, 1e-6, 1.0

    def __init__(self, named_parameters, lr=1e-4, weight_decay=0.01, t_warmup=1000):
        self.lr, self.period = lr, t_warmup + 1
        self.states = []
        for name, parameter in named_parameters:
            exempt = any(part in name for part in ("bias", "LayerNorm.weight"))
            decay = 0.0 if exempt else weight_decay
            self.states.append({"parameter": parameter, "decay": decay, "count": 0})

    @torch.no_grad()
    def step(self):
        for state in self.states:
            parameter = state["parameter"]
            gradient = parameter.grad
            if gradient is None:
                continue
            if state["count"] == 0:
                state["m"], state["v"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["count"] += 1
            scale = self.MAX_NORM / (torch.linalg.vector_norm(gradient).item() + 1e-6)
            if scale < 1.0:
                gradient.mul_(scale)
            m, v = state["m"], state["v"]
            m.lerp_(gradient, 1.0 - self.BETA1)
            v.mul_(self.BETA2).addcmul_(gradient, gradient, value=1.0 - self.BETA2)
            # The schedule `warmup_linear_down`: a sawtooth from 1 to 0.
            lr = self.lr * (1.0 - (state["count"] % self.period) / self.period)
            if state["decay"]:
                parameter.mul_(1.0 - lr * state["decay"])
            parameter.addcdiv_(m, v.sqrt().add_(self.EPS), value=-lr)


# --- random inputs and timing ---------------------------------------------------------


def random_batch(config, batch_size, length, n_frames, generator):
    """Pairs of `length` words and `n_frames` frames, with the caption equal to the text.

    In every second text the last quarter is padding. 15 % of the words and of the frames of
    each pair are masked.
    """

    def mask_some(first, last):
        """15 % of `first..last`, at least one."""
        count = max(1, round(MASK_PROBABILITY * (last - first)))
        return first + torch.randperm(last - first, generator=generator)[:count]

    ids = torch.randint(
        MASK + 1, config["vocab_size"], (batch_size, length), generator=generator
    )
    mask = torch.ones_like(ids)
    mask[1::2, length - length // 4 :] = 0
    ids[:, 0] = CLS
    ends = mask.sum(dim=1)
    ids[torch.arange(batch_size), ends - 1] = SEP
    ids *= mask
    masked_ids, mlm_labels = ids.clone(), torch.full_like(ids, -1)
    for item, end in enumerate(ends.tolist()):
        at = mask_some(1, end - 1)
        mlm_labels[item, at] = ids[item, at]
        masked_ids[item, at] = MASK

    video = torch.randn(batch_size, n_frames, config["video_dim"], generator=generator)
    masked_video = video.clone()
    mfm_labels = torch.full((batch_size, n_frames), -1)
    for item in range(batch_size):
        at = mask_some(0, n_frames)
        mfm_labels[item, at] = at
        masked_video[item, at] = 0.0

    nothing = torch.zeros(batch_size, 1, dtype=ids.dtype)
    decoder_mask = torch.cat([mask[:, 1:], nothing], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "masked_input_ids": masked_ids,
        "mlm_labels": mlm_labels,
        "video": video,
        "video_mask": torch.ones(batch_size, n_frames, dtype=ids.dtype),
        "masked_video": masked_video,
        "mfm_labels": mfm_labels,
        "decoder_input_ids": ids * decoder_mask,
        "decoder_mask": decoder_mask,
        "decoder_output_ids": torch.cat([ids[:, 1:], nothing], dim=1),
    }


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


def timed(action, warmup, steps, placement):
    """Seconds of each call after the first `warmup`."""
    seconds = []
    for _ in range(warmup + steps):
        placement.synchronize()
        start = time.perf_counter()
        action()
        placement.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[warmup:]


def benchmark(args):
    config = json.loads(args.config.read_text())
    torch.manual_seed(args.seed)
    placement = Placement(args)
    model = placement.put(UniVl(config, args.sparse_pairs, args.sparse_heads).train())
    generator = torch.Generator().manual_seed(args.seed)
    batch = placement.put(random_batch(config, args.batch, args.words, args.frames, generator))
    placement.make_default()
    optimizer = BertAdam(model.named_parameters())
    first_losses = []

    def step():
        model.zero_grad(set_to_none=True)
        with placement.computing():
            losses = model(batch, args.losses)
        losses.sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if not first_losses:
            first_losses.extend(losses.detach().tolist())

    step_seconds = timed(step, args.warmup, args.steps, placement)
    peak = peak_rss_bytes()
    device_peak = placement.peak_bytes()
    with torch.no_grad(), placement.computing():
        forward_seconds = timed(
            lambda: model(batch, args.losses), args.warmup, args.steps, placement
        )
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "step_seconds": step_seconds,
        "forward_seconds": forward_seconds,
        "losses_first_step": dict(zip(args.losses, first_losses)),
        "peak_rss_bytes": peak,
        "peak_device_bytes": device_peak,
    }


# --- comparison with a reference directory --------------------------------------------


def reference_config(config):
    """The config of a reference directory under the names of `--config`."""
    return {
        "vocab_size": config["vocab_size"],
        "d_model": config["hidden_size"],
        "n_heads": config["num_attention_heads"],
        "d_ff": config["intermediate_size"],
        "text_layers": config["text_num_hidden_layers"],
        "visual_layers": config["visual_num_hidden_layers"],
        "cross_layers": config["cross_num_hidden_layers"],
        "decoder_layers": config["decoder_num_hidden_layers"],
        "video_dim": config["video_dim"],
        "max_text_positions": config["text_max_position_embeddings"],
        "max_video_positions": config["visual_max_position_embeddings"],
        "max_cross_positions": config["cross_max_position_embeddings"],
        "dropout": config["dropout"],
        "margin": config["margin"],
    }


def load_published(model, weights):
    """Loads all of `weights`; an alias of a tied tensor has to equal it."""
    for alias, name in TIED.items():
        if not torch.equal(weights.pop(alias), weights[name]):
            raise ValueError(f"`{alias}` differs from `{name}`, to which it is tied")
    model.load_state_dict(weights)


def check(folder):
    from safetensors.torch import load_file

    def tensors(name):
        return {
            key: value.double() if value.is_floating_point() else value
            for key, value in load_file(folder / f"{name}.safetensors").items()
        }

    config = reference_config(json.loads((folder / "config.json").read_text()))
    batch = tensors("inputs")
    expected = tensors("expected")["losses"]
    variants = []
    for sparse_pairs, sparse_heads in itertools.product([False, True], repeat=2):
        model = UniVl(config, sparse_pairs, sparse_heads).double().eval()
        load_published(model, tensors("weights"))
        with torch.no_grad():
            losses = model(batch, LOSSES)
        error = (losses - expected).abs().max().item()
        variants.append(
            {
                "sparse_pairs": sparse_pairs,
                "sparse_heads": sparse_heads,
                "losses": dict(zip(LOSSES, losses.tolist())),
                "largest_error": error,
                "ok": error <= CHECK_TOLERANCE,
            }
        )
    ok = all(variant["ok"] for variant in variants)
    return {"torch": torch.__version__, "variants": variants, "ok": ok}


# --- command line ---------------------------------------------------------------------


def loss_names(text):
    names = text.split(",")
    for name in names:
        if name not in LOSSES:
            known = ", ".join(LOSSES)
            raise argparse.ArgumentTypeError(f"unknown loss `{name}`; known are {known}")
    return names


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="sizes of the network")
    what.add_argument("--check", type=Path, metavar="DIR", help="compare with a reference")
    parser.add_argument("--batch", type=int, default=8, help="pairs (default: 8)")
    parser.add_argument("--words", type=int, default=48, help="tokens a text (default: 48)")
    parser.add_argument("--frames", type=int, default=48, help="frames a video (default: 48)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default: 5)")
    parser.add_argument("--warmup", type=int, default=1, help="untimed steps (default: 1)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default: its choice)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--losses", type=loss_names, default=LOSSES, metavar="A,B,...", help="default: all"
    )
    parser.add_argument("--sparse-pairs", action="store_true", help="see above")
    parser.add_argument("--sparse-heads", action="store_true", help="see above")
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
