"""ADM's denoiser once more, written from the paper: what converted weights of guided-diffusion are compared with."""

import math

import torch
import torch.nn.functional as F


class Original:
    """ADM's denoiser (arXiv 2105.05233, app. B) as a function of weights by guided-diffusion's names.

    Weights are drawn when they are first asked for, so a first call makes the whole state dict; on the device "meta" they have
    shapes only.
    """

    def __init__(self, channels, multipliers, layers, attention, *, device="cpu", **flags):
        self.channels, self.multipliers, self.layers, self.attention = channels, multipliers, layers, attention
        self.device, self.weights = device, {}
        self.generator = torch.Generator().manual_seed(3)
        self.flags = {
            "in_channels": 3,
            "out_channels": 6,
            "num_classes": None,
            "updown": True,
            "scale_shift": True,
            "num_heads": None,
            "num_head_channels": None,
            "new_order": False,
            **flags,
        }
        side = 2 ** len(multipliers)
        self(torch.zeros(1, self.flags["in_channels"], side, side, device=device), torch.zeros(1))

    def weight(self, name, *shape):
        if name not in self.weights:
            if self.device == "meta":
                self.weights[name] = torch.empty(shape, device="meta")
            else:
                noise = torch.randn(shape, generator=self.generator)
                self.weights[name] = noise * math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else noise * 0.2
        return self.weights[name]

    def linear(self, name, x, features):
        return F.linear(x, self.weight(f"{name}.weight", features, x.shape[-1]), self.weight(f"{name}.bias", features))

    def convolve(self, name, x, features, kernel=3, stride=1):
        weight = self.weight(f"{name}.weight", features, x.shape[1], kernel, kernel)
        return F.conv2d(x, weight, self.weight(f"{name}.bias", features), stride=stride, padding=kernel // 2)

    def normalise(self, name, x):
        # A gain around 1: `weight` draws vectors around 0.
        if f"{name}.weight" not in self.weights and self.device != "meta":
            self.weights[f"{name}.weight"] = 1 + 0.2 * torch.randn(x.shape[1], generator=self.generator)
        gain, shift = self.weight(f"{name}.weight", x.shape[1]), self.weight(f"{name}.bias", x.shape[1])
        return F.group_norm(x, 32, gain, shift, eps=1e-5)

    def residual(self, name, x, embedding, features, resample=lambda x: x):
        hidden = resample(F.silu(self.normalise(f"{name}.in_layers.0", x)))
        hidden = self.convolve(f"{name}.in_layers.2", hidden, features)
        if self.flags["scale_shift"]:
            both = self.linear(f"{name}.emb_layers.1", F.silu(embedding), 2 * features)[..., None, None]
            hidden = self.normalise(f"{name}.out_layers.0", hidden) * (1 + both[:, :features]) + both[:, features:]
        else:
            hidden = hidden + self.linear(f"{name}.emb_layers.1", F.silu(embedding), features)[..., None, None]
            hidden = self.normalise(f"{name}.out_layers.0", hidden)
        hidden = self.convolve(f"{name}.out_layers.3", F.silu(hidden), features)
        x = resample(x)
        return hidden + (x if x.shape[1] == features else self.convolve(f"{name}.skip_connection", x, features, kernel=1))

    def attend(self, name, x):
        batch, channels, height, width = x.shape
        heads = self.flags["num_heads"] or channels // self.flags["num_head_channels"]
        pixels = self.normalise(f"{name}.norm", x).flatten(2)  # [B, C, N]
        weight, bias = (
            self.weight(f"{name}.qkv.weight", 3 * channels, channels, 1),
            self.weight(f"{name}.qkv.bias", 3 * channels),
        )
        qkv = F.conv1d(pixels, weight, bias)
        if self.flags["new_order"]:
            q, k, v = qkv.view(batch, 3, heads, channels // heads, -1).transpose(0, 1)
        else:
            q, k, v = qkv.view(batch, heads, 3, channels // heads, -1).permute(2, 0, 1, 3, 4)
        scores = (q.transpose(-1, -2) @ k / math.sqrt(channels // heads)).softmax(dim=-1)  # [B, H, N, N]
        mixed = (v @ scores.transpose(-1, -2)).reshape(batch, channels, -1)
        weight, bias = (
            self.weight(f"{name}.proj_out.weight", channels, channels, 1),
            self.weight(f"{name}.proj_out.bias", channels),
        )
        return x + F.conv1d(mixed, weight, bias).view_as(x)

    def __call__(self, x, timesteps, labels=None, label_embedding=None):
        flags, width = self.flags, 4 * self.channels
        frequencies = 10000 ** (-torch.arange(self.channels // 2) / (self.channels // 2))
        angles = (timesteps.cpu()[:, None] * frequencies).to(self.device)
        embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
        embedding = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", embedding, width)), width)
        if flags["num_classes"] is not None:
            table = self.weight("label_emb.weight", flags["num_classes"], width)
            labels = torch.zeros(len(x), dtype=torch.long, device=self.device) if labels is None else labels
            embedding = embedding + (table[labels] if label_embedding is None else label_embedding)

        features = int(self.channels * self.multipliers[0])
        x = self.convolve("input_blocks.0.0", x, features)
        skips, block, last = [x], 0, len(self.multipliers) - 1
        for level, multiplier in enumerate(self.multipliers):
            features = int(self.channels * multiplier)
            for _ in range(self.layers):
                block += 1
                x = self.residual(f"input_blocks.{block}.0", x, embedding, features)
                if 2**level in self.attention:
                    x = self.attend(f"input_blocks.{block}.1", x)
                skips.append(x)
            if level < last:
                block += 1
                if flags["updown"]:
                    x = self.residual(f"input_blocks.{block}.0", x, embedding, features, lambda x: F.avg_pool2d(x, 2))
                else:
                    x = self.convolve(f"input_blocks.{block}.0.op", x, features, stride=2)
                skips.append(x)
        x = self.residual("middle_block.0", x, embedding, features)
        x = self.residual("middle_block.2", self.attend("middle_block.1", x), embedding, features)
        block = -1
        for level in reversed(range(last + 1)):
            features = int(self.channels * self.multipliers[level])
            for i in range(self.layers + 1):
                block += 1
                x = self.residual(f"output_blocks.{block}.0", torch.cat([x, skips.pop()], dim=1), embedding, features)
                position = 1
                if 2**level in self.attention:
                    x = self.attend(f"output_blocks.{block}.1", x)
                    position = 2
                if level and i == self.layers:
                    name = f"output_blocks.{block}.{position}"
                    if flags["updown"]:
                        x = self.residual(name, x, embedding, features, lambda x: F.interpolate(x, scale_factor=2))
                    else:
                        x = self.convolve(f"{name}.conv", F.interpolate(x, scale_factor=2), features)
        assert not skips
        return self.convolve("out.2", F.silu(self.normalise("out.0", x)), flags["out_channels"])

    @property
    def heads(self):
        return {
            "num_heads": self.flags["num_heads"],
            "num_head_channels": self.flags["num_head_channels"],
            "use_new_attention_order": self.flags["new_order"],
        }
