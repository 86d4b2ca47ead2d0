"""YAML files and command-line overrides -> configuration dataclasses (see config.py), and back.

An unknown key is an error that names the nearest known one, a value of the wrong type is an error that names the key,
and overrides (`--learning_rate 1e-3`, or `--training.learning_rate 1e-3`) go through the same checks as the file.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from blspkd.errors import ConfigError

Config = TypeVar("Config")


def load_config(cls: type[Config], path: str | Path | None = None, overrides: list[str] = ()) -> Config:
    """Read `cls` from a YAML file (or its defaults alone) and apply `--key value` overrides.

    A file may say `base: other.yaml` (beside it), and then holds only what differs from that file.
    Raises ConfigError for a missing file, invalid YAML, an unknown key, or a value of the wrong type.
    """
    values = {} if path is None else _read_yaml(Path(path))
    where = str(path or "defaults")
    values = merge(values, _parse_overrides(cls, list(overrides)))
    return from_dict(cls, values, where)


def names_in(path: str | Path) -> set[str]:
    """The top-level keys of a configuration file and its base. Raises ConfigError."""
    values = _read_yaml(Path(path))
    return set(values) if isinstance(values, dict) else set()


def _read_yaml(path: Path, above: tuple[Path, ...] = ()) -> Any:
    """The values of a file on top of those of its `base`."""
    if not path.is_file():
        named = f"{above[-1]}: base: " if above else ""
        raise ConfigError(f"{named}{path}: there is no such configuration file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML in UTF-8: {error}") from None
    if not isinstance(values, dict) or "base" not in values:
        return values
    base = path.parent / str(values.pop("base"))
    if base.resolve() in {file.resolve() for file in (*above, path)}:
        raise ConfigError(f"{path}: base: {base} leads back to this file")
    return merge(_read_yaml(base, (*above, path)), values)


def from_dict(cls: type[Config], values: Any, where: str = "config") -> Config:
    """Build dataclass `cls` from nested dictionaries; `where` names the source in error messages."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected `key: value` lines, found {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name for f in dataclasses.fields(cls)}
    moved = getattr(cls, "moved", {})
    if old := [key for key in values if key in moved]:
        raise ConfigError(f"{where}: " + "; ".join(f"unknown key '{key}'; it is now {moved[key]}" for key in old))
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(f"{where}: unknown key '{key}'; {nearest(str(key), fields)}")
        arguments[key] = _convert(hints[key], value, f"{where}: {key}")
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def to_dict(config: Any) -> dict:
    """The inverse of `from_dict`."""
    return dataclasses.asdict(config)


def save_config(config: Any, path: str | Path) -> None:
    """Write `config`, fully resolved, as YAML."""
    from blspkd.files import atomic_write

    with atomic_write(path) as file:
        yaml.safe_dump(to_dict(config), file, sort_keys=False, allow_unicode=True)


