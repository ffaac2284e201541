"""kvtool's Python side: the model exporter and the prompt encoder.

Importing the package must stay free of torch and transformers: the prompt
encoder is started by the `kvtool` binary for every text prompt and has to be
up in a fraction of a second.
"""

__version__ = "0.1.0"

# Version of the agreement between an exported file and the engine that runs
# it: the signature of `forward`, the signature of `kvtool::attention` and the
# fields of `kvtool.json`. An engine refuses files of another version.
CONTRACT_VERSION = 1
