"""What machines can do and what they cost: assumptions, all in this one file.

In:  nothing.
Out: `MACHINES`, `FLEETS`, prices.
Does not know: models, stages.

Peaks, memories and bandwidths are the makers' (dense bfloat16), rounded. Prices, for renting by the
hour, are assumed: nobody looked them up, and they differ by a factor of three between sellers. Change them
here, and `python benchmarks/simulate --table` prints the page's tables anew. The row of the two cores is measured
(benchmarks/signals_throughput.py, train_throughput.py; writing: `potstill answers`, Q4_K_M over eight slots with active
waiting); shares of the peak in the other rows are assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

STORAGE_DOLLARS_GB_MONTH = 0.023


@dataclass(frozen=True)
class Machine:
    """One device with its share of its node.

    Args:
        peak: FLOP/s in bfloat16. memory: bytes. bandwidth: of that memory, bytes/s. dollars: an hour.
        storage, network: bytes/s to the run's shards and between ranks.
        reads, trains: shares of the peak that are reached. writes: share of the memory's bandwidth.
        slots: answers written at the same time, at most.
        wrote: tokens/s measured in writing with the 0.5B teacher, other sizes in proportion; 0: reckoned.
    """

    name: str
    peak: float
    memory: float
    bandwidth: float
    dollars: float
    storage: float
    network: float
    reads: float
    trains: float
    writes: float
    slots: int
    wrote: float = 0.0


MACHINES = {
    machine.name: machine
    for machine in (
        Machine("2 cores", 0.406e12, 24e9, 20e9, 0.10, 0.5e9, 1.25e9, 0.72, 0.49, 0.5, 8, wrote=47.0),
        Machine("L4", 121e12, 24e9, 300e9, 0.80, 0.5e9, 1.25e9, 0.45, 0.35, 0.6, 256),
        Machine("H100", 989e12, 80e9, 3350e9, 3.00, 1.0e9, 50e9, 0.45, 0.35, 0.6, 256),
    )
}
FLEETS = {
    10**3: ("2 cores", 1),
    10**4: ("L4", 1),
    10**5: ("H100", 1),
    10**6: ("H100", 8),
    10**7: ("H100", 8),
    10**8: ("H100", 64),
    10**9: ("H100", 512),
}
"""Prompts → machine and how many of them somebody with so many prompts might rent."""
