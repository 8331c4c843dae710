"""The side file with one confusion matrix per image: what is written is read back, and a corrupt file is named."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.results.paths import per_image_path
from harness.results.per_image import read_per_image, write_per_image

META = {"run_id": "kd-0-0123456789ab", "num_classes": 5, "data_hash": "cd" * 32}


def entries(dense):
    """(M, 3) rows of image, cell, pixels from (N, K, K), in the order of a C loop."""
    flat = dense.reshape(len(dense), -1)
    image, cell = np.nonzero(flat)
    return np.stack([image, cell, flat[image, cell]], axis=1).astype(np.int64)


def made_up(images=7, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    dense = rng.integers(0, 2**40, (images, classes, classes)) * (rng.random((images, classes, classes)) < 0.3)
    dense[images // 2] = 0  # an image of which every pixel is ignored
    return dense


@pytest.fixture
def path(tmp_path):
    return per_image_path(tmp_path, META["run_id"])


def test_matrices_come_back(path, tmp_path):
    dense = made_up()
    digest = write_per_image(path, entries(dense), images=7, **META)
    assert path == tmp_path / "per_image" / "kd-0-0123456789ab.parquet"
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    back = read_per_image(path)
    assert back.dtype == np.int64 and back.shape == (7, 5, 5)
    np.testing.assert_array_equal(back, dense)
    np.testing.assert_array_equal(read_per_image(path, sha256=digest), dense)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


def test_entries_may_come_in_any_order(path):
    """Ranks hand over their images one rank after the other."""
    dense = made_up()
    mixed = np.random.default_rng(1).permutation(entries(dense))
    first = write_per_image(path, entries(dense), images=7, **META)
    assert write_per_image(path, mixed, images=7, **META) == first


def test_the_file_is_as_documented(path):
    dense = made_up()
    write_per_image(path, entries(dense), images=7, **META)
    with pq.ParquetFile(path) as file:
        schema, metadata = file.schema_arrow, file.schema_arrow.metadata
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert [(f.name, f.type, f.nullable) for f in schema] == [
        ("index", pa.int64(), False),
        ("cells", pa.list_(pa.field("element", pa.int32(), False)), False),
        ("counts", pa.list_(pa.field("element", pa.int64(), False)), False),
    ]
    assert {k: metadata[k] for k in (b"run_id", b"num_classes", b"data_hash")} == {
        b"run_id": b"kd-0-0123456789ab",
        b"num_classes": b"5",
        b"data_hash": b"cd" * 32,
    }
    rows = pq.read_table(path).to_pylist()
    assert [row["index"] for row in rows] == list(range(7))
    assert rows[3]["cells"] == rows[3]["counts"] == []
    for row, matrix in zip(rows, dense, strict=True):
        assert row["cells"] == np.flatnonzero(matrix).tolist()
        assert row["counts"] == matrix.ravel()[row["cells"]].tolist()


def test_a_second_run_of_the_same_id_overwrites_its_file(path):
    write_per_image(path, entries(made_up(seed=0)), images=7, **META)
    write_per_image(path, entries(made_up(seed=1)), images=7, **META)
    np.testing.assert_array_equal(read_per_image(path), made_up(seed=1))


@pytest.mark.parametrize("images", [0, 1, 4])
def test_images_without_a_counted_pixel_have_their_rows(path, images):
    write_per_image(path, np.zeros((0, 3), np.int64), images=images, **META)
    assert read_per_image(path).shape == (images, 5, 5) and not read_per_image(path).any()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[7, 0, 1]], r"image 7: allowed are 0\.\.6"),
        ([[-1, 0, 1]], "image -1"),
        ([[0, 25, 1]], r"cell 25: allowed are 0\.\.24"),
        ([[0, -1, 1]], "cell -1"),
        ([[0, 3, 0]], "0 pixels: a listed cell has at least 1"),
        ([[0, 3, 1], [1, 3, 1], [0, 3, 2]], "cell 3 of image 0 is given twice"),
        ([[0, 3]], r"\(M, 3\).*given \(1, 2\)"),
    ],
)
def test_wrong_entries_are_refused(path, bad, message):
    with pytest.raises(ValueError, match=message):
        write_per_image(path, np.array(bad, np.int64), images=7, **META)
    assert not path.exists()


REMEDY = r"kd-0-0123456789ab\.parquet.*[Dd]elete it and the run's row, and start the run again"


@pytest.mark.parametrize("content", [b"", b"PAR1 partial", b"x" * 5000])
def test_a_corrupt_file_is_named_with_the_remedy(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=REMEDY):
        read_per_image(path)


def test_a_truncated_or_flipped_file_is_refused(path):
    digest = write_per_image(path, entries(made_up(images=40)), images=40, **META)
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        with pytest.raises(ValueError, match=REMEDY):
            read_per_image(path, sha256=digest)
    middle = len(content) // 3  # of the values, which have a checksum of their own
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :])
    with pytest.raises(ValueError, match=REMEDY):
        read_per_image(path)
    path.write_bytes(content[:-20])
    with pytest.raises(ValueError, match=REMEDY):
        read_per_image(path)


def test_a_missing_file_is_missing(path):
    with pytest.raises(FileNotFoundError):
        read_per_image(path)
