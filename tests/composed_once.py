"""Hydra reads and merges the files of conf/ once per choice of them, which otherwise takes most of a short test.

What a command line itself says, `key=value`, is applied to a copy, by Hydra as ever. Files that have changed, and
folders of a test's own, are read again; what a resumed run takes from the one before, which is no file, is merged anew.
"""

import pickle
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.defaults_list import Overrides
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from headstart.config.train import OF_RUN

SCHEME = "file://"


def compose_once(patch: pytest.MonkeyPatch) -> None:
    """Lets Hydra's slow steps, in this process, remember what they returned."""
    read = FileConfigSource.load_config
    choose, merge = defaults_list._create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list
    # Pickled: loading that is several times as fast as a deep copy.
    loaded: dict[str, bytes] = {}
    chosen: dict[str, bytes] = {}
    merged: dict[str, bytes] = {}

    def read_once(source: FileConfigSource, config_path: str) -> Any:
        path = Path(source.path, source._normalize_file_name(config_path))
        key = repr((source.provider, path, _state(path)))
        if key not in loaded:
            loaded[key] = pickle.dumps(read(source, config_path))
        return pickle.loads(loaded[key])

    def choose_once(repo: Any, config_name: Any, overrides: Overrides, **more: Any) -> Any:
        choices = overrides.override_choices, overrides.append_group_defaults, overrides.deletions
        key = repr((config_name, choices, more, _settings_of_runs(), _sources(repo)))
        if key not in chosen:
            result = choose(repo, config_name, overrides, **more)
            chosen[key] = pickle.dumps((result, _without_values(overrides)))
            return result
        result, state = pickle.loads(chosen[key])
        vars(overrides).update(state)
        return result

    def merge_once(loader: ConfigLoaderImpl, defaults: Any, repo: Any) -> Any:
        if _settings_of_runs():
            return merge(loader, defaults, repo)
        key = repr((defaults, _sources(repo)))
        if key not in merged:
            merged[key] = pickle.dumps(merge(loader, defaults, repo))
        return pickle.loads(merged[key])

    patch.setattr(DictConfig, "__deepcopy__", _copied)
    patch.setattr(FileConfigSource, "load_config", read_once)
    patch.setattr(defaults_list, "_create_defaults_list", choose_once)
    patch.setattr(config_loader_impl.ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_once)


def _copied(config: DictConfig, memo: dict[int, Any]) -> Any:
    """Returns what copy.deepcopy does: a configuration of its own, but with the same parent."""
    parent = config._get_parent()
    config._set_parent(None)
    try:
        copied = pickle.loads(pickle.dumps(config, pickle.HIGHEST_PROTOCOL))
    finally:
        config._set_parent(parent)
    copied._set_parent(parent)
    return copied


def _without_values(overrides: Overrides) -> dict[str, Any]:
    return {name: value for name, value in vars(overrides).items() if name != "config_overrides"}


def _settings_of_runs() -> list[str]:
    """The names of what stands for files: the settings of a run that is resumed, which are others each time."""
    groups = {group: of for group, of in ConfigStore.instance().repo.items() if isinstance(of, dict)}
    return sorted(f"{group}/{name}" for group, of in groups.items() for name in of if name.startswith(OF_RUN))


def _sources(repo: Any) -> list[Any]:
    """Returns what the result depends on besides its arguments: where configurations come from, and the files there."""
    sources: list[Any] = []
    for source in repo.get_sources():
        files: list[Path] = []
        if source.path.startswith(SCHEME):
            files = sorted(Path(source.path.removeprefix(SCHEME)).rglob("*.yaml"))
        sources.append((source.provider, source.path, [(path, _state(path)) for path in files]))
    return sources


def _state(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
