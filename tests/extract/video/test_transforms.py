from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from faster.errors import UsageError
from faster.extract.video.transforms import (
    centre_transform,
    centre_view,
    normalise,
    random_view,
    scaled_size,
)


def test_the_papers_test_view() -> None:
    transform = centre_transform(224)
    assert (transform.size, transform.short_side) == (224, 256)
    view = centre_view(340, 256, transform)
    assert (view.width, view.height, view.left, view.top, view.flip) == (340, 256, 58, 16, False)


def test_other_sizes_scale_both() -> None:
    assert centre_transform(112).short_side == 128
    assert centre_transform(64).short_side == 73


@pytest.mark.parametrize("picture", [(640, 360), (360, 640), (16, 16), (1001, 333)])
def test_scaling_keeps_the_proportions_and_the_shorter_side(picture: tuple[int, int]) -> None:
    width, height = scaled_size(*picture, 128)
    assert min(width, height) == 128
    assert abs(width / height - picture[0] / picture[1]) * 128 <= 1


def test_a_transform_survives_json() -> None:
    fields = centre_transform(112).to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert fields == {"size": 112, "short_side": 128, "crop": "centre", "interpolation": "bilinear"}


def test_random_views_lie_inside_and_cover_the_papers_range() -> None:
    rng = np.random.default_rng(0)
    views = [random_view(rng, 340, 256, 224) for _ in range(2000)]
    assert {view.height for view in views} == set(range(256, 321))
    assert all(0 <= view.left <= view.width - 224 and 0 <= view.top <= view.height - 224 for view in views)
    assert any(view.left == 0 for view in views) and any(view.top == view.height - 224 for view in views)
    assert 900 < sum(view.flip for view in views) < 1100


@pytest.mark.parametrize("size", [0, -3])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        centre_transform(size)
    with pytest.raises(UsageError, match="1 or more"):
        random_view(np.random.default_rng(0), 340, 256, size)


def test_normalise_is_the_formula_channels_first() -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    kept = pixels.clone()
    mean, std = (0.45, 0.4, 0.5), (0.2, 0.25, 0.3)
    found = normalise(pixels, mean, std)
    assert found.dtype == torch.float32
    assert found.shape == (2, 3, 3, 4, 5)
    wanted = (kept.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    torch.testing.assert_close(found.double(), wanted.permute(0, 4, 1, 2, 3), rtol=1e-6, atol=1e-6)
    assert torch.equal(pixels, kept)
