"""The whole configuration of a checkpoint: its own, given, found beside it, or as published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechft.console import log
from speechft.encoders.conversion import configs
from speechft.encoders.conversion.checkpoints import BIN_NAME, Checkpoint
from speechft.encoders.conversion.schema import check_settings
from speechft.encoders.families import FAMILIES, Family, find_family
from speechft.encoders.hints import config_hint
from speechft.encoders.opening import open_encoder, say_once
from speechft.encoders.timing import SAMPLE_RATE
from speechft.errors import CheckpointError
from speechft.storage.files import CONFIG_NAME, WEIGHTS_NAME, read_json, read_processor


def complete_settings(
    checkpoint: Checkpoint, given: str | Path | Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the configuration in Hugging Face terms, ``do_normalize`` included.

    s3prl's downstream checkpoints, SPIN's, DeCoAR 2.0's and bare weights do not tell it. Then it
    comes from ``given``, from a file beside the weights (``NAME.config.json``, or ``config.json``
    for ``model.safetensors``), from the upstream checkpoint that s3prl's arguments name, or sizes
    are read off the tensors and the rest is taken as published, which is said.

    Args:
        checkpoint: The open checkpoint.
        given: A configuration, its file, an encoder folder or a checkpoint; overrides all others.

    Raises:
        CheckpointError: There is no configuration, or it is not of this checkpoint's family.
    """
    if isinstance(given, Mapping):
        settings = dict(given)
    elif given is not None:
        settings = _read(given, checkpoint)
        log(f"configuration of {checkpoint.source}: {given}")
    else:
        settings = told_settings(checkpoint) or published_settings(checkpoint)
    check_settings(settings, checkpoint.source)
    family = settings.get("model_type")
    if checkpoint.family not in (None, family):
        raise CheckpointError(
            f"{checkpoint.source} is a {checkpoint.family} model; its configuration is of type "
            f"{family!r}"
        )
    known = find_family(family)
    settings = dict(settings) if known is None else known.whole(settings)
    if not takes_normalized(family):
        return settings
    own = configs.told_normalisation(checkpoint.content)
    if given is not None and own is not None and settings.get("do_normalize") != own:
        log(
            f"{checkpoint.source} was trained on waveforms "
            f"{'normalised' if own else 'as they are'}: taken, whatever {given} says"
        )
        settings["do_normalize"] = own
    if settings.get("do_normalize") is None:
        settings["do_normalize"] = implied_normalisation(settings)
    if settings["do_normalize"] not in (True, False):
        raise CheckpointError(
            f"{checkpoint.source}: do_normalize is {settings['do_normalize']!r}, expected true or "
            "false",
            hint="mend preprocessor_config.json",
        )
    return settings


def check_rate(settings: Mapping[str, Any], source: str) -> None:
    """Refuse an encoder whose preprocessor takes another rate than the audio is read at.

    Raises:
        CheckpointError: It does.
    """
    rate = settings.get("sampling_rate")
    if rate not in (None, SAMPLE_RATE):
        raise CheckpointError(
            f"{source} takes audio at {rate!r} Hz, as its preprocessor_config.json says; here "
            f"encoders are given {SAMPLE_RATE} Hz",
            hint="if the file is wrong, mend sampling_rate there; if not, evaluate it as an encoder"
            " of your own, which is given its own sampling_rate: docs/encoders.md",
        )


def takes_normalized(family: str | None) -> bool:
    """Return whether a configuration of this ``model_type`` may ask for normalised waveforms."""
    known = find_family(family)
    return known is None or known.takes_normalized


