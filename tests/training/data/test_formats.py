"""Every format of data set, good and bad entries of each; only names and captions are read."""

from __future__ import annotations

import csv
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.formats import Source, detect_format, read_sources, row_source


@pytest.fixture
def read():
    """Reads a data set: its entries, and {name: reason} of what was rejected."""

    def call(path: Path, format: str = "auto", **options) -> tuple[list[Source], dict[str, str]]:
        rejected: dict[str, str] = {}
        return list(read_sources(path, format, reject=rejected.__setitem__, **options)), rejected

    return call


def make(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def captions(sources: list[Source]) -> dict[str, tuple[str, ...]]:
    return {source.name: source.captions for source in sources}


def test_a_folder_pairs_media_with_captions(tmp_path: Path, read) -> None:
    files = {
        "b.mp4": "",
        "b.txt": "\ufeff a dog \n\nruns\n",
        "a.webp": "",
        "sub/c.PNG": "",
        "sub/c.txt": "a cat",
        "notes.doc": "",
        ".hidden/d.mp4": "",
        ".e.mp4": "",
    }
    sources, rejected = read(make(tmp_path, files))
    assert not rejected
    assert captions(sources) == {
        "a.webp": (),
        "b.mp4": ("a dog \n\nruns",),
        "sub/c.PNG": ("a cat",),
    }
    variants, _ = read(tmp_path, caption_lines="variants")
    assert captions(variants)["b.mp4"] == ("a dog", "runs")


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target, target_is_directory=True)
    except OSError:
        pytest.skip("this system lets nobody make symbolic links")


def test_linked_folders_are_read(tmp_path: Path, read) -> None:
    """Data sets are often folders of links into a store elsewhere."""
    store, root = tmp_path / "store", tmp_path / "root"
    make(store, {"x/a.mp4": "", "x/a.txt": "a dog", "x/deep/b.mp4": "", "y/c.mp4": ""})
    make(root, {"d.mp4": ""})
    link(root / "one", store / "x")
    link(root / "two" / "c", store / "y")
    sources, rejected = read(root)
    assert not rejected
    assert captions(sources) == {
        "d.mp4": (), "one/a.mp4": ("a dog",), "one/deep/b.mp4": (), "two/c/c.mp4": (),
    }  # fmt: skip


def test_links_that_lead_in_circles_are_read_once(tmp_path: Path, read) -> None:
    store, root = tmp_path / "store", tmp_path / "root"
    make(store, {"x/a.mp4": "", "y/b.mp4": ""})
    make(root, {"sub/c.mp4": ""})
    for path, target in (
        (root / "again", root / "sub"),  # what is in the root keeps its own name
        (root / "around", tmp_path),
        (root / "self", root),
        (root / "sub" / "up", root),
        (root / "one", store / "x"),
        (root / "same", store / "x"),
        (store / "x" / "other", store / "y"),
        (store / "y" / "other", store / "x"),
    ):
        link(path, target)
    sources, _ = read(root)
    assert [source.name for source in sources] == ["one/a.mp4", "one/other/b.mp4", "sub/c.mp4"]


def test_links_into_hidden_folders_are_followed(tmp_path: Path, read) -> None:
    root = tmp_path / "root"
    files = (".store/videos/a.mp4", ".store/videos/deep/b.mp4", ".store/other/c.mp4", "sub/d.mp4")
    make(root, dict.fromkeys(files, ""))
    for path, target in (
        (root / "videos", root / ".store" / "videos"),
        (root / "deep", root / ".store" / "videos" / "deep"),
        (root / "visible", root / "sub"),
        (root / "whole", root / ".store"),
    ):
        link(path, target)
    sources, _ = read(root)
    names = ["deep/b.mp4", "sub/d.mp4", "videos/a.mp4", "whole/other/c.mp4"]
    assert [source.name for source in sources] == names


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ({"one": "x", "two": ""}, ["one/a.mp4", "two/y/b.mp4"]),
        ({"one": "", "two": "x"}, ["one/x/a.mp4", "one/y/b.mp4"]),
        ({"in/one": "", "two": "x"}, ["two/a.mp4", "in/one/y/b.mp4"]),
    ],
)
def test_what_two_links_lead_to_is_read_once(tmp_path: Path, read, links, expected) -> None:
    make(tmp_path / "store", {"x/a.mp4": "", "y/b.mp4": ""})
    for name, target in links.items():
        link(tmp_path / "root" / name, tmp_path / "store" / target)
    sources, _ = read(tmp_path / "root")
    assert sorted(source.name for source in sources) == sorted(expected)