def _convert(kind: Any, value: Any, where: str) -> Any:
    """Check `value` against the annotated type `kind`; numbers may be given as strings (YAML reads 1e-3 as one)."""
    if dataclasses.is_dataclass(kind):
        return from_dict(kind, {} if value is None else value, where)
    origin = typing.get_origin(kind)
    if value is None and dict in (kind, origin):  # `align:` alone, to have none of what the base says
        return {}
    if origin is typing.Literal:
        allowed = typing.get_args(kind)
        return _choice(allowed, _truth(value) if True in allowed else value, where)
    if origin is list and isinstance(value, list):
        return [_convert(typing.get_args(kind)[0], entry, where) for entry in value]
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a mapping, found {value!r}")
        item = typing.get_args(kind)[1]
        return {str(key): _convert(item, entry, f"{where}.{key}") for key, entry in value.items()}
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        return None if value is None else _convert(options[0], value, where)
    value = _truth(value) if kind is bool else value
    if kind in (int, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
            if kind is float:
                return number
            if number == int(number):
                return int(number)
        except (ValueError, OverflowError):
            pass
    elif isinstance(kind, type) and isinstance(value, kind):
        return value
    raise ConfigError(f"{where}: expected {getattr(kind, '__name__', kind)}, found {value!r}")


def _truth(value: Any) -> Any:
    """True and False for the words, as options give them."""
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def _choice(allowed: tuple, value: Any, where: str) -> Any:
    if any(value == choice and type(value) is type(choice) for choice in allowed):  # 1 is not True
        return value
    names = [str(choice).lower() if isinstance(choice, bool) else choice for choice in allowed]
    close = difflib.get_close_matches(str(value), filter(None, names), n=1)
    raise ConfigError(f"{where}: '{value}' is not one of {', '.join(name or '(empty)' for name in names)}"
                      + "".join(f"; did you mean '{choice}'?" for choice in close))


def _parse_overrides(cls: type, words: list[str]) -> dict:
    """`["--learning_rate", "1e-3"]` -> {"training": {"learning_rate": "1e-3"}}."""
    paths = _paths(cls)
    values: dict = {}
    while words:
        option = words.pop(0)
        if not option.startswith("--"):
            raise ConfigError(f"'{option}': expected an option of the form --key value")
        key, given, value = option[2:].partition("=")
        if not given:
            if not words:
                raise ConfigError(f"{option}: needs a value")
            value = words.pop(0)
        path = _find(cls, paths, key, option)
        node = values
        *parents, leaf = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        try:
            node[leaf] = yaml.safe_load(value) if _is_collection(paths.get(path, dict)) else value
        except yaml.YAMLError as error:
            raise ConfigError(f"{option}: '{value}' is not valid YAML: {error}") from None
    return values


def _find(cls: type, paths: dict[str, Any], key: str, option: str) -> str:
    """The whole path of an option; one below a mapping (`terms.ctc.weight`) goes deeper than `paths`."""
    matches = [path for path in paths if path == key or path.endswith(f".{key}")]
    if not matches:
        mappings = [path for path, kind in paths.items() if dict in (kind, typing.get_origin(kind))]
        matches = list(dict.fromkeys(path + key[len(start):] for path in mappings
                                     for start in (path, path.rpartition(".")[2]) if key.startswith(f"{start}.")))
    if len(matches) > 1:
        raise ConfigError(f"{option}: ambiguous; write one of {', '.join('--' + match for match in matches)}")
    if not matches:
        moved = _moved(cls).get(key.rpartition(".")[2])
        raise ConfigError(f"{option}: unknown option; " + (
            f"it is now --{moved}" if moved else nearest(key, {path.rpartition('.')[2] for path in paths})))
    return matches[0]


def _is_collection(kind: Any) -> bool:
    return (typing.get_origin(kind) or kind) in (list, dict)


def _paths(cls: type, prefix: str = "") -> dict[str, Any]:
    """All leaves of a configuration: {"training.learning_rate": float, ...}."""
    found = {}
    for name, kind in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(kind):
            found.update(_paths(kind, f"{prefix}{name}."))
        else:
            found[prefix + name] = kind
    return found


def _moved(cls: type) -> dict[str, str]:
    """Keys that have another place now, in `cls` and the dataclasses in it."""
    below = [_moved(kind) for kind in typing.get_type_hints(cls).values() if dataclasses.is_dataclass(kind)]
    return {key: place for found in [getattr(cls, "moved", {}), *below] for key, place in found.items()}


def merge(base: Any, extra: dict) -> Any:
    """Nested values `base` with those of `extra` in their places."""
    if not isinstance(base, dict):
        return base
    merged = dict(base)
    for key in extra.keys() & base.keys():
        if extra[key] != base[key]:  # the options of another adapter, say, mean nothing to this one
            merged.pop(f"{key}_options", None)
    for key, value in extra.items():
        merged[key] = merge(merged.get(key) or {}, value) if isinstance(value, dict) else value
    return merged


def nearest(key: str, known: Iterable[str]) -> str:
    """For an error message: the name that was probably meant, or all that there are."""
    close = difflib.get_close_matches(key, sorted(known), n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
