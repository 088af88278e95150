"""A page for people and an API for programs, in front of llama.cpp.

In:  a run folder or a GGUF, settings.
Out: HTTP on one port.
Does not know: how models are made.
"""

from potstill.serve.server import serve
from potstill.serve.settings import Settings

__all__ = ["Settings", "serve"]
