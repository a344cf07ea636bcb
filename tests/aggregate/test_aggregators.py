"""Each aggregator's own properties, against what others compute."""

from __future__ import annotations

import pytest
import torch
from batches import MAP_SHAPE, MODELS, NUM_CLASSES, make_batch
from faster.aggregate.average import Average
from faster.aggregate.base import Aggregator
from faster.aggregate.batch import ClipBatch
from faster.aggregate.concat import Concat
from faster.aggregate.fast_gru import FastGRU
from faster.aggregate.lstm import LSTM
from faster.aggregate.registry import build, register
from faster.errors import UsageError
from torch.nn import functional as F

SHAPES = dict.fromkeys(MODELS, MAP_SHAPE)
PAPER = {"r2plus1d50": (1, 7, 7, 2048), "r2d26": (1, 7, 7, 2048)}


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"average, concat, fast-gru, gru, lstm; did you mean fast-gru\?"):
        build("fastgru", map_shapes=SHAPES, num_classes=2)


def test_a_name_is_registered_once() -> None:
    build("gru", map_shapes=SHAPES, num_classes=2)
    with pytest.raises(ValueError, match="already registered, by GRU"):
        register("gru")(Average)


def test_maps_of_different_shapes_are_refused_but_for_average() -> None:
    shapes = {"dear": (1, 2, 2, 8), "cheap": (1, 2, 2, 4)}
    with pytest.raises(UsageError, match=r"dear: 1×2×2×8, cheap: 1×2×2×4"):
        build("gru", map_shapes=shapes, num_classes=2)
    average = build("average", map_shapes=shapes, num_classes=NUM_CLASSES).double()
    batch = make_batch(4, shapes=dict(shapes))
    state = average.init(*batch.at(0))
    for t in range(1, 4):
        state = average.step(state, *batch.at(t))
    torch.testing.assert_close(average(batch), average.readout(state))


def test_fast_gru_costs_and_weighs_what_the_paper_says() -> None:
    with torch.device("meta"):
        fast_gru = build("fast-gru", map_shapes=PAPER, num_classes=400)
    assert fast_gru.step_gflops((1, 1, 1, 2048)) * 1e3 == pytest.approx(14.68, abs=0.005)  # a position, in M
    assert fast_gru.gflops(32, (1, 7, 7, 2048)) == pytest.approx(31 * 49 * 3.5 * 2048**2 / 1e9)
    weights = sum(p.numel() for n, p in fast_gru.named_parameters() if n.endswith("weight"))
    assert weights == 3.5 * 2048**2 + 400 * 2048
    assert sum(p.numel() for n, p in fast_gru.named_parameters() if n.endswith("_bias")) == 3 * 2048


def test_fast_gru_needs_channels_that_its_bottleneck_divides() -> None:
    with pytest.raises(UsageError, match="6 channels; fast-gru needs a multiple of 4"):
        build("fast-gru", map_shapes={"a": (1, 2, 2, 6)}, num_classes=2)


def test_fast_gru_gates_each_position_by_itself() -> None:
    fast_gru = FastGRU(map_shapes=SHAPES, num_classes=NUM_CLASSES, dropout=0.0).double()
    batch = make_batch(2, models=[0, 0], videos=1)
    x = batch.dense(torch.float64)[0]
    state = fast_gru.step(fast_gru.init(x[:1], "dear"), x[1:], "dear")
    changed = x.clone()
    changed[1, 0, 1, 2] += 1.0
    other = fast_gru.step(fast_gru.init(changed[:1], "dear"), changed[1:], "dear")
    moved = (state - other).abs().amax(-1)[0].view(MAP_SHAPE[:3]) > 1e-12
    assert moved.nonzero().tolist() == [[0, 1, 2]]


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


@pytest.mark.parametrize("name", ["fast-gru", "gru", "average"])
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
