"""FAST-GRU: a GRU on complete maps with bottleneck gates (FASTER §3.2, Eq. 3 and 4)."""

# ruff: noqa: N806 (the paper's letters)
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ....errors import UsageError
from ....runtime.flop_counter import MapShape
from ....terminal.text import counted
from ..base import Aggregator, uniform_
from ..batch import ClipBatch
from ..cpu_kernels import forget, pack, pack_once, product, product_dtype

_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_threshold_backward = torch.ops.aten.threshold_backward.grad_input

REDUCTION = 4  # r, "which gives good results in our experiments"


class FastGRU(Aggregator[Tensor]):
    """Gates for every position and channel, through c/4 channels; o_0 = x_0. The state is (B, positions, c).

    The 1×1×1 convolutions are products over the positions of all videos. All products with x are one product,
    outside the recurrence. There are six c×c/4 and two separate c×c matrices: Eq. 3 prints one V, but the
    published costs fit only two. One bias per gate (after W), one for the candidate; all start at 0.
    """

    name = "fast-gru"

    def __init__(self, *, map_shapes: Mapping[str, MapShape], num_classes: int, dropout: float) -> None:
        super().__init__(map_shapes=map_shapes, num_classes=num_classes, dropout=dropout)
        c = self.channels
        if c % REDUCTION:
            raise UsageError(
                f"the maps have {counted(c, 'channel')}; fast-gru needs a multiple of {REDUCTION}"
            )
        self.narrow = n = c // REDUCTION
        self.input_weight = nn.Parameter(torch.empty(2 * n + c, c))  # rows: U_rx, U_zx, V_x
        self.squeeze_weight = nn.Parameter(torch.empty(2 * n, c))  # rows: U_ro, U_zo
        self.read_weight = nn.Parameter(torch.empty(c, n))  # W_r'
        self.update_weight = nn.Parameter(torch.empty(c, n))  # W_z'
        self.candidate_weight = nn.Parameter(torch.empty(c, c))  # V_o
        self.read_bias = nn.Parameter(torch.zeros(c))
        self.update_bias = nn.Parameter(torch.zeros(c))
        self.candidate_bias = nn.Parameter(torch.zeros(c))
        for weight in (self.input_weight, self.squeeze_weight, self.candidate_weight):
            uniform_(weight, c)
        uniform_(self.read_weight, n)
        uniform_(self.update_weight, n)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; discards packed weights, so that they are packed again."""
        for weight in self._weights:
            forget(weight)
        return super().train(mode)

    def init(self, x0: Tensor, model0: str) -> Tensor:
        """Return o_0 = x_0."""
        return x0.to(self.dtype).flatten(1, 3)

    def step(self, state: Tensor, x: Tensor, model: str) -> Tensor:
        """Eq. 4, then Eq. 3."""
        dtype = product_dtype(self.fc.weight)
        multiply, (U_x, *weights) = self._products(dtype)
        return self._recur(state, multiply(x.to(dtype).flatten(1, 3), U_x), multiply, weights)

    def readout(self, state: Tensor) -> Tensor:
        """Apply the last layer to the pooled o_t."""
        return self.classify(state.mean(1))

    def forward(self, batch: ClipBatch) -> Tensor:
        """Compute all input projections in one product, then the recurrence."""
        by_time = replace(batch, model_of=batch.model_of.T, row_of=batch.row_of.T)
        x = by_time.dense(product_dtype(self.fc.weight))
        positions = x.shape[2:-1].numel()
        x = x.view(len(x), -1, self.channels)  # (N, B · positions, c)
        if torch.is_grad_enabled() and len(x) > 1:
            state = _recurrence(x, *self._weights, self.read_bias, self.update_bias, self.candidate_bias)
        else:
            state = x[0].to(self.dtype)
            multiply, (U_x, *weights) = self._products(x.dtype)
            for projected in multiply(x[1:], U_x):
                state = self._recur(state, projected, multiply, weights)
        return self.readout(state.view(-1, positions, self.channels))

    @property
    def _weights(self) -> tuple[Tensor, ...]:
        """U_x, U_o, W_r, W_z, V_o."""
        return (
            self.input_weight,
            self.squeeze_weight,
            self.read_weight,
            self.update_weight,
            self.candidate_weight,
        )

    def _products(self, dtype: torch.dtype) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
        """Return a multiply function and its weights: unpacked for autograd and export, else packed."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return F.linear, self._weights
        return product, tuple(pack_once(weight, dtype) for weight in self._weights)

    def _recur(
        self, state: Tensor, projected: Tensor, multiply: Callable[..., Tensor], weights: Sequence[Tensor]
    ) -> Tensor:
        U_o, W_r, W_z, V_o = weights
        b_r, b_z, b_o = (
            b.to(projected.dtype) for b in (self.read_bias, self.update_bias, self.candidate_bias)
        )
        o = state.to(projected.dtype)
        squeezed, recalled = projected[..., : 2 * self.narrow], projected[..., 2 * self.narrow :]
        s_r, s_z = (squeezed + multiply(o, U_o)).relu_().chunk(2, dim=-1)
        read = multiply(s_r, W_r, b_r).sigmoid_()
        update = multiply(s_z, W_z, b_z).sigmoid_()
        candidate = (recalled + multiply(read * o, V_o, b_o)).tanh_()
        return torch.lerp(state, candidate.to(state.dtype), update.to(state.dtype))

    def step_gflops(self, map_shape: MapShape) -> float:
        """Six c×c/4 and two c×c products per position: 3.5 c²."""
        frames, height, width, c = map_shape
        return frames * height * width * (6 * c * (c // REDUCTION) + 2 * c * c) / 1e9


def _recurrence(x: Tensor, *parameters: Tensor) -> Tensor:
    """Return o_{N−1} (rows, c), in the parameters' type, from the maps x (N, rows, c)."""
    state: Tensor = _Recurrence.apply(x, *parameters)  # type: ignore[no-untyped-call]
    return state


class _Recurrence(torch.autograd.Function):
    """The recurrence with a hand-written gradient, for training.

    Saves 5.5·c values per row and step, one map, and the weights, in x's type. The gradient of a weight is
    one product for all steps, after the backward loop. Products are in x's type; the carried state and its
    gradient are in the parameters' type.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        U_x, U_o, W_r, W_z, V_o, b_r, b_z, b_o = cast = [p.to(x.dtype) for p in parameters]
        steps, rows, c = len(x) - 1, x.shape[1], x.shape[2]
        n = c // REDUCTION
        later = x[1:].flatten(0, 1)
        # Modified in place, step by step, to become the squeezed gates and the candidates.
        squeezed = product(later, U_x[: 2 * n]).view(steps, rows, 2 * n)
        candidates = product(later, U_x[2 * n :]).view(steps, rows, c)
        states, reads, updates = (x.new_empty(steps, rows, c) for _ in range(3))
        U_o, W_r, W_z, V_o = (pack(weight) for weight in (U_o, W_r, W_z, V_o))
        state = x[0].to(parameters[0].dtype)
        for t in range(steps):
            o = states[t].copy_(state)
            s_r, s_z = squeezed[t].add_(product(o, U_o)).relu_().chunk(2, dim=-1)
            r = torch.sigmoid(product(s_r, W_r, b_r), out=reads[t])
            z = torch.sigmoid(product(s_z, W_z, b_z), out=updates[t])
            candidate = candidates[t].add_(product(r * o, V_o, b_o)).tanh_()
            state = torch.lerp(state, candidate.to(state.dtype), z.to(state.dtype))
        ctx.save_for_backward(x, squeezed, candidates, states, reads, updates, *cast[:5])
        return state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, squeezed, candidates, states, reads, updates, *weights = ctx.saved_tensors
        n = states.shape[2] // REDUCTION
        U_o, W_r, W_z, V_o = (pack(weight.t()) for weight in weights[1:])
        # Gradients of the inputs of each gate.
        d_squeezed, d_candidates, d_reads, d_updates = (
            torch.empty_like(values) for values in (squeezed, candidates, reads, updates)
        )
        for t in reversed(range(len(states))):
            o, r, z, candidate = states[t], reads[t], updates[t], candidates[t]
            g = grad.to(x.dtype)
            d_candidate = _tanh_backward(g * z, candidate, grad_input=d_candidates[t])
            d_z = _sigmoid_backward((candidate - o).mul_(g), z, grad_input=d_updates[t])
            d_recalled = product(d_candidate, V_o)
            d_r = _sigmoid_backward(d_recalled * o, r, grad_input=d_reads[t])
            d_s = d_squeezed[t]
            d_s[:, :n] = product(d_r, W_r)
            d_s[:, n:] = product(d_z, W_z)
            _threshold_backward(d_s, squeezed[t], 0, grad_input=d_s)
            through = d_recalled.mul_(r).add_(product(d_s, U_o))
            grad = torch.addcmul(grad, grad, z.to(grad.dtype), value=-1).add_(through)
        later, s, recalled = x[1:].flatten(0, 1), squeezed.flatten(0, 1), (reads * states).flatten(0, 1)
        d_s, d_c, d_r, d_z = (d.flatten(0, 1) for d in (d_squeezed, d_candidates, d_reads, d_updates))
        d_x = None
        if ctx.needs_input_grad[0]:
            U_x = weights[0].t()
            d_later = product(d_s, U_x[:, : 2 * n]) + product(d_c, U_x[:, 2 * n :])
            d_x = torch.cat([grad.to(x.dtype), d_later]).view_as(x)
        d_U_x = grad.new_empty(weights[0].shape)
        d_U_x[: 2 * n] = product(d_s.t(), later.t())
        d_U_x[2 * n :] = product(d_c.t(), later.t())
        d_weights = (
            product(d.t(), before.contiguous().t()).to(grad.dtype)
            for d, before in (
                (d_s, states.flatten(0, 1)),
                (d_r, s[:, :n]),
                (d_z, s[:, n:]),
                (d_c, recalled),
            )
        )
        d_biases = (d.sum(0).to(grad.dtype) for d in (d_r, d_z, d_c))
        return d_x, d_U_x, *d_weights, *d_biases


def reference(module: FastGRU, x: Tensor) -> Tensor:
    """Compute Eq. 4 and 3, line by line, as 1×1×1 convolutions: x (B, N, l, h, w, c), logits (B, K)."""
    n, c = module.narrow, module.channels

    def conv(weight: Tensor, maps: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv3d(maps, weight[:, :, None, None, None], bias)

    U_rx, U_zx, V_x = torch.split(module.input_weight, [n, n, c])
    U_ro, U_zo = module.squeeze_weight.chunk(2)
    W_r, W_z, V_o = module.read_weight, module.update_weight, module.candidate_weight
    x = x.movedim(-1, 2)  # (B, N, c, l, h, w)
    o = x[:, 0]
    for t in range(1, x.shape[1]):
        x_t = x[:, t]
        r_narrow = torch.relu(conv(U_rx, x_t) + conv(U_ro, o))
        z_narrow = torch.relu(conv(U_zx, x_t) + conv(U_zo, o))
        r = torch.sigmoid(conv(W_r, r_narrow, module.read_bias))
        z = torch.sigmoid(conv(W_z, z_narrow, module.update_bias))
        o_bar = torch.tanh(conv(V_x, x_t) + conv(V_o, r * o, module.candidate_bias))
        o = (1 - z) * o + z * o_bar
    pooled = F.adaptive_avg_pool3d(o, 1).flatten(1)
    return F.linear(pooled, module.fc.weight, module.fc.bias)
