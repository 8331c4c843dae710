"""From an experiment file to ONNX: python docs/examples/to_onnx.py FILE RESULTS FOLDER [KEY=VALUE ...]"""

import sys
from pathlib import Path

import harness

file, results, folder, *overrides = sys.argv[1:]
bench = harness.Bench(harness.load(file, overrides), results)
bench.run()

for run in bench.runs():
    if run.role == "student":
        name = "-".join(filter(None, (run.method.name, run.control, str(run.seed)))).replace(" ", "-")
        whole = harness.export(run.run_id, "onnx", bench.directory, Path(folder) / name)
        small = harness.export(run.run_id, "onnx", bench.directory, Path(folder) / f"{name}-int8", int8=True)
        print(f"{name}: mIoU {100 * whole['miou']:.2f}, in int8 {100 * small['miou']:.2f}")
        print(f"  {whole['latency_ms']:.1f} ms and {small['latency_ms']:.1f} ms on {whole['device']}")
