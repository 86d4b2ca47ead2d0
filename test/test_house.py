"""The rules of the house: what may import what, and what no file may hold."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "blspkd"
MAX_LINES = 300
# Folders of the package by layer: a file imports from its own folder and from lower layers, never from beside or above.
LAYERS = [{"errors", "files", "progress", "config", "evaluation_config", "config_file", "model_files",
           "free_memory"}, {"audio", "vllm"},
          {"kaldi"}, {"data"}, {"models"}, {"losses"}, {"generation", "training", "evaluation"}, {"reporting"},
          {"serve"}, {"bin"}]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
NOT_OURS = {"venv", "venv-newest", "data", "dump", "exp", "downloads", "__pycache__", "build", "dist"}
PACKAGES_BY_MODULE = {"yaml": "pyyaml", "huggingface_hub": "huggingface-hub", "prometheus_client": "prometheus-client"}


def files(*suffixes: str, top: Path = ROOT) -> list[Path]:
    """Our own text files below `top`, without environments and what recipes make."""
    found = []
    for folder, folders, names in os.walk(top):
        recipe = Path(folder).parent.parent == ROOT / "egs"
        skipped = NOT_OURS if recipe or Path(folder) == ROOT / "tools" else {"__pycache__"}
        folders[:] = sorted(name for name in folders if name not in skipped and not name.startswith(".")
                            and not name.endswith(".egg-info"))
        found += [Path(folder, name) for name in sorted(names) if not suffixes or Path(name).suffix in suffixes]
    return [path for path in found if path != Path(__file__) and not path.is_symlink()]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def modules_imported(path: Path) -> list[str]:
    """Dotted names of all modules that `path` imports, wherever in the file."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)}: relative import"
            # `from blspkd.kaldi import tables` names a module, `from blspkd.config import X` a thing in one
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def pythons(top: Path = ROOT) -> list[Path]:
    return files(".py", top=top)


@pytest.mark.parametrize("path", pythons(PACKAGE), ids=named)
def test_imports_point_one_way(path):
    here = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in modules_imported(path):
        parts = name.split(".")
        if parts[0] != "blspkd" or len(parts) == 1 or parts[1] not in LEVEL or here not in LEVEL:
            continue
        assert parts[1] == here or LEVEL[parts[1]] < LEVEL[here] or LEVEL[here] == 0 == LEVEL[parts[1]], (
            f"{named(path)} imports {name}: {here} must not know {parts[1]}")
        assert here != "bin" or parts[1] != "bin", f"{named(path)} imports {name}: nothing imports a command"


def recipe_imports(recipe: Path) -> dict[str, set[str]]:
    """Module of base/ or local/ -> the modules of these two that it imports."""
    paths = {path.stem: path for folder in ("base", "local") for path in pythons(recipe / folder)}
    return {name: {module.partition(".")[0] for module in modules_imported(path)} & paths.keys()
            for name, path in paths.items()}


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("egs/*/blspkd1")), ids=named)
def test_a_recipes_modules_import_one_another_without_circles(recipe):
    imports = recipe_imports(recipe)
    while imports:
        free = {name for name, needed in imports.items() if not needed & imports.keys()}
        assert free, f"{named(recipe)}: a circle among {', '.join(sorted(imports))}"
        imports = {name: needed for name, needed in imports.items() if name not in free}


@pytest.mark.parametrize("path", sorted(ROOT.glob("egs/*/blspkd1/base/*.py")), ids=named)
def test_what_recipes_share_knows_no_recipe(path):
    local = {other.stem for other in ROOT.glob("egs/*/blspkd1/local/*.py")}
    assert not {module.partition(".")[0] for module in modules_imported(path)} & local


def test_every_folder_of_the_package_has_a_layer():
    assert {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in pythons(PACKAGE)} <= {*LEVEL, "__init__"}


def test_data_directories_and_audio_need_no_torch():
    code = "import sys, blspkd.kaldi.data_dir, blspkd.audio.samples; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_what_the_package_imports_is_declared_in_setup():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    declared = {name.lower() for name in re.findall(r'"([A-Za-z][\w-]*)(?:>=[\w.]+)?"', setup)}
    used = {name.partition(".")[0] for path in pythons(PACKAGE) for name in modules_imported(path)}
    outside = used - set(sys.stdlib_module_names) - {"blspkd"}
    assert {PACKAGES_BY_MODULE.get(name, name) for name in outside} <= declared


