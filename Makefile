# Everything runs in a virtual environment that the first target makes; nothing needs an NPU.
PYTHON   ?= python3
VENV     ?= .venv
BIN       = $(VENV)/bin
# torch_npu has its own: with it installed, plain `import torch` fails where CANN or its stand-ins are not found.
NPU_VENV ?= .venv-npu
NPU_BIN   = LD_LIBRARY_PATH=$(abspath $(NPU_VENV))/cann-stubs$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH} $(NPU_VENV)/bin

# vllm and vllm-ascend as their authors published them: the source distributions, unpacked and not built. VLLM_TARGET_DEVICE and the two beside it let pip read
# the metadata of vllm without a compiler and of vllm-ascend without an NPU.
VA_VENV  ?= .venv-vllm-ascend
VA_BIN    = OMP_NUM_THREADS=1 LD_LIBRARY_PATH=$(abspath $(VA_VENV))/cann-stubs$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH} $(VA_VENV)/bin
VLLM      = 0.23.0
ASCEND    = 0.23.0.post1

.PHONY: demo test test-npu test-vllm-ascend schemas schemes check fix clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[torch,demo,dev]"
	touch $@

demo: $(VENV)/.ready          ## quantize a real model, convert it, decode it by the kernel's contract
	$(BIN)/python examples/demo.py

test: check                   ## set up, lint, type-check, and pass the tests

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal  # one worker per core, so one thread each

$(NPU_VENV)/.ready: pyproject.toml constraints.txt tools/cann_stubs.py
	$(PYTHON) -m venv $(NPU_VENV)
	$(NPU_VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[torch,npu]" "pytest>=8"
	$(NPU_VENV)/bin/python tools/cann_stubs.py $(NPU_VENV)/cann-stubs
	touch $@

test-npu: $(NPU_VENV)/.ready  ## the bundled forwards through torch_npu's own schemas and meta functions; needs gcc, no NPU
	$(NPU_BIN)/python -m pytest tests_npu

$(VA_VENV)/.ready: pyproject.toml constraints.txt tools/cann_stubs.py tools/unpack_sources.py tests_vllm_ascend/requirements.txt
	$(PYTHON) -m venv $(VA_VENV)
	rm -rf $(VA_VENV)/sources $(VA_VENV)/lib/python*/site-packages/sources.pth
	$(VA_VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[torch,npu]" --requirement tests_vllm_ascend/requirements.txt
	VLLM_TARGET_DEVICE=empty VLLM_VERSION_OVERRIDE=$(VLLM) SOC_VERSION=ascend910b1 COMPILE_CUSTOM_KERNELS=0 TORCH_DEVICE_BACKEND_AUTOLOAD=0 \
		$(VA_VENV)/bin/pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest $(VA_VENV)/downloads vllm==$(VLLM) vllm-ascend==$(ASCEND)
	$(VA_VENV)/bin/python tools/unpack_sources.py $(VA_VENV)/downloads $(VA_VENV)/sources
	rm -r $(VA_VENV)/downloads
	$(VA_VENV)/bin/python tools/cann_stubs.py $(VA_VENV)/cann-stubs
	touch $@

test-vllm-ascend: $(VA_VENV)/.ready  ## every scheme of vllm-ascend, hand-written against ours, in the real thing; writes docs/vllm_ascend.md; needs gcc, no NPU
	$(VA_BIN)/python -m pytest -p tests_vllm_ascend.stand_ins tests_vllm_ascend --report docs/vllm_ascend.md

schemas: $(NPU_VENV)/.ready   ## write layoutdsl/kernels/schemas.json from torch_npu
	$(NPU_BIN)/python tools/dump_schemas.py

schemes: $(VENV)/.ready       ## write docs/schemes/ from specs/
	$(BIN)/python -m tools.scheme_pages

fix: $(VENV)/.ready           ## format and repair what can be repaired, and write docs/schemes/
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python -m tools.scheme_pages

clean:
	rm -rf $(VENV) $(NPU_VENV) $(VA_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
