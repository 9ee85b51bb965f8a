# Everything for a machine without ROS. In a ROS 2 workspace use colcon instead: see README.md.
PYTHON ?= python3
VENV := .venv/bin

.PHONY: demo test bench parity lint setup setup-dev clean

demo: setup  ## Track objects through real ROS 2 and write out/demo
	$(VENV)/masa_ros demo --output out/demo

test: setup-dev  ## Run the whole test suite
	$(VENV)/pytest

bench: setup-dev  ## Print side-by-side tables, write out/bench
	$(VENV)/python bench/run.py

FIXTURES ?= ../shared/parity
parity: setup  ## Compare with numbers of the original code: make parity FIXTURES=<dir>
	$(VENV)/python tools/parity.py $(FIXTURES)

lint: setup-dev
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy

setup:
	@$(PYTHON) tools/setup_wheels.py

setup-dev:
	@$(PYTHON) tools/setup_wheels.py --dev

clean:  ## Remove everything that was made, .venv too
	rm -rf .venv build install log out