@pytest.mark.parametrize("path", pythons(), ids=named)
def test_python_files_are_short_and_say_what_they_are_for(path):
    source = path.read_text(encoding="utf-8")
    if source.strip() and ROOT / "test" not in path.parents:  # a test's names say it
        assert source.count("\n") <= MAX_LINES, f"{named(path)}: more than one concept?"
        assert ast.get_docstring(ast.parse(source)), f"{named(path)}: no docstring at the top"
    assert "utils" not in path.stem, f"{named(path)}: name the file after its concept"


@pytest.mark.parametrize("path", pythons(), ids=named)
def test_python_files_do_nothing_dangerous(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        line = f"{named(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert arguments.get("shell", "False") == "False", f"{line}: shell=True"
            assert called not in ("os.system", "os.popen", "eval", "exec"), f"{line}: {called}"
            assert called != "torch.load" or arguments.get("weights_only") == "True", f"{line}: torch.load runs code"
            assert called not in ("yaml.load", "yaml.unsafe_load"), f"{line}: yaml.safe_load only"
        assert not isinstance(node, ast.Name) or node.id != "NotImplementedError", f"{line}: finish it"
    modules = {name.partition(".")[0] for name in modules_imported(path)}
    assert ROOT / "test" in path.parents or not modules & {"pickle", "dill", "joblib"}, f"{named(path)}: pickle"


OURS = {node.name for path in pythons(PACKAGE) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and "from_pretrained" in [getattr(item, "name", "") for item in node.body]}


@pytest.mark.parametrize("path", [path for path in pythons() if ROOT / "test" not in path.parents], ids=named)
def test_models_are_loaded_without_code_of_their_own(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr == "from_pretrained" and ast.unparse(node.value) not in OURS:
            assert path.name == "pretrained.py", f"{named(path)}:{node.lineno}: use load_pretrained"
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert ast.unparse(node.value) == "False", f"{named(path)}:{node.lineno}: runs code of models"


FORBIDDEN = {
    "a path of one machine": r"(?<![\w.}/])/(home|root|work|Users|mnt|scratch)/\w",
    "a package registry": r"(?i)pypi\.org|pythonhosted|download\.pytorch\.org|anaconda\.(com|org)|index[-_]url",
    "something unfinished": r"\b(TODO|FIXME|XXX)\b|^@@\w+@@$",
    "a credential": r"\b(hf_[A-Za-z0-9]{20,}|ghp_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16})\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what):
    texts = [*files(".py", ".sh", ".pl", ".md", ".yaml", ".toml", ".cfg", ".txt", ""), ROOT / ".ci" / "run"]
    hits = []
    for path in texts:
        lines = path.read_text(encoding="utf-8").splitlines()
        hits += [f"{named(path)}:{number}: {line.strip()}" for number, line in enumerate(lines, 1)
                 if re.search(FORBIDDEN[what], line)]
    assert not hits, f"{what}:\n" + "\n".join(hits)


COMMANDS = sorted(path.stem for path in (PACKAGE / "bin").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_main_and_helps(name, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"blspkd.bin.{name}").main(["--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_waits_for_no_heavy_package(name):
    code = ("import runpy, sys\nsys.argv = ['x', '--help']\n"
            f"try: runpy.run_module('blspkd.bin.{name}', run_name='__main__')\n"
            "except SystemExit: print(*{'torch', 'transformers', 'matplotlib'} & set(sys.modules), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "usage:" in done.stdout and not done.stderr.strip()


def test_importing_a_command_reads_no_options_and_prints_nothing():
    code = f"import sys; sys.argv = ['x', '--nonsense']; [__import__('blspkd.bin.' + name) for name in {COMMANDS}]"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_remedies_in_errors_work_without_the_environment():
    """`python -m blspkd...` needs path.sh first; the scripts of a recipe's utils/ see to that themselves."""
    hits = [f"{named(path)}:{node.lineno}" for path in pythons(PACKAGE) for node in
            ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Raise)
            and "python -m" in ast.unparse(node)]
    assert not hits
