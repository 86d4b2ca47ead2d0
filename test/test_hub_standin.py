"""The stand-in answers the hub's real client as the hub does: what is uploaded comes back."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("hub_standin", Path(__file__).with_name("hub_standin.py"))
hub_standin = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hub_standin)

CLIENT = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
api, said = HfApi(), {}

def refused(kind, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except kind as error:
        return type(error).__name__
    return "no error"

said["user"] = api.whoami()["name"]
said["no repository"] = refused(RepositoryNotFoundError, api.model_info, "someone/new")
api.create_repo("someone/new", private=True)
said["twice"] = refused(HfHubHTTPError, api.create_repo, "someone/new")
api.create_repo("someone/new", exist_ok=True)
done = api.upload_folder(repo_id="someone/new", folder_path=sys.argv[1], commit_message="all of it")
said["commit"], said["files"] = done.oid, sorted(api.list_repo_files("someone/new"))
said["no file"] = refused(EntryNotFoundError, api.hf_hub_download, "someone/new", "missing.txt")
said["no revision"] = refused(RevisionNotFoundError, api.model_info, "someone/new", revision="v9")
folder = Path(snapshot_download("someone/new"))
said["back"] = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
api.upload_file(path_or_fileobj=b"second", path_in_repo="more.txt", repo_id="someone/new")
api.delete_file("README.md", "someone/new")
said["later"] = sorted(api.list_repo_files("someone/new"))
said["before"] = sorted(api.list_repo_files("someone/new", revision=done.oid))
said["again"] = api.upload_folder(repo_id="someone/new", folder_path=sys.argv[1]).oid
said["read-only"] = refused(HfHubHTTPError, HfApi(token="another").upload_file, path_or_fileobj=b"x",
                            path_in_repo="x", repo_id="someone/new")
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def uploaded(tmp_path_factory):
    """The hub after a client's visit, and what that client saw."""
    folder, home = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("home")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (folder / "plora").mkdir()
    (folder / "plora" / "weights.safetensors").write_bytes(bytes(range(256)) * 20_000)
    (folder / "config.json").write_text("{}")
    with hub_standin.serve() as hub:
        done = subprocess.run([sys.executable, "-c", CLIENT, str(folder)], env=hub.environment(home), check=False,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        yield hub, folder, json.loads(done.stdout.splitlines()[-1])


def test_what_is_uploaded_comes_back(uploaded):
    hub, folder, said = uploaded
    names = ["README.md", "config.json", "plora/weights.safetensors"]
    assert said["files"] == [".gitattributes", *names] and said["user"] == hub_standin.USER
    assert {name: said["back"][name] for name in names} == {name: (folder / name).stat().st_size for name in names}
    stored = hub.files("someone/new", said["commit"])
    assert all(stored[name] == (folder / name).read_bytes() for name in names)
    assert [path for method, path in hub.requests if method == "PUT"]  # by git-lfs


def test_commits_stay_as_they_were(uploaded):
    hub, _, said = uploaded
    assert said["before"] == said["files"]
    assert said["later"] == [".gitattributes", "config.json", "more.txt", "plora/weights.safetensors"]
    assert said["again"] == hub.repositories["someone/new"].heads["main"]


def test_refusals_have_the_errors_of_the_hub(uploaded):
    _, _, said = uploaded
    assert said["no repository"] == "RepositoryNotFoundError" and said["no revision"] == "RevisionNotFoundError"
    assert said["no file"] == "RemoteEntryNotFoundError"
    assert said["twice"] == said["read-only"] == "HfHubHTTPError"
