"""Each aggregator's own properties, against what others compute."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from batches import MAP_SHAPE, MODELS, NUM_CLASSES, make_batch
from faster.aggregate.models.base import Aggregator
from faster.aggregate.models.batch import ClipBatch
from faster.aggregate.models.pooling import attentive_probe
from faster.aggregate.models.pooling.attentive_probe import AttentiveProbe
from faster.aggregate.models.pooling.average import Average
from faster.aggregate.models.pooling.netvlad import NetVLAD
from faster.aggregate.models.pooling.temporal_conv import TemporalConv
from faster.aggregate.models.pooling.tsn import TSN
from faster.aggregate.models.recurrent import fast_gru
from faster.aggregate.models.recurrent.concat import Concat
from faster.aggregate.models.recurrent.fast_gru import FastGRU
from faster.aggregate.models.recurrent.lstm import LSTM
from faster.aggregate.models.registry import build, known_names, register
from faster.errors import UsageError
from torch.nn import functional as F

SHAPES = dict.fromkeys(MODELS, MAP_SHAPE)
PAPER = {"r2plus1d50": (1, 7, 7, 2048), "r2d26": (1, 7, 7, 2048)}


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    known = "attentive-probe, average, concat, fast-gru, gru, lstm, max-pool, netvlad, temporal-conv, tsn; did you mean"
    with pytest.raises(UsageError, match=rf"{known} fast-gru\?"):
        build("fastgru", map_shapes=SHAPES, num_classes=2)


def test_a_name_is_registered_once() -> None:
    build("gru", map_shapes=SHAPES, num_classes=2)
    with pytest.raises(ValueError, match="already registered, by GRU"):
        register("gru")(Average)


OF_ANY_SHAPE = ("average", "tsn")
OTHER_SHAPES = {"dear": (1, 2, 2, 8), "cheap": (1, 2, 2, 4)}


@pytest.mark.parametrize("name", OF_ANY_SHAPE)
def test_maps_of_different_shapes_where_each_model_has_a_head(name: str) -> None:
    aggregator = build(name, map_shapes=OTHER_SHAPES, num_classes=NUM_CLASSES).double()
    batch = make_batch(4, shapes=dict(OTHER_SHAPES))
    state = aggregator.init(*batch.at(0))
    for t in range(1, 4):
        state = aggregator.step(state, *batch.at(t))
    torch.testing.assert_close(aggregator(batch), aggregator.readout(state))


@pytest.mark.parametrize("name", ["concat", "fast-gru", "gru", "lstm"])
def test_recurrent_ones_start_at_the_first_clip(name: str) -> None:
    aggregator = build(name, map_shapes=SHAPES, num_classes=NUM_CLASSES).double().eval()
    assert aggregator.recurrent
    x0, model0 = make_batch(1).at(0)
    logits = aggregator.readout(aggregator.init(x0, model0))
    torch.testing.assert_close(logits, aggregator.fc(x0.mean((1, 2, 3))), rtol=1e-12, atol=1e-12)


POOLING = ("attentive-probe", "average", "max-pool", "netvlad", "tsn")


@pytest.mark.parametrize("name", known_names())
def test_only_pooling_ones_give_one_answer_in_any_order_and_to_a_clip_twice(name: str) -> None:
    aggregator = build(name, map_shapes=SHAPES, num_classes=NUM_CLASSES).double().eval()
    batch = make_batch(4)

    def answer(order: list[int]) -> torch.Tensor:
        return aggregator(
            replace(batch, model_of=batch.model_of[:, order], row_of=batch.row_of[:, order])
        ).softmax(-1)

    forward, back, twice = answer([0, 1, 2, 3]), answer([3, 1, 0, 2]), answer([0, 0, 1, 1, 2, 2, 3, 3])
    same = torch.allclose(forward, back, atol=1e-9) and torch.allclose(forward, twice, atol=1e-9)
    assert same == (name in POOLING)


def test_fast_gru_costs_and_weighs_what_the_paper_says() -> None:
    with torch.device("meta"):
        aggregator = build("fast-gru", map_shapes=PAPER, num_classes=400)
    assert aggregator.step_gflops((1, 1, 1, 2048)) * 1e3 == pytest.approx(
        14.68, abs=0.005
    )  # a position, in M
    assert aggregator.gflops(32, (1, 7, 7, 2048)) == pytest.approx(31 * 49 * 3.5 * 2048**2 / 1e9)
    weights = sum(p.numel() for n, p in aggregator.named_parameters() if n.endswith("weight"))
    assert weights == 3.5 * 2048**2 + 400 * 2048
    assert sum(p.numel() for n, p in aggregator.named_parameters() if n.endswith("_bias")) == 3 * 2048


@pytest.mark.parametrize(
    ("name", "a_step", "once"),
    [
        ("max-pool", 0, 0),
        ("netvlad", 2 * 16 * 2048 * 49, 0),
        ("temporal-conv", 6 * 2048**2, 0),
        ("tsn", 400 * 2048, 0),
        ("attentive-probe", 2 * 8 * 2048 * 49, 2048**2),
    ],
)
def test_the_further_ones_cost_what_the_docs_say(name: str, a_step: int, once: int) -> None:
    with torch.device("meta"):
        aggregator = build(name, map_shapes=PAPER, num_classes=400)
    assert aggregator.step_gflops((1, 7, 7, 2048)) * 1e9 == pytest.approx(a_step)
    assert aggregator.gflops(32, (1, 7, 7, 2048)) * 1e9 == pytest.approx(32 * a_step + once)


@pytest.mark.parametrize(("name", "divisor"), [("fast-gru", 4), ("attentive-probe", 8)])
def test_channels_that_cannot_be_divided_are_refused(name: str, divisor: int) -> None:
    with pytest.raises(UsageError, match=f"6 channels; {name} needs a multiple of {divisor}"):
        build(name, map_shapes={"a": (1, 2, 2, 6)}, num_classes=2)


def test_fast_gru_gates_each_position_by_itself() -> None:
    aggregator = FastGRU(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).double()
    batch = make_batch(2, models=[0, 0], videos=1)
    x = batch.dense(torch.float64)[0]
    state = aggregator.step(aggregator.init(x[:1], "dear"), x[1:], "dear")
    changed = x.clone()
    changed[1, 0, 1, 2] += 1.0
    other = aggregator.step(aggregator.init(changed[:1], "dear"), changed[1:], "dear")
    moved = (state - other).abs().amax(-1)[0].view(MAP_SHAPE[:3]) > 1e-12
    assert moved.nonzero().tolist() == [[0, 1, 2]]


def test_fast_grus_float32_products_on_a_cpu_are_the_equations() -> None:
    shapes = dict.fromkeys(
        MODELS, (1, 3, 3, 64)
    )  # float32 goes another way than the float64 of the conformance suite
    torch.manual_seed(0)
    single = FastGRU(map_shapes=shapes, num_classes=NUM_CLASSES, dropout=0.0)
    double = copy.deepcopy(single).double()
    batch = make_batch(5, shapes=dict(shapes), dtype=torch.float32)
    single.loss(batch).backward()
    x = batch.dense(torch.float64)
    F.cross_entropy(fast_gru.reference(double, x), batch.labels).backward()
    torch.testing.assert_close(single(batch).double(), fast_gru.reference(double, x), rtol=1e-5, atol=1e-5)
    for ours, exact in zip(single.parameters(), double.parameters(), strict=True):
        assert ours.grad is not None and exact.grad is not None and ours.grad.dtype == torch.float32
        assert (ours.grad - exact.grad).norm() <= 1e-5 * exact.grad.norm()


def test_fast_grus_gradients_in_bf16_are_as_near_as_autograds() -> None:
    shapes = dict.fromkeys(MODELS, (1, 3, 3, 64))
    torch.manual_seed(0)
    aggregator = FastGRU(map_shapes=shapes, num_classes=NUM_CLASSES, dropout=0.0)
    batch = make_batch(8, shapes=dict(shapes), dtype=torch.float32)

    def gradients(module: FastGRU, logits: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(F.cross_entropy(logits, batch.labels), list(module.parameters())))

    double = copy.deepcopy(aggregator).double()
    exact = gradients(double, fast_gru.reference(double, batch.dense(torch.float64)))
    with torch.autocast("cpu", torch.bfloat16):
        logits, plainly = aggregator(batch), fast_gru.reference(aggregator, batch.dense(torch.float32))
    ours, theirs = gradients(aggregator, logits), gradients(aggregator, plainly)
    for (name, parameter), a, b, right in zip(
        aggregator.named_parameters(), ours, theirs, exact, strict=True
    ):
        assert a.dtype == parameter.dtype == torch.float32
        error = (a - right).norm() / right.norm()
        assert error < 0.05 and error < 1.5 * (b - right).norm() / right.norm(), name


@pytest.mark.parametrize(("clips", "videos"), [(2, 3), (8, 2), (32, 1)])
@pytest.mark.parametrize("size_bytes", [2, 4])
def test_fast_gru_keeps_what_the_docs_say_for_its_way_back(clips: int, videos: int, size_bytes: int) -> None:
    shape = (2, 3, 3, 64)
    aggregator = FastGRU(map_shapes=dict.fromkeys(MODELS, shape), num_classes=NUM_CLASSES, dropout=0.0)
    batch = make_batch(
        clips, videos=videos, shapes=dict.fromkeys(MODELS, shape), models=[0] + [1] * (clips - 1)
    )
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (
            not isinstance(tensor, torch.nn.Parameter) and tensor.ndim == 3
        ):  # maps, not the last layer's vectors
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=size_bytes == 2),
    ):
        loss = aggregator.loss(batch)
    assert loss.requires_grad
    assert sum(kept.values()) == (5.5 * (clips - 1) + 1) * videos * math.prod(shape) * size_bytes


def test_lstm_is_torchs_own() -> None:
    lstm = LSTM(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).double()
    torch.nn.init.normal_(lstm.bias)
    theirs = torch.nn.LSTM(8, 8, batch_first=True).double()
    order = [0, 1, 3, 2]  # theirs: input, forget, candidate, output
    with torch.no_grad():
        for mine, name in ((lstm.input_weight, "weight_ih_l0"), (lstm.state_weight, "weight_hh_l0")):
            getattr(theirs, name).copy_(torch.cat([mine.chunk(4)[i] for i in order]))
        theirs.bias_ih_l0.copy_(torch.cat([lstm.bias.chunk(4)[i] for i in order]))
        theirs.bias_hh_l0.zero_()
    batch = make_batch(5)
    x = batch.dense(torch.float64).mean((2, 3, 4))
    start = x[None, :, 0].contiguous()
    _, (h, _) = theirs(x[:, 1:], (start, start))
    torch.testing.assert_close(lstm(batch), lstm.fc(h[0]), rtol=1e-9, atol=1e-9)


def test_concat_keeps_running_statistics_for_each_step() -> None:
    concat = Concat(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).double()
    norms = [torch.nn.BatchNorm1d(8).double() for _ in range(4)]
    for seed in range(3):
        batch = make_batch(5, seed=seed)
        concat(batch)
        x = batch.dense(torch.float64).flatten(2, 4)
        o = x[:, 0]
        for t in range(1, 5):
            total = o @ concat.state_weight.T + x[:, t] @ concat.input_weight.T
            o = torch.relu(norms[t - 1](total.flatten(0, 1)).view_as(total))
    for step, norm in enumerate(norms):
        torch.testing.assert_close(concat.running_mean[step], norm.running_mean)
        torch.testing.assert_close(concat.running_var[step], norm.running_var)
    assert int(concat.trained_steps) == 4
    assert torch.equal(concat.running_var[4:], torch.ones(28, 8).double())


def test_concat_reuses_the_last_trained_steps_statistics() -> None:
    concat = Concat(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).double()
    concat(make_batch(3))  # two steps trained
    longer = Concat(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).double()
    longer.load_state_dict(concat.state_dict())
    for buffer in (longer.running_mean, longer.running_var):
        buffer[2:] = buffer[1]
    longer.trained_steps.fill_(32)
    batch = make_batch(40, seed=3)
    torch.testing.assert_close(concat.eval()(batch), longer.eval()(batch), rtol=1e-12, atol=1e-12)


def test_concat_trains_past_its_last_slot() -> None:
    concat = Concat(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).double()
    concat(make_batch(40))
    assert int(concat.trained_steps) == 32
    concat.eval()(make_batch(40)).sum().backward()


def test_average_is_the_mean_of_the_softmax_scores() -> None:
    average = build("average", map_shapes=SHAPES, num_classes=NUM_CLASSES, reads="logits").double()
    batch = make_batch(6, shapes=dict.fromkeys(MODELS, (NUM_CLASSES,)))
    scores = batch.dense(torch.float64).softmax(-1).mean(1)
    torch.testing.assert_close(average(batch).softmax(-1), scores)
    torch.testing.assert_close(average(batch).exp(), scores)


def test_average_of_hopeless_scores_stays_finite() -> None:
    average = build("average", map_shapes=SHAPES, num_classes=NUM_CLASSES, reads="logits")
    batch = make_batch(3, shapes=dict.fromkeys(MODELS, (NUM_CLASSES,)), dtype=torch.float32)
    logits = average(batch.map(lambda _, tensor: tensor * 1e4))
    assert logits.isfinite().all() and F.cross_entropy(logits, batch.labels).isfinite()


def test_average_trains_each_models_head_on_its_own_clips() -> None:
    average = Average(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).double()
    batch = make_batch(4, models=[0, 1, 1, 1])
    expected = torch.zeros((), dtype=torch.float64)
    for index, model in enumerate(MODELS):
        head = average.heads[{"cheap": "head0", "dear": "head1"}[model]]
        losses = [
            F.cross_entropy(head(batch.inputs[model][batch.row_of[v, t]].mean((0, 1, 2))), batch.labels[v])
            for v in range(3)
            for t in range(4)
            if batch.model_of[v, t] == index
        ]
        expected = expected + torch.stack(losses).mean()
    torch.testing.assert_close(average.loss(batch), expected)


def test_netvlad_starts_as_the_assignment_to_the_nearest_centre() -> None:
    torch.manual_seed(0)
    netvlad = NetVLAD(map_shapes=dict.fromkeys(MODELS, (1, 1, 1, 2048)), num_classes=2, dropout=0.0).double()
    x = F.normalize(torch.randn(500, 2048, dtype=torch.float64).abs(), dim=-1)
    with torch.no_grad():
        scores = F.linear(x, netvlad.assign_weight, netvlad.assign_bias)
        distances = torch.cdist(x, netvlad.centres)
    alpha = 8 * 2048**0.5
    # Eq. 2 of NetVLAD; the weights were drawn in float32, and α times their rounding is what is left.
    torch.testing.assert_close(scores.softmax(-1), (-alpha * distances**2).softmax(-1), rtol=0, atol=1e-4)
    first, second = scores.softmax(-1).topk(2).values.unbind(-1)
    assert float((first / second).log().mean().exp()) == pytest.approx(20, rel=0.2)
    assert scores.abs().max() < 64  # without the common offset; with it they are 450


def test_netvlad_does_not_see_how_large_a_position_is() -> None:
    netvlad = NetVLAD(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).double()
    batch = make_batch(3)
    torch.testing.assert_close(netvlad(batch.map(lambda _, x: 1e3 * x)), netvlad(batch))


def test_temporal_conv_sees_five_clips_and_none_to_come() -> None:
    conv = TemporalConv(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).double()
    batch = make_batch(9, models=[0] * 9, videos=1)
    x = batch.dense(torch.float64)[0].requires_grad_()
    state = conv.init(x[:1], "dear")
    reached = []
    for t in range(1, 9):
        before = state
        state = conv.step(before, x[t : t + 1], "dear")
        (grad,) = torch.autograd.grad((state[1] - before[1]).sum(), x, retain_graph=True)
        reached.append(grad.flatten(1).abs().amax(1).nonzero().flatten().tolist())
    assert reached == [list(range(max(0, t - 4), t + 1)) for t in range(1, 9)]


def test_tsn_trains_both_heads_on_the_mean_of_the_logits() -> None:
    tsn = TSN(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).double()
    batch = make_batch(4, models=[0, 1, 1, 1])
    heads = {"cheap": tsn.heads["head0"], "dear": tsn.heads["head1"]}
    videos = []
    for v in range(3):
        clips = [(MODELS[batch.model_of[v, t]], int(batch.row_of[v, t])) for t in range(4)]
        videos.append(sum(heads[model](batch.inputs[model][row].mean((0, 1, 2))) for model, row in clips) / 4)
    torch.testing.assert_close(tsn(batch), torch.stack(videos))
    torch.testing.assert_close(tsn.loss(batch), F.cross_entropy(torch.stack(videos), batch.labels))


def test_the_attentive_probe_is_torchs_own_attention() -> None:
    probe = AttentiveProbe(
        map_shapes=dict.fromkeys(MODELS, (2, 3, 3, 32)), num_classes=NUM_CLASSES, dropout=0.0
    ).double()
    theirs = torch.nn.MultiheadAttention(32, 8, batch_first=True).double()
    query = torch.randn(32, dtype=torch.float64)
    with torch.no_grad():
        w_q, w_k, w_v = theirs.in_proj_weight.chunk(3)
        b_q, _, b_v = torch.nn.init.normal_(theirs.in_proj_bias).chunk(3)  # the keys' cancels in the softmax
        theirs.out_proj.weight.copy_(torch.eye(32))
        q = (w_q @ query + b_q).view(8, 4) / 2  # √(32 / 8)
        probe.query_weight.copy_(torch.einsum("hd,hdc->hc", q, w_k.view(8, 4, 32)))
        probe.value_weight.copy_(w_v)
        probe.value_bias.copy_(b_v)
        torch.nn.init.normal_(probe.norm.weight)
        torch.nn.init.normal_(probe.norm.bias)
    batch = make_batch(5, shapes=dict.fromkeys(MODELS, (2, 3, 3, 32)))
    tokens = F.layer_norm(batch.dense(torch.float64).flatten(1, 4), (32,))
    attended, _ = theirs(query.expand(3, 1, 32), tokens, tokens)
    expected = probe.fc(probe.norm(attended[:, 0]))
    torch.testing.assert_close(probe(batch), expected, rtol=1e-9, atol=1e-9)


def test_the_attentive_probes_softmax_does_not_overflow() -> None:
    probe = AttentiveProbe(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0)
    with torch.no_grad():
        probe.query_weight.mul_(1e4)  # scores of ±10,000; exp(89) is infinite in float32
    batch = make_batch(6, dtype=torch.float32)
    state = probe.init(*batch.at(0))
    for t in range(1, 6):
        state = probe.step(state, *batch.at(t))
    expected = attentive_probe.reference(copy.deepcopy(probe).double(), batch.dense(torch.float64))
    torch.testing.assert_close(probe.readout(state).double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probe(batch).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", known_names())
def test_dropout_acts_in_training_only(name: str) -> None:
    aggregator: Aggregator[object] = build(
        name, map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.5
    ).double()
    batch = make_batch(3)
    assert torch.equal(aggregator.eval()(batch), aggregator(batch))
    aggregator.train()
    assert not torch.equal(aggregator(batch), aggregator(batch))


def test_dense_puts_every_clip_in_its_place() -> None:
    batch = make_batch(7)
    dense = batch.dense(torch.float32)
    for video in range(3):
        for t in range(7):
            model = MODELS[batch.model_of[video, t]]
            clip = batch.inputs[model][batch.row_of[video, t]]
            assert torch.equal(dense[video, t], clip.float())
            assert torch.equal(batch.at(t)[0][video], clip) and batch.at(t)[1] == model


def test_dense_is_a_view_where_it_can_be() -> None:
    maps = torch.randn(12, *MAP_SHAPE)
    batch = ClipBatch(
        models=("one",),
        inputs={"one": maps},
        model_of=torch.zeros(3, 4, dtype=torch.int64),
        row_of=torch.arange(12).view(3, 4),
        labels=torch.zeros(3, dtype=torch.int64),
        videos=torch.arange(3),
    )
    dense = batch.dense(torch.float32)
    assert dense.data_ptr() == maps.data_ptr() and torch.equal(dense, maps.view(3, 4, *MAP_SHAPE))


def test_a_time_of_two_models_cannot_be_a_step() -> None:
    batch = make_batch(2)
    batch.model_of[0, 1] = 0
    with pytest.raises(ValueError, match="time 1 come from more than one model"):
        batch.at(1)
