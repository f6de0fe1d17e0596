"""A user of the package: an empty home, an empty folder, and photographs."""

import numpy as np
import pytest


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Stand in an empty folder of a new user; return it."""
    for name in ("HOME", "KERAS_HOME", "TFDS_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("KERAS_MIXER_WEIGHTS_URL", raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def snapshots(photos):
    """Thirty-six pictures of each of three things, no two alike: `{class: [image]}`."""
    rng = np.random.default_rng(0)
    found = {}
    for name in ("cat", "coffee", "flower"):
        photo, crops = photos[name], []
        for _ in range(36):
            width, height = rng.integers(100, 180, 2)
            left = rng.integers(photo.width - width + 1)
            top = rng.integers(photo.height - height + 1)
            crops.append(photo.crop((left, top, left + width, top + height)))
        found[name] = crops
    return found
