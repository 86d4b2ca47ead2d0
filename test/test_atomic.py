import pytest

from blspkd.atomic import atomic_path, atomic_write


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with atomic_write(path) as file:
        file.write("whöle")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "whöle"


def test_an_error_keeps_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_directory_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [p.name for p in path.iterdir()] == ["two"]
