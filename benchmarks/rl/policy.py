"""The policy, a 0.63M-parameter decoder-only transformer, and its exact success rate on a prompt.

Symbols: P prompts, G responses of each, T tokens of a packed batch, N tokens of the longest row, H
heads, K channels a head, D = H·K channels, V tokens of the vocabulary, R response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.rl.tasks import MAX_ANSWER_TOKENS, Prompt, Tokenizer

Ids = list[int]

ROPE_BASE = 100.0
"""Rows are 15 to 45 tokens long: 10,000, made for thousands, would leave most channels unturned."""


@dataclass(frozen=True)
class Packed:
    """Prompts with their responses, a row a prompt: the prompt once, then responses side by side.

    A response attends to the prompt and to itself, and its positions continue the prompt's, so that
    a group of G responses costs one pass over the prompt. Only attention sees the padded grid [P,
    N]; all else is flat.
    """

    tokens: Tensor  # [T] int64
    positions: Tensor  # [T] int64, for the rotary embedding
    slots: Tensor  # [T] int64, place in the flattened grid [P·N]
    mask: Tensor  # [P, 1, N, N] bool, True where a query (row) may see a key (column)
    sources: Tensor  # [R] int64, index into T of the token that predicts a response token
    targets: Tensor  # [R] int64, the response tokens, response by response
    owners: Tensor  # [R] int64, number of the response in 0 ... P·G - 1


def pack(prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]]) -> Packed:
    """Lay out `responses[i]`, any number of them, behind `prompts[i]`.

    The last token of a response is predicted and predicts nothing, so it is not among the inputs.
    """
    width = max(
        len(prompt) + sum(len(r) - 1 for r in group)
        for prompt, group in zip(prompts, responses, strict=True)
    )
    segments = np.full((len(prompts), width), -1)

    tokens: Ids = []
    positions: Ids = []
    slots: Ids = []
    sources: Ids = []
    targets: Ids = []
    owners: Ids = []
    response_number = 0
    for row, (prompt, group) in enumerate(zip(prompts, responses, strict=True)):
        start = len(tokens)
        tokens += prompt
        positions += range(len(prompt))
        last = len(tokens) - 1

        segments[row, : len(prompt)] = 0
        for number, response in enumerate(group, start=1):
            at = len(tokens)
            sources += [last, *range(at, at + len(response) - 1)]
            targets += response
            owners += [response_number] * len(response)
            segments[row, at - start : at - start + len(response) - 1] = number
            tokens += response[:-1]
            positions += range(len(prompt), len(prompt) + len(response) - 1)
            response_number += 1

        slots += range(row * width, row * width + len(tokens) - start)

    seg = torch.from_numpy(segments)
    own = (seg[:, :, None] == seg[:, None, :]) | (seg[:, None, :] == 0)

    return Packed(
        tokens=_long(tokens),
        positions=_long(positions),
        slots=_long(slots),
        mask=torch.tril(own)[:, None],
        sources=_long(sources),
        targets=_long(targets),
        owners=_long(owners),
    )


def _long(values: Ids) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


class Block(nn.Module):
    """One pre-norm transformer layer, split at the attention: packed and cached passes share it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in = nn.RMSNorm(width)
        self.qkv_in = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_mid = nn.RMSNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def qkv(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, rotated, and values, each [T, H, K], of x [T, D]."""
        q, k, v = self.qkv_in(self.norm_in(x)).view(len(x), 3, self.heads, -1).unbind(1)
        return _rotate(q, rope), _rotate(k, rope), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer, [T, D], given the heads' outputs [T, H, K]."""
        x = x + self.out(attended.reshape(len(x), -1))
        hidden: Tensor = self.down(functional.gelu(self.up(self.norm_mid(x))))
        return x + hidden


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Policy(nn.Module):
    """The language model and everything that is asked of it."""

    def __init__(self, width: int = 128, layers: int = 3, heads: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.tokenizer = Tokenizer()
        self.heads = heads
        self.channels = width // heads
        generator = torch.Generator().manual_seed(seed)
        self.embed = nn.Embedding(len(self.tokenizer), width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, len(self.tokenizer), bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02, generator=generator)

        frequencies = ROPE_BASE ** (-torch.arange(0, self.channels, 2) / self.channels)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[:, None, None] * self.get_buffer("frequencies")
        return angles.cos(), angles.sin()

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def hidden(self, packed: Packed, cache: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Last hidden states [T, D].

        A list given as `cache` receives each layer's keys and values [P, H, N, K].
        """
        rows, _, width, _ = packed.mask.shape
        rope = self._rope(packed.positions)
        x: Tensor = self.embed(packed.tokens)

        for block in self._blocks():
            q, k, v = (self._grid(t, packed.slots, rows, width) for t in block.qkv(x, rope))
            if cache is not None:
                cache.append((k, v))
            attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=packed.mask)
            x = block.finish(
                x, attended.transpose(1, 2).reshape(rows * width, self.heads, -1)[packed.slots]
            )

        normed: Tensor = self.norm(x)
        return normed

    def _grid(self, flat: Tensor, slots: Tensor, rows: int, width: int) -> Tensor:
        """Spread [T, H, K] over the padded grid: [P, H, N, K]."""
        grid = flat.new_zeros(rows * width, self.heads, self.channels).index_copy(0, slots, flat)
        return grid.view(rows, width, self.heads, self.channels).transpose(1, 2)

    def token_logps(self, packed: Packed) -> Tensor:
        """Log-probability [R] of every response token."""
        logits = self.head(self.hidden(packed)[packed.sources])
        return -functional.cross_entropy(logits, packed.targets, reduction="none")

    def response_logps(self, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]]) -> Tensor:
        """Log-probability of every whole response, [P·G].

        Each prompt passes through the network once.
        """
        packed = pack(prompts, responses)
        total = torch.zeros(sum(len(group) for group in responses))
        return total.index_add(0, packed.owners, self.token_logps(packed))

    @torch.no_grad()
    def success_rates(self, prompts: Sequence[Prompt], chunk: int = 256) -> NDArray[np.float64]:
        """The exact probability [P] that one sampled response (temperature 1) is right.

        Only one response is right, so its probability, the product of its tokens', is the success
        rate.
        """
        encode = self.tokenizer
        ids = [encode.prompt_ids(p) for p in prompts]
        answers = [[encode.answer_ids(p.answer)] for p in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(ids[i]) + len(answers[i][0]))
        rates = np.empty(len(prompts))

        for start in range(0, len(order), chunk):
            part = order[start : start + chunk]
            logps = self.response_logps([ids[i] for i in part], [answers[i] for i in part])
            rates[part] = logps.double().exp().numpy()

        return rates

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Ids], group: int, generator: torch.Generator
    ) -> list[list[Ids]]:
        """`group` responses to each prompt at temperature 1.

        They end with the end token unless cut at the limit.
        """
        packed = pack(prompts, [[] for _ in prompts])
        cache: list[tuple[Tensor, Tensor]] = []
        hidden = self.hidden(packed, cache)
        lengths = torch.tensor([len(p) for p in prompts])
        x = hidden[lengths.cumsum(0) - 1].repeat_interleave(group, 0)
        decoder = _Decoder(self, cache, lengths, group)
        emitted: list[Tensor] = []
        ended = torch.zeros(len(x), dtype=torch.bool)

        for step in range(MAX_ANSWER_TOKENS):
            token = torch.multinomial(self.head(x).softmax(-1), 1, generator=generator)[:, 0]
            emitted.append(token)
            ended |= token == Tokenizer.END
            if bool(ended.all()) or step == MAX_ANSWER_TOKENS - 1:
                break
            x = decoder.step(token, step)

        rows = [_until_end(row) for row in torch.stack(emitted, 1).tolist()]
        return [rows[i : i + group] for i in range(0, len(rows), group)]


def _until_end(ids: Ids) -> Ids:
    return ids[: ids.index(Tokenizer.END) + 1] if Tokenizer.END in ids else ids


class _Decoder:
    """Generates P·G rows token by token, starting from the prompts' cached keys and values."""

    def __init__(
        self, policy: Policy, cache: list[tuple[Tensor, Tensor]], lengths: Tensor, group: int
    ) -> None:
        self.policy = policy
        self.width = int(lengths.max())
        self.lengths = lengths.repeat_interleave(group)
        self.keys, self.values = (
            [
                functional.pad(layer[i].repeat_interleave(group, 0), (0, 0, 0, MAX_ANSWER_TOKENS))
                for layer in cache
            ]
            for i in (0, 1)
        )
        column = torch.arange(self.width + MAX_ANSWER_TOKENS)
        self.mask = ((column < self.lengths[:, None]) | (column >= self.width))[:, None, None]

    def step(self, token: Tensor, step: int) -> Tensor:
        """Hidden states [P·G, D] after the `step`-th emitted tokens [P·G]."""
        policy = self.policy
        at = self.width + step
        rope = policy._rope(self.lengths + step)
        x: Tensor = policy.embed(token)

        for block, keys, values in zip(policy._blocks(), self.keys, self.values, strict=True):
            q, keys[:, :, at], values[:, :, at] = block.qkv(x, rope)
            attended = functional.scaled_dot_product_attention(
                q[:, :, None],
                keys[:, :, : at + 1],
                values[:, :, : at + 1],
                attn_mask=self.mask[..., : at + 1],
            )
            x = block.finish(x, attended[:, :, 0])

        normed: Tensor = policy.norm(x)
        return normed
