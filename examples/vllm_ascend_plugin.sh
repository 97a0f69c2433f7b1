#!/usr/bin/env bash
# The plugin from a shell. A quantized checkpoint is served by vLLM-Ascend, in one mode after another (docs/vllm_ascend_plugin.md).
#
#     bash examples/vllm_ascend_plugin.sh MODEL [guard|shadow|override|add]
#
# MODEL: a folder. Needs vllm, vllm-ascend, layoutdsl in one environment, and an NPU. Look for the line "layoutdsl: rank 0; ..." in the log.
set -euo pipefail
model=${1:?which MODEL}
mode=${2:-guard}

# What is wrong with the folder is known before any server starts.
layoutdsl check "$model" --consumer vllm-ascend-0.23 -tp 2

case $mode in
guard) # a layer that was not loaded wholly is refused, instead of computing with what the memory held
    vllm serve "$model" -tp 2 --additional-config '{"layoutdsl": {"mode": "guard"}}' ;;
shadow) # the hand-written code goes on working; where a plan would have done otherwise is logged
    vllm serve "$model" -tp 2 --additional-config '{"layoutdsl": {"mode": "shadow"}}' ;;
override) # plans prepare the layers: partial loads are refused, reloads keep their addresses
    vllm serve "$model" -tp 2 --additional-config '{"layoutdsl": {"mode": "guard,override"}}' ;;
add) # schemes that vllm-ascend lacks: a dense W4A16 checkpoint of compressed-tensors
    vllm serve "$model" -tp 2 --additional-config '{"layoutdsl": {"mode": "add"}}' ;;
esac
