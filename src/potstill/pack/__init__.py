"""What is shipped: a student's GGUF with all that a stranger needs to use it, and to know what it is.

In:  a finished run (`pack`); a folder or an address where a pack lies (`install`).
Out: folders `<name>-<kind>-<version>`; the same under a home, verified; the path of a pack's model.
Does not know: how a student was made or measured, how its model is run.

A pack is one flat folder:
    manifest.json   what the pack is, how it was made, and size and SHA-256 of every other file
    *.gguf          the model, its tokenizer and its chat template inside; an adapter, where the manifest names one
    MODEL_CARD.md   what it can do, in numbers, and what it cannot
    RUN.md          how to run it: llama.cpp, Ollama, LM Studio, Python, small machines
    Modelfile       for Ollama
    LICENSE         the teacher's
"""

from potstill.pack.build import KINDS, Pro, pack
from potstill.pack.find import find_pack_model, is_pack
from potstill.pack.install import install
from potstill.pack.manifest import Manifest, read_manifest

__all__ = ["KINDS", "Manifest", "Pro", "find_pack_model", "install", "is_pack", "pack", "read_manifest"]
