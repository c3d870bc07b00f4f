"""Small real engines over BM25 alone, applications over them, and a real server in a thread."""

import threading
from contextlib import contextmanager

import pytest

from data.records import Document
from retriever.engine import BuildSettings, Engine, build_collection
from server.app import create_app
from server.serve import close, listen, make_server, url_of

DOCUMENTS = [
    Document("en", "The coral reef turns white when the sea is warm.", "Coral", "en", {"year": 2021, "tags": ["sea"]}),
    Document("de", "Das Riff wird weiß, wenn das Meer warm ist.", "Riff", "de"),
    Document("ar", "تبيض الشعاب المرجانية عندما يسخن البحر", "الشعاب", "ar"),
    Document("zh", "海水变暖时珊瑚会变白。", "珊瑚", "zh"),
    Document("sw", "Bahari ikipata joto matumbawe huwa meupe.", "", "sw"),
    Document("th", "ปะการังฟอกขาวเมื่อน้ำทะเลอุ่น", "", "th"),
    Document("a/b//c d?#%.txt", "slashes in the name of a coral", "", "en"),
    Document("/ключ/🪸\n", "emoji in the name of a coral", "", "en"),
]


@pytest.fixture(scope="session")
def make_engine(tmp_path_factory):
    def make(documents=DOCUMENTS):
        folder = tmp_path_factory.mktemp("collection")
        build_collection(documents, folder, BuildSettings(views=["bm25"]))
        return Engine.open(folder)

    return make


@pytest.fixture
def small_engine(make_engine):
    return make_engine()


@pytest.fixture
def app(small_engine):
    return create_app(small_engine)


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture(scope="session")
def served():
    """Serve an application in a thread: ``with served(app) as url``."""

    @contextmanager
    def serve(app, threads=8):
        listener = listen("127.0.0.1", 0)
        server = make_server(app, listener, threads=threads)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield url_of(listener)
        finally:
            server.trigger.pull_trigger(lambda: close(server))
            thread.join(10)
            server.task_dispatcher.shutdown()

    return serve
