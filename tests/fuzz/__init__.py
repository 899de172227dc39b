"""Generated inputs for every reader, run under watch: see ``docs/reliability.md``."""
