# Begin with `make demo`, `make demo-lighten` and `make test`. They set up .venv first when needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo

.PHONY: setup demo demo-lighten test test-all test-machines docs ledger lint clean

setup: $(VENV)/.ready

# What the commands need. Where there is a torch in $(VENV) already, such as one without CUDA, it stays.
$(VENV)/.usable: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

# And what the tests need.
$(VENV)/.ready: $(VENV)/.usable requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

# Real handwritten digits, synthetic layout: train, validate, detect. About five minutes on two cores.
demo: $(VENV)/.usable
	rm -rf $(RUN)
	$(BIN)/python train.py --cfg yolov5n-gsconv.yaml --data digits.yaml --hyp hyp.digits.yaml \
		--imgsz 192 --epochs 16 --batch-size 16 --workers 2 --project $(RUN) --name train
	$(BIN)/python val.py --weights $(RUN)/train/weights/best.pt --data digits.yaml --imgsz 192 \
		--project $(RUN) --name val
	$(BIN)/python detect.py --weights $(RUN)/train/weights/best.pt --source data/images --imgsz 192 \
		--project $(RUN) --name detect
	@echo "curves and plots: $(RUN)/train and $(RUN)/val; annotated scenes: $(RUN)/detect"

# The network of `make demo` becomes a lighter one, without labels. About three minutes on two cores.
demo-lighten: $(VENV)/.usable
	@test -f $(RUN)/train/weights/best.pt || { \
		echo "no trained network in $(RUN)/train: make demo comes first, about five minutes"; $(MAKE) demo; }
	rm -rf $(RUN)/lighten
	$(BIN)/python lighten.py --weights $(RUN)/train/weights/best.pt --cfg yolov5n-csppc.yaml \
		--source datasets/digits/images/train --data digits.yaml --hyp hyp.digits.yaml --imgsz 192 \
		--steps 280 --workers 2 --project $(RUN) --name lighten

# In as many processes as there are cores, four at most: each takes 2.5 GB.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test: setup
	$(PYTEST)

test-all: setup
	$(PYTEST) -m "slow or not slow"

# The tests that another machine could fail, with other locales, instruction sets, numbers of threads, …
test-machines: setup
	$(BIN)/python -m tests.machines

# Writes the tables of README.md and docs/ that can be computed, and the ledger.
docs: setup
	$(BIN)/python benchmark.py docs

# Recounts every published number; fails when docs/ledger.md shows others.
ledger: setup
	$(BIN)/python benchmark.py ledger

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) datasets/digits
