"""Making a pool's embedder, vectors of the caller, and models from a folder."""

import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from promptgps_service.embedding import folder, make_embedder, unit_vectors
from promptgps_service.errors import Invalid


def fault(call, *args, **options):
    with pytest.raises(Invalid) as caught:
        call(*args, **options)
    return caught.value.faults[0]


def test_wordllama_knows_its_dimension():
    assert make_embedder("wordllama", dimension=None, path=None).dimension == 256
    assert make_embedder("wordllama", dimension=256, path=None).embed(["a"]).shape == (1, 256)


@pytest.mark.parametrize(
    ("kind", "dimension", "path", "field"),
    [
        ("word2vec", None, None, "embedding.kind"),
        ("wordllama", 128, None, "embedding.dimension"),
        ("wordllama", None, "/models", "embedding.path"),
        ("given", None, None, "embedding.dimension"),
        ("given", 0, None, "embedding.dimension"),
        ("given", 1 << 20, None, "embedding.dimension"),
        ("given", 8, "/models", "embedding.path"),
        ("folder", None, None, "embedding.path"),
        ("folder", None, "/not/there", "embedding.kind"),  # no root: none may be named
    ],
)
def test_what_does_not_fit_is_named(kind, dimension, path, field):
    assert fault(make_embedder, kind, dimension=dimension, path=path).field == field


def test_given_embeds_no_text():
    embedder = make_embedder("given", dimension=8, path=None)
    assert embedder.dimension == 8
    assert fault(embedder.embed, ["text"]).field == "texts"


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(arrays(np.float32, (5, 3), elements=FLOATS))
def test_vectors_come_out_with_length_one(vectors):
    vectors[~vectors.any(axis=1)] = 1.0
    rows = unit_vectors(vectors, 3)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows.astype(float), axis=1), 1.0, atol=1e-6)
    assert (np.sign(rows[vectors != 0]) * np.sign(vectors[vectors != 0]) >= 0).all()


def test_integers_and_no_rows_are_fine():
    np.testing.assert_allclose(unit_vectors(np.array([[3, 4]]), 2), [[0.6, 0.8]], atol=1e-7)
    assert unit_vectors(np.zeros((0, 4)), 4).shape == (0, 4)


@pytest.mark.parametrize(
    ("vectors", "row"),
    [
        ([[1, 1], [1, np.nan]], 101),
        ([[np.inf, 1], [1, 1]], 100),
        ([[1, 1], [0, 0]], 101),
        ([[1, 1, 1]], 100),
        ([1, 1], 100),
        ([[True, False]], None),
        ([["1", "2"]], None),
    ],
)
def test_bad_vectors_name_the_row(vectors, row):
    found = fault(unit_vectors, np.array(vectors), 2, field="vector", first_row=100)
    assert (found.field, found.row) == ("vector", row)


@pytest.fixture
def sentence_transformers(monkeypatch):
    """A stand-in for the package of the extra, which records how it was asked."""
    calls = []

    class Model:
        def __init__(self, path, **options):
            calls.append((path, options))
            if "broken" in path:
                raise OSError("no config.json")

        def encode(self, texts, **_):
            return np.array([[len(text), 0.0, 0.0] for text in texts], dtype=np.float32)

    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = Model
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    folder._load.cache_clear()
    yield calls
    folder._load.cache_clear()


def test_a_folder_is_loaded_once_and_locally(sentence_transformers, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    first = make_embedder("folder", dimension=None, path=str(model), root=tmp_path)
    again = make_embedder("folder", dimension=3, path="model", root=tmp_path)
    assert first.dimension == again.dimension == 3
    assert sentence_transformers == [
        (str(model.resolve()), {"local_files_only": True, "trust_remote_code": False})
    ]
    np.testing.assert_array_equal(first.embed(["ab", ""]), [[1, 0, 0], [0, 0, 0]])
    assert first.embed([]).shape == (0, 3)


def test_a_folder_without_a_model_or_of_another_dimension(sentence_transformers, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    found = fault(make_embedder, "folder", dimension=None, path="broken", root=tmp_path)
    assert found.field == "embedding.path"
    assert str(tmp_path) not in found.detail + str(found)
    assert (
        fault(make_embedder, "folder", dimension=4, path=".", root=tmp_path).field
        == "embedding.dimension"
    )


def test_folders_outside_the_root_are_as_good_as_not_there(sentence_transformers, tmp_path):
    root = tmp_path / "root"
    secret = tmp_path / "secret"
    root.mkdir()
    secret.mkdir()
    (tmp_path / "root-of-another").mkdir()
    (root / "link").symlink_to(secret)
    for path in (str(secret), "../secret", "link", "../root-of-another", "/", "not-there"):
        found = fault(make_embedder, "folder", dimension=None, path=path, root=root)
        assert (found.field, found.detail) == (
            "embedding.path",
            f"no folder {path!r} in PROMPTGPS_EMBEDDING_ROOT",
        )
    assert sentence_transformers == []


def test_without_the_extra_it_says_what_to_install(monkeypatch, tmp_path):
    folder._load.cache_clear()
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    found = fault(make_embedder, "folder", dimension=None, path=".", root=tmp_path)
    assert found.field == "embedding.kind"
    assert "promptgps[transformer]" in found.detail
