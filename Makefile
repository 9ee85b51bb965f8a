# Everything for a machine without ROS. In a ROS 2 workspace use colcon instead: see README.md.
PYTHON ?= python3
VENV := .venv/bin

.PHONY: demo test test-engines test-others bench bench-gpu soak parity lint setup setup-dev setup-engines clean

demo: setup  ## Track objects through real ROS 2 and write out/demo
	$(VENV)/masa_ros demo --output out/demo

test: setup-engines  ## Run the whole test suite; building engines keeps one core busy
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-engines test-others

test-engines:
	$(VENV)/pytest -m engines

test-others:
	$(VENV)/pytest -m 'not engines'

bench: setup-dev  ## Print side-by-side tables, write out/bench
	$(VENV)/python bench/run.py

bench-gpu: setup-dev  ## Every model under every runtime on a GPU; a rehearsal without one
	$(VENV)/python bench/gpu.py

MINUTES ?= 30
soak: setup-dev  ## A node under load and faults: make soak MINUTES=30
	$(VENV)/python bench/soak.py --minutes $(MINUTES)

FIXTURES ?= ../shared/parity
parity: setup  ## Compare with numbers of the original code: make parity FIXTURES=<dir> [ONLY=ops]
	$(VENV)/python tools/parity.py $(FIXTURES) $(if $(ONLY),--only $(ONLY))

lint: setup-dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy

setup:
	@$(PYTHON) tools/setup_wheels.py

setup-dev:
	@$(PYTHON) tools/setup_wheels.py --dev

setup-engines:  ## Also what builds TensorRT engines, with or without a GPU
	@$(PYTHON) tools/setup_wheels.py --dev --engines

clean:  ## Remove everything that was made, .venv too
	rm -rf .venv build install log out
