"""Table of the recipe that says where heavy files live beside the run folder.

In:  nothing.
Out: `StorageSection`.
Does not know: file systems, which files are kept.
"""

from __future__ import annotations

from pydantic import Field

from potstill.recipe.section import Section


class StorageSection(Section):
    """[storage]: a second home for what is expensive to make again. It never changes a result."""

    url: str = Field(
        "",
        pattern=r"^$|^[a-z][a-z0-9+.-]*://.",
        description="Where signal shards, training checkpoints and finished stages are copied to and fetched from: any "
        "file system of fsspec, such as s3://bucket/folder or file:///shared/folder. Empty: only the run folder.",
    )
