#!/usr/bin/env bash
# Installs Debian's SLURM for the tests, where it is missing. Nothing is started: a policy file tells
# the packages not to run their services meanwhile.
set -euo pipefail
if command -v sbatch > /dev/null && PATH=$PATH:/usr/sbin command -v slurmctld munged > /dev/null; then
  exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
  echo "SLURM is missing: sudo apt-get install --no-install-recommends slurm-wlm munge" >&2
  exit 2
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends slurm-wlm munge iproute2 > /dev/null
