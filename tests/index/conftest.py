"""What the tests of collections share."""

import pytest

import index.collection as module


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH_DOCUMENTS", 4)
