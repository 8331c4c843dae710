#!/usr/bin/env bash
# Written by `sstkd-bench submit FILE --manifest slurm`; start it with `sbatch`. Change the lines below as the site wants.
#SBATCH --job-name=@NAME@
#SBATCH --nodes=@NODES@
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=@CPUS@
#SBATCH --gpus-per-node=@GPUS@
#SBATCH --mem=@MEMORY@G
#SBATCH --time=24:00:00
#SBATCH --output=@NAME@-%j.log
#SBATCH --signal=B:TERM@120
#
# A Ray cluster over the allocation for the length of one `sstkd-bench run`, whose exit code is the job's. Run it again
# to continue: what has a row is not run again. Only the processes started here are ended, by their ids.
set -euo pipefail

shared=${SSTKD_BENCH_SHARED:-$SLURM_SUBMIT_DIR} # a folder that every node sees
python=${SSTKD_BENCH_PYTHON:-@PYTHON@} # has the package installed, on every node
results=@RESULTS@
: @VARIABLES@

umask 077
job=$shared/.sstkd-bench-$SLURM_JOB_ID
mkdir -p "$job"
chmod 700 "$job"
# Ray's sockets want a short path, and Ray opens its folder to everybody: it gets one within ours. Nobody can guess ours
# and be there first.
scratch=/tmp/sstkd-bench-$SLURM_JOB_ID-$("$python" -c 'import secrets; print(secrets.token_hex(6))')
mkdir "$scratch"
pids=()
run=

# shellcheck disable=SC2317 # the trap calls it
finish() {
  local code=$? pid
  trap - EXIT TERM INT
  for pid in ${run:+"$run"} ${pids[@]+"${pids[@]}"}; do
    kill -TERM "$pid" 2>/dev/null || true
  done
  for pid in ${run:+"$run"} ${pids[@]+"${pids[@]}"}; do
    wait "$pid" || true
  done
  if ((code == 0)); then
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 rm -rf -- "$scratch" || true
    rm -rf -- "$job"
  else
    rm -f -- "$job/token"
    echo "Ray's logs are in $job and, on the nodes, in $scratch" >&2
  fi
  exit "$code"
}
trap finish EXIT
trap 'if [[ -n $run ]]; then kill -TERM "$run" 2>/dev/null || true; else exit 143; fi' TERM INT

# The token lets its bearer run code on the cluster: made for this job, read by its owner only, gone with it.
install -m 600 /dev/null "$job/token"
"$python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$job/token"
unset RAY_AUTH_TOKEN
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$job/token RAY_USAGE_STATS_ENABLED=0

cat >"$job/experiment.yaml" <<'END_OF_EXPERIMENT'
@EXPERIMENT@
END_OF_EXPERIMENT

# Two jobs on one node do not meet: the fixed ports follow from the job's id, below the range of the kernel's own.
base=$((20000 + SLURM_JOB_ID % 1000 * 10))
ip=$("$python" -c 'import ray.util; print(ray.util.get_node_ip_address())')
address=$ip:$base
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

start() { # NODE, then options of `ray start`; in the background, until it is ended
  local node=$1
  shift
  srun --nodes=1 --ntasks=1 --nodelist="$node" --cpus-per-task=@CPUS@ \
    "$python" -m ray.scripts.scripts start --block --num-cpus=@CPUS@ --num-gpus=@GPUS@ \
    --min-worker-port=0 --max-worker-port=0 "$@" </dev/null >"$job/ray-$node.log" 2>&1 &
  pids+=($!)
}

start "${nodes[0]}" --head --node-ip-address="$ip" --port="$base" --temp-dir="$scratch/r" \
  --dashboard-host=127.0.0.1 --dashboard-port=$((base + 1)) --ray-client-server-port=$((base + 2)) \
  --dashboard-agent-listen-port=$((base + 3))
for ((second = 0; ; second++)); do
  (exec 3<>"/dev/tcp/$ip/$base") 2>/dev/null && break
  if ((second == 120)) || ! kill -0 "${pids[0]}"; then
    echo "the head did not start:" >&2
    tail "$job/ray-${nodes[0]}.log" >&2
    exit 1
  fi
  sleep 1
done
for node in "${nodes[@]:1}"; do
  start "$node" --address="$address" --dashboard-agent-listen-port=0
done
"$python" - "$address" "${#nodes[@]}" <<'END'
import sys
import time

import ray

ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
end = time.monotonic() + 300
while (alive := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[2]):
    if time.monotonic() > end:
        sys.exit(f"only {alive} of {sys.argv[2]} nodes joined within 300 s")
    time.sleep(1)
END

RAY_ADDRESS=$address "$python" -m harness.cli run "$job/experiment.yaml" --results "$results" @ARGUMENTS@ &
run=$!
code=0
while kill -0 "$run" 2>/dev/null; do # a signal ends `wait`, not the run
  code=0
  wait "$run" || code=$?
done
run=
exit "$code"
