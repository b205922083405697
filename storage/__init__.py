"""Bytes: where blobs are kept. Knows nothing of models, SQL or HTTP handlers.

`open_store(url)` gives a BlobStore. base.py says what one can do, layout.py how keys are made, errors.py what
may go wrong, urls.py what a storage URL looks like.
"""

from storage.base import BlobStat, BlobStore, Ticket
from storage.urls import open_store

__all__ = ["BlobStat", "BlobStore", "Ticket", "open_store"]
