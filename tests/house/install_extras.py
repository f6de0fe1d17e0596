"""Install a built wheel into empty environments, each extra alone, and use it there.

    python tests/house/install_extras.py dist/keras_mixer-0.1.0-py3-none-any.whl

`make package` runs it. With the extras of `USES`, and with none, the wheel is installed
and does what the extra is for; a file that the wheel lacks, or a package that no range
names, fails here. What the other extras ask for is resolved and not installed: they are
gigabytes, and `make test` installs them.
"""

import argparse
import email
import os
import pathlib
import subprocess
import sys
import tempfile
import venv
import zipfile

PICTURE = (
    "python -c \"from PIL import Image; Image.new('RGB', (64, 48)).save('a.png')\""
)

USES = {
    "": f"""
        keras-mixer --version
        {PICTURE}
        keras-mixer predict a.png --model=MlpMixerNano4 --weights=cifar10
    """,
    "train": """
        keras-mixer train --dataset=digits --model=MlpMixerNano4 --epochs=1 \
            --warmup_steps=5 --output_dir=run
        keras-mixer evaluate run --dataset=digits
    """,
    "hub": f"""
        {PICTURE}
        export HF_HUB_OFFLINE=1
        keras-mixer predict a.png --weights=hf://nobody/mixer 2>log && exit 1
        grep "Cannot reach hf://nobody/mixer" log
    """,
    "serve": f"""
        url=http://127.0.0.1:18501/v1/models/mixer
        {PICTURE}
        keras-mixer export MlpMixerNano4 models/mixer --weights=cifar10
        keras-mixer serve models/mixer --port=18501 --grpc_port=18500 &
        trap "kill $!" EXIT
        until keras-mixer query a.png --url=$url 2>log; do
            kill -0 $! || exit 1
            sleep 1
        done
    """,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=pathlib.Path)
    parser.add_argument("--only", nargs="*", help="Extras; base is the package alone.")
    options = parser.parse_args()
    wheel = options.wheel.resolve()
    extras = ["", *extras_of(wheel)]
    if options.only:
        wanted = ["" if name == "base" else name for name in options.only]
        if unknown := {*wanted} - {*extras}:
            sys.exit(f"The wheel has {extras[1:]} and base. Received: {unknown}.")
        extras = wanted
    for extra in extras:
        print(f"== {extra or 'base'}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            check(wheel, extra, pathlib.Path(folder))


def extras_of(wheel):
    """The names of a wheel's extras, as its metadata has them."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name)).get_all("Provides-Extra")


def check(wheel, extra, folder):
    """Install the wheel with one extra into an empty environment, and use it."""
    venv.create(folder / "venv", with_pip=True)
    environment = {
        **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        "PATH": f"{folder / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "KERAS_BACKEND": "tensorflow",
        "WANTED": f"{wheel}[{extra}]" if extra else str(wheel),
    }
    if extra in USES:
        script = f'pip install --quiet "$WANTED"\npip check\n{USES[extra]}'
    else:
        script = 'pip install --quiet --dry-run "$WANTED"'
    subprocess.run(["sh", "-ec", script], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main()
