"""What several test packages share: the bundled model and tiny ones, loaded once, the demo collection, built once."""

import signal

import pytest

from data.readers import demo_folder, read_documents
from retriever.encoder import Encoder
from retriever.engine import Engine, build_collection

# A shell that runs the tests in its background has them ignore SIGINT, and the commands that they start would inherit
# that and never hear Ctrl-C. A signal with a handler is back at its default in a new program.
signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    from tests import tiny  # here, so that tests without models need not wait for their libraries

    return tiny.write_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, backbone):
    from tests import tiny

    return tiny.write_sentence_model(tmp_path_factory.mktemp("tiny") / "sentence", backbone)


@pytest.fixture(scope="session")
def late_folder(tmp_path_factory, backbone):
    from tests import tiny

    return tiny.write_late_model(tmp_path_factory.mktemp("tiny") / "late", backbone)


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    return Encoder.load(str(tiny_folder), backend="torch")  # to be compared with PyTorch to the last digits


@pytest.fixture(scope="session")
def tiny_late(late_folder):
    return Encoder.load(str(late_folder), backend="torch")
