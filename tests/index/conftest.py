"""What the tests of collections share."""

import os

import faiss
import pytest

from index import adding, parallel


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(adding, "BATCH_DOCUMENTS", 4)


@pytest.fixture
def on_threads(monkeypatch):
    """Have work shared out among so many threads."""
    before = faiss.omp_get_max_threads()

    def use(count):
        monkeypatch.setattr(os, "cpu_count", lambda: count)
        parallel._pool.cache_clear()
        faiss.omp_set_num_threads(count)

    yield use
    parallel._pool.cache_clear()
    faiss.omp_set_num_threads(before)
