"""HuBERT, wav2vec 2.0, WavLM and their siblings: Hugging Face classes behind the contract."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechft.encoders.base import Encoder, EncoderOutput, Mode
from speechft.encoders.conversion import configs
from speechft.encoders.group_norm import MaskedGroupNorm
from speechft.errors import ConfigError, DataError, unknown_choice
from speechft.files import PROCESSOR_NAME

SIBLINGS = ("data2vec-audio", "unispeech", "unispeech-sat", "wav2vec2-conformer")
"""Values of ``model_type`` that are served in exact mode only: s3prl's experts for them differ."""

FAMILIES = ("hubert", "wav2vec2", "wavlm", *SIBLINGS)
"""Values of ``model_type`` in config.json that this module serves."""

DROPOUTS = (
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "feat_proj_dropout",
    "layerdrop",
)
"""Names of all dropout rates in the configurations of these families."""

_ATTENTION = ("attention", "self_attn")


def s3prl_lengths(samples: Tensor, frames: int, rate: int = 320) -> Tensor:
    """Return how many frames of each utterance s3prl's featurizer keeps, (B,).

    ``round(samples / rate)``, ties to even, but not more than there are: often one more than the
    convolutions yield, so that the last one may belong to the padding.

    Args:
        samples: Of each utterance, (B,).
        frames: Of the padded batch.
        rate: Samples between frames.
    """
    rounded = [min(frames, round(n / rate)) for n in samples.tolist()]
    return torch.tensor(rounded, device=samples.device)


