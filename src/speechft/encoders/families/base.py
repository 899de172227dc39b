"""What speechft asks of a family of encoders; each is one object, in a file of its own beside this.

A family's file imports torch and transformers within its methods: merging and conversion ask it for
names and configurations without either.
"""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from speechft.encoders.families.tables import normalise_weight_norm
from speechft.encoders.hints import config_hint
from speechft.encoders.timing import FrameTiming, timing_of
from speechft.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from speechft.encoders.conversion.tensors import Tensor as StoredTensor

Strides = Sequence[tuple[int, int]]
"""Kernel and stride of each step of a downsampler."""


_IN_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")


class Family(ABC):
    """A family of encoders: how its checkpoints are read and how its models compute.

    Shapes: B batch, S samples, T frames, C channels, D dim. ``model`` is the Hugging Face module,
    ``settings`` its configuration as plain values.
    """

    name: ClassVar[str]
    """Value of ``model_type`` in config.json."""
    architecture: ClassVar[str]
    """Class of the bare model, as config.json names it."""
    auto_model: ClassVar[bool] = True
    """Whether ``AutoModel`` of transformers alone loads a folder of it as it was."""
    sizes: ClassVar[Mapping[str, str]] = {}
    """What its configuration calls ``hidden_size`` and the like, where that is otherwise."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """What fields that are read here are where its configuration leaves them out."""
    modes: ClassVar[tuple[str, ...]] = ("exact",)
    """Modes of `speechft.encoders.base` that it has."""
    dropouts: ClassVar[tuple[str, ...]]
    """Names of the dropout rates in its configuration."""
    downsampler: ClassVar[tuple[str, ...]] = ()
    """What names of the downsampler's parameters begin with, in the Hugging Face model."""
    reads_weights: ClassVar[tuple[str, ...]] = ()
    """Classes of modules that hand the weights of their linear layers to a function instead of
    calling the layers, so that an adapter on one would never be seen."""
    takes_normalized: ClassVar[bool] = False
    """Whether the configuration may ask for waveforms of zero mean and unit variance."""
    padding_leaks: ClassVar[bool] = False
    """Whether s3prl's padding changes features of shorter utterances of a batch."""

    markers: ClassVar[tuple[str, ...]]
    """Hugging Face names that together are in every checkpoint of it, the first of them tells what
    stands before all names."""
    s3prl_markers: ClassVar[tuple[str, ...]] = ()
    """The same in the names of s3prl and fairseq, where those files are read."""
    roots: ClassVar[tuple[str, ...]]
    """First parts of the Hugging Face names of the encoder's tensors; others are of heads."""
    in_s3prl: ClassVar[bool] = False
    """Whether files of s3prl and fairseq are read and written."""
    is_fairseq: ClassVar[bool] = False
    """Whether these hold a configuration in fairseq's fields."""
    config_fields: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Further fields of its configuration, those of fairseq on the left."""
    aliases: ClassVar[tuple[str, ...]] = ()
    """What names of its models in fairseq and s3prl begin with, beside its own."""
    assumed_for: ClassVar[tuple[str, ...]] = ()
    """Formats of files that do not tell their family, and are of it unless their tensors do."""
    file_format: ClassVar[str] = "fairseq"
    """Format of a file ``{cfg, model}``, see `open_checkpoint`."""
    bare_format: ClassVar[str] = "fairseq"
    """Format of a file that holds ``{model}`` alone."""

    # how its models compute

    def model_class(self, settings: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return class and configuration of the bare model."""
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_MAPPING

        left_out = ("do_normalize", "sampling_rate", "auto_map", "torch_dtype", "dtype")
        config = AutoConfig.for_model(**{k: v for k, v in settings.items() if k not in left_out})
        kind = MODEL_MAPPING[type(config)]
        config.architectures = [kind.__name__]
        return kind, config

    def whole(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration with what it leaves out and is read here.

        A ``config.json`` may leave out what transformers has a default for.
        """
        lacking = {n: v for n, v in self.defaults.items() if n not in settings}
        return {**settings, **copy.deepcopy(lacking)}

    @abstractmethod
    def strides(self, settings: Mapping[str, Any]) -> Strides:
        """Return kernel and stride of each step from samples to frames."""

    def timing(self, settings: Mapping[str, Any]) -> FrameTiming:
        """Return where its frames lie in time."""
        return timing_of(self.strides(settings))

    def window(self, settings: Mapping[str, Any]) -> int | None:
        """Return the samples that the model always sees, silence added; None where it sees all."""
        return None

    def prepare(self, model: Any) -> Any:
        """Make a model ready, once, and return what is kept beside it, such as filters."""
        return None

    @abstractmethod
    def downsample(self, model: Any, beside: Any, waveforms: Tensor, valid: Tensor) -> Tensor:
        """Return the (B, T, C) output of the downsampler.

        Args:
            model: The Hugging Face model.
            beside: What `prepare` returned.
            waveforms: (B, S).
            valid: (B,) samples of each.
        """

    def downsample_as_s3prl(
        self, model: Any, beside: Any, waveforms: Tensor, valid: Tensor
    ) -> Tensor:
        """Return the same with s3prl's padding-dependent statistics."""
        return self.downsample(model, beside, waveforms, valid)

    @abstractmethod
    def project(self, model: Any, features: Tensor) -> Tensor:
        """Return the (B, T, D) input of the transformer for the downsampler's output."""

    def encode(self, model: Any, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the (B, T, D) final output; the (B, T) mask is true on valid frames."""
        last: Tensor = model.encoder(hidden, attention_mask=mask)[0]
        return last

    def leaks(self, model: Any) -> Sequence[nn.Module]:
        """Return the convolutions over time whose input the model does not clear of padding."""
        return ()

    def s3prl_attends(self, valid: Tensor, lengths: Tensor, frames: int) -> Tensor:
        """Return how many frames of each utterance attention sees in s3prl's mode, (B,).

        Args:
            valid: (B,) frames by the lengths.
            lengths: (B,) samples.
            frames: Of the padded batch.
        """
        return valid

    @abstractmethod
    def set_dropout(self, model: Any) -> None:
        """Make every module of a model follow the rates in its configuration."""

    def processor(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return ``preprocessor_config.json``; None where transformers has no front end for it."""
        return None

    # how its checkpoints are read and written

    def recognises(self, names: set[str]) -> bool:
        """Tell whether unprefixed names, in either spelling, can be of no other family."""
        return False

    def lacking(self, settings: Mapping[str, Any], names: set[str]) -> list[str]:
        """Return Hugging Face names that a whole encoder has and ``names`` lack, without torch.

        Layers are counted by the configuration, and are alike but for the first.
        """
        found = [name for name in self.markers if name not in names]
        layers: dict[int, set[str]] = defaultdict(set)
        for name in names:
            if match := _IN_LAYER.match(name):
                layers[int(match[1])].add(match[2])
        count = settings.get(self.sizes.get("num_hidden_layers", "num_hidden_layers"))
        for number in range(count if layers and isinstance(count, int) else 0):
            if number not in layers:
                found.append(f"encoder.layers.{number}.*")
        common = set().union(*(held for number, held in layers.items() if number))
        for number, held in sorted(layers.items()):
            found += [f"encoder.layers.{number}.{tail}" for tail in sorted(common - held)]
        return found

    def is_pretraining_head(self, name: str) -> bool:
        """Tell whether a name, in either spelling, belongs to a head of its pre-training."""
        return False

    def to_hugging_face(self, name: str) -> str | None:
        """Return the Hugging Face name of an unprefixed s3prl name; None where there is none."""
        return normalise_weight_norm(name)

    def to_s3prl(self, names: Iterable[str]) -> dict[str, str | None]:
        """Return the s3prl name of each unprefixed Hugging Face name; None where it has none."""
        return dict.fromkeys(names)

    def known_sizes(self, tensors: Mapping[str, StoredTensor], source: str) -> dict[str, Any]:
        """Return the fields of the configuration that the shapes of the tensors tell.

        Args:
            tensors: By Hugging Face name.
            source: Where they come from, for messages.

        Raises:
            CheckpointError: Tensors that every encoder has are missing.
        """
        raise CheckpointError(
            f"{source} holds no configuration, and that of a {self.name} encoder cannot be read "
            "off its tensors",
            hint=config_hint(source),
        )

    def published(
        self, tensors: Mapping[str, StoredTensor], source: str
    ) -> tuple[dict[str, Any], str]:
        """Return `known_sizes` with the rest as published, and in words what was taken so.

        Raises:
            CheckpointError: Number of heads or strides cannot be known.
        """
        return self.known_sizes(tensors, source), ""

    def read_fields(
        self, tensors: Mapping[str, StoredTensor], fields: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Return a configuration of sizes by tensors and given fields of s3prl; None by fields."""
        return None

    def fairseq_fields(self, normalize: bool) -> dict[str, Any]:
        """Return fields of a configuration in fairseq's terms that are the same for all."""
        return {}

    def sidecar(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what has to lie beside an s3prl file, which cannot hold it; None for nothing."""
        return None

    def lacks_heads(self, weights: Mapping[str, Any]) -> bool:
        """Tell whether weights by s3prl name lack heads that fairseq's own layout insists on."""
        return False

    def s3prl_content(
        self, settings: Mapping[str, Any], model: dict[str, Any], weights: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the content of an s3prl file; the caller has asked `in_s3prl`.

        Args:
            settings: Configuration in Hugging Face terms, ``do_normalize`` included.
            model: The same in the fields of fairseq.
            weights: Torch tensors by s3prl name.
        """
        raise NotImplementedError

    def from_fairseq(
        self, content: Mapping[str, Any], model: Mapping[str, Any], weights: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what a fairseq file needs in s3prl's layout beside configurations."""
        return {"model_weight": dict(weights)}
