"""What `make demo` runs, from the packaged weights to the server's answer."""

import pathlib
import re
import subprocess
import sys

import PIL.Image
import pytest

DEMO = pathlib.Path(__file__).parents[2] / "export" / "demo.py"


@pytest.mark.slow
def test_demo_predicts_trains_exports_serves_and_asks(tmp_path):
    result = subprocess.run(
        [sys.executable, DEMO, f"--output_dir={tmp_path}"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    assert re.search(r"cat\.jpg\n +[\d.]+%  \w+", result.stdout)
    accuracy = re.search(r"Test accuracy ([\d.]+)% on 359 images", result.stdout)
    assert float(accuracy[1]) >= 97
    answer = re.search(r"The server says (\d); the label .* is (\d)\.", result.stdout)
    assert answer[1] == answer[2]
    # The right answer is shown as a sure one, by both programs.
    for shown in (rf"([\d.]+)%  {answer[1]}\n", rf"\.png  {answer[1]} +([\d.]+)%"):
        assert float(re.search(shown, result.stdout)[1]) > 80
    for note in ("port.cc", "cudart_stub", "InitializeLog", "oneDNN", "rendezvous"):
        assert note not in result.stdout + result.stderr
    for name in ("curves", "predictions", "confusion_matrix"):
        with PIL.Image.open(tmp_path / "digits" / f"{name}.png") as picture:
            assert min(picture.size) > 300
    assert (tmp_path / "models" / "digits" / "1" / "saved_model.pb").exists()
