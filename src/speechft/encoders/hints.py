"""What to do about checkpoints that lack something, by options that the verb that runs has."""

from __future__ import annotations

from pathlib import Path

from speechft.commands import command, option, takes

CONFIG_ASKED = "give its configuration with "


def config_hint(source: str | Path) -> str:
    """Return how to give a checkpoint the configuration that it does not hold.

    Args:
        source: The checkpoint.
    """
    kinds = "a config.json, an encoder folder, or the checkpoint that it was tuned from"
    if takes("config"):
        return f"{CONFIG_ASKED}{option('config', 'CONFIG')}: {kinds}"
    made = command("convert", source, "encoder", config="CONFIG")
    return f"make a folder of it, {made}, and give that; CONFIG is {kinds}"


def nonfinite_hint() -> str:
    """Return what to do about an encoder with NaN or infinite weights."""
    text = "the training that wrote it diverged"
    if takes("allow_nonfinite"):
        text += f"; {option('allow_nonfinite')} takes it nevertheless"
    return text
