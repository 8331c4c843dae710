"""The quickstart from Python, shortened to a few steps: python docs/examples/from_python.py [RESULTS]

The cells (`# %%`) can be run one by one in an editor or pasted into a notebook.
"""

# %% What is asked
import sys
import tempfile
from pathlib import Path

import harness

ROOT = Path(__file__).parents[2]
results = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="sstkd-bench-")
short = [
    *("train.steps=12", "train.eval_every=6", "pairs.0.teacher.steps=12", "seeds=[0, 1]"),
    *("data.parameters.train=32", "data.parameters.dev=8", "data.parameters.val=8"),
]
experiment = harness.load(ROOT / "experiments" / "quickstart.yaml", short)
bench = harness.Bench(experiment, results)
print(f"{len(bench.runs())} runs, {len(bench.pending())} pending, in {bench.directory}")


# %% Run it. Interrupt it as you like: the next call resumes.
finished: set[str] = set()


def tell(status):
    """A line for each run that ended."""
    for run in status.ended:
        if run.run_id not in finished:
            finished.add(run.run_id)
            who = "teacher" if run.role == "teacher" else f"{run.label} seed {run.seed}"
            print(run.pair, who, status.state[run.run_id])


states = bench.run(on_update=tell)
assert set(states.values()) == {"ok"} and not bench.pending()

# %% The table, and the numbers behind it
table = bench.table()
print(table.to_markdown())
(block,) = table.blocks
for line in block.methods:
    print(line.label, line.miou)

# %% The rows
rows = harness.read_rows(bench.directory, ["method", "seed", "dev_miou", "val_miou", "step_ms"])
print(rows.schema)
print(rows.num_rows, "rows, best val mIoU", max(value for value in rows["val_miou"].to_pylist() if value is not None))
