"""From a folder that holds a model to a repository on the hub: checked, described, uploaded."""
