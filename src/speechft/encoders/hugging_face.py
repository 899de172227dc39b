"""Hugging Face models behind the encoder contract; what differs by family is asked of it."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechft.encoders.base import Encoder, EncoderOutput, Mode
from speechft.encoders.families import FAMILIES
from speechft.encoders.timing import SAMPLE_RATE
from speechft.errors import ConfigError, DataError, unknown_choice
from speechft.naming import public_config
from speechft.storage.disk import as_usual
from speechft.storage.files import CONFIG_NAME, PROCESSOR_NAME, read_json, write_json


def s3prl_lengths(samples: Tensor, frames: int, rate: int) -> Tensor:
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
        model: Bare model of one of `speechft.encoders.families`.
        normalize: Whether the model wants each waveform scaled to zero mean and unit variance.
        mode: ``exact`` (batched equals unbatched) or ``s3prl`` (s3prl 0.4's masks, lengths and
            padding-dependent statistics).

    Raises:
        ConfigError: ``s3prl`` mode is asked of a family for which it is not known.
    """

    def __init__(self, model: Any, *, normalize: bool = False, mode: Mode = "exact") -> None:
        super().__init__()
        config = model.config
        family = FAMILIES[config.model_type]
        if mode not in family.modes:
            having = sorted(f.name for f in FAMILIES.values() if mode in f.modes)
            raise ConfigError(
                f"mode {mode!r} is not known for {family.name}",
                hint=f"use mode 'exact'; {mode} mode is for {', '.join(having)}",
            )
        self.model: Any = model
        self.normalize = normalize
        self.mode = mode
        self.family = family
        saved = {name: getattr(config, name) for name in family.dropouts}
        self._saved_settings = saved | {
            "apply_spec_augment": getattr(config, "apply_spec_augment", True)
        }
        config.apply_spec_augment = False
        self.num_layers = len(model.encoder.layers)
        self.dim = int(config.hidden_size)
        settings = config.to_dict()
        self.timing, self._strides = family.timing(settings), family.strides(settings)
        self.window = family.window(settings)
        self._beside = [family.prepare(model)]  # a list keeps it out of the module tree

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Return floor((n - kernel) / stride) + 1 through all steps of the downsampler."""
        for kernel, stride in self._strides:
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths

    def downsample(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """Run the downsampler: (B, S) samples to (B, T, C) features."""
        self._check_lengths(lengths)
        if self.depends_on_batch:
            waveforms = _as_s3prl_pads(waveforms, lengths)
        if self.normalize:
            waveforms = self._normalized(waveforms, lengths)
        run = self.family.downsample_as_s3prl if self.mode == "s3prl" else self.family.downsample
        return run(self.model, self._beside[0], waveforms, lengths)

    def _check_lengths(self, lengths: Tensor) -> None:
        shortest = int(lengths.min())
        if int(self.frame_lengths(lengths.min())) < 1:
            raise DataError(
                f"an utterance has {shortest} samples, fewer than one frame needs",
                hint="leave out utterances shorter than 25 ms",
            )
        if self.window is not None and int(lengths.max()) > self.window:
            raise DataError(
                f"an utterance lasts {int(lengths.max()) / SAMPLE_RATE:.1f} s; {self.family.name} "
                f"sees {self.window / SAMPLE_RATE:g} s and takes nothing longer",
                hint="cut it up, or leave it out",
            )

    def contextualize(
        self, features: Tensor, lengths: Tensor, time_mask: Tensor | None = None
    ) -> EncoderOutput:
        """Run projection and transformer on (B, T, C) features."""
        if self.mode == "s3prl":
            features = features[:, : int(self.frame_lengths(lengths.max()))]
        frames = features.shape[1]
        valid = self._attended_frames(lengths, frames)
        mask = torch.arange(frames, device=features.device) < valid[:, None]
        hidden = self.family.project(self.model, features)
        if time_mask is not None:
            hidden = torch.where(time_mask[..., None], self._mask_embedding(hidden), hidden)
        leaks = [] if self.mode == "s3prl" else self.family.leaks(self.model)
        silent = warnings.catch_warnings()
        with self._recorded_layers() as recorded, _zeroed(leaks, mask), silent:
            # WavLM hands torch a boolean mask beside a float bias
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            last = self.family.encode(self.model, hidden, mask)
        states = self._filled(recorded, last)
        if self.window is not None:
            states = [state[:, : int(valid.max())] for state in states]
        if self.mode == "s3prl":
            valid = s3prl_lengths(lengths, frames, self.hop_size)
        return EncoderOutput(tuple(states), valid, self.frame_rate)

    def _mask_embedding(self, hidden: Tensor) -> Tensor:
        embedding = getattr(self.model, "masked_spec_embed", None)
        if embedding is None:
            raise ConfigError(
                f"this {self.family.name} encoder has no mask embedding, which pre-training by "
                "masked prediction needs"
            )
        chosen: Tensor = embedding.to(hidden.dtype)
        return chosen

    def downsampler_names(self) -> frozenset[str]:
        """Return the parameters of the convolutions; the projection above them is not frozen."""
        own = tuple(f"model.{prefix}" for prefix in self.family.downsampler)
        return frozenset(n for n, _ in self.named_parameters() if own and n.startswith(own))

    def downsampler_settings(self) -> str:
        """Return strides, kinds of convolutions, normalisation and mode."""
        names = ("feat_extract_norm", "feat_extract_activation", "conv_bias")
        kind = tuple(getattr(self.model.config, name, None) for name in names)
        return repr((self.family.name, self._strides, kind, self.normalize, self.mode))

    @property
    def depends_on_batch(self) -> bool:
        """Whether padding leaks into the features, as it does in s3prl."""
        return self.mode == "s3prl" and self.family.padding_leaks

    @property
    def dropouts(self) -> dict[str, float]:
        """Return the dropout rates in use by their names in the configuration."""
        config = self.model.config
        return {name: float(getattr(config, name)) for name in self.family.dropouts}

    def set_dropout(self, rates: dict[str, float]) -> None:
        """Set dropout rates by their names in the Hugging Face configuration.

        Args:
            rates: Any of `dropouts`; those left out are set to 0.

        Raises:
            ConfigError: There is no dropout of that name.
        """
        for name in rates:
            if name not in self.family.dropouts:
                raise unknown_choice("dropout", name, self.family.dropouts)
        for name in self.family.dropouts:
            setattr(self.model.config, name, float(rates.get(name, 0.0)))
        self.family.set_dropout(self.model)

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, and preprocessor_config.json where there is one.

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
        for file in folder.glob("*.safetensors"):
            as_usual(file)
        write_json(folder / CONFIG_NAME, public_config(read_json(folder / CONFIG_NAME)))
        settings = config.to_dict() | {"do_normalize": self.normalize}
        processor = self.family.processor(settings)
        if processor is None:
            return
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

    def _attended_frames(self, lengths: Tensor, frames: int) -> Tensor:
        """Return how many frames of each utterance attention may see."""
        valid = self.frame_lengths(lengths)
        if self.mode == "exact":
            return valid
        return self.family.s3prl_attends(valid, lengths, frames)

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