class HuggingFaceEncoder(Encoder):
    """A Hugging Face speech model with exact lengths and padding-invariant features.

    Args:
        model: Bare model of one of `FAMILIES`.
        normalize: Whether the model wants each waveform scaled to zero mean and unit variance.
        mode: ``exact`` (batched equals unbatched) or ``s3prl`` (s3prl 0.4's masks, lengths and
            padding-dependent statistics).

    Raises:
        ConfigError: ``s3prl`` mode is asked of a family for which it is not known.
    """

    def __init__(self, model: Any, *, normalize: bool = False, mode: Mode = "exact") -> None:
        super().__init__()
        self.model: Any = model
        self.normalize = normalize
        self.mode = mode
        config = self.model.config
        if mode == "s3prl" and config.model_type in SIBLINGS:
            raise ConfigError(
                f"mode 's3prl' is not known for {config.model_type}",
                hint="use mode 'exact'; s3prl mode is for hubert, wav2vec2, wavlm and decoar2",
            )
        saved = {name: getattr(config, name) for name in DROPOUTS}
        self._saved_settings = saved | {
            "apply_spec_augment": getattr(config, "apply_spec_augment", True)
        }
        config.apply_spec_augment = False
        self.num_layers = int(config.num_hidden_layers)
        self.dim = int(config.hidden_size)
        self._strides = self._set_up_downsampler()
        self.hop = math.prod(stride for _, stride in self._strides)
        self.frame_rate = 16_000 / self.hop

    def _set_up_downsampler(self) -> list[tuple[int, int]]:
        """Make the downsampler padding-invariant; return kernel and stride of each convolution."""
        first = self.model.feature_extractor.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first.layer_norm = MaskedGroupNorm.from_group_norm(first.layer_norm)
        config = self.model.config
        pairs = zip(config.conv_kernel, config.conv_stride, strict=True)
        return [(int(kernel), int(stride)) for kernel, stride in pairs]

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return floor((n - kernel) / stride) + 1 through all convolutions."""
        for kernel, stride in self._strides:
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths

    def downsample(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Run the convolutions: (B, S) samples to (B, T, C) features."""
        self._check_lengths(lengths)
        if self.mode == "s3prl":
            waveforms = _as_s3prl_pads(waveforms, lengths)
        if self.normalize:
            waveforms = self._normalized(waveforms, lengths)
        kernel, stride = self._strides[0]
        valid = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        with self._masked_statistics(valid):
            features: Tensor = self.model.feature_extractor(waveforms)
        return features.transpose(1, 2)

    def _check_lengths(self, lengths: Tensor) -> None:
        shortest = int(lengths.min())
        if int(self.frame_lengths(lengths.min())) < 1:
            raise DataError(
                f"an utterance has {shortest} samples, fewer than one frame needs",
                hint="leave out utterances shorter than 25 ms",
            )

    def _project(self, features: Tensor) -> Tensor:
        """Return the (B, T, D) input of the transformer for (B, T, C) features."""
        projected = self.model.feature_projection(features)
        hidden: Tensor = projected[0] if isinstance(projected, tuple) else projected
        return hidden

    def contextualize(
        self, features: Tensor, lengths: Tensor, time_mask: Tensor | None = None
    ) -> EncoderOutput:
        """Run projection and transformer on (B, T, C) features."""
        if self.mode == "s3prl":
            features = features[:, : int(self.frame_lengths(lengths.max()))]
        frames = features.shape[1]
        valid = self._attended_frames(lengths, frames)
        mask = torch.arange(frames, device=features.device) < valid[:, None]
        hidden = self._project(features)
        if time_mask is not None:
            embedding = self.model.masked_spec_embed.to(hidden.dtype)
            hidden = torch.where(time_mask[..., None], embedding, hidden)
        silent = warnings.catch_warnings()
        with self._recorded_layers() as recorded, _zeroed(self._leaks(), mask), silent:
            # WavLM hands torch a boolean mask beside a float bias
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            last = self.model.encoder(hidden, attention_mask=mask)[0]
        states = self._filled(recorded, last)
        lengths = s3prl_lengths(lengths, frames) if self.mode == "s3prl" else valid
        return EncoderOutput(tuple(states), lengths, self.frame_rate)

    def downsampler_names(self) -> frozenset[str]:
        """Return the parameters of the convolutions; the projection above them is not frozen."""
        prefix = "model.feature_extractor."
        return frozenset(name for name, _ in self.named_parameters() if name.startswith(prefix))

    def downsampler_settings(self) -> str:
        """Return strides, normalisation and mode."""
        config = self.model.config
        norm = getattr(config, "feat_extract_norm", "layer")
        kind = (norm, config.feat_extract_activation, config.conv_bias)
        return repr((self._strides, kind, self.normalize, self.mode))

    @property
    def depends_on_batch(self) -> bool:
        """Whether padding leaks into the features, as it does in s3prl."""
        return self.mode == "s3prl"

    def set_dropout(self, rates: dict[str, float]) -> None:
        """Set dropout rates by their names in the Hugging Face configuration.

        Args:
            rates: Any of `DROPOUTS`; those left out are set to 0.

        Raises:
            ConfigError: There is no dropout of that name.
        """
        for name in rates:
            if name not in DROPOUTS:
                raise unknown_choice("dropout", name, DROPOUTS)
        config = self.model.config
        for name in DROPOUTS:
            setattr(config, name, float(rates.get(name, 0.0)))
        for path, module in self.named_modules():
            leaf = path.rpartition(".")[2]
            if isinstance(module, nn.Dropout):
                if leaf == "intermediate_dropout":
                    module.p = config.activation_dropout
                elif "feature_projection" in path:
                    module.p = config.feat_proj_dropout
                elif "self_attn" in path:
                    module.p = config.attention_dropout
                else:
                    module.p = config.hidden_dropout
            elif leaf in _ATTENTION and isinstance(getattr(module, "dropout", None), float):
                module.dropout = config.attention_dropout

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors and preprocessor_config.json.

        The configuration keeps the dropout rates that the encoder came with, not those that a
        recipe set for its training.
        """
        from transformers.utils import logging

        folder.mkdir(parents=True, exist_ok=True)
        config = self.model.config
        in_use = {name: getattr(config, name) for name in self._saved_settings}
        config.update(self._saved_settings)
        logging.disable_progress_bar()
        try:
            self.model.save_pretrained(folder)
        finally:
            config.update(in_use)
        processor = configs.processor(config.to_dict() | {"do_normalize": self.normalize})
        text = json.dumps(processor, indent=2) + "\n"
        (folder / PROCESSOR_NAME).write_text(text, encoding="utf-8")

    def _normalized(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Scale each utterance to zero mean and unit variance over its valid samples."""
        rows = []
        for waveform, length in zip(waveforms, lengths.tolist(), strict=True):
            row = waveform[:length]
            if self.mode == "s3prl":
                row = F.layer_norm(row, row.shape, eps=1e-5)
            else:
                row = F.layer_norm(row.double(), row.shape, eps=1e-7).to(waveform.dtype)
            rows.append(F.pad(row, (0, waveforms.shape[1] - length)))
        return torch.stack(rows)

    def _leaks(self) -> list[nn.Module]:
        """Return the convolutions over time whose input Hugging Face does not clear of padding."""
        encoder = self.model.encoder
        if self.model.config.model_type == "data2vec-audio":
            return [layer.conv for layer in encoder.pos_conv_embed.layers]
        if self.model.config.model_type == "wav2vec2-conformer":
            return [layer.conv_module.depthwise_conv for layer in encoder.layers]
        return []

    def _attended_frames(self, lengths: Tensor, frames: int) -> Tensor:
        """Return how many frames of each utterance attention may see."""
        if self.mode == "exact" or self.model.config.model_type not in ("hubert", "wavlm"):
            return self.frame_lengths(lengths)
        # fairseq's HuBERT: a frame counts unless all samples of its share of the batch are padding
        samples = int(lengths.max())
        share = samples // frames
        return torch.clamp(torch.div(lengths + share - 1, share, rounding_mode="floor"), max=frames)

    @contextlib.contextmanager
    def _masked_statistics(self, lengths: Tensor) -> Iterator[None]:
        norm = getattr(self.model.feature_extractor.conv_layers[0], "layer_norm", None)
        if isinstance(norm, MaskedGroupNorm) and self.mode == "exact":
            norm.lengths = lengths
            try:
                yield
            finally:
                norm.lengths = None
        else:
            yield

    @contextlib.contextmanager
    def _recorded_layers(self) -> Iterator[dict[int, Tensor]]:
        """Collect the output of every layer that runs by its number, from 1; 0 is the input."""
        states: dict[int, Tensor] = {}

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states.setdefault(0, args[0] if args else kwargs["hidden_states"])

        def after(number: int) -> Any:
            def keep(_: nn.Module, __: Any, output: Any) -> None:
                states[number] = output[0] if isinstance(output, tuple) else output

            return keep

        handles = []
        for number, layer in enumerate(self.model.encoder.layers, start=1):
            handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(layer.register_forward_hook(after(number)))
        try:
            yield states
        finally:
            for handle in handles:
                handle.remove()

    def _filled(self, recorded: dict[int, Tensor], last: Tensor) -> list[Tensor]:
        """Return all L + 1 states; a layer that layer drop skipped gives what it was given."""
        states = [recorded.get(0, last)]
        for number in range(1, self.num_layers + 1):
            states.append(recorded.get(number, states[-1]))
        states[-1] = last  # after the final layer norm of pre-LN models
        return states


def _as_s3prl_pads(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Pad with zeros to the longest utterance, whatever the caller's padding was.

    In s3prl the padding is part of the statistics of group normalisation.
    """
    waveforms = waveforms[:, : int(lengths.max())]
    padding = torch.arange(waveforms.shape[1], device=waveforms.device) >= lengths[:, None]
    return waveforms.masked_fill(padding, 0.0)


@contextlib.contextmanager
def _zeroed(modules: Iterable[nn.Module], mask: Tensor) -> Iterator[None]:
    """Set what each module is given, (B, D, T), to zero where the (B, T) mask is false."""

    def clear(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].masked_fill(~mask[:, None], 0.0), *args[1:])

    handles = [module.register_forward_pre_hook(clear) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
