# Everything for a machine without ROS. In a ROS 2 workspace use colcon instead: see README.md.
PYTHON ?= python3
VENV := .venv/bin

.PHONY: demo test test-engines test-others test-training test-jazzy test-quick bench bench-gpu soak parity lint docs \
	setup setup-dev setup-engines setup-tests clean

demo: setup  ## Track objects through real ROS 2 and write out/demo
	$(VENV)/masa_ros demo --output out/demo

test: setup-tests  ## Run everything that a change must pass; building engines keeps one core busy
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target test-others test-engines test-training test-jazzy

test-engines:
	$(VENV)/pytest -m engines

TRAINING := test/test_training.py test/test_training_runs.py test/test_benches.py
test-others:
	$(VENV)/pytest -m 'not engines' $(TRAINING:%=--ignore=%)

test-training:
	$(VENV)/pytest $(TRAINING)

JAZZY := images masks options tracking types streams replay evaluation container toy interfaces names \
	node node_cameras node_contained node_deva node_h264 node_lifecycle node_names node_prompts node_space \
	space places replay_space
test-jazzy:  ## What touches ROS, NumPy or OpenCV, on Jazzy and the libraries of Ubuntu 24.04
	.venv-jazzy/bin/python -P -m pytest $(JAZZY:%=test/test_%.py)

QUICK := cli images install masks names options package released streams tracking types
test-quick: setup-dev  ## The tests that need no node, network or engine: under two minutes
	$(VENV)/pytest $(QUICK:%=test/test_%.py)

bench: setup-dev  ## Print side-by-side tables, write out/bench
	$(VENV)/python bench/run.py

bench-gpu: setup-dev  ## Every model under every runtime on a GPU; a rehearsal without one
	$(VENV)/python bench/gpu.py

MINUTES ?= 30
METHOD ?= masa
soak: setup-dev  ## A node under load and faults: make soak MINUTES=30 [METHOD=deva]
	$(VENV)/python bench/soak.py --minutes $(MINUTES) --method $(METHOD)

FIXTURES ?= ../shared/parity
parity: setup  ## Compare with numbers of the original code: make parity FIXTURES=<dir> [ONLY=ops]
	$(VENV)/python tools/parity.py $(FIXTURES) $(if $(ONLY),--only $(ONLY))

lint: setup-dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	MYPYPATH=bench:tools $(VENV)/mypy --no-strict-optional $(wildcard bench/*.py tools/*.py tools/*/*.py)
	$(VENV)/hadolint docker/Dockerfile

setup:
	@$(PYTHON) tools/setup_wheels.py

setup-dev:
	@$(PYTHON) tools/setup_wheels.py --dev

setup-engines:  ## Also what builds TensorRT engines, with or without a GPU
	@$(PYTHON) tools/setup_wheels.py --dev --engines

setup-tests:  ## Also .venv-jazzy, a second environment for the tests
	@$(PYTHON) tools/setup_wheels.py --dev --engines --jazzy

docs: setup-dev  ## Build the documentation as a site: out/docs
	$(VENV)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	$(VENV)/python -m sphinx --fail-on-warning --keep-going --quiet docs out/docs
	@echo out/docs/index.html

clean:  ## Remove everything that was made, .venv too
	rm -rf .venv .venv-jazzy build install log out