def told_settings(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Return the configuration that a checkpoint or a file beside it tells; None without one."""
    own = checkpoint.settings()
    if own is not None or (beside := _beside(checkpoint)) is None:
        return own
    log(f"configuration of {checkpoint.source}: {beside}")
    return _read(beside, checkpoint)


def implied_normalisation(settings: Mapping[str, Any]) -> bool:
    """Return whether an encoder takes normalised waveforms when nothing says so.

    As published: models with a layer norm after every convolution do.
    """
    family = find_family(settings.get("model_type"))
    default = "layer" if family is None else family.defaults.get("feat_extract_norm", "layer")
    return bool(settings.get("feat_extract_norm", default) == "layer")


def sidecar(file: Path) -> Path | None:
    """Return the configuration that lies beside a file of weights; None where there is none."""
    candidates = [file.with_suffix(".config.json")]
    if file.name in (WEIGHTS_NAME, BIN_NAME):
        candidates.append(file.with_name(CONFIG_NAME))
    return next((path for path in candidates if path.is_file()), None)


def _beside(checkpoint: Checkpoint) -> Path | None:
    """Return the file that holds the configuration of a checkpoint without one."""
    is_file = checkpoint.folder is None and len(checkpoint.files) == 1
    if is_file and (beside := sidecar(checkpoint.files[0])) is not None:
        return beside
    upstream = (checkpoint.content.get("Args") or {}).get("upstream_ckpt")
    return Path(upstream) if isinstance(upstream, str) and Path(upstream).is_file() else None


def _read(given: str | Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Read a configuration for ``checkpoint`` from JSON, or from what is an encoder elsewhere."""
    path = Path(given).expanduser()
    if path.is_dir() or path.suffix != ".json":
        settings = open_encoder(given).settings()
        if settings is None:
            raise CheckpointError(f"{given} has no configuration", hint=config_hint(given))
        return settings
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected a configuration")
    if "encoder_embed_dim" not in content:
        content = configs.checked(content, path)
    if "model_type" in content:
        processor = read_processor(path.parent) or {}
        of_audio = ("do_normalize", "sampling_rate")
        return {**{k: processor[k] for k in of_audio if k in processor}, **content}
    if "encoder_embed_dim" in content:
        content = {"cfg": content}
    if not configs.describes_model(content):
        raise CheckpointError(
            f"{path} is not a configuration: it has neither model_type (Hugging Face) nor "
            f"encoder_embed_dim (s3prl, fairseq); its keys: {', '.join(map(str, content))[:200]}"
        )
    tensors = checkpoint.by_name()
    family = find_family(checkpoint.family)
    read = None if family is None else family.read_fields(tensors, configs.sections(content)[0])
    return read or configs.to_hugging_face(content, checkpoint.family, tensors)


def published_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return sizes as the tensors tell them, and what they do not tell as it was published.

    Raises:
        CheckpointError: Family, number of heads or strides cannot be known.
    """
    tensors = checkpoint.by_name()
    settings, told = _family(checkpoint).published(tensors, checkpoint.source)
    say_once(f"{checkpoint.source} holds no configuration: {told}")
    return settings


def _family(checkpoint: Checkpoint) -> Family:
    known = find_family(checkpoint.family)
    if known is not None and known.in_s3prl:
        return known
    named = (checkpoint.content.get("Args") or {}).get("upstream")
    if isinstance(named, str):
        return FAMILIES[configs.family_by_name(named)]
    families = [f for f in FAMILIES.values() if f.is_fairseq]
    below = (checkpoint.prefix or "").removesuffix(".").rpartition(".")[2]  # transformers' prefix
    for family in families:
        if family.name.replace("-", "_") == below:
            return family
    for family in families:
        if checkpoint.format in family.assumed_for:
            return family
    raise CheckpointError(
        f"{checkpoint.source} holds no configuration and no pre-training head, so that it cannot "
        f"be told which of these it is: {', '.join(f.name for f in families)}",
        hint=config_hint(checkpoint.source),
    )


def known_sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of the configuration that the shapes of the tensors tell.

    Raises:
        CheckpointError: Tensors that every encoder has are missing.
    """
    family = find_family(checkpoint.family)
    if family is None:
        family = next(f for f in FAMILIES.values() if f.is_fairseq)
    return family.known_sizes(checkpoint.by_name(), checkpoint.source)
