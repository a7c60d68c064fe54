"""The model of `lm/model/llama.py` in PyTorch, for side-by-side timings; stands alone."""

import torch
from torch import nn
from torch.nn import functional as F


class Norm(nn.Module):
    def __init__(self, D):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(D))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.scale.to(x.dtype)


class Block(nn.Module):
    def __init__(self, D, H):
        super().__init__()
        self.heads = H
        self.norms = nn.ModuleList([Norm(D), Norm(D)])
        self.q, self.k, self.v, self.o = (nn.Linear(D, D, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(D, 4 * D, bias=False) for _ in range(2))
        self.down = nn.Linear(4 * D, D, bias=False)

    def forward(self, x, mask, cos, sin):
        def rope(x):
            a, b = x.chunk(2, -1)
            return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

        B, T, D = x.shape
        y = self.norms[0](x)
        shape = (B, T, self.heads, D // self.heads)
        q, k, v = (f(y).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(
            rope(q), rope(k), v, attn_mask=mask, is_causal=mask is None
        )
        x = x + self.o(y.transpose(1, 2).reshape(B, T, D))
        y = self.norms[1](x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    """tokens (B, T) -> mean cross-entropy. `separator` hides documents from each other; None lets
    them see each other, through the flash kernel. Computes in `dtype`, parameters stay fp32.
    """

    def __init__(self, D, L, H, V, T, *, separator=None, dtype=torch.float32):
        super().__init__()
        self.separator, self.dtype = separator, dtype
        self.embed = nn.Embedding(V, D)
        self.blocks = nn.ModuleList(Block(D, H) for _ in range(L))
        self.norm, self.head = Norm(D), nn.Linear(D, V, bias=False)
        frequency = 10_000.0 ** (-torch.arange(0, D // H, 2).float() / (D // H))
        angle = torch.arange(T).float()[:, None] * frequency
        self.register_buffer("cos", angle.cos()[None, None].to(dtype))
        self.register_buffer("sin", angle.sin()[None, None].to(dtype))
        self.register_buffer("causal", torch.tril(torch.ones(T, T, dtype=torch.bool)))

    def forward(self, tokens):
        mask = None
        if self.separator is not None:
            segment = torch.cumsum(tokens == self.separator, -1).roll(1, -1)
            segment[:, 0] = 0
            mask = (self.causal & (segment[:, :, None] == segment[:, None, :]))[:, None]
        low = self.dtype != torch.float32
        with torch.autocast(tokens.device.type, dtype=self.dtype, enabled=low):
            x = self.embed(tokens).to(self.dtype)
            for block in self.blocks:
                x = block(x, mask, self.cos, self.sin)
            logits = self.head(self.norm(x))[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
