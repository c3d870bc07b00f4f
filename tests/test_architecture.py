"""The order of the packages and the rules that a reader relies on, read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("data", "index", "retriever", "eval", "server")
SOURCES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))
FILES = SOURCES + sorted((ROOT / "tests").rglob("*.py"))
MODELS = ("torch", "transformers", "sentence_transformers", "tokenizers")


def name(path):
    return path.relative_to(ROOT).as_posix()


def nodes(path):
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def imports(path):
    """Return the modules that a file imports anywhere in it, with the names taken from them."""
    found = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} has a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def calls(path):
    return [node.func.id for node in nodes(path) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]


sources = pytest.mark.parametrize("path", SOURCES, ids=name)


def test_there_are_sources():
    assert {name(path).split("/")[0] for path in SOURCES} == set(ORDER)
    assert len(SOURCES) > 40


@sources
def test_a_file_imports_from_its_left_or_its_own_package(path):
    allowed = ORDER[: ORDER.index(name(path).split("/")[0]) + 1]
    for module in imports(path):
        package = module.split(".")[0]
        assert package not in ORDER or package in allowed, f"{name(path)} imports {module}"
        assert package != "tests"


@pytest.mark.parametrize("path", [path for path in SOURCES if name(path).startswith(("data/", "index/"))], ids=name)
def test_data_and_index_know_no_models(path):
    assert not {module.split(".")[0] for module in imports(path)} & set(MODELS)


def test_a_collection_is_read_without_loading_models():
    script = (
        "import sys, data.inputs, data.readers, index.collection, index.snapshot, server.cli\n"
        f"sys.exit(str([name for name in {MODELS} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_builtin_eval_is_not_shadowed(path):
    for node in nodes(path):
        if isinstance(node, ast.Import):
            assert not any(alias.name == "eval" or alias.asname == "eval" for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not any((alias.asname or alias.name) == "eval" for alias in node.names)


@sources
def test_wrong_values_raise_and_are_not_asserted(path):
    assert not any(isinstance(node, ast.Assert) for node in nodes(path))


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if name(p) != "server/cli.py" and "eval/bench/" not in name(p)], ids=name
)
def test_only_commands_print(path):
    assert "print" not in calls(path)


@sources
def test_nothing_is_pickled(path):
    assert not {module.split(".")[0] for module in imports(path)} & {"pickle", "cPickle", "dill", "joblib", "shelve"}
    text = path.read_text(encoding="utf-8")
    assert "allow_pickle=True" not in text
    assert "torch.load" not in text
    assert not {"eval", "exec"} & set(calls(path))


@sources
def test_every_file_says_what_it_is_in_400_lines(path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{name(path)} has no docstring"
    assert text.count("\n") <= 400


@sources
def test_functions_fit_on_a_screen(path):
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1].lineno if len(node.body) > 1 and ast.get_docstring(node) else node.body[0].lineno
            assert node.end_lineno - first < 40, f"{name(path)}: {node.name}"


@sources
def test_nothing_happens_at_import(path):
    """At the top level stand definitions, imports, constants, and calls only inside those or behind __main__."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        assert not isinstance(node, ast.For | ast.While | ast.With | ast.Try), f"{name(path)}, line {node.lineno}"
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), f"{name(path)}, line {node.lineno}"
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING"), f"{name(path)}, {node.lineno}"
