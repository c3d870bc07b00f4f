"""What several test packages share: the bundled model, loaded once, and the demo collection, built once."""

import pytest

from data.readers import demo_folder, read_documents
from retriever.encoder import Encoder
from retriever.engine import Engine, build_collection


@pytest.fixture(scope="session")
def encoder():
    return Encoder.load()


@pytest.fixture(scope="session")
def demo_collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    build_collection(read_documents(str(demo_folder())), folder)
    return folder


@pytest.fixture(scope="session")
def demo_engine(demo_collection):
    return Engine.open(demo_collection)