def test_clips_of_frames_and_tars_in_linked_folders_are_read(tmp_path: Path, read) -> None:
    store = make(tmp_path / "store", {"clip/1.png": "", "clip/2.png": ""})
    link(tmp_path / "frames" / "part", store)
    sources, _ = read(tmp_path / "frames")
    assert [source.name for source in sources] == ["part/clip"]
    (tmp_path / "shelf").mkdir()
    make_tar(tmp_path / "shelf" / "a.tar", {"a.mp4": b"x"})
    link(tmp_path / "tars" / "part", tmp_path / "shelf")
    sources, _ = read(tmp_path / "tars", "webdataset")
    assert [source.name for source in sources] == ["part/a.tar/a.mp4"]


def test_captions_that_are_not_utf8_are_named(tmp_path: Path, read) -> None:
    files = {"a.mp4": "", "a.txt": "caf\xe9".encode("latin-1"), "b.mp4": "", "b.txt": "café"}
    sources, rejected = read(make(tmp_path, files))
    assert captions(sources) == {"b.mp4": ("café",)}
    assert list(rejected) == ["a.txt"] and "not UTF-8" in rejected["a.txt"]


def test_an_empty_folder_says_what_is_expected(tmp_path: Path, read) -> None:
    with pytest.raises(ValueError, match=r"no videos or images.*a\.txt"):
        read(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder: correct the data set's `path`"):
        read(tmp_path / "none")


ROWS = [
    {"path": "a.mp4", "text": "one", "num_frames": 51, "height": 8, "width": 9, "fps": 24.0},
    {"video": "b/c.mp4", "caption": "two", "start": 1.5, "end": 4},
    {"media_path": "d.mp4", "captions": ["three", " ", "four"]},
    {"video_path": "e.mp4"},
    {"path": "v0.png", "views": ["v1.png", "v2.png"]},
    {"views": ["v0.png", "v1.png"]},
]


def check_rows(sources: list[Source], root: Path) -> None:
    a, b, d, e, v, w = sources
    assert (a.path, a.captions) == (root / "a.mp4", ("one",))
    assert (b.name, b.captions, b.start, b.end) == ("b/c.mp4", ("two",), 1.5, 4)
    assert d.captions == ("three", "four")
    assert (e.captions, e.start) == ((), None)
    assert v.views == (root / "v1.png", root / "v2.png")
    assert (w.path, w.views) == (root / "v0.png", (root / "v1.png",))


def test_jsonl(tmp_path: Path, read) -> None:
    make(tmp_path, {"metadata.jsonl": "\n\n".join(map(json.dumps, ROWS))})
    sources, rejected = read(tmp_path)
    assert not rejected
    check_rows(sources, tmp_path)


def as_csv(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, sorted({key for row in rows for key in row}))
    writer.writeheader()
    for row in rows:
        lists = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
        writer.writerow(lists)
    return text.getvalue()


def test_csv(tmp_path: Path, read) -> None:
    sources, rejected = read(make(tmp_path, {"metadata.csv": as_csv(ROWS)}))
    assert not rejected
    check_rows(sources, tmp_path)


def test_parquet(tmp_path: Path, read) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    keys = sorted({key for row in ROWS for key in row})
    table = pyarrow.Table.from_pylist([{k: row.get(k) for k in keys} for row in ROWS])
    parquet.write_table(table, tmp_path / "metadata.parquet")
    sources, rejected = read(tmp_path)
    assert not rejected
    check_rows(sources, tmp_path)


def test_a_damaged_part_of_a_parquet_file_is_named(tmp_path: Path, read) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "metadata.parquet"
    table = pyarrow.Table.from_pylist([{"path": f"{i}.mp4", "text": "x" * 99} for i in range(9)])
    parquet.write_table(table, path, row_group_size=3, compression="none")
    with parquet.ParquetFile(path) as file:
        place = file.metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = place.dictionary_page_offset or place.data_page_offset
    data[start : start + place.total_compressed_size] = b"\xff" * place.total_compressed_size
    path.write_bytes(data)
    rejected: dict[str, str] = {}
    rows = read_sources(tmp_path, reject=rejected.__setitem__)
    assert [next(rows).name for _ in range(3)] == ["0.mp4", "1.mp4", "2.mp4"]
    with pytest.raises(ValueError, match=r"metadata\.parquet: row group 2 of 3 .*get the file"):
        next(rows)


def test_values_of_parquet_that_python_has_not_cost_one_row(tmp_path: Path, read) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    dates = pyarrow.array([0, 2**50], pyarrow.timestamp("s"))
    table = pyarrow.table({"path": ["a.mp4", "b.mp4"], "made": dates})
    parquet.write_table(table, tmp_path / "metadata.parquet")
    sources, rejected = read(tmp_path)
    assert [source.name for source in sources] == ["a.mp4"]
    assert list(rejected) == ["metadata.parquet:1"]


def test_rows_of_a_csv_may_be_short_empty_or_long(tmp_path: Path, read) -> None:
    text = "path,text,fps\n\na.mp4\nb.mp4,two,3,more,still more\n\n"
    sources, rejected = read(make(tmp_path, {"metadata.csv": text}))
    assert captions(sources) == {"a.mp4": (), "b.mp4": ("two",)} and not rejected
    assert [source.fps for source in sources] == [None, 3]


def test_parquet_without_pyarrow_says_what_to_do(
    tmp_path: Path, read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    make(tmp_path, {"metadata.parquet": "PAR1"})
    with pytest.raises(ValueError, match="pip install pyarrow"):
        read(tmp_path)


def test_bad_rows_are_rejected_one_by_one(tmp_path: Path, read) -> None:
    lines = [
        b'{"path": "good.mp4", "text": "kept"}',
        b'{"path": "../../etc/passwd"}',
        b'{"path": "/etc/passwd"}',
        b'{"path": "sub/../../x.mp4"}',
        b'{"caption": "no file"}',
        b'{"path": 7}',
        b'{"path": "a.mp4", "text": 7}',
        b'{"path": "a.mp4", "text": "\xe9"}',
        b"not json",
        b'["path"]',
        b'{"path": "a.mp4", "start": -1}',
        b'{"path": "a.mp4", "start": 5, "end": 4}',
        b'{"path": "a.mp4", "text": "\\ud800"}',
        b"[" * 100_000,
        b'{"path": "' + b"x" * 2**20 + b'"}',
        b'{"path": "last.mp4"}',
    ]
    sources, rejected = read(make(tmp_path, {"metadata.jsonl": b"\n".join(lines)}))
    assert [source.name for source in sources] == ["good.mp4", "last.mp4"]
    assert list(rejected) == [f"metadata.jsonl:{n}" for n in range(2, 16)]
    assert (
        "outside" in rejected["metadata.jsonl:2"]
        and "set `media` of" in rejected["metadata.jsonl:2"]
    )
    assert "start is -1" in rejected["metadata.jsonl:11"]


def test_bad_bytes_spoil_one_row_of_csv(tmp_path: Path, read) -> None:
    text = b"path,text\na.mp4,caf\xe9\nb.mp4,fine\n"
    sources, rejected = read(make(tmp_path, {"metadata.csv": text}))
    assert captions(sources) == {"b.mp4": ("fine",)}
    assert rejected == {"metadata.csv:2": "text is not UTF-8: save the list as UTF-8"}


def test_paths_of_a_list_may_lie_in_another_folder(tmp_path: Path, read) -> None:
    media = tmp_path / "media"
    row = json.dumps({"path": str(media / "x" / "a.mp4")})
    make(tmp_path, {"lists/all.jsonl": row})
    sources, rejected = read(tmp_path / "lists" / "all.jsonl")
    assert not sources and "set `media` of the data set" in rejected["all.jsonl:1"]
    sources, rejected = read(tmp_path / "lists" / "all.jsonl", media=media)
    assert [source.name for source in sources] == ["x/a.mp4"] and not rejected


@given(st.text(max_size=40))
def test_no_path_leads_out_of_the_root(name: str) -> None:
    root = Path("/data/set")
    for text in (name, f"../{name}", f"a/../../{name}", f"/{name}"):
        try:
            source = row_source({"path": text}, root)
        except ValueError:
            continue
        assert root in source.path.parents and ".." not in source.path.parts


def test_folders_of_frames(tmp_path: Path, read) -> None:
    files = {f"{clip}/{i}.png": "" for clip in ("a", "deep/b") for i in range(3)}
    files |= {"a.txt": "first", "deep/b/caption.txt": "second"}
    assert detect_format(make(tmp_path, files)) == "frames"
    sources, _ = read(tmp_path)
    assert captions(sources) == {"a": ("first",), "deep/b": ("second",)}
    assert sources[0].path == tmp_path / "a"


def test_folders_of_captioned_images_are_no_frames(tmp_path: Path) -> None:
    files = {f"sub/{i}.{suffix}": "" for i in range(3) for suffix in ("png", "txt")}
    assert detect_format(make(tmp_path, files)) == "folder"


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


def test_webdataset(tmp_path: Path, read) -> None:
    row = json.dumps({"caption": "two", "start": 1}).encode()
    members = {
        "x/001.mp4": b"video one",
        "x/001.txt": b"one",
        "x/002.json": row,
        "x/002.mp4": b"video two",
        "../../003.webp": b"video three",
        "004.txt": b"no media",
        "005.mp4": b"video five",
        "005.txt": b"\xe9",
    }
    make_tar(tmp_path / "s-1.tar", members)
    make_tar(tmp_path / "s-0.tar", {"a.b.mp4": b"zero"})
    sources, rejected = read(tmp_path)
    names = ["s-0.tar/a.b.mp4", "s-1.tar/x/001.mp4", "s-1.tar/x/002.mp4", "s-1.tar/../../003.webp"]
    assert [source.name for source in sources] == names
    assert list(rejected) == ["s-1.tar/005.mp4"]
    assert [s.captions for s in sources] == [(), ("one",), ("two",), ()]
    assert sources[2].start == 1
    for source in sources:
        assert source.path in (tmp_path / "s-0.tar", tmp_path / "s-1.tar")
        data = source.path.read_bytes()[source.member.offset :][: source.member.size]
        assert data == ({"a.b.mp4": b"zero"} | members)[source.member.name]


def test_a_broken_tar_gives_what_came_before(tmp_path: Path, read) -> None:
    whole = make_tar(tmp_path / "a.tar", {f"{i}.mp4": bytes(600) for i in range(5)})
    (tmp_path / "b.tar").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "c.tar").write_bytes(b"\x1f\x8b not a tar at all" * 100)
    sources, rejected = read(tmp_path)
    assert sum(source.path == whole for source in sources) == 5
    assert 0 < sum(source.path.name == "b.tar" for source in sources) < 5
    assert set(rejected) == {"b.tar", "c.tar"}
