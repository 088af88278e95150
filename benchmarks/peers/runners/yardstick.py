"""What this machine can do at most, in the same conditions as everything else here: same threads, same moment.

In:  a job with the seconds to spend.
Out: the processor's name; peak rates of matrix products in float32 and bfloat16, and of copying memory.
Does not know: models.
"""

from __future__ import annotations

import platform

import torch
from telling import Job, Teller, serve, versions

from potstill.machine import copy_gb_per_second, multiplication_gflops, processor_name


def main(job: Job, teller: Teller) -> None:
    """Measure the three."""
    teller.tell("versions", **versions("torch"))
    units = torch.backends.cpu.get_cpu_capability()
    teller.tell("machine", processor=processor_name() or platform.processor(), units=units)
    share = job["seconds"] / 3
    teller.tell(
        "limits",
        float32=multiplication_gflops(torch.float32, share),
        bfloat16=multiplication_gflops(torch.bfloat16, share),
        copied_gb_s=copy_gb_per_second(share),
    )


if __name__ == "__main__":
    serve(main)
