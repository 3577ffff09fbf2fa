# `make demo`: set up, detect in a gigapixel scene, show the result.  `make test`: set up, run the suite.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SAMPLE_CONFIG := configs/sample/sparse_rcnn_sparsenet_conv_nano_fpn_sample.yaml
CHECKED := projects datasets tools demo tests setup.py

.PHONY: demo test test-slow test-detectron2 check format train-sample sample-scenes clean

demo: $(VENV)/.gigapixel
	$(BIN)/python demo/gigapixel_demo.py --output output/demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist loadscope

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

# The whole suite on the real Detectron2, which must be installed in $(VENV) (README).
test-detectron2: $(VENV)/.test
	SPARSENET_DETECTRON2=real $(BIN)/python -m pytest -n 2 --dist loadscope

check: $(VENV)/.test
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy --config-file pyproject.toml

format: $(VENV)/.test
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

sample-scenes: $(VENV)/.gigapixel
	test -f output/sample/train/annotations.json || $(BIN)/python datasets/make_scene.py \
	    --output output/sample/train --num-scenes 6 --size 4096 6144 --seed 100 --format tiff
	test -f output/sample/val/annotations.json || $(BIN)/python datasets/make_scene.py \
	    --output output/sample/val --num-scenes 1 --size 6144 8192 --seed 900 --format tiff

# Goes on from the shipped weights; `make train-sample WEIGHTS= STEPS=2000` starts from scratch.
WEIGHTS := projects/SparseNet/weights/sparse_rcnn_sparsenet_conv_nano_fpn.pth
STEPS := 200
train-sample: sample-scenes
	$(BIN)/python projects/SparseNet/train_net.py --num-gpus 0 --config-file $(SAMPLE_CONFIG) \
	    MODEL.WEIGHTS "$(WEIGHTS)" SOLVER.MAX_ITER $(STEPS)

clean:
	rm -rf output build *.egg-info

# Stamps: one virtual environment, with the runtime extra or the test extra.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.gigapixel: setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[gigapixel]'
	touch $@

$(VENV)/.test: setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $(VENV)/.gigapixel $@
