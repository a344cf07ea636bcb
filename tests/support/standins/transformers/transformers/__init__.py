"""A stand-in for transformers: VideoMAE and V-JEPA 2 with one layer, and their checkpoints. See `libraries.py`."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import nn

logging = SimpleNamespace(
    get_verbosity=lambda: 30, set_verbosity=lambda level: None, set_verbosity_error=lambda: None
)


def _cached_file(name, file):
    path = Path(name) / file
    if not path.is_file():
        raise OSError(f"{name} does not appear to have a file named {file}.\nAnd more lines.")
    return str(path)


utils = SimpleNamespace(cached_file=_cached_file)


class _Config:
    def __init__(self, **values):
        self.__dict__.update(values)
        self.id2label = {int(k): v for k, v in values.get("id2label", {}).items()} or self._names(2)

    @staticmethod
    def _names(count):
        return {i: f"LABEL_{i}" for i in range(count)}

    @property
    def num_labels(self):
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count):
        self.id2label = self._names(count)


class VideoMAEConfig(_Config):
    model_type = "videomae"


class VJEPA2Config(_Config):
    model_type = "vjepa2"


class AutoConfig:
    @staticmethod
    def from_pretrained(name):
        values = json.loads(Path(_cached_file(name, "config.json")).read_text())
        kind = {"videomae": VideoMAEConfig, "vjepa2": VJEPA2Config}.get(values["model_type"], _Config)
        return kind(**values)


class _Pretrained(nn.Module):
    base = ""

    def __init__(self, config):
        super().__init__()
        self.config = config

    def save_pretrained(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        values = {**self.config.__dict__, "model_type": self.config.model_type}
        (Path(folder) / "config.json").write_text(json.dumps(values))
        save_file(self.state_dict(), Path(folder) / "model.safetensors")

    @classmethod
    def from_pretrained(
        cls, place, *, config, state_dict, output_loading_info, ignore_mismatched_sizes, dtype
    ):
        assert place is None and output_loading_info and ignore_mismatched_sizes and dtype == torch.float32
        network = cls(config)
        own = network.state_dict()
        if not cls.base:  # a bare network out of a file of a larger one
            state_dict = {
                k.split(".", 1)[1] if k.split(".")[0] in ("videomae", "vjepa2") else k: v
                for k, v in state_dict.items()
            }
        wrong = [k for k in own if k in state_dict and own[k].shape != state_dict[k].shape]
        network.load_state_dict(
            {k: v for k, v in state_dict.items() if k in own and k not in wrong}, strict=False
        )
        return network, {
            "missing_keys": set(own) - set(state_dict),
            "unexpected_keys": set(state_dict) - set(own),
            "mismatched_keys": {(k, state_dict[k].shape, own[k].shape) for k in wrong},
        }


class _Encoder(_Pretrained):
    def __init__(self, config):
        super().__init__(config)
        c, tubelet = config.hidden_size, (config.tubelet_size, config.patch_size, config.patch_size)
        self.patches = nn.Conv3d(3, c, tubelet, tubelet)
        self.layer = nn.TransformerEncoderLayer(c, 2, 2 * c, dropout=0.0, batch_first=True)

    def encode(self, frames, places):
        tokens = self.patches(frames.transpose(1, 2)).flatten(2).transpose(1, 2)
        return SimpleNamespace(
            last_hidden_state=self.layer(tokens + places[:, : tokens.shape[1]].to(tokens.device))
        )


class VideoMAEModel(_Encoder):
    def __init__(self, config):
        super().__init__(config)
        tokens = config.num_frames // config.tubelet_size * (config.image_size // config.patch_size) ** 2
        self.places = torch.linspace(0, 1, tokens, device="cpu")[None, :, None]

    def forward(self, pixel_values):
        if pixel_values.shape[-1] != self.config.image_size:
            raise ValueError("Input image size doesn't match model")
        return self.encode(pixel_values, self.places)


class VJEPA2Model(_Encoder):
    def __init__(self, config):
        super().__init__(config)
        self.predictor = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, pixel_values_videos, skip_predictor=False):
        assert skip_predictor
        return self.encode(pixel_values_videos, torch.zeros(1, 1 << 16, 1))


class VideoMAEForVideoClassification(_Pretrained):
    base = "videomae"

    def __init__(self, config):
        super().__init__(config)
        self.videomae = VideoMAEModel(config)
        self.fc_norm = nn.LayerNorm(config.hidden_size) if config.use_mean_pooling else None
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pixel_values):
        tokens = self.videomae(pixel_values).last_hidden_state
        pooled = self.fc_norm(tokens.mean(1)) if self.fc_norm is not None else tokens[:, 0]
        return SimpleNamespace(logits=self.classifier(pooled))


class VJEPA2AttentivePooler(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.randn(1, 1, config.hidden_size))

    def forward(self, tokens):
        return ((self.query_tokens * tokens).sum(-1, keepdim=True).softmax(1) * tokens).sum(1)


class VJEPA2ForVideoClassification(_Pretrained):
    base = "vjepa2"

    def __init__(self, config):
        super().__init__(config)
        self.vjepa2 = VJEPA2Model(config)
        self.pooler = VJEPA2AttentivePooler(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pixel_values_videos):
        tokens = self.vjepa2(pixel_values_videos, skip_predictor=True).last_hidden_state
        return SimpleNamespace(logits=self.classifier(self.pooler(tokens)))
