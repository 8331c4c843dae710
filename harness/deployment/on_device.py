"""Times model.onnx on this device: python bench.py; needs Python 3.9, numpy and onnxruntime alone.

It writes latency.json: milliseconds of a call, and the share of pixels that get the labels which the exporting machine
found. `sstkd-bench results add-latency latency.json`, where the model was exported, makes it a row.
"""

import argparse
import hashlib
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

KIND = "sstkd-bench latency"
MODEL, INPUTS = "model.onnx", "inputs.npz"
HERE = Path(__file__).resolve().parent


def device_name() -> str:
    """What the system says of its processor or board."""
    board, cpus = Path("/proc/device-tree/model"), Path("/proc/cpuinfo")
    if board.is_file():
        return board.read_bytes().decode("utf-8", "replace").strip("\0 \n")
    lines = cpus.read_text().splitlines() if cpus.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join((named[0] if named else platform.processor() or platform.machine()).split())


def digest() -> str:
    """Of the model, as the exporting machine's row has it."""
    found = hashlib.sha256((HERE / MODEL).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps({MODEL: found}, sort_keys=True).encode()).hexdigest()


def prepared(pixels: Any, wanted: Any, known: dict[str, Any]) -> Any:
    """RGB bytes (N, H, W, 3) as the model takes them: normalised (N, 3, H, W), or as they are."""
    if wanted.type == "tensor(uint8)":
        return pixels
    mean, std = (np.array(known[name], np.float32) for name in ("mean", "std"))
    image = (pixels.astype(np.float32) - mean) / std
    return np.ascontiguousarray((image[..., ::-1] if known["channels"] == "BGR" else image).transpose(0, 3, 1, 2))


def main() -> None:
    """Time it and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of onnxruntime (1)")
    parser.add_argument("--calls", type=int, default=100, help="calls that are timed, after 10 (100)")
    parser.add_argument("--name", default=device_name(), help="the device's name (%(default)s)")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="of onnxruntime (%(default)s)")
    parser.add_argument("-o", "--output", default="latency.json", help="file to write (%(default)s)")
    given = parser.parse_args()
    there = onnxruntime.get_available_providers()
    if given.provider not in there:
        sys.exit(f"--provider {given.provider}: this onnxruntime has {', '.join(there)}")
    if given.threads < 1 or given.calls < 1:
        sys.exit("--threads and --calls have to be 1 or more")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = given.threads, 1
    session = onnxruntime.InferenceSession(str(HERE / MODEL), options, providers=[given.provider])
    if session.get_providers()[0] != given.provider:  # onnxruntime falls back to the CPU without an error
        sys.exit(f"--provider {given.provider}: does not start here; {session.get_providers()[0]} would run")
    known = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    wanted = session.get_inputs()[0]
    with np.load(HERE / INPUTS, allow_pickle=False) as file:
        images, labels, batch = file["images"], file["labels"], int(file["batch"])
    inputs = [prepared(np.repeat(image[None], batch, 0), wanted, known) for image in images]

    same = 0
    for image, label in zip(inputs, labels):  # noqa: B905  devices have older Pythons
        found = session.run(None, {wanted.name: image})[0]
        found = found if wanted.type == "tensor(uint8)" else found.argmax(1)
        same += int((found[0] == label).sum())
    for turn in range(10):
        session.run(None, {wanted.name: inputs[turn % len(inputs)]})
    taken = []
    for turn in range(given.calls):
        began = time.perf_counter()
        session.run(None, {wanted.name: inputs[turn % len(inputs)]})
        taken.append(1e3 * (time.perf_counter() - began))

    said = {
        "kind": KIND,
        "sha256": digest(),
        "device": given.name,
        "provider": given.provider,
        "threads": given.threads,
        "batch": batch,
        "hw": list(images.shape[1:3]),
        "agreement": same / labels.size,
        "latency_ms": taken,
        "versions": {
            "numpy": np.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }
    Path(given.output).write_text(json.dumps(said, indent=1) + "\n")
    print(
        f"{given.output}: {np.median(taken):.2f} ms (p90 {np.percentile(taken, 90):.2f}) for {batch} x "
        f"{images.shape[1]}x{images.shape[2]}, {given.threads} threads, {given.name}; "
        f"{100 * said['agreement']:.3f} % of the pixels have the labels found where it was exported"
    )


if __name__ == "__main__":
    main()
