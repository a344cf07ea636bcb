import torch
from faster.runtime.flop_counter import gflops, meta_copy
from torch import nn


def test_a_multiply_add_is_one_flop():
    assert gflops(nn.Linear(30, 40), torch.empty(7, 30)) == 7 * 30 * 40 / 1e9
    conv = nn.Conv3d(3, 8, (3, 5, 5), stride=2, padding=(1, 2, 2))
    assert gflops(conv, torch.empty(2, 3, 8, 16, 16)) == 2 * 8 * (4 * 8 * 8) * (3 * 3 * 5 * 5) / 1e9
    assert gflops(torch.matmul, torch.empty(4, 5), torch.empty(5, 6)) == 4 * 5 * 6 / 1e9
    assert (
        gflops(nn.Sequential(nn.BatchNorm3d(3), nn.ReLU(), nn.MaxPool3d(2)), torch.empty(2, 3, 4, 4, 4)) == 0
    )


def test_counting_leaves_the_module_as_it_is():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    module[1].weight = module[0].bias  # shared
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    copied = meta_copy(module)
    assert all(p.device.type == "meta" for p in copied.parameters()) and copied[1].weight is copied[0].bias
    gflops(module, torch.empty(4, 3))
    assert module.training and all(torch.equal(before[name], t) for name, t in module.state_dict().items())
